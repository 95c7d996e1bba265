"""`codi reproduce`: plans, runs, skips, goes on after a kill, and never trusts a broken result."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from codi.cli import app
from codi.errors import UsageError
from codi.methods.method import build_method
from codi.reproduce import plans as plans_module
from codi.reproduce import sweep
from codi.reproduce.curves import kept_update
from codi.reproduce.plans import Plan, plan, stands_on, tuning_warning
from codi.reproduce.results_page import render_page
from codi.reproduce.same_settings import comparable, same_settings
from codi.reproduce.scales import SCALES
from codi.reproduce.sweep import read_result, run_sweep, write_result
from codi.reproduce.table_names import tables_named
from codi.reproduce.table_report import (
    cell,
    collect,
    directions,
    distance_note,
    how_tested,
    rising_note,
    rows,
    within_two_deviations,
)
from codi.reproduce.tables import TABLES, VARIANTS
from codi.training.recipes import load_recipe

SHORT = {"steps": 2, "questions": 6}


@pytest.fixture
def few_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every variant with few problems to learn from and to be validated on, beside its own settings."""
    few = ("data.train=two-branches?count=64", "data.validation=two-branches?count=8")
    for name, variant in VARIANTS.items():
        monkeypatch.setitem(VARIANTS, name, replace(variant, overrides=(*variant.overrides, *few)))


def plans_of(folder: Path, *names: str, **options: Any) -> list[Plan]:
    return plan(names, "small", folder / "results", folder / "runs", **options)


def made_up(one: Plan, outcomes: str, **more: Any) -> dict[str, Any]:
    """A result with given outcomes on every set."""
    share = outcomes.count("1") / len(outcomes)
    found = {"accuracy": share, "ci95": [0, 1], "n": len(outcomes), "scorer": "codi", "outcomes": outcomes}
    return {
        "variant": one.variant.name,
        "scale": one.scale,
        "seed": one.seed,
        "configuration": comparable(one.configuration().as_dict()),
        "stands_on": stands_on(one),
        "steps": 10,
        "train_seconds": 5.0,
        "validation": [{"step": 5, "accuracy": share}, {"step": 10, "accuracy": share}],
        "last_gain": 0.0,
        "train_accuracy": {"accuracy": 1.0, "n": 4},
        "benchmarks": dict.fromkeys(one.sets, found),
        "test_chains": {name: {"seen": 0, "chains": 5} for name in one.sets},
        "thought_tokens": 8.0,
        "sequential_passes": 9.0,
        **more,
    }


# --- plans --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", ["small", "paper"])
@pytest.mark.parametrize("name", TABLES)
def test_every_run_of_every_table_has_a_valid_configuration(name: str, scale: str, tmp_path: Path) -> None:
    for one in plan([name], scale, tmp_path / "results", tmp_path / "runs", seeds=[1]):
        config = one.configuration()
        method = build_method(config.method)
        epochs = float(config.training.get("num_train_epochs") or 10)
        if one.teacher is None:  # its teacher must have been trained
            started = config.model.base is not None or config.start is not None
            if scale == "small":
                size = config.training["per_device_train_batch_size"]
                epochs = config.training["max_steps"] * size / 1000
            method.check_run(config.model, started, epochs)


def test_runs_are_shared_and_come_after_those_they_stand_on(tmp_path: Path) -> None:
    names = [one.name for one in plans_of(tmp_path, "figure3", "table2", seeds=[1])]
    assert len(names) == len(set(names))
    assert names.index("cot-sft-start/seed-1") < names.index("coconut/seed-1")
    assert names.index("start/seed-1") < names.index("static/seed-1")
    paper = plan(["figure3"], "paper", tmp_path, tmp_path, seeds=[1])
    assert next(one for one in paper if one.variant.name == "coconut").needs == ()


def test_seeds_are_the_tables_own_unless_given(tmp_path: Path) -> None:
    assert {one.seed for one in plans_of(tmp_path, "figure3", "table2")} == {1, 2, 3, 4, 5}
    assert {one.seed for one in plans_of(tmp_path, "a4", "figure5")} == {1, 2, 3}
    assert {one.seed for one in plan(["figure3"], "paper", tmp_path, tmp_path)} == {1, 2, 3}
    baseline = [one.seed for one in plans_of(tmp_path, "a6") if one.variant.name == "prompt-1"]
    assert baseline == [1, 2, 3, 4, 5]


