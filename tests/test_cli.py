"""Each command does its work and writes what it says."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

import codi
from codi.cli import app
from codi.data.sources import load_examples
from codi.data.word_problems import SPLITS, generate
from codi.evaluation.benchmarks import BENCHMARKS
from codi.generation.latent_reasoner import LatentReasoner
from tiny_checkpoints import QUESTION, tiny_reasoner


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    for name in ("codi", "cot-sft", "no-cot-sft"):
        tiny_reasoner(name).save_pretrained(folder / name)
    return folder


def run(*arguments: object, stdin: str | None = None) -> str:
    """The output of a command that must succeed."""
    result = CliRunner().invoke(app, [str(a) for a in arguments], input=stdin, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def read_json_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_version_and_help() -> None:
    assert run("--version").strip() == f"codi {codi.__version__}"
    text = run("--help")
    for command in ("quickstart", "train", "eval", "generate", "data", "bench"):
        assert command in text
        assert "--help" in run(command, "--help")


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from codi.cli import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'transformers', 'datasets', 'numpy', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("split", SPLITS)
def test_data_writes_every_split(split: str, tmp_path: Path) -> None:
    path = tmp_path / "deep" / f"{split}.jsonl"
    text = run("data", split, "--output", path, "--count", 7, "--seed", 3)
    assert "7 examples written" in text
    assert load_examples(str(path))[0] == generate(split, 7, 3)


def test_data_rewrites_a_file_and_accounts_for_it(tmp_path: Path) -> None:
    source, path = tmp_path / "mine.csv", tmp_path / "mine.jsonl"
    source.write_text("prompt,label\nOne?,1\nTwo?,\nThree?,3\n", encoding="utf-8")
    text = run(
        "data", source, "--output", path, "--question-column", "prompt", "--answer-column", "label",
        "--skip-bad-rows",
    )  # fmt: skip
    assert "3 rows read, 2 kept; left out: 1 missing answer" in text
    assert [row["answer"] for row in read_json_lines(path.read_text())] == ["1", "3"]
    run("data", "word-problems", "--split", "validation", "--count", 2, "--output", path, "--overwrite")
    assert load_examples(str(path))[0] == generate("validation", 2, 1)


def test_data_and_eval_list_what_they_know() -> None:
    assert "gsm8k-aug-nl" in run("data", "--list")
    for listing in (run("eval", "--list"), run("eval", "--benchmark", "list")):
        for name in BENCHMARKS:
            assert name in listing


def test_generate_answers_a_question_as_the_api_does(checkpoints: Path) -> None:
    expected = LatentReasoner.from_pretrained(checkpoints / "codi").answer([QUESTION], max_new_tokens=4)[0]
    plain = run("generate", checkpoints / "codi", QUESTION, "--max-new-tokens", 4)
    assert plain.strip() == (expected.text.strip() if expected.value is None else expected.value)
    row = json.loads(run("generate", checkpoints / "codi", QUESTION, "--max-new-tokens", 4, "--json"))
    assert (row["text"], row["value"], row["thoughts"]) == (expected.text, expected.value, 8)
    fewer = json.loads(
        run("generate", checkpoints / "codi", QUESTION, "--max-new-tokens", 4, "--json", "--latents", 2)
    )
    assert fewer["thoughts"] == 4


def test_generate_writes_the_reasoning_in_explicit_mode(checkpoints: Path) -> None:
    for name, extra in (("codi", ["--mode", "explicit"]), ("cot-sft", [])):
        written = run("generate", checkpoints / name, QUESTION, "--max-new-tokens", 6, *extra)
        reasoner = LatentReasoner.from_pretrained(checkpoints / name)
        expected = reasoner.answer([QUESTION], mode="explicit", max_new_tokens=6)[0].text
        assert written.strip() == expected.strip()


def test_generate_reads_standard_input_and_files(checkpoints: Path, tmp_path: Path) -> None:
    questions = [e.question for e in generate("test", 3)]
    options = ("--json", "--max-new-tokens", 3)
    lines = "\n".join(questions) + "\n"
    rows = read_json_lines(run("generate", checkpoints / "codi", *options, stdin=lines))
    assert [row["question"] for row in rows] == questions
    (tmp_path / "q.txt").write_text(lines, encoding="utf-8")
    (tmp_path / "q.jsonl").write_text(
        "".join(json.dumps({"question": q}) + "\n" for q in questions), encoding="utf-8"
    )
    for file in ("q.txt", "q.jsonl"):
        again = run("generate", checkpoints / "codi", "--file", tmp_path / file, *options, "--batch-size", 2)
        assert read_json_lines(again) == rows


def test_generate_samples_the_same_at_any_batch_size(checkpoints: Path) -> None:
    lines = "\n".join(e.question for e in generate("test", 5))
    options = ("--json", "--max-new-tokens", 5, "--temperature", 1.5, "--seed", 4)
    whole = run("generate", checkpoints / "codi", *options, stdin=lines)
    assert run("generate", checkpoints / "codi", *options, "--batch-size", 2, stdin=lines) == whole
    assert run("generate", checkpoints / "codi", *options[:-1], 5, stdin=lines) != whole


def test_generate_shows_what_the_thoughts_decode_to(checkpoints: Path) -> None:
    text = run("generate", checkpoints / "codi", QUESTION, "--show-thoughts", "--max-new-tokens", 2)
    assert [line.split(":")[0] for line in text.splitlines()[:6]] == [f"thought {i}" for i in range(1, 7)]
    options = ("--show-thoughts", "--json", "--max-new-tokens", 2, "--latents", 3)
    row = json.loads(run("generate", checkpoints / "codi", QUESTION, *options))
    assert [len(tokens) for tokens in row["decoded_thoughts"]] == [3, 3, 3]


def test_eval_measures_benchmarks_and_files(checkpoints: Path, tmp_path: Path) -> None:
    mine, output = tmp_path / "mine.jsonl", tmp_path / "results.json"
    run("data", "test", "--output", mine, "--count", 5)
    text = run(
        "eval", checkpoints / "codi", "--benchmark", mine, "--benchmark", "reworded", "--limit", 4,
        "--max-new-tokens", 3, "--latency-questions", 2, "--predictions", tmp_path / "rows",
        "--output", output,
    )  # fmt: skip
    assert "95 % interval" in text
    saved = json.loads(output.read_text())
    assert {"checkpoint", "method", "device", "versions", "benchmarks"} <= set(saved)
    assert saved["method"]["name"] == "codi"
    assert list(saved["benchmarks"]) == ["mine", "reworded"]
    result = saved["benchmarks"]["mine"]
    assert (result["n"], result["scorer"], result["mode"]) == (4, "number", "latent")
    assert result["thought_tokens"] == 8.0
    assert result["latency_ms"]["n"] == 2
    assert (result["data"]["dropped"], result["data"]["stopped_at"]) == ({}, 4)
    rows = read_json_lines((tmp_path / "rows" / "mine.jsonl").read_text())
    assert [row["gold"] for row in rows] == [e.answer for e in generate("test", 4)]


def test_rows_that_share_an_id_are_compared(checkpoints: Path, tmp_path: Path) -> None:
    rows = [{"id": i, "instance": j, "question": QUESTION, "answer": j} for i in range(2) for j in (3, 4)]
    (tmp_path / "symbolic.json").write_text(json.dumps({"data": rows}))
    run(
        "eval", checkpoints / "codi", "--benchmark", tmp_path / "symbolic.json", "--max-new-tokens", 2,
        "--latency-questions", 0, "--predictions", tmp_path / "rows",
    )  # fmt: skip
    predicted = tmp_path / "rows" / "symbolic.jsonl"
    assert [row["id"] for row in read_json_lines(predicted.read_text())] == ["0:3", "0:4", "1:3", "1:4"]
    assert "4 questions" in run("compare", predicted, predicted)


def test_eval_samples_several_runs_with_a_seed_each(checkpoints: Path, tmp_path: Path) -> None:
    shared = (
        "eval",
        checkpoints / "cot-sft",
        "--benchmark",
        "in_domain",
        "--limit",
        12,
        "--latency-questions",
        0,
    )
    sampled = (*shared, "--max-new-tokens", 6, "--temperature", 0.7)
    out = tmp_path / "e.json"
    text = run(*sampled, "--runs", 3, "--seed", 5, "--predictions", tmp_path / "p", "--output", out)
    assert "3 sampled runs" in text
    found = json.loads(out.read_text())["benchmarks"]["in_domain"]
    accuracies = [one["accuracy"] for one in found["runs"]]
    assert found["accuracy_mean"] == pytest.approx(sum(accuracies) / 3)
    assert found["accuracy_std"] is not None
    files = [tmp_path / f"p/in_domain.run-{n}.jsonl" for n in (1, 2, 3)]
    assert len({file.read_text() for file in files}) == 3
    run(*sampled, "--seed", 7, "--predictions", tmp_path / "alone")
    assert (tmp_path / "alone/in_domain.jsonl").read_text() == files[2].read_text()
    refused = CliRunner().invoke(app, [str(a) for a in (*shared, "--runs", 3)])
    assert refused.exit_code != 0
    assert "Several differ only when" in " ".join(refused.output.split())


def test_eval_reads_a_local_copy_of_a_benchmark(checkpoints: Path, tmp_path: Path) -> None:
    copy, output = tmp_path / "copy.jsonl", tmp_path / "results.json"
    run("data", "test", "--output", copy, "--count", 4)
    options = ("--allow-partial", "--max-new-tokens", 2, "--latency-questions", 0, "--output", output)
    run("eval", checkpoints / "no-cot-sft", "--benchmark", "multiarith", "--file", copy, *options)
    saved = json.loads(output.read_text())["benchmarks"]["multiarith"]
    assert (saved["n"], saved["mode"], saved["latency_ms"]) == (4, "direct", None)
    run(
        "eval", checkpoints / "cot-sft", "--benchmark", "svamp", "--benchmark", "multiarith",
        "--file", f"svamp={copy}", "--file", f"multiarith={copy}", *options, "--overwrite",
    )  # fmt: skip
    assert set(json.loads(output.read_text())["benchmarks"]) == {"svamp", "multiarith"}


def test_train_lists_its_recipes_and_prints_a_configuration() -> None:
    assert "word-problems" in run("train", "--list")
    printed = run("train", "word-problems", "method.latents=3", "training.learning_rate=1e-3", "--dry-run")
    values = yaml.safe_load(printed)
    assert values["method"] == {"name": "codi", "beta": 5, "latents": 3}
    assert values["training"]["learning_rate"] == 1e-3


def test_train_then_ask(tmp_path: Path) -> None:
    output = tmp_path / "run"
    run(
        "train", "word-problems", "data.train=word-problems?count=64", "data.validation_limit=8",
        "model.base_config.hidden_size=48", "training.max_steps=4", "training.per_device_train_batch_size=8",
        "training.save_steps=2", "training.eval_steps=2", "--output", output,
    )  # fmt: skip
    row = json.loads(run("generate", output, QUESTION, "--json", "--max-new-tokens", 3))
    assert row["thoughts"] == 8


def test_bench_prints_a_table_and_writes_json(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from codi.bench import generate as bench_generate
    from codi.bench import train as bench_train

    @dataclass
    class Recorder:
        asked: dict[str, Any]

        def __call__(self, **options: Any) -> dict[str, Any]:
            self.asked = options
            return {"speedup": 3.75, "device": "cpu", "ours": {"ms": 12.0}}

    recorder = Recorder({})
    monkeypatch.setattr(bench_train, "bench_train", recorder)
    text = run("bench", "train", "--size", "tiny", "--no-memory", "--output", tmp_path / "bench.json")
    assert "3.75" in text
    assert "ours.ms" in text
    assert json.loads((tmp_path / "bench.json").read_text())["ours"] == {"ms": 12.0}
    assert (recorder.asked["size"], recorder.asked["memory"]) == ("tiny", False)
    monkeypatch.setattr(bench_generate, "bench_generate", recorder)
    run("bench", "generate", "--latent", tmp_path / "a", "--explicit", tmp_path / "b", "--questions", 3)
    assert recorder.asked["latent"] == tmp_path / "a"


def test_bench_generate_runs(checkpoints: Path, tmp_path: Path) -> None:
    output = tmp_path / "bench.json"
    models = ("--latent", checkpoints / "codi", "--explicit", checkpoints / "cot-sft")
    run("bench", "generate", *models, "--questions", 2, "--output", output)
    assert json.loads(output.read_text())


def test_quickstart_hands_its_options_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    quickstart = pytest.importorskip("codi.quickstart.run")
    asked: dict[str, Any] = {}
    monkeypatch.setattr(quickstart, "run_quickstart", lambda **options: asked.update(options))
    run("quickstart", "--seed", 3, "--steps", 5, "--questions", 20, "--output", tmp_path)
    assert asked == {"output": tmp_path, "seed": 3, "steps": 5, "questions": 20, "overwrite": False}
