"""Reading files: every format, every layout, every refusal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from codi.data.example import Example
from codi.data.sources import Columns, load_examples
from codi.errors import DataError, UsageError


def save(path: Path, *rows: Any) -> str:
    """Write rows as JSONL, JSON or text, by the ending."""
    if path.suffix == ".jsonl":
        text = "".join(json.dumps(row) + "\n" for row in rows)
    elif path.suffix == ".json":
        text = json.dumps(list(rows))
    else:
        text = "".join(f"{row}\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return str(path)


def only(source: str, **options: Any) -> Example:
    examples, report = load_examples(source, **options)
    assert (report.read, report.kept, report.dropped) == (1, 1, {})
    return examples[0]


# Formats and layouts


@pytest.mark.parametrize(
    ("row", "example"),
    [
        ({"question": "Q?", "cot": "<<1+2=3>> <<3*2=6>>", "answer": "6"},
         Example("in:1", "Q?", ("<<1+2=3>>", "<<3*2=6>>"), "6")),
        ({"question": "Q?", "cot": ["a. b", "c"], "answer": "6"}, Example("in:1", "Q?", ("a. b", "c"), "6")),
        ({"question": "Q?", "rationale": "It is 3.5. Mr. X.", "answer": "6"},
         Example("in:1", "Q?", ("It is 3.5.", "Mr. X."), "6")),
        ({"question": "Q?", "steps": [], "answer": "6"}, Example("in:1", "Q?", (), "6")),
        ({"question": "Q?", "steps": None, "answer": "6"}, Example("in:1", "Q?", (), "6")),
        ({"question": "Q?", "answer": "It is <<1+2=3>>3 now.\nSo 1,234.\n#### 1,234"},
         Example("in:1", "Q?", ("It is <<1+2=3>>3 now.", "So 1,234."), "1234")),
        ({"question": "Q?", "answer": "#### 1,2"}, Example("in:1", "Q?", (), "1,2")),
        ({"Body": "He has 3", "Question": "And now?", "Answer": 3.0, "ID": "chal-1", "Type": "x"},
         Example("chal-1", "He has 3. And now?", (), "3")),
        ({"question_concat": "He has 3. And now?", "Answer": "3", "Body": "", "Equation": ""},
         Example("in:1", "He has 3. And now?", (), "3")),
        ({"question": " Q? ", "final_ans": " 8 "}, Example("in:1", " Q? ", (), "8")),
        ({"instruction": "Q?", "response": "-5"}, Example("in:1", "Q?", (), "-5")),
        ({"input": "Q?", "code": "def f(): ...", "target": -9867630.0},
         Example("in:1", "Q?", (), "-9867630")),
        ({"id": 7, "question": "Q?", "choices": {"label": ["A", "B"], "text": ["bank", "mall"]},
          "answerKey": "B"}, Example("7", "Question: Q?\nChoices:\nA: bank\nB: mall", (), "B")),
        ({"id": "k", "question": {"stem": "Q?", "choices": [{"label": "A", "text": "bank"}]},
          "answerKey": "A"}, Example("k", "Question: Q?\nChoices:\nA: bank", (), "A")),
    ],
)  # fmt: skip
@pytest.mark.parametrize("ending", ["jsonl", "json"])
def test_known_layouts(tmp_path: Path, row: dict[str, Any], example: Example, ending: str) -> None:
    assert only(save(tmp_path / f"in.{ending}", row)) == example


@pytest.mark.parametrize(
    ("written", "answer"),
    [
        ("18.0", "18"), ("18", "18"), ("-5", "-5"), ("3.5", "3.5"), ("3.50", "3.5"), ("-0.25", "-0.25"),
        ("9280000000001.25", "9280000000001.25"), ("123456789012345678901", "123456789012345678901"),
        ("0.1000000000000000055", "0.1000000000000000055"), ("1e3", "1000"), ("1e-7", "0.0000001"),
        ("0", "0"), ("0.0", "0"), ("100.0", "100"), ("1e999999", "1E+999999"), ('"18.0"', "18.0"),
        ('"1,000"', "1,000"), ("true", "true"), ("false", "false"),
    ],
)  # fmt: skip
def test_numbers_keep_their_exact_value(tmp_path: Path, written: str, answer: str) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text(f'{{"question": "Q?", "answer": {written}}}\n')
    assert only(str(path)).answer == answer


def test_csv(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(
        '\ufeffprompt,why,label\n"Two, or\nthree?","<<1+1=2>> <<2+1=3>>",3.50\nNext?,"[""a. b"", ""c""]",7\n',
        encoding="utf-8",
    )
    examples, report = load_examples(str(path), columns=Columns("prompt", "why", None, "label"))
    assert examples[0] == Example("mine:2", "Two, or\nthree?", ("<<1+1=2>>", "<<2+1=3>>"), "3.50")
    assert (examples[1].id, examples[1].question, examples[1].answer) == ("mine:4", "Next?", "7")
    listed, _ = load_examples(str(path), columns=Columns(question="prompt", steps="why", answer="label"))
    assert listed[1].steps == ("a. b", "c")
    assert report.as_dict() == {
        "source": str(path), "read": 2, "kept": 2, "dropped": {}, "stopped_at": None
    }  # fmt: skip


def test_parquet(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "in.parquet"
    table = {"question": ["Q?", "R?"], "steps": [["a", "b"], None], "answer": [18.0, 0.1]}
    pq.write_table(pa.table(table), path)
    examples, _ = load_examples(str(path))
    assert examples == [Example("in:1", "Q?", ("a", "b"), "18"), Example("in:2", "R?", (), "0.1")]
    pq.write_table(pa.table(table | {"answer": [1.0, float("nan")]}), path)
    with pytest.raises(DataError, match=r"in\.parquet, row 2: missing answer"):
        load_examples(str(path))


def test_icot_text(tmp_path: Path) -> None:
    path = save(tmp_path / "train.txt", "Q? || <<1+2=3>> <<3*2=6>> #### 6", "", "R?||#### -5")
    examples, report = load_examples(path)
    assert examples == [
        Example("train:1", "Q? ", ("<<1+2=3>>", "<<3*2=6>>"), "6"),
        Example("train:3", "R?", (), "-5"),
    ]
    assert report.read == 2


def test_steps_rule_and_partial_columns(tmp_path: Path) -> None:
    path = save(tmp_path / "in.jsonl", {"question": "Q?", "why": "Mr. X has 3. So 3.", "answer": "3"})
    assert only(path).steps == ()
    assert only(path, columns=Columns(rationale="why")).steps == ("Mr. X has 3.", "So 3.")
    literal = only(path, columns=Columns(rationale="why"), steps_rule="published-sentences")
    assert literal.steps == ("Mr.", "X has 3.", "So 3.")


def test_limit_stops_reading(tmp_path: Path) -> None:
    path = save(tmp_path / "in.jsonl", *({"question": f"Q{i}", "answer": i} for i in range(5)))
    examples, report = load_examples(path, limit=2)
    assert [example.answer for example in examples] == ["0", "1"]
    assert (report.read, report.kept, report.dropped, report.stopped_at) == (2, 2, {}, 2)
    assert "the rest was not read (limit 2)" in report.describe()
    whole = load_examples(path, limit=5)[1]
    assert (whole.stopped_at, whole.describe()) == (None, f"{path}: 5 rows read, 5 kept")
    with pytest.raises(UsageError, match="at least 1"):
        load_examples(path, limit=0)


# Refusals


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("in.jsonl", "", r"in\.jsonl' is empty"),
        ("in.jsonl", "\n  \n", r"is empty"),
        ("in.json", " ", r"is empty"),
        ("in.json", "[]", r"is empty"),
        ("in.csv", "", r"is empty"),
        ("in.csv", "question,answer\n", r"is empty"),
        ("in.txt", "", r"is empty"),
        ("in.parquet", "", r"is empty"),
        ("in.parquet", "no parquet", r"not a readable Parquet file"),
        ("in.jsonl", '{"question": "Q", "answer": "1"}\n\n{"question": "Q",\n',
         r"in\.jsonl, line 3: broken JSON \(.*column"),
        ("in.jsonl", '["Q"]\n', r"row 1: expected a JSON object, found a text: \"Q\""),
        ("in.jsonl", '"Q"\n', r"in\.jsonl: expected a JSON list of objects, or .*; found a text"),
        ("in.jsonl", '{"question": "Q", "answer": 1}\n[1]\n',
         r"line 2: expected a JSON object .* found a list: \[1\]"),
        ("in.jsonl", "[" * 100_000, r"line 1: broken JSON"),
        ("in.json", '[{"question": "Q", "answer": 1},\n oops]', r"in\.json, line 2: broken JSON .*oops"),
        ("in.json", '{"data": []}', r"is empty"),
        ("in.json", '[{"question": "Q", "answer": "1"}, 5]', r"row 2: .* object, found a number"),
        ("in.csv", "question,answer\nQ,1\nQ,1,2\n", r"in\.csv, line 3: more values than the 2 columns"),
        ("in.csv", "question,answer,answer\nQ,1,2\n", r"line 1: the column 'answer' occurs twice"),
        ("in.csv", 'question,answer\n"Q\nR",1\n\n"Q,1\nQ,2\n', r"in\.csv, line 5: broken CSV"),
        ("in.jsonl", '{"question": "Q", "answer": ' + "9" * 5000 + "}", r"line 1: broken JSON"),
        ("in.txt", "Q? <<1+1=2>> #### 2\n", r"in\.txt, line 1: expected .* found no '\|\|'"),
        ("in.txt", "Q?||<<1+1=2>> 2\n", r"in\.txt, line 1: .* found no '####'"),
        ("in.txt", "Q?||a||b #### 2\n", r"in\.txt, line 1: .* more than once"),
        ("in.tsv", "question\tanswer\n", r"is empty"),
        ("in.xlsx", "PK", r"ending '\.xlsx'.* Save the sheet as 'CSV UTF-8'.*\.jsonl, \.json, \.csv"),
        ("in.jsonl", '{"ask": "Q", "answer": "1"}\n',
         r"no column recognised as the question .*found: 'ask', 'answer'"),
        ("in.csv", "question,result\nQ,1\n", r"no column recognised as the answer .*'question', 'result'"),
        ("in.csv", "problem,query,answer\nQ,1,2\n", r"several .*question: 'problem', 'query'"),
        ("in.csv", "question,response,target\nQ,1,2\n", r"several .*answer: 'target', 'response'"),
        ("in.jsonl", '{"question": "Q", "answer": "1"}\n{"question": " ", "answer": "1"}\n',
         r"in\.jsonl, line 2: empty question.*skip_bad_rows"),
        ("in.jsonl", '{"question": "Q", "answer": "1"}\n{"answer": "1"}\n', r"line 2: empty question"),
        ("in.jsonl", '{"question": "Q", "answer": "1"}\n{"question": "Q"}\n', r"line 2: missing answer"),
        ("in.jsonl", '{"question": "Q", "answer": null}\n', r"line 1: missing answer"),
        ("in.jsonl", '{"question": "Q", "answer": NaN}\n', r"line 1: missing answer"),
        ("in.jsonl", '{"question": "Q", "answer": "So 5. #### "}\n', r"line 1: missing answer"),
        ("in.csv", "question,answer\nQ\n", r"in\.csv, line 2: missing answer"),
        ("in.txt", "Q?||<<1+1=2>> ####\n", r"in\.txt, line 1: missing answer"),
        ("in.jsonl", '{"question": 5, "answer": "1"}\n', r"line 1: the question is not text but int"),
        ("in.jsonl", '{"question": "Q", "answer": ["1"]}\n', r"line 1: the answer is neither text"),
        ("in.jsonl", '{"question": "Q", "steps": [1], "answer": "1"}\n', r"line 1: the steps hold something"),
        ("in.jsonl", '{"question": "Q", "steps": 5, "answer": "1"}\n', r"line 1: the steps are not a list"),
        ("in.jsonl", '{"question": "Q", "choices": 5, "answerKey": "A"}\n', r"line 1: the choices cannot"),
    ],
)  # fmt: skip
def test_broken_files_are_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        load_examples(str(path))


def test_missing_file_folder_and_wrong_encoding(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl' does not exist"):
        load_examples(str(tmp_path / "none.jsonl"))
    with pytest.raises(DataError, match="holds no file of a known form"):
        load_examples(str(tmp_path))
    path = tmp_path / "in.csv"
    path.write_bytes("question,answer\ncafé,1\n".encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        load_examples(str(path))


def test_columns_that_are_not_there(tmp_path: Path) -> None:
    path = save(tmp_path / "in.jsonl", {"question": "Q?", "label": "3", "a": "", "b": []})
    with pytest.raises(
        DataError, match=r"no column 'labels', asked for as the answer. Did you mean 'label'\?"
    ):
        load_examples(path, columns=Columns(answer="labels"))
    with pytest.raises(DataError, match="Ask for one of them"):
        load_examples(path, columns=Columns(rationale="a", steps="b", answer="label"))


def test_bad_rows_are_skipped_and_counted_when_asked(tmp_path: Path) -> None:
    rows = [("Q", "1"), ("", "1"), ("Q", None), ("Q", ""), ("Q", "blue"), ("Q", "about -3.5 kg")]
    path = save(tmp_path / "in.jsonl", *({"question": q, "answer": a} for q, a in rows))
    examples, report = load_examples(path, skip_bad_rows=True, require_answer_number=True)
    assert [example.id for example in examples] == ["in:1", "in:6"]
    assert (report.read, report.kept) == (6, 2)
    assert report.dropped == {"empty question": 1, "missing answer": 2, "answer without a number": 1}
    assert load_examples(path, skip_bad_rows=True)[1].kept == 3
    path = save(tmp_path / "letters.jsonl", {"question": "Q", "answer": "B"})
    with pytest.raises(DataError, match=r"letters\.jsonl, line 1: answer without a number"):
        load_examples(path, require_answer_number=True)
    with pytest.raises(DataError, match=r"No example is left of .*1 answer without a number"):
        load_examples(path, require_answer_number=True, skip_bad_rows=True)
