"""Hub sets, generated problems, writing and excluding, and the real files with their row counts."""

from __future__ import annotations

import json
import os
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from codi.data.example import Example
from codi.data.sources import HUB_SETS, Columns, exclude_questions, load_examples, write_jsonl
from codi.errors import DataError, UsageError

SHARED = Path(os.environ.get("CODI_SHARED_DATA", Path(__file__).parents[1] / ".." / "shared" / "data"))


# Hub sets


def fake_hub(
    monkeypatch: pytest.MonkeyPatch, rows: list[dict[str, Any]] | Exception
) -> list[tuple[Any, ...]]:
    """Stand in for `datasets`; gives the calls made to it."""
    calls: list[tuple[Any, ...]] = []

    class Loaded(list[dict[str, Any]]):
        column_names = list(rows[0]) if isinstance(rows, list) else []

    def load_dataset(hub_id: str, config: str | None, *, split: str) -> Loaded:
        calls.append((hub_id, config, split))
        if isinstance(rows, Exception):
            raise rows
        return Loaded(rows)

    module = types.ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    return calls


def test_hub_set(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"question": "Q?", "answer": "So <<1+2=3>>3.\n#### 3"}]
    calls = fake_hub(monkeypatch, rows)
    examples, _ = load_examples("gsm8k", split="test")
    assert examples == [Example("gsm8k/test:1", "Q?", ("So <<1+2=3>>3.",), "3")]
    load_examples("openai/gsm8k")
    assert calls == [("openai/gsm8k", "main", "test"), ("openai/gsm8k", "main", "train")]


def test_hub_splits_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"question_concat": "Q?", "Answer": "3.0", "Body": "", "Question": "", "ID": None}]
    calls = fake_hub(monkeypatch, rows)
    examples, report = load_examples("svamp", split="train+test")
    assert [example.id for example in examples] == ["svamp/train:1", "svamp/test:1"]
    assert calls == [("ChilleD/SVAMP", None, "train"), ("ChilleD/SVAMP", None, "test")]
    assert report.kept == 2


def test_known_nulls_are_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"question": "Q?", "cot": "So 3. Now 4.", "answer": a} for a in ("4", None, "5")]
    fake_hub(monkeypatch, rows)
    examples, report = load_examples("gsm8k-aug-nl")
    assert [example.steps for example in examples] == [("So 3.", "Now 4.")] * 2
    assert (report.read, report.kept, report.dropped) == (3, 2, {"missing answer": 1})
    assert "1 missing answer" in report.describe()
    with pytest.raises(DataError, match="gsm8k-aug-published/train, row 2: missing answer"):
        load_examples("gsm8k-aug-published")
    fake_hub(monkeypatch, [{"question": "", "cot": "", "answer": "4"}])
    with pytest.raises(DataError, match="row 1: empty question"):
        load_examples("gsm8k-aug-nl")


def test_no_network_says_how_to_use_a_local_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_hub(monkeypatch, ConnectionError("Couldn't reach 'openai/gsm8k' on the Hub"))
    with pytest.raises(DataError, match=r"'gsm8k' .*Couldn't reach .*give the path of that file in place"):
        load_examples("gsm8k")


