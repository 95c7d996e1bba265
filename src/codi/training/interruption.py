"""Ctrl-C and SIGTERM while training: the person hears what was kept and how to go on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from codi import processes
from codi.errors import Interrupted
from codi.training.resuming import checkpoint_to_resume


@contextmanager
def kept_on_interrupt(output: Path) -> Iterator[None]:
    """SIGTERM ends what is inside as Ctrl-C does; either raises Interrupted, with what `output` holds."""
    before: Any = None
    takes_signals = (
        processes.count() == 1  # a launcher ends several, which may be waiting for one another, at once
        and threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    )
    if takes_signals:
        before = signal.signal(signal.SIGTERM, _terminated)
    try:
        yield
    except KeyboardInterrupt as error:
        number = signal.SIGTERM if isinstance(error, _Terminated) else signal.SIGINT
        raise Interrupted(_kept(output, number), 128 + number) from error
    finally:
        if takes_signals:
            signal.signal(signal.SIGTERM, before)


class _Terminated(KeyboardInterrupt):
    """SIGTERM, as schedulers send it before they kill."""


def _terminated(number: int, frame: FrameType | None) -> None:
    raise _Terminated


def _kept(output: Path, number: int) -> str:
    by = "terminated (SIGTERM)" if number == signal.SIGTERM else "interrupted"
    last = checkpoint_to_resume(output)
    if last is not None:
        return f"{by}. {last} is kept: the same command with --resume goes on from there."
    return f"{by} before a checkpoint was written: the same command with --resume begins at the first step."
