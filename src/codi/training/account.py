"""What a run gave: `training.json`, read and written, and the checkpoint beside it."""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass
from pathlib import Path

import torch

from codi.errors import TrainingError
from codi.generation.latent_reasoner import LatentReasoner
from codi.storage import write_whole
from codi.training.preparation import PreparedData
from codi.training.resuming import weights_faults
from codi.training.trainer import CodiTrainer
from codi.version import installed_version


@dataclass(frozen=True)
class TrainingResult:
    """What a run gave. accuracy: best validation accuracy as a fraction, None without validation."""

    output: Path
    steps: int
    seconds: float
    accuracy: float | None

    def reasoner(self, device: str | torch.device | None = None) -> LatentReasoner:
        """The checkpoint that was saved, ready to answer."""
        return LatentReasoner.from_pretrained(self.output, device=device)


def write_account(output: Path, trainer: CodiTrainer, data: PreparedData, seconds: float) -> None:
    """training.json. Its accuracy is that of the weights that were saved."""
    summary = {
        "codi_version": installed_version(),
        "versions": versions(),
        "device": str(trainer.args.device),
        "processes": trainer.share.processes,
        "steps": trainer.state.global_step,
        "train_seconds": seconds,
        "validation_accuracy": trainer.accuracy,
        "scorer": data.scorer.name if data.validation and data.scorer is not None else None,
        "best_checkpoint": trainer.best_checkpoint,
        "data": [report.as_dict() for report in data.reports],
        "history": trainer.state.log_history,
    }
    write_whole(output / "training.json", json.dumps(summary, indent=2) + "\n")


def is_finished(output: Path) -> bool:
    """Whether a run has written everything that it leaves behind."""
    return (output / "training.json").exists() and not weights_faults(output)


def result_of(output: Path) -> TrainingResult:
    """What a finished run gave. Raises TrainingError when its account is damaged."""
    file = output / "training.json"
    try:
        summary = json.loads(file.read_text(encoding="utf-8"))
        return TrainingResult(
            output, summary["steps"], summary["train_seconds"], summary["validation_accuracy"]
        )
    except (ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{file} is damaged ({error}). Start anew with --overwrite.") from error


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    import accelerate
    import peft
    import transformers

    return {
        "python": platform.python_version(),
        "codi": installed_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
        "accelerate": accelerate.__version__,
    }