def test_unknown_names(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_hub(monkeypatch, ConnectionError("must not be called"))
    with pytest.raises(DataError, match=r"'gsm8k-augg'\. Did you mean 'gsm8k-aug'\?") as raised:
        load_examples("gsm8k-augg")
    assert all(name in str(raised.value) for name in (*HUB_SETS, "word-problems"))
    with pytest.raises(DataError, match=r"Did you mean 'word-problems'\?"):
        load_examples("word-problem")
    with pytest.raises(DataError, match=r"no split 'valid'. Did you mean 'validation'\?"):
        load_examples("gsm8k-aug", split="valid")
    with pytest.raises(DataError, match=r"no split 'test'.*evaluate on gsm8k"):
        load_examples("gsm8k-aug-nl", split="test")


# Generated problems


def test_word_problems() -> None:
    from codi.data.word_problems import generate

    examples, report = load_examples("word-problems?seed=2&count=5", split="test")
    assert examples == generate("test", 5, 2)
    assert (report.read, report.kept, report.dropped) == (5, 5, {})
    assert load_examples("word-problems?count=4", split="validation", limit=3)[1].dropped == {
        "beyond the limit of 3": 1
    }
    both, _ = load_examples("word-problems?count=2", split="test+reworded")
    assert both == generate("test", 2, 1) + generate("reworded", 2, 1)


def test_word_problems_of_more_steps() -> None:
    examples, _ = load_examples("word-problems?count=300&steps=6")
    lengths = [len(example.steps) for example in examples]
    assert set(lengths) == {1, 2, 3, 4, 5, 6}
    assert lengths.count(6) > lengths.count(2)
    longer, _ = load_examples("word-problems?count=3&steps=6", split="longer_chains")
    assert {len(example.steps) for example in longer} == {7}


def test_word_problems_default_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def generate(split: str, count: int, seed: int, style: object) -> list[Example]:
        asked.append((split, count, seed))
        return [Example("1", "Q?", (), "1")]

    monkeypatch.setattr("codi.data.word_problems.generate", generate)
    for split in ("train", "test", "longer_chains"):
        load_examples("word-problems", split=split)
    assert asked == [("train", 20_000, 1), ("test", 1_000, 1), ("longer_chains", 1_000, 1)]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("word-problems?sed=2", r"unknown option 'sed'\. Did you mean 'seed'\?"),
        ("word-problems?seed", "seed must be a whole number"),
        ("word-problems?count=0", "count must be a whole number of at least 1, got '0'"),
        ("word-problems?seed=-1", "seed must be a whole number of at least 0"),
        ("word-problems?count=ten", "got 'ten'"),
        ("word-problems?steps=0", "steps must be a whole number of at least 1, got '0'"),
        ("word-problems?steps=7", "a week has only 7 days"),
    ],
)
def test_word_problem_options(source: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_examples(source)


def test_word_problems_refuse_columns_and_unknown_splits() -> None:
    with pytest.raises(UsageError, match="has none"):
        load_examples("word-problems?count=1", columns=Columns(answer="answer"))
    with pytest.raises(DataError, match="validation"):
        load_examples("word-problems?count=1", split="valid")


# Writing and excluding


def test_written_examples_are_read_back(tmp_path: Path) -> None:
    examples = [
        Example("a", " Q?\n“é” \u2028 \ud800", ("<<1+2=3>>", "It is 3.5. Mr. X", " x "), "-3.50"),
        Example("7", "R? 1 || 2", (), "1,000 # x"),
    ]
    path = tmp_path / "new" / "out.jsonl"
    write_jsonl(examples, path)
    assert load_examples(str(path))[0] == examples
    assert json.loads(path.read_text(encoding="utf-8").split("\n")[1]) == {
        "id": "7", "question": "R? 1 || 2", "steps": [], "answer": "1,000 # x"
    }  # fmt: skip
    assert [file.name for file in path.parent.iterdir()] == ["out.jsonl"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.jsonl"
    write_jsonl([Example("a", "Q?", (), "1")], path)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DataError, match=r"out\.jsonl' cannot be written: No space left on device"):
        write_jsonl([Example("b", "R?", (), "2")], path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["out.jsonl"]


def test_validation_questions_are_excluded_from_training() -> None:
    train = [Example(str(i), question, (), "1") for i, question in enumerate(["Q  one?\n", "Two?", "q one?"])]
    kept, report = exclude_questions(train, [Example("v", " Q one?", (), "2")])
    assert [example.id for example in kept] == ["1", "2"]
    assert (report.read, report.kept, report.dropped) == (3, 2, {"question also in validation": 1})


# Real files


@pytest.mark.parametrize(
    ("name", "rows", "without_steps"),
    [
        ("gsm8k_train", 7473, 0),
        ("gsm8k_train_eq", 7473, 95),
        ("gsm8k_test", 1319, 0),
        ("gsm8k_aug_train_first3000", 3000, 1),
        ("gsm8k_aug_valid", 500, 6),
        ("gsm8k_aug_test", 1319, 18),
        ("svamp", 1000, 0),
        ("gsmhard", 1319, 1319),
        ("multiarith_test180", 180, 180),
        ("multiarith_600", 600, 0),
        ("commonsenseqa_train", 9741, 9741),
        ("commonsenseqa_dev", 1221, 1221),
    ],
)
def test_real_files(name: str, rows: int, without_steps: int) -> None:
    path = SHARED / f"{name}.jsonl"
    if not path.exists():
        pytest.skip(f"no {path.name} here")
    letters = name.startswith("commonsenseqa")
    examples, report = load_examples(str(path), require_answer_number=not letters)
    assert (report.read, report.kept, report.dropped) == (rows, rows, {})
    assert sum(not example.steps for example in examples) == without_steps
    assert (examples[0].id, examples[-1].id) == (f"{name}:1", f"{name}:{rows}")
    if letters:
        assert {example.answer for example in examples} == set("ABCDE")


ONLY_THE_ANSWER = {"gsm8k_train:1298", "gsm8k_train:5416"}
"""Real rows whose last step is "The answer is 8." or "The answer is therefore 3."."""


@pytest.mark.parametrize("name", ["gsm8k_train", "gsm8k_train_eq", "gsm8k_test", "gsm8k_aug_train_first3000"])
def test_real_rows_are_kept_to_the_letter(name: str) -> None:
    path = SHARED / f"{name}.jsonl"
    if not path.exists():
        pytest.skip(f"no {path.name} here")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    examples, report = load_examples(str(path))
    assert report.noted == {}
    for row, example in zip(rows, examples, strict=True):
        steps = tuple(row["cot"][:-1] if example.id in ONLY_THE_ANSWER else row["cot"])
        assert (example.question, example.steps, example.answer) == (row["question"], steps, row["answer"])


def test_real_training_without_its_validation_questions() -> None:
    train, valid = SHARED / "gsm8k_train_eq.jsonl", SHARED / "gsm8k_aug_valid.jsonl"
    if not (train.exists() and valid.exists()):
        pytest.skip("no real files here")
    kept, report = exclude_questions(load_examples(str(train))[0], load_examples(str(valid))[0])
    assert len(kept) == report.kept == 7473 - 500
    assert report.dropped == {"question also in validation": 500}
