"""Any set on the hub. A folder here stands for the hub: only `load_dataset`'s address is changed, no row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from codi.data.example import Example
from codi.data.hub import HubSource, parse_hub_source
from codi.data.sources import load_examples
from codi.errors import DataError
from codi.evaluation.benchmarks import load_benchmark

CARD = """---
configs:
- config_name: main
  data_files:
  - {{split: train, path: main/train-*.jsonl}}
  - {{split: test, path: main/test.jsonl}}
{more}---
"""
SOCRATIC = """- config_name: socratic
  data_files:
  - {split: train, path: socratic.jsonl}
"""


def rows(name: str, count: int) -> str:
    return "".join(json.dumps({"question": f"{name}{i}?", "answer": i}) + "\n" for i in range(count))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Sets `owner/several` (two configurations) and `owner/one`; gives what was asked of the library."""
    for name, more in (("several", SOCRATIC), ("one", "")):
        folder = tmp_path / "hub" / name
        (folder / "main").mkdir(parents=True)
        (folder / "README.md").write_text(CARD.format(more=more))
        (folder / "main" / "train-0.jsonl").write_text(rows("T", 1500))
        (folder / "main" / "train-1.jsonl").write_text(rows("U", 3))
        (folder / "main" / "test.jsonl").write_text(rows("E", 4))
        (folder / "socratic.jsonl").write_text(rows("S", 2))
    asked: list[dict[str, Any]] = []
    load = datasets.load_dataset

    def load_dataset(hub_id: str, config: str | None = None, **options: Any) -> Any:
        asked.append({"id": hub_id, "config": config, **options})
        options.pop("revision", None)
        folder = tmp_path / "hub" / hub_id.removeprefix("owner/")
        where = str(folder) if hub_id.startswith("owner/") and folder.is_dir() else hub_id
        return load(where, config, cache_dir=str(tmp_path / "cache"), **options)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.chdir(tmp_path)
    return asked


def test_any_set_by_its_id(hub: list[dict[str, Any]]) -> None:
    examples, report = load_examples("hub:owner/one?split=test&config=main&revision=abc")
    assert examples[0] == Example("owner/one/test:1", "E0?", (), "0")
    assert (len(examples), report.stopped_at) == (4, None)
    assert hub == [{"id": "owner/one", "config": "main", "split": "test", "revision": "abc"}]
    assert len(load_examples("owner/one", split="train")[0]) == 1503
    assert [e.id for e in load_examples("hub:owner/one", split="test+train")[0]][3:5] == [
        "owner/one/test:4", "owner/one/train:1",
    ]  # fmt: skip
    assert len(load_examples("hub:owner/one?split=test+train")[0]) == 1507
    assert load_examples("https://huggingface.co/datasets/owner/one", split="test")[0][0].question == "E0?"


def test_a_limit_streams(hub: list[dict[str, Any]]) -> None:
    examples, report = load_examples("hub:owner/several?config=main", limit=2)
    assert ([e.question for e in examples], report.read, report.stopped_at) == (["T0?", "T1?"], 2, 2)
    assert hub == [{"id": "owner/several", "config": "main", "split": "train", "streaming": True}]
    examples, report = load_examples("hub:owner/several?config=socratic", limit=2)
    assert (len(examples), report.stopped_at) == (2, None)


def test_what_is_missing_is_named(hub: list[dict[str, Any]]) -> None:
    for limit in (None, 2):
        with pytest.raises(
            DataError, match=r"several configurations: main, socratic\. .*owner/several\?config=main'"
        ):
            load_examples("hub:owner/several", limit=limit)
        with pytest.raises(
            DataError, match=r"no configuration 'mian': main, socratic\. Name one: .*\?config=main'"
        ):
            load_examples("hub:owner/several?config=mian", limit=limit)
        with pytest.raises(DataError, match=r"no such split\. Did you mean 'test'\? Splits: train, test\."):
            load_examples("hub:owner/one", split="tests", limit=limit)


