"""The runs of the paper's tables as plans: which there are, their settings, on which others each stands."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from codi.errors import UsageError, nearest
from codi.reproduce.tables import PAPER_SETS, SMALL_SETS, TABLES, VARIANTS, Table, Variant
from codi.training.recipes import RunConfig, build_run_config, load_recipe

SCALES = ("small", "paper")
SMALL_RECIPE = "word-problems-small"


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
    def needs(self) -> tuple[Plan, ...]:
        """The runs whose checkpoints it starts from or learns from."""
        return tuple(
            replace(self, variant=VARIANTS[name]) for name in (self.start, self.variant.teacher) if name
        )

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
        for other in one.needs:
            add(other.variant, seed)
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


# --- settings -----------------------------------------------------------------------------------------------


LEARNT_LATER: dict[str, dict[str, Any]] = {
    "text": {"chat_template": False, "system_prompt": ""},
    "data": {"annotations": "keep"},
    "model": {"train_rows": True, "rows": []},
}
"""Settings that finished runs do not name, by section, as they were before the package had them."""


def comparable(values: dict[str, Any]) -> dict[str, Any]:
    """JSON-ready settings; of the checkpoints that a run stands on, variant and seed alone."""
    settings: dict[str, Any] = json.loads(json.dumps(values))
    for name, later in LEARNT_LATER.items():
        section = settings.get(name) or {}
        settings[name] = {key: one for key, one in section.items() if key not in later or one != later[key]}
    for section, key in ((settings, "start"), (settings["method"], "teacher")):
        if section.get(key):
            section[key] = "/".join(Path(section[key]).parts[-2:])
    return settings


def without_none(values: Any) -> Any:
    """Without what is None: a setting that the package learnt later makes no finished run another one."""
    if isinstance(values, dict):
        return {key: without_none(value) for key, value in values.items() if value is not None}
    return values


def digest(values: Any) -> str:
    """SHA-256 of JSON-ready values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def stands_on(one: Plan) -> dict[str, str]:
    """Of each run that this one needs, by name: a digest of its settings and of what it stands on itself."""
    return {
        need.name: digest([without_none(comparable(need.configuration().as_dict())), stands_on(need)])
        for need in one.needs
    }
