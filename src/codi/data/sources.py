"""Loading examples from any source: generated problems, sets on the hub, or files.

    load_examples("word-problems?seed=2&count=500", split="test")
    load_examples("polynomial-iteration?hops=2-6&modulus=11", split="train")
    load_examples("gsm8k-aug", split="validation")
    load_examples("mine.csv", columns=Columns(question="prompt", answer="label"))

Every row read is either an example or counted in the report with the reason it is not.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl

from codi.data.columns import MISSING_ANSWER, NO_NUMBER, Columns, RowDefect, example_from_row, resolve_layout
from codi.data.example import Example, LoadReport
from codi.data.files import READERS, Rows, read_file
from codi.data.hub import HUB_SETS, HubSet, find_hub_set, read_hub_split
from codi.data.steps import StepsRule
from codi.errors import DataError, UsageError, nearest

__all__ = ["GENERATORS", "HUB_SETS", "Columns", "exclude_questions", "load_examples", "write_jsonl"]

_GENERATED_COUNTS = {"train": 20_000}
_GENERATED_COUNT = 1_000


class _Options:
    """What stands after the `?` of a generated source, by name. `known`: the names there are."""

    def __init__(self, source: str, text: str, known: tuple[str, ...]) -> None:
        self._source = source
        self._texts: dict[str, str] = {}
        for key, value in parse_qsl(text, keep_blank_values=True):
            if key not in known:
                raise DataError(
                    f"'{source}': unknown option '{key}'.{nearest(key, known)} Options: {', '.join(known)}."
                )
            self._texts[key] = value

    def number(self, key: str, default: int, least: int = 1) -> int:
        """A whole number of at least `least`; `default` where it is not given."""
        text = self._texts.get(key)
        return default if text is None else self._whole(key, text, least)

    def span(self, key: str, default: tuple[int, int]) -> tuple[int, int]:
        """The fewest and the most: `2-6`, or one number for both."""
        text = self._texts.get(key)
        if text is None:
            return default
        least, dash, most = text.partition("-")
        return self._whole(key, least, 1), self._whole(key, most if dash else least, 1)

    def _whole(self, key: str, text: str, least: int) -> int:
        if not (text.isascii() and text.isdigit()) or int(text) < least:
            raise DataError(
                f"'{self._source}': {key} must be a whole number of at least {least}, got '{text}'."
            )
        return int(text)


@dataclass(frozen=True, slots=True)
class Generator:
    """A source made here, in any number.

    options: what may stand after its `?`; generate: (split, count, seed, options) to examples; note: what it
    is, for lists.
    """

    options: tuple[str, ...]
    generate: Callable[[str, int, int, _Options], list[Example]]
    note: str


def _word_problems(split: str, count: int, seed: int, options: _Options) -> list[Example]:
    from codi.data import word_problems

    steps = options.number("steps", 0)
    style = word_problems.style_up_to(steps) if steps else word_problems.DEFAULT_STYLE
    return word_problems.generate(split, count, seed, style)


def _polynomial_iteration(split: str, count: int, seed: int, options: _Options) -> list[Example]:
    from codi.data import polynomial_iteration

    usual = polynomial_iteration.DEFAULT_STYLE
    hops = options.span("hops", (usual.least_hops, usual.most_hops))
    style = polynomial_iteration.IterationStyle(*hops, options.number("modulus", usual.modulus))
    return polynomial_iteration.generate(split, count, seed, style)


GENERATORS = {
    "word-problems": Generator(
        ("seed", "count", "steps"), _word_problems, "generated word problems, told in sentences"
    ),
    "polynomial-iteration": Generator(
        ("seed", "count", "hops", "modulus"),
        _polynomial_iteration,
        "train, validation, test · generated · score * card + b, modulo a prime, 2 to 6 hops",
    ),
}
"""The generated sources by name. A new generator is one new entry."""


def load_examples(
    source: str,
    *,
    split: str = "train",
    columns: Columns | None = None,
    steps_rule: StepsRule = "auto",
    limit: int | None = None,
    require_answer_number: bool = False,
    skip_bad_rows: bool = False,
) -> tuple[list[Example], LoadReport]:
    """Load the examples of a source.

    Args:
        source: 'word-problems' (with options: 'word-problems?seed=2&count=500&steps=6', the last for
            problems with up to so many steps), 'polynomial-iteration' ('?hops=4' for problems with exactly
            so many, 'hops=2-4' for a range, and '&modulus=7'), a short name of `HUB_SETS`, or the path of a
            file whose ending names its format (see `codi.data.files`).
        split: a split of the generator or of the hub set; 'a+b' joins two. A file is one split, whatever
            this says.
        columns: columns to read where they are not recognised, or others are wanted.
        steps_rule: how a rationale in one text becomes steps (see `split_steps`); lists are kept.
        limit: keep the first so many examples; the others are counted as left out.
        require_answer_number: an answer without a digit is a defect of its row.
        skip_bad_rows: count and leave out rows with an empty question, a missing answer or (where required)
            an answer without a number, in place of refusing the source.

    Returns:
        The examples, and the account of what was read and left out.

    Raises:
        DataError: the source is unknown or unreachable, a file, line, column or split is missing or broken,
            a row is defective, or no example is left.
        UsageError: a limit below 1, or options that do not apply.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"The limit must be at least 1 example, got {limit}.")
    base, _, options = source.partition("?")
    if base in GENERATORS:
        examples, report = _generated(source, base, options, split, columns)
    else:
        examples, report = [], LoadReport(source)
        for name, rows, hub_set in _read(source, split):
            wanted = columns or (hub_set.columns if hub_set else None)
            layout = resolve_layout(rows.columns, wanted, f"'{name}'")
            stem = name if hub_set else Path(name).stem
            known_nulls = hub_set is not None and hub_set.nulls
            for number, row in rows.rows:
                report.read += 1
                if limit is not None and len(examples) >= limit:
                    report.drop(_beyond(limit))
                    continue
                where = f"{name}, {rows.unit} {number}"
                try:
                    example = example_from_row(
                        row,
                        layout,
                        fallback_id=f"{stem}:{number}",
                        where=where,
                        steps_rule=steps_rule,
                        require_answer_number=require_answer_number,
                    )
                except RowDefect as defect:
                    known = known_nulls and str(defect) == MISSING_ANSWER
                    if not (skip_bad_rows or known):
                        raise DataError(_defect_message(where, str(defect))) from None
                    report.drop(str(defect))
                else:
                    examples.append(example)
    if limit is not None and len(examples) > limit:
        report.dropped[_beyond(limit)] = len(examples) - limit
        examples = examples[:limit]
    report.kept = len(examples)
    if not examples:
        raise DataError(f"No example is left of '{source}' ({report.describe()}).")
    return examples, report


