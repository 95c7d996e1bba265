"""Table 3's matching rule, the causal tests and what they refuse."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from answered_problems import ending_in
from codi.data.example import Example
from codi.data.sources import load_examples
from codi.errors import DataError, UsageError
from codi.evaluation.scorers import get_scorer
from codi.generation.latent_reasoner import LatentReasoner
from codi.interpretability.intermediate_results import intermediate_results, matches, table3
from codi.interpretability.interventions import (
    REPLACEMENTS,
    default_numbers,
    intervention_table,
    replacement,
)
from codi.interpretability.patching import follow_on, patch_tables
from codi.methods.codi import Codi
from codi.methods.no_cot_sft import NoCotSft
from tiny_models import EXAMPLES, reasoner, tiny_model


def mind() -> LatentReasoner:
    return reasoner(Codi(latents=3), tiny_model("llama"))


def own_answers(thinker: LatentReasoner, count: int) -> list[Example]:
    """Generated problems whose gold answer is what this (untrained) model says: so that some are right."""
    examples, _ = load_examples(f"word-problems?count={count}", split="test")
    answers = thinker.answer([example.question for example in examples], max_new_tokens=32)
    right = []
    for example, answer in zip(examples, answers, strict=True):
        number = (get_scorer("codi").parse(answer.text) or "").rstrip(".")  # the published rule reads "14."
        if number.isdecimal():
            right.append(ending_in(example, number))
    return right


@pytest.mark.parametrize(
    ("results", "decoded", "expected"),
    [
        (["8"], [["3", "8"], ["x", "y"]], True),
        (["8"], [["3", "80"], ["x", "y"]], False),
        (["8", "16"], [["16", "3"], ["8", "2"]], True),  # any thought, any order
        (["8", "8"], [["8", "3"]], True),
        (["8", "16"], [["8", "3"], ["6", "1"]], False),
        (["1000"], [["1,000", "a"]], True),
        (["0.5"], [[".5", "a"]], True),
        (["8"], [], False),
    ],
)
def test_matching_rule(results: list[str], decoded: list[list[str]], expected: bool) -> None:
    assert matches(results, decoded) is expected


def test_intermediate_results_leave_the_answer_out() -> None:
    assert intermediate_results(EXAMPLES[0]) == ["8", "16"]
    assert intermediate_results(EXAMPLES[1]) == []
    assert intermediate_results(Example("x", "Q?", ("She adds five.", "<<1+1=2>>"), "2")) == []


def test_table3_counts_right_answers_by_number_of_results() -> None:
    thinker = mind()
    examples = own_answers(thinker, 60)
    table = table3(thinker, examples, batch_size=16)
    assert table.correct == table.asked == len(examples)
    by_results = {row.results: row for row in table.rows}
    for number, row in by_results.items():
        assert row.n == sum(len(example.steps) - 1 == number for example in examples)
        assert row.ci95[0] <= row.share <= row.ci95[1]
        assert row.matched <= row.n
        assert row.top_1 <= row.share
    # Every token of the vocabulary looked at: everything matches, and by chance too.
    everything = table3(thinker, examples[:12], top_k=thinker.model.bot_id)
    assert all(row.share == 1 for row in everything.rows)
    # A problem alone in its row has no other to be met by chance.
    assert [row.by_chance for row in everything.rows] == [1 if row.n > 1 else None for row in everything.rows]
    alone = table3(thinker, [next(e for e in examples if len(e.steps) == 3)], top_k=thinker.model.bot_id)
    assert [(row.n, row.share, row.by_chance) for row in alone.rows] == [(1, 1.0, None)]


FORMS = {
    "annotation in a sentence": lambda left, result: (
        f"That makes {left} = <<{left}={result}>>{result} of them."
    ),
    "the sentence itself": lambda left, result: f"Then there are {left} = {result} of them.".replace(
        "*", "×"
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_table3_and_patching_are_the_same_for_gsm8ks_own_steps(form: str) -> None:
    thinker = mind()
    examples = own_answers(thinker, 40)
    written = [
        replace(example, steps=tuple(FORMS[form](*step.strip("<>").split("=")) for step in example.steps))
        for example in examples
    ]
    bare = [replace(written[0], id="bare", steps=()), replace(written[0], id="words", steps=("No number.",))]
    expected, found = table3(thinker, examples), table3(thinker, [*written, *bare])
    assert found.rows == expected.rows
    assert found.rows
    one_step = expected.left_out
    assert found.left_out == {**one_step, "no steps": 1, "no step says `... = number`": 1}
    assert patch_tables(thinker, [*written, *bare], pairs=1) == patch_tables(thinker, examples, pairs=1)


def test_a_set_without_a_usable_row_is_refused_at_once() -> None:
    rows = [Example("x", "How many?", ("( 76.0 - 25.0 )",), "51"), Example("y", "And?", ("<<1+1=2>>",), "2")]
    with pytest.raises(DataError, match=r"none of these 2 problems has one: 1 no step .* 1 no inter"):
        table3(mind(), rows)


def test_table3_needs_steps_and_thoughts() -> None:
    with pytest.raises(DataError, match="none of these problems has steps"):
        table3(mind(), [Example("x", "How many?", (), "3")])
    with pytest.raises(UsageError, match="no continuous thoughts"):
        table3(reasoner(NoCotSft(), tiny_model()), EXAMPLES)


def test_interventions() -> None:
    thinker = mind()
    examples = own_answers(thinker, 40)
    table = intervention_table(thinker, examples, batch_size=16)
    rows = {row.name: row for row in table.rows}
    assert table.accuracy == 1.0
    same = rows["same"]
    assert (same.accuracy, same.difference, same.changed, same.p_value) == (1.0, 0.0, 0.0, 1.0)
    assert list(rows) == [*REPLACEMENTS, "zero z1", "zero z2", "zero z3", "0 latents", "1 latents",
                          "2 latents", "4 latents", "6 latents"]  # fmt: skip
    assert rows["zero"].changed > 0
    for row in table.rows:
        assert row.difference == pytest.approx(row.accuracy - table.accuracy)
        assert row.difference_ci95[0] <= row.difference <= row.difference_ci95[1]
    again = intervention_table(thinker, examples, batch_size=7)
    assert again == table  # the batch size changes nothing


def test_other_and_permuted_move_every_latent() -> None:
    own = torch.arange(24.0).view(4, 3, 2)
    thinker = mind()
    other, permuted = replacement(thinker, own, "other"), replacement(thinker, own, "permuted")
    assert not (other == own).all(2).any()
    assert not (permuted == own).all(2).any()
    assert torch.equal(permuted.sort(1).values, own)
    noise = replacement(thinker, own.expand(4, 3, 2).repeat(500, 1, 1), "noise", seed=1)
    torch.testing.assert_close(noise.mean(0), own.mean(0), atol=0.8, rtol=0)
    assert torch.equal(noise, replacement(thinker, own.repeat(500, 1, 1), "noise", seed=1))


def test_numbers_of_latents() -> None:
    assert default_numbers(6) == [0, 3, 5, 7, 12]
    assert default_numbers(1) == [0, 2]


def test_unknown_intervention() -> None:
    with pytest.raises(UsageError, match=r"Did you mean 'zero'\?"):
        intervention_table(mind(), EXAMPLES, names=["zeros"])
    with pytest.raises(DataError, match="2 or more"):
        intervention_table(mind(), EXAMPLES[:1])


@pytest.mark.parametrize(
    ("steps", "step", "value", "expected"),
    [
        (("<<7+3=10>>", "<<10*2=20>>", "<<20-5=15>>"), 1, "6", "7"),
        (("<<7+3=10>>", "<<10*2=20>>", "<<20-5=15>>"), 2, "9", "4"),
        (("<<4+1=5>>", "<<12-5=7>>"), 1, "3", "9"),  # a complement: the result is taken away
        (("<<4+4=8>>", "<<8/2=4>>"), 1, "5", None),  # not whole
        (("<<4+4=8>>", "<<8-5=3>>"), 1, "2", None),  # below 1
        (("<<4+4=8>>", "<<3+3=6>>"), 1, "2", None),  # the next step does not use it
        (("<<4+4=8>>", "words"), 1, "2", None),
        (("<<4+4=8>>",), 1, "2", "2"),
    ],
)
def test_arithmetic_follows_on(steps: tuple[str, ...], step: int, value: str, expected: str | None) -> None:
    answer = steps[-1].strip("<>").rpartition("=")[2]
    assert follow_on(Example("x", "Q?", steps, answer), step, value) == expected


@pytest.mark.parametrize("what", ["latent", "keys-values", "latents-up-to"])
def test_patch_tables(what: str) -> None:
    thinker = mind()
    examples = own_answers(thinker, 70)
    tables = patch_tables(thinker, examples, what=what, pairs=5, batch_size=5)
    assert tables
    for table in tables:
        assert {cell.step for cell in table.cells} <= set(range(1, table.steps))
        assert {cell.latent for cell in table.cells} == {1, 2, 3}
        for cell in table.cells:
            assert 0 < cell.n <= 5
            assert cell.followed + cell.stayed <= 1 + 1e-9  # never both: the expected answer is another
        assert table.best().followed == max(cell.followed for cell in table.cells)
    assert patch_tables(thinker, examples, what=what, pairs=5, batch_size=64) == tables


def test_patching_refuses() -> None:
    with pytest.raises(UsageError, match="cannot be patched"):
        patch_tables(mind(), EXAMPLES, what="weights")
    with pytest.raises(DataError, match="No two problems could be paired"):
        patch_tables(mind(), EXAMPLES)
