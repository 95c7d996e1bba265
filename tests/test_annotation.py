"""Rationales from an endpoint: checked, written at once, gone on with after a kill; against real servers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from chat_endpoint import ChatEndpoint, said, web
from codi.cli import app
from codi.data.sources import load_examples

ROWS = [
    {"question": "Mia has 3 apples and buys 4 more. How many?", "answer": "7"},
    {"question": "A pen costs 2 dollars. What do 5 cost?", "answer": "10"},
    {"question": "wrong: 1 + 1?", "answer": "2"},
    {"question": "silent: 1 + 2?", "answer": "3"},
    {"question": "long: 1 + 3?", "answer": "4"},
    {"question": "bare: 1 + 4?", "answer": "5"},
    {"question": "odd: 1 + 5?", "answer": "6"},
]
ANSWERS = {
    "Mia": "She has 3.5 apples at first, e.g. red ones. Then 3 + 4 = 7.\nThe answer is: 7",
    "A pen": "5 * 2 = 10. The answer is: $10",
    "wrong": "One and one. The answer is: 11",
    "silent": "It is 3.",
    "long": "One and",
    "bare": "The answer is: 5",
    "odd": "Hm. The answer is: many",
}
ONE = "So. The answer is: 1"


class Endpoint(ChatEndpoint):
    """Answers as `ANSWERS` say, after the refusals that wait."""

    def __init__(self) -> None:
        self.refusals: list[tuple[int, dict[str, str]]] = []
        self.delay = 0.0
        super().__init__(self.answer_or_refuse)

    async def answer_or_refuse(self, request: Any, question: str, times: int) -> Any:
        if self.refusals:
            status, headers = self.refusals.pop(0)
            return web.json_response({"error": {"message": "no"}}, status=status, headers=headers)
        await asyncio.sleep(self.delay)
        text = next((text for start, text in ANSWERS.items() if question.startswith(start)), ONE)
        return said(text, finish="length" if question.startswith("long") else "stop")


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    endpoint = Endpoint()
    yield endpoint
    endpoint.close()


def write(file: Path, rows: list[dict[str, str]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def words(source: Path, endpoint: Endpoint, output: Path, *more: str) -> list[str]:
    asked = ["--endpoint", endpoint.url, "--model", "big", "--output", str(output)]
    return ["data", "annotate", str(source), *asked, *more]


def run(*asked: str) -> str:
    result = CliRunner().invoke(app, list(asked))
    assert result.exit_code == 0, result.output + repr(result.exception)
    return " ".join(result.output.split())


def refused(*asked: str) -> str:
    result = CliRunner().invoke(app, list(asked))
    assert result.exit_code == 2, result.output + repr(result.exception)
    assert "Traceback" not in result.output
    return " ".join(result.output.split())


def test_right_ones_are_kept_and_the_others_set_apart_with_the_reason(
    endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODI_ENDPOINT_KEY", "secret")
    source, output = write(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl"
    said = run(*words(source, endpoint, output, "--extra", '{"reasoning": "explicit"}', "--max-tokens", "99"))
    kept = {row["question"][:3]: row for row in rows(output)}
    assert kept.keys() == {"Mia", "A p"}
    assert kept["Mia"]["steps"] == ["She has 3.5 apples at first, e.g. red ones.", "Then 3 + 4 = 7."]
    reasons = {
        row["question"].partition(":")[0]: row["reason"] for row in rows(tmp_path / "out.rejected.jsonl")
    }
    assert reasons == {
        "wrong": "wrong answer", "silent": "without 'The answer is:'", "long": "cut off",
        "bare": "no reasoning", "odd": "unreadable answer",
    }  # fmt: skip
    assert "7 asked (0 were done before): 2 kept; set apart: 1 cut off, 1 no reasoning" in said
    assert "Tokens: 70 read, 35 written." in said
    assert all(body["model"] == "big" and body["reasoning"] == "explicit" for body in endpoint.bodies)
    assert all(body["key"] == "Bearer secret" and body["max_tokens"] == 99 for body in endpoint.bodies)
    examples, _ = load_examples(str(output))  # a training file
    assert {example.answer for example in examples} == {"7", "10"}
    assert "0 asked (7 were done before)" in run(*words(source, endpoint, output))
    assert set(endpoint.asked.values()) == {1}


def test_killed_it_goes_on_without_asking_again(endpoint: Endpoint, tmp_path: Path) -> None:
    many = [{"question": f"What is number {n}?", "answer": "1"} for n in range(40)]
    source, output = write(tmp_path / "in.jsonl", many), tmp_path / "out.jsonl"
    endpoint.delay = 0.05
    process = subprocess.Popen(
        [sys.executable, "-m", "codi", *words(source, endpoint, output, "--concurrency", "3")],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "src")},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    ends = time.monotonic() + 60
    while len(rows(output)) < 10:
        assert time.monotonic() < ends
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    time.sleep(0.2)
    done = len(rows(output))
    assert done < 40
    assert endpoint.most_under_way == 3
    with output.open("a") as file:
        file.write('{"id": "in:39", "quest')  # as if the kill had cut a line
    endpoint.delay = 0.0
    assert f"({done} were done before)" in run(*words(source, endpoint, output))
    assert sorted(row["question"] for row in rows(output)) == sorted(row["question"] for row in many)
    assert sum(endpoint.asked.values()) <= 40 + 3  # what was under way, and nothing else


def test_a_busy_endpoint_is_asked_again_when_it_says(endpoint: Endpoint, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", ROWS[:2])
    endpoint.refusals = [(429, {"Retry-After": "0.4"}), (503, {"Retry-After": "0.1"})]
    begun = time.monotonic()
    assert "2 kept" in run(*words(source, endpoint, tmp_path / "out.jsonl", "--concurrency", "1"))
    assert time.monotonic() - begun > 0.5


def test_requests_are_spread_over_the_minute(endpoint: Endpoint, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", ROWS[:5])
    begun = time.monotonic()
    run(*words(source, endpoint, tmp_path / "out.jsonl", "--per-minute", "600"))
    assert time.monotonic() - begun > 0.4  # five, a tenth of a second apart


def test_bad_input_is_told_and_costs_nothing(endpoint: Endpoint, tmp_path: Path) -> None:
    source, output = write(tmp_path / "in.jsonl", ROWS[:2]), tmp_path / "out.jsonl"
    endpoint.refusals = [(401, {})] * 2
    assert "401" in (said := refused(*words(source, endpoint, output)))
    assert "CODI_ENDPOINT_KEY" in said
    assert "must end in .jsonl" in refused(*words(source, endpoint, tmp_path / "out.csv"))
    assert "--extra is not JSON" in refused(*words(source, endpoint, output, "--extra", "{"))
    (tmp_path / "prompt.txt").write_text("Answer!")
    assert "'{question}'" in refused(
        *words(source, endpoint, output, "--prompt", str(tmp_path / "prompt.txt"))
    )
    run(*words(source, endpoint, output))
    other = write(tmp_path / "other.jsonl", ROWS[2:4])
    assert "made from another file" in refused(*words(other, endpoint, output))
    output.write_text("nonsense\n")
    assert "line 1 is none of this command's" in refused(*words(source, endpoint, output))
    letters = write(tmp_path / "letters.jsonl", [{"question": "Which?", "answer": "B"}])
    assert "has the answer 'B'" in refused(
        *words(letters, endpoint, tmp_path / "new.jsonl", "--scorer", "codi")
    )


def test_it_works_against_codi_serve(tmp_path: Path) -> None:
    """In explicit mode the untrained model writes nonsense: all of it is set apart, with what it said."""
    pytest.importorskip("prometheus_client")
    from codi.serving.engine import Engine
    from running_server import serving
    from tiny_checkpoints import tiny_reasoner

    source = write(tmp_path / "in.jsonl", ROWS[:3])
    (tmp_path / "prompt.txt").write_text("{question}")
    reasoner = tiny_reasoner("codi")
    with serving(Engine(reasoner)) as running:
        said = run(
            "data", "annotate", str(source), "--endpoint", f"{running.address}/v1", "--model", "tiny",
            "--output", str(tmp_path / "out.jsonl"), "--extra", '{"reasoning": "explicit"}',
            "--prompt", str(tmp_path / "prompt.txt"), "--max-tokens", "6",
        )  # fmt: skip
    assert "3 asked" in said
    found = {row["question"]: row["response"] for row in rows(tmp_path / "out.rejected.jsonl")}
    expected = reasoner.answer([row["question"] for row in ROWS[:3]], mode="explicit", max_new_tokens=6)
    assert found == {answer.question: answer.text for answer in expected}
