"""What a run goes on from: looked through before anything is loaded, so that nothing is found out too late.

    checkpoint-N/complete      written last: seconds trained, number of processes, mark of the training rows
    checkpoint-N/...           weights, optimizer.pt, scheduler.pt, rng_state*.pth, trainer_state.json

The newest checkpoint whose parts are all whole is taken. What is passed over is named, and left where it is.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from transformers import TrainerState
from transformers.trainer import OPTIMIZER_NAME, SCALER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME

from codi.errors import CheckpointError, CodiError, TrainingError
from codi.modeling.bases import weights_fault
from codi.modeling.checkpoint import ADAPTER, THOUGHTS, read_configuration
from codi.training.recipes import RunConfig, build_run_config

COMPLETE = "complete"
"""Marker file of a checkpoint folder, written last: a folder without it was cut off, and is passed over."""
_FOLDER = re.compile(r"checkpoint-(\d+)$")


# --- marks of a checkpoint ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mark:
    """What the marker holds. processes, rows: 0 and "" in markers that do not say."""

    seconds: float
    processes: int = 0
    rows: str = ""

    def text(self) -> str:
        """As it is written."""
        return f"{self.seconds:.3f}\nprocesses {self.processes}\nrows {self.rows}\n"

    @classmethod
    def of(cls, folder: Path) -> Mark:
        """Read a checkpoint's. What cannot be read counts as not said."""
        text = (folder / COMPLETE).read_text(encoding="utf-8", errors="replace")
        seconds, *lines = text.splitlines() or [""]
        said = dict(line.split(" ", 1) for line in lines if " " in line)
        try:
            return cls(float(seconds or 0), int(said.get("processes", 0)), said.get("rows", ""))
        except ValueError:
            return cls(0.0)


def step_of(folder: Path) -> int:
    """The step of a checkpoint folder; -1 for a folder of another name."""
    found = _FOLDER.fullmatch(folder.name)
    return int(found[1]) if found else -1


def checkpoints(output: Path) -> list[Path]:
    """The checkpoint folders of a run, newest first, whole or not."""
    found = [folder for folder in output.glob("checkpoint-*") if folder.is_dir() and step_of(folder) >= 0]
    return sorted(found, key=step_of, reverse=True)


def checkpoint_to_resume(output: Path) -> Path | None:
    """The newest checkpoint that was written to its end, or None. Its parts are not looked at."""
    return next((folder for folder in checkpoints(output) if (folder / COMPLETE).exists()), None)


# --- whether the parts are whole ----------------------------------------------------------------------------


def faults(folder: Path, processes: int = 1, *, scaled: bool = False) -> list[str]:
    """What is missing or damaged of the parts that going on from a checkpoint needs; empty where it is whole.

    processes: that would go on; each needs its own random state, unless others wrote the checkpoint.
    scaled: whether the run scales its loss (fp16). Of a run that took its last step the weights are enough.
    """
    found = weights_faults(folder)
    try:
        state = read_state(folder)
    except CheckpointError as error:
        return [*found, str(error)]
    if state.global_step >= state.max_steps > 0:
        return found
    names = [OPTIMIZER_NAME, SCHEDULER_NAME, *_random_states(folder, processes)]
    if scaled:
        names.append(SCALER_NAME)
    told = {name: _torch_fault(folder / name) for name in names}
    return found + [f"{name} {fault}" for name, fault in told.items() if fault is not None]


def weights_faults(folder: Path) -> list[str]:
    """The same of the weights alone: what loading the checkpoint's model needs."""
    if not (folder / "codi.json").exists():
        return ["codi.json is missing"]
    try:
        adapters = (read_configuration(folder)["model"] or {}).get("lora") is not None
    except (CheckpointError, AttributeError) as error:
        return [f"codi.json is damaged ({error})"]
    names = [THOUGHTS]
    index = folder / "model.safetensors.index.json"
    if adapters:
        names.append(ADAPTER)
    elif index.exists():
        try:
            names += sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError):
            return [f"{index.name} is damaged"]
    else:
        names.append("model.safetensors")
    told = {name: weights_fault(folder / name) for name in names}
    if not adapters and not _is_json(folder / "config.json"):
        told["config.json"] = "is missing or damaged"
    return [f"{name} {fault}" for name, fault in told.items() if fault is not None]