def _beyond(limit: int) -> str:
    return f"beyond the limit of {limit}"


def _defect_message(where: str, defect: str) -> str:
    scorer = " Answers that are not all numbers: scorer=text compares them." if defect == NO_NUMBER else ""
    return (
        f"{where}: {defect}. Mend or remove it, or have bad rows left out and counted: "
        f"data.skip_bad_rows=true in training, --skip-bad-rows in `codi data`.{scorer}"
    )


def _read(source: str, split: str) -> Iterator[tuple[str, Rows, HubSet | None]]:
    """The parts of a source: each one's name for messages and ids, its rows, and its hub set if any."""
    hub_set = find_hub_set(source)
    if hub_set is not None:
        for part in split.split("+"):
            yield f"{source}/{part}", read_hub_split(source, hub_set, part), hub_set
        return
    path = Path(source)
    # Without the ending of a file format, what is no path is a mistyped name.
    if not path.exists() and path.suffix.lower() not in READERS:
        names = (*GENERATORS, *HUB_SETS)
        raise DataError(
            f"Unknown data source '{source}'.{nearest(source, names)} Give the path of a file "
            f"({', '.join(READERS)}), or one of: {', '.join(names)}."
        )
    yield source, read_file(path), None


def _generated(
    source: str, name: str, text: str, split: str, columns: Columns | None
) -> tuple[list[Example], LoadReport]:
    if columns is not None and columns != Columns():
        raise UsageError(f"Columns were named, but '{name}' is generated and has none. Leave them out.")
    generator = GENERATORS[name]
    options = _Options(source, text, generator.options)
    seed, asked = options.number("seed", 1, least=0), options.number("count", 0)
    examples: list[Example] = []
    for part in split.split("+"):
        count = asked or _GENERATED_COUNTS.get(part, _GENERATED_COUNT)
        examples += generator.generate(part, count, seed, options)
    return examples, LoadReport(source, read=len(examples))


def exclude_questions(
    examples: Iterable[Example], others: Iterable[Example], *, reason: str = "question also in validation"
) -> tuple[list[Example], LoadReport]:
    """Remove from `examples` (training) the questions that occur in `others` (validation).

    Questions are compared with white space folded. The report counts the removed ones under `reason`.
    """
    taken = {_folded(other.question) for other in others}
    report = LoadReport("training questions")
    kept = []
    for example in examples:
        report.read += 1
        if _folded(example.question) in taken:
            report.drop(reason)
        else:
            kept.append(example)
    report.kept = len(kept)
    return kept, report


def _folded(question: str) -> str:
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
