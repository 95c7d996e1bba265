"""What `codi reproduce` says of finished runs: directions, checkpoints kept, chains counted, figures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from matplotlib.colors import to_hex
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure
from numpy import isfinite

from codi.evaluation.system_colours import COLOURS, OTHERS, colours_of
from codi.reproduce.curves import kept_update
from codi.reproduce.plans import plan
from codi.reproduce.results_page import render_page
from codi.reproduce.scales import PAPER_SETS
from codi.reproduce.sweep import first_kept, write_result
from codi.reproduce.table_figures import against_latents, bars
from codi.reproduce.table_report import collect, costs_note, directions, kept_note, rows
from codi.reproduce.tables import TABLES, VARIANTS
from test_reproduce import finished, made_up, plans_of


def test_directions_are_tested_where_the_papers_have_figures() -> None:
    for table in TABLES.values():
        figures = [figure for given in table.rows.values() for figure in given]
        if table.later or not any(figure is not None for figure in figures):
            continue
        for claim in table.claims:
            for at in range(len(directions(replace(table, claims=(claim,)), {}, "small"))):
                assert table.rows[claim.better][at] is not None
                assert table.rows[claim.worse][at] is not None
    family = directions(TABLES["family"], {}, "small")
    assert {one.on for one in family} == {"in_domain"}  # of GSM8k are all the figures of these papers
    assert len(family) == len(TABLES["family"].claims) == 6
    assert all(set(claim.sets) <= set(PAPER_SETS) for table in TABLES.values() for claim in table.claims)


def test_costs_are_of_one_seed_whose_latency_was_measured() -> None:
    timed = {"thought_tokens": 8.0, "sequential_passes": 9.0, "latency_ms": {"median": 16.25, "p95": 18.0}}
    untimed = {"thought_tokens": 7.0, "sequential_passes": 8.0}
    results = {"codi": {1: untimed, 3: timed, 4: timed}, "no-cot-sft": {1: untimed}}
    _, (cot_sft, codi, no_cot_sft) = rows(TABLES["figure4"], results, "small")
    assert list(cot_sft[1:]) == ["–"] * 4
    assert list(codi[1:]) == ["8.0", "9.0", "16.2", "18.0"]
    assert list(no_cot_sft[1:]) == ["7.0", "8.0", "–", "–"]
    assert "already warm, seed 3. Thought" in costs_note(TABLES["figure4"], results, "small")
    results["no-cot-sft"][1] = timed
    assert "warm, seed 1 (No-CoT-SFT); 3 (CODI). " in costs_note(TABLES["figure4"], results, "small")
    assert costs_note(TABLES["figure4"], {"codi": {1: untimed}}, "small") == ""
    assert costs_note(TABLES["table2"], results, "small") == ""


def test_latency_is_measured_of_a_seed_whose_checkpoints_are_there(tmp_path: Path) -> None:
    both = plans_of(tmp_path, "figure3", seeds=[1, 2])
    plans = [one for one in both if one.variant.name in ("codi", "icot")]
    assert [one.seed for one in first_kept(plans)] == [1, 1]
    for one in plans[1:]:
        one.checkpoint.mkdir(parents=True)
        (one.checkpoint / "codi.json").write_text("{}")
    assert [(one.variant.name, one.seed) for one in first_kept(plans)] == [("icot", 2), ("codi", 2)]


def test_the_papers_own_directions_are_counted_apart_from_later_ones(tmp_path: Path) -> None:
    finished(tmp_path, "family", {"kava": ["11", "10"], "codi": ["00", "00"]})
    page = " ".join(render_page(tmp_path / "results").split())
    own = sum(len(directions(table, {}, "small")) for table in TABLES.values() if table.name != "family")
    assert f"Of the paper's {own} directions" in page
    later = page.partition("Of the later papers' 6 directions, on the set that stands for GSM8k, ")[2]
    assert later.startswith("**0 agree, 0 disagree, 1 are undecided** and 5 have not been run.")
    assert "a later paper's direction | set | ours" in page


def test_chains_of_a_test_set_are_counted_once(tmp_path: Path) -> None:
    plans = finished(tmp_path, "table2", {"codi": ["10"] * 3, "static": ["10"] * 2})
    page = render_page(tmp_path / "results").partition("## Table 2")[2].partition("## ")[0]
    assert "stand in training: 0 of 25." in page  # five sets of five chains, whoever was asked
    one = next(one for one in plans if one.name == "codi/seed-2")
    seen = {name: {"seen": 2 if name == "reworded" else 0, "chains": 5} for name in one.sets}
    write_result(one, made_up(one, "10", test_chains=seen))
    page = render_page(tmp_path / "results").partition("## Table 2")[2].partition("## ")[0]
    assert "stand in training: 2 of 25." in page


def test_runs_that_kept_an_earlier_checkpoint_are_named(tmp_path: Path) -> None:
    """The starts too; of equals the first is kept, as the Trainer does."""
    flat = [{"step": step, "accuracy": 0.9} for step in (200, 400, 600)]
    rising = [{"step": step, "accuracy": step / 1000} for step in (200, 400, 600)]
    curves = {
        "start/seed-1": flat, "codi/seed-1": rising,
        "static/seed-1": [*rising[:2], rising[2] | {"accuracy": 0.1}],
        "start/seed-2": flat, "codi/seed-2": rising, "start/seed-3": [flat[0] | {"accuracy": 0.1}, *flat[1:]],
    }  # fmt: skip
    plans = plans_of(tmp_path, "table2")
    for one in plans:
        if one.name in curves:
            write_result(one, made_up(one, "10", validation=curves[one.name], steps=600))
    found = collect(plans)
    assert kept_note(found, "small") == (
        "Updates kept, where not all of the run's own: CoT-SFT without the last step, the warm start: "
        "200 of 600 (seeds 1, 2), 400 of 600 (seed 3); separate static teacher: 400 of 600 (seed 1)."
    )
    assert kept_note({"codi": found["codi"]}, "small") == ""
    assert kept_note(found, "small") in render_page(tmp_path / "results")


def test_of_a_curriculum_the_best_of_the_last_stage_is_kept(tmp_path: Path) -> None:
    """An earlier one still writes steps out, and would win. Coconut's last begins here after 576 updates."""
    one = next(one for one in plans_of(tmp_path, "figure3", seeds=[1]) if one.variant.name == "coconut")
    curve = [{"step": 200 * n, "accuracy": share} for n, share in enumerate((0.9, 0.8, 0.1, 0.3, 0.3), 1)]
    result = made_up(one, "10", validation=curve, steps=1000)
    assert kept_update(result) == 800
    assert kept_update(result | {"validation": curve[:2]}) is None
    whole = plan(["figure3"], "paper", tmp_path, tmp_path, seeds=[1])
    papers = next(one for one in whole if one.variant.name == "coconut")
    epochs = int(papers.configuration().training["num_train_epochs"])
    curve = [{"step": 10 * n, "accuracy": 1 / n} for n in range(1, epochs + 1)]
    kept = kept_update(made_up(papers, "10", validation=curve, steps=10 * epochs))
    assert kept is not None
    assert 10 < kept < 10 * epochs  # by epochs: its problems need not be read


