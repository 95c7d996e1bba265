"""iCoT: the schedule as a table, what a row loses, the two ends, and what it refuses."""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import pytest
import torch

from codi.data.collation import collate
from codi.errors import RecipeError
from codi.methods.cot_sft import CotSft
from codi.methods.icot import ALL_REMOVED, ICot
from codi.methods.no_cot_sft import NoCotSft
from codi.modeling.configuration import ModelConfig
from tiny_models import EXAMPLES, encoded_batch, reasoner, tiny_model, word_encoder

QUIET = {"extra_support": 1}  # no random extra removal


PUBLISHED = {"remove_all_when": "reached", "extra_from": "start", "reset_optimizer": "while-any-left"}


def literal_schedule(steps: int, epoch_steps: int, per_epoch: int, limit: int) -> list[int]:
    """Counted up step by step, as the published trainer does it: all goes once the limit is reached."""
    every = round(epoch_steps / per_epoch)
    removed, since, table = 0, 0, []
    for _ in range(steps):
        if since == every:
            removed, since = removed + 1, 0
        since += 1
        if removed >= limit:
            removed = ALL_REMOVED
        table.append(removed if removed < ALL_REMOVED else ALL_REMOVED)
    return table


@pytest.mark.parametrize(
    ("epoch_steps", "per_epoch", "limit"), [(16, 8, 39), (100, 8, 5), (50, 4, 12), (3, 1, 2)]
)
def test_schedule_table(epoch_steps: int, per_epoch: int, limit: int) -> None:
    method = ICot(remove_per_epoch=per_epoch, remove_all_beyond=limit, **PUBLISHED)
    table = [method.stage_at(step, epoch_steps) for step in range(300)]
    assert table == literal_schedule(300, epoch_steps, per_epoch, limit)
    assert table[-1] == ALL_REMOVED


def test_the_limit_is_passed_or_reached() -> None:
    """Every second step one more token, limit 3: with `reached` nothing is ever trained with 3 removed."""
    passed = ICot(remove_per_epoch=5, remove_all_beyond=3)
    reached = ICot(remove_per_epoch=5, remove_all_beyond=3, remove_all_when="reached")
    assert [passed.stage_at(step, 10) for step in range(0, 12, 2)] == [0, 1, 2, 3, ALL_REMOVED, ALL_REMOVED]
    assert [reached.stage_at(step, 10) for step in range(0, 10, 2)] == [0, 1, 2, ALL_REMOVED, ALL_REMOVED]
    assert "after about 0.6 of" in reached.check_run(ModelConfig(base="gpt2"), True, 2)[0]
    assert "after about 0.8 of" in passed.check_run(ModelConfig(base="gpt2"), True, 2)[0]


def test_extra_removal_begins_when_it_is_told_to() -> None:
    """lambda ln 2, support 2: a token more with probability 1/3; epochs of 10 steps, the first explicit."""
    text, options = word_encoder(), {"explicit_epochs": 1.0, "extra_lambda": math.log(2), "extra_support": 2}
    with_removal, from_start = ICot(**options), ICot(**options, extra_from="start")
    row = with_removal.encode(EXAMPLES[0], text)

    def lost(method: ICot, step: int) -> Counter[int]:
        rng, stage = random.Random(5), method.stage_at(step, 10)
        seen = [len(method.staged(row, stage, rng)["teacher"]) for _ in range(3_000)]
        return Counter(len(row["teacher"]) - length for length in seen)

    assert lost(with_removal, 9) == lost(from_start, 9) == {0: 3_000}  # explicit: the whole rationale
    assert lost(with_removal, 10) == {0: 3_000}  # nothing is scheduled yet
    assert lost(from_start, 10)[1] == pytest.approx(1_000, abs=100)
    assert set(lost(from_start, 10)) == {0, 1}
    for method in (with_removal, from_start):  # one token is scheduled
        assert set(lost(method, 11)) == {1, 2}
    endless = ICot(**options | {"extra_lambda": math.inf}, extra_from="start")
    assert lost(endless, 10) == {0: 3_000}


