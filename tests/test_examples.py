"""The scripts in examples/ run as they stand, and say what they promise. In one process: torch loads once."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from tiny_checkpoints import tiny_reasoner

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("examples") / "codi"
    tiny_reasoner("codi").save_pretrained(folder)
    return str(folder)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> object:
    """Runs a script as `python examples/NAME.py ...` does, in an empty folder; gives what it printed."""

    def run_script(name: str, *words: str) -> str:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [name, *words])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run_script


def test_every_script_is_tested_here_and_named_in_the_docs() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    page = (EXAMPLES.parent / "docs/python.md").read_text(encoding="utf-8")
    scripts = sorted(path.name for path in EXAMPLES.glob("*.py"))
    assert len(scripts) == 5
    for script in scripts:
        assert f'"{script}"' in source
        assert f"examples/{script}" in page


def test_own_data(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    out = run("own_data.py")
    assert "48 rows read, 48 kept" in out
    assert "steps=('He buys 2 * 3 = 6 pens.', 'Then 6 - 1 = 5 are left.'), answer='5'" in out
    assert "teacher   Tom buys 2 boxes" in out
    assert "/8, scorer number)" in out
    assert (tmp_path / "runs/own-data/run/codi.json").exists()


def test_new_method(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert "8 thought tokens" in run("new_method.py", "--steps", "2", "--rows", "32")
    assert '"codi-cosine"' in (tmp_path / "runs/new-method/codi.json").read_text(encoding="utf-8")


def test_evaluate_and_compare(run, checkpoint: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    out = run("evaluate_and_compare.py", checkpoint, checkpoint, "--limit", "4", "--benchmark", "in_domain")
    assert out.count("/4, scorer codi)") == 2
    assert "Second less first: +0.0 points" in out
    assert (tmp_path / "runs/compared/2.jsonl").exists()


def test_look_at_thoughts(run, checkpoint: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    asked = ("--limit", "3", "--page", "page.html", "--benchmark", "in_domain")
    out = run("look_at_thoughts.py", checkpoint, *asked)
    assert "  z6: says" in out
    assert "  zero z6: " in out
    assert (tmp_path / "page.html").exists()


@pytest.mark.parametrize("script", ["evaluate_and_compare.py", "look_at_thoughts.py"])
def test_a_model_that_a_script_trains_reads_what_it_is_asked(  # type: ignore[no-untyped-def]
    run, script: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert run(script, "--limit", "2")
    assert "does not know" not in caplog.text


def test_serve_and_ask(run, caplog: pytest.LogCaptureFixture) -> None:  # type: ignore[no-untyped-def]
    out = run("serve_and_ask.py")
    assert "does not know" not in caplog.text
    assert "'thought_tokens': 8" in out
    assert out.rstrip().endswith("stopped")
