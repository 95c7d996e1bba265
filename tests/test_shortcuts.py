"""Do the thoughts do anything? What stands in the way, what is left alone, and what is said about it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from codi.data.example import Example
from codi.errors import DataError, UsageError
from codi.evaluation.scorers import get_scorer
from codi.generation.latent_reasoner import LatentReasoner
from codi.interpretability import disturbed_answers
from codi.interpretability.after_thinking import (
    AfterThinking,
    HideQuestion,
    HideThoughts,
    SwapQuestion,
    with_other_numbers,
)
from codi.interpretability.benchmark_report import benchmark_report
from codi.interpretability.disturbed_answers import Asker, Intervention
from codi.interpretability.interventions import SAME_NORM_NOISE, intervention_table, replacement
from codi.interpretability.shortcut_table import (
    CHANGED,
    DIRECT,
    FORCED,
    NO_QUESTION,
    NO_THOUGHTS,
    OTHER,
    PERMUTED,
    REPLACED,
    Followed,
    ShortcutRow,
    verdict,
)
from codi.interpretability.shortcuts import NO_OTHER_NUMBERS, shortcut_table
from codi.interpretability.thinking import question_tokens, think_through
from codi.methods.coconut import Coconut
from codi.methods.codi import Codi
from codi.methods.cot_sft import CotSft
from codi.methods.no_cot_sft import NoCotSft
from codi.methods.pause_tokens import PauseTokens
from tiny_models import EXAMPLES, reasoner, tiny_model

LONGEST = 6
AROUND = [CHANGED, NO_QUESTION, NO_THOUGHTS, FORCED, DIRECT]
QUESTIONS = [f"Mia has {3 + n} apples. She finds {12 + 5 * n} more." for n in range(6)]


@pytest.fixture(autouse=True)
def _short_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """An untrained model never stops by itself."""
    monkeypatch.setattr(disturbed_answers, "LONGEST_ANSWER", LONGEST)
    monkeypatch.setattr(disturbed_answers, "LONGEST_RATIONALE", LONGEST)


def mind(method: Any = None, family: str = "llama", **changes: Any) -> LatentReasoner:
    method = method or Codi(latents=3)
    return reasoner(method, tiny_model(family, projection=isinstance(method, Codi), **changes))


def rows(thinker: LatentReasoner, questions: list[str] = QUESTIONS) -> list[Example]:
    """Questions whose gold answer is the model's own, so that all are right undisturbed."""
    scorer = get_scorer("codi")
    answers = thinker.answer(questions, max_new_tokens=LONGEST)
    return [
        Example(f"q{i}", question, (), scorer.parse(answer.text) or "0")
        for i, (question, answer) in enumerate(zip(questions, answers, strict=True))
    ]


