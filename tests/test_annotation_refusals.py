"""What stops an annotation and what is set apart; retries; against a real server that misbehaves."""

from __future__ import annotations

import asyncio
import email.utils
import gzip
import json
import os
import re
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
from codi.data.example import Example
from codi.data.sources import load_examples
from codi.evaluation import annotation
from codi.evaluation.annotation import Account, Endpoint, EndpointError
from codi.evaluation.annotation_refusals import classify, retry_after, said_in
from codi.evaluation.scorers import get_scorer

RIGHT = "Two and two are added. The answer is: 4"


def error(status: int, message: str, **fields: Any) -> Any:
    return web.json_response({"error": {"message": message, **fields}}, status=status)


async def respond(request: Any, question: str, times: int) -> Any:
    """Behaves as the question's first word says."""
    match question.split()[0]:
        case "filtered":
            return error(400, "The content management policy was triggered.", code="content_filter")
        case "long":
            return error(
                400, "This model's maximum context length is 64 tokens.", code="context_length_exceeded"
            )
        case "moderated":
            return error(
                403, "The model needs moderation; the input was flagged.", metadata={"reasons": ["x"]}
            )
        case "detail":
            return web.json_response(
                {"detail": [{"msg": "Input should be shorter: prompt too long"}]}, status=422
            )
        case "odd":
            return error(400, "no")
        case "stopped":
            return said("Well", finish="content_filter")
        case "declined":
            return said(None, refusal="I cannot help with that.")
        case "empty":
            return {"choices": [], "usage": None}
        case "cut":
            return said("<think>\nTwo and two, let me see", finish="length")
        case "key":
            return error(401, "Incorrect API key provided: sk-secret")
        case "broke":
            return error(429, "You exceeded your current quota, check your plan.", code="insufficient_quota")
        case "lost":
            return None
        case "hangs":
            await asyncio.sleep(20)
        case "slow":
            await asyncio.sleep(0.6)
        case "page":
            return web.Response(text="<html><title>Gateway</title></html>", content_type="text/html")
    return said(RIGHT)


@pytest.fixture
def endpoint() -> Iterator[ChatEndpoint]:
    endpoint = ChatEndpoint(respond)
    yield endpoint
    endpoint.close()


def examples(*questions: str) -> list[Example]:
    return [Example(f"q{n}", question, (), "4") for n, question in enumerate(questions)]


def write(file: Path, *questions: str) -> Path:
    file.write_text("".join(json.dumps({"question": q, "answer": "4"}) + "\n" for q in questions))
    return file


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def words(source: Path, endpoint: ChatEndpoint, output: Path, *more: str) -> list[str]:
    asked = ["--endpoint", endpoint.url, "--model", "big", "--output", str(output)]
    return ["data", "annotate", str(source), *asked, *more]


def run(code: int, *asked: str) -> str:
    result = CliRunner().invoke(app, list(asked))
    assert result.exit_code == code, result.output + repr(result.exception)
    assert "Traceback" not in result.output
    return " ".join(result.output.split())


def annotate(
    endpoint: ChatEndpoint,
    output: Path,
    *questions: str,
    concurrency: int = 1,
    account: Account | None = None,
    stop_after: int = 8,
    **settings: Any,
) -> Account:
    asked = Endpoint(endpoint.url, "big", **{"pause": 0.01, **settings})
    return annotation.annotate(
        examples(*questions), asked, get_scorer("number"), output, concurrency=concurrency,
        account=account, stop_after=stop_after,
    )  # fmt: skip


def reasons(output: Path) -> dict[str, str]:
    return {row["question"].split()[0]: row["reason"] for row in rows(annotation.rejected_file(output))}


