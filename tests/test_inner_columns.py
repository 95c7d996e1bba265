"""Columns inside columns: named with dots, and understood in rows for reinforcement learning."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

import codi
from codi.data.example import Example
from codi.data.sources import Columns, load_examples
from codi.errors import DataError

Q = "A pen costs 3 and a book 4. What do both cost?"
ASKED = [{"role": "user", "content": f"{Q} Put the answer after ####."}]
REWARD = {"ground_truth": "7", "style": "rule"}


def one(path: Path, row: dict[str, Any], columns: Columns | None = None) -> Example:
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    [example], _ = load_examples(str(path), columns=columns)
    return example


@pytest.mark.parametrize(
    ("row", "question", "steps", "answer"),
    [
        (
            {
                "data_source": "gsm8k",
                "prompt": ASKED,
                "ability": "math",
                "reward_model": REWARD,
                "extra_info": {
                    "split": "train",
                    "index": 3,
                    "question": Q,
                    "answer": "The pen costs 3.\n3 + 4 = 7.\n#### 7",
                },
            },
            Q,
            ("The pen costs 3.", "3 + 4 = 7."),
            "7",
        ),
        (
            {"prompt": ASKED, "reward_model": REWARD, "extra_info": {"index": "a1"}},
            ASKED[0]["content"],
            (),
            "7",
        ),
        ({"prompt": ASKED, "reward_model": str(REWARD)}, ASKED[0]["content"], (), "7"),
        ({"prompt": Q, "response": "3 + 4 = 7.", "reward_model": REWARD}, Q, ("3 + 4 = 7.",), "7"),
        ({"question": Q, "ground_truth_answer": 7, "solution": "3 + 4 = 7."}, Q, ("3 + 4 = 7.",), "7"),
        ({"prompt": ASKED, "extra_info": {"question": Q, "answer": "7"}}, Q, (), "7"),
        # What stands in the row itself goes before.
        ({"question": Q, "answer": "7", "extra_info": {"question": "-", "answer": "7"}}, Q, (), "7"),
        (
            {"prompt": ASKED, "reward_model": {"ground_truth": "C", "style": "rule"}},
            ASKED[0]["content"],
            (),
            "C",
        ),
    ],
)
def test_rows_of_reinforcement_learning(
    tmp_path: Path, row: dict[str, Any], question: str, steps: tuple[str, ...], answer: str
) -> None:
    example = one(tmp_path / "rows.jsonl", row)
    assert (example.question, example.steps, example.answer) == (question, steps, answer)


def test_names_with_dots(tmp_path: Path) -> None:
    row = {"task": {"text": Q, "gold": {"value": 7}, "work": ["3 + 4 = 7"]}, "turns.text": "-"}
    named = Columns(question="task.text", answer="task.gold.value", steps="task.work")
    example = one(tmp_path / "rows.jsonl", row, named)
    assert (example.question, example.steps, example.answer) == (Q, ("3 + 4 = 7",), "7")
    turns = {"messages": [{"role": "user", "content": Q}, {"role": "assistant", "content": "7"}]}
    named = Columns(question="messages.0.content", answer="messages.1.content")
    example = one(tmp_path / "rows.jsonl", turns, named)
    assert (example.question, example.answer) == (Q, "7")
    whole = {"question": Q, "a.b": "7", "a": {"b": "8"}}
    assert one(tmp_path / "rows.jsonl", whole, Columns(answer="a.b")).answer == "7"
    examples, _ = codi.load_examples(str(tmp_path / "rows.jsonl"), columns=Columns(answer="a.b"))
    assert examples[0].answer == "7"


def test_objects_that_a_table_wrote_as_text(tmp_path: Path) -> None:
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("question", "meta"), (Q, str({"gold": "7"})), (Q, json.dumps({"gold": 8}))])
    examples, _ = load_examples(str(tmp_path / "rows.csv"), columns=Columns(answer="meta.gold"))
    assert [example.answer for example in examples] == ["7", "8"]


def test_parquet(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [{"prompt": ASKED, "reward_model": REWARD, "extra_info": {"question": Q}}]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    [example], _ = load_examples(str(tmp_path / "rows.parquet"))
    assert (example.question, example.answer) == (Q, "7")


def test_a_name_that_is_not_there_is_told_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no column 'meta.gld'.*Did you mean 'meta.gold'.*'meta.style'"):
        one(
            tmp_path / "rows.jsonl",
            {"question": Q, "meta": {"gold": 7, "style": "x"}},
            Columns(answer="meta.gld"),
        )
    with pytest.raises(DataError, match=r"recognised as the answer.*'meta.gold'"):
        one(tmp_path / "rows.jsonl", {"question": Q, "meta": {"gold": 7, "style": "x"}})
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"question": Q, "meta": meta}) + "\n" for meta in ({"gold": 7}, {})))
    with pytest.raises(DataError, match="line 2: missing answer"):
        load_examples(str(path), columns=Columns(answer="meta.gold"))
