"""Whatever rows are written, in whatever form, come back the same: any Unicode, any length, any number."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codi.commands.questions import questions_of
from codi.data.answer_text import may_hold_marker
from codi.data.example import Example
from codi.data.files import read_file
from codi.data.sources import load_examples, write_jsonl
from codi.data.values import NOTHING

# Half surrogates have no UTF-8 form.
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)
VALUES = (
    TEXT
    | st.integers()
    | st.floats(allow_nan=False)
    | st.booleans()
    | st.none()
    | st.lists(TEXT, max_size=3)
    | st.dictionaries(TEXT, TEXT, max_size=2)
)
NAMES = ("question", "answer", "steps", "Über, 'all'; \"x\"", "\u2028")
ROW = st.fixed_dictionaries({"question": TEXT}, optional=dict.fromkeys(NAMES[1:], VALUES))
ROWS = st.lists(ROW, min_size=1, max_size=6)
# An empty record is no row; so each has something that is not space.
CELLS = st.text(st.characters(exclude_categories=("Cs",)), max_size=30)
TABLES = st.lists(st.tuples(CELLS.map("x".__add__), CELLS, CELLS), min_size=1, max_size=6)

quick = settings(max_examples=30, deadline=None, derandomize=True)


@contextmanager
def file(name: str, data: bytes) -> Iterator[Path]:
    """A file for one example of a property (fixtures last for all of them)."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(data)
        yield path


def exact(value: Any) -> Any:
    """`value` as it is read: numbers with a point exactly as written."""
    if isinstance(value, float):
        return Decimal(repr(value)) if value - value == 0 else value
    if isinstance(value, dict):
        return {key: exact(item) for key, item in value.items()}
    return [exact(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("form", ["lines", "list", "indented", "wrapped", "splits", "packed"])
@quick
@given(
    rows=ROWS,
    escaped=st.booleans(),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    mark=st.sampled_from(["", "\ufeff"]),
)
def test_json(form: str, rows: list[dict[str, Any]], escaped: bool, end: str, mark: str) -> None:
    if form in ("lines", "packed"):
        text = "".join(json.dumps(row, ensure_ascii=escaped) + end for row in rows)
    else:
        whole = {"wrapped": {"n": 1.5, "data": rows}, "splits": {"dev": [{}], "train": rows}}.get(form, rows)
        text = json.dumps(whole, ensure_ascii=escaped, indent=None if form == "list" else 1).replace(
            "\n", end
        )
    data = (mark + text).encode()
    packed = form == "packed"
    with file("in.jsonl.gz" if packed else "in.json", gzip.compress(data) if packed else data) as path:
        read = read_file(path)
        assert [row for _, row in read.rows] == exact(rows)
        assert set(read.columns) == {name for row in rows for name in row}


@quick
@given(
    rows=TABLES,
    delimiter=st.sampled_from(",;\t|"),
    end=st.sampled_from(["\n", "\r\n"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    name=st.sampled_from(["in.csv", "in.tsv"]),
)
def test_tables(rows: list[tuple[str, ...]], delimiter: str, end: str, encoding: str, name: str) -> None:
    header = ("question", "why; or, how?", "answer")
    text = io.StringIO(newline="")
    # Every text in quotes, as the writer leaves a \r bare that ends no record of its own.
    csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL).writerows(
        [header, *rows]
    )
    data = text.getvalue().encode(encoding)
    if "\0" in text.getvalue() and encoding == "utf-8":  # in the first bytes it is taken for UTF-16
        return
    with file(name, data) as path:
        assert [tuple(row.values()) for _, row in read_file(path).rows] == rows


@quick
@given(rows=ROWS)
def test_parquet(rows: list[dict[str, Any]]) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    texts = [{"question": row["question"], "steps": list(row), "answer": len(row)} for row in rows]
    with file("in.parquet", b"") as path:
        parquet.write_table(pa.Table.from_pylist(texts), path)
        assert [row for _, row in read_file(path).rows] == texts


@quick
@given(
    st.lists(
        TEXT.map(str.strip).filter(lambda text: text and not set(text) & {"\r", "\n"}), min_size=1, max_size=5
    )
)
def test_questions_in_lines(questions: list[str]) -> None:
    data = "\n".join(questions).encode()
    if b"\0" in data:
        return
    with file("in.txt", data) as path:
        if not questions[0].startswith("\ufeff"):
            assert questions_of(path) == questions


@quick
@given(
    st.lists(
        st.tuples(
            st.text(min_size=1).filter(str.strip).filter(lambda text: text.strip() not in NOTHING),
            # A step that states the answer is taken for it (tests/test_answers.py), and "ANS" is such a step.
            st.lists(TEXT.filter(str.strip).filter(lambda step: not may_hold_marker(step)), max_size=3),
        ),
        min_size=1,
    )
)
def test_what_is_written_is_loaded(rows: list[tuple[str, list[str]]]) -> None:
    examples = [Example(f"n{i}", question, tuple(steps), "1") for i, (question, steps) in enumerate(rows)]
    with file("out.jsonl", b"") as path:
        write_jsonl(examples, path)
        loaded, _ = load_examples(str(path))
    assert [(e.id, e.question, e.answer) for e in loaded] == [(e.id, e.question, e.answer) for e in examples]
    assert [e.steps for e in loaded] == [e.steps for e in examples]
