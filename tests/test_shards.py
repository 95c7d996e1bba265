"""Folders and patterns of shards, what `datasets` saved to disk, and which strings name data at all."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from codi.data.sources import has_own_columns, is_data_path, is_source, load_examples, source_name
from codi.errors import DataError
from codi.evaluation.benchmarks import load_benchmark


def shard(path: Path, *questions: str, answer: str = "1") -> Path:
    """JSON lines (packed where the name says so), one row a question."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(json.dumps({"question": q, "answer": answer}) + "\n" for q in questions).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def asked(source: object, **options: Any) -> list[str]:
    return [example.question for example in load_examples(str(source), **options)[0]]


def test_shards_are_read_in_natural_order_and_named(tmp_path: Path) -> None:
    for number in (10, 2, 1):
        shard(tmp_path / f"part-{number}.jsonl.gz", f"Q{number}a", f"Q{number}b")
    for name in (".hidden.jsonl", "README.md", "dataset_infos.json", "LICENSE"):
        (tmp_path / name).write_text("no rows")
    for source in (
        tmp_path,
        f"{tmp_path}/",
        tmp_path / "part-*.jsonl.gz",
        tmp_path / "part-*",
        tmp_path / "*",
    ):
        examples, report = load_examples(str(source))
        assert [example.question for example in examples] == ["Q1a", "Q1b", "Q2a", "Q2b", "Q10a", "Q10b"]
        assert [example.id for example in examples][::3] == ["part-1:1", "part-2:2"]
        assert report.read == 6
    shard(tmp_path / "part-3.jsonl.gz", "Q3a", "")
    with pytest.raises(DataError, match=r"part-3\.jsonl\.gz, line 2: empty question"):
        load_examples(str(tmp_path))
    assert load_examples(str(tmp_path), limit=3)[1].stopped_at == 3  # the third shard is never opened


@pytest.mark.parametrize(
    "names",
    [
        ("train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl", "validation-00000-of-00001.jsonl"),
        ("data/train-00000-of-00002.jsonl", "data/train-00001-of-00002.jsonl", "data/validation-00000.jsonl"),
        ("train/0.jsonl", "train/1.jsonl", "dev/0.jsonl"),
        ("gsm_train_1.jsonl", "gsm_train_2.jsonl", "gsm_valid.csv"),
    ],
)
def test_the_split_is_chosen_by_name(tmp_path: Path, names: tuple[str, str, str]) -> None:
    folder = tmp_path / "set"
    shard(folder / names[0], "T1")
    shard(folder / names[1], "T2")
    shard(folder / names[2], "V1")
    if names[2].endswith("csv"):
        (folder / names[2]).write_text("question,answer\nV1,1\n")
    assert asked(folder) == ["T1", "T2"]
    assert asked(folder, split="validation") == asked(f"{folder}?split=dev") == ["V1"]
    assert asked(folder, split="validation", limit=1) == ["V1"]
    if not names[2].endswith("csv"):
        assert asked(folder, split="train+validation") == ["T1", "T2", "V1"]
    with pytest.raises(
        DataError, match=r"no split 'test'. Splits: (train, validation|validation, train)\. Choose"
    ):
        load_benchmark(str(folder))


def test_a_folder_of_one_split_is_not_taken_for_another(tmp_path: Path) -> None:
    file = shard(tmp_path / "train-0.jsonl", "T")
    with pytest.raises(DataError, match=r"no split 'validation'. Splits: train"):
        load_examples(str(tmp_path), split="validation")
    # Who names the files has chosen.
    assert asked(file, split="validation") == asked(tmp_path / "train-*.jsonl", split="validation") == ["T"]
    shard(tmp_path / "extra.jsonl", "X")
    with pytest.raises(
        DataError, match=r"files of the splits train and others \('extra\.jsonl'\)\. Give a pattern"
    ):
        load_examples(str(tmp_path))


def test_several_forms_are_refused(tmp_path: Path) -> None:
    shard(tmp_path / "a.jsonl", "Q")
    shard(tmp_path / "a.jsonl.gz", "Q")
    with pytest.raises(DataError, match=r"several forms: 1 \.jsonl, 1 \.jsonl\.gz\..*/\*\.jsonl'"):
        load_examples(str(tmp_path))
    assert asked(tmp_path / "*.jsonl") == ["Q"]


def test_folders_of_folders(tmp_path: Path) -> None:
    shard(tmp_path / "main" / "train.jsonl", "M")
    shard(tmp_path / "socratic" / "train.jsonl", "S")
    (tmp_path / "README.md").write_text("a card")
    with pytest.raises(DataError, match=r"several folders of data: main, socratic\. Give the path of one"):
        load_examples(str(tmp_path))
    assert asked(tmp_path / "main") == ["M"]
    examples, _ = load_examples(str(tmp_path / "*" / "train.jsonl"))
    assert [(e.id, e.question) for e in examples] == [("main/train:1", "M"), ("socratic/train:1", "S")]


