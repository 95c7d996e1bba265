"""Loading examples from any source: generated problems, sets on the hub, files, folders and patterns.

    load_examples("word-problems?seed=2&count=500", split="test")
    load_examples("polynomial-iteration?hops=2-6&modulus=11", split="train")
    load_examples("gsm8k-aug", split="validation")
    load_examples("hub:owner/name?config=main", split="test", limit=100)
    load_examples("shards/train-*.jsonl.gz")
    load_examples("mine.csv", columns=Columns(question="prompt", answer="label"))

Every row read is either an example or counted in the report with the reason it is not.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from codi.data.choice_keys import Tally, may_have_options, settled
from codi.data.columns import (
    ANNOTATIONS,
    MISSING_ANSWER,
    NO_NUMBER,
    Columns,
    Layout,
    RowDefect,
    example_from_row,
    question_from_row,
    resolve_layout,
)
from codi.data.example import Example, LoadReport
from codi.data.files import Row
from codi.data.generators import GENERATORS, generated_examples
from codi.data.hub import HUB_SETS
from codi.data.ids import UniqueIds
from codi.data.inner_columns import by_holder, inner_names, opened
from codi.data.layout import INNER, label_columns
from codi.data.parts import Part, has_own_columns, is_source, parts_of, source_name
from codi.data.rows import AheadReader
from codi.data.shards import is_data_path
from codi.data.steps import StepsRule
from codi.data.text_files import excerpt
from codi.errors import DataError, UsageError, nearest

__all__ = [
    "GENERATORS",
    "HUB_SETS",
    "Columns",
    "Part",
    "exclude_questions",
    "folded",
    "has_own_columns",
    "is_data_path",
    "is_source",
    "load_examples",
    "load_questions",
    "parts_of",
    "source_name",
    "write_jsonl",
]


def load_examples(
    source: str,
    *,
    split: str = "train",
    columns: Columns | None = None,
    steps_rule: StepsRule = "auto",
    annotations: str = "keep",
    limit: int | None = None,
    require_answer_number: bool = False,
    skip_bad_rows: bool = False,
) -> tuple[list[Example], LoadReport]:
    """Load the examples of a source.

    Args:
        source: 'word-problems' (with options: 'word-problems?seed=2&count=500&steps=6', the last for
            problems with up to so many steps), 'polynomial-iteration' ('?hops=4' for problems with exactly
            so many, 'hops=2-4' for a range, and '&modulus=7'), a short name of `HUB_SETS`, any set on the hub
            ('hub:owner/name?config=main', or 'owner/name' where no such path exists), or the path of a file
            whose ending names its form (see `codi.data.files`), of a folder of such files, or a pattern.
        split: a split of the generator, of the hub set, of a folder, or of a file that holds several; 'a+b'
            joins two. A file with one list of rows is one split, whatever this says; a split in a hub id goes
            before this one.
        columns: columns to read where they are not recognised, or others are wanted; `a.b` is the `b` inside
            column `a`.
        steps_rule: how a rationale in one text becomes steps (see `split_steps`); lists are kept.
        annotations: 'remove' leaves calculator annotations (`<<48/2=24>>`) out of sentences.
        limit: keep the first so many examples, and read no further.
        require_answer_number: an answer without a digit is a defect of its row.
        skip_bad_rows: count and leave out rows with an empty question, a missing answer or (where required)
            an answer without a number, in place of refusing the source.

    Returns:
        The examples, each with an id of its own (see `codi.data.ids`), and the account of what was read and
        left out.

    Raises:
        DataError: the source is unknown or unreachable, a file, line, column or split is missing or broken,
            a row is defective, or no example is left.
        UsageError: a limit below 1, or options that do not apply.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"The limit must be at least 1 example, got {limit}.")
    if annotations not in ANNOTATIONS:
        raise UsageError(
            f"annotations is '{annotations}'.{nearest(annotations, ANNOTATIONS)} Values: "
            f"{', '.join(ANNOTATIONS)}."
        )
    base, _, options = source.partition("?")
    if base in GENERATORS:
        examples, report = generated_examples(source, base, options, split, columns)
        if limit is not None and len(examples) > limit:
            report.dropped[f"beyond the limit of {limit}"] = len(examples) - limit
            examples = examples[:limit]
    else:
        examples, report = [], LoadReport(source)
        ids = UniqueIds()
        seen: Layout | None = None
        unread: dict[str, None] = {}
        rows = _laid_out(parts_of(source, split, limited=limit is not None), columns)
        for part, number, row, layout in rows:
            report.read += 1
            if layout is not seen:
                seen = layout
                unread |= {name: None for name in row if not layout.reads(name)}
            where = f"{part.name}, {part.rows.unit} {number}"
            fallback = f"{part.stem}:{number}"
            try:
                example = example_from_row(
                    row,
                    layout,
                    fallback_id=fallback,
                    steps_rule=steps_rule,
                    annotations=annotations,
                    require_answer_number=require_answer_number,
                    note=report.note,
                )
            except RowDefect as defect:
                known = part.known_nulls and defect.reason == MISSING_ANSWER
                if not (skip_bad_rows or known):
                    raise DataError(_defect_message(where, defect, row)) from None
                report.drop(defect.reason)
            else:
                examples.append(ids.named(example, row, own=example.id != fallback))
                if len(examples) == limit:
                    report.stopped_at = limit if _has_more(rows) else None
                    break
        report.unread = list(unread)
    report.kept = len(examples)
    if not examples:
        raise DataError(f"No example is left of '{source}' ({report.describe()}).")
    return examples, report


