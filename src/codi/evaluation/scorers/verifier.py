"""math-verify, asked from any thread, and never for longer than a person would wait."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import queue
import subprocess
import sys
import threading
from pathlib import Path

from codi.errors import CodiError, UsageError

SECONDS = 10.0
"""Longest time for one question; expressions that take longer count as different."""
START_SECONDS = 120.0


def require_math_verify() -> None:
    """Raise UsageError, with the way out, where math-verify is not installed."""
    if importlib.util.find_spec("math_verify") is None:
        raise UsageError("Scorer 'math' needs math-verify, which is not installed: pip install 'codi[math]'.")


class Verifier:
    """math-verify in a process of its own, which is ended when it takes too long. For any thread."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._started_by = 0
        self._lines: queue.Queue[str] = queue.Queue()

    def ask(self, *texts: str) -> bool:
        """Whether a text can be read, or two are equal: gold first."""
        with self._lock:
            process = self._running()
            assert process.stdin is not None
            try:
                process.stdin.write(json.dumps(texts) + "\n")
                process.stdin.flush()
                return bool(json.loads(self._line(self._seconds)))
            except (OSError, EOFError, TimeoutError) as error:
                self.end()
                logging.getLogger("codi").warning(
                    "math-verify gave up on %s (%s); counted as different.",
                    " and ".join(repr(text[:80]) for text in texts), error or type(error).__name__,
                )  # fmt: skip
                return False

    def end(self) -> None:
        """End the process; the next question starts another."""
        process, self._process = self._process, None
        if process is not None and self._started_by == os.getpid():
            process.kill()
            process.wait()

    def _running(self) -> subprocess.Popen[str]:
        """The process, started where there is none of ours: a forked one's pipes belong to its parent."""
        process = self._process
        if process is not None and self._started_by == os.getpid() and process.poll() is None:
            return process
        require_math_verify()
        file = Path(__file__).with_name("verifier_process.py")
        process = subprocess.Popen(
            [sys.executable, "-P", str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True, encoding="utf-8",
        )  # fmt: skip
        self._process, self._started_by, self._lines = process, os.getpid(), queue.Queue()
        threading.Thread(target=_pass_on, args=(process, self._lines), daemon=True).start()
        try:
            ready = self._line(START_SECONDS)
        except (EOFError, TimeoutError) as error:
            self.end()
            raise CodiError(
                "math-verify could not be started: `python -c 'import math_verify'` shows why."
            ) from error
        assert ready.strip() == "ready", ready
        return process

    def _line(self, seconds: float) -> str:
        try:
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            raise TimeoutError(f"more than {seconds:g} s") from None
        if not line:
            raise EOFError("its process ended")
        return line


def _pass_on(process: subprocess.Popen[str], lines: queue.Queue[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.put(line)
    lines.put("")
