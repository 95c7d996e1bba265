"""Several processes that work as one, as torchrun or `accelerate launch` start them: one for each GPU.

Everything here does nothing in a process that was started alone. Process 0 speaks for all: it prints and it
writes. An error that all of them run into is printed once; one that a single process has is printed by it,
and the launcher then stops the others.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

from codi.errors import CodiError, UsageError

T = TypeVar("T")


def count() -> int:
    """Processes that work together; 1 in a process that was started alone."""
    return _from_launcher("WORLD_SIZE", 1)


def number() -> int:
    """This one's number, from 0."""
    return _from_launcher("RANK", 0)


def is_first() -> bool:
    """Whether this process speaks for all."""
    return number() == 0


def join(seconds: float = 1800) -> None:
    """Meet the other processes, and take the GPU with this one's number on its machine.

    Raises UsageError when there are fewer GPUs than processes. seconds: longest wait for one another.
    """
    if count() == 1:
        return
    import torch
    from torch import distributed

    if torch.cuda.is_available():
        local, here = _from_launcher("LOCAL_RANK", 0), torch.cuda.device_count()
        if local >= here:
            raise UsageError(
                f"Process {number()} is to use GPU {local} of its machine, which has {here}. Start one "
                f"process for each GPU: torchrun --nproc-per-node {here}."
            )
        torch.cuda.set_device(local)
    if not distributed.is_initialized():
        # Both at once: gradients go over nccl, and the objects of this file, which stay in memory, over gloo.
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(backend, timeout=timedelta(seconds=seconds))


def leave() -> None:
    """End the group, where there is one."""
    if count() == 1:
        return
    from torch import distributed

    if distributed.is_initialized():
        everyones(None)  # nobody leaves while another still listens to it
        distributed.destroy_process_group()


def everyones(value: T) -> list[T]:
    """What each process has, by number. All must call it; a process alone gets its own."""
    if count() == 1:
        return [value]
    from torch import distributed

    found: list[Any] = [None] * count()
    distributed.all_gather_object(found, value)
    return found


@contextmanager
def together() -> Iterator[None]:
    """An error of one process inside becomes the error of all, so that none waits for it in vain."""
    mine: CodiError | None = None
    try:
        yield
    except CodiError as error:
        mine = error
    found = everyones(mine)
    if count() == 1 and mine is not None:
        raise mine
    for at, theirs in enumerate(found):
        if theirs is not None:
            raise theirs if all(found) else type(theirs)(f"Process {at} of {count()}: {theirs}")


def first_alone(work: Callable[[], T]) -> T:
    """Process 0 does the work before the others, who then find what it has written (a cache)."""
    results: list[T] = []
    for turn in (True, False):
        with together():
            if is_first() is turn:
                results.append(work())
    return results[0]


@contextmanager
def speaking_for_itself() -> Iterator[None]:
    """What goes wrong inside may concern this process alone: it says so itself, and under its number."""
    try:
        yield
    except CodiError as error:
        if count() == 1:
            raise
        own = type(error)(f"Process {number()} of {count()}: {error}")
        own.only_here = True
        raise own from error


def require_same(what: dict[str, Any], advice: str) -> None:
    """Raise UsageError in every process when they do not have the same. what: JSON-ready values by name."""
    if count() == 1:
        return
    marks = {name: _mark(value) for name, value in what.items()}
    everyone = everyones(marks)
    for name, mark in everyone[0].items():
        others = [at for at, theirs in enumerate(everyone) if theirs[name] != mark]
        if others:
            raise UsageError(
                f"Process {others[0]} of {len(everyone)} has other {name} than process 0"
                f"{f' (so have {len(others) - 1} more)' if len(others) > 1 else ''}. {advice}"
            )


def _mark(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _from_launcher(name: str, default: int) -> int:
    return int(os.environ.get(name) or default)