def test_systems_of_a_table_have_equal_updates(tmp_path: Path) -> None:
    """Those of the start included. Table A5 varies them as the paper does, its claims' two sides never; the
    shorter students of Table 2 have theirs with the teacher's."""
    for table in TABLES.values():
        plans = {one.variant.name: one for one in plans_of(tmp_path, table.name, seeds=[1])}
        updates = {name: plans[name].updates() for name in table.rows if not name.endswith("-shorter")}
        if table.name != "a5":
            assert len(set(updates.values())) == 1, (table.name, updates)
        for claim in table.claims:
            assert updates[claim.better] == updates[claim.worse], claim
        for name in table.rows:
            if name.endswith("-shorter"):
                (teacher,) = plans[name].needs
                assert plans[name].updates() + teacher.updates() == updates["codi"]


def test_a_run_starts_where_its_recipe_says(tmp_path: Path) -> None:
    plans = {one.variant.name: one for one in plans_of(tmp_path, "all", seeds=[1])}
    for name, recipe, role in (
        ("coconut", "small-coconut", "start"),
        ("codi", "small-codi", "start"),
        ("static", "small-static-teacher", "teacher"),
    ):
        named = load_recipe(recipe).as_dict()
        checkpoint = named["start"] if role == "start" else named["method"]["teacher"]
        (need,) = plans[name].needs
        assert need.recipe == Path(checkpoint).name
        assert need.variant.overrides == need.variant.small == ()
        settings = plans[name].configuration().as_dict()
        own = settings["start"] if role == "start" else settings["method"]["teacher"]
        assert own == str(need.checkpoint)
    for name in ("prompt-3", "start-prompt-3"):  # the start is warmed with the prompt that is asked
        assert plans[name].configuration().text.answer_prompt == VARIANTS["prompt-3"].title
    assert plans["prompt-3"].start == "start-prompt-3"


def test_no_chain_of_a_test_set_stands_in_training(tmp_path: Path) -> None:
    one = plans_of(tmp_path, "figure3", seeds=[1], questions=60)[-1]
    for name, counted in sweep.count_test_chains(one).items():
        assert counted["seen"] == 0
        assert counted["chains"] > 0, name


def test_unknown_names_list_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"Did you mean 'figure3'\? Tables: figure3, figure4"):
        plans_of(tmp_path, "figur3")
    with pytest.raises(UsageError, match="Scales: small, paper"):
        plan(["a4"], "large", tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("table1", "figure3"), ("Table 1", "figure3"), ("figure-3", "figure3"), ("fig 3", "figure3"),
        ("Fig. 3", "figure3"), ("FIGURE3", "figure3"), ("tab. 2", "table2"), ("table_2", "table2"),
        ("A3", "a3"), ("tableA3", "a3"), ("table-a3", "a3"), ("Table A.3", "a3"), ("tab A3", "a3"),
        ("figure5", "figure5"),
    ],
)  # fmt: skip
def test_tables_are_known_by_the_papers_names(written: str, name: str) -> None:
    assert tables_named([written]) == [TABLES[name]]


def test_names_of_two_words_and_two_names_of_one_table() -> None:
    assert tables_named(["Table", "A3", "fig.", "3", "table1"]) == [TABLES["a3"], TABLES["figure3"]]
    assert tables_named(["ALL"]) == list(TABLES.values())
    for name in TABLES:
        assert tables_named([name]) == [TABLES[name]]


@pytest.mark.parametrize("written", ["table3", "Table 7", "3", "2", "a", "a9", "figure a3", "table", ""])
def test_a_number_that_no_table_has_is_not_guessed(written: str) -> None:
    with pytest.raises(UsageError, match="Tables: figure3, figure4"):
        tables_named([written])


def test_the_papers_table_3_is_another_commands() -> None:
    with pytest.raises(UsageError, match=r"There is no table 'Table 3'\. .*: codi probe .* --part table3"):
        tables_named(["Table", "3"])


def test_seeds_of_tuning_are_warned_about(tmp_path: Path) -> None:
    for table in TABLES:
        assert tuning_warning(plans_of(tmp_path, table)) is None
    warning = tuning_warning(plans_of(tmp_path, "a4", seeds=[1, 102, 110]))
    assert warning is not None
    assert "chosen with seeds 101 to 110, and 102, 110 would be run" in warning
    assert tuning_warning(plan(["a4"], "paper", tmp_path, tmp_path, seeds=[102])) is None
    folders = ("--results", str(tmp_path / "results"), "--runs", str(tmp_path / "runs"))
    said = CliRunner().invoke(app, ["reproduce", "a4", "--seed", "107", "--dry-run", *folders])
    assert said.exit_code == 0
    assert "warning: The settings of the small scale were chosen with seeds 101 to 110" in said.stderr


