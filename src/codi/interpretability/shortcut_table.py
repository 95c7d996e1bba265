"""The table of shortcuts: its rows, and what they say in plain sentences.

A sentence names a figure with its interval and claims no more than the interval and its n carry:

    loss       the interval lies below 0 and McNemar's exact test agrees: what is disturbed matters
    too few    the interval lies off 0, but the test finds too few answers that turned: not decided
    none       the interval holds 0: no loss was found, and how large a one could have been missed

That no loss was found never says that the rest suffices: answers can become others, all wrong or as often
right as before, and how many did is said beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from codi.evaluation.statistics import accuracy_interval
from codi.interpretability.disturbed_answers import Intervention
from codi.interpretability.interventions import SAME_NORM_NOISE
from codi.interpretability.usable_rows import Reasons

LEAST_RIGHT = 30
"""Right answers below which nothing is said of a fall of the accuracy. The least that the exact test tells
from luck is 6 answers lost and none gained; that should be a small part of those there are to lose."""
LUCK = 0.05
"""McNemar's p from which on answers that turned may have turned by luck."""
OTHER, PERMUTED = "another problem's thoughts", "thoughts in another order"
CHANGED, NO_QUESTION, NO_THOUGHTS = "numbers changed afterwards", "question hidden", "thoughts hidden"
FORCED, DIRECT = "forced after <bot>", "asked directly"
REPLACED = {
    "zero": "zeros",
    "mean": "the mean thought",
    "pause": "<bot>'s input",
    "noise": "noise",
    SAME_NORM_NOISE: SAME_NORM_NOISE,
    "other": OTHER,
    "permuted": PERMUTED,
}
"""What is fed in place of all thoughts: by the name `replacement` knows, how the table calls it."""


@dataclass(frozen=True)
class Followed:
    """Whose answer was given, where thoughts and visible question are of two problems.

    n: questions for which the model's own answers to the two differ; thoughts, question: shares of them whose
    answer was that of the problem thought about, and of the problem that can be seen, with Wilson intervals.
    """

    n: int
    thoughts: float
    thoughts_ci95: tuple[float, float]
    question: float
    question_ci95: tuple[float, float]


@dataclass(frozen=True)
class ShortcutRow:
    """One row. found: None where it does not apply to the model, for the `reason`."""

    name: str
    found: Intervention | None
    followed: Followed | None = None
    reason: str | None = None


@dataclass(frozen=True)
class ShortcutTable:
    """All rows, over the same n questions. method: the model's; latents: thought undisturbed.

    accuracy: undisturbed, 0..1, with its Wilson interval; left_out: questions that could not be in every
    row, by reason; verdict: what the figures say, in sentences.
    """

    method: str
    latents: int
    n: int
    correct: int
    accuracy: float
    ci95: tuple[float, float]
    rows: list[ShortcutRow]
    left_out: Reasons
    verdict: list[str]

    def row(self, name: str) -> ShortcutRow | None:
        """The row of that name."""
        return next((row for row in self.rows if row.name == name), None)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def verdict(rows: Sequence[ShortcutRow], right: int, n: int) -> list[str]:
    """What the rows say, sentence by sentence. right: of the n undisturbed answers."""
    measured = {row.name: row for row in rows if row.found is not None}
    if not {OTHER, NO_THOUGHTS} & measured.keys():
        return ["There are no thoughts to take away.", *_direct(measured, right, n)]
    if right < LEAST_RIGHT:
        return [
            f"Only {right} of {n:,} questions are answered correctly as it is, too few to see an accuracy "
            "fall: only whose answers were given, and how many became others, is said here.",
            *_became_others(measured),
            *_changed_afterwards(measured),
        ]
    said = [
        *_other(measured, n),
        *_without(measured, right, n),
        *_changed_afterwards(measured),
        *_hidden(measured, n),
        *_order(measured, n),
    ]
    return [
        *said,
        "Part of a fall may be that the model never saw such input in training. Each interval misses the "
        f"truth one time in twenty, and there are {len(measured)} of them.",
    ]


def _other(measured: dict[str, ShortcutRow], n: int) -> list[str]:
    row = measured.get(OTHER)
    if row is None or row.found is None:
        return []
    sentence = "Replacing the thoughts by another problem's " + _effect(
        row.found, n, "the answers depend on what the thoughts hold"
    )
    if row.followed is not None:
        sentence += (
            f" Where the two problems' own answers differ ({row.followed.n:,} questions), "
            f"{_share(row.followed.thoughts, row.followed.thoughts_ci95)} of the answers became the other "
            "problem's."
        )
    return [sentence]


