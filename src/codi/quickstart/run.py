"""The quickstart: three systems trained on generated word problems, compared in domain and out of it.

    OUTPUT/
      codi/  cot-sft/  no-cot-sft/   one loadable checkpoint each, with its run.yaml and training.json
      predictions/<method>/<set>.jsonl
      results.json  results.png

All three start from the same weights, see the same examples in the same batches and use the same optimiser
settings. They train side by side, each in a process of its own (`side_by_side.py`).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codi.errors import UsageError
from codi.quickstart.report import draw, show
from codi.quickstart.systems import METHODS, SETS
from codi.storage import write_whole
from codi.training.side_by_side import Job, Reporter, run_side_by_side, steps_to

RECIPE = "word-problems"
EXAMPLES, VALIDATION, BATCH = 40_000, 500, 32
"""Training and validation examples, and the recipe's batch size: a shortened run makes only what it uses."""


@dataclass(frozen=True)
class Settings:
    """One system to train and evaluate, as handed to its process."""

    method: str
    output: Path
    seed: int
    steps: int | None
    questions: int


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

    from codi.generation.latent_reasoner import LatentReasoner, default_device
    from codi.training.run import versions

    say("Measuring latency at batch 1, each question asked of the three in turn ...")
    torch.set_num_threads(min(2, os.cpu_count() or 1))
    reasoners = {method: LatentReasoner.from_pretrained(output / method) for method in METHODS}
    for method, latency in _latencies(reasoners, min(questions, 100)).items():
        found[method]["latency_ms"] = latency
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
    """One process per system, as many at a time as the machine has cores for."""
    settings = [Settings(method, output / method, seed, steps, questions) for method in METHODS]
    _refuse_other_settings(settings)
    found: dict[str, dict[str, Any]] = {}
    run_side_by_side(
        [Job(job.method, job) for job in settings], _train_and_evaluate, on_done=found.__setitem__
    )
    for method in METHODS:
        accuracy = found[method]["benchmarks"]["in_domain"]["accuracy"]
        say(f"{method}: trained in {found[method]['train_seconds']:.0f} s, in-domain accuracy {accuracy:.1%}")
    return found


def _train_and_evaluate(job: Settings, report: Reporter) -> dict[str, Any]:
    """In a process of its own: train one system, then ask it all four sets."""
    from codi.evaluation.benchmarks import load_benchmark
    from codi.evaluation.runner import evaluate
    from codi.generation.latent_reasoner import LatentReasoner
    from codi.training.recipes import load_recipe
    from codi.training.run import train

    summary = job.output / "training.json"
    config = load_recipe(RECIPE, _overrides(job))
    if not summary.exists():
        interrupted = (job.output / "run.yaml").exists()
        train(config, job.output, resume=interrupted, say=_silent, callbacks=[steps_to(report)])
    trained = json.loads(summary.read_text(encoding="utf-8"))
    reasoner = LatentReasoner.from_pretrained(job.output)
    benchmarks, costs = {}, {}
    for name in SETS:
        report(trained["steps"], trained["steps"], f"asking {name}")
        examples, _, benchmark = load_benchmark(name, count=job.questions)
        predictions = job.output.parent / "predictions" / job.method / f"{name}.jsonl"
        result = evaluate(
            reasoner, examples, scorer=benchmark.scorer, latency_questions=0, predictions=predictions,
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
    report(trained["steps"], trained["steps"], "done")
    return {"benchmarks": benchmarks, **costs, "latency_ms": {}, "train_seconds": trained["train_seconds"]}


def _overrides(job: Settings) -> list[str]:
    """What sets this system's run apart from the recipe."""
    seen = EXAMPLES if job.steps is None else min(EXAMPLES, BATCH * job.steps)
    overrides = [f"method.name={job.method}", f"training.seed={job.seed}", "training.disable_tqdm=true",
                 f"data.train=word-problems?count={seen}&seed={job.seed}",
                 f"data.validation_limit={min(VALIDATION, job.questions)}"]  # fmt: skip
    if job.steps is not None:
        overrides += [f"training.max_steps={job.steps}", f"training.eval_steps={max(1, job.steps // 2)}"]
    return overrides


def _refuse_other_settings(jobs: list[Settings]) -> None:
    """An interrupted quickstart goes on only as it was begun: else systems of two runs would be compared."""
    from codi.training.recipes import load_recipe
    from codi.training.resuming import refuse_changed_settings

    for job in jobs:
        refuse_changed_settings(load_recipe(RECIPE, _overrides(job)), job.output)


def _latencies(reasoners: Mapping[str, Any], questions: int) -> dict[str, dict[str, float]]:
    """Median and 95th percentile over in-domain questions at batch 1."""
    from codi.evaluation.benchmarks import format_question, load_benchmark
    from codi.evaluation.runner import measure_latencies
    from codi.evaluation.statistics import latency_summary

    examples, _, _ = load_benchmark("in_domain", count=questions)
    measured = measure_latencies(reasoners, [format_question(example.question) for example in examples])
    summaries = {method: latency_summary(found) for method, found in measured.items()}
    return {method: {"median": one["median"], "p95": one["p95"]} for method, one in summaries.items()}


def _forget(output: Path) -> None:
    """Remove what a quickstart wrote, and nothing else."""
    import shutil

    for name in (*METHODS, "predictions"):
        shutil.rmtree(output / name, ignore_errors=True)
    for name in ("results.json", "results.png"):
        (output / name).unlink(missing_ok=True)


def _silent(_: str) -> None:
    """Bars speak for the processes."""