def test_a_plan_is_configured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Listing every run must not read every recipe once more for each of the others."""
    plans = finished(tmp_path, "a4", {f"beta-{n}": ["10"] * 3 for n in (1, 5, 10)})
    asked: list[str] = []
    usual = plans_module.load_recipe

    def counted(recipe: str, settings: list[str]) -> Any:
        asked.append(recipe)
        return usual(recipe, settings)

    monkeypatch.setattr(plans_module, "load_recipe", counted)
    folders = ("--results", str(tmp_path / "results"), "--runs", str(tmp_path / "runs"))
    listed = CliRunner().invoke(app, ["reproduce", "a4", "--dry-run", *folders], catch_exceptions=False)
    assert "9 of 18 runs to make" in " ".join(listed.output.split())
    assert len(asked) <= len(plans)


def test_every_variant_is_used_and_every_row_known() -> None:
    used = {name for table in TABLES.values() for name in table.rows}
    used |= {one.variant.name for one in plans_of(Path(), "all", seeds=[1])}
    assert used == set(VARIANTS)
    for table in TABLES.values():
        for claim in table.claims:
            assert {claim.better, claim.worse} <= set(table.rows)


# --- results ------------------------------------------------------------------------------------------------


def test_a_broken_or_changed_result_is_named_and_not_trusted(tmp_path: Path) -> None:
    one = plans_of(tmp_path, "a4", seeds=[1])[0]
    assert read_result(one) == (None, "not run yet")
    write_result(one, made_up(one, "1101"))
    whole = one.result_file.read_text()
    assert read_result(one)[0] == made_up(one, "1101")
    for broken in (whole[:-40], whole.replace("1101", "1111"), "[]", ""):
        one.result_file.write_text(broken)
        found, why = read_result(one)
        assert found is None
        assert "is corrupted" in why
        assert str(one.result_file) in why
    one.result_file.write_text(whole)
    other = replace(one, variant=VARIANTS["beta-5"])
    other.result_file.parent.mkdir(parents=True)
    other.result_file.write_text(whole)
    assert "other settings" in read_result(other)[1]


def test_a_setting_learnt_later_voids_no_result(tmp_path: Path) -> None:
    """Results that name nothing but what is not at its default: all else the package learnt after them."""
    pupil = next(one for one in plans_of(tmp_path, "table2", seeds=[1]) if one.needs)
    result = made_up(pupil, "1101")
    (need,) = result["stands_on"]["runs"].values()
    for settings in (result["configuration"], need["configuration"]):
        for section, keys in {
            "model": ("dtype", "train_thought_tokens", "base_revision"),
            "text": tuple(settings["text"]),
            "data": ("annotations", "columns", "train_split", "validation_limit"),
        }.items():
            for key in keys:
                del settings[section][key]
    del need["configuration"]["start"]
    write_result(pupil, result)
    assert read_result(pupil)[0] == result
    need["configuration"]["data"]["annotations"] = "remove"
    write_result(pupil, result)
    assert "or a run with other settings" in read_result(pupil)[1]


def test_only_what_is_at_its_default_may_be_missing(tmp_path: Path) -> None:
    one = next(one for one in plans_of(tmp_path, "figure3", seeds=[1]) if one.variant.name == "coconut")
    whole = comparable(one.configuration().as_dict())
    needed = set[str]()
    for section in ("model", "text", "data", "method", "training"):
        for key in whole[section]:
            less = whole | {section: {name: v for name, v in whole[section].items() if name != key}}
            if not same_settings(less, whole):
                needed.add(f"{section}.{key}")
    assert needed >= {"model.base", "model.lora", "model.projection", "data.train", "data.group_by_length"}
    assert needed >= {f"training.{key}" for key in whole["training"]}
    assert needed.isdisjoint({f"text.{key}" for key in whole["text"]} | {"data.annotations", "model.dtype"})
    spelt = build_method(whole["method"]).as_dict()  # every option of the method written out
    assert len(spelt) > len(whole["method"])
    assert same_settings(whole | {"method": spelt}, whole)
    assert not same_settings(whole | {"method": spelt | {"c_thought": 9}}, whole)
    assert not same_settings(whole | {"unheard_of": 1}, whole)


def test_scales_are_never_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The small scale is replaced by another; its results are moved to where those are looked for."""
    old = plans_of(tmp_path, "a4", seeds=[1])[0]
    write_result(old, made_up(old, "1101"))
    monkeypatch.setitem(SCALES, "smaller", replace(SCALES["small"], name="smaller"))
    new = replace(old, scale="smaller")
    assert read_result(new) == (None, "not run yet")
    new.result_file.parent.mkdir(parents=True)
    new.result_file.write_bytes(old.result_file.read_bytes())
    found, why = read_result(new)
    assert found is None
    assert why == f"'{new.result_file}' is of the small scale"
    with pytest.raises(ValueError, match="several scales stand in no table together: small, smaller"):
        collect([old, new])


