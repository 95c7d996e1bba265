"""The quickstart: three systems trained on generated word problems, compared in domain and out of it.

    OUTPUT/
      codi/  cot-sft/  no-cot-sft/   one loadable checkpoint each, with its run.yaml and training.json
      predictions/<method>/<set>.jsonl
      results.json  results.png

All three start from the same weights, see the same examples in the same batches and use the same optimiser
settings. They train side by side, each in a process of its own: on two cores two single-threaded processes do
more work than one with two threads, because a tiny model's operations are too small to share.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import queue
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codi.errors import UsageError
from codi.storage import write_whole

METHODS = ("codi", "cot-sft", "no-cot-sft")
SETS = ("in_domain", "reworded", "larger_numbers", "longer_chains")
RECIPE = "word-problems"
EXAMPLES, VALIDATION, BATCH = 40_000, 500, 32
"""Training and validation examples, and the recipe's batch size: a shortened run makes only what it uses."""


@dataclass(frozen=True)
class Job:
    """One system to train and evaluate, as handed to its process."""

    method: str
    output: Path
    seed: int
    steps: int | None
    questions: int
    threads: int


def run_quickstart(
    output: Path,
    seed: int = 1,
    steps: int | None = None,
    questions: int = 1000,
    overwrite: bool = False,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Train, evaluate, compare; returns what `results.json` holds.

    steps and questions shorten it (the README's figures are of the full run). A run that was interrupted goes
    on where it stopped. Raises UsageError when `output` holds a finished one and `overwrite` is not given.
    """
    results_file = output / "results.json"
    if results_file.exists() and not overwrite:
        raise UsageError(
            f"'{output}' already holds a finished quickstart. Give --overwrite, or another --output."
        )
    if overwrite:
        _forget(output)
    output.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    found = _train_all(output, seed, steps, questions, say)

    import torch

    from codi.experiments.quickstart_report import draw, show
    from codi.generation.latent_reasoner import LatentReasoner, default_device
    from codi.training.run import versions

    say("Measuring latency at batch 1, one system at a time ...")
    torch.set_num_threads(min(2, os.cpu_count() or 1))
    for method in METHODS:
        found[method]["latency_ms"] = _latency(
            LatentReasoner.from_pretrained(output / method), min(questions, 100)
        )
    results: dict[str, Any] = {
        "seed": seed,
        "wall_seconds": round(time.perf_counter() - began, 1),
        "device": str(default_device()),
        "versions": versions(),
        "methods": {method: found[method] for method in METHODS},
    }
    draw(results, output / "results.png")
    show(results, output, say)
    write_whole(results_file, json.dumps(results, indent=2) + "\n")  # last: its presence says "finished"
    return results


def _train_all(
    output: Path, seed: int, steps: int | None, questions: int, say: Callable[[str], None]
) -> dict[str, dict[str, Any]]:
    """Run one process per system, as many at a time as the machine has cores for."""
    import torch
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = 1 if torch.accelerator.is_available() else max(1, min(len(METHODS), cores))
    jobs = [
        Job(method, output / method, seed, steps, questions, max(1, cores // workers)) for method in METHODS
    ]
    _refuse_other_settings(jobs)
    spawn = multiprocessing.get_context("spawn")
    found: dict[str, dict[str, Any]] = {}
    columns = (TextColumn("{task.description:<11}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
               TextColumn("{task.fields[state]}"))  # fmt: skip
    with spawn.Manager() as manager, Progress(*columns) as bars:
        messages = manager.Queue()
        tasks = {method: bars.add_task(method, total=None, state="waiting") for method in METHODS}
        with ProcessPoolExecutor(workers, mp_context=spawn) as pool:
            running = {pool.submit(_train_and_evaluate, job, messages): job.method for job in jobs}
            try:
                while len(found) < len(METHODS):
                    _relay(messages, bars, tasks)
                    for future in [future for future in running if future.done()]:
                        found[running.pop(future)] = future.result()
                _relay(messages, bars, tasks, wait=False)
            except BaseException:
                for process in list(getattr(pool, "_processes", {}).values()):
                    process.terminate()
                pool.shutdown(cancel_futures=True)
                raise
    for method in METHODS:
        accuracy = found[method]["benchmarks"]["in_domain"]["accuracy"]
        say(f"{method}: trained in {found[method]['train_seconds']:.0f} s, in-domain accuracy {accuracy:.1%}")
    return found


def _relay(messages: Any, bars: Any, tasks: dict[str, Any], wait: bool = True) -> None:
    """Move what the processes reported onto the bars."""
    try:
        while True:
            method, done, total, state = messages.get(timeout=0.5 if wait else 0.0)
            bars.update(tasks[method], completed=done, total=total, state=state)
            wait = False
    except queue.Empty:
        return


def _train_and_evaluate(job: Job, messages: Any) -> dict[str, Any]:
    """In a process of its own: train one system, then ask it all four sets."""
    import torch
    from transformers import TrainerCallback

    from codi.evaluation.benchmarks import load_benchmark
    from codi.evaluation.runner import evaluate
    from codi.generation.latent_reasoner import LatentReasoner
    from codi.training.recipes import load_recipe
    from codi.training.run import train

    torch.set_num_threads(job.threads)

    class Report(TrainerCallback):
        state = ""

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            parent = multiprocessing.parent_process()
            if parent is not None and not parent.is_alive():
                os._exit(1)  # the quickstart was killed: it goes on from the last checkpoint when asked again
            messages.put((job.method, state.global_step, state.max_steps, self.state))

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            terms = [name for name in ("student", "distillation", "teacher") if name in (logs or {})]
            if terms:
                self.state = "  ".join(f"{name} {logs[name]:.3f}" for name in terms)

    summary = job.output / "training.json"
    config = load_recipe(RECIPE, _overrides(job))
    if not summary.exists():
        interrupted = (job.output / "run.yaml").exists()
        train(config, job.output, resume=interrupted, say=_silent, callbacks=[Report()])
    trained = json.loads(summary.read_text(encoding="utf-8"))
    reasoner = LatentReasoner.from_pretrained(job.output)
    benchmarks, costs = {}, {}
    for name in SETS:
        messages.put((job.method, trained["steps"], trained["steps"], f"asking {name}"))
        examples, _, benchmark = load_benchmark(name, count=job.questions)
        predictions = job.output.parent / "predictions" / job.method / f"{name}.jsonl"
        result = evaluate(
            reasoner, examples, scorer=benchmark.scorer, latency_questions=0, predictions_path=predictions,
            overwrite=True,
        )  # fmt: skip
        benchmarks[name] = {
            "accuracy": result.accuracy,
            "ci95": list(result.ci95),
            "n": result.n,
            "scorer": result.scorer,
        }
        if name == "in_domain":
            costs = {"thought_tokens": result.thought_tokens, "sequential_passes": result.sequential_passes}
    messages.put((job.method, trained["steps"], trained["steps"], "done"))
    return {"benchmarks": benchmarks, **costs, "latency_ms": {}, "train_seconds": trained["train_seconds"]}


def _overrides(job: Job) -> list[str]:
    """What sets this system's run apart from the recipe."""
    seen = EXAMPLES if job.steps is None else min(EXAMPLES, BATCH * job.steps)
    overrides = [f"method.name={job.method}", f"training.seed={job.seed}", "training.disable_tqdm=true",
                 f"data.train=word-problems?count={seen}&seed={job.seed}",
                 f"data.validation_limit={min(VALIDATION, job.questions)}"]  # fmt: skip
    if job.steps is not None:
        overrides += [f"training.max_steps={job.steps}", f"training.eval_steps={max(1, job.steps // 2)}"]
    return overrides


def _refuse_other_settings(jobs: list[Job]) -> None:
    """An interrupted quickstart goes on only as it was begun: else systems of two runs would be compared."""
    from codi.training.recipes import load_recipe
    from codi.training.run import refuse_changed_settings

    for job in jobs:
        refuse_changed_settings(load_recipe(RECIPE, _overrides(job)), job.output)


def _latency(reasoner: Any, questions: int) -> dict[str, float]:
    """Median and 95th percentile over in-domain questions at batch 1."""
    from codi.evaluation.benchmarks import format_question, load_benchmark
    from codi.evaluation.runner import measure_latency
    from codi.evaluation.statistics import latency_summary

    examples, _, _ = load_benchmark("in_domain", count=questions)
    summary = latency_summary(measure_latency(reasoner, [format_question(e.question) for e in examples]))
    return {"median": summary["median"], "p95": summary["p95"]}


def _forget(output: Path) -> None:
    """Remove what a quickstart wrote, and nothing else."""
    import shutil

    for name in (*METHODS, "predictions"):
        shutil.rmtree(output / name, ignore_errors=True)
    for name in ("results.json", "results.png"):
        (output / name).unlink(missing_ok=True)


def _silent(_: str) -> None:
    """Bars speak for the processes."""


__all__ = ["METHODS", "SETS", "run_quickstart"]
