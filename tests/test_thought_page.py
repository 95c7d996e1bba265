"""The page as a person uses it: a browser without a window, against a server in a process of its own."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from codi.data.word_problems import generate
from tiny_checkpoints import tiny_reasoner

pytest.importorskip("nicegui", reason="the page needs nicegui")
playwright = pytest.importorskip("playwright.sync_api", reason="the page is tested through playwright")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium is installed (apt-get install chromium)"
)

Z2 = "fed back for z2"
EXAMPLES = [example.question for example in generate("test", 2)]


@dataclass
class Server:
    """`codi ui` with a tiny random model on a port that was free."""

    checkpoint: Path
    process: subprocess.Popen[str] = field(init=False)
    address: str = field(init=False)

    def __post_init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "codi", "ui", str(self.checkpoint), "--port", "0", "--device", "cpu"],
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+/", line)
        assert found, line + self.process.stderr.read()
        self.address = found.group()

    def stop(self) -> tuple[int, str]:
        """Ctrl-C. Exit code and what it said after the first line."""
        self.process.send_signal(signal.SIGINT)
        _, said = self.process.communicate(timeout=20)
        return self.process.returncode, said


@dataclass
class Tab:
    """A page, and what it asked of the network and wrote to the console."""

    page: playwright.Page
    requests: list[str]
    complaints: list[str]

    def ask(self, question: str | None = None) -> None:
        """Ask, with the button, and wait for the answer."""
        if question is not None:
            self.page.get_by_label("Question", exact=True).fill(question)
        self.page.get_by_role("button", name="Ask", exact=True).click()

    def answer(self, which: str) -> playwright.Locator:
        """The card of the `latent`, `changed` or `explicit` answer."""
        return self.page.locator(f"[data-answer={which}]")

    def value(self, which: str) -> str:
        """Its answer."""
        self.answer(which).wait_for()
        return str(self.answer(which).locator(".value").inner_text())

    def thought(self, name: str) -> playwright.Locator:
        """The card of a thought."""
        return self.page.get_by_role("group", name=f"Thought {name}", exact=True)

    def feed(self, label: str, choice: str) -> None:
        """Choose what is fed back for a thought."""
        self.page.get_by_label(label).click()
        self.page.get_by_role("option", name=choice, exact=True).click()

    def overflow(self) -> int:
        """Pixels by which the page is wider than its window."""
        width: int = self.page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        return width


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page") / "codi"
    tiny_reasoner("codi").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def server(checkpoint: Path) -> Iterator[Server]:
    server = Server(checkpoint)
    yield server
    code, said = server.stop()
    assert (code, said) == (0, "stopped.\n")  # nothing else was written: no traceback in all these tests


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def tab(server: Server, browser: playwright.Browser) -> Iterator[Tab]:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(15_000)
    tab = Tab(page, [], [])
    page.on("request", lambda request: tab.requests.append(request.url))
    page.on("websocket", lambda socket: tab.requests.append(socket.url))
    page.on(
        "console", lambda message: tab.complaints.append(message.text) if message.type == "error" else None
    )
    page.on("pageerror", lambda error: tab.complaints.append(str(error)))
    page.goto(server.address)
    yield tab
    page.close()
    local = re.compile(re.escape(server.address).replace("http", "(http|ws)", 1))
    assert tab.requests
    assert [url for url in tab.requests if not local.match(url) and not url.startswith("data:")] == []
    assert tab.complaints == []


def test_ask_silence_and_keep_again(tab: Tab) -> None:
    box = tab.page.get_by_label("Question", exact=True)
    assert box.input_value() == EXAMPLES[0]
    tab.ask()
    before = tab.value("latent")
    assert re.search(r"\d ms, \d+ passes", tab.answer("latent").inner_text())
    assert re.search(r"\d ms, \d+ passes", tab.answer("explicit").inner_text())
    for number in range(1, 7):
        assert tab.thought(f"z{number}").get_by_role("img").count() == 5
    assert tab.answer("changed").count() == 0

    tab.feed(Z2, "silence: zeros")
    tab.value("changed")
    assert "z2: silence: zeros" in tab.answer("changed").inner_text()
    assert tab.value("latent") == before  # the old answer stays beside it
    assert tab.thought("z2").get_by_role("img").count() == 5
    assert tab.thought("z3").get_by_role("img").count() == 10  # as it was, and with the changes
    tab.page.get_by_role("button", name="Keep all").click()
    tab.answer("changed").wait_for(state="detached")
    tab.thought("z3").get_by_text("with the changes").wait_for(state="hidden")
    assert tab.overflow() == 0


def test_a_thought_replaced_by_another(tab: Tab) -> None:
    tab.ask()
    tab.value("explicit")
    tab.feed(Z2, "z1 instead")
    tab.value("changed")
    assert "z2: z1 instead" in tab.answer("changed").inner_text()
    tab.feed("fed back for z5", "mean of all thoughts")
    tab.answer("changed").get_by_text("z5: mean of all thoughts").wait_for()


def test_details_on_hover_and_attention_of_a_selected_thought(tab: Tab) -> None:
    tab.ask()
    tab.value("explicit")
    tab.thought("z1").get_by_role("img").first.hover()
    tab.page.get_by_role("tooltip").get_by_text(re.compile(r": probability 0\.\d{4}")).wait_for()
    words = tab.page.get_by_role("group", name="Attention over the question")
    assert re.sub(r"\s+", "", words.inner_text()) == re.sub(r"\s+", "", EXAMPLES[0])
    tab.thought("z4").get_by_role("button").first.click()
    tab.page.get_by_role("heading", name="What z4 attended to", exact=True).wait_for()
    earlier = tab.page.get_by_role("group", name="Attention over the earlier latents")
    assert re.findall(r"<bot>|z\d(?==)", earlier.inner_text()) == ["<bot>", "z1", "z2", "z3"]
    words.get_by_text("shop", exact=True).first.hover()
    tab.page.get_by_role("tooltip").get_by_text(re.compile(r"shop: 0\.\d{4}")).wait_for()


def test_all_by_keyboard(tab: Tab) -> None:
    keyboard = tab.page.keyboard
    tab.page.get_by_role("button", name="Another example").focus()
    keyboard.press("Enter")
    box = tab.page.get_by_label("Question", exact=True)
    playwright.expect(box).to_have_value(EXAMPLES[1])
    box.focus()
    keyboard.press("Enter")
    tab.value("explicit")
    assert box.input_value() == EXAMPLES[1]  # Enter asks; it adds no line
    for _ in range(12):  # tab on, past the buttons, to the second thought
        keyboard.press("Tab")
        if tab.page.evaluate("document.activeElement.getAttribute('aria-label')") == Z2:
            break
    keyboard.press("Enter")
    tab.page.get_by_role("option").first.wait_for()
    keyboard.press("ArrowDown")
    keyboard.press("Enter")
    tab.value("changed")
    assert tab.page.evaluate("document.activeElement.getAttribute('aria-label')") == Z2  # the focus stays
    assert "z2: silence: zeros" in tab.answer("changed").inner_text()


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ("", "The question is empty"),
        ("   ", "The question is empty"),
        ("apples " * 300, "the model takes at most 160"),
    ],
)
def test_bad_questions_are_told_in_the_page(tab: Tab, question: str, message: str) -> None:
    tab.ask(question)
    tab.page.get_by_role("alert").get_by_text(message).wait_for()
    assert tab.answer("latent").count() == 0
    tab.ask(EXAMPLES[0])
    tab.value("latent")
    assert tab.page.get_by_role("alert").inner_text() == ""


def test_what_is_asked_is_what_stands_in_the_box(server: Server, browser: playwright.Browser) -> None:
    """Typed and sent while the page still connects: its events arrive in any order then."""
    page = browser.new_page()
    page.set_default_timeout(15_000)
    held: list[tuple[playwright.WebSocketRoute, str | bytes]] = []
    answers = {"held": True}

    def hold(socket: playwright.WebSocketRoute) -> None:
        def arrived(message: str | bytes) -> None:
            held.append((socket, message)) if answers["held"] else socket.send(message)

        socket.connect_to_server().on_message(arrived)

    page.route_web_socket(re.compile("socket.io"), hold)
    page.goto(server.address)
    box = page.get_by_label("Question", exact=True)
    box.fill("")
    box.press_sequentially("Mia has 3 zebras", delay=7)
    page.get_by_role("button", name="Ask", exact=True).click()
    assert page.evaluate("window.did_handshake") is False
    answers["held"] = False
    for socket, message in held:
        socket.send(message)
    page.locator("[data-answer=latent]").wait_for()
    assert "does not know: zebras. " in page.get_by_role("alert").inner_text()
    page.close()


def test_unknown_words_are_named_and_shown_as_text(tab: Tab) -> None:
    tab.ask("Mia collects <b>zebras</b> . How many are there now ?")
    tab.value("latent")
    message = tab.page.get_by_role("alert").inner_text()
    assert "does not know: <, b, >, zebras." in message
    assert tab.page.locator("b").count() == 0


def test_a_narrow_window_needs_no_sideways_scrolling(tab: Tab) -> None:
    tab.page.set_viewport_size({"width": 360, "height": 740})
    tab.ask("Mia collects " + "incomprehensibilities" * 4 + " . " + EXAMPLES[1])
    tab.value("explicit")
    tab.feed(Z2, "mean of all thoughts")
    tab.value("changed")
    tab.page.get_by_text("All figures as tables").click()
    tab.page.get_by_text("What z1 attended to most").wait_for()
    assert tab.overflow() == 0


def test_the_server_outlives_a_tab_closed_meanwhile(
    server: Server, tab: Tab, browser: playwright.Browser
) -> None:
    for _ in range(3):
        leaving = browser.new_page()
        leaving.goto(server.address)
        leaving.get_by_role("button", name="Ask", exact=True).click()
        leaving.close()
    tab.ask()
    tab.value("explicit")
    time.sleep(3.5)  # by now the server has forgotten the closed tabs
    tab.ask()
    tab.value("explicit")
    assert server.process.poll() is None


def test_interrupting_with_a_tab_open_and_a_question_asked(
    checkpoint: Path, browser: playwright.Browser
) -> None:
    server = Server(checkpoint)
    page = browser.new_page()
    page.goto(server.address)
    page.get_by_role("button", name="Ask", exact=True).click()
    assert server.stop() == (0, "stopped.\n")
    page.close()


def test_the_page_is_measured(checkpoint: Path, tmp_path: Path) -> None:
    file = tmp_path / "page.json"
    words = ["bench", "page", str(checkpoint), "--tabs", "1", "--device", "cpu", "--output", str(file)]
    # In a process of its own: this one's thread drives a browser already.
    done = subprocess.run([sys.executable, "-m", "codi", *words], text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    median = json.loads(file.read_text(encoding="utf-8"))["median_ms"]
    assert median.keys() == {"load", "first_answer", "all_answers", "answer_after_a_change"}
    assert 0 < median["first_answer"] <= median["all_answers"]
