"""A function of fixed shapes, recorded once and replayed: on CUDA as one graph, elsewhere called again.

A graph launches all kernels of a pass, or of many, at once, so a GPU need not wait for its host. It reads and
writes the memory that it was recorded with: inputs are copied into tensors that stay, and what it gives is
overwritten by its next replay. On a CPU the same function gives new tensors each time; all but the recording
is tested there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ClassVar, TypeVar

import torch

from codi.errors import UsageError, nearest

T = TypeVar("T")
SETTINGS = ("auto", "on", "off")


def graphs_wanted(setting: str, device: torch.device) -> bool:
    """Whether graphs are to be used on a device: `auto` takes them on CUDA, `on` insists, `off` never does.

    Raises UsageError for another setting, and for `on` without CUDA.
    """
    if setting not in SETTINGS:
        raise UsageError(
            f"graphs is '{setting}'.{nearest(setting, SETTINGS)} It must be one of {', '.join(SETTINGS)}."
        )
    if setting == "on" and device.type != "cuda":
        raise UsageError(
            f"graphs=on was asked for, but the model is on '{device.type}' and graphs are CUDA's. Choose a "
            "CUDA device, or graphs=auto, which takes them where they are to be had."
        )
    return setting != "off" and device.type == "cuda"


class Recorder:
    """Records functions for one device. Their graphs share a stream and a pool of memory."""

    _streams: ClassVar[dict[torch.device, torch.cuda.Stream]] = {}
    """One a device: each has a workspace of cuBLAS, which is never given back."""
    _cut_off: ClassVar[list[torch.cuda.CUDAGraph]] = []
    """Graphs whose recording failed: torch's allocator may still ask them where memory belongs."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._on_cuda = device.type == "cuda"
        if self._on_cuda:
            if device not in self._streams:
                self._streams[device] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self._stream = self._streams[device]
            self._pool = torch.cuda.graph_pool_handle()

    def record(self, function: Callable[[], T]) -> Callable[[], T]:
        """What gives again what `function` gives, computed from what its inputs hold then.

        It is called twice here: once to set up what the first call of a shape sets up, once to be recorded.
        Raises whatever it raises, and RuntimeError where it looks at a value or runs out of memory.
        """
        if not self._on_cuda:
            return function
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self.device), self._aside():
            function()
            # Weights that autocast has cast before would be freed, and still be read by the graph.
            torch.clear_autocast_cache()
            try:
                # Other threads may go on with what they do meanwhile: only this one's calls are watched.
                with torch.cuda.graph(
                    graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
                ):
                    given = function()
            except BaseException:
                self._cut_off.append(graph)
                raise
            finally:
                torch.clear_autocast_cache()

        def replay() -> T:
            graph.replay()
            return given

        return replay

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """On the stream that is recorded; left even where a recording that fails leaves its own on."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            yield
        torch.cuda.current_stream().wait_stream(self._stream)