def read_state(folder: Path) -> TrainerState:
    """The Trainer's account in a checkpoint. Raises CheckpointError when it is missing or damaged."""
    file = folder / TRAINER_STATE_NAME
    if not file.is_file():
        raise CheckpointError(f"{file.name} is missing")
    try:
        state: TrainerState = TrainerState.load_from_json(str(file))
        if not (isinstance(state.global_step, int) and isinstance(state.log_history, list)):
            raise ValueError("no steps in it")
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{file.name} is damaged ({error})") from error
    return state


def _is_json(file: Path) -> bool:
    try:
        return isinstance(json.loads(file.read_text(encoding="utf-8")), dict)
    except (OSError, ValueError):
        return False


def _random_states(folder: Path, processes: int) -> list[str]:
    """The random states that are needed: none where another number of processes wrote the checkpoint."""
    wrote = Mark.of(folder).processes if (folder / COMPLETE).exists() else 0
    numbered = [int(file.stem.rpartition("_")[2]) for file in folder.glob("rng_state_*.pth")
                if file.stem.rpartition("_")[2].isdecimal()]  # fmt: skip
    if not wrote:  # a marker that does not say
        alone = (folder / "rng_state.pth").exists()
        wrote = 1 if alone else max(2, max(numbered) + 1) if numbered else processes
    if wrote != processes:
        return []
    return ["rng_state.pth"] if processes == 1 else [f"rng_state_{number}.pth" for number in range(processes)]


def _torch_fault(file: Path) -> str | None:
    """What is wrong with a file of torch.save's: a zip whose parts carry their checksums."""
    if not file.is_file():
        return "is missing"
    if file.stat().st_size == 0:
        return "is empty"
    try:
        with zipfile.ZipFile(file) as archive:
            broken = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError) as error:
        return f"is damaged ({error})"
    return None if broken is None else f"is damaged ({broken})"


def whole_checkpoint(
    output: Path, say: Callable[[str], None], processes: int = 1, *, scaled: bool = False
) -> Path | None:
    """The newest checkpoint whose parts are all there, or None in a run that has written none.

    Says what is passed over. Raises TrainingError when there are checkpoints and none is whole.
    """
    passed: dict[str, str] = {}
    cut_off: list[str] = []
    for folder in checkpoints(output):
        if not (folder / COMPLETE).exists():
            cut_off.append(folder.name)
            continue
        found = faults(folder, processes, scaled=scaled)
        if not found:
            for name, reason in passed.items():
                say(f"{name} is passed over: {reason}. (It is left where it is.)")
            for name in cut_off:
                say(f"{name} is passed over: it was cut off while it was being written.")
            if passed or cut_off:
                say(f"The run goes on from {folder.name}, the newest that is whole.")
            return folder
        passed[folder.name] = "; ".join(found)
    if passed:
        told = "\n".join(f"  {name}: {reason}" for name, reason in passed.items())
        raise TrainingError(
            f"No checkpoint in '{output}' is whole, so there is nothing to go on from:\n{told}\n"
            "Copy what is missing from where the run was, or start anew with --overwrite."
        )
    if cut_off:
        say(f"{', '.join(cut_off)}: cut off while being written. The run begins again at its first step.")
    return None


# --- the best checkpoint ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Best:
    """The best checkpoint so far, None where there is none. accuracy: on validation, as a fraction."""

    accuracy: float | None = None
    folder: Path | None = None

    def into(self, state: TrainerState) -> None:
        """Let the Trainer choose from here on."""
        state.best_metric = self.accuracy
        state.best_model_checkpoint = None if self.folder is None else str(self.folder)
        state.best_global_step = None if self.folder is None else step_of(self.folder)


