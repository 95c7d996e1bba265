"""Bad input through the command line: one clear message, exit code 2, no traceback, nothing lost.

Each test names the words that the message must hold: what was found, where, and what to do.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from codi.cli import app
from codi.errors import CodiError
from codi.evaluation.benchmarks import load_benchmark
from tiny_checkpoints import QUESTION, save_lora_checkpoint, tiny_reasoner


@pytest.fixture(scope="session")
def codi_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad-input") / "codi"
    tiny_reasoner("codi").save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def cot_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad-input") / "cot-sft"
    tiny_reasoner("cot-sft").save_pretrained(folder)
    return folder


def refused(*arguments: object, stdin: str | None = None) -> str:
    """The message of a command that must be refused."""
    result = CliRunner().invoke(app, [str(a) for a in arguments], input=stdin)
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    # What was read may be reported before; the message ends the output.
    _, error, message = result.stderr.rpartition("error: ")
    assert error
    return message


def refused_by_the_program(*arguments: object, environment: dict[str, str] | None = None) -> str:
    """The same with a process of its own, as a person types it."""
    command = [sys.executable, "-m", "codi.cli", *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **(environment or {})}, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ")
    return done.stderr


def write_rows(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


GOOD = {"question": QUESTION, "steps": ["<<3+4=7>>"], "answer": "7"}


# Files, columns, rows


def test_missing_file(tmp_path: Path, codi_checkpoint: Path) -> None:
    absent = tmp_path / "absent.jsonl"
    for message in (
        refused_by_the_program("data", absent, "--output", tmp_path / "out.jsonl"),
        refused("eval", codi_checkpoint, "--benchmark", absent),
        refused("eval", codi_checkpoint, "--benchmark", "svamp", "--file", absent),
        refused("generate", codi_checkpoint, "--file", absent),
        refused("generate", codi_checkpoint, "--file", tmp_path / "absent.txt"),
    ):
        assert "absent." in message
        assert "does not exist" in message
    assert not (tmp_path / "out.jsonl").exists()


def test_missing_column(tmp_path: Path, codi_checkpoint: Path) -> None:
    path = write_rows(tmp_path / "mine.jsonl", {"ask": "How many?", "answer": "3"})
    data = ("data", path, "--output", tmp_path / "out.jsonl")
    for missing, message in (
        ("question", refused(*data)),
        ("'qestion'", refused(*data, "--question-column", "qestion")),
        ("question", refused("eval", codi_checkpoint, "--benchmark", path)),
        ("question", refused("generate", codi_checkpoint, "--file", path)),
    ):
        assert "mine.jsonl" in message
        assert "'ask'" in message
        assert missing in message


def test_empty_file(tmp_path: Path, codi_checkpoint: Path) -> None:
    for name in ("mine.jsonl", "mine.json", "mine.csv", "mine.txt"):
        path = tmp_path / name
        path.write_text("", encoding="utf-8")
        assert "empty" in refused("eval", codi_checkpoint, "--benchmark", path)
        assert "empty" in refused("generate", codi_checkpoint, "--file", path)
    assert "empty" in refused("generate", codi_checkpoint, stdin="")


def test_broken_json_names_its_line(tmp_path: Path, codi_checkpoint: Path) -> None:
    path = write_rows(tmp_path / "mine.jsonl", GOOD, GOOD)
    path.write_text(path.read_text() + '{"question": "How many?", "answer"\n', encoding="utf-8")
    for message in (
        refused("data", path, "--output", tmp_path / "out.jsonl"),
        refused("eval", codi_checkpoint, "--benchmark", path),
        refused("generate", codi_checkpoint, "--file", path),
    ):
        assert "line 3" in message
        assert "mine.jsonl" in message


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"question": " ", "answer": "3"}, "empty question"),
        ({"question": "How many?", "answer": None}, "missing answer"),
        ({"question": "How many?", "answer": ""}, "missing answer"),
    ],
)
def test_defective_row(row: dict[str, Any], reason: str, tmp_path: Path, codi_checkpoint: Path) -> None:
    path = write_rows(tmp_path / "mine.jsonl", GOOD, row)
    for message in (
        refused("data", path, "--output", tmp_path / "out.jsonl"),
        refused("eval", codi_checkpoint, "--benchmark", path),
        refused(
            "train", "word-problems", f"data.train={path}", "data.validation=null",
            "--output", tmp_path / "run",
        ),
    ):  # fmt: skip
        assert f"line 2: {reason}" in message


def test_empty_question_asked(tmp_path: Path, codi_checkpoint: Path) -> None:
    assert "empty" in refused("generate", codi_checkpoint, " ")
    assert "line 2" in refused("generate", codi_checkpoint, stdin="How many?\n\nHow much?\n")
    path = write_rows(tmp_path / "mine.jsonl", GOOD, {"question": ""})
    assert "line 2: empty question" in refused("generate", codi_checkpoint, "--file", path)


def test_row_too_long_for_the_model(tmp_path: Path, codi_checkpoint: Path) -> None:
    question = "Mia has 3 apples . " * 30
    path = write_rows(tmp_path / "mine.jsonl", GOOD, {**GOOD, "question": question})
    kept = tmp_path / "rows"
    for message in (
        refused("generate", codi_checkpoint, question),
        refused("eval", codi_checkpoint, "--benchmark", path, "--predictions", kept),
    ):
        assert re.search(r"Question [12] has \d+ tokens", message)
        assert "at most 160" in message
    assert not list(kept.glob("*"))
    message = refused(
        "train", "word-problems", "model.base_config.max_position_embeddings=96", f"data.train={path}",
        "data.validation=null", "--output", tmp_path / "run",
    )  # fmt: skip
    assert "too long" in message
    assert "data.max_tokens" in message


def test_words_that_the_tokenizer_does_not_know(tmp_path: Path, codi_checkpoint: Path) -> None:
    path = write_rows(tmp_path / "mine.jsonl", {**GOOD, "question": "Zaphod has 4711 improbabilities."})
    message = refused(
        "train", "word-problems", f"data.train={path}", "data.validation=null", "--output", tmp_path / "run"
    )
    assert "1 of 1 training examples" in message
    assert "tokenizer=" in message
    assert not (tmp_path / "run").exists()


def test_too_long_validation_question_is_found_before_training(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "mine.jsonl", {**GOOD, "id": "far", "question": f"{QUESTION} " * 20})
    message = refused(
        "train", "word-problems", "data.train=word-problems?count=8", f"data.validation={path}",
        "--output", tmp_path / "run",
    )  # fmt: skip
    assert "validation question 'far'" in message
    assert "Shorten" in message
    assert not (tmp_path / "run").exists()


def test_more_latents_than_the_model_has_room_for(codi_checkpoint: Path) -> None:
    assert "fewer latents" in refused("generate", codi_checkpoint, QUESTION, "--latents", 2000)


def test_training_answer_without_a_number(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "mine.jsonl", GOOD, {**GOOD, "answer": "plenty"})
    message = refused(
        "train", "word-problems", f"data.train={path}", "data.validation=null", "--output", tmp_path / "run"
    )
    assert "mine.jsonl" in message
    assert "2" in message
    assert "skip_bad_rows" in message


def test_overwriting_a_run_keeps_what_is_not_the_runs(tmp_path: Path) -> None:
    from codi.training.run import _remove_run

    for name in ("run.yaml", "codi.json", "model.safetensors", "notes.txt"):
        (tmp_path / name).write_text("x")
    (tmp_path / "checkpoint-5").mkdir()
    _remove_run(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_answer_without_a_number_under_a_numeric_scorer(tmp_path: Path, codi_checkpoint: Path) -> None:
    path = write_rows(tmp_path / "mine.jsonl", GOOD, {**GOOD, "answer": "plenty"})
    message = refused("eval", codi_checkpoint, "--benchmark", path)
    assert "mine:2" in message
    assert "'plenty'" in message
    assert "letter" in message


def test_partial_copy_of_a_benchmark(tmp_path: Path, codi_checkpoint: Path) -> None:
    path = write_rows(tmp_path / "copy.jsonl", GOOD)
    message = refused("eval", codi_checkpoint, "--benchmark", "multiarith", "--file", path)
    assert "180" in message
    assert "--allow-partial" in message


# Names


def test_unknown_hub_set_and_split(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    assert "'gsm8k-aug'" in refused("data", "gsm8k-agu", "--output", output)
    assert "validation" in refused("data", "gsm8k-aug", "--split", "valid", "--output", output)


def test_no_network_for_a_hub_name(tmp_path: Path, codi_checkpoint: Path) -> None:
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}
    output = tmp_path / "out.jsonl"
    message = refused_by_the_program("data", "gsm8k-aug", "--output", output, environment=offline)
    assert "whynlp/gsm8k-aug" in message
    assert "give the path" in message
    message = refused_by_the_program("generate", "someone/no-model", "How many?", environment=offline)
    assert "someone/no-model" in message


def test_unknown_recipe_key_and_value(tmp_path: Path) -> None:
    run = ("--output", tmp_path / "run")
    assert "'word-problems'" in refused("train", "word-problem-codi", *run)
    assert "'learning_rate'" in refused("train", "word-problems", "training.lerning_rate=1e-3", *run)
    assert "'latents'" in refused("train", "word-problems", "method.latent=3", *run)
    assert "KEY=VALUE" in refused("train", "word-problems", "method.latents", *run)
    assert "smooth-l1" in refused("train", "word-problems", "method.distance=cosine", *run)
    assert "--output" in refused("train", "word-problems")
    assert not (tmp_path / "run" / "run.yaml").exists()


def test_unknown_benchmark_scorer_and_mode(codi_checkpoint: Path) -> None:
    message = refused_by_the_program("eval", codi_checkpoint, "--benchmark", "gsmhard")
    assert "Did you mean 'gsm-hard'" in message
    assert "'codi'" in refused("eval", codi_checkpoint, "--benchmark", "in_domain", "--scorer", "codie")
    assert "latent, explicit" in refused("generate", codi_checkpoint, QUESTION, "--mode", "direct")
    assert "--benchmark" in refused("eval", codi_checkpoint)


def test_local_copies_must_say_what_they_copy(tmp_path: Path, codi_checkpoint: Path) -> None:
    two = ("--benchmark", "svamp", "--benchmark", "gsm8k")
    assert "NAME=FILE" in refused("eval", codi_checkpoint, *two, "--file", tmp_path / "copy.jsonl")
    (tmp_path / "deep").mkdir()
    twins = [write_rows(folder / "mine.jsonl", GOOD) for folder in (tmp_path, tmp_path / "deep")]
    message = refused("eval", codi_checkpoint, "--benchmark", twins[0], "--benchmark", twins[1])
    assert "'mine'" in message


# Checkpoints


def test_missing_and_foreign_checkpoints(tmp_path: Path) -> None:
    assert "no checkpoint" in refused("generate", tmp_path / "absent", QUESTION)
    assert "codi.json" in refused("generate", tmp_path, QUESTION)


def test_checkpoint_of_another_base(tmp_path: Path) -> None:
    lora, other = save_lora_checkpoint(tmp_path)
    message = refused("generate", lora, QUESTION, "--base", other)
    assert "another base" in message
    assert "Expected" in message
    assert "found" in message
    assert CliRunner().invoke(app, ["generate", str(lora), QUESTION, "--max-new-tokens", "1"]).exit_code == 0


@pytest.mark.parametrize(
    "asked",
    [("generate", QUESTION), ("eval", "--benchmark", "in_domain", "--limit", 1), ("serve", "--port", 0)],
)
def test_graphs_without_cuda(asked: tuple[object, ...], codi_checkpoint: Path) -> None:
    command, *rest = asked
    message = refused(command, codi_checkpoint, *rest, "--device", "cpu", "--graphs", "on")
    assert "graphs=on was asked for, but the model is on 'cpu'" in message
    assert "Did you mean 'off'" in refused(command, codi_checkpoint, *rest, "--graphs", "of")


def test_checkpoint_with_a_missing_weight_file(tmp_path: Path) -> None:
    folder = tmp_path / "codi"
    tiny_reasoner("codi").save_pretrained(folder)
    (folder / "thoughts.safetensors").unlink()
    assert "thoughts.safetensors" in refused("generate", folder, QUESTION)


def test_no_latents_in_a_model_without_them(cot_checkpoint: Path) -> None:
    for option, said in (
        (("--latents", 3), "none"),
        (("--mode", "latent"), "no latents"),
        (("--show-thoughts",), "no latents"),
    ):
        message = refused("generate", cot_checkpoint, QUESTION, *option)
        assert "cot-sft" in message
        assert said in message, option
    assert "none" in refused("eval", cot_checkpoint, "--benchmark", "in_domain", "--limit", 2, "--latents", 3)


def test_no_latents_to_show_in_explicit_mode(codi_checkpoint: Path) -> None:
    message = refused("generate", codi_checkpoint, QUESTION, "--mode", "explicit", "--show-thoughts")
    assert "no latents" in message
    assert "no latents" in refused("generate", codi_checkpoint, QUESTION, "--latents", 0, "--show-thoughts")


def test_impossible_numbers_and_devices(codi_checkpoint: Path) -> None:
    ask = ("generate", codi_checkpoint, QUESTION)
    assert "temperature" in refused(*ask, "--temperature", -1)
    assert "top_p" in refused(*ask, "--top-p", 0)
    assert "batch_size" in refused(*ask, "--batch-size", 0)
    assert "latents" in refused(*ask, "--latents", -1)
    assert "'quantum'" in refused(*ask, "--device", "quantum")
    assert "limit" in refused("eval", codi_checkpoint, "--benchmark", "in_domain", "--limit", 0)
    assert "--count" in refused("data", "test", "--count", 0, "--output", "out.jsonl")
    for steps in (0, 1):
        assert "--steps must be at least 2" in refused("quickstart", "--steps", steps)


# Outputs


def test_outputs_are_not_replaced_unasked(tmp_path: Path, codi_checkpoint: Path) -> None:
    output = tmp_path / "results.json"
    output.write_text("precious", encoding="utf-8")
    (tmp_path / "in_domain.jsonl").write_text("precious", encoding="utf-8")
    evaluation = ("eval", codi_checkpoint, "--benchmark", "in_domain", "--limit", 1)
    for message in (
        refused(*evaluation, "--output", output),
        refused(*evaluation, "--predictions", tmp_path),
        refused("data", "test", "--output", output),
        refused("bench", "train", "--output", output),
    ):
        assert "already exists" in message
        assert "--overwrite" in message
    assert output.read_text() == "precious"
    assert (tmp_path / "in_domain.jsonl").read_text() == "precious"


def test_output_folder_that_holds_a_run(tmp_path: Path, codi_checkpoint: Path) -> None:
    before = {path: path.read_bytes() for path in codi_checkpoint.iterdir()}
    message = refused("train", "word-problems", "--output", codi_checkpoint)
    assert "already holds a run" in message
    assert "--resume" in message
    assert "--overwrite" in message
    assert {path: path.read_bytes() for path in codi_checkpoint.iterdir()} == before
    both = ("--resume", "--overwrite", "--output", tmp_path / "run")
    assert "one of them" in refused("train", "word-problems", *both)


def test_quickstart_refuses_a_folder_that_holds_results(tmp_path: Path) -> None:
    pytest.importorskip("codi.quickstart.run")
    (tmp_path / "results.json").write_text("{}", encoding="utf-8")
    message = refused("quickstart", "--steps", 2, "--output", tmp_path)
    assert "--overwrite" in message
    assert (tmp_path / "results.json").read_text() == "{}"


def test_output_that_cannot_be_written(tmp_path: Path, codi_checkpoint: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    message = refused("data", "test", "--output", tmp_path / "file" / "out.jsonl")
    assert "needs a folder" in message
    assert refused("train", "word-problems", "--output", tmp_path / "file").strip().endswith("Give a folder.")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full to stand for a full disk")
def test_full_disk_after_an_evaluation_still_shows_the_result(tmp_path: Path, codi_checkpoint: Path) -> None:
    (tmp_path / ".results.json.saving").symlink_to("/dev/full")
    result = CliRunner().invoke(
        app,
        ["eval", str(codi_checkpoint), "--benchmark", "in_domain", "--limit", "1", "--max-new-tokens", "1",
         "--latency-questions", "0", "--output", str(tmp_path / "results.json")],
    )  # fmt: skip
    assert result.exit_code == 2
    assert "No space left" in result.stderr
    assert "in_domain" in result.stdout
    assert not (tmp_path / "results.json").exists()


def test_an_interrupt_is_a_short_message(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import codi

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(codi, "load_examples", interrupted)
    result = CliRunner().invoke(app, ["data", "test", "--output", str(tmp_path / "out.jsonl")])
    assert result.exit_code == 130
    assert result.stderr.startswith("error: interrupted")


def test_a_local_copy_given_as_a_benchmark_is_told_how() -> None:
    with pytest.raises(CodiError, match=r"--benchmark gsm8k --file gsm8k=mine\.jsonl"):
        load_benchmark("gsm8k=mine.jsonl")
