"""What fails, fails alone: work on many is tried again with fewer, down to the one that cannot be done."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")
_SAID_WITHOUT_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


def each_alone(
    items: list[T], act: Callable[[list[T]], None], failed: Callable[[T, Exception], None]
) -> None:
    """act(items); where that raises, the same with each half, down to the ones that fail by themselves.

    act must have changed nothing where it raises. Raises only what ends the worker (`is_final`).
    """
    if not items:
        return
    try:
        act(items)
        return
    except Exception as error:
        if is_final(error):
            raise
        reason = without_frames(error)
    if len(items) == 1:
        failed(items[0], reason)
        return
    half = len(items) // 2
    each_alone(items[:half], act, failed)
    each_alone(items[half:], act, failed)


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, the device's or the machine's."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error) for said in _SAID_WITHOUT_MEMORY)


def is_final(error: BaseException) -> bool:
    """Whether nothing can work any more: after an error of the device itself all later calls fail too."""
    return isinstance(error, torch.AcceleratorError) and not out_of_memory(error)


def without_frames(error: Exception) -> Exception:
    """The error, without the frames in which it was raised: whoever keeps it would keep a batch's tensors.

    Where it was raised stands in its notes, as text; logging prints it.
    """
    if not getattr(error, "__notes__", None):
        error.add_note("".join(traceback.format_exception(error)))
    seen: BaseException | None = error
    while seen is not None:
        seen.__traceback__ = None
        seen = seen.__cause__ or seen.__context__
    return error