def _without(measured: dict[str, ShortcutRow], right: int, n: int) -> list[str]:
    for name in ("0 latents", "0 pauses"):
        row = measured.get(name)
        if row is not None and row.found is not None:
            return [
                f"With {name} {_share(row.found.accuracy, row.found.ci95)} are right instead of "
                f"{100 * right / n:.1f} %. That is this model without what it was trained with, not a model "
                "trained without."
            ]
    return []


def _became_others(measured: dict[str, ShortcutRow]) -> list[str]:
    names = [name for name in (OTHER, NO_QUESTION, NO_THOUGHTS) if name in measured]
    shares = ((name, found.changed) for name in names if (found := measured[name].found) is not None)
    told = ", ".join(f"{100 * changed:.1f} % ({name})" for name, changed in shares)
    return [f"Answers that became others: {told}."]


def _changed_afterwards(measured: dict[str, ShortcutRow]) -> list[str]:
    row = measured.get(CHANGED)
    if row is None or row.followed is None:
        return []
    found = row.followed
    if found.thoughts_ci95[0] > 0.5:
        meaning = "most answers are those of what was thought"
    elif found.question_ci95[0] > 0.5:
        meaning = "most answers are those of the question that can be seen"
    elif max(found.thoughts_ci95[1], found.question_ci95[1]) < 0.5:
        meaning = "neither of the two alone decides most answers"
    else:
        meaning = "whether one of the two alone decides most answers is not settled"
    return [
        f"With the question's numbers changed once the thinking is over, "
        f"{_share(found.thoughts, found.thoughts_ci95)} of the answers stay with what was thought and "
        f"{_share(found.question, found.question_ci95)} follow the changed question ({found.n:,} questions "
        f"where the two differ): {meaning}."
    ]


def _hidden(measured: dict[str, ShortcutRow], n: int) -> list[str]:
    said = []
    for name, subject, matters in (
        (NO_QUESTION, "the question", "the answer also reads the question itself"),
        (NO_THOUGHTS, "the thoughts", "the answer reads what was thought"),
    ):
        row = measured.get(name)
        if row is not None and row.found is not None:
            effect = _effect(row.found, n, matters)
            said.append(f"Hiding {subject} from the answer once the thinking is over {effect}")
    return said


def _order(measured: dict[str, ShortcutRow], n: int) -> list[str]:
    row = measured.get(PERMUTED)
    if row is None or row.found is None:
        return []
    return ["The same thoughts in another order " + _effect(row.found, n, "their order matters", plural=True)]


def _direct(measured: dict[str, ShortcutRow], right: int, n: int) -> list[str]:
    row = measured.get(DIRECT)
    if row is None or row.found is None:
        return []
    what = "without <bot> and <eot>" if FORCED in measured else "without its written rationale"
    return [
        f"Asked for the answer {what}, {_share(row.found.accuracy, row.found.ci95)} "
        f"are right instead of {100 * right / n:.1f} %."
    ]


def _effect(found: Intervention, n: int, matters: str, plural: bool = False) -> str:
    """`costs 61.0 points [57.0, 65.0]: ...`; n: questions; matters: what a loss says."""
    ending = "" if plural else "s"
    by, (low, high) = 100 * found.difference, (100 * bound for bound in found.difference_ci95)
    loss = f"cost{ending} {-by:.1f} points [{-high:.1f}, {-low:.1f}]"
    gain = f"gain{ending} {by:+.1f} points [{low:+.1f}, {high:+.1f}]"
    if (high < 0 or low > 0) and found.p_value >= LUCK:
        return (
            f"{loss if high < 0 else gain}, but so few of the {n:,} answers turned that it may be luck "
            f"(McNemar's exact p {found.p_value:.2g}): not decided. {_others(found)}"
        )
    if high < 0:
        return f"{loss}: {matters}."
    if low > 0:
        return f"{gain}: it does better so, which asks for an explanation."
    missed = max(-low, 100 * accuracy_interval(0, n)[1])  # a loss never seen is no loss of 0
    return (
        f"change{ending} the accuracy by {by:+.1f} points [{low:+.1f}, {high:+.1f}]: no loss was found over "
        f"{n:,} questions; one of up to {missed:.1f} points is not excluded. {_others(found)}"
    )


def _others(found: Intervention) -> str:
    """How many answers became others, right or wrong."""
    if found.changed == 0:
        return "No answer became another."
    return f"{100 * found.changed:.1f} % of all answers became others."


def _share(share: float, ci95: tuple[float, float]) -> str:
    return f"{100 * share:.1f} % [{100 * ci95[0]:.1f}, {100 * ci95[1]:.1f}]"