def test_results_are_the_same_wherever_the_runs_are_kept(tmp_path: Path) -> None:
    one = next(one for one in plans_of(tmp_path, "figure3", seeds=[1]) if one.variant.name == "coconut")
    assert one.start == "cot-sft-start"
    write_result(one, made_up(one, "10"))
    moved = replace(one, runs=tmp_path / "elsewhere")
    assert read_result(moved)[0] is not None


@pytest.mark.usefixtures("few_problems")
def test_a_result_ends_with_the_settings_that_it_stands_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The teacher is to be trained at another rate: its pupil's result and training are void."""
    pupil = next(one for one in plans_of(tmp_path, "table2", seeds=[1], **SHORT) if one.needs)
    (teacher,) = pupil.needs
    for one in (teacher, pupil):
        write_result(one, sweep.make_run(one, lambda *_: None))
    assert read_result(pupil)[0] is not None
    trained = pupil.checkpoint / "training.json"
    before = trained.stat().st_mtime_ns
    sweep.make_run(pupil, lambda *_: None)
    assert trained.stat().st_mtime_ns == before

    changed = replace(teacher.variant, overrides=(*teacher.variant.overrides, "training.learning_rate=0.01"))
    monkeypatch.setitem(VARIANTS, teacher.variant.name, changed)
    assert "or a run with other settings" in read_result(pupil)[1]
    (teacher,) = pupil.needs
    write_result(teacher, sweep.make_run(teacher, lambda *_: None))
    write_result(pupil, sweep.make_run(pupil, lambda *_: None))
    assert trained.stat().st_mtime_ns > before
    assert read_result(pupil)[0] is not None


@pytest.mark.usefixtures("few_problems")
def test_sweep_makes_skips_and_goes_on(tmp_path: Path) -> None:
    """A real sweep of two shortened runs, then again with one result broken and one checkpoint half done."""
    plans = [one for one in plans_of(tmp_path, "figure3", seeds=[1], **SHORT) if "cot" in one.variant.name][
        :2
    ]
    said: list[str] = []
    assert run_sweep(plans, said.append) == {}
    assert said[0] == "0 of 2 runs are finished, 2 to make."
    for one in plans:
        found, _ = read_result(one)
        assert found is not None
        assert found["steps"] == 2
        assert set(found["benchmarks"]) == set(one.sets)
        assert len(found["benchmarks"]["in_domain"]["outcomes"]) == 6
        chosen = json.loads((one.checkpoint / "training.json").read_text())["best_checkpoint"]
        assert chosen == f"checkpoint-{kept_update(found)}"
        assert one.result_file.with_suffix(".yaml").exists()
    before = plans[0].result_file.read_bytes()
    plans[1].result_file.write_text("{")
    trained = (plans[1].checkpoint / "training.json").stat().st_mtime_ns
    said.clear()
    assert run_sweep(plans, said.append) == {}
    assert "corrupted" in said[0]
    assert said[1] == "1 of 2 runs are finished, 1 to make."
    assert read_result(plans[1])[0] is not None
    assert plans[0].result_file.read_bytes() == before
    assert (plans[1].checkpoint / "training.json").stat().st_mtime_ns == trained  # asked again, not trained
    said.clear()
    assert run_sweep(plans, said.append) == {}
    assert said == ["2 of 2 runs are finished, 0 to make."]


