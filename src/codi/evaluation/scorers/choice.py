"""The scorers by name, which of them fits a set's answers, and the answers that it must refuse."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal

from codi.data.example import Example
from codi.data.numbers import in_doubt, plain_number
from codi.errors import DataError, UsageError, nearest
from codi.evaluation.scorers.letter import LetterScorer, listed_labels
from codi.evaluation.scorers.mathematics import MathScorer, looks_mathematical
from codi.evaluation.scorers.number import NumberScorer
from codi.evaluation.scorers.published import CoconutScorer, CodiScorer, IcotScorer
from codi.evaluation.scorers.scorer import Scorer
from codi.evaluation.scorers.text import TextScorer, are_truth_words
from codi.evaluation.scorers.verifier import require_math_verify

AUTO = "auto"
"""In place of a scorer's name: the one that fits the answers."""
NEARLY_ALL = 0.9
"""Share of the answers that makes a set one of numbers, or of letters; the odd others are refused."""
LONGEST_TEXT = 160
"""Characters; an answer that is longer is written in words that nobody would choose again."""

SCORERS: dict[str, Scorer] = {
    scorer.name: scorer
    for scorer in (
        NumberScorer(),
        TextScorer(),
        LetterScorer(),
        MathScorer(),
        CodiScorer(),
        CoconutScorer(),
        IcotScorer(),
    )
}

AnswerKind = Literal["number", "letter", "mathematical", "doubtful number", "text", "long text"]


def get_scorer(name: str) -> Scorer:
    """The scorer called `name`.

    Raises:
        UsageError: no scorer has that name (the message names the nearest and lists them all), or it needs a
            library that is not installed.
    """
    if name not in SCORERS:
        raise UsageError(
            f"Unknown scorer '{name}'.{nearest(name, SCORERS)} Scorers: {', '.join(sorted(SCORERS))}; or "
            f"'{AUTO}', which chooses from the answers."
        )
    if name == MathScorer.name:
        require_math_verify()
    return SCORERS[name]


def check_scorer_name(name: str) -> str:
    """`name`, where it is a scorer's or 'auto'. Raises UsageError as `get_scorer` does."""
    return name if name == AUTO else get_scorer(name).name


def answer_kind(answer: str) -> AnswerKind:
    """What a gold answer is, by its looks."""
    answer = answer.strip()
    if plain_number(answer) is not None:
        return "number"
    if len(answer) == 1 and answer.isalpha():
        return "letter"
    mathematical = looks_mathematical(answer)
    if in_doubt(answer) and (not mathematical or plain_number(answer.strip("()")) is not None):
        return "doubtful number"  # (1,000) is no pair; (2,3) is one
    if mathematical:
        return "mathematical"
    return "long text" if len(answer) > LONGEST_TEXT or len(answer.splitlines()) > 1 else "text"


def choose_scorer(examples: Sequence[Example]) -> Scorer:
    """The scorer that fits the gold answers: `number`, `letter`, `math` or `text`.

    A few odd ones among numbers or letters change nothing: `check_gold_answers` refuses them by row. A few
    numbers among names are names.

    Raises:
        DataError: they are of several kinds, or of one that no scorer compares; the message names an example
            of each.
        UsageError: it needs a library that is not installed.
    """
    if examples and all(example.answer.strip() in listed_labels(example.question) for example in examples):
        return get_scorer("letter")
    first: dict[AnswerKind, Example] = {}
    for example in examples:
        first.setdefault(answer_kind(example.answer), example)
    name = _fitting(examples)
    if name is not None:
        return get_scorer(name)
    found = "; ".join(
        f"{'a ' + kind if kind != 'mathematical' else 'mathematical'}: {example.answer[:80]!r} "
        f"(example '{example.id}')"
        for kind, example in first.items()
    )
    raise DataError(
        f"No one scorer fits these answers. Found {found}. Make them one kind (3.5, not 3,5; -5, not (5)), "
        f"or name the scorer (--scorer NAME; in training scorer=NAME): {', '.join(sorted(SCORERS))}. 'text' "
        "compares any answers as they are written, case and full stop aside."
    )


