"""The runs of the paper's tables: one configuration file in, one result file out, each run made once.

    results/SCALE/VARIANT/seed-N.yaml     the configuration, written before the run
    results/SCALE/VARIANT/seed-N.json     the result, written whole after it, with a checksum
    runs/reproduce/SCALE/VARIANT/seed-N/  checkpoint and curves; large, not kept in git

A result counts as finished when its checksum and its configuration are right, and those of the runs that it
stands on. A killed sweep goes on where it stopped: finished runs are skipped, a run that was cut off resumes
from its last checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from codi.errors import UsageError
from codi.reproduce.curves import last_gain, validation_curve
from codi.reproduce.plans import Plan, stands_on
from codi.reproduce.same_settings import beyond_defaults, comparable, digest, same_basis, same_settings
from codi.reproduce.tables import VARIANTS
from codi.storage import write_whole
from codi.training.recipes import RunConfig
from codi.training.side_by_side import Job, Reporter, run_side_by_side, steps_to

if TYPE_CHECKING:
    from codi.data.example import Example

SAMPLED_RUNS, SAMPLED_TEMPERATURE = 10, 0.1  # how the paper answers with CoT-SFT
TRAIN_QUESTIONS = 250  # of the training problems, asked to see whether these are known


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
    if checksum != digest(found):
        return None, f"'{file}' is corrupted"
    if found["scale"] != one.scale:
        return None, f"'{file}' is of the {found['scale']} scale"
    if not same_settings(found["configuration"], comparable(one.configuration().as_dict())):
        return None, f"'{file}' was made with other settings"
    if not same_basis(found.get("stands_on", {}), stands_on(one)):
        return None, f"'{file}' stands on another base, other problems or a run with other settings"
    result: dict[str, Any] = found
    return result, ""


def write_result(one: Plan, result: dict[str, Any]) -> None:
    """Write a result whole, with its checksum."""
    one.result_file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(one.result_file, json.dumps(result | {"checksum": digest(result)}, indent=1) + "\n")


def twin_of(one: Plan) -> Plan | None:
    """The run that this one is under another name: of its settings, and before it in `VARIANTS`.

    At small scale Table A4's beta 20 and Table A5's gamma 10 are CODI as it is: it is trained once.
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
    write_result(one, result | own | {"configuration": comparable(config.as_dict())})
    return True


def _meant(one: Plan) -> dict[str, Any]:
    """A run's settings without defaults: `beta: 1` and no beta are the same run."""
    return beyond_defaults(comparable(one.configuration().as_dict()))


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
    wanted = {need.name for one in todo for need in one.needs}
    todo += [
        one
        for one in every
        if one not in todo and one.name in wanted and not (one.checkpoint / "codi.json").exists()
    ]
    if not todo:
        return {}
    made = {one.name for one in todo}
    jobs = [
        Job(one.name, one, tuple(need.name for need in one.needs if need.name in made))
        for one in every
        if one in todo
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
    basis = one.checkpoint.with_name(f"{one.checkpoint.name}.stands-on.json")
    overwrite = (one.checkpoint / "run.yaml").exists() and _begun_otherwise(one, config, basis)
    if overwrite or not summary.exists():
        basis.parent.mkdir(parents=True, exist_ok=True)
        write_whole(basis, json.dumps(stands_on(one)) + "\n")
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
        "configuration": comparable(config.as_dict()),
        "stands_on": stands_on(one),
        "steps": trained["steps"],
        "train_seconds": trained["train_seconds"],
        "validation": (curve := validation_curve(trained["history"])),
        "last_gain": last_gain(curve),
        "device": trained["device"],
        "versions": versions(),
        "benchmarks": benchmarks,
        "test_chains": count_test_chains(one),
        **costs,
    }


def _begun_otherwise(one: Plan, config: RunConfig, basis: Path) -> bool:
    """Whether what lies in the run's folder was trained with other settings, or from other checkpoints.

    basis: file that says what it stands on.
    """
    begun = yaml.safe_load((one.checkpoint / "run.yaml").read_text(encoding="utf-8"))
    if not same_settings(comparable(begun), comparable(config.as_dict())):
        return True
    return not (basis.exists() and same_basis(json.loads(basis.read_text(encoding="utf-8")), stands_on(one)))


