"""The web page, measured as a person meets it: a tab loads, a first question is asked, a thought silenced.

Driven in headless Chromium through Playwright, against `codi ui` in a process of its own. Every tab is new
and begins with an empty cache.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codi.errors import UsageError

if TYPE_CHECKING:
    from playwright.sync_api import Page

WAIT_MS = 30_000


def bench_page(
    *, checkpoint: Path, tabs: int = 10, device: str | None = None, base: str | None = None
) -> dict[str, Any]:
    """Milliseconds to load the page, to its first answer, to all answers, and to the answer after a change.

    Raises UsageError without Playwright or Chromium, for a count below 1, or when the page does not start.
    """
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None or importlib.util.find_spec("playwright") is None:
        raise UsageError(
            "The page is measured in Chromium through Playwright, and one of them is not installed. "
            "Install both: apt-get install chromium, pip install playwright."
        )
    if tabs < 1:
        raise UsageError(f"{tabs} tabs were asked for; give 1 or more.")
    import torch
    from playwright.sync_api import sync_playwright

    from codi.bench.environment import environment
    from codi.generation.latent_reasoner import default_device

    taken: dict[str, list[float]] = {}
    with _served(checkpoint, device, base) as address, sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for _ in range(tabs):
            page = browser.new_page()
            page.set_default_timeout(WAIT_MS)
            for name, milliseconds in _visit(page, address):
                taken.setdefault(name, []).append(milliseconds)
            page.close()
        browser.close()
    return {
        "bench": "page",
        "environment": environment(torch.device(device) if device else default_device(), bf16=False),
        "settings": {"tabs": tabs},
        "first_tab_ms": {name: values[0] for name, values in taken.items()},
        "median_ms": {name: statistics.median(values) for name, values in taken.items()},
        "slowest_ms": {name: max(values) for name, values in taken.items()},
    }


@contextmanager
def _served(checkpoint: Path, device: str | None, base: str | None) -> Iterator[str]:
    """The page's address, while `codi ui` runs."""
    command = [sys.executable, "-m", "codi", "ui", str(checkpoint), "--port", "0"]
    command += (["--device", device] if device else []) + (["--base", base] if base else [])
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        said = process.stderr.readline()
        found = re.search(r"http://\S+/", said)
        if found is None:
            raise UsageError(f"codi ui did not start: {said}{process.stderr.read()}".strip())
        yield found.group()
    finally:
        process.terminate()
        process.communicate()


def _visit(page: Page, address: str) -> Iterator[tuple[str, float]]:
    """A person's first minute; yields what each part took."""
    begun = time.perf_counter()

    def since() -> float:
        nonlocal begun
        passed, begun = 1e3 * (time.perf_counter() - begun), time.perf_counter()
        return passed

    ask = page.get_by_role("button", name="Ask", exact=True)
    page.goto(address)
    ask.wait_for()
    yield "load", since()
    ask.click()
    page.locator("[data-answer=latent]").wait_for()
    first = since()
    yield "first_answer", first
    page.locator("[data-answer=explicit]").wait_for()
    yield "all_answers", first + since()
    page.get_by_label("fed back for z1").click()
    choice = page.get_by_role("option", name="silence: zeros", exact=True)
    choice.wait_for()
    since()
    choice.click()
    page.locator("[data-answer=changed]").wait_for()
    yield "answer_after_a_change", since()
