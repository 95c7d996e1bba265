"""One example, and the account of how many were read, kept and left out."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Example:
    """A question, the reasoning steps that lead to its answer, and the answer.

    `steps` is empty where no rationale is known (most benchmarks). `id` names the example in predictions
    and error messages: a row number in its source unless the source has ids of its own.
    """

    id: str
    question: str
    steps: tuple[str, ...]
    answer: str


class RowDefect(Exception):
    """A row that makes no example.

    Attributes:
        reason: what it is counted under where bad rows are left out.
        kind: whether the fault is most likely one of the whole source, so that leaving its rows out would
            hide it.
    """

    def __init__(
        self, reason: str, found: str | None = None, advice: str = "", *, kind: bool = False
    ) -> None:
        """found: the text at fault, of which the message shows the beginning; advice: what mends it."""
        shown = "" if found is None else f": {found[:SHOWN]!r}{'...' if len(found) > SHOWN else ''}"
        super().__init__(f"{reason}{shown}{f'. {advice}' if advice else ''}")
        self.reason = reason
        self.kind = kind


SHOWN = 80
"""Characters of a text that an error shows."""
SHOWN_COLUMNS = 12
"""Columns that were not read which a report shows."""


@dataclass
class LoadReport:
    """How many rows of a source were read, how many were kept, and why the others were not.

    `noted` counts what was mended or left open in rows that were kept. `stopped_at`: the limit at which
    reading stopped, with rows left that were not read; None where all were. `unread`: columns of the source
    that have no role.
    """

    source: str
    read: int = 0
    kept: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    noted: dict[str, int] = field(default_factory=dict)
    stopped_at: int | None = None
    unread: list[str] = field(default_factory=list)

    def drop(self, reason: str) -> None:
        """Count one row left out for `reason`."""
        self.dropped[reason] = self.dropped.get(reason, 0) + 1

    def note(self, remark: str) -> None:
        """Count one thing to know about rows that are kept."""
        self.noted[remark] = self.noted.get(remark, 0) + 1

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON-ready values; `noted` and `unread` where there is something."""
        values = asdict(self)
        return {key: value for key, value in values.items() if value or key not in ("noted", "unread")}

    def describe(self) -> str:
        """One line for the terminal."""
        line = f"{self.source}: {self.read} rows read, {self.kept} kept"
        if self.dropped:
            reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(self.dropped.items()))
            line += f"; left out: {reasons}"
        if self.noted:
            line += (
                f"; noted: {', '.join(f'{count} {remark}' for remark, count in sorted(self.noted.items()))}"
            )
        if self.stopped_at is not None:
            line += f"; the rest was not read (limit {self.stopped_at})"
        if self.unread:
            more = f" and {len(self.unread) - SHOWN_COLUMNS} more" if len(self.unread) > SHOWN_COLUMNS else ""
            line += f"; columns not read: {', '.join(map(repr, self.unread[:SHOWN_COLUMNS]))}{more}"
        return line
