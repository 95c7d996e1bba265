"""What the paper explains its results by: the measurements on models whose truth is known, and `codi why`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from codi.cli import app
from codi.data.collation import collate
from codi.data.example import Example
from codi.data.two_branches import generate
from codi.errors import DataError, UsageError
from codi.generation.latent_reasoner import LatentReasoner
from codi.interpretability.curriculum_skills import skills, stage_ends
from codi.interpretability.distilled_token import distilled_states, probe_results
from codi.interpretability.last_result import last_result
from codi.interpretability.loss_gradients import UNSEEN, GradientLog, loss_gradients
from codi.interpretability.thinking import think_through
from codi.interpretability.thought_geometry import thought_geometry
from codi.methods.coconut import Coconut
from codi.methods.codi import Codi
from codi.methods.cot_sft import CotSft
from codi.methods.no_cot_sft import NoCotSft
from codi.modeling.context import Tokens
from codi.reproduce.why import FIGURES, RECIPES, Measurement, configuration_of, kept_after, measure, replay
from codi.reproduce.why_page import render_page
from codi.training.recipes import load_recipe
from codi.training.run import train
from codi.training.starting import build_reasoner
from tiny_models import EXAMPLES, reasoner, tiny_model

TWO = [EXAMPLES[0], EXAMPLES[2], EXAMPLES[3]]


def small(name: str) -> LatentReasoner:
    """The small base under a recipe's method, before training."""
    torch.manual_seed(3)
    made = build_reasoner(replace(load_recipe(name), start=None))
    made.model.eval()
    return made


# --- gradients ----------------------------------------------------------------------------------------------


def test_the_cosine_says_what_a_small_step_against_the_distance_does_to_the_answer_loss() -> None:
    asked = reasoner(Codi(latents=2), tiny_model("llama"))
    found = loss_gradients(asked, EXAMPLES, TWO)
    assert list(found.losses) == ["student", "distillation", "teacher", UNSEEN]
    batch = collate([asked.method.encode(e, asked.text) for e in EXAMPLES], asked.text.pad_id)

    def losses() -> dict[str, float]:
        with torch.no_grad():
            return {name: float(term) for name, term in asked.method.loss(asked.model, batch).items()}

    before = losses()
    assert before["student"] == pytest.approx(found.losses["student"], rel=1e-5)
    asked.method.loss(asked.model, batch)["distillation"].backward()
    size = 2e-2 / found.norms["distillation"]
    with torch.no_grad():
        for weight in asked.model.parameters():
            if weight.grad is not None:
                weight -= size * weight.grad
    for term, pair in (("student", "student, distillation"), ("teacher", "distillation, teacher")):
        cosine = found.cosines[pair]
        assert cosine is not None
        expected = -2e-2 * cosine * found.norms[term]
        assert losses()[term] - before[term] == pytest.approx(expected, abs=0.1 * 2e-2 * found.norms[term])


def test_gradients_leave_the_model_as_it_was() -> None:
    asked = reasoner(Codi(latents=2), tiny_model())
    asked.model.train()
    first = loss_gradients(asked, EXAMPLES, TWO)
    assert asked.model.training
    assert all(weight.grad is None for weight in asked.model.parameters())
    assert loss_gradients(asked, EXAMPLES, TWO) == first


def test_gradients_of_a_method_without_a_student_are_refused() -> None:
    with pytest.raises(UsageError, match=r"a cot-sft model has none: its terms are teacher"):
        loss_gradients(reasoner(CotSft(), tiny_model()), EXAMPLES, TWO)


