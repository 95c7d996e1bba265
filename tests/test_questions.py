"""Questions of commands: lines are cut at line breaks alone, and rows of every form are asked."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path

import pytest

from codi.commands.questions import questions_asked, questions_of
from codi.errors import DataError, UsageError

BREAKS_OF_SPLITLINES = "\u2028 \u2029 \x85 \x0b \x0c \x1c \x1d \x1e"
ODD = [f"How many?{mark}And then?" for mark in BREAKS_OF_SPLITLINES.split(" ")]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lines_of_a_file(tmp_path: Path, end: str, encoding: str) -> None:
    path = tmp_path / "questions.txt"
    path.write_bytes((end.join(ODD) + end * 2).encode(encoding))
    assert questions_of(path) == ODD
    packed = tmp_path / "questions.txt.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert questions_of(packed) == ODD
    bare = path.rename(tmp_path / "questions")
    assert questions_of(bare) == ODD


def test_lines_of_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("\ufeff" + "\n".join(ODD) + "\n"))
    assert questions_asked(None, None) == ODD
    monkeypatch.setattr("sys.stdin", io.StringIO("Q?\n\nR?\n"))
    with pytest.raises(DataError, match="line 2 of standard input is empty"):
        questions_asked(None, None)
    monkeypatch.setattr("sys.stdin", io.StringIO("\n \n"))
    with pytest.raises(DataError, match="no question in standard input"):
        questions_asked(None, None)


def test_rows_of_every_form(tmp_path: Path) -> None:
    rows = [{"question": question, "id": "x"} for question in ODD]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    for name, data in (
        ("q.jsonl", lines.encode()),
        ("q.json", json.dumps({"data": rows}).encode()),
        ("q.jsonl.gz", gzip.compress(lines.encode())),
        ("set/test-0.jsonl", lines.encode()),
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        assert questions_of(path) == ODD
    (tmp_path / "set" / "train-0.jsonl").write_text('{"question": "T?"}\n')
    assert questions_of(tmp_path / "set") == questions_of(tmp_path / "set" / "test-*.jsonl") == ODD
    (tmp_path / "q.tsv").write_text("id\tquestion\n1\tHow, many?\n")
    assert questions_of(tmp_path / "q.tsv") == ["How, many?"]


def test_questions_are_read_as_rows_are(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    for row, column, asked in (
        ({"problem": "Q?"}, None, "Q?"),
        ({"prompt": [{"role": "user", "content": "Q?"}]}, None, "Q?"),
        (
            {"messages": [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "1"}]},
            None,
            "Q?",
        ),
        (
            {"question": "Which?", "options": ["cow", "hen"]},
            None,
            "Question: Which?\nChoices:\nA: cow\nB: hen",
        ),
        ({"question": "P?", "task": {"text": "Q?"}}, "task.text", "Q?"),
        ({"words": "Q?", "a": 1}, "words", "Q?"),
    ):
        path.write_text(json.dumps(row) + "\n")
        assert questions_of(path, column) == [asked]


def test_what_cannot_be_asked(tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text("query,answer\nQ?,1\n")
    assert questions_of(tmp_path / "q.csv") == ["Q?"]
    with pytest.raises(DataError, match=r"q\.csv' has no column 'text', asked .* 'query', 'answer'"):
        questions_of(tmp_path / "q.csv", "text")
    (tmp_path / "q.csv").write_text("words,answer\nQ?,1\n")
    with pytest.raises(DataError, match=r"no column recognised as the question .* 'words', 'answer'"):
        questions_of(tmp_path / "q.csv")
    (tmp_path / "q.csv").write_text("question,answer\nQ?,1\n ,2\n")
    with pytest.raises(DataError, match=r"q\.csv, line 3: empty question"):
        questions_of(tmp_path / "q.csv")
    for name in ("none.txt", "none", "none.jsonl"):
        with pytest.raises(DataError, match=f"{name}' does not exist"):
            questions_of(tmp_path / name)
    with pytest.raises(UsageError, match="Give one of them"):
        questions_asked("Q?", tmp_path / "q.csv")