def load_questions(source: str, *, split: str = "test", column: str | None = None) -> list[str]:
    """The questions of a source's rows, in order, as its examples would ask them; answers are not needed.

    Args:
        source, split: see `load_examples`.
        column: the question's column, where it is not recognised or another is wanted.

    Raises:
        DataError: the source cannot be read, no column is recognised, or a row has no question.
    """
    questions = []
    named = None if column is None else Columns(question=column)
    for part, number, row, layout in _laid_out(parts_of(source, split), named, needs_answer=False):
        try:
            questions.append(question_from_row(row, layout))
        except RowDefect as defect:
            where = f"{part.name}, {part.rows.unit} {number}"
            raise DataError(f"{where}: {defect}. Mend or remove it.") from None
    return questions


def _laid_out(
    parts: Iterable[Part], columns: Columns | None, *, needs_answer: bool = True
) -> Iterator[tuple[Part, int, Row, Layout]]:
    """Every row with its part, its number and the columns it is read by."""
    tally = Tally()
    for part in parts:
        wanted = columns or part.columns
        held = by_holder((*INNER, *filter(None, vars(wanted).values()))) if wanted else _USUAL_INNER
        known = dict.fromkeys(part.rows.columns)
        layout: Layout | None = None
        rows = AheadReader(part.rows.rows)
        for number, whole in rows:
            row = opened(whole, held)
            if layout is None or not row.keys() <= known.keys():  # a column that the first rows did not have
                where = f"'{part.name}'" + (f", {part.rows.unit} {number}" if layout is not None else "")
                known |= dict.fromkeys(row)
                layout = resolve_layout(
                    tuple(known), wanted, where, inside=inner_names(row), needs_answer=needs_answer
                )
                if may_have_options(layout, row):
                    looked_at = [row, *(opened(later, held) for _, later in rows.ahead())]
                    layout = settled(layout, looked_at, tally, label_columns(known))
            yield part, number, row, layout
        if layout is None:  # no rows: the columns are told all the same
            resolve_layout(tuple(known), wanted, f"'{part.name}'", needs_answer=needs_answer)


_USUAL_INNER = by_holder(INNER)


def _has_more(rows: Iterator[object]) -> bool:
    try:
        return next(rows, None) is not None
    except DataError:  # of a row that nobody asked for
        return True


def _defect_message(where: str, defect: RowDefect, row: Row) -> str:
    text = defect.reason == NO_NUMBER
    scorer = " Answers that are not all numbers: scorer=text compares them." if text else ""
    skip = (
        " Mend or remove it, or have bad rows left out and counted: data.skip_bad_rows=true in training, "
        "--skip-bad-rows in `codi data`."
    )
    return (
        f"{where}: {defect}.{'' if defect.kind else skip}{scorer} The row: "
        f"{excerpt(json.dumps(row, default=str, ensure_ascii=False))}"
    )


def exclude_questions(
    examples: Iterable[Example], others: Iterable[Example], *, reason: str = "question also in validation"
) -> tuple[list[Example], LoadReport]:
    """Remove from `examples` (training) the questions that occur in `others` (validation).

    Questions are compared with white space folded. The report counts the removed ones under `reason`.
    """
    taken = {folded(other.question) for other in others}
    report = LoadReport("training questions")
    kept = []
    for example in examples:
        report.read += 1
        if folded(example.question) in taken:
            report.drop(reason)
        else:
            kept.append(example)
    report.kept = len(kept)
    return kept, report


def folded(question: str) -> str:
    """A question with its white space folded: what two questions are compared by."""
    return " ".join(question.split())


def write_jsonl(examples: Iterable[Example], path: str | Path) -> None:
    """Write examples, one `{"id", "question", "steps", "answer"}` per line; `load_examples` reads them back.

    The file appears whole or not at all: a failure leaves what stood there before. Missing folders are made.

    Raises:
        DataError: the file cannot be written.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "wb", dir=path.parent, prefix=f".{path.name}.", suffix=".tmp", delete=False
        ) as file:
            temporary = Path(file.name)
            for example in examples:
                file.write(_json_line(example))
            file.flush()
            os.fsync(file.fileno())
        # Temporary files are made for their owner alone; a new file gets the usual rights.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except OSError as error:
        raise DataError(
            f"The file '{path}' cannot be written: {error.strerror or error}. What stood there before is "
            "unchanged."
        ) from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink()


def _json_line(example: Example) -> bytes:
    value = {
        "id": example.id,
        "question": example.question,
        "steps": list(example.steps),
        "answer": example.answer,
    }
    try:
        return (json.dumps(value, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError:  # half of a surrogate pair has no UTF-8 form, but a JSON escape
        return (json.dumps(value) + "\n").encode()
