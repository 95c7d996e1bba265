"""What the training loop calls between its steps: the last step's validation, the best so far, the bar."""

from __future__ import annotations

from typing import Any

from transformers import ProgressCallback, TrainerCallback
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from codi.training.resuming import Best


class LastStep(TrainerCallback):
    """Validates and saves after the last step too, where its number is no multiple of `eval_steps`."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ask for it on top of what the schedule asks for."""
        if state.global_step >= state.max_steps and args.eval_strategy == IntervalStrategy.STEPS:
            control.should_evaluate = True
            control.should_save = args.save_strategy != SaveStrategy.NO


class KnownBest(TrainerCallback):
    """Gives a run that goes on the best checkpoint so far, as it was found in the run's own folder."""

    def __init__(self, best: Best) -> None:
        self.best = best

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """In place of what the checkpoint recorded: a path on the machine and from the folder of then."""
        self.best.into(state)


class LossBar(ProgressCallback):
    """One progress bar with the latest loss terms behind it."""

    training_bar: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.latest: dict[str, str] = {}

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Show the terms and the validation accuracy on the bar instead of printing lines."""
        if state.is_world_process_zero and self.training_bar is not None and logs:
            shown = ("loss", "student", "distillation", "teacher", "eval_accuracy")
            self.latest |= {k.removeprefix("eval_"): f"{logs[k]:.3f}" for k in shown if k in logs}
            self.training_bar.set_postfix(self.latest)