def test_no_network_and_unknown_sets(hub: list[dict[str, Any]]) -> None:
    with pytest.raises(
        DataError, match=r"'owner/unknown' .*Couldn't reach.*Without a network, .* in place of"
    ):
        load_examples("owner/unknown")
    with pytest.raises(DataError, match=r"could not be loaded from the hub"):
        load_examples("owner/unknown", limit=1)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (datasets.exceptions.DatasetNotFoundError("Dataset 'owner/x' doesn't exist on the Hub."),
         r"could not be found .*doesn't exist.*spelling at https://huggingface\.co/datasets/owner/x.*login"),
        (RuntimeError("Dataset scripts are no longer supported, but found x.py"),
         r"made by a script.*revision=refs/convert/parquet"),
    ],
)  # fmt: skip
def test_what_the_library_says_is_told(
    monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    def load_dataset(*args: Any, **options: Any) -> Any:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError, match=message):
        load_examples("hub:owner/x")


def test_a_line_lost_on_the_way(hub: list[dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "hub" / "one" / "main" / "test.jsonl").write_text(rows("E", 3) + "{oops\n")
    with pytest.raises(DataError, match=r"'hub:owner/one\?split=test' .*could not be loaded"):
        load_examples("hub:owner/one?split=test", limit=10)


def test_a_hub_set_is_evaluated_on_its_test_split(hub: list[dict[str, Any]]) -> None:
    examples, report, benchmark = load_benchmark("hub:owner/one")
    assert (len(examples), benchmark.name, benchmark.scorer) == (4, "owner-one", "number")
    examples, report, benchmark = load_benchmark("hub:owner/one?split=train", limit=3)
    assert (len(examples), report.stopped_at, benchmark.name) == (3, 3, "owner-one-train")


def test_ids_of_the_hub() -> None:
    assert parse_hub_source("hub:squad?split=dev") == HubSource("squad", "dev")
    assert parse_hub_source("hub:a/b?split=train+test&revision=refs/convert/parquet") == HubSource(
        "a/b", "train+test", revision="refs/convert/parquet"
    )
    assert parse_hub_source("owner/na.me-1") == HubSource("owner/na.me-1")
    for no_id in ("squad", "./owner/name", "a/b/c", "owner/", "../x", "a b/c"):
        assert parse_hub_source(no_id) is None
    for source, message in (
        ("hub:owner/name?splits=a", r"unknown option 'splits'\. Did you mean 'split'\?"),
        ("hub:owner/name?split=", "has no value"),
        ("hub:", "names no set"),
        ("hub:owner/name/blob/main/x.parquet", "A single file there is downloaded first"),
    ):
        with pytest.raises(DataError, match=message):
            parse_hub_source(source)


def test_known_sets_take_options_too(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_hub_source("gsm8k") == HubSource("openai/gsm8k", config="main")
    assert parse_hub_source("hub:gsm8k?config=socratic&split=test") == HubSource(
        "openai/gsm8k", "test", "socratic"
    )
    asked: list[Any] = []

    def load_dataset(hub_id: str, config: str | None, *, split: str) -> datasets.Dataset:
        asked.append((hub_id, config, split))
        return datasets.Dataset.from_list([{"question": "Q?", "answer": "So 3.\n#### 3"}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    for source in ("gsm8k?split=test", "openai/gsm8k?config=socratic&split=test", "hub:gsm8k?split=test"):
        assert load_examples(source)[0][0].answer == "3"
    assert asked == [("openai/gsm8k", config, "test") for config in ("main", "socratic", "main")]
    with pytest.raises(DataError, match="no split 'dev'"):
        load_examples("gsm8k?split=dev")


def test_a_path_gone_wrong_is_no_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    with pytest.raises(DataError, match=r"Unknown data source 'data/trian'.*'hub:data/trian'"):
        load_examples("data/trian")
