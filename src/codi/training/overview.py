"""What a method will see of a set, before it is trained on: a short table, and examples as they are read.

    | steps a row |      0 |      1 |      2 | ...           | tokens   | median | 95 % | longest |
    | rows        |    125 | 64,892 | 144,348| ...           | question |     45 |   55 |      68 |

    teacher   Mia has 3 apples ...<<3+5=8>>The answer is⟦:⟧ 12<eos>
    student   Mia has 3 apples ...<bot> z1 z2 z3 z4 z5 z6 <eot>The answer is⟦:⟧ 12<eos>

The examples are decoded from the ids that training collates, nothing else; `⟦ ⟧` marks the distilled token.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codi.data.collation import Encoded, Nested
from codi.data.encoded_rows import EncodedRows
from codi.data.encoding import TextEncoder
from codi.data.example import SHOWN_COLUMNS
from codi.errors import DataError
from codi.methods.method import Method
from codi.training.tokenisation import TokenisedSet

NEARLY_NONE = 0.05
"""A method that needs rationales refuses a set in which fewer rows than this have one."""
MANY_WITHOUT = 0.1
"""From this share of rows without a rationale on, it is said."""
NEARLY_ALL = 0.9
"""From this share of rows on of whose rationale nothing is read, it is said."""
SHOWN = 3
_MOST_THOUGHTS = 8
"""Of more than these, the first two and the last are written out."""
_LAST = 10**12
"""A micro-batch after the last stage of any curriculum."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Tokens of one part of the rows."""

    median: int
    p95: int
    longest: int


@dataclass(frozen=True, slots=True)
class Shown:
    """One example: its steps as they were found, None where that is not known, and how it is read.

    readings: by what reads it (and in which stage of a curriculum).
    """

    id: str
    steps: tuple[str, ...] | None
    readings: dict[str, str]


@dataclass(frozen=True, slots=True)
class Overview:
    """What a method reads of a set. Numbers only, but for `shown`.

    steps: rows by their number of steps, as they were written; unread: rows that have steps of which the
    method reads none; blank_steps: steps without a word, left out; tokens: by part, in `unit`s; stepwise:
    whether the method goes by single steps.
    """

    method: str
    rows: int
    steps: dict[int, int]
    unread: int
    blank_steps: int
    tokens: dict[str, Spread]
    unit: str
    stepwise: bool
    shown: tuple[Shown, ...]

    def as_dict(self) -> dict[str, Any]:
        """The numbers, JSON-ready."""
        values = asdict(self)
        del values["shown"]
        return values | {"steps": {str(number): rows for number, rows in self.steps.items()}}

    def describe(self) -> str:
        """The table and the examples as Markdown, which a terminal shows as well."""
        lines = [
            f"## What {self.method} reads: {self.rows:,} rows", "",
            "| steps a row | " + " | ".join(_names(self.steps)) + " |",
            "|---|" + "---:|" * len(_names(self.steps)),
            "| rows | " + " | ".join(f"{rows:,}" for rows in _up_to_six(self.steps)) + " |",
            "| share | " + " | ".join(self._share(rows) for rows in _up_to_six(self.steps)) + " |", "",
            f"| {self.unit} | median | 95 % | longest |",
            "|---|---:|---:|---:|",
        ]  # fmt: skip
        for part, spread in self.tokens.items():
            lines.append(f"| {part} | {spread.median:,} | {spread.p95:,} | {spread.longest:,} |")
        if self.unread:
            share = self._share(self.unread)
            lines += ["", f"Only the answer is read of {self.unread:,} rows with one step ({share})."]
        if self.blank_steps:
            lines += ["", f"Steps without a word, left out: {self.blank_steps:,}."]
        for shown in self.shown:
            found = dict[str, str]()
            if shown.steps is not None:
                found["steps"] = " | ".join(map(_one_line, shown.steps)) or "none"
            found |= shown.readings
            width = max(map(len, found))
            lines += ["", f"Example {_one_line(shown.id)}:", ""]
            lines += [f"    {name:<{width}}   {text}" for name, text in found.items()]
        return "\n".join(lines)

    def _share(self, rows: int) -> str:
        return f"{100 * rows / self.rows:.1f} %"


