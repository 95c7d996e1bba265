"""`codi compare`: the right figures from prediction files, and files that cannot be compared are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from codi.cli import app


def write(file: Path, correct: list[bool], **changes: object) -> Path:
    rows = [
        {"id": f"q{i}", "question": f"How many {i}?", "gold": str(i), "correct": right, **changes}
        for i, right in enumerate(correct)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def compare(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["compare", *map(str, arguments)])
    return done.exit_code, done.output


def test_figures(tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", [True] * 6 + [False] * 14)
    second = write(tmp_path / "b.jsonl", [True] * 5 + [False] + [True] * 7 + [False] * 7)
    second.write_text("".join(reversed(second.read_text().splitlines(keepends=True))))  # the order is free
    code, output = compare(first, second, "--output", tmp_path / "c.json")
    assert code == 0, output
    found = json.loads((tmp_path / "c.json").read_text())
    assert found["accuracy"] == [0.3, 0.6]
    assert found["difference"] == pytest.approx(0.3)
    low, high = found["difference_ci95"]
    assert 0 < low < 0.3 < high < 0.6
    assert (found["only_first"], found["only_second"]) == (1, 7)
    assert found["mcnemar_p"] == pytest.approx(2 * (1 + 8) / 2**8)  # P(X <= 1), two-sided, 8 coin tosses
    assert "+30.0 points" in output
    assert found["scorers"] == [None, None]


def test_the_scorers_are_shown(tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", [True, False], scorer="codi")
    second = write(tmp_path / "b.jsonl", [True, True], scorer="number")
    code, output = compare(first, second)
    assert code == 0
    assert "scored with 'codi', the second with 'number'" in " ".join(output.split())
    assert "may be theirs" not in compare(first, first)[1]


def test_different_questions_are_refused(tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", [True, False, True])
    for second, said in (
        (write(tmp_path / "b.jsonl", [True, False]), "'q2' in"),
        (write(tmp_path / "c.jsonl", [True] * 3, gold="7"), "another gold"),
        (write(tmp_path / "d.jsonl", []), "is empty"),
        (tmp_path / "none.jsonl", "There is no predictions file"),
    ):
        code, output = compare(first, second)
        assert code == 2
        assert said in " ".join(output.split())
        assert "Traceback" not in output
    (tmp_path / "e.jsonl").write_text('{"id": "q0", "question": "?"}\n')
    assert "line 1: a prediction needs 'gold'" in " ".join(compare(first, tmp_path / "e.jsonl")[1].split())
    (tmp_path / "f.jsonl").write_text("{\n")
    assert "line 1: not JSON" in compare(first, tmp_path / "f.jsonl")[1]


def test_an_output_that_is_there_is_kept(tmp_path: Path) -> None:
    first, second = (write(tmp_path / name, [True, False]) for name in ("a.jsonl", "b.jsonl"))
    (tmp_path / "c.json").write_text("mine")
    assert compare(first, second, "--output", tmp_path / "c.json")[0] == 2
    assert (tmp_path / "c.json").read_text() == "mine"
