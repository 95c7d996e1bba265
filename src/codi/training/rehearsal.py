"""The Trainer set up once on a model of one weight: what it refuses is said before any data is read."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from transformers import Trainer, TrainingArguments
from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    get_available_reporting_integrations,
)

from codi.errors import TrainingError, nearest
from codi.methods.method import Method
from codi.modeling.model import CHECKPOINTING_REFUSED

REFUSALS = (TypeError, ValueError, ImportError, RuntimeError, OSError, AttributeError, LookupError)
"""What transformers and accelerate raise over settings that cannot be used here."""


@contextmanager
def one_message(opening: str) -> Iterator[None]:
    """A refusal inside becomes a TrainingError with its own words. opening: what could not be done."""
    try:
        yield
    except REFUSALS as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise TrainingError(f"{opening}: {said}") from error


def rehearse(args: TrainingArguments, *, own_optimizer: bool = False) -> None:
    """Make trackers, accelerator, optimiser and schedule as training will, and drop them.

    own_optimizer: the run brings its own in place of `training.optim`. Raises TrainingError.
    """
    for name in args.report_to if isinstance(args.report_to, list) else [args.report_to]:
        _check_tracker(name)
    with tempfile.TemporaryDirectory() as folder:
        tried = copy.copy(args)
        tried.output_dir = folder
        with one_message("Training cannot be set up with these settings"):
            trainer = Trainer(
                model=nn.Linear(1, 1),
                args=tried,
                train_dataset=[0],  # never read
                eval_dataset=[0] if args.eval_strategy != "no" else None,
            )
            if args.label_smoothing_factor:
                raise ValueError("label_smoothing_factor does nothing to the methods' own losses")
            if not own_optimizer and not trainer.is_fsdp_enabled:
                trainer.create_optimizer_and_scheduler(num_training_steps=10)


def _check_tracker(name: str | None) -> None:
    """Raise TrainingError when an experiment tracker is not known, or not installed."""
    if name is None or name == "none":
        return
    if name not in INTEGRATION_TO_CALLBACK:
        known = sorted(INTEGRATION_TO_CALLBACK)
        raise TrainingError(
            f"training.report_to names '{name}', which is not supported.{nearest(name, known)} "
            f"Known trackers: {', '.join(known)}; or none."
        )
    # Asked first: some trackers' callbacks complain once more when a half-made one is dropped.
    available = get_available_reporting_integrations()  # type: ignore[no-untyped-call]
    if name != "flyte" and name not in available:
        extra = "'codi[tensorboard]'" if name == "tensorboard" else name
        raise TrainingError(
            f"training.report_to names '{name}', which is not installed here. Install it (pip install "
            f"{extra}), name another, or leave it out (training.report_to=none)."
        )


def check_arguments(args: TrainingArguments, method: Method) -> None:
    """Raise TrainingError for what the Trainer can do and this package cannot."""
    if args.gradient_checkpointing:
        raise TrainingError(CHECKPOINTING_REFUSED)
    if args.auto_find_batch_size and method.stage_at(0, 1000) != method.stage_at(10**9, 1000):
        raise TrainingError(
            f"training.auto_find_batch_size was asked for, but the stages of {method.name} are counted in "
            "batches: after a smaller one was found they would begin elsewhere. Leave it out, and set "
            "training.per_device_train_batch_size (with gradient_accumulation_steps) to what fits."
        )