def overview(
    tokens: TokenisedSet, method: Method, text: TextEncoder, *, shown: int = SHOWN, unit: str = "tokens"
) -> Overview:
    """What `method` reads of a set that it has encoded, with the first `shown` rows written out."""
    encoded, written = tokens.encoded, {example.id: example.steps for example in tokens.sample}
    rationale = longest_segment(encoded) - tokens.answers
    parts = {"question": encoded.lengths("question")}
    if method.needs_rationales:
        kept = "" if method.reads_last_step else ", without its last step"
        parts[f"rationale{kept}"] = rationale
    parts["answer with its prompt"] = tokens.answers
    return Overview(
        method=method.name,
        rows=len(tokens),
        steps=dict(sorted(Counter(tokens.steps.tolist()).items())),
        unread=int(((rationale <= 0) & (tokens.steps > 0)).sum()) if method.needs_rationales else 0,
        blank_steps=tokens.blank_steps,
        tokens={part: _spread(lengths) for part, lengths in parts.items()},
        unit=unit,
        stepwise=set(encoded.lists()) > set(token_segments(encoded, method)),  # it says where steps end
        shown=tuple(
            Shown(tokens.ids[row], written.get(tokens.ids[row]), readings(encoded[row], method, text))
            for row in range(min(shown, len(tokens)))
        ),
    )


def check_rationales(seen: Overview, method: Method, source: str, columns: Sequence[str] = ()) -> list[str]:
    """What a person should know of a set's rationales before training.

    columns: those of the source that were not read, for the message.

    Raises DataError where the method needs them and (nearly) no row has one.
    """
    if not method.needs_rationales:
        return []
    without = seen.steps.get(0, 0)
    if seen.rows - without < NEARLY_NONE * seen.rows:
        quoted = ", ".join(map(repr, columns[:SHOWN_COLUMNS]))
        raise DataError(
            f"{method.name} learns from rationales, but {without:,} of the {seen.rows:,} rows of '{source}' "
            f"have none. {f'Columns not read: {quoted}. ' if quoted else ''}If they stand in a column that "
            "was not recognised, name it "
            "(data.columns.rationale=NAME, or data.columns.steps=NAME for a list; --rationale-column and "
            "--steps-column in `codi data`). If there are none, have them written (`codi data annotate`), or "
            "train a method that needs none (method.name=no-cot-sft)."
        )
    notes = []
    if without >= MANY_WITHOUT * seen.rows:
        notes.append(
            f"WARNING: {without:,} of {seen.rows:,} rows of '{source}' have no rationale. {method.name} "
            "learns only their answers. Have rationales written with `codi data annotate`, or leave those "
            "rows out."
        )
    if not method.reads_last_step and seen.unread and seen.unread + without >= NEARLY_ALL * seen.rows:
        notes.append(
            f"WARNING: in {seen.unread:,} of {seen.rows:,} rows of '{source}' {method.name} reads no step of "
            "the rationale, only the answer: they have one step, and the last step is left out. There is "
            "nothing for the thoughts to learn from. If the rationales have more steps than were found, say "
            "how to split them (data.steps_rule; `codi data SOURCE --show 3` shows what is found); to read "
            "the only step, set method.keep_last_step=true."
        )
    elif seen.stepwise and 0 < seen.steps.get(1, 0) >= NEARLY_ALL * seen.rows - without:
        notes.append(
            f"WARNING: {seen.steps[1]:,} of {seen.rows:,} rows of '{source}' have one step, so {method.name} "
            "replaces whole rationales at once. If they have more steps than were found, say how to split "
            "them (data.steps_rule; `codi data SOURCE --show 3` shows what is found)."
        )
    return notes