def test_a_removal_keeps_the_optimiser_where_nothing_was_left() -> None:
    text, method = word_encoder(), ICot(**PUBLISHED, **QUIET)
    rows = [method.encode(example, text) for example in EXAMPLES]
    longest = max(row["rationale"] for row in rows)

    def begins(removed: int, method: ICot = method, new_stage: bool = True) -> bool:
        seen = [(row, method.staged(row, removed, random.Random(0))) for row in rows]
        return method.begins_afresh(removed + 1, new_stage, False, lambda: seen)

    assert begins(longest - 1)
    assert not begins(longest)
    assert not begins(longest - 1, new_stage=False)
    assert begins(longest, ICot(**QUIET))  # at every removal


def test_schedule_waits_for_the_explicit_epochs() -> None:
    method = ICot(explicit_epochs=2, remove_per_epoch=5, remove_all_beyond=3)
    assert [method.stage_at(step, 10) for step in range(16, 30, 2)] == [0, 0, 0, 1, 2, 3, ALL_REMOVED]


@pytest.mark.parametrize("stage", [0, 3, 8, 1000, ALL_REMOVED])
def test_tokens_go_from_the_left_of_the_rationale_alone(stage: int) -> None:
    text, method = word_encoder(), ICot(**QUIET)
    for example in EXAMPLES:
        rationale, answer = text.rationale(example.steps), text.answer(example.answer).ids
        row = method.staged(method.encode(example, text), stage, random.Random(0))
        assert row == {"question": text.question(example.question), "teacher": rationale[stage:] + answer}


def test_loss_at_both_ends_is_that_of_the_plain_methods() -> None:
    text, model = word_encoder(), tiny_model("llama")
    method = ICot(**QUIET)
    rows = [method.encode(example, text) for example in EXAMPLES]
    for stage, plain in ((0, CotSft()), (ALL_REMOVED, NoCotSft())):
        batch = collate([method.staged(row, stage, random.Random(0)) for row in rows], text.pad_id)
        expected = plain.loss(model, encoded_batch(plain))["loss"]
        torch.testing.assert_close(method.loss(model, batch)["loss"], expected, rtol=1e-6, atol=0)


def test_extra_removal_follows_the_truncated_exponential() -> None:
    method = ICot(extra_lambda=0.7, extra_support=4)
    rng, draws = random.Random(3), 20_000
    drawn = Counter(method._extra(rng) for _ in range(draws))
    whole = sum(math.exp(-0.7 * k) for k in range(4))
    for k in range(4):
        assert drawn[k] / draws == pytest.approx(math.exp(-0.7 * k) / whole, abs=0.01)
    assert set(drawn) == {0, 1, 2, 3}
    assert {ICot(**QUIET)._extra(rng) for _ in range(50)} == {0}


def test_answers_with_all_removed_are_direct_and_before_are_written() -> None:
    model = tiny_model("llama")
    question = [EXAMPLES[0].question]
    final = reasoner(ICot(), model).answer(question, max_new_tokens=6)[0]
    direct = reasoner(NoCotSft(), model).answer(question, max_new_tokens=6)[0]
    assert (final.text, final.passes, final.thoughts) == (direct.text, direct.passes, 0)
    middle = reasoner(ICot(stage=4), model).answer(question, max_new_tokens=6)[0]
    written = reasoner(CotSft(), model).answer(question, max_new_tokens=6)[0]
    assert middle.text == written.text


@pytest.mark.parametrize(
    ("config", "started", "epochs", "message"),
    [
        (ModelConfig(base_config={}), False, 50, "start=FOLDER"),
        (ModelConfig(base="gpt2"), True, 5, "all removed after about 5 epochs, but the run has 5"),
    ],
)
def test_runs_that_cannot_work_are_refused(
    config: ModelConfig, started: bool, epochs: float, message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        ICot().check_run(config, started, epochs)


@pytest.mark.parametrize(
    "options",
    [
        {"remove_per_epoch": 0},
        {"extra_support": 0},
        {"stage": -1},
        {"remove_all_when": "beyond"},
        {"extra_from": "end"},
        {"reset_optimizer": "epoch"},
    ],
)
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="must be"):
        ICot(**options)