def _ask(one: Plan, steps: int, report: Reporter) -> tuple[dict[str, Any], dict[str, Any]]:
    """Every set's accuracy, interval and outcome per question; the first set's costs."""
    from codi.data.sources import load_examples
    from codi.evaluation.runner import evaluate
    from codi.evaluation.statistics import mean_std
    from codi.generation.latent_reasoner import LatentReasoner

    reasoner = LatentReasoner.from_pretrained(one.checkpoint)
    benchmarks: dict[str, Any] = {}
    costs: dict[str, Any] = {}
    for name in one.sets:
        report(steps, steps, f"asking {name}")
        examples, scorer = _questions(one, name)
        result = evaluate(reasoner, examples, scorer=scorer, latency_questions=0)
        benchmarks[name] = {
            "accuracy": result.accuracy,
            "ci95": list(result.ci95),
            "n": result.n,
            "scorer": result.scorer,
            "outcomes": "".join("1" if right else "0" for right in result.outcomes),
        }
        if name == one.sets[0]:
            costs = {"thought_tokens": result.thought_tokens, "sequential_passes": result.sequential_passes}
        if one.variant.sampled and not one.generated:
            accuracies = [
                evaluate(
                    reasoner, examples, scorer=scorer, latency_questions=0,
                    temperature=SAMPLED_TEMPERATURE, seed=run,
                ).accuracy
                for run in range(SAMPLED_RUNS)
            ]  # fmt: skip
            mean, deviation = mean_std(accuracies)
            benchmarks[name]["sampled"] = {"runs": accuracies, "mean": mean, "std": deviation}
    if one.generated:
        data = one.configuration().data
        shown, _ = load_examples(data.train, split=data.train_split, limit=one.questions or TRAIN_QUESTIONS)
        trained = evaluate(reasoner, shown, scorer=one.configuration().scorer, latency_questions=0)
        costs["train_accuracy"] = {"accuracy": trained.accuracy, "n": trained.n}
    report(steps, steps, "done")
    return benchmarks, costs


def _questions(one: Plan, name: str) -> tuple[list[Example], str]:
    """A set's questions, and the name of their scorer."""
    from codi.data.sources import load_examples
    from codi.evaluation.benchmarks import load_benchmark

    if not one.generated:
        examples, _, benchmark = load_benchmark(name, limit=one.questions)
        return examples, benchmark.scorer
    source, split = one.source(name)
    return load_examples(source, split=split)[0], one.configuration().scorer


def count_test_chains(one: Plan) -> dict[str, dict[str, int]]:
    """Of generated sets: how many of their chains stand in training, and how many there are."""
    from codi.data.chains import seen_chains
    from codi.data.sources import load_examples

    if not one.generated:
        return {}
    data = one.configuration().data
    training, _ = load_examples(data.train, split=data.train_split)
    return {name: seen_chains(_questions(one, name)[0], training).as_dict() for name in one.sets}


def first_kept(plans: Iterable[Plan]) -> list[Plan]:
    """The runs of the first seed whose checkpoints are all there; where none is whole, of the first seed."""
    by_seed = dict[int, list[Plan]]()
    for one in plans:
        by_seed.setdefault(one.seed, []).append(one)
    whole = (its for its in by_seed.values() if all((one.checkpoint / "codi.json").exists() for one in its))
    return next(whole, next(iter(by_seed.values())))


def measure_latency_of(plans: Iterable[Plan], say: Callable[[str], None]) -> None:
    """Latency at batch 1, one system after the other with nothing beside it, added to finished results."""
    from codi.evaluation.benchmarks import format_question
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
        examples, _ = _questions(one, one.sets[0])
        texts = [format_question(example.question) for example in examples[:100]]
        result["latency_ms"] = latency_summary(
            measure_latency(LatentReasoner.from_pretrained(one.checkpoint), texts)
        )
        write_result(one, result)
