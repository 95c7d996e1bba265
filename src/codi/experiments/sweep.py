"""The runs of the paper's tables: one configuration file in, one result file out, each run made once.

    results/SCALE/VARIANT/seed-N.yaml     the configuration, written before the run
    results/SCALE/VARIANT/seed-N.json     the result, written whole after it, with a checksum
    runs/reproduce/SCALE/VARIANT/seed-N/  checkpoint and curves; large, not kept in git

A result counts as finished when its checksum and its configuration are right. A killed sweep goes on where
it stopped: finished runs are skipped, a run that was cut off resumes from its last checkpoint. What is not
seen: that the run which another started from has been made anew with other settings; delete the results
that stand on it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from codi.errors import UsageError, nearest
from codi.experiments.side_by_side import Job, Reporter, run_side_by_side, steps_to
from codi.experiments.tables import PAPER_SETS, SMALL_SETS, TABLES, VARIANTS, Table, Variant
from codi.methods.method import build_method
from codi.storage import write_whole
from codi.training.recipes import RunConfig, load_recipe

SCALES = ("small", "paper")
SMALL_RECIPE = "word-problems-small"
SAMPLED_RUNS, SAMPLED_TEMPERATURE = 10, 0.1  # how the paper answers with CoT-SFT


@dataclass(frozen=True)
class Plan:
    """One run to make: a variant with a seed at a scale.

    steps, questions: shorten it (tests); None is the whole.
    """

    variant: Variant
    seed: int
    scale: str
    results: Path
    runs: Path
    steps: int | None = None
    questions: int | None = None

    @property
    def name(self) -> str:
        """`codi/seed-1`."""
        return f"{self.variant.name}/seed-{self.seed}"

    @property
    def result_file(self) -> Path:
        """Where the result goes."""
        return self.results / self.scale / f"{self.name}.json"

    @property
    def checkpoint(self) -> Path:
        """Where the run trains."""
        return self.runs / self.scale / self.name

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the runs whose checkpoints it starts from or learns from."""
        return tuple(f"{name}/seed-{self.seed}" for name in (self.start, self.variant.teacher) if name)

    @property
    def start(self) -> str | None:
        """The variant whose checkpoint it starts from, if any."""
        return self.variant.start if self.scale == "small" else None

    @property
    def sets(self) -> tuple[str, ...]:
        """Names of the sets it is measured on."""
        return SMALL_SETS if self.scale == "small" else PAPER_SETS

    def configuration(self) -> RunConfig:
        """The run's whole configuration. Raises RecipeError."""
        variant, folder = self.variant, self.runs / self.scale
        recipe = SMALL_RECIPE if self.scale == "small" else variant.recipe
        overrides = [*variant.overrides, *(variant.small if self.scale == "small" else variant.paper)]
        overrides.append(f"training.seed={self.seed}")
        if self.start:
            overrides.append(f"start={folder / self.start / f'seed-{self.seed}'}")
        if variant.teacher:
            overrides.append(f"method.teacher={folder / variant.teacher / f'seed-{self.seed}'}")
        config = load_recipe(recipe, overrides)
        training = {**config.training, "disable_tqdm": True}  # the bars of side_by_side.py speak for all
        if self.steps is not None:
            training |= {"max_steps": self.steps, "eval_steps": max(1, self.steps // 2)}
        elif self.scale == "small":
            training["max_steps"] = round(training["max_steps"] * variant.steps_factor)
        values = config.as_dict() | {"training": training}
        if self.questions is not None:
            values["data"]["validation_limit"] = self.questions
        from codi.training.recipes import build_run_config

        return build_run_config(values, self.name)


def plan(
    names: Sequence[str],
    scale: str,
    results: Path,
    runs: Path,
    *,
    seeds: Sequence[int] | None = None,
    steps: int | None = None,
    questions: int | None = None,
) -> list[Plan]:
    """The runs that some tables need, each once, those that others stand on first.

    seeds: in place of each table's own. Raises UsageError on an unknown table or scale.
    """
    if scale not in SCALES:
        raise UsageError(f"There is no scale '{scale}'. Scales: {', '.join(SCALES)}.")
    found: dict[str, Plan] = {}

    def add(variant: Variant, seed: int) -> None:
        one = Plan(variant, seed, scale, results, runs, steps, questions)
        for other in (one.start, variant.teacher):
            if other:
                add(VARIANTS[other], seed)
        found.setdefault(one.name, one)

    for table in tables_named(names):
        for name in table.rows:
            for seed in seeds or seeds_of(table, name):
                add(VARIANTS[name], seed)
    return list(found.values())


def tables_named(names: Sequence[str]) -> list[Table]:
    """The tables of some names; `all` is every one. Raises UsageError, with the list, on an unknown name."""
    if "all" in names:
        return list(TABLES.values())
    for name in names:
        if name not in TABLES:
            raise UsageError(
                f"There is no table '{name}'.{nearest(name, TABLES)} Tables: {', '.join(TABLES)}, all."
            )
    return [TABLES[name] for name in names]


def seeds_of(table: Table, variant: str) -> tuple[int, ...]:
    """The seeds of a row. The baseline of Table A6 has five, for its rule of two standard deviations."""
    return (1, 2, 3, 4, 5) if (table.name, variant) == ("a6", "prompt-1") else table.seeds


# --- results ------------------------------------------------------------------------------------------------


def read_result(one: Plan) -> tuple[dict[str, Any] | None, str]:
    """The finished result of a run, or None and why there is none that counts."""
    file = one.result_file
    if not file.exists():
        return None, "not run yet"
    try:
        found: Any = json.loads(file.read_text(encoding="utf-8"))
        checksum = found.pop("checksum")
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, AttributeError, TypeError):
        return None, f"'{file}' is corrupted"
    if checksum != _digest(found):
        return None, f"'{file}' is corrupted"
    if _given(found["configuration"]) != _given(_comparable(one.configuration().as_dict())):
        return None, f"'{file}' was made with other settings"
    result: dict[str, Any] = found
    return result, ""


def write_result(one: Plan, result: dict[str, Any]) -> None:
    """Write a result whole, with its checksum."""
    one.result_file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(one.result_file, json.dumps(result | {"checksum": _digest(result)}, indent=1) + "\n")


def twin_of(one: Plan) -> Plan | None:
    """The run that this one is under another name: of its settings, and before it in `VARIANTS`.

    CODI as it is stands in Table A4 as beta 1 and in Table A5 as gamma 1: it is trained once.
    """
    mine = _meant(one)
    for variant in VARIANTS.values():
        if variant.name == one.variant.name:
            return None
        other = replace(one, variant=variant)
        if variant.sampled == one.variant.sampled and _meant(other) == mine:
            return other
    return None


def take_over(one: Plan, twin: Plan) -> bool:
    """Write the twin's result as this run's too, where it is finished."""
    result, _ = read_result(twin)
    if result is None:
        return False
    config = one.configuration()
    one.result_file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(one.result_file.with_suffix(".yaml"), yaml.safe_dump(config.as_dict(), sort_keys=False))
    own = {"variant": one.variant.name, "title": one.variant.title, "same_as": twin.name}
    write_result(one, result | own | {"configuration": _comparable(config.as_dict())})
    return True


def _digest(result: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(result, sort_keys=True).encode()).hexdigest()


def _comparable(values: dict[str, Any]) -> dict[str, Any]:
    """JSON-ready settings; of the checkpoints that a run stands on, variant and seed alone."""
    settings: dict[str, Any] = json.loads(json.dumps(values))
    for section, key in ((settings, "start"), (settings["method"], "teacher")):
        if section.get(key):
            section[key] = "/".join(Path(section[key]).parts[-2:])
    return settings


def _given(values: Any) -> Any:
    """Without what is None: a setting that the package learnt later makes no finished run another one."""
    if isinstance(values, dict):
        return {key: _given(value) for key, value in values.items() if value is not None}
    return values


def _meant(one: Plan) -> dict[str, Any]:
    """A run's settings, the method's defaults written out: `beta: 1` and no beta are the same run."""
    config = one.configuration()
    method = {"name": config.method["name"]} | asdict(build_method(config.method))
    return _comparable(config.as_dict() | {"method": method})


# --- running ------------------------------------------------------------------------------------------------


def run_sweep(plans: Iterable[Plan], say: Callable[[str], None]) -> dict[str, BaseException]:
    """Make every run that has no finished result. Returns the errors of those that failed, by name."""
    todo: list[Plan] = []
    every = list(plans)
    names = {one.name for one in every}
    waiting: list[tuple[Plan, Plan]] = []  # runs that are another's twin
    for one in every:
        result, why = read_result(one)
        if result is not None:
            continue
        if one.result_file.exists():
            say(f"{one.name}: {why}; it is run again.")
        twin = twin_of(one)
        if twin is not None and take_over(one, twin):
            say(f"{one.name} is {twin.name} under another name.")
        elif twin is not None and twin.name in names:
            waiting.append((one, twin))
        else:
            todo.append(one)
    finished = len(every) - len(todo) - len(waiting)
    say(f"{finished} of {len(every)} runs are finished, {len(todo)} to make.")
    # A finished run whose checkpoint is gone is made again only where another one stands on it.
    wanted = {need for one in todo for need in one.needs}
    todo += [
        one
        for one in every
        if one not in todo and one.name in wanted and not (one.checkpoint / "codi.json").exists()
    ]
    if not todo:
        return {}
    made = {one.name for one in todo}
    jobs = [
        Job(one.name, one, tuple(need for need in one.needs if need in made)) for one in every if one in todo
    ]
    by_name = {one.name: one for one in todo}

    def done(name: str, result: dict[str, Any]) -> None:
        write_result(by_name[name], result)
        first = result["benchmarks"][by_name[name].sets[0]]
        say(f"{name}: {100 * first['accuracy']:.1f} % on {by_name[name].sets[0]}")

    errors = run_side_by_side(jobs, make_run, done, go_on=True)
    for one, twin in waiting:
        if take_over(one, twin):
            say(f"{one.name} is {twin.name} under another name.")
        else:
            errors[one.name] = UsageError(f"It is {twin.name} under another name, which failed.")
    return errors


def make_run(one: Plan, report: Reporter) -> dict[str, Any]:
    """In a process of its own: train as configured (or go on), then ask every set."""
    from codi.training.run import train, versions

    config = one.configuration()
    one.result_file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(one.result_file.with_suffix(".yaml"), yaml.safe_dump(config.as_dict(), sort_keys=False))
    summary = one.checkpoint / "training.json"
    begun = one.checkpoint / "run.yaml"
    overwrite = begun.exists() and _comparable(yaml.safe_load(begun.read_text(encoding="utf-8"))) != (
        _comparable(config.as_dict())
    )  # of other settings: so is its result, which is why it is made again
    if overwrite or not summary.exists():
        train(
            config, one.checkpoint, resume=not overwrite, overwrite=overwrite, say=lambda _: None,
            callbacks=[steps_to(report)],
        )  # fmt: skip
    trained = json.loads(summary.read_text(encoding="utf-8"))
    benchmarks, costs = _ask(one, trained["steps"], report)
    return {
        "variant": one.variant.name,
        "title": one.variant.title,
        "scale": one.scale,
        "seed": one.seed,
        "configuration": _comparable(config.as_dict()),
        "steps": trained["steps"],
        "train_seconds": trained["train_seconds"],
        "device": trained["device"],
        "versions": versions(),
        "benchmarks": benchmarks,
        **costs,
    }


def _ask(one: Plan, steps: int, report: Reporter) -> tuple[dict[str, Any], dict[str, Any]]:
    """Every set's accuracy, interval and outcome per question; the first set's costs."""
    from codi.evaluation.benchmarks import load_benchmark
    from codi.evaluation.runner import evaluate
    from codi.evaluation.statistics import mean_std
    from codi.generation.latent_reasoner import LatentReasoner

    reasoner = LatentReasoner.from_pretrained(one.checkpoint)
    benchmarks: dict[str, Any] = {}
    costs: dict[str, Any] = {}
    for name in one.sets:
        report(steps, steps, f"asking {name}")
        if one.scale == "small":
            examples, _, benchmark = load_benchmark(name, count=one.questions)
        else:
            examples, _, benchmark = load_benchmark(name, limit=one.questions)
        result = evaluate(reasoner, examples, scorer=benchmark.scorer, latency_questions=0)
        benchmarks[name] = {
            "accuracy": result.accuracy,
            "ci95": list(result.ci95),
            "n": result.n,
            "scorer": result.scorer,
            "outcomes": "".join("1" if right else "0" for right in result.outcomes),
        }
        if name == one.sets[0]:
            costs = {"thought_tokens": result.thought_tokens, "sequential_passes": result.sequential_passes}
        if one.variant.sampled and one.scale == "paper":
            accuracies = [
                evaluate(
                    reasoner, examples, scorer=benchmark.scorer, latency_questions=0,
                    temperature=SAMPLED_TEMPERATURE, seed=run,
                ).accuracy
                for run in range(SAMPLED_RUNS)
            ]  # fmt: skip
            mean, deviation = mean_std(accuracies)
            benchmarks[name]["sampled"] = {"runs": accuracies, "mean": mean, "std": deviation}
    report(steps, steps, "done")
    return benchmarks, costs


def measure_latency_of(plans: Iterable[Plan], say: Callable[[str], None]) -> None:
    """Latency at batch 1, one system after the other with nothing beside it, added to finished results."""
    from codi.evaluation.benchmarks import format_question, load_benchmark
    from codi.evaluation.runner import measure_latency
    from codi.evaluation.statistics import latency_summary
    from codi.generation.latent_reasoner import LatentReasoner

    for one in plans:
        result, _ = read_result(one)
        if result is None or "latency_ms" in result:
            continue
        if not (one.checkpoint / "codi.json").exists():
            say(f"{one.name}: no latency, because its checkpoint '{one.checkpoint}' is gone.")
            continue
        say(f"{one.name}: measuring latency at batch 1 ...")
        examples, _, _ = load_benchmark(one.sets[0], count=100 if one.scale == "small" else None)
        texts = [format_question(example.question) for example in examples[:100]]
        result["latency_ms"] = latency_summary(
            measure_latency(LatentReasoner.from_pretrained(one.checkpoint), texts)
        )
        write_result(one, result)
