"""The README's commands work as typed (shortened), in order, in an empty folder."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from codi.cli import app
from codi.quickstart.report import summary
from codi.quickstart.systems import SETS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHORTER = {
    "quickstart": ["--steps", "4", "--questions", "8"],
    "train": ["training.max_steps=2", "training.eval_steps=2", "data.validation_limit=4"],
    "bench": ["--questions", "4"],
    "probe": ["--count", "12"],
    "eval": ["--limit", "4", "--latency-questions", "2"],
    "data vary": ["--count", "50"],
    "stop-curve": ["--limit", "4"],
}


def commands() -> list[list[str]]:
    """Every `codi ...` line of the README's bash blocks, split as a shell would."""
    blocks = re.findall(r"```bash\n(.*?)```", README, flags=re.S)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith("codi ")]


def run(*words: str) -> str:
    """The output of a command that must succeed. In this process: a new one would import torch again."""
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == 0, f"codi {shlex.join(words)}\n{result.output}\n{result.exception!r}"
    return result.output


@pytest.mark.timeout(900)
def test_readme_commands_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The quickstart first, then everything the README does with what it leaves behind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # of the quickstart's processes
    listed = commands()
    assert {command[1] for command in listed} >= {"train", "eval", "generate", "data"}
    for command in [["codi", "quickstart"], *listed]:
        if any(word.startswith(("gpt2-", "llama1b-", "zen-E/", "runs/codi-gpt2")) for word in command):
            continue  # needs the hub; that the recipe loads is tested in test_recipes.py
        if command[1] == "bench" and command[2] == "train":
            continue  # minutes at GPT-2 size; tested at tiny size in test_bench.py
        if command[1] == "reproduce" and "--dry-run" not in command:
            continue  # 24 runs; a shortened sweep is made in test_reproduce.py
        if "annotate" in command:
            continue  # needs an endpoint; test_annotation.py has one
        if command[1] in ("ui", "serve"):
            continue  # serve until interrupted; tested in test_thought_page.py and test_serve.py
        run(*command[1:], *SHORTER.get(command[1], SHORTER.get(" ".join(command[1:3]), [])))
    for snippet in re.findall(r"```python\n(.*?)```", README, flags=re.S):
        shorter = snippet.replace('max_steps": 100', 'max_steps": 2, "data.validation_limit": 4')
        shorter = shorter.replace("limit=100", "limit=4")
        assert shorter != snippet
        exec(compile(shorter, "README.md", "exec"), {})
    results = json.loads((tmp_path / "runs/quickstart/results.json").read_text())
    assert results.keys() == {
        "seed", "wall_seconds", "resumed", "device", "versions", "test_chains", "methods",
    }  # fmt: skip
    assert not results["resumed"]
    assert all(found["seen"] == 0 for found in results["test_chains"].values())
    assert results["methods"].keys() == {"codi", "cot-sft", "no-cot-sft"}
    for found in results["methods"].values():
        assert found.keys() == {
            "benchmarks", "thought_tokens", "sequential_passes", "latency_ms", "train_seconds",
        }  # fmt: skip
        assert found["benchmarks"].keys() == set(SETS)
        for benchmark in found["benchmarks"].values():
            assert benchmark.keys() == {"accuracy", "ci95", "n", "scorer"}
        assert found["latency_ms"].keys() == {"median", "p95"}
    assert (tmp_path / "runs/quickstart/results.png").stat().st_size > 10_000


def test_readme_results_are_those_of_the_files() -> None:
    """Every figure of the block is printed by `codi quickstart --summary docs/results/quickstart`."""
    block = README.split("<!-- results -->")[1]
    assert summary(ROOT / "docs/results/quickstart") in block


def test_readme_file_tree_is_the_real_one() -> None:
    """Every source file stands in the README's tree, in its folder, and nothing that does not exist."""
    tree = README.split("<!-- tree -->")[1].split("```")[1]
    above, named = list[tuple[int, str]](), set[str]()
    for spaces, name in re.findall(r"^( *)(\S+)", tree, flags=re.M):
        above = [(depth, folder) for depth, folder in above if depth < len(spaces)]
        if name.endswith("/"):
            above.append((len(spaces), name))
        else:
            named.add("".join(folder for _, folder in above) + name)
    files = [*(ROOT / "src/codi").rglob("*.py"), *(ROOT / "examples").glob("*.py")]
    assert named == {str(path.relative_to(ROOT)) for path in files if path.name != "__init__.py"}