def test_a_refusal_of_one_question_is_set_apart_and_the_run_goes_on(
    endpoint: ChatEndpoint, tmp_path: Path
) -> None:
    asked = [
        "filtered one",
        "plain",
        "long",
        "moderated",
        "detail",
        "odd",
        "stopped",
        "declined",
        "empty",
        "cut",
        "last",
    ]
    source, output = write(tmp_path / "in.jsonl", *asked), tmp_path / "out.jsonl"
    told = run(0, *words(source, endpoint, output, "--concurrency", "1"))
    assert [row["question"] for row in rows(output)] == ["plain", "last"]
    assert reasons(output) == {
        "filtered": "content filter", "long": "too long", "moderated": "content filter", "detail": "too long",
        "odd": "refused", "stopped": "content filter", "empty": "empty answer", "cut": "cut off",
        "declined": "refused by the model: I cannot help with that.",
    }  # fmt: skip
    responses = {row["question"]: row["response"] for row in rows(annotation.rejected_file(output))}
    assert responses["odd"] == "400 no"
    assert "content management policy" in responses["filtered one"]
    assert "11 asked (0 were done before): 2 kept; set apart: 3 content filter, 1 cut off" in told
    assert "1 replies did not tell their tokens" in told
    assert '--retry-rejected "content filter"' in told
    assert "0 asked (11 were done before)" in run(0, *words(source, endpoint, output))
    assert set(endpoint.asked.values()) == {1}


def test_what_was_set_apart_is_asked_again_when_wished(endpoint: ChatEndpoint, tmp_path: Path) -> None:
    source, output = (
        write(tmp_path / "in.jsonl", "filtered one", "plain", "odd", "long"),
        tmp_path / "out.jsonl",
    )
    run(0, *words(source, endpoint, output))

    async def mended(request: Any, question: str, times: int) -> Any:
        return await respond(request, question if question.startswith("long") else "plain", times)

    endpoint.respond = mended
    assert "Reasons there: " in (told := run(2, *words(source, endpoint, output, "--retry-rejected", "lost")))
    assert "'content filter' (1)" in told
    again = run(0, *words(source, endpoint, output, "--retry-rejected", "content filter"))
    assert "1 asked (3 were done before): 1 kept" in again
    assert {row["question"] for row in rows(output)} == {"plain", "filtered one"}
    assert reasons(output) == {"odd": "refused", "long": "too long"}  # each stands in one file
    assert "2 asked (2 were done before): 1 kept; set apart: 1 too long" in run(
        0, *words(source, endpoint, output, "--retry-rejected", "--concurrency", "1")
    )
    assert reasons(output) == {"long": "too long"}
    assert len(load_examples(str(output))[0]) == 3
    assert endpoint.asked == {"filtered one": 2, "plain": 1, "odd": 2, "long": 2}