def test_a_run_under_a_second_name_is_not_made_again(tmp_path: Path) -> None:
    """Table A4's beta 20 and Table A5's gamma 10 are CODI as it is; half the updates are not."""
    first = next(one for one in plans_of(tmp_path, "figure3", seeds=[1]) if one.variant.name == "codi")
    write_result(first, made_up(first, "1101"))
    told: list[str] = []
    second = next(one for one in plans_of(tmp_path, "a4", seeds=[1]) if one.variant.name == "beta-20")
    assert run_sweep([second], told.append) == {}
    assert "beta-20/seed-1 is codi/seed-1 under another name." in told
    taken = read_result(second)[0]
    assert taken is not None
    assert (taken["same_as"], taken["benchmarks"]) == ("codi/seed-1", made_up(first, "1101")["benchmarks"])
    twins = {one.variant.name: sweep.twin_of(one) for one in plans_of(tmp_path, "a4", "a5", "a6", seeds=[1])}
    found = {name: twin.variant.name for name, twin in twins.items() if twin}
    assert found == {"beta-20": "codi", "gamma-1-40": "codi", "prompt-1": "gamma-1-20"}


# --- what is made of them -----------------------------------------------------------------------------------


def finished(tmp_path: Path, table: str, outcomes: dict[str, list[str]]) -> list[Plan]:
    """Results of a table's variants: one string of outcomes for each seed."""
    plans = plans_of(tmp_path, table)
    for one in plans:
        given = outcomes.get(one.variant.name, [])
        if one.seed <= len(given):
            write_result(one, made_up(one, given[one.seed - 1]))
    return plans


def test_directions_are_tested_over_seeds_and_never_hide_a_disagreement(tmp_path: Path) -> None:
    half = "1" * 20 + "0" * 20
    outcomes = {
        "codi": [half] * 3,
        "static": ["0" * 40] * 3,
        "static-multitask": [half, "1" * 40, "0" * 40],
        "without-l1": ["1" * 40] * 3,
        "keep-last-step": ["1" * 10 + "0" * 30],
    }
    found = collect(finished(tmp_path, "table2", outcomes))
    made = directions(TABLES["table2"], found, "small")
    by_name = {one.claim.worse: one for one in made}
    assert {name: one.verdict for name, one in by_name.items()} == {
        "static": "agrees",
        "static-multitask": "undecided",
        "without-l1": "disagrees",
        "keep-last-step": "undecided",  # one seed, whatever its questions say
        "without-projection": "not run yet",
    }
    static = by_name["static"].found
    assert static is not None
    assert (static.seeds, static.questions, static.difference) == (3, 40, pytest.approx(0.5))
    assert static.p is not None
    assert by_name["static"].holm_p == pytest.approx(min(1.0, 3 * static.p))  # three comparisons have a p
    assert "DISAGREES (-50.0 points" in by_name["without-l1"].describe()
    assert by_name["keep-last-step"].describe().endswith("undecided, one seed (+25.0 points)")
    assert by_name["without-projection"].describe().endswith("not run yet")
    said = how_tested(made)
    assert "Holm's p counts the 3 comparisons" in said
    assert "cannot be below 0.25 with 3 seeds" in said
    assert how_tested(directions(TABLES["table2"], {}, "small")) == ""


def test_no_direction_is_claimed_on_a_set_that_the_paper_has_not(tmp_path: Path) -> None:
    made = directions(TABLES["figure3"], {}, "small")
    assert {one.on for one in made} == {"in_domain", "reworded", "larger_numbers", "shorter_chains"}
    found = collect(finished(tmp_path, "figure3", {"codi": ["11"]}))
    headings, _ = rows(TABLES["figure3"], found, "small")
    assert headings[-2:] == ("longer_chains %", "training %")


def test_runs_that_still_rise_are_marked(tmp_path: Path) -> None:
    plans = finished(tmp_path, "table2", {"codi": ["10"] * 3, "static": ["10"]})
    for one in plans:
        if one.name == "codi/seed-2":
            write_result(one, made_up(one, "10", last_gain=0.012))
    found = collect(plans)
    _, made = rows(TABLES["table2"], found, "small")
    assert {row[0]: row[1] for row in made}["CODI"] == "3 (1†)"
    assert {row[0]: row[1] for row in made}["separate static teacher"] == "1"
    assert "had not come to a plateau" in rising_note(TABLES["table2"], found)
    assert rising_note(TABLES["table2"], {"codi": {1: found["codi"][1]}}) == ""