@pytest.mark.parametrize("method", [Codi(latents=3), Coconut(max_stage=2)])
def test_every_row_for_a_model_that_thinks(method: Any) -> None:
    thinker = mind(method)
    examples = rows(thinker)
    table = shortcut_table(thinker, examples, batch_size=5)
    thoughts = method.thought_positions() - 2
    numbers = [f"{k} latents" for k in sorted({0, thoughts // 2, thoughts - 1, thoughts + 1, 2 * thoughts})]
    assert [row.name for row in table.rows] == [*dict.fromkeys(numbers), *REPLACED.values(), *AROUND]
    assert table.n == len(examples)
    assert table.latents == thoughts
    for row in table.rows:
        assert row.reason is None
        assert row.found is not None
        assert row.found.difference == pytest.approx(row.found.accuracy - table.accuracy)
        assert row.found.difference_ci95[0] <= row.found.difference <= row.found.difference_ci95[1]
        assert (row.followed is not None) <= (row.name in (OTHER, CHANGED))
    if isinstance(method, Codi):  # the batch size changes nothing
        assert shortcut_table(thinker, examples, batch_size=64) == table


def test_parts_that_ask_the_same_share_it() -> None:
    thinker = mind()
    examples = rows(thinker)
    both = benchmark_report(thinker, "x", examples, parts=("interventions", "shortcuts"))
    assert both.interventions == intervention_table(thinker, examples)
    assert both.shortcuts is not None
    ours = {row.name: row.found for row in both.shortcuts.rows if row.found is not None}
    for theirs in both.interventions.rows:
        name = REPLACED.get(theirs.name, theirs.name)
        if name in ours:
            assert replace(ours[name], name="") == replace(theirs, name="")


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2"])
def test_edits_change_what_they_say_and_nothing_else(family: str) -> None:
    thinker = mind(family=family)
    questions = [QUESTIONS[0], "Tom has 7 stamps. How many?"]  # one is padded
    tokens = question_tokens(thinker, questions)
    own = think_through(thinker, questions)
    same = AfterThinking(3, SwapQuestion(thinker.model.read(tokens).context))
    again = think_through(thinker, questions, watcher=same).start.context
    torch.testing.assert_close(again.last_hidden, own.start.context.last_hidden, atol=1e-4, rtol=1e-4)
    for edit in (HideQuestion(tokens), HideThoughts(tokens)):
        edited = think_through(thinker, questions, watcher=AfterThinking(3, edit))
        assert torch.equal(edited.thoughts, own.thoughts)  # the thinking was over
        assert not torch.allclose(edited.start.context.last_hidden, own.start.context.last_hidden)
    # What is hidden cannot be told: another question's keys there give the same.
    other = question_tokens(thinker, [with_other_numbers(thinker.text, q) or q for q in questions])
    swap = SwapQuestion(thinker.model.read(other).context)

    class Both(AfterThinking):
        def fed(self, number: int, context: Any) -> Any:
            return HideQuestion(tokens)(swap(context)) if number == 2 else context

    hidden = think_through(thinker, questions, watcher=AfterThinking(3, HideQuestion(tokens)))
    both = think_through(thinker, questions, watcher=Both(3, swap))
    torch.testing.assert_close(
        both.start.context.last_hidden, hidden.start.context.last_hidden, atol=1e-4, rtol=1e-4
    )


def test_hidden_thoughts_leave_the_question_alone() -> None:
    """With the thoughts hidden the answer is read from the question, whatever was fed."""
    thinker = mind()
    tokens = question_tokens(thinker, QUESTIONS[:2])
    own = think_through(thinker, QUESTIONS[:2])
    edit = AfterThinking(3, HideThoughts(tokens))

    class Noise(AfterThinking):
        def feed(self, number: int, context: Any, latent: torch.Tensor) -> torch.Tensor:
            return torch.randn_like(latent)

    plain = think_through(thinker, QUESTIONS[:2], watcher=edit).start.context
    noisy = think_through(thinker, QUESTIONS[:2], watcher=Noise(3, edit.edit)).start.context
    torch.testing.assert_close(plain.last_hidden, noisy.last_hidden, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(plain.last_hidden, own.start.context.last_hidden)


def test_numbers_changed_in_as_many_tokens() -> None:
    text = mind().text
    for question in QUESTIONS:
        changed = with_other_numbers(text, question)
        assert changed is not None
        assert changed != question
        assert len(text.question(changed)) == len(text.question(question))
        lost = [text.question(q).count(text.unknown_id or 0) for q in (question, changed)]
        assert lost[1] <= lost[0]
        assert "".join(c for c in changed if not c.isdigit()) == "".join(
            c for c in question if not c.isdigit()
        )
        assert with_other_numbers(text, question) == changed
    assert with_other_numbers(text, "She has 7, then 7 more.", seed=1) is not None
    twice = with_other_numbers(text, "She has 7 , then 7 more .") or ""
    digits = [word for word in twice.split() if word.isdigit()]
    assert digits[0] == digits[1] != "7"
    assert with_other_numbers(text, "How many apples?") is None


def test_questions_that_cannot_be_in_every_row_are_in_none() -> None:
    thinker = mind()
    examples = rows(thinker, [*QUESTIONS, "How many apples does she have?"])
    table = shortcut_table(thinker, examples)
    assert (table.n, table.left_out) == (6, {NO_OTHER_NUMBERS: 1})
    wordless = rows(thinker, ["How many apples?", "How many stamps?", "How many pens?", QUESTIONS[0]])
    table = shortcut_table(thinker, wordless)
    changed = table.row(CHANGED)
    assert (table.n, table.left_out) == (4, {})
    assert changed is not None
    assert "too few questions have a number" in (changed.reason or "")


def test_pause_tokens() -> None:
    thinker = mind(PauseTokens(pauses=4))
    table = shortcut_table(thinker, rows(thinker), batch_size=5)
    for row in table.rows:
        if row.name in REPLACED.values():
            assert row.reason == "its pauses are one constant, the same for every question"
        else:
            assert row.found is not None, row.name
    assert [row.name for row in table.rows][:5] == [f"{k} pauses" for k in (0, 2, 3, 5, 8)]
    # Nothing edited, the two passes give what the method's one pass gives.
    asker = Asker(thinker, rows(thinker), get_scorer("codi"))
    assert asker.undisturbed() == asker.ask("again", lambda batch: asker.start(batch))


def test_models_without_thoughts() -> None:
    direct = mind(NoCotSft())
    table = shortcut_table(direct, rows(direct))
    assert all(row.found is None for row in table.rows)
    assert {row.reason for row in table.rows} == {
        "a no-cot-sft model puts nothing between question and answer", "that is how it answers",
    }  # fmt: skip
    assert "no thoughts to take away" in table.verdict[0]
    writes = mind(CotSft())
    table = shortcut_table(writes, rows(writes, QUESTIONS[:4]))
    assert [row.name for row in table.rows if row.found is not None] == [DIRECT]
    with pytest.raises(UsageError, match="a no-cot-sft model has none"):
        shortcut_table(direct, EXAMPLES, latents=3)


def test_one_thought_none_and_another_number() -> None:
    thinker = mind(Codi(latents=1))
    table = shortcut_table(thinker, rows(thinker))
    permuted = table.row(PERMUTED)
    assert permuted is not None
    assert permuted.reason == "there is one thought"
    none = mind(Codi(latents=0))
    table = shortcut_table(none, rows(none))
    assert {row.reason for row in table.rows if row.name in REPLACED.values()} == {"it thinks 0 latents"}
    more = table.row("1 latents")
    assert more is not None
    assert more.found is not None
    four = shortcut_table(mind(), rows(mind()), latents=4)
    assert four.latents == 4
    assert four.row("3 latents") is not None
    assert four.row("4 latents") is None


def test_a_base_that_forgets_cannot_exchange_questions() -> None:
    thinker = mind(family="mistral")
    changed = shortcut_table(thinker, rows(thinker)).row(CHANGED)
    assert changed is not None
    assert "sliding window" in (changed.reason or "")


def test_noise_of_the_same_norm() -> None:
    own = torch.randn(5, 3, 8)
    noise = replacement(mind(), own, SAME_NORM_NOISE, seed=2)
    torch.testing.assert_close(noise.norm(dim=-1), own.norm(dim=-1))
    assert torch.cosine_similarity(noise, own, dim=-1).abs().max() < 0.99


def test_refusals() -> None:
    with pytest.raises(DataError, match="2 or more"):
        shortcut_table(mind(), rows(mind())[:1])
    with pytest.raises(DataError, match="needs one plain number"):
        shortcut_table(mind(), [*EXAMPLES, Example("x", "Who?", (), "plenty")])


# --- what is said -------------------------------------------------------------------------------------------


def row(
    name: str,
    difference: float,
    low: float,
    high: float,
    followed: Followed | None = None,
    *,
    p: float = 0.01,
    changed: float | None = None,
) -> ShortcutRow:
    others = abs(difference) if changed is None else changed
    return ShortcutRow(name, Intervention(name, 0.5, (0, 1), difference, (low, high), p, others), followed)


def test_sentences_claim_what_the_interval_shows() -> None:
    said = verdict([row(OTHER, -0.61, -0.65, -0.57), row(NO_THOUGHTS, 0.0, 0.0, 0.0)], 450, 500)
    assert said[0] == (
        "Replacing the thoughts by another problem's costs 61.0 points [57.0, 65.0]: "
        "the answers depend on what the thoughts hold."
    )
    (nothing,) = [s for s in said if s.startswith("Hiding the thoughts")]
    assert nothing.endswith(
        "changes the accuracy by +0.0 points [+0.0, +0.0]: no loss was found over 500 questions; one of "
        "up to 0.8 points is not excluded. No answer became another."
    )
    said = verdict([row(OTHER, -0.004, -0.02, 0.012)], 450, 500)
    assert "no loss was found over 500 questions; one of up to 2.0 points is not excluded" in said[0]
    assert "depend" not in said[0]
    said = verdict([row(OTHER, 0.04, 0.02, 0.06)], 450, 500)
    assert "gains +4.0 points [+2.0, +6.0]" in said[0]


def test_a_loss_that_was_not_found_is_no_proof_that_the_rest_suffices() -> None:
    """A model at 13 %: hiding either leaves the accuracy where it was, and changes most answers."""
    said = verdict(
        [
            row(OTHER, 0.01, -0.06, 0.08, p=0.9, changed=0.6),
            row(CHANGED, 0.0, -0.05, 0.05, Followed(90, 0.0, (0.0, 0.04), 0.968, (0.91, 0.99)), p=1),
            row(NO_QUESTION, 0.02, -0.07, 0.11, p=0.8, changed=0.77),
            row(NO_THOUGHTS, 0.0, -0.01, 0.02, p=1, changed=0.03),
        ],
        39,
        300,
    )
    assert not any("suffice" in sentence for sentence in said)
    (question,) = [sentence for sentence in said if sentence.startswith("Hiding the question")]
    assert "no loss was found over 300 questions; one of up to 7.0 points is not excluded." in question
    assert question.endswith("77.0 % of all answers became others.")


def test_answers_that_were_only_gained_are_verdicts_that_moved() -> None:
    """[0, high] is the interval of a few answers gained and none lost."""
    said = verdict([row(OTHER, 0.01, 0.0, 0.03, p=1)], 50, 100)[0]
    assert "+1.0 points [+0.0, +3.0]: no loss was found over 100 questions" in said
    assert "one of up to 3.7 points is not excluded" in said
    assert "1.0 % of all answers became others." in said


@pytest.mark.parametrize(("difference", "low", "high"), [(-0.04, -0.08, -0.01), (0.04, 0.01, 0.08)])
def test_a_loss_or_gain_that_the_exact_test_doubts_is_not_decided(
    difference: float, low: float, high: float
) -> None:
    """4 answers of 100 turned, all one way: the bootstrap's interval leaves 0 out, McNemar's p is 0.125."""
    said = verdict([row(OTHER, difference, low, high, p=0.125)], 50, 100)[0]
    assert "McNemar's exact p 0.12): not decided" in said
    assert "depend" not in said
    assert "explanation" not in said


def test_without_thoughts_what_is_left_out_is_named() -> None:
    found = verdict([row(FORCED, 0.0, 0.0, 0.0), row(DIRECT, 0.0, 0.0, 0.0)], 40, 100)
    assert found[0] == "There are no thoughts to take away."
    assert found[1].startswith("Asked for the answer without <bot> and <eot>")
    assert "without its written rationale" in verdict([row(DIRECT, -0.1, -0.2, 0.0)], 40, 100)[1]


@pytest.mark.parametrize(
    ("thoughts", "question", "meaning"),
    [
        ((0.9, (0.85, 0.95)), (0.02, (0.0, 0.05)), "most answers are those of what was thought"),
        ((0.02, (0.0, 0.05)), (0.9, (0.85, 0.95)), "most answers are those of the question that can be seen"),
        ((0.42, (0.35, 0.49)), (0.3, (0.2, 0.4)), "neither of the two alone decides most answers"),
        (
            (0.52, (0.45, 0.6)), (0.3, (0.2, 0.4)),
            "whether one of the two alone decides most answers is not settled",
        ),
    ],
)  # fmt: skip
def test_whose_answer_was_given(thoughts: Any, question: Any, meaning: str) -> None:
    followed = Followed(100, *thoughts, *question)
    said = verdict([row(OTHER, -0.5, -0.6, -0.4), row(CHANGED, -0.4, -0.5, -0.3, followed)], 90, 100)
    assert any(sentence.endswith(f": {meaning}.") for sentence in said)


def test_too_few_right_answers_say_nothing() -> None:
    few = [row(OTHER, -0.01, -0.02, 0.0, changed=0.8), row(NO_QUESTION, -0.01, -0.02, -0.005, changed=0.6)]
    for right in (3, 29):
        first, others = verdict(few, right, 500)
        assert f"Only {right} of 500" in first
        assert others == (
            "Answers that became others: 80.0 % (another problem's thoughts), 60.0 % (question hidden)."
        )
    assert "also reads the question" in verdict(few, 30, 500)[1]