def test_patterns_without_files(tmp_path: Path) -> None:
    shard(tmp_path / "a.md", "Q")
    with pytest.raises(DataError, match=r"No file of data matches .*found: nothing"):
        load_examples(str(tmp_path / "b-*.jsonl"))
    with pytest.raises(DataError, match=r"found: 1 files of no known form"):
        load_examples(str(tmp_path / "*.md"))
    odd = shard(tmp_path / "in[1].jsonl", "Q")  # a file that is there is no pattern
    assert asked(odd) == ["Q"]


def test_an_empty_shard_is_named(tmp_path: Path) -> None:
    shard(tmp_path / "a-1.jsonl", "Q")
    shard(tmp_path / "a-2.jsonl")
    with pytest.raises(DataError, match=r"a-2\.jsonl' is empty"):
        load_examples(str(tmp_path))


def test_what_datasets_saved(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    train = datasets.Dataset.from_list([{"question": "T", "steps": ["1+1=2"], "answer": 2.5}] * 3)
    test = datasets.Dataset.from_list([{"question": "E", "steps": ["1+1=2"], "answer": 2.0}])
    train.save_to_disk(tmp_path / "one", num_shards=2)
    datasets.DatasetDict(train=train, test=test).save_to_disk(tmp_path / "both")
    examples, _ = load_examples(str(tmp_path / "one"), split="test+train")
    assert [(e.id, e.question, e.steps, e.answer) for e in examples] == [
        (f"one:{i}", "T", ("1+1=2",), "2.5") for i in (1, 2, 3)
    ]
    assert asked(tmp_path / "both") == ["T"] * 3
    assert asked(tmp_path / "both", split="test") == ["E"]
    assert asked(tmp_path / "both", split="test+train", limit=2) == ["E", "T"]
    with pytest.raises(DataError, match=r"no split 'validation'. Splits: train, test"):
        load_examples(str(tmp_path / "both"), split="validation")
    (tmp_path / "one" / "state.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read back"):
        load_examples(str(tmp_path / "one"))


def test_a_home_folder_is_meant_by_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    shard(tmp_path / "mine.jsonl", "Q")
    assert asked("~/mine.jsonl") == asked("~/mine*") == ["Q"]


def test_what_names_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for path in (
        "x.jsonl",
        "x.TSV",
        "x.json.gz",
        "a/b/x.parquet",
        "folder",
        "folder?split=a",
        "x-*.csv",
        "x.jsonl?split=a",
    ):
        assert (is_data_path(path), is_source(path), has_own_columns(path)) == (True, True, False), path
    for known in ("gsm8k", "zen-E/GSM8k-Aug"):
        assert is_source(known)
        assert has_own_columns(known)
        assert not is_data_path(known)
    for hub in ("hub:owner/name", "owner/name", "hub:owner/name?split=a&config=b"):
        assert is_source(hub)
        assert not is_data_path(hub)
        assert not has_own_columns(hub)
    for generated in ("word-problems", "word-problems?seed=3"):
        assert has_own_columns(generated)
        assert not is_data_path(generated)
    for name in ("gsm9k", "in_domain", "notes.md"):
        assert not is_source(name)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("a/test.jsonl.gz", "test"), ("b.csv", "b"), ("a/test-*.parquet", "test"), ("*.jsonl", "data"),
        ("b.json?split=dev", "b-dev"), ("hub:owner/name?config=main&split=test", "owner-name-main-test"),
        ("owner/name", "owner-name"),
        ("hub:a/b?split=train+test", "a-b-train-test"), ("gsm8k-aug", "gsm8k-aug"),
    ],
)  # fmt: skip
def test_results_of_a_source_have_a_name(source: str, name: str) -> None:
    assert source_name(source) == name


def test_a_folder_is_evaluated_on_its_test_split(tmp_path: Path) -> None:
    shard(tmp_path / "set" / "train-0.jsonl", "T")
    shard(tmp_path / "set" / "test-0.jsonl", "E1", "E2")
    examples, _, benchmark = load_benchmark(str(tmp_path / "set"))
    assert ([e.question for e in examples], benchmark.name) == (["E1", "E2"], "set")
    examples, report, _ = load_benchmark(str(tmp_path / "set"), limit=1)
    assert ([e.question for e in examples], report.stopped_at) == (["E1"], 1)
    # A copy of a named set may be the folder it was downloaded into.
    shard(tmp_path / "copy" / "main" / "test-00000-of-00001.jsonl", *(f"Q{i}" for i in range(180)))
    assert len(load_benchmark("multiarith", file=str(tmp_path / "copy"))[0]) == 180
    with pytest.raises(DataError, match=r"local copy .*does not exist"):
        load_benchmark("multiarith", file=str(tmp_path / "none-*.jsonl"))


def test_what_cannot_be_opened_is_said(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    path = shard(tmp_path / "in.jsonl", "Q")
    path.chmod(0)
    with pytest.raises(DataError, match="cannot be read"):
        load_examples(str(path))
