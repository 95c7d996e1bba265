"""A turn with the model for whoever does not ask the API: it waits in the engine's line as questions do."""

from __future__ import annotations

import queue
import threading
from types import TracebackType
from typing import Protocol

from codi.serving.engine import Engine, Event, Finished, Question


class Turn(Protocol):
    """`with turn:` the model is held, by one thread at a time; `pause` lets others use it in between."""

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

    def pause(self) -> None:
        """Let those go on who wait for the model, and take it again."""


class OwnTurn:
    """A turn with a model that nobody else uses but this process's other tabs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    def pause(self) -> None:
        """Whoever waits may go first."""
        self._lock.release()
        self._lock.acquire()


class PageTurn:
    """A turn with an engine's model; answers in the making go on behind it, and at each pause.

    Entering raises EngineBusy where too many wait. Entering and pausing raise EngineDown where the engine
    answers nobody.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._held = threading.local()  # each thread's own turn

    def __enter__(self) -> None:
        self._wait(goes_on=False)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.done.set()

    def pause(self) -> None:
        """Behind those who join next: they think, and all who are written get as long as this one had."""
        self._held.done.set()
        self._wait(goes_on=True)

    def _wait(self, *, goes_on: bool) -> None:
        begun: queue.Queue[Event] = queue.Queue()
        done = threading.Event()

        def hold(event: Event) -> None:
            """In the engine's thread: its turn lasts until the other thread is done."""
            begun.put(event)
            if isinstance(event, Finished):
                done.wait()

        self._held.done = done
        question = Question("a turn", max_new_tokens=0, in_pieces=False)
        self._engine.submit_all([question], [hold], goes_on=goes_on)
        event = begun.get()
        if isinstance(event, Exception):
            raise event
