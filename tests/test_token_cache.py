"""Tokens kept between runs: found again when nothing that decides them changed, and only then."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codi.data.encoded_rows import EncodedRows
from codi.data.encoding import TextEncoder
from codi.data.example import Example
from codi.data.text_format import TextFormat
from codi.methods.codi import Codi
from codi.methods.cot_sft import CotSft
from codi.methods.method import METHODS, Method, build_method
from codi.training import preparation, token_cache
from codi.training.preparation import PreparedData, prepare
from codi.training.run import build_reasoner
from codi.training.tokenisation import tokenise
from tiny_models import EXAMPLES, llama3_tokenizer, word_encoder
from tiny_runs import configured, examples, tiny_settings, write_rows

LAST_OF = {"keep_last_step": True}


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the sets, with sets of ten rows kept already."""
    monkeypatch.setattr(preparation, "CACHE_ROWS", 10)
    monkeypatch.setenv("CODI_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tokenised"


def prepared(settings: dict[str, Any], **changes: Any) -> PreparedData:
    """The data of a run whose sections get `changes`."""
    changed = {**settings, **{key: {**settings.get(key, {}), **value} for key, value in changes.items()}}
    config = configured(changed)
    return prepare(config.data, build_reasoner(config), config.scorer)


def names(folder: Path) -> set[str]:
    return {one.name for one in folder.iterdir()} if folder.exists() else set()


def rows_of(data: PreparedData) -> tuple[Any, ...]:
    return list(data.encoded), data.lengths, data.ids, data.overview, [r.as_dict() for r in data.reports]


def test_the_second_run_finds_what_the_first_has_made(tmp_path: Path, kept: Path, no_reading: Any) -> None:
    settings = tiny_settings(tmp_path, rows=12)
    plain = rows_of(prepared(settings))
    [made] = names(kept)  # and nothing half-made beside it
    with no_reading():
        assert rows_of(prepared(settings)) == plain
        for harmless in (
            {"method": {"beta": 7.0, "latents": 3, "gamma": 0.5, "distance": "l2"}},
            {"training": {"seed": 5}},
            {"data": {"group_by_length": False, "max_tokens": 40}},
        ):
            prepared(settings, **harmless)
    assert names(kept) == {made}


@pytest.fixture
def no_reading(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Inside `with no_reading():` no row is read, and none but the probes is coded."""

    def patched() -> Any:
        context = monkeypatch.context()

        class Inside:
            def __enter__(self) -> None:
                patch = context.__enter__()
                patch.setattr(preparation, "load_examples", _refuse)
                patch.setattr(preparation, "tokenise", _refuse)

            def __exit__(self, *error: Any) -> None:
                context.__exit__(*error)

        return Inside()

    return patched


def _refuse(*_: Any, **__: Any) -> None:
    raise AssertionError("read or tokenised again")


@pytest.mark.parametrize(
    "changes",
    [
        {"method": {"keep_last_step": True}},
        {"method": {"name": "cot-sft"}},
        {"text": {"answer_prompt": "The answer is"}},
        {"text": {"step_separator": ""}},
        {"text": {"question_suffix": " ?"}},
        {"text": {"distillation_token": "prompt-end"}},
        {"data": {"steps_rule": "sentences"}},
        {"data": {"train_limit": 11}},
        {"data": {"rationale_form": "results"}},
    ],
    ids=str,
)
def test_what_decides_tokens_makes_another_set(
    tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, dict[str, Any]]
) -> None:
    settings = tiny_settings(tmp_path, rows=12)
    prepared(settings)
    if "method" in changes and "name" in changes["method"]:
        settings["method"] = {}
    after = prepared(settings, **changes)
    assert len(names(kept)) == 2
    fresh = tiny_settings(tmp_path / "fresh", rows=12)  # nothing is kept of this one's key
    monkeypatch.setenv("CODI_CACHE", str(tmp_path / "other"))
    fresh["method"] = settings["method"]
    again = prepared(fresh, **changes)
    assert list(after.encoded) == list(again.encoded)


def test_another_tokenizer_makes_another_set(tmp_path: Path, kept: Path) -> None:
    settings = tiny_settings(tmp_path, rows=12)
    prepared(settings)
    file = Path(settings["tokenizer"]) / "tokenizer.json"
    state = json.loads(file.read_text(encoding="utf-8"))
    vocabulary = state["model"]["vocab"]
    vocabulary["Tom"], vocabulary["pens"] = vocabulary["pens"], vocabulary["Tom"]
    file.write_text(json.dumps(state), encoding="utf-8")
    prepared(settings)
    assert len(names(kept)) == 2


def test_a_file_goes_by_its_content_not_by_its_date_or_place(
    tmp_path: Path, kept: Path, no_reading: Any
) -> None:
    settings = tiny_settings(tmp_path, rows=12)
    file = Path(settings["data"]["train"])
    before, when = prepared(settings), file.stat()
    moved = tmp_path / "elsewhere" / file.name
    moved.parent.mkdir()
    moved.write_bytes(file.read_bytes())
    with no_reading():
        elsewhere = prepared(settings, data={"train": str(moved)})
    assert elsewhere.reports[0].source == str(moved)

    rows = examples(12)
    write_rows(file, [replace(rows[0], answer="8"), *rows[1:]])  # as many bytes
    os.utime(file, ns=(when.st_atime_ns, when.st_mtime_ns))
    assert file.stat().st_mtime_ns == when.st_mtime_ns
    after = prepared(settings)
    assert after.encoded[0]["student"] != before.encoded[0]["student"]
    assert list(after.encoded)[1:] == list(before.encoded)[1:]


def test_a_source_that_cannot_be_told_goes_by_its_rows(
    tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read each time, and tokenised once."""
    settings = tiny_settings(tmp_path, rows=12)
    monkeypatch.setattr(token_cache, "source_identity", lambda source: None)
    plain = rows_of(prepared(settings))
    with monkeypatch.context() as patch:
        patch.setattr(preparation, "tokenise", _refuse)
        assert rows_of(prepared(settings)) == plain
    write_rows(Path(settings["data"]["train"]), examples(13))
    assert len(prepared(settings).ids) == 13
    assert len(names(kept)) == 2


def test_a_changed_encoding_is_never_answered_from_the_cache(
    tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tiny_settings(tmp_path, rows=12)
    before = prepared(settings)
    plain = Codi.encode

    def reversed_teacher(self: Codi, example: Example, text: TextEncoder) -> dict[str, Any]:
        row = plain(self, example, text)
        return row | {"teacher": row["teacher"][::-1]}

    with monkeypatch.context() as patch:
        patch.setattr(Codi, "encode", reversed_teacher)
        after = prepared(settings)
    assert [row["teacher"] for row in after.encoded] == [row["teacher"][::-1] for row in before.encoded]

    with monkeypatch.context() as patch:  # deeper: what the text itself becomes
        patch.setattr(TextEncoder, "rationale_text", lambda self, steps: " + ".join(steps))
        assert list(prepared(settings).encoded) != list(before.encoded)
    assert list(prepared(settings).encoded) == list(before.encoded)


def test_a_change_of_the_code_that_reads_makes_another_set(
    tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy of the data floor with another byte in it stands for the next version of it."""
    import codi.data

    text = word_encoder()
    key = token_cache.cache_key(Codi(), text, "whole", "a.jsonl", {}, ["x"])
    copy = tmp_path / "data"
    shutil.copytree(codi.data.__path__[0], copy)
    monkeypatch.setattr(codi.data, "__path__", [str(copy)])
    assert token_cache.cache_key(Codi(), text, "whole", "a.jsonl", {}, ["x"]) == key
    with (copy / "steps.py").open("a", encoding="utf-8") as opened:
        opened.write("# split elsewhere\n")
    assert token_cache.cache_key(Codi(), text, "whole", "a.jsonl", {}, ["x"]) != key


def test_options_named_by_a_method_are_those_that_its_tokens_depend_on() -> None:
    """Every other option may change without another token: tried on each, one by one."""
    build_method({"name": "codi"})  # imports all
    others: dict[str, Any] = {
        "distance": "l2", "layers": "blocks", "mix": None, "mix_share": None, "stage": 1, "teacher": "x",
        "std": "all", "step_loss": "own-loop", "feedback": "replace", "spare": "none", "slot_mean": "tokens",
        "kv_distance": "l2", "selection": "crop", "importance": 0.5, "keys": "unrotated",
        "question_weight": 0.5, "remove_all_when": "reached", "extra_from": "start", "stop": "confident",
    }  # fmt: skip
    resets = {"icot": "while-any-left", "coconut": "epoch", "sim-cot-coconut": "epoch"}
    text, tried = word_encoder(), 0
    for kind in METHODS.values():
        method = kind()
        plain = [method.encode(example, text) for example in EXAMPLES]
        for name, value in method.as_dict().items():
            if name in ("name", *method.encoding_options()) or others.get(name, 0) is None:
                continue
            if name == "reset_optimizer":
                other = resets[kind.name]
            elif name in others:
                other = others[name]
            else:
                other = not value if isinstance(value, bool) else (value or 0) + 1
            changed = replace(method, **{name: other})
            assert [changed.encode(example, text) for example in EXAMPLES] == plain, (kind.name, name)
            tried += 1
        for name in method.encoding_options():
            fewest = 1 if (kind.name, name) == ("codi-adaptive", "latents") else not getattr(method, name)
            changed = replace(method, **{name: fewest})
            assert [changed.encode(example, text) for example in EXAMPLES] != plain, (kind.name, name)
    assert tried > 20


def test_a_method_that_says_nothing_counts_all_its_options() -> None:
    class Own(Codi):
        def encode(self, example: Example, text: TextEncoder) -> dict[str, Any]:
            return super().encode(example, text) | {"extra": [self.latents]}

    assert Own().encoding_options() == {
        key: value for key, value in Codi().as_dict().items() if key != "name"
    }
    assert Codi().encoding_options() == {"keep_last_step": False}
    assert CotSft().encoding_options() == {"keep_last_step": True}


# --- whole or not at all ------------------------------------------------------------------------------------


def test_a_damaged_set_is_made_again(tmp_path: Path, kept: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = tiny_settings(tmp_path, rows=12)
    before = rows_of(prepared(settings))
    [name] = names(kept)
    for damage in (
        lambda: (kept / name / "teacher.npy").write_bytes(b""),
        lambda: (kept / name / "student.ends.npy").unlink(),
        lambda: (kept / name / "rows.json").write_text("{}"),
        lambda: (kept / name / "contents.json").write_text('{"files": {}'),
        lambda: _flip_a_byte(kept / name / "question.npy"),
    ):
        damage()
        caplog.clear()
        assert rows_of(prepared(settings)) == before
        assert "are damaged" in caplog.text
        caplog.clear()
        assert rows_of(prepared(settings)) == before
        assert not caplog.text
    assert names(kept) == {name}


def _flip_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def test_one_that_is_killed_while_it_writes_leaves_no_set(
    tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tiny_settings(tmp_path, rows=12)
    (tmp_path / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    process = multiprocessing.get_context("spawn").Process(
        target=_prepare_and_die, args=(str(tmp_path / "settings.json"),)
    )
    process.start()
    process.join(120)
    assert process.exitcode == 9
    [half] = names(kept)
    assert half.startswith(".building-")
    assert token_cache.kept_sets() == []
    prepared(settings)
    assert names(kept) > {half}
    monkeypatch.setattr(token_cache, "_STALE_SECONDS", -1)  # a day later
    prepared(settings, data={"train_limit": 11})
    assert half not in names(kept)


def _prepare_and_die(settings: str) -> None:
    preparation.CACHE_ROWS = 10
    written = np.save

    def die_at_the_third(file: Any, values: Any) -> None:
        if len(list(Path(file).parent.iterdir())) == 2:
            os._exit(9)
        written(file, values)

    np.save = die_at_the_third
    prepared(json.loads(Path(settings).read_text(encoding="utf-8")))


def test_a_set_that_cannot_be_written_is_used_and_said(
    tmp_path: Path, kept: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = tiny_settings(tmp_path, rows=12)
    kept.parent.mkdir()
    kept.write_text("a file where the folder should be")
    assert len(prepared(settings).encoded) == 12
    assert "could not be kept" in caplog.text


def test_two_at_once_both_end_with_the_whole_set(tmp_path: Path, kept: Path) -> None:
    text, method = word_encoder(), Codi()
    tokens = tokenise(EXAMPLES, method, text)
    first = token_cache.keep("k", tokens, "one")
    second = token_cache.keep("k", tokens, "two")  # which was slower
    assert list(first.encoded) == list(second.encoded) == list(tokens.encoded)
    assert names(kept) == {"k"}
    assert [one.source for one in token_cache.kept_sets()] == ["one"]


def test_small_sets_are_not_kept(tmp_path: Path, kept: Path) -> None:
    prepared(tiny_settings(tmp_path, rows=9))
    assert not names(kept)


def test_filters_are_right_over_a_kept_set(
    tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tiny_settings(tmp_path, rows=12)
    settings["data"]["validation"] = write_rows(tmp_path / "validation.jsonl", examples(3))
    asked = {"data": {"max_tokens": 38}}
    with monkeypatch.context() as patch:
        patch.setattr(preparation, "CACHE_ROWS", 1000)
        plain = rows_of(prepared(settings, **asked))
    assert not names(kept)
    prepared(settings)
    assert len(names(kept)) == 1
    assert rows_of(prepared(settings, **asked)) == plain
    assert len(plain[2]) < 9
    reasons = {reason for report in plain[4] for reason in report["dropped"]}
    assert reasons == {"question also in validation", "longer than 38 tokens"}
    everything = prepared(settings, data={"exclude_validation_questions": False})
    assert len(everything.ids) == 12


# --- what is kept is what encode gives ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["codi", "cot-sft", "no-cot-sft", "icot", "coconut", "pause-tokens"])
@pytest.mark.parametrize("tokenizer", ["word", "llama-3"])
def test_coded_in_batches_equals_one_by_one(name: str, tokenizer: str) -> None:
    method: Method = build_method({"name": name})
    text = word_encoder() if tokenizer == "word" else TextEncoder(llama3_tokenizer(), TextFormat())
    rows = [*EXAMPLES, *examples(7), *(probe for probe in token_cache.PROBES if probe.answer != "yes")]
    rows = [replace(row, steps=tuple(step for step in row.steps if step.strip())) for row in rows]
    plain = [method.encode(row, text) for row in rows]
    tokens = tokenise(rows, method, text)
    assert list(tokens.encoded) == plain
    assert tokens.ids == [row.id for row in rows]
    assert tokens.steps.tolist() == [len(row.steps) for row in rows]
    assert tokens.answers.tolist() == [len(text.answer(row.answer).ids) for row in rows]


def test_batches_need_no_environment_and_leave_it_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    text = word_encoder()
    for value in ("false", None):
        if value is None:
            monkeypatch.delenv("TOKENIZERS_PARALLELISM")
        else:
            monkeypatch.setenv("TOKENIZERS_PARALLELISM", value)
        tokenise(EXAMPLES, Codi(), text)
        assert os.environ.get("TOKENIZERS_PARALLELISM") == value


def test_rows_come_back_from_disk_as_they_were(tmp_path: Path) -> None:
    rows = [Codi().encode(example, word_encoder()) for example in EXAMPLES]
    rows.append({name: [] if isinstance(value, list) else value for name, value in rows[0].items()})
    encoded = EncodedRows.gather(rows)
    encoded.save(tmp_path)
    loaded = EncodedRows.load(tmp_path)
    assert list(loaded) == list(encoded) == rows
    assert (len(loaded), loaded[-1], loaded[1:3]) == (5, rows[-1], rows[1:3])
    some = loaded.select([3, 0])
    assert list(some) == [rows[3], rows[0]]
    assert list(some.select([1])) == [rows[0]]
    assert some.lengths("teacher").tolist() == [len(rows[3]["teacher"]), len(rows[0]["teacher"])]
    token = rows[3]["question"][0]
    expected = [i for i, row in enumerate((rows[3], rows[0])) if token in row["question"] + row["student"]]
    assert some.rows_with(token, ["question", "student"]) == expected
    (tmp_path / "again").mkdir()
    some.save(tmp_path / "again")
    assert list(EncodedRows.load(tmp_path / "again")) == list(some)


def test_a_folder_and_a_pattern_go_by_all_their_files(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl", ".hidden"):
        (tmp_path / name).write_text(name)
    folder, pattern = str(tmp_path), str(tmp_path / "*.jsonl")
    before = [token_cache.source_identity(source) for source in (folder, pattern)]
    (tmp_path / ".hidden").write_text("other")
    assert [token_cache.source_identity(source) for source in (folder, pattern)] == before
    (tmp_path / "b.jsonl").write_text("other")
    after = [token_cache.source_identity(source) for source in (folder, pattern)]
    assert all(one and other and one != other for one, other in zip(before, after, strict=True))
    assert token_cache.source_identity(str(tmp_path / "none.jsonl")) is None
    assert token_cache.source_identity("") is None
    one, two = (token_cache.source_identity(f"word-problems?seed={seed}") for seed in (1, 2))
    assert one is not None
    assert one != two


def test_every_way_to_name_files_has_an_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / ".store" / "set"
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text("a")
    (folder / "dev.jsonl").write_text("b")
    monkeypatch.setenv("HOME", str(tmp_path))
    sources = [
        str(folder), f"{folder}?split=dev", "~/.store/set", "~/.store/set/dev.jsonl", f"{folder}/*.jsonl",
        f"hub:{folder.name}/none",
    ]  # fmt: skip
    before = [token_cache.source_identity(source) for source in sources]
    assert all(before[:5])
    assert before[5] is None  # no such set
    (folder / "dev.jsonl").write_text("c")
    after = [token_cache.source_identity(source) for source in sources]
    assert all(one != other for one, other in zip(before[:5], after[:5], strict=True))


def test_a_hub_set_goes_by_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A set in a folder, which `datasets` reads as it reads one on the hub."""
    from codi.data.hub import HUB_SETS, HubSet

    write_rows(tmp_path / "train.jsonl", examples(3))
    monkeypatch.setitem(HUB_SETS, "mine", HubSet(str(tmp_path), {"train": 3}))
    before = token_cache.source_identity("mine")
    assert before is not None
    assert token_cache.source_identity("mine") == before
    other = token_cache.source_identity("mine?split=train")
    assert other is not None
    assert other != before  # the split is part of what is read
    monkeypatch.setitem(HUB_SETS, "gone", HubSet(str(tmp_path / "none"), {"train": 3}))
    assert token_cache.source_identity("gone") is None


def test_sets_are_listed_and_deleted(tmp_path: Path, kept: Path) -> None:
    from typer.testing import CliRunner

    from codi.cli import app

    assert "No tokenised set" in CliRunner().invoke(app, ["data", "cache"]).output
    prepared(tiny_settings(tmp_path, rows=12))
    [name] = names(kept)
    listed = CliRunner().invoke(app, ["data", "cache"]).output
    assert name in listed
    assert "12" in listed
    assert "1 deleted" in CliRunner().invoke(app, ["data", "cache", "--clear"]).output
    assert not names(kept)