def _fitting(examples: Sequence[Example]) -> str | None:
    """The name of the scorer that the kinds of the answers ask for; None where they ask for several."""
    if are_truth_words(example.answer for example in examples):  # Y and N, T and F are no options
        return "text"
    counts = Counter(answer_kind(example.answer) for example in examples)
    kinds = set(counts)
    if "mathematical" in kinds and kinds <= {"number", "mathematical", "letter", "doubtful number"}:
        return "math"
    if counts["number"] and counts["number"] >= NEARLY_ALL * len(examples):
        return "number"
    capitals = sum(
        "A" <= example.answer.strip() <= "Z" for example in examples if len(example.answer.strip()) == 1
    )
    if capitals and capitals >= NEARLY_ALL * len(examples):
        return "letter"
    names = counts["text"] + counts["letter"]
    few = kinds <= {"text", "letter", "number", "doubtful number"} and 2 * counts["text"] > len(examples)
    return "text" if names and (names == len(examples) or few) else None


def scorer_for(name: str, examples: Sequence[Example]) -> Scorer:
    """The scorer called `name`, or with 'auto' the one that fits, ready for these examples.

    Raises:
        UsageError: an unknown name, or a library that is not installed.
        DataError: a gold answer that it cannot compare.
    """
    scorer = (choose_scorer(examples) if name == AUTO else get_scorer(name)).fitted(examples)
    check_gold_answers(examples, scorer)
    return scorer


def check_gold_answers(examples: Iterable[Example], scorer: Scorer) -> None:
    """Refuse examples whose gold answer `scorer` cannot compare, before any time is spent on answering.

    Raises:
        DataError: naming the first such example and how many there are.
    """
    examples = list(examples)
    unusable = [example for example in examples if scorer.parse_gold(example.answer) is None]
    if unusable:
        first = unusable[0]
        count = f" (and {len(unusable) - 1} more)" if len(unusable) > 1 else ""
        raise DataError(
            f"Scorer '{scorer.name}' needs {scorer.needs} in every gold answer, but example "
            f"'{first.id}'{count} has the answer {first.answer[:80]!r}. Correct it, remove it, or choose "
            f"another scorer: {', '.join(sorted(SCORERS))}.{_advice(examples, scorer)}"
        )


def check_training_answers(examples: Sequence[Example], scorer: Scorer) -> None:
    """Refuse a training set most of whose answers `scorer` cannot compare: nothing learned from it could be
    scored. A few odd answers, as GSM8k-Aug has, are no reason.

    Raises:
        DataError: naming the first such example and how many there are.
    """
    usable = {answer: _could_compare(scorer, answer) for answer in {example.answer for example in examples}}
    unusable = [example for example in examples if not usable[example.answer]]
    if 2 * len(unusable) > len(examples):
        raise DataError(
            f"Scorer '{scorer.name}' needs {scorer.needs} in an answer, but {len(unusable):,} of "
            f"{len(examples):,} training examples have none; the first is '{unusable[0].id}' with "
            f"{unusable[0].answer[:80]!r}. What is trained could never be scored. Choose another scorer "
            f"(scorer=NAME, or scorer={AUTO})."
            f"{_advice(examples, scorer)}"
        )


def _could_compare(scorer: Scorer, answer: str) -> bool:
    if isinstance(scorer, MathScorer):  # by its looks: math-verify takes 10 ms for each
        return answer_kind(answer) not in ("text", "long text")
    return scorer.parse_gold(answer) is not None


def _advice(examples: Sequence[Example], scorer: Scorer) -> str:
    try:
        fits = choose_scorer(examples)
    except (DataError, UsageError):  # none does, or its library is missing: nothing to advise
        return ""
    return f" Scorer '{fits.name}' fits these answers." if fits.name != scorer.name else ""
