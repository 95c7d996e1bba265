"""A turn with the model for whoever does not ask the API: it waits in the engine's line as questions do."""

from __future__ import annotations

import queue
import threading
from types import TracebackType

from codi.serving.engine import Engine, Event, Finished, Question


class PageTurn:
    """`with turn:` the model is held, by one thread at a time; answers in the making go on behind it.

    Entering raises EngineBusy where too many wait, and EngineDown where the engine answers nobody.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._held = threading.local()  # each thread's own turn

    def __enter__(self) -> None:
        begun: queue.Queue[Event] = queue.Queue()
        done = threading.Event()

        def hold(event: Event) -> None:
            """In the engine's thread: its turn lasts until the other thread is done."""
            begun.put(event)
            if isinstance(event, Finished):
                done.wait()

        self._held.done = done
        self._engine.submit(Question("a turn", max_new_tokens=0, in_pieces=False), hold)
        event = begun.get()
        if isinstance(event, Exception):
            raise event

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.done.set()