def test_figures_draw_what_has_been_run(tmp_path: Path) -> None:
    """No bar for a system without a run, no error bar for one seed, a system's colour everywhere."""
    found = collect(finished(tmp_path, "figure3", {"codi": ["1100", "1110"], "icot": ["1000"]}))
    axis = Figure().subplots()
    bars(axis, TABLES["figure3"], found)
    drawn = {one.get_label(): one for one in axis.containers if isinstance(one, BarContainer)}
    assert set(drawn) == {"CODI", "iCoT"}
    assert drawn["CODI"].errorbar is not None
    assert drawn["iCoT"].errorbar is None
    assert [bar.get_height() for bar in drawn["iCoT"]] == [25.0] * 5
    for name, bar in drawn.items():
        assert to_hex(bar[0].get_facecolor()) == COLOURS[str(name)]


def test_one_seed_has_no_error_bar_against_latents(tmp_path: Path) -> None:
    found = collect(finished(tmp_path, "figure5", {"codi": ["1100", "1110"], "latents-1": ["1000"]}))
    axis = Figure().subplots()
    against_latents(axis, TABLES["figure5"], found)
    [drawn] = [one for one in axis.containers if isinstance(one, ErrorbarContainer)]
    [bars_up] = drawn.lines[2]
    shown = [segment for segment in bars_up.get_segments() if len(segment) and isfinite(segment).all()]
    assert [segment[0][0] for segment in shown] == [6.0]


def test_a_system_has_one_colour_in_every_figure() -> None:
    for table in TABLES.values():
        titles = [VARIANTS[variant].title_at("small") for variant in table.rows]
        colours = dict(zip(titles, colours_of(titles), strict=True))
        assert len(set(colours.values())) == len(titles), table.name
        for title in titles:
            assert title not in COLOURS or colours[title] == COLOURS[title]
    assert not set(OTHERS) & set(COLOURS.values())