def test_cells_are_mean_and_deviation_or_an_interval(tmp_path: Path) -> None:
    found = collect(finished(tmp_path, "table2", {"codi": ["1100", "1110", "1111"], "static": ["1100"]}))
    table = TABLES["table2"]
    assert cell(table, found, "codi", "in_domain") == "75.0 ± 25.0"
    assert cell(table, found, "static", "in_domain") == "50.0 [15.0, 85.0]"
    assert cell(table, found, "without-l1", "in_domain") == "–"
    headings, made = rows(table, found, "small")
    assert headings == ("", "seeds", "in_domain %", "paper, gsm8k %", "training %")
    assert ("CODI", "3", "75.0 ± 25.0", "43.7", "100.0") in made
    assert distance_note(table, found) == ""


def test_how_near_each_student_came_to_its_teacher(tmp_path: Path) -> None:
    outcomes = {"codi": ["11"] * 2, "static": ["11"], "no-cot-sft": ["00"]}
    found = collect(finished(tmp_path, "table2", outcomes))
    ends = {("codi", 1): 0.2, ("codi", 2): 0.1, ("static", 1): 0.05}
    for (variant, seed), distance in ends.items():
        found[variant][seed]["validation"] = [
            {"step": 2.0, "accuracy": 0.5, "distillation": 0.9},
            {"step": 4.0, "accuracy": 0.5, "distillation": distance},
        ]
    headings, made = rows(TABLES["table2"], found, "small")
    shown = {row[0]: row[headings.index("distance")] for row in made}
    assert shown["CODI"] == "0.150"
    assert shown["separate static teacher"] == "0.050"
    assert shown["No-CoT-SFT"] == shown["without the L1 term"] == "–"
    assert "the term that beta weighs" in distance_note(TABLES["table2"], found)
    del found["static"]
    assert "distance" not in rows(TABLES["table2"], found, "small")[0]


def test_rule_of_two_deviations(tmp_path: Path) -> None:
    base = ["1" * n + "0" * (100 - n) for n in (50, 51, 52, 53, 54)]  # mean 52, deviation 1.58
    near, far = "1" * 55 + "0" * 45, "1" * 56 + "0" * 44
    found = collect(finished(tmp_path, "a6", {"prompt-1": base, "prompt-2": [near], "prompt-3": [far]}))
    assert within_two_deviations(TABLES["a6"], found, "small") == {"prompt-2": "yes", "prompt-3": "no"}


def test_command_lists_plans_and_shows(tmp_path: Path) -> None:
    def run(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["reproduce", *arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    folders = ("--results", str(tmp_path / "results"), "--runs", str(tmp_path / "runs"))
    assert all(name in run("--list") for name in TABLES)
    planned = run("table2", "--dry-run", *folders)
    assert "60 of 60 runs to make" in " ".join(planned.split())  # ten systems and two starts, five seeds
    assert "A100" in run("a4", "--dry-run", "--scale", "paper", *folders)
    finished(tmp_path, "a4", {"beta-1": ["10"], "beta-20": ["11"]})
    shown = run("a4", "--show", *folders, "--page", str(tmp_path / "page.md"))
    assert "beta 20 is above beta 1: undecided, one seed (+50.0 points)" in " ".join(shown.split())
    page = (tmp_path / "page.md").read_text()
    assert "2 of the 18 runs" in page
    assert "| beta 20 | 1 | 100.0 [34.2, 100.0] | 51.9 | 100.0 |" in page
    assert "**0 agree, 0 disagree, 1 are undecided**" in page
    assert "- Table A5: the weight of the teacher's loss" in page.partition("## Not run yet")[2]
    assert "![Validation accuracy against updates](results/reproduce/a4-curves.png)" in page
    assert (tmp_path / "results/reproduce/a4-curves.png").exists()
    refused = CliRunner().invoke(app, ["reproduce", "tabel2"])
    assert refused.exit_code == 2
    assert "table2" in refused.output


def test_results_page_is_up_to_date() -> None:
    root = Path(__file__).parents[1]
    page = (root / "docs/results.md").read_text(encoding="utf-8")
    assert page == render_page(root / "results"), "write it: codi reproduce all --show --page docs/results.md"
    for line in page.splitlines():
        if line.startswith("!["):
            assert (root / "docs" / line.rpartition("](")[2].rstrip(")")).exists()
