"""A function of fixed shapes, recorded once and replayed: on CUDA as one graph, elsewhere called again.

A graph launches all kernels of a pass, or of many, at once, so a GPU need not wait for its host. It reads and
writes the memory that it was recorded with: inputs are copied into tensors that stay, and what it gives is
overwritten by its next replay. On a CPU the same function gives new tensors each time; all but the recording
is tested there.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ClassVar, TypeVar

import torch

from codi.errors import UsageError, nearest

T = TypeVar("T")
SETTINGS = ("auto", "on", "off")
log = logging.getLogger("codi")


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

    _streams: ClassVar[dict[int, torch.cuda.Stream]] = {}
    """One a device: each has a workspace of cuBLAS, which is never given back."""
    _one_at_a_time: ClassVar[threading.RLock] = threading.RLock()
    """Recorders of a device share its stream, which records one thing at a time."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._on_cuda = device.type == "cuda"
        if self._on_cuda:
            self._index = torch.cuda.current_device() if device.index is None else device.index
            if self._index not in self._streams:
                self._streams[self._index] = torch.cuda.Stream(self._index)  # type: ignore[no-untyped-call]
            self._stream = self._streams[self._index]
            self._pool = torch.cuda.graph_pool_handle()

    def record(self, function: Callable[[], T], *, set_up: bool = True) -> Callable[[], T]:
        """What gives again what `function` gives, computed from what its inputs hold then.

        set_up: call it once before it is recorded, for what the first call of a shape sets up; not where it
        was called already, `aside`. On CUDA nothing has been computed when it is recorded.
        Raises whatever it raises, and RuntimeError where it looks at a value or runs out of memory; what was
        recorded by then holds no memory, and random numbers can be drawn.
        """
        if not self._on_cuda:
            return function
        with self._one_at_a_time, self.aside():
            if set_up:
                function()
            graph, given = self._captured(function)

        def replay() -> T:
            graph.replay()
            return given

        return replay

    @contextmanager
    def aside(self) -> Iterator[None]:
        """On the stream that is recorded: what a library sets up for a stream is there by then. It is left
        even where a recording that fails leaves its own on."""
        if not self._on_cuda:
            yield
            return
        with torch.cuda.device(self._index):
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                yield
            torch.cuda.current_stream().wait_stream(self._stream)

    def _captured(self, function: Callable[[], T]) -> tuple[torch.cuda.CUDAGraph, T]:
        torch.cuda.synchronize()
        give_back(self.device)
        torch.clear_autocast_cache()  # weights cast before would be freed, and still be read by the graph
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads go on meanwhile (the loader pins memory): only this one's calls are watched.
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                given = function()
            finally:
                graph.capture_end()
        except BaseException:
            self._undo(graph)
            raise
        finally:
            torch.clear_autocast_cache()
        return graph, given

    def _undo(self, graph: torch.cuda.CUDAGraph) -> None:
        """Free what a recording that failed holds: else its pool, which others share, is held for good."""
        try:
            graph.pool()  # raises where the recording did not come to its end
        except RuntimeError:
            self._undo_cut_off(graph)
        else:
            graph.reset()

    def _undo_cut_off(self, graph: torch.cuda.CUDAGraph) -> None:
        """What torch does where a recording ends, each part whatever became of the others.

        torch 2.11 does none of it here, later ones some, or all of it when the graph goes (pytorch/pytorch
        180395, 190348). So the graph never goes: its pool would be let go of twice, which ends the process,
        and an older torch may still ask it where memory belongs.
        """
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(graph))
        parts: tuple[Callable[[], None], ...] = (
            lambda: torch._C._cuda_endAllocateToPool(self._index, self._pool),
            lambda: torch._C._cuda_releasePool(self._index, self._pool),
            self._draw_anew,
        )
        for undo in parts:
            try:
                undo()
            except (RuntimeError, AttributeError) as error:  # torch has done it, or does it otherwise
                log.debug("After a recording that was cut off: %s", error)

    def _draw_anew(self) -> None:
        """The generator stays as if the recording went on, and nothing can be drawn (torch 2.11): have the
        device draw from another one in the same state."""
        generator = torch.Generator(torch.device("cuda", self._index))
        generator.set_state(torch.cuda.get_rng_state(self._index))
        torch.cuda.default_generators[self._index].graphsafe_set_state(generator)


def give_back(device: torch.device) -> None:
    """Have the device's memory that nothing holds free for whoever asks next. Never raises.

    What dead cycles hold goes too: nodes of an earlier backward would tie a recording to their stream.
    """
    gc.collect()
    if device.type == "cpu":
        return
    try:
        torch.accelerator.empty_cache()
    except RuntimeError as error:  # such as a recording in another thread: this is no reason to stop
        log.debug("Memory could not be given back: %s", error)
