"""`codi serve --ui`: the page behind the same key, and its questions in the same line, as the API."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from codi.serving.engine import Engine, EngineBusy, EngineDown, Finished, Question
from codi.serving.page_turn import PageTurn
from codi.serving.thought_session import LONGEST_RATIONALE, ThoughtSession
from running_server import KEY, QUESTIONS, chat
from tiny_checkpoints import tiny_reasoner

httpx = pytest.importorskip("httpx")
pytest.importorskip("nicegui", reason="the page needs nicegui")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
BEARER = {"authorization": f"Bearer {KEY}"}
HTML = {"accept": "text/html,application/xhtml+xml"}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("serve-page") / "tiny"
    tiny_reasoner("codi").save_pretrained(folder)
    process = subprocess.Popen(
        [sys.executable, "-m", "codi", "serve", str(folder), "--ui", "--port", "0", "--device", "cpu"],
        env={**os.environ, "CODI_API_KEY": KEY}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    line = process.stderr.readline()
    found = re.search(r"(http://127\.0\.0\.1:\d+)/v1", line)
    assert found, line + process.stderr.read()
    yield found.group(1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (0, "stopped.\n")


def test_the_api_is_the_api_beside_the_page(address: str) -> None:
    found = httpx.post(f"{address}/v1/chat/completions", json=chat(QUESTIONS[0]), headers=BEARER)
    assert found.json()["choices"][0]["message"]["content"]
    for method, path, status, code in (
        ("GET", "/v1/nothing", 404, "not_found"),
        ("POST", "/v1", 404, "not_found"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("GET", "/v1/models/other", 404, "model_not_found"),
    ):
        answer = httpx.request(method, address + path, headers=BEARER | HTML)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    for path in ("/health", "/metrics"):
        assert httpx.get(address + path).status_code == 200


def test_the_page_asks_for_the_key(address: str) -> None:
    with httpx.Client(base_url=address) as client:
        asked = client.get("/", headers=HTML)
        assert (asked.status_code, asked.headers["location"]) == (303, "/login")
        assert client.get("/").status_code == 401
        assert client.get("/_nicegui_ws/socket.io/?EIO=4&transport=polling").status_code == 401
        assert client.get("/", headers=BEARER).status_code == 401  # the page has its own way in
        handshake = {"connection": "upgrade", "upgrade": "websocket", "sec-websocket-version": "13",
                     "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ=="}  # fmt: skip
        socket = f"{address}/_nicegui_ws/socket.io/?EIO=4&transport=websocket"
        assert httpx.get(socket, headers=handshake).status_code == 403  # it ends its connection
        wrong = client.post("/login", data={"key": "wrong"})
        assert (wrong.status_code, "not the key" in wrong.text, "set-cookie" in wrong.headers) == (
            401,
            True,
            False,
        )
        right = client.post("/login", data={"key": KEY})
        assert (right.status_code, right.headers["location"]) == (303, "/")
        cookie = right.headers["set-cookie"]
        assert KEY not in cookie
        assert all(word in cookie for word in ("HttpOnly", "SameSite=strict"))
        page = client.get("/", headers=HTML)
        assert page.status_code == 200
        assert "Thoughts of tiny" in page.text
        # The cookie opens the page, and nothing else.
        refused = client.post("/v1/chat/completions", json=chat(QUESTIONS[0]))
        assert refused.status_code == 401


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed (apt-get install chromium)")
def test_a_browser_gives_the_key_and_asks(address: str) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(20_000)
        page.goto(address)
        page.get_by_label("API key of this server").fill(KEY)
        page.get_by_role("button", name="Show the page").click()
        page.get_by_role("button", name="Ask", exact=True).click()
        page.locator("[data-answer=latent]").wait_for()
        browser.close()
    counted = httpx.get(f"{address}/health").json()
    assert (counted["waiting"], counted["active"]) == (0, 0)


def test_a_turn_pauses_for_those_who_wait_and_goes_on_where_the_line_is_full() -> None:
    engine = Engine(tiny_reasoner("codi"), max_batch=1, max_waiting=1)
    turn, ended = PageTurn(engine), threading.Event()

    def deliver(event: Any) -> None:
        if isinstance(event, Finished):
            ended.set()

    with turn:
        engine.submit(Question(QUESTIONS[1], max_new_tokens=4, ignore_eos=True), deliver)
        with pytest.raises(EngineBusy):
            engine.submit(Question(QUESTIONS[1]), print)
        for _ in range(6):  # each lets those go on who wait, thinking and writing
            turn.pause()
            if ended.wait(0):
                break
        assert ended.is_set()
    engine.close()
    with pytest.raises(EngineDown), turn:
        pass


def test_a_question_of_the_pages_holds_nobody_up_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answer is what the reasoner gives; while it is written, others get theirs."""
    monkeypatch.setattr("codi.serving.thought_session.SECONDS_HELD", 0.0)
    reasoner = tiny_reasoner("codi")
    engine = Engine(reasoner, max_batch=4, max_waiting=3)
    paused: list[int] = []

    class Watched(PageTurn):
        def pause(self) -> None:
            super().pause()
            paused.append(1)

    session = ThoughtSession(reasoner, Watched(engine))
    expected = reasoner.answer([QUESTIONS[0]], mode="explicit", max_new_tokens=LONGEST_RATIONALE)[0]
    asked = session.ask(QUESTIONS[0])
    assert asked.explicit is not None
    assert asked.explicit.answer == expected
    assert len(paused) >= asked.explicit.answer.passes
    engine.close()


# --- its place in the line ----------------------------------------------------------------------------------


def test_a_turn_waits_in_line_and_holds_the_model_alone() -> None:
    engine = Engine(tiny_reasoner("codi"), max_batch=4, max_waiting=3)
    order: list[str] = []

    def asked(name: str) -> threading.Event:
        ended = threading.Event()

        def deliver(event: Any) -> None:
            if isinstance(event, Finished):
                order.append(name)
                ended.set()

        engine.submit(Question(QUESTIONS[1], max_new_tokens=2), deliver)
        return ended

    turn, second_began = PageTurn(engine), threading.Event()

    def second() -> None:
        with turn:
            order.append("second turn")
            second_began.set()

    with ThreadPoolExecutor(1) as other:
        with turn:
            waiting = [asked("a question"), asked("a question")]
            other.submit(second)
            while engine.load()[0] < 3:
                assert not second_began.is_set()
            with pytest.raises(EngineBusy, match="at most 3 may wait"):
                asked("one too many")
            order.append("first turn")
        assert all(one.wait(20) for one in waiting)
    assert second_began.is_set()
    assert order[0] == "first turn"
    assert sorted(order[1:]) == ["a question", "a question", "second turn"]
    with pytest.raises(ZeroDivisionError), turn:
        print(1 / 0)
    assert asked("after an error").wait(20)  # what fails in a turn gives the model back
    engine.close()
    with pytest.raises(EngineDown), turn:
        pass