@pytest.mark.parametrize(
    ("first", "told"), [("key", "Check the key"), ("broke", "no credit or quota")], ids=["key", "quota"]
)
def test_a_refusal_of_all_stops_it_and_answers_under_way_are_kept(
    endpoint: ChatEndpoint, tmp_path: Path, first: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODI_ENDPOINT_KEY", "sk-secret\n")
    asked = ["slow 1", "slow 2", "slow 3", first, *(f"plain {n}" for n in range(9))]
    source, output = write(tmp_path / "in.jsonl", *asked), tmp_path / "out.jsonl"
    message = run(2, *words(source, endpoint, output, "--concurrency", "4"))
    assert told in message
    assert "sk-secret" not in message
    assert {"slow 1", "slow 2", "slow 3"} <= {row["question"] for row in rows(output)}
    assert endpoint.bodies[0]["key"] == "Bearer sk-secret"
    assert sum(endpoint.asked.values()) <= 4 + 3
    assert reasons(output) == {}

    async def mended(request: Any, question: str, times: int) -> Any:
        return said(RIGHT)

    endpoint.respond = mended
    run(0, *words(source, endpoint, output))
    assert len(rows(output)) == len(asked)


def test_an_unclear_refusal_of_every_question_stops_it_and_is_not_remembered(
    endpoint: ChatEndpoint, tmp_path: Path
) -> None:
    odd = [f"odd {n}" for n in range(40)]
    output, account = tmp_path / "out.jsonl", Account()
    with pytest.raises(EndpointError, match=r"refused 8 questions .* the last: 400 no"):
        annotate(endpoint, output, *odd, account=account)
    assert (sum(endpoint.asked.values()), account.refused, reasons(output)) == (8, 8, {})
    with pytest.raises(
        EndpointError, match="refused 2 questions"
    ):  # fewer than it takes, but all that there are
        annotate(endpoint, output, *odd[:2])
    account = annotate(endpoint, output, *odd[:10], "plain", *odd[10:30], stop_after=11)
    assert (account.accepted, account.rejected) == (1, {"refused": 30})
    filtered = [f"filtered {n}" for n in range(40)]
    assert annotate(endpoint, tmp_path / "new.jsonl", *filtered[:20]).rejected == {"content filter": 20}
    with pytest.raises(EndpointError, match="refused 32 questions"):  # whatever it says
        annotate(endpoint, tmp_path / "newer.jsonl", *filtered)


def test_while_slower_questions_are_under_way_quick_refusals_do_not_stop_it(
    endpoint: ChatEndpoint, tmp_path: Path
) -> None:
    asked = [*(f"odd {n}" for n in range(12)), "slow 1", *(f"plain {n}" for n in range(5))]
    account = annotate(endpoint, tmp_path / "out.jsonl", *asked, concurrency=13)
    assert (account.accepted, account.rejected) == (6, {"refused": 12})
    with pytest.raises(EndpointError, match=r"refused 1[23] questions"):
        annotate(endpoint, tmp_path / "new.jsonl", *asked[:12], "odd 99", concurrency=12)


def test_a_question_without_an_answer_is_set_apart_where_others_have_one(
    endpoint: ChatEndpoint, tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    account = annotate(endpoint, output, "lost 1", "plain 1", "hangs", "plain 2", tries=2, timeout=0.4)
    assert (account.accepted, account.rejected) == (2, {"no answer": 2})
    assert endpoint.asked["lost 1"] == endpoint.asked["hangs"] == 2
    assert "no answer within 0.4 seconds" in rows(annotation.rejected_file(output))[1]["response"]
    with pytest.raises(EndpointError, match="did not answer 3 questions, nor any in between"):
        annotate(endpoint, tmp_path / "new.jsonl", *(f"lost {n}" for n in range(9)), tries=1)
    assert not rows(tmp_path / "new.rejected.jsonl")


@pytest.mark.parametrize(
    "status", [408, 409, 425, 429, 500, 502, 503, 504, 529, "lost", "page", "error", "json"]
)
def test_what_may_pass_is_tried_again(endpoint: ChatEndpoint, tmp_path: Path, status: int | str) -> None:
    async def at_first(request: Any, question: str, times: int) -> Any:
        if question == "second" and times < 3:
            if isinstance(status, int):
                return web.json_response({"error": "busy"}, status=status, headers={"Retry-After": "0"})
            if status == "error":  # with status 200
                return {"error": {"code": 502, "message": "the provider failed"}}
            return web.Response(text='{"choi') if status == "json" else await respond(request, status, times)
        return said(RIGHT)

    endpoint.respond = at_first
    account = annotate(endpoint, tmp_path / "out.jsonl", "first", "second", tries=3)
    assert (account.accepted, endpoint.asked["second"]) == (2, 3)


def test_the_endpoint_says_how_long_to_wait(endpoint: ChatEndpoint, tmp_path: Path) -> None:
    came: list[float] = []

    async def busy(request: Any, question: str, times: int) -> Any:
        came.append(time.monotonic())
        if times == 1:
            return web.json_response({}, status=429, headers={"Retry-After": "0.3"})
        return said(RIGHT)

    endpoint.respond = busy
    assert annotate(endpoint, tmp_path / "out.jsonl", "one").accepted == 1
    assert came[1] - came[0] > 0.29
    now = time.time()
    assert retry_after({"Retry-After": "7"}, "") == 7
    assert retry_after({"retry-after-ms": "250", "Retry-After": "1"}, "") == 0.25
    assert 25 < (retry_after({"Retry-After": email.utils.formatdate(now + 30, usegmt=True)}, "") or 0) <= 30
    assert retry_after({"Retry-After": email.utils.formatdate(now - 30, usegmt=True)}, "") == 0
    assert retry_after({"Retry-After": "9999"}, "") == 600
    assert retry_after({}, "Rate limit reached. Please try again in 1m2.5s.") == 62.5
    assert retry_after({}, "Please retry in 34.07s.") == 34.07
    assert retry_after({}, "try again in 120ms") == 0.12
    assert retry_after({"Retry-After": "soon"}, "try again later") is None


def test_an_endpoint_out_of_reach_or_of_another_kind_is_told(endpoint: ChatEndpoint, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", "plain")
    asked = [
        "data",
        "annotate",
        str(source),
        "--model",
        "m",
        "--output",
        str(tmp_path / "out.jsonl"),
        "--endpoint",
    ]
    assert "must begin with http:// or https://" in run(2, *asked, "127.0.0.1:8000/v1")
    endpoint_of_nobody = Endpoint("http://127.0.0.1:9/v1", "m", pause=0.01)
    with pytest.raises(EndpointError, match=r"out of reach.*whether the server runs"):
        annotation.annotate(examples("plain"), endpoint_of_nobody, get_scorer("number"), tmp_path / "o.jsonl")
    assert "404" in run(2, *asked, endpoint.url.removesuffix("/v1"))

    bodies: list[tuple[Any, str]] = [
        ({"type": "message", "content": [{"type": "text", "text": "x"}]}, "Anthropic's Messages form"),
        ({"model": "m", "message": {"content": "x"}, "done": True}, "Ollama's own form"),
        ({"object": "response", "output": []}, "Responses API"),
        ({"candidates": []}, "Gemini's own form"),
        ("<html><title>Sign in</title></html>", r"web page \(Sign in\)"),
        ({"error": "Unexpected endpoint or method. (POST /chat/completions)"}, "Unexpected endpoint"),
        ({"error": "model 'm' not found, try pulling it first"}, "Check --model"),
    ]
    for body, told in bodies:

        async def other(request: Any, question: str, times: int, body: Any = body) -> Any:
            return web.Response(text=body) if isinstance(body, str) else body

        endpoint.respond = other
        with pytest.raises(EndpointError, match=told):
            annotate(endpoint, tmp_path / "out.jsonl", "plain")

    async def moved(request: Any, question: str, times: int) -> Any:
        return web.Response(status=308, headers={"Location": "https://example.org/v1/chat/completions"})

    endpoint.respond = moved
    with pytest.raises(EndpointError, match=r"moved to https://example\.org/v1"):
        annotate(endpoint, tmp_path / "out.jsonl", "plain")


def test_bodies_of_every_kind_are_read(endpoint: ChatEndpoint, tmp_path: Path) -> None:
    plain = json.dumps({k: v for k, v in said(RIGHT).items() if k != "usage"})
    deltas = [{"role": "assistant"}, {"reasoning_content": "Hm."}, {"content": "Two and two are"},
              {"content": " added. The answer"}, {"content": " is: 4"}]  # fmt: skip
    events = [{"choices": [{"delta": delta}]} for delta in deltas]
    events += [
        {"choices": [{"delta": {}, "finish_reason": "stop"}]},
        {"choices": [], "usage": {"completion_tokens": 5}},
    ]
    stream = (
        ": waiting\n\n" + "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    )
    bodies: dict[str, tuple[bytes, dict[str, str]]] = {
        "bom": (b"\xef\xbb\xbf" + plain.encode(), {}),
        "spaces": (b"\n\n   " + plain.encode() + b"\n", {}),
        "gzip": (gzip.compress(plain.encode()), {"Content-Encoding": "gzip"}),
        "untold": (gzip.compress(plain.encode()), {}),
        "wide": (plain.encode("utf-16"), {}),
        "stream": (stream.encode(), {"Content-Type": "text/event-stream"}),
        "text": (json.dumps({"choices": [{"text": RIGHT}]}).encode(), {}),
        "list": (f"[{plain}]".encode(), {}),
    }

    async def kinds(request: Any, question: str, times: int) -> Any:
        body, headers = bodies[question]
        return web.Response(body=body, headers=headers)

    endpoint.respond = kinds
    account = annotate(endpoint, tmp_path / "out.jsonl", *bodies)
    assert account.rejected == {}
    assert {tuple(row["steps"]) for row in rows(tmp_path / "out.jsonl")} == {("Two and two are added.",)}
    assert account.tokens_untold == len(bodies) - 1
    endpoint.respond = respond
    bodies["stream"] = (stream.partition('{"choices": [{"delta": {}, "fin')[0].encode(), {})
    endpoint.respond = kinds
    account = annotate(
        endpoint, tmp_path / "new.jsonl", "stream", "bom", tries=2
    )  # breaks off: not half an answer
    assert (account.accepted, account.rejected) == (1, {"no answer": 1})


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "term"]
)
def test_a_run_that_is_interrupted_keeps_what_is_under_way(
    endpoint: ChatEndpoint, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    asked = [f"slow {n}" for n in range(30)]
    source, output = write(tmp_path / "in.jsonl", *asked), tmp_path / "out.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-m", "codi", *words(source, endpoint, output, "--concurrency", "5")],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "src")},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    ends = time.monotonic() + 60
    while endpoint.under_way < 5 or len(rows(output)) < 5:
        assert time.monotonic() < ends
        time.sleep(0.01)
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    assert process.returncode == code, told
    assert "Answers under way have 15 seconds" in told
    assert len(rows(output)) == sum(endpoint.asked.values())  # all that was asked is there
    assert f"{len(rows(output))} asked" in told
    assert len(rows(output)) < 30


