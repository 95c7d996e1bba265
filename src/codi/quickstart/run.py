"""The quickstart: three systems trained on generated problems, compared in domain and out of it.

    OUTPUT/
      codi/  cot-sft/  no-cot-sft/   one loadable checkpoint each, with its run.yaml and training.json
      codi-start/                    what CODI starts from: its teacher, trained alone
      predictions/<method>/<set>.jsonl
      results.json  results.png

All three come from the same small pretrained base, learn from the same problems with the same optimiser
settings and as many updates (CODI's start counts). They train side by side, each in a process of its own
(`side_by_side.py`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codi.errors import DataError, UsageError
from codi.quickstart.report import draw, show
from codi.quickstart.systems import (
    BATCH,
    BENCHMARKS,
    EXAMPLES,
    METHODS,
    PROBLEMS,
    SETS,
    START,
    VALIDATION,
    Stage,
    stages,
)
from codi.storage import write_whole
from codi.training.side_by_side import Job, Reporter, run_side_by_side, steps_to

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from codi.training.recipes import RunConfig


@dataclass(frozen=True)
class Settings:
    """One system to train and evaluate, as handed to its process. output: the quickstart's folder."""

    method: str
    output: Path
    seed: int
    steps: int | None
    questions: int

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Its trainings, in order; the last one's checkpoint is the system."""
        return stages(self.method, self.steps)

    def configuration(self, stage: Stage) -> RunConfig:
        """What a stage is run with: its recipe, and what the quickstart's options change."""
        from codi.training.recipes import load_recipe

        settings: dict[str, Any] = {
            # whole, so that the same folder is the same start, wherever it is named from
            "start": None if stage.start is None else str((self.output / stage.start).absolute()),
            "training.seed": self.seed,
            "training.disable_tqdm": True,
            "training.max_steps": stage.updates,
            "data.train": self.problems,
            "data.validation_limit": min(VALIDATION, self.questions),
        }
        if self.steps is not None:
            settings["training.eval_steps"] = max(1, stage.updates // 2)
        return load_recipe(stage.recipe, settings)

    @property
    def problems(self) -> str:
        """The training problems: of a shortened run as many as it uses."""
        count = EXAMPLES if self.steps is None else min(EXAMPLES, BATCH * self.steps)
        return f"{PROBLEMS}&count={count}&seed={self.seed}"


def run_quickstart(
    output: Path,
    seed: int = 1,
    steps: int | None = None,
    questions: int = 1000,
    overwrite: bool = False,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Train, evaluate, compare; returns what `results.json` holds.

    steps and questions shorten it (the README's figures are of the full run). An interrupted run goes on
    where it stopped. Raises UsageError when `output` holds a finished one and `overwrite` is not given, and
    for what cannot be run, before anything is removed or trained.
    """
    began = time.perf_counter()
    settings = [Settings(method, output, seed, steps, questions) for method in METHODS]
    results_file = output / "results.json"
    if results_file.exists() and not overwrite:
        raise UsageError(
            f"'{output}' already holds a finished quickstart. Give --overwrite, or another --output."
        )
    for job in settings:
        for stage in job.stages:
            job.configuration(stage)
    chains = _test_chains(settings[0])
    if overwrite:
        _forget(output)
    _refuse_other_settings(settings)
    resumed = any((output / stage.folder).exists() for job in settings for stage in job.stages)
    output.mkdir(parents=True, exist_ok=True)
    found = _train_all(settings, say)

    import torch

    from codi.generation.latent_reasoner import LatentReasoner, default_device
    from codi.training.run import versions

    say("Measuring latency at batch 1, each question asked of the three in turn ...")
    torch.set_num_threads(1)  # these models' operations are too small to share
    reasoners = {method: LatentReasoner.from_pretrained(output / method) for method in METHODS}
    for method, latency in _latencies(reasoners, min(questions, 100)).items():
        found[method]["latency_ms"] = latency
    results: dict[str, Any] = {
        "seed": seed,
        "wall_seconds": round(time.perf_counter() - began, 1),
        "resumed": resumed,
        "device": str(default_device()),
        "versions": versions(),
        "test_chains": chains,
        "methods": {method: found[method] for method in METHODS},
    }
    draw(results, output / "results.png")
    show(results, output, say)
    write_whole(results_file, json.dumps(results, indent=2) + "\n")  # last: its presence says "finished"
    return results


def _train_all(settings: list[Settings], say: Callable[[str], None]) -> dict[str, dict[str, Any]]:
    """One process per system, as many at a time as the machine has cores for."""
    found: dict[str, dict[str, Any]] = {}
    run_side_by_side(
        [Job(job.method, job) for job in settings], _train_and_evaluate, on_done=found.__setitem__
    )
    for method in METHODS:
        accuracy = found[method]["benchmarks"]["in_domain"]["accuracy"]
        say(f"{method}: trained in {found[method]['train_seconds']:.0f} s, in-domain accuracy {accuracy:.1%}")
    return found


def _train_and_evaluate(job: Settings, report: Reporter) -> dict[str, Any]:
    """In a process of its own: train one system, then ask it every set."""
    from codi.evaluation.benchmarks import load_benchmark
    from codi.evaluation.runner import evaluate
    from codi.generation.latent_reasoner import LatentReasoner

    seconds, updates, done = 0.0, sum(stage.updates for stage in job.stages), 0
    for stage in job.stages:
        seconds += _trained(job, stage, steps_to(report, done, updates))
        done += stage.updates
    reasoner = LatentReasoner.from_pretrained(job.output / job.method)
    benchmarks, costs = {}, {}
    for name in SETS:
        report(updates, updates, f"asking {name}")
        examples, _, benchmark = load_benchmark(BENCHMARKS[name], count=job.questions)
        predictions = job.output / "predictions" / job.method / f"{name}.jsonl"
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
    report(updates, updates, "done")
    return {"benchmarks": benchmarks, **costs, "latency_ms": {}, "train_seconds": round(seconds, 1)}


def _trained(job: Settings, stage: Stage, watch: TrainerCallback) -> float:
    """Train one stage, or go on with it, or find it done; the seconds it took."""
    from codi.training.run import train

    folder = job.output / stage.folder
    summary = folder / "training.json"
    if not summary.exists():
        interrupted = (folder / "run.yaml").exists()
        train(job.configuration(stage), folder, resume=interrupted, say=_silent, callbacks=[watch])
    return float(json.loads(summary.read_text(encoding="utf-8"))["train_seconds"])


def _test_chains(job: Settings) -> dict[str, dict[str, int]]:
    """By set: how many of its chains stand in training, and how many there are.

    Raises UsageError where there are not as many problems as are asked for.
    """
    from codi.data.chains import seen_chains
    from codi.data.sources import load_examples
    from codi.evaluation.benchmarks import load_benchmark

    training, _ = load_examples(job.problems)
    try:
        asked = {name: load_benchmark(one, count=job.questions).examples for name, one in BENCHMARKS.items()}
    except DataError as error:
        raise UsageError(
            f"--questions {job.questions} is more than there are; nothing was trained or removed. {error}"
        ) from error
    return {name: seen_chains(examples, training).as_dict() for name, examples in asked.items()}


def _refuse_other_settings(jobs: list[Settings]) -> None:
    """An interrupted quickstart goes on only as it was begun: else systems of two runs would be compared."""
    from codi.training.resuming import refuse_changed_settings

    for job in jobs:
        for stage in job.stages:
            refuse_changed_settings(job.configuration(stage), job.output / stage.folder)


def _latencies(reasoners: Mapping[str, Any], questions: int) -> dict[str, dict[str, float]]:
    """Median and 95th percentile over in-domain questions at batch 1."""
    from codi.evaluation.benchmarks import format_question, load_benchmark
    from codi.evaluation.runner import measure_latencies
    from codi.evaluation.statistics import latency_summary

    examples, _, _ = load_benchmark(BENCHMARKS["in_domain"], count=questions)
    measured = measure_latencies(reasoners, [format_question(example.question) for example in examples])
    summaries = {method: latency_summary(found) for method, found in measured.items()}
    return {method: {"median": one["median"], "p95": one["p95"]} for method, one in summaries.items()}


def _forget(output: Path) -> None:
    """Remove what a quickstart wrote, and nothing else."""
    import shutil

    for name in (*METHODS, START, "predictions"):
        shutil.rmtree(output / name, ignore_errors=True)
    for name in ("results.json", "results.png"):
        (output / name).unlink(missing_ok=True)


def _silent(_: str) -> None:
    """Bars speak for the processes."""
