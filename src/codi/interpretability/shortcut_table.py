"""The table of shortcuts: its rows, and what they say in plain sentences.

A sentence names a figure with its interval and claims no more than the interval shows: where it holds 0,
nothing was found, and how large a thing could have been missed is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from codi.interpretability.disturbed_answers import Intervention
from codi.interpretability.interventions import SAME_NORM_NOISE
from codi.interpretability.usable_rows import Reasons

LEAST_RIGHT = 10
"""Right answers below which no fall of the accuracy can be told from luck."""
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
        return [
            "There are no thoughts to take away: nothing stands between question and answer.",
            *_direct(measured, right, n),
        ]
    if right < LEAST_RIGHT:
        return [
            f"Only {right} of {n:,} questions are answered correctly as it is, too few to see an accuracy "
            "fall: what changes an answer is in the last column, and nothing more is said here."
        ]
    said = [
        *_other(measured),
        *_without(measured, right, n),
        *_changed_afterwards(measured),
        *_hidden(measured),
        *_order(measured),
    ]
    return [
        *said,
        "Part of a fall may be that the model never saw such input in training. Each interval misses the "
        f"truth one time in twenty, and there are {len(measured)} of them.",
    ]


def _other(measured: dict[str, ShortcutRow]) -> list[str]:
    row = measured.get(OTHER)
    if row is None or row.found is None:
        return []
    sentence = "Replacing the thoughts by another problem's " + _effect(
        row.found, "the answers depend on what the thoughts hold", "what they hold was not found to matter"
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


def _changed_afterwards(measured: dict[str, ShortcutRow]) -> list[str]:
    row = measured.get(CHANGED)
    if row is None or row.followed is None:
        return []
    found = row.followed
    if found.thoughts_ci95[0] > 0.5:
        meaning = "mostly read from the thoughts"
    elif found.question_ci95[0] > 0.5:
        meaning = "mostly read from the question, whatever was thought"
    else:
        meaning = "not decided by one of the two alone"
    return [
        f"With the question's numbers changed once the thinking is over, "
        f"{_share(found.thoughts, found.thoughts_ci95)} of the answers stay with what was thought and "
        f"{_share(found.question, found.question_ci95)} follow the changed question ({found.n:,} questions "
        f"where the two differ): the answer is {meaning}."
    ]


def _hidden(measured: dict[str, ShortcutRow]) -> list[str]:
    said = []
    for name, subject, matters, does_not in (
        (NO_QUESTION, "the question", "the answer also reads the question itself", "the thoughts suffice"),
        (NO_THOUGHTS, "the thoughts", "the answer reads what was thought", "the question suffices"),
    ):
        row = measured.get(name)
        if row is not None and row.found is not None:
            effect = _effect(row.found, matters, f"as far as was found, {does_not}")
            said.append(f"Hiding {subject} from the answer once the thinking is over {effect}")
    return said


def _order(measured: dict[str, ShortcutRow]) -> list[str]:
    row = measured.get(PERMUTED)
    if row is None or row.found is None:
        return []
    return [
        "The same thoughts in another order "
        + _effect(row.found, "their order matters", "their order was not found to matter", verb="cost")
    ]


def _direct(measured: dict[str, ShortcutRow], right: int, n: int) -> list[str]:
    row = measured.get(DIRECT)
    if row is None or row.found is None:
        return []
    return [
        f"Asked for the answer without its written rationale, {_share(row.found.accuracy, row.found.ci95)} "
        f"are right instead of {100 * right / n:.1f} %."
    ]


def _effect(found: Intervention, matters: str, does_not: str, verb: str = "costs") -> str:
    """`costs 61.0 points [57.0, 65.0]: ...`"""
    by, (low, high) = 100 * found.difference, (100 * bound for bound in found.difference_ci95)
    if high < 0:
        return f"{verb} {-by:.1f} points [{-high:.1f}, {-low:.1f}]: {matters}."
    moved = f"{by:+.1f} points [{low:+.1f}, {high:+.1f}]"
    if low > 0:
        return f"{verb.replace('cost', 'gain')} {moved}: it does better so, which asks for an explanation."
    room = f"a loss of up to {-low:.1f} points is not excluded" if low < 0 else "no verdict moved"
    return f"{verb.replace('cost', 'change')} the accuracy by {moved}: {does_not}; {room}."


def _share(share: float, ci95: tuple[float, float]) -> str:
    return f"{100 * share:.1f} % [{100 * ci95[0]:.1f}, {100 * ci95[1]:.1f}]"
