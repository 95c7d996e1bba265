"""Runs in processes of their own, as many at a time as there are cores or GPUs, with one bar each.

On two cores two single-threaded processes do more work than one with two threads: a tiny model's operations
are too small to share. With several GPUs each process sees one of them.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

Work = Callable[[Any, "Reporter"], Any]


@dataclass(frozen=True)
class Job:
    """One run. needs: names of jobs that must have succeeded before; payload: what `work` is given."""

    name: str
    payload: Any
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reporter:
    """Handed to the work: moves the job's bar. Stops the process when the one that started it is gone."""

    name: str
    messages: Any
    device: int | None
    threads: int

    def __call__(self, done: int, total: int, state: str) -> None:
        parent = multiprocessing.parent_process()
        if parent is not None and not parent.is_alive():
            os._exit(1)  # killed: the run goes on from its last checkpoint when asked again
        self.messages.put((self.name, done, total, state))


def places() -> tuple[int, int, bool]:
    """(processes at a time, threads each, whether each takes a GPU of its own) on this machine."""
    import torch

    if torch.accelerator.is_available():
        return max(1, torch.accelerator.device_count()), 1, True
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores, 1, False


def run_side_by_side(
    jobs: Sequence[Job],
    work: Work,
    on_done: Callable[[str, Any], None],
    *,
    go_on: bool = False,
) -> dict[str, BaseException]:
    """Run every job; `on_done(name, result)` is called here as each one finishes.

    work: a module-level function of (payload, reporter). go_on: whether the others go on if a job fails; the
    errors are returned by name, with those of jobs whose needs failed. Without it the first is raised.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    workers, threads, accelerated = places()
    workers = max(1, min(workers, len(jobs)))
    if len(jobs) == 1 and not accelerated:
        threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    spawn = multiprocessing.get_context("spawn")
    width = max(len(job.name) for job in jobs)
    columns = (TextColumn(f"{{task.description:<{width}}}"), BarColumn(), MofNCompleteColumn(),
               TimeRemainingColumn(), TextColumn("{task.fields[state]}"))  # fmt: skip
    waiting, succeeded, errors = list(jobs), set[str](), dict[str, BaseException]()
    running: dict[Future[Any], tuple[str, int, ProcessPoolExecutor]] = {}
    free = list(range(workers))
    with spawn.Manager() as manager, Progress(*columns) as bars:
        messages = manager.Queue()
        tasks = {job.name: bars.add_task(job.name, total=None, state="waiting") for job in jobs}
        try:
            while waiting or running:
                for job in list(waiting):
                    failed = [need for need in job.needs if need in errors]
                    if failed:
                        waiting.remove(job)
                        errors[job.name] = RuntimeError(f"it needs '{failed[0]}', which failed")
                        bars.update(tasks[job.name], state="not run")
                    elif free and succeeded.issuperset(job.needs):
                        waiting.remove(job)
                        place = free.pop(0)
                        report = Reporter(job.name, messages, place if accelerated else None, threads)
                        # A pool each: a process that the system kills breaks its own pool and no other.
                        pool = ProcessPoolExecutor(1, spawn, _warn_as, (list(warnings.filters),))
                        running[pool.submit(_in_place, work, job.payload, report)] = job.name, place, pool
                _relay(messages, bars, tasks)
                for future in [future for future in running if future.done()]:
                    name, place, pool = running.pop(future)
                    pool.shutdown(wait=False)
                    free.append(place)
                    error = future.exception()
                    if error is None:
                        succeeded.add(name)
                        on_done(name, future.result())
                    elif go_on and isinstance(error, Exception):
                        errors[name] = error
                        bars.update(tasks[name], state="failed")
                    else:
                        raise error
            _relay(messages, bars, tasks, wait=False)
        except BaseException:
            for _, _, pool in running.values():
                for process in list(getattr(pool, "_processes", {}).values()):
                    process.terminate()
                pool.shutdown(cancel_futures=True)
            raise
    return errors


def _warn_as(filters: list[Any]) -> None:
    """In the job's process, before it imports anything: be as quiet as the process that started it."""
    warnings.filters[:] = filters  # type: ignore[index]


def _in_place(work: Work, payload: Any, report: Reporter) -> Any:
    """In the job's process, before anything touches a GPU: see one device only."""
    if report.device is not None:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        os.environ["CUDA_VISIBLE_DEVICES"] = (
            visible.split(",")[report.device] if visible else str(report.device)
        )
    import torch

    torch.set_num_threads(report.threads)
    return work(payload, report)


def _relay(messages: Any, bars: Any, tasks: dict[str, Any], wait: bool = True) -> None:
    """Move what the processes reported onto the bars."""
    try:
        while True:
            name, done, total, state = messages.get(timeout=0.5 if wait else 0.0)
            bars.update(tasks[name], completed=done, total=total, state=state)
            wait = False
    except queue.Empty:
        return


def steps_to(report: Reporter, before: int = 0, total: int | None = None) -> Any:
    """A callback of transformers' Trainer that reports every step and the latest loss terms.

    before: steps of trainings that came before in this job; total: of all its trainings.
    """
    from transformers import TrainerCallback

    class Report(TrainerCallback):
        state = ""

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            report(before + state.global_step, total or before + state.max_steps, self.state)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            terms = [name for name in ("student", "distillation", "teacher") if name in (logs or {})]
            if terms:
                self.state = "  ".join(f"{name} {logs[name]:.3f}" for name in terms)

    return Report()