def longest_segment(encoded: EncodedRows) -> NDArray[np.int64]:
    """[rows] Tokens of the longest segment after the question."""
    after = [encoded.lengths(name) for name in encoded.lists() if name != "question"]
    return np.max(after, axis=0) if after else np.zeros(len(encoded), dtype=np.int64)


def token_segments(encoded: EncodedRows, method: Method) -> list[str]:
    """Names of the lists that hold tokens to be read; other lists say where something stands."""
    return _read_lists(method.staged(encoded[0], 0, random.Random(0)))


def _read_lists(staged: Encoded) -> list[str]:
    """The same of one row; nested lists are what thoughts are to say, not what is read."""
    return [
        name for name, value in staged.items() if isinstance(value, list) and not isinstance(value, Nested)
    ]


def readings(row: Encoded, method: Method, text: TextEncoder) -> dict[str, str]:
    """An encoded row as it is read, by what reads it: in the first stage, and in the last of a curriculum."""
    first, last = method.stage_at(0, 1000), method.stage_at(_LAST, 1000)
    read = dict[str, str]()
    stages = {first: ", first stage", last: ", last stage"} if first != last else {first: ""}
    for stage, name in stages.items():
        staged = method.staged(row, stage, random.Random(0))
        segments = [name for name in _read_lists(staged) if name != "question"]
        for segment in segments:
            who = segment if len(segments) > 1 else method.name
            read[f"{who}{name}"] = _reading(staged, segment, method.at_stage(stage), text)
    return read


def _reading(row: Encoded, segment: str, method: Method, text: TextEncoder) -> str:
    """The question, what stands between, and one segment; the distilled token marked."""
    ids: list[int] = row[segment]
    between = method.positions_before(segment, row)
    distilled = row.get(f"{segment}_distillation")
    if between == 0:
        question: list[int] = row["question"]
        at = None if distilled is None else len(question) + distilled
        return _decoded(text, question + ids, at)
    sign = "z" if method.thinks else "p"
    thoughts = [f"{sign}{number + 1}" for number in range(between - 2)]
    if len(thoughts) > _MOST_THOUGHTS:
        thoughts = [*thoughts[:2], "…", thoughts[-1]]
    at = None if distilled is None else distilled - 1  # <eot> is read before the segment
    return (
        f"{_decoded(text, row['question'])}{' '.join(['<bot>', *thoughts, '<eot>'])}{_decoded(text, ids, at)}"
    )


def _decoded(text: TextEncoder, ids: Sequence[int], marked: int | None = None) -> str:
    """The ids as text, special tokens with it, on one line; one token in ⟦ ⟧."""

    def written(upto: int) -> str:
        return str(text.tokenizer.decode(ids[:upto], skip_special_tokens=False))

    if marked is None:
        return _one_line(written(len(ids)))
    before, through, whole = written(marked), written(marked + 1), written(len(ids))
    if not (through.startswith(before) and whole.startswith(through)):  # it holds a part of a character
        pieces = [text.tokenizer.decode(part) for part in (ids[:marked], ids[marked], ids[marked + 1 :])]
        return "{}⟦{}⟧{}".format(*map(_one_line, pieces))
    parts = (before, through[len(before) :], whole[len(through) :])
    return "{}⟦{}⟧{}".format(*map(_one_line, parts))


def _one_line(text: str) -> str:
    """Line breaks as ⏎; what a terminal would obey, written out."""
    return "".join(mark if mark.isprintable() else "⏎" if mark == "\n" else repr(mark)[1:-1] for mark in text)


def _spread(lengths: NDArray[np.int64]) -> Spread:
    median, p95 = np.percentile(lengths, [50, 95], method="inverted_cdf")  # of one of the rows
    return Spread(int(median), int(p95), int(lengths.max()))


def _names(steps: dict[int, int]) -> list[str]:
    return ["0", "1", "2", "3", "4", "5", "6 and more"] if steps else []


def _up_to_six(steps: dict[int, int]) -> list[int]:
    return [steps.get(number, 0) for number in range(6)] + [
        sum(rows for number, rows in steps.items() if number >= 6)
    ]
