"""Why: what the paper explains its results by, measured on runs of the small scale (docs/why.md).

    gradients         the distance's gradient beside the losses', warm-started and from the bare base
    distilled-token   which results the state before the answer holds, in teacher and student
    last-step         the same where the teacher writes the last step; does it copy what is written?
    forgetting        Coconut in the form of every stage, after every stage
    projection        where thoughts lie beside the token embeddings, with and without it

    RUNS/VARIANT/seed-N     what is measured: runs of the tables, by the names that the tables have
    OUTPUT/FIGURE.json      what was found, and with what; figures and page are made from it alone

Where something must be seen while it is learned, the first updates of such a run are made once more, from its
own settings and its own start, and thrown away.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from codi.data.example import Example
from codi.data.sources import load_examples
from codi.errors import CheckpointError, UsageError, nearest
from codi.evaluation.runner import evaluate
from codi.generation.latent_reasoner import LatentReasoner
from codi.interpretability.curriculum_skills import SkillLog, skills
from codi.interpretability.distilled_token import probe_results
from codi.interpretability.last_result import last_result
from codi.interpretability.loss_gradients import GradientLog, loss_gradients
from codi.interpretability.probes import LEAST_PER_CLASS
from codi.interpretability.thought_geometry import thought_geometry
from codi.methods.coconut import Coconut
from codi.methods.method import build_method
from codi.storage import write_whole
from codi.training.account import versions
from codi.training.recipes import RunConfig, build_run_config
from codi.training.run import train

CODI, WITHOUT_L1, LAST_STEP = "codi", "without-l1", "keep-last-step"
WITHOUT_PROJECTION, COCONUT = "without-projection", "coconut"
RECIPES = {
    CODI: "small-codi", WITHOUT_L1: "small-codi-without-l1", LAST_STEP: "small-codi-with-last-step",
    WITHOUT_PROJECTION: "small-codi-without-projection", COCONUT: "small-coconut",
}  # fmt: skip
"""What each variant is trained by."""
SOURCE, SPLIT = "two-branches?seed=14", "test"
"""The problems asked: no run trains on this split or chooses by it."""
STARTS = ("warm", "cold")
SCORER = "number"


@dataclass(frozen=True)
class Measurement:
    """What a figure is made from.

    runs: folder of RUNS/VARIANT/seed-N; source, problems: what is asked, and how many; drawn apart from what
    the tables ask. replayed: of the seeds, as many are trained once more where learning is watched; updates:
    of CODI, and after `every` so many the gradients are measured, each over `batch` problems.
    least_per_class: problems that a result needs for a probe to learn it.
    """

    runs: Path
    seeds: tuple[int, ...] = (1, 2, 3)
    source: str = SOURCE
    problems: int = 1500
    replayed: int = 1
    updates: int = 240
    every: int = 20
    batch: int = 64
    least_per_class: int = LEAST_PER_CLASS

    def run(self, variant: str, seed: int) -> Path:
        """Raises UsageError where it is not there or not finished."""
        folder = self.runs / variant / f"seed-{seed}"
        if not (folder / "codi.json").exists() or not (folder / "training.json").exists():
            raise UsageError(
                f"There is no finished run '{folder}'. Train it: codi train {RECIPES[variant]} --output "
                f"{folder} training.seed={seed} (docs/small-scale.md says what it starts from), or name "
                "other --runs or --seed."
            )
        return folder

    def of(self, *variants: str) -> Iterator[tuple[str, int, Path]]:
        """Variant, seed and folder of the runs."""
        for variant in variants:
            for seed in self.seeds:
                yield variant, seed, self.run(variant, seed)

    def unseen(self, count: int | None = None) -> list[Example]:
        """The problems that are asked, or the first of them."""
        return load_examples(f"{self.source}&count={count or self.problems}", split=SPLIT)[0]


@dataclass(frozen=True)
class Figure:
    """name: of its file; variants: that it needs; measure: what fills its file."""

    name: str
    variants: tuple[str, ...]
    measure: Callable[[Measurement], dict[str, Any]]


# --- the figures --------------------------------------------------------------------------------------------


def gradients(ask: Measurement) -> dict[str, Any]:
    """The distance's gradient beside the losses': over the first updates, and at the end."""
    unseen, marks = ask.unseen(ask.batch), range(0, ask.updates + 1, ask.every)
    found: dict[str, Any] = {start: [] for start in STARTS} | {"end": []}
    for _, seed, folder in list(ask.of(CODI))[: ask.replayed]:
        config = configuration_of(folder)
        seen = _trained_on(config, ask.batch)
        for start in STARTS:
            log = GradientLog(seen, unseen, marks)
            replay(config, log, start=config.start if start == "warm" else None)
            found[start].append({"seed": seed, "log": [one.as_dict() for one in log.found]})
    for variant, seed, folder in ask.of(CODI, WITHOUT_L1):
        seen = _trained_on(configuration_of(folder), ask.batch)
        one = loss_gradients(LatentReasoner.from_pretrained(folder), seen, unseen, kept_after(folder))
        found["end"].append({"variant": variant, "seed": seed, **one.as_dict()})
    weights = build_method(configuration_of(ask.run(CODI, ask.seeds[0])).method).as_dict()
    return found | {
        "n": ask.batch,
        "weights": {
            "student": weights["alpha"],
            "distillation": weights["beta"],
            "teacher": weights["gamma"],
        },
    }


def distilled_token(ask: Measurement) -> dict[str, Any]:
    """Probes of every result in the state before the answer, with and without the distance."""
    return _probed(ask, CODI, WITHOUT_L1)


def last_step(ask: Measurement) -> dict[str, Any]:
    """The same where the teacher writes the last step; and what a changed last result does to its answer."""
    problems = ask.unseen()
    changed = [
        {"variant": variant, "seed": seed} | last_result(_merged(folder), problems, seed=seed).as_dict()
        for variant, seed, folder in ask.of(CODI, LAST_STEP)
    ]
    return _probed(ask, LAST_STEP) | {"changed": changed}


def forgetting(ask: Measurement) -> dict[str, Any]:
    """Coconut's accuracy in each stage's form after each stage, and CODI's writing before and after."""
    problems = ask.unseen(max(1, ask.problems // 3))
    coconut = []
    for _, seed, folder in list(ask.of(COCONUT))[: ask.replayed]:
        config, log = configuration_of(folder), SkillLog(problems)
        replay(config, log, start=config.start)
        method = build_method(config.method)
        assert isinstance(method, Coconut)
        found = [*log.found.items(), (kept_after(folder), skills(_merged(folder), method, problems))]
        stages = [{"updates": updates, "skills": shares} for updates, shares in found]
        coconut.append({"seed": seed, "stages": stages})
    codi = []
    for _, seed, folder in ask.of(CODI):
        start = configuration_of(folder).start
        before = None if start is None else _accuracy(_merged(start), problems)
        after = _merged(folder)
        codi.append(
            {
                "seed": seed, "written_before": before, "latent": _accuracy(after, problems),
                "written_after": _accuracy(after, problems, mode="explicit"),
            }
        )  # fmt: skip
    return {"n": len(problems), "coconut": coconut, "codi": codi}


def projection(ask: Measurement) -> dict[str, Any]:
    """Where the thoughts lie, and how the runs learned, with and without the projection."""
    questions = [example.question for example in ask.unseen()]
    geometry, curves = [], []
    for variant, seed, folder in ask.of(CODI, WITHOUT_PROJECTION):
        found = thought_geometry(_merged(folder), questions, seed=seed)
        geometry.append({"variant": variant, "seed": seed, **found.as_dict()})
        points = [
            [entry["step"], entry["eval_accuracy"]]
            for entry in _account(folder)["history"]
            if "eval_accuracy" in entry
        ]
        curves.append({"variant": variant, "seed": seed, "points": points})
    validation = configuration_of(ask.run(CODI, ask.seeds[0])).data.validation_limit
    return {"n": len(questions), "validation_n": validation, "geometry": geometry, "curves": curves}


FIGURES = {
    figure.name: figure
    for figure in (
        Figure("gradients", (CODI, WITHOUT_L1), gradients),
        Figure("distilled-token", (CODI, WITHOUT_L1), distilled_token),
        Figure("last-step", (CODI, LAST_STEP), last_step),
        Figure("forgetting", (COCONUT, CODI), forgetting),
        Figure("projection", (CODI, WITHOUT_PROJECTION), projection),
    )
}


# --- measuring them -----------------------------------------------------------------------------------------


def figures_named(names: Sequence[str]) -> list[Figure]:
    """The figures asked for, all where none is named. Raises UsageError for an unknown one."""
    for name in names:
        if name not in FIGURES:
            raise UsageError(
                f"There is no figure '{name}'.{nearest(name, FIGURES)} Figures: {', '.join(FIGURES)}."
            )
    return [FIGURES[name] for name in names or FIGURES]


def measure(names: Sequence[str], ask: Measurement, output: Path, say: Callable[[str], None] = print) -> None:
    """Measure figures and write each one's file as it is done.

    Raises UsageError for an unknown figure, a run that is not there, or seeds that are too few.
    """
    chosen = figures_named(names)
    if not ask.seeds or ask.replayed < 1 or ask.updates < ask.every:
        raise UsageError("Give one seed or more, and at least one of them to be trained once more.")
    for figure in chosen:  # what is missing is said before anything is measured
        list(ask.of(*figure.variants))
    for figure in chosen:
        began, busy = time.perf_counter(), time.process_time()
        found = figure.measure(ask)
        made = {
            "figure": figure.name,
            "problems": f"{ask.source}, {SPLIT}",
            "seeds": list(ask.seeds),
            "seconds": round(time.perf_counter() - began, 1),
            "cpu_seconds": round(time.process_time() - busy, 1),
            "versions": versions(),
            "runs": runs_measured(ask, figure),
        }
        write_whole(output / f"{figure.name}.json", json.dumps(made | found, indent=1) + "\n")
        say(f"{figure.name}: measured in {made['seconds']:.0f} s ({made['cpu_seconds']:.0f} s of one core).")


def read_measured(output: Path) -> dict[str, dict[str, Any]]:
    """What was found, by figure. Raises UsageError where a file is damaged."""
    found = {}
    for name in FIGURES:
        file = output / f"{name}.json"
        if not file.exists():
            continue
        try:
            found[name] = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UsageError(f"'{file}' is damaged ({error}). Measure it again: codi why {name}") from error
    return found


def _probed(ask: Measurement, *variants: str) -> dict[str, Any]:
    problems = ask.unseen()
    probes, accuracies = [], []
    for variant, seed, folder in ask.of(*variants):
        reasoner = _merged(folder)
        which = {"variant": variant, "seed": seed}
        found = probe_results(reasoner, problems, seed=seed, least_per_class=ask.least_per_class)
        probes += [which | probe.as_dict() for probe in found]
        accuracies.append(which | {"accuracy": _accuracy(reasoner, problems)})
    return {"n": len(problems), "probes": probes, "accuracies": accuracies}


def _merged(folder: str | Path) -> LatentReasoner:
    """A run's model with its adapters multiplied in: the same answers, sooner."""
    return LatentReasoner.from_pretrained(folder).without_adapters()


def _accuracy(reasoner: LatentReasoner, problems: Sequence[Example], mode: str | None = None) -> float:
    return evaluate(
        reasoner, problems, scorer=SCORER, batch_size=256, mode=mode, max_new_tokens=64, latency_questions=0
    ).accuracy


def replay(config: RunConfig, log: Any, start: str | None) -> None:
    """A run's first updates once more, as `log` (a callback that ends the run) watches; nothing is kept."""
    values = config.as_dict()
    values["start"] = start
    values["training"] |= {"eval_strategy": "no", "save_strategy": "no", "disable_tqdm": True}
    with tempfile.TemporaryDirectory() as folder:
        train(build_run_config(values), Path(folder) / "run", say=lambda _: None, callbacks=[log])


def _trained_on(config: RunConfig, count: int) -> list[Example]:
    """The first problems that the run was trained on."""
    return load_examples(config.data.train, split=config.data.train_split)[0][:count]


def configuration_of(folder: Path) -> RunConfig:
    """The settings of a run. Raises CheckpointError where they cannot be read."""
    try:
        values = yaml.safe_load((folder / "run.yaml").read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise CheckpointError(f"'{folder / 'run.yaml'}' cannot be read ({error}). Train it again.") from error
    return build_run_config(values, str(folder / "run.yaml"))


def _account(folder: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"'{folder / 'training.json'}' cannot be read ({error}). Train it again."
        ) from error
    return found


def runs_measured(ask: Measurement, figure: Figure) -> list[dict[str, Any]]:
    """The runs behind a figure. updates: in all; kept_after: those of the weights that were measured."""
    return [
        {
            "variant": variant, "seed": seed, "updates": int(_account(folder)["steps"]),
            "kept_after": kept_after(folder),
            "validation_accuracy": _account(folder)["validation_accuracy"],
        }
        for variant, seed, folder in ask.of(*figure.variants)
    ]  # fmt: skip


def kept_after(folder: Path) -> int:
    """The updates of a run's weights: up to the checkpoint that validation chose, or all where none was."""
    account = _account(folder)
    chosen = account["best_checkpoint"]
    return int(account["steps"] if chosen is None else chosen.removeprefix("checkpoint-"))
