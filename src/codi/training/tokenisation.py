"""A whole training set as its method reads it: row by row through `Method.encode`, the text coded in batches.

`Method.encode` is the one place that says what a row becomes. Here only the tokenizer works ahead of it: the
texts of some thousand rows are coded at once, on all cores, and `encode` finds them done.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from codi.data.collation import Encoded
from codi.data.derived_rationales import NotAnEquation, derive
from codi.data.encoded_rows import EncodedRows
from codi.data.encoding import HalfCharacter, MeltedAnswer, TextEncoder
from codi.data.example import Example, LoadReport
from codi.data.sources import folded
from codi.errors import CodiError
from codi.methods.method import Method

SAMPLE = 100
"""Examples at the head of a set that are kept as they were written."""
AHEAD = 4096
"""Rows whose texts are coded together."""
DEFECTS: dict[type[CodiError], str] = {
    MeltedAnswer: "answer that the tokenizer joins with its prompt",
    HalfCharacter: "half of a surrogate pair",
    NotAnEquation: "step that is not one equation",
}
"""What a single row can have that others have not, and what it is counted under."""


@dataclass
class TokenisedSet:
    """A set of examples in the order of its source, ready to train on.

    encoded: what the method reads; ids: the examples' names; golds: their answers as they were written;
    steps: [rows] steps of each, as they were written; answers: [rows] tokens of each answer with its prompt;
    marks: [rows] of each question, see `question_mark`; reports: what was left out, and why; blank_steps:
    steps without a word, left out; sample: the first examples as they were written.
    """

    encoded: EncodedRows
    ids: list[str]
    golds: list[str]
    steps: NDArray[np.int64]
    answers: NDArray[np.int64]
    marks: NDArray[np.uint64]
    reports: list[LoadReport] = field(default_factory=list)
    blank_steps: int = 0
    sample: list[Example] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, kept: Sequence[int]) -> TokenisedSet:
        """These rows, in this order."""
        return replace(
            self,
            encoded=self.encoded.select(kept),
            ids=[self.ids[row] for row in kept],
            golds=[self.golds[row] for row in kept],
            steps=self.steps[list(kept)],
            answers=self.answers[list(kept)],
            marks=self.marks[list(kept)],
        )


def tokenise(
    examples: Sequence[Example],
    method: Method,
    text: TextEncoder,
    *,
    form: str = "whole",
    skip_bad_rows: bool = False,
    source: str = "training rows",
) -> TokenisedSet:
    """Every example as `method` reads it. Its reports name rows left out here; there is none without any.

    form: of the rationales, see `derive`; skip_bad_rows: count and leave out rows with one of `DEFECTS`.
    Raises the error of the first row that cannot be read, with its id.
    """
    report = LoadReport(source, read=len(examples))
    kept, blank = list[Example](), 0
    answers = dict[str, int]()

    def rows() -> Iterator[Encoded]:
        nonlocal blank
        for some in _in_parts(examples, AHEAD):
            sound = list[tuple[Example, Example]]()
            for example in some:
                steps = tuple(step for step in example.steps if step.strip())
                blank += len(example.steps) - len(steps)
                whole = example if len(steps) == len(example.steps) else replace(example, steps=steps)
                try:
                    sound.append((whole, derive(whole, form, with_last_step=not method.reads_last_step)))
                except NotAnEquation as defect:
                    _drop(report, defect, skip_bad_rows)
            with text.ahead(_texts(text, method, [derived for _, derived in sound])):
                for example, derived in sound:
                    try:
                        row = method.encode(derived, text)
                        if derived.answer not in answers:
                            answers[derived.answer] = len(text.answer(derived.answer).ids)
                    except CodiError as error:
                        _drop(report, _named(error, derived), skip_bad_rows)
                    else:
                        kept.append(example)
                        yield row

    encoded = EncodedRows.gather(rows())
    report.kept = len(kept)
    return TokenisedSet(
        encoded,
        [example.id for example in kept],
        [example.answer for example in kept],
        np.array([len(example.steps) for example in kept], dtype=np.int64),
        np.array([answers[example.answer] for example in kept], dtype=np.int64),
        np.array([question_mark(example.question) for example in kept], dtype=np.uint64),
        [report] if report.dropped else [],
        blank,
        kept[:SAMPLE],
    )


def question_mark(question: str) -> int:
    """A number that questions share which are the same but for white space; 64 bits of a hash."""
    return int.from_bytes(
        hashlib.blake2b(folded(question).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    )


def _texts(text: TextEncoder, method: Method, examples: list[Example]) -> Iterator[str]:
    """The texts that `encode` will ask for. One that is missing here is coded when it is asked for."""
    for example in examples:
        if example.question.strip():
            yield text.question_text(example.question)
        yield text.answer_text(example.answer)
        steps = example.steps if method.reads_last_step else example.steps[:-1]
        if method.needs_rationales and steps:
            yield text.rationale_text(steps)


def _named(error: CodiError, example: Example) -> CodiError:
    return type(error)(f"'{example.id}': {error}")


def _drop(report: LoadReport, defect: CodiError, skip_bad_rows: bool) -> None:
    """Count the row, or raise its defect with the way to leave it out."""
    reason = DEFECTS.get(type(defect))
    if reason is None:
        raise defect
    if not skip_bad_rows:
        raise type(defect)(f"{defect} Or leave such rows out, counted: data.skip_bad_rows=true.") from None
    report.drop(reason)


def _in_parts(examples: Sequence[Example], size: int) -> Iterator[list[Example]]:
    rest = iter(examples)
    while some := list(islice(rest, size)):
        yield some
