"""Training runs side by side: the settings in which they differ, and their validation curves.

What a grid of settings is chosen by. A run that is still going, or was cut off, is read as far as
it came.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from codi.errors import UsageError
from codi.reproduce.curves import Curve, validation_curve

NO_CHOICE = ("training.disable_tqdm",)
"""Settings that decide nothing of what is learned."""


@dataclass(frozen=True)
class RunCurve:
    """One run. settings: those in which the runs that were read differ, by dotted key; curve: accuracy
    (fraction) and losses by update; seconds: it trained for, None where it is not finished."""

    name: str
    settings: dict[str, Any]
    curve: Curve
    seconds: float | None

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "run": self.name,
            "settings": self.settings,
            "validation": self.curve,
            "train_seconds": self.seconds,
        }


def read_curves(folders: Sequence[Path]) -> list[RunCurve]:
    """The runs in these folders, in this order. Raises UsageError where one holds no run, or nothing yet."""
    settings = [dict(_flat(_run_settings(folder))) for folder in folders]
    keys = {key: None for one in settings for key in one if key not in NO_CHOICE}
    differing = [key for key in keys if any(one.get(key) != settings[0].get(key) for one in settings)]
    found = []
    for folder, own in zip(folders, settings, strict=True):
        history, seconds = _history(folder)
        named = {key: own.get(key) for key in differing}
        found.append(RunCurve(folder.absolute().name, named, validation_curve(history), seconds))
    return found


def draw(runs: Sequence[RunCurve], file: Path) -> None:
    """Validation accuracy against updates. Writes a PNG, PDF or SVG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(9, 4.6), layout="constrained")
    for number, run in enumerate(runs):
        points = [(one["step"], 100 * one["accuracy"]) for one in run.curve]
        dashes = ("-", "--", ":", "-.")[number // 10 % 4]  # there are ten colours
        if points:
            axis.plot(
                *zip(*points, strict=True), marker="o", markersize=2.5, linewidth=1.4, linestyle=dashes,
                color=f"C{number % 10}", label=run.name,
            )  # fmt: skip
    axis.set(xlabel="updates of the run", ylabel="validation accuracy (%)", ylim=(0, 104))
    axis.set_xlim(left=0)
    axis.set_yticks(range(0, 101, 20))
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=150)
    plt.close(figure)


def _run_settings(folder: Path) -> dict[str, Any]:
    file = folder / "run.yaml"
    if not file.exists():
        raise UsageError(f"'{folder}' holds no run: it has no run.yaml. Name folders of codi train.")
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"'{file}' cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise UsageError(f"'{file}' is not a run's: it holds no settings.")
    return found


def _flat(values: Mapping[str, Any], section: str = "") -> Iterator[tuple[str, Any]]:
    """By dotted key; of a run or model in a folder the folder's own name."""
    for name, value in values.items():
        key = f"{section}{name}"
        if isinstance(value, dict):
            yield from _flat(value, f"{key}.")
        elif key in ("start", "method.teacher") and value:
            yield key, Path(value).name
        else:
            yield key, value


def _history(folder: Path) -> tuple[list[dict[str, Any]], float | None]:
    """What a run logged, and how long it took; of an unfinished one up to its last checkpoint."""
    from codi.training.resuming import checkpoints

    if (folder / "training.json").exists():
        file, key = folder / "training.json", "history"
    else:
        states = [one / "trainer_state.json" for one in checkpoints(folder)]
        there = [state for state in states if state.exists()]
        if not there:
            raise UsageError(f"'{folder}' has no checkpoint yet. Wait for its first, or leave it out.")
        file, key = there[0], "log_history"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return list(found[key]), found.get("train_seconds")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"'{file}' cannot be read ({error}). Wait, or leave the run out.") from error
