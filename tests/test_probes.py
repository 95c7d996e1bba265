"""Probes on states made so that the truth is known, and on a model's thoughts."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from torch import Tensor

from codi.data.example import Example
from codi.data.word_problems import generate
from codi.errors import UsageError
from codi.interpretability.layer_states import layer_states
from codi.interpretability.probes import ProbeResult, probe_states, probe_steps, with_result
from codi.methods.codi import Codi
from codi.methods.cot_sft import CotSft
from tiny_models import reasoner, tiny_model

LABELS = [str(number % 4) for number in range(240)]


def states_with(labels: list[str], thought: int, layer: int) -> Tensor:
    """[b, 2, 3, 16]: noise, and at one thought and layer the label as a direction of its own."""
    draw = torch.Generator().manual_seed(7)
    states = torch.randn(len(labels), 2, 3, 16, generator=draw)
    directions = 3 * torch.randn(4, 16, generator=draw)
    states[:, thought, layer] += directions[torch.tensor([int(label) for label in labels])]
    return states


def test_probe_finds_what_is_there_and_nothing_else() -> None:
    results = probe_states(states_with(LABELS, thought=1, layer=2), LABELS, step=2, seed=3)
    assert [(r.thought, r.layer) for r in results] == [(t, layer) for t in (1, 2) for layer in (0, 1, 2)]
    for result in results:
        assert (result.step, result.classes, result.n_train, result.n_test) == (2, 4, 180, 60)
        assert result.majority == 0.25
        assert result.control_accuracy < 0.45  # chance is 0.25, give or take 0.06
        if (result.thought, result.layer) == (2, 2):
            assert result.accuracy > 0.95
        else:
            assert result.accuracy < 0.45
    assert sum(r.control_accuracy for r in results) / len(results) == pytest.approx(0.25, abs=0.08)


def test_same_seed_same_figures() -> None:
    states = states_with(LABELS[:80], thought=0, layer=1)
    first, again, other = (probe_states(states, LABELS[:80], seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_every_class_is_in_both_parts() -> None:
    labels = ["0"] * 40 + ["1"] * 2
    result = probe_states(states_with(labels, 0, 0), labels, least_per_class=2, test_share=0.1)[0]
    assert (result.n_train, result.n_test) == (37, 5)
    assert result.majority == 0.8


def test_results_are_json_ready() -> None:
    result = probe_states(states_with(LABELS[:80], 0, 0), LABELS[:80], left_out=5)[0]
    assert ProbeResult(**json.loads(json.dumps(result.as_dict()))) == result
    assert result.left_out == 5


def examples_with(results: list[str], second: str | None = None) -> list[Example]:
    later = () if second is None else (f"<<1*2={second}>>",)
    return [
        Example(f"{n}", f"Question {n}?", (f"<<1+{n}={result}>>", *later, "<<1+1=2>>"), "2")
        for n, result in enumerate(results)
    ]


def test_questions_are_those_that_have_the_step() -> None:
    long = examples_with(["3", "4"] * 5 + ["9"])
    short = [Example("s", "One step?", ("<<1+1=2>>",), "2"), Example("n", "No steps?", (), "2")]
    found = with_result([*long, *short], 1, least_per_class=5)
    assert found.examples == long[:10]
    assert found.results == ["3", "4"] * 5
    assert found.left_out == 1  # the only "9"
    with pytest.raises(UsageError, match=r"result of step 2.*0 questions"):
        with_result(long, 2)  # the last step's result is the answer, not an intermediate one


def test_a_question_that_is_there_twice_counts_once() -> None:
    examples = examples_with(["3", "4"] * 4)
    assert with_result(examples * 2, 1, least_per_class=4).examples == examples
    with pytest.raises(UsageError, match="needs 5 questions of each"):
        with_result(examples * 2, 1, least_per_class=5)


def test_too_few_and_unfit_input_is_said() -> None:
    with pytest.raises(UsageError, match=r"Too few examples.*needs 8.*10 questions.*6 of '3', 4 of '4'"):
        with_result(examples_with(["3"] * 6 + ["4"] * 4), 1)
    with pytest.raises(UsageError, match="Too few"):
        with_result(examples_with(["3"] * 20), 1)
    with pytest.raises(UsageError, match="counted from 1"):
        with_result(examples_with(["3"] * 20), 0)
    with pytest.raises(UsageError, match="the 0 questions that have one"):
        with_result([Example("a", "Q?", ("He adds 3.", "<<1+1=2>>"), "2")], 1)
    states = states_with(LABELS[:40], 0, 0)
    for labels, options, said in (
        (LABELS[:39], {}, "39 labels .* 40"),
        (["0"] * 20 + ["1"] * 17 + ["2"] * 3, {}, "'2' has 3"),
        (["0"] * 40, {}, "Too few"),
        (LABELS[:40], {"least_per_class": 1}, "2 or more"),
        (LABELS[:40], {"test_share": 1.0}, "between 0 and 1"),
    ):
        with pytest.raises(UsageError, match=said):
            probe_states(states, labels, **options)


def test_probes_of_a_model() -> None:
    asked = reasoner(Codi(latents=2), tiny_model("llama"))
    examples = generate("train", 60, seed=1)
    seen: list[tuple[int, int]] = []
    results = probe_steps(
        asked, examples, [1, 2], least_per_class=5, batch_size=25, on_progress=lambda *at: seen.append(at)
    )
    assert len(results) == 2 * 2 * 3
    assert seen == [(done, 12) for done in range(1, 13)]
    for result in results:
        chosen = with_result(examples, result.step, 5)
        assert result.n_train + result.n_test == len(chosen.examples)
        assert result.left_out == chosen.left_out > 0
    # The embedding of <bot>, read by the pass that makes the first thought, is the same for every question.
    blind = results[0]
    assert (blind.step, blind.thought, blind.layer) == (1, 1, 0)
    assert blind.accuracy == pytest.approx(blind.majority)
    assert probe_steps(asked, examples, [1, 2], least_per_class=5, batch_size=25) == results


def test_what_a_models_states_hold_is_found() -> None:
    """Recorded states: which of two words a question is about, at the first thought."""
    asked = reasoner(Codi(latents=1), tiny_model("llama"))
    words = ["apples", "stamps"] * 80
    questions = [f"{2 + n // 2} {word} has {2 + n % 7} {word}" for n, word in enumerate(words)]
    embedding, *after_blocks = probe_states(layer_states(asked, questions)[1], words)
    assert embedding.accuracy == 0.5  # <bot> has not looked at the question yet
    for result in after_blocks:
        assert result.accuracy > 0.8  # of 40 questions; by chance once in 10,000 times
        assert result.control_accuracy < 0.7


def test_missing_scikit_learn_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)  # as if it were not installed
    with pytest.raises(UsageError, match="pip install scikit-learn"):
        probe_steps(reasoner(Codi(), tiny_model()), generate("train", 60, seed=1), [1], least_per_class=5)


def test_model_without_thoughts_is_refused() -> None:
    with pytest.raises(UsageError, match="no continuous thoughts"):
        probe_steps(reasoner(CotSft(), tiny_model()), generate("train", 60, seed=1), [1])