# --- the distilled token ------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_states_are_those_that_predict_the_answer(family: str) -> None:
    """The last layer at `:` is what the answer's first token is read from, after steps and after thoughts."""
    asked = reasoner(Codi(latents=2), tiny_model(family))
    states = distilled_states(asked, EXAMPLES, batch_size=3)
    assert states.shape == (4, 2, 3, 32)
    for row, example in enumerate(EXAMPLES):
        written = asked.text.rationale(example.steps[:-1])
        ids = [*asked.text.question(example.question), *written, *asked.text.prompt_ids]
        teacher = asked.model.read(Tokens.repeated(ids, 1, asked.model.device)).context.last_hidden
        student = think_through(asked, [example.question]).start.context.last_hidden
        torch.testing.assert_close(states[row, 0, -1], teacher[0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(states[row, 1, -1], student[0], atol=1e-4, rtol=1e-4)


def test_probes_find_the_written_results_in_the_teachers_state_and_not_in_the_untrained_students() -> None:
    """The untrained base's `:` sees the last written number in its text; its student has nothing written."""
    probes = probe_results(small("small-codi"), generate("test", 200), seed=1, least_per_class=4)
    assert [(p.role, p.layer) for p in probes if p.step == 2] == [
        (role, layer) for role in ("teacher", "student") for layer in range(5)
    ]
    best = {
        role: max(p.accuracy for p in probes if (p.role, p.step) == (role, 2))
        for role in ("teacher", "student")
    }
    assert best["teacher"] > 3 * best["student"]
    for probe in probes:
        assert probe.n_train + probe.n_test + probe.left_out == 200
        if probe.layer == 0:  # the embedding of `:` is the same everywhere
            assert probe.accuracy == probe.majority


def test_probes_need_one_number_of_steps_and_an_equation_in_each() -> None:
    asked = reasoner(Codi(latents=2), tiny_model())
    with pytest.raises(DataError, match=r"these have 1, 3 steps"):
        probe_results(asked, EXAMPLES[:2])
    with pytest.raises(DataError, match=r"'e' has 1 steps with 0 equations"):
        probe_results(asked, [Example("e", "How many?", ("Some.",), "3")])


# --- the last written result --------------------------------------------------------------------------------


def test_changed_results_reach_the_teachers_text_and_the_attention_is_the_models_own() -> None:
    asked = small("small-codi-with-last-step")
    problems = generate("test", 40)
    found = last_result(asked, problems, seed=2, batch_size=16)
    assert (found.n, found.left_out, found.written) == (40, 0, 3)
    assert found.followed == found.copied  # where the last step is written, to follow it is to copy it
    assert len(found.attention_by_layer) == 4
    assert [sum(layer[at] for layer in found.attention_by_layer) / 4 for at in range(3)] == pytest.approx(
        found.attention
    )
    assert last_result(asked, problems, seed=2, batch_size=40).attention == pytest.approx(
        found.attention, abs=1e-5
    )


def test_a_teacher_that_copies_and_one_that_computes_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real text goes in; what is answered is read off that text, by copying or by arithmetic."""
    import codi.interpretability.last_result as module

    asked = small("small-codi")

    def answering(copies: bool) -> Any:
        def answers(_reasoner: Any, encoded: list[list[int]]) -> tuple[list[str], torch.Tensor]:
            texts = []
            for ids in encoded:
                words = asked.tokenizer.convert_ids_to_tokens(ids)
                first, second = (int(words[at - 1]) for at, word in enumerate(words) if word == ">>")
                joined = first + second if "together" in words else first - second
                texts.append(f"The answer is: {second if copies else joined}")
            width = max(map(len, encoded))
            return texts, torch.full((4, len(encoded), width), 1 / width)

        return answers

    for copies in (True, False):
        monkeypatch.setattr(module, "_answers", answering(copies))
        found = last_result(asked, generate("test", 60), seed=2)
        assert found.written == 2
        assert (found.copied == 1.0, found.followed == 1.0) == (copies, not copies)
        assert (found.right == 1.0) != copies
        assert found.attention == pytest.approx([found.uniform] * 2, rel=0.2)


def test_problems_whose_last_result_cannot_be_changed_are_counted_or_refused() -> None:
    asked = reasoner(Codi(latents=2), tiny_model())
    with pytest.raises(DataError, match=r"In none of the 1 problems"):
        last_result(asked, EXAMPLES[1:2])
    with pytest.raises(UsageError, match="its own teacher, but this one was trained with no-cot-sft"):
        last_result(reasoner(NoCotSft(), tiny_model()), TWO)


# --- stages and thoughts ------------------------------------------------------------------------------------


def test_stage_ends_are_where_the_curriculum_changes() -> None:
    coconut = Coconut(epochs_per_stage=6)
    assert stage_ends(coconut, 32, 1400) == [192, 384, 576, 1400]
    for end in (192, 384, 576):
        assert coconut.stage_at(end - 1, 32) + 1 == coconut.stage_at(end, 32)


def test_each_form_is_asked_as_the_method_of_its_stage_answers() -> None:
    asked = small("small-coconut")
    problems = [e for e in generate("pretraining", 800) if e.question.endswith("ends?") and e.steps][:40]
    shares = skills(asked, Coconut(), problems)
    assert len(shares) == 4
    for stage in (1, 3):
        form = LatentReasoner(asked.model, Coconut(stage=stage), asked.tokenizer, asked.text_format)
        given = form.answer([example.question for example in problems], max_new_tokens=64)
        right = sum(a.value == e.answer for a, e in zip(given, problems, strict=True))
        assert shares[stage] == right / len(problems)
    assert shares[0] > 0.8  # the base writes one step of one person; see test_small_scale
    with pytest.raises(UsageError, match="without a projection"):
        skills(small("small-codi"), Coconut(), problems)


def test_thoughts_of_one_question_asked_twice_are_the_same_direction() -> None:
    asked = reasoner(Codi(latents=3), tiny_model("gpt2", projection=True))
    twice = thought_geometry(asked, [EXAMPLES[0].question] * 2)
    assert twice.other_question == pytest.approx([1.0] * 3, abs=1e-5)
    found = thought_geometry(asked, [example.question for example in EXAMPLES], batch_size=3)
    assert (found.n, len(found.norm), len(found.before)) == (4, 3, 2)
    assert max(found.other_question) < 0.9999
    tokens = asked.model.causal.get_input_embeddings().weight.detach()[: len(asked.tokenizer)]
    fed = [think_through(asked, [example.question]).latents[0, 0] for example in EXAMPLES]
    assert found.norm[0] == pytest.approx(
        float(torch.stack(fed).norm(dim=-1).mean() / tokens.norm(dim=-1).mean()), rel=1e-4
    )
    cosines = torch.nn.functional.cosine_similarity(torch.stack(fed)[:, None], tokens[None], dim=-1)
    assert found.nearest[0] == pytest.approx(float(cosines.max(-1).values.mean()), rel=1e-4)


# --- the command --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One run of each variant, of a few updates each."""
    folder = tmp_path_factory.mktemp("why")
    brief = {
        "training.max_steps": 2, "training.eval_steps": 1, "data.train": "two-branches?count=64",
        "data.validation_limit": 4, "training.disable_tqdm": True, "training.seed": 1,
    }  # fmt: skip
    for name in {Path(str(load_recipe(recipe).start)).name for recipe in RECIPES.values()}:
        train(name, folder / name, brief | {"data.validation": None}, say=lambda _: None)
    for variant, recipe in RECIPES.items():
        start = Path(str(load_recipe(recipe).start)).name
        own = {"start": str(folder / start)}
        if variant == "coconut":  # two updates an epoch, half an epoch a stage
            own |= {"method.epochs_per_stage": 0.5, "method.max_stage": 2, "training.max_steps": 4}
        train(recipe, folder / "runs" / variant / "seed-1", brief | own, say=lambda _: None)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def why(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["why", *arguments])


@pytest.fixture(scope="module")
def measured(runs: Path) -> Path:
    """All five figures, measured on few problems."""
    few = {"problems": 42, "updates": 2, "every": 1, "batch": 8, "least_per_class": 3}
    ask = Measurement(runs / "runs", (1,), "two-branches?seed=14&largest=6", **few)
    measure([], ask, runs / "measured", say=lambda _: None)
    return runs / "measured"


def kept_by_validation(runs: Path, variant: str) -> int:
    account = json.loads((runs / "runs" / variant / "seed-1/training.json").read_text())
    return int(account["best_checkpoint"].removeprefix("checkpoint-"))


def test_every_figure_says_what_it_was_made_from(measured: Path, runs: Path) -> None:
    for name in FIGURES:
        found = json.loads((measured / f"{name}.json").read_text())
        assert (found["seeds"], found["problems"]) == ([1], "two-branches?seed=14&largest=6, test")
        assert found["n"] == {"gradients": 8, "forgetting": 14}.get(name, 42)
        assert {one["variant"] for one in found["runs"]} == set(FIGURES[name].variants)
        assert all(one["updates"] == (4 if one["variant"] == "coconut" else 2) for one in found["runs"])
        for one in found["runs"]:
            assert one["kept_after"] == kept_by_validation(runs, one["variant"])
    gradients = json.loads((measured / "gradients.json").read_text())
    warm, cold = (gradients[start][0]["log"] for start in ("warm", "cold"))
    assert [one["updates"] for one in warm] == [0, 1, 2]
    assert warm[0]["losses"] != cold[0]["losses"]
    stages = json.loads((measured / "forgetting.json").read_text())["coconut"][0]["stages"]
    assert [one["updates"] for one in stages] == [0, 1, 2, kept_by_validation(runs, "coconut")]
    for one in gradients["end"]:
        assert one["updates"] == kept_by_validation(runs, one["variant"])


def test_weights_count_up_to_the_checkpoint_that_was_kept(tmp_path: Path) -> None:
    for chosen, updates in (("checkpoint-400", 400), (None, 1000)):
        (tmp_path / "training.json").write_text(json.dumps({"steps": 1000, "best_checkpoint": chosen}))
        assert kept_after(tmp_path) == updates


def test_figures_and_page_are_made_from_the_files_alone(measured: Path, tmp_path: Path) -> None:
    output, page = tmp_path / "results/why", tmp_path / "why.md"
    shutil.copytree(measured, output)
    place = ["--show", "--output", str(output), "--page", str(page)]
    assert why(*place).exit_code == 0
    text = page.read_text()
    for name in FIGURES:
        assert (output / f"{name}.png").stat().st_size > 5_000
        assert f"(results/why/{name}.png)" in text
    (output / "last-step.json").unlink()  # a figure that was not measured is left out
    codi = output / "distilled-token.json"
    values = json.loads(codi.read_text())
    values["accuracies"] = [one | {"accuracy": 0.625} for one in values["accuracies"]]
    codi.write_text(json.dumps(values))
    other = render_page(output, page)
    assert "last-step.png" not in other
    assert "Not measured yet: last-step. `codi why last-step` measures it." in other
    assert "CODI answers 62.5 %" in other


def test_the_page_says_which_weights_and_takes_every_row_at_its_best_layer(
    measured: Path, tmp_path: Path
) -> None:
    shutil.copytree(measured, tmp_path / "why")
    file = tmp_path / "why/distilled-token.json"
    values = json.loads(file.read_text())
    values["runs"] = [
        run | {"updates": 1000, "kept_after": 400 if run["variant"] == "without-l1" else 1000}
        for run in values["runs"]
    ]
    for probe in values["probes"]:  # one layer of each row has a lucky control
        lucky = 0.5 if probe["role"] == "student" else 0.25
        probe["control_accuracy"] = lucky if probe["layer"] == probe["step"] else 0.0
    file.write_text(json.dumps(values))
    page = render_page(tmp_path / "why", tmp_path / "why.md")
    assert "CODI after 1,000 of 1,000 updates; without the L1 term after 400 of 1,000 updates" in page
    assert "| shuffled labels | 37.5 % | 37.5 % | 37.5 % |" in page


def test_the_page_in_the_docs_is_up_to_date() -> None:
    page = Path(__file__).parents[1] / "docs/why.md"
    assert page.read_text(encoding="utf-8") == render_page(page.parent / "results/why", page)


def test_one_figure_can_be_measured_anew(runs: Path, tmp_path: Path) -> None:
    output = tmp_path / "why"
    asked = ["--runs", str(runs / "runs"), "--seed", "1", "--problems", "20", "--output", str(output)]
    done = why("projection", *asked)
    assert done.exit_code == 0, done.output
    assert "projection: measured in" in done.output
    assert sorted(file.name for file in output.iterdir()) == ["projection.json", "projection.png"]


def test_a_replay_is_the_run_itself(runs: Path) -> None:
    """What is watched is what was trained: after the same updates the losses are the same."""
    folder = runs / "runs/codi/seed-1"
    config, seen = configuration_of(folder), generate("train", 8)
    log = GradientLog(seen, generate("test", 8), [1, 2])
    replay(config, log, start=config.start)
    finished = loss_gradients(LatentReasoner.from_pretrained(folder), seen, generate("test", 8), 2)
    at = {one.updates: one for one in log.found}
    assert at[kept_by_validation(runs, "codi")].losses == pytest.approx(finished.losses, rel=1e-4)


def test_what_cannot_be_measured_is_said_before_anything_is(runs: Path, tmp_path: Path) -> None:
    there, output = ["--runs", str(runs / "runs")], ["--output", str(tmp_path / "out")]
    missing = why("projection", *there, "--seed", "7", *output)
    assert missing.exit_code == 2
    assert "There is no finished run" in missing.output
    assert "codi train small-codi --output" in missing.output
    assert not (tmp_path / "out").exists()
    unknown = why("gradient", *there, *output)
    assert unknown.exit_code == 2
    assert "Did you mean 'gradients'" in unknown.output
    nothing = why("--show", *output)
    assert nothing.exit_code == 2
    assert "Nothing was measured yet" in nothing.output
    (tmp_path / "out").mkdir()
    (tmp_path / "out/gradients.json").write_text("{")
    damaged = why("--show", *output)
    assert damaged.exit_code == 2
    assert "Measure it again: codi why gradients" in damaged.output