def best_at_hand(state: TrainerState, output: Path, since: int, say: Callable[[str], None]) -> Best:
    """The best checkpoint that a state records, found by its name in the run's own folder.

    Where it is not there, or not whole, that is said, and the choice starts anew from those that are there.
    since: last step before the current stage; accuracies of earlier stages do not count.
    """
    recorded = _FOLDER.search(str(state.best_model_checkpoint or "").rstrip("/\\"))
    if recorded is None:
        return Best()
    folder = output / recorded[0]
    found = weights_faults(folder) if folder.is_dir() else ["it is not there"]
    if not found:
        return Best(state.best_metric, folder)
    measured = accuracies(state)
    others = [
        (measured[step_of(other)], -step_of(other), other)
        for other in checkpoints(output)
        if since < step_of(other) <= state.global_step
        and step_of(other) in measured
        and not weights_faults(other)
    ]
    best = Best()
    if others:
        accuracy, _, next_best = max(others)
        best = Best(accuracy, next_best)
    begun = f" from {next_best.name} (validation accuracy {100 * accuracy:.1f} %)" if others else ""
    accuracy_lost = f"validation accuracy {100 * (state.best_metric or 0):.1f} %"
    say(
        f"The best checkpoint so far, {folder.name} ({accuracy_lost}), cannot be used: {'; '.join(found)}. "
        f"The choice of the best starts anew{begun}."
    )
    return best


def accuracies(state: TrainerState) -> dict[int, float]:
    """Validation accuracy by step, as the run has recorded it."""
    return {
        int(entry["step"]): float(entry["eval_accuracy"])
        for entry in state.log_history
        if "eval_accuracy" in entry and "step" in entry
    }


# --- the run's folder and its settings ----------------------------------------------------------------------


def holds_run(output: Path) -> bool:
    """Whether a run has written here."""
    return (
        (output / "run.yaml").exists() or (output / "codi.json").exists()
        or checkpoint_to_resume(output) is not None
    )  # fmt: skip


def refuse_changed_settings(config: RunConfig, output: Path) -> None:
    """Raise TrainingError when `output` holds a run that was started with other settings, or does not say."""
    file = output / "run.yaml"
    if not file.exists():
        if not checkpoints(output):
            return
        raise TrainingError(
            f"'{output}' has checkpoints but no run.yaml, which says what the run was started with: going on "
            "with other settings would give another model. Copy it from where the run was; or write the "
            f"settings that you know it had: codi train ... --dry-run > {file}"
        )
    before, now = _recorded(file), yaml.safe_load(yaml.safe_dump(config.as_dict()))
    for settings in (before, now):  # how a step is launched decides nothing
        (settings.get("training") or {}).pop("graphs", None)
    changed = sorted(key for key in now if now[key] != before.get(key))
    if changed:
        raise TrainingError(
            f"'{output}' was started with other settings in: {', '.join(changed)}"
            f" ({'; '.join(_differences(before, now)[:5])}). "
            "Go on with the same settings (see its run.yaml), or start anew with --overwrite. A file or base "
            "that has only moved may be given its new place in run.yaml: what is in it is compared."
        )


def _recorded(file: Path) -> dict[str, Any]:
    """The settings in a run.yaml, those that the package has learnt since filled in."""
    try:
        values: Any = yaml.safe_load(file.read_text(encoding="utf-8"))
        if not isinstance(values, dict) or not values:
            raise ValueError("it holds no settings")
    except (yaml.YAMLError, ValueError, OSError) as error:
        raise TrainingError(
            f"{file} is damaged: {' '.join(str(error).split())[:200]}. Copy it from where the run was, or "
            f"write the settings that you know it had: codi train ... --dry-run > {file}"
        ) from error
    try:
        filled: dict[str, Any] = yaml.safe_load(yaml.safe_dump(build_run_config(values, str(file)).as_dict()))
    except CodiError:
        return values  # of another version: what differs is named
    return filled


def _differences(before: Any, now: Any, name: str = "") -> list[str]:
    """Where two settings differ, as `section.key: before, now after`."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [*now, *(key for key in before if key not in now)]
        return [
            told
            for key in keys
            for told in _differences(before.get(key), now.get(key), f"{name}.{key}" if name else str(key))
        ]
    return [] if before == now else [f"{name}: {before!r}, now {now!r}"]