def test_a_second_interruption_does_not_wait(endpoint: ChatEndpoint, tmp_path: Path) -> None:
    account = Account()
    told: list[str] = []

    def note(message: str) -> None:
        told.append(message)
        os.kill(os.getpid(), signal.SIGINT)

    def shown(done: int, total: int, account: Account) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        annotation.annotate(
            examples("plain", "hangs", "hangs too"), Endpoint(endpoint.url, "big"), get_scorer("number"),
            tmp_path / "out.jsonl", account=account, on_progress=shown, on_note=note,
        )  # fmt: skip
    assert (account.accepted, account.given_up, len(told)) == (1, 2, 1)
    assert "2 more will be asked again" in account.describe()


def test_files_edited_by_hand_are_read_on(endpoint: ChatEndpoint, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    annotate(endpoint, output, "plain 1", "filtered 1")
    for file in (output, annotation.rejected_file(output)):
        file.write_text(file.read_text().rstrip("\n"))  # an editor left the last line break out
    account = annotate(endpoint, output, "plain 1", "filtered 1", "plain 2", "plain 2")
    assert (account.earlier, account.accepted, account.repeated) == (2, 1, 1)
    assert [row["question"] for row in rows(output)] == ["plain 1", "plain 2"]
    with annotation.rejected_file(output).open("a") as file:
        file.write('{"id": "x", "question": "plain 3", "ans')  # as a kill leaves it
    annotate(endpoint, output, "plain 1", "filtered 1", "plain 3")
    assert reasons(output) == {"filtered": "content filter"}


OWN = ("model", "messages", "temperature", "max_tokens")
NAMED = [
    # What providers say of one question.
    (400, {"error": {"code": "content_policy_violation", "message": "x"}}, "question", "content filter"),
    (
        400,
        {
            "error": {
                "code": "content_filter",
                "innererror": {"code": "ResponsibleAIPolicyViolation"},
                "param": "prompt",
            }
        },
        "question",
        "content filter",
    ),
    (
        400,
        {"error": {"code": "invalid_prompt", "message": "Invalid prompt: flagged."}},
        "question",
        "content filter",
    ),
    (
        400,
        {"error": {"message": "Content Exists Risk", "type": "invalid_request_error"}},
        "question",
        "content filter",
    ),
    (
        400,
        {"code": "data_inspection_failed", "message": "Output data may be unsuitable."},
        "question",
        "content filter",
    ),
    (
        403,
        {"error": {"code": 403, "message": "Input was flagged", "metadata": {"reasons": ["violence"]}}},
        "question",
        "content filter",
    ),
    (
        400,
        {"error": {"code": "string_above_max_length", "param": "messages[0].content"}},
        "question",
        "too long",
    ),
    (
        400,
        {
            "object": "error",
            "message": "This model's maximum context length is 64 tokens, you asked for 80.",
            "param": None,
        },
        "question",
        "too long",
    ),
    (
        400,
        {"error": {"type": "exceed_context_size_error", "message": "request (90 tokens) exceeds the size"}},
        "question",
        "too long",
    ),
    (
        500,
        {"error": {"code": 500, "message": "Context size has been exceeded.", "type": "server_error"}},
        "question",
        "too long",
    ),
    (
        422,
        {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 64"},
        "question",
        "too long",
    ),
    (413, "<html><head><title>413 Request Entity Too Large</title></head></html>", "question", "too long"),
    (
        413,
        {"error": {"message": "Request too large: tokens per minute (TPM)", "code": "rate_limit_exceeded"}},
        "question",
        "too long",
    ),
    # Of all.
    (401, {"error": {"message": "no key"}}, "all", None),
    (402, {"error": {"message": "Insufficient credits"}}, "all", None),
    (403, {"error": {"message": "Forbidden"}}, "all", None),
    (404, {"error": {"message": "The model `m` does not exist", "code": "model_not_found"}}, "all", None),
    (404, "404 page not found", "all", None),
    (400, {"error": {"message": "API key not valid. Please pass a valid API key."}}, "all", None),
    (400, {"error": {"message": "Your credit balance is too low"}}, "all", None),
    (
        429,
        {"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}},
        "all",
        None,
    ),
    (
        400,
        {
            "error": {
                "message": "Use 'max_completion_tokens'.",
                "param": "max_tokens",
                "code": "unsupported_parameter",
            }
        },
        "all",
        None,
    ),
    (400, {"error": {"message": "Invalid value", "param": "temperature"}}, "all", None),
    (400, {"error": {"message": "m is not a valid model ID", "code": 400}}, "all", None),
    # Of the moment.
    (429, {"error": {"message": "Rate limit reached for requests"}}, "busy", None),
    (
        429,
        [
            {
                "error": {
                    "message": "You exceeded your current quota. Please retry in 3s.",
                    "status": "RESOURCE_EXHAUSTED",
                }
            }
        ],
        "busy",
        None,
    ),
    (500, {"error": {"message": "The server had an error"}}, "busy", None),
    (524, "<html>", "busy", None),
    # Nobody knows.
    (400, {"error": {"message": "Bad Request"}}, "unclear", "refused"),
    (422, {"detail": "no"}, "unclear", "refused"),
    (400, {"error": {"message": "max_tokens is too large: 9000. At most 4096."}}, "unclear", "too long"),
    # A question that is echoed names nothing.
    (
        422,
        {"detail": [{"msg": "no", "input": "What does a content_filter do? And moderation?"}]},
        "unclear",
        "refused",
    ),
]


@pytest.mark.parametrize(("status", "body", "scope", "reason"), NAMED)
def test_whom_a_refusal_is_about(status: int, body: Any, scope: str, reason: str | None) -> None:
    names, told = said_in(body)
    found, word = classify(status, names, own_fields=OWN)
    assert found == scope, told
    assert reason is None or word == reason
    assert told
    assert not re.search(r"param=|<html", told)
