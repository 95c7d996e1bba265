"""A small subclass of transformers' Trainer: resume, mixed precision, trackers and launchers come with it.

One wrapped forward per micro-step holds the question pass, teacher, thoughts, student and losses, and returns
scalars: under DDP and FSDP gradients are only synchronised through the wrapped forward, and mixed precision
copies whatever tensors it returns.
"""

from __future__ import annotations

import math
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import (
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import IntervalStrategy, rotate_checkpoints

from codi.data.collation import collate
from codi.errors import CheckpointError, TrainingError
from codi.generation.latent_reasoner import LatentReasoner
from codi.methods.method import Method
from codi.modeling import checkpoint
from codi.modeling.model import CHECKPOINTING_REFUSED, ThoughtModel
from codi.training.batches import LengthGroupedBatches
from codi.training.curriculum import Clock, Curriculum
from codi.training.muon import MuonWithAdamW
from codi.training.preparation import PreparedData

COMPLETE = "complete"
"""Marker file with the seconds trained so far. A checkpoint folder without it was cut off while being
written, and is not resumed from."""


class MethodLoss(nn.Module):
    """The wrapped forward: batch in, scalar losses out."""

    def __init__(self, model: ThoughtModel, method: Method) -> None:
        super().__init__()
        self.model, self.method = model, method

    def forward(
        self, batch: dict[str, Tensor], divisors: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """See `Method.loss`."""
        return self.method.loss(self.model, batch, divisors)


class CodiTrainer(Trainer):
    """Trains a reasoner. `validate`, accuracy on the validation questions, chooses the best checkpoint."""

    # Our divisors already count the whole accumulation; the Trainer would divide by it again.
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        reasoner: LatentReasoner,
        args: TrainingArguments,
        data: PreparedData,
        validate: Callable[[LatentReasoner], float] | None,
        muon: bool = False,
    ) -> None:
        if args.gradient_checkpointing:
            raise TrainingError(CHECKPOINTING_REFUSED)
        self.reasoner, self.data, self.validate = reasoner, data, validate
        self.term_sums: dict[str, float] = {}
        self.term_steps = 0
        self.began = time.perf_counter()
        self.first_epoch = 0
        made = None
        if muon:
            made = MuonWithAdamW(
                reasoner.model, args.learning_rate, args.weight_decay, (args.adam_beta1, args.adam_beta2)
            )
        super().__init__(
            optimizers=(made, None),  # the Trainer makes what is None
            model=MethodLoss(reasoner.model, reasoner.method),
            args=args,
            train_dataset=_Staged(
                data, reasoner.method, args.seed, -(-len(data.lengths) // args.train_batch_size)
            ),
            eval_dataset=data.validation or None,  # asked by `validate`, never collated
            data_collator=self._collate,
        )
        self.add_callback(LastStep)
        self.clock = Clock(
            epoch_steps=-(-len(data.lengths) // self._train_batch_size),
            update_steps=args.gradient_accumulation_steps * self.accelerator.num_processes,
        )
        self.add_callback(Curriculum(reasoner, self.clock))
        self.remove_callback(ProgressCallback)
        self.remove_callback(PrinterCallback)  # `disable_tqdm` means silence; training.json holds every value
        if not args.disable_tqdm:
            self.add_callback(LossBar)

    def run(self, last: Path | None) -> float:
        """Train, on from a checkpoint if given, and load the best weights. Returns the run's seconds."""
        self.began = time.perf_counter()
        if last is None:
            self.train()
            return time.perf_counter() - self.began
        self.began -= float((last / COMPLETE).read_text(encoding="utf-8") or 0)
        state = TrainerState.load_from_json(str(last / TRAINER_STATE_NAME))
        self.first_epoch = state.global_step // self.clock.epoch_updates
        if state.global_step < state.max_steps:
            self.train(resume_from_checkpoint=str(last))
        else:  # killed after its last step; the Trainer would take one more
            self.state = state
            last_step = self.clock.micro_batch(state.global_step - 1)
            stage = self.reasoner.method.stage_at(last_step, self.clock.epoch_steps)
            self.reasoner.method = self.reasoner.method.at_stage(stage)
            self._load_from_checkpoint(str(last))
            self._load_best_model()
        return time.perf_counter() - self.began

    @property
    def planned_epochs(self) -> float:
        """Epochs until the run ends, by whichever setting ends it."""
        if self.args.max_steps > 0:
            return self.args.max_steps / self.clock.epoch_updates
        return float(self.args.num_train_epochs)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Batches in an order fixed by seed and epoch, of similar lengths unless the recipe mixes them."""
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        batches = LengthGroupedBatches(
            self.data.lengths, self._train_batch_size, seed, grouped=self.data.group_by_length
        )
        # On resuming with several processes the Trainer's wrappers keep the epoch from the batches.
        batches.set_epoch(self.first_epoch)
        loader: DataLoader[Any] = DataLoader(
            cast("_Staged", self.train_dataset),
            batch_sampler=batches,
            collate_fn=self._collate,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory and torch.cuda.is_available(),
        )
        return self.accelerator.prepare(loader)  # type: ignore[no-any-return]

    def _collate(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        return collate(rows, self.reasoner.text.pad_id)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        """Each term's divisor, summed over the accumulated micro-batches and averaged over processes.

        With it 1 x 4 and 4 x 1 (batch x accumulation) give the same gradient, and gradients averaged over
        processes are those of the whole batch. One thing cannot: CODI's division by the teacher's standard
        deviation, which is taken over what is in memory at once, the micro-batch.
        """
        each = [self.reasoner.method.divisors(batch) for batch in batch_samples]
        totals = (
            {name: torch.stack([d[name] for d in each]).sum().to(device) for name in each[0]} if each else {}
        )
        processes = self.accelerator.num_processes
        if processes > 1:
            gather: Any = self.accelerator.gather
            totals = {name: gather(total).sum() / processes for name, total in totals.items()}
        return totals

    def compute_loss(  # type: ignore[override]
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: dict[str, Tensor] | None = None,
    ) -> Tensor:
        """The method's loss; a loss that is not finite stops the run."""
        numbers = inputs.pop("number")
        if not self.term_sums:  # first since the last log, or since a resume
            self.term_steps = self.state.global_step
        terms = model(inputs, num_items_in_batch)
        loss: Tensor = terms["loss"]
        if not math.isfinite(loss.item()):
            raise TrainingError(self._not_finite(terms, inputs, numbers))
        for name in self.reasoner.method.terms:
            self.term_sums[name] = self.term_sums.get(name, 0.0) + terms[name].item()
        return loss

    @torch.no_grad()
    def _not_finite(self, terms: dict[str, Tensor], inputs: dict[str, Tensor], numbers: Tensor) -> str:
        """The message for a loss that is not finite: step, terms, and the rows that cause it."""
        alone = [{name: tensor[i : i + 1] for name, tensor in inputs.items()} for i in range(len(numbers))]
        module = self.accelerator.unwrap_model(self.model)
        bad = [i for i, row in enumerate(alone) if not torch.isfinite(module(row)["loss"])]
        named = bad or range(len(numbers))
        ids = [self.data.ids[int(numbers[i])] for i in named]
        values = ", ".join(
            f"{name} {terms[name].item():.4g}" for name in ("loss", *self.reasoner.method.terms)
        )
        which = "examples" if bad else "no single example alone, but the batch of"
        return (
            f"The loss is not finite at step {self.state.global_step + 1}: {values}. Caused by {which}: "
            f"{', '.join(ids[:16])}. {self._kept()} "
            "Lower the learning rate, clip harder (max_grad_norm), or look at those rows."
        )

    def _kept(self) -> str:
        last = checkpoint_to_resume(Path(str(self.args.output_dir)))
        if last is None:
            return "No checkpoint had been written yet."
        return f"The last good checkpoint is '{last.name}'."

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add each loss term's mean since the last log."""
        steps = self.state.global_step - self.term_steps
        if "loss" in logs and steps:
            for name, total in self.term_sums.items():
                logs[name] = total / steps
            self.term_sums = {}
        super().log(logs, start_time)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Accuracy on the validation questions, by generation."""
        assert self.validate is not None
        metrics = {"eval_accuracy": self.validate(self.reasoner)}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _evaluate(
        self, trial: Any, ignore_keys_for_eval: Any, skip_scheduler: bool = False
    ) -> dict[str, float]:
        return self.evaluate()

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if self.args.should_save:
            self.reasoner.save_pretrained(Path(str(output_dir or self.args.output_dir)))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """As the Trainer's, but a folder that could not be written whole is removed again.

        Older checkpoints are deleted only once this one is marked complete: a kill leaves one to resume from.
        """
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        self.check_weights()
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
            if self.args.should_save:
                seconds = time.perf_counter() - self.began
                (folder / COMPLETE).write_text(f"{seconds:.3f}\n", encoding="utf-8")
                rotate_checkpoints(
                    output_dir=str(folder.parent),
                    save_total_limit=limit,
                    best_model_checkpoint=self.state.best_model_checkpoint,
                    use_mtime=True,
                )
        except (OSError, RuntimeError, CheckpointError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            last = checkpoint_to_resume(folder.parent)
            raise TrainingError(
                f"The checkpoint of step {self.state.global_step} could not be written: {error}\n"
                f"Free some space and go on with --resume; "
                f"{f'{last.name} is still valid.' if last else 'no earlier checkpoint exists.'}"
            ) from error
        finally:
            self.args.save_total_limit = limit

    def check_weights(self) -> None:
        """Raise TrainingError when a trained weight is not finite: a finite loss can have such a gradient."""
        trained = ((n, p) for n, p in self.reasoner.model.named_parameters() if p.requires_grad)
        name = next((name for name, weight in trained if not torch.isfinite(weight).all()), None)
        if name is None:
            return
        raise TrainingError(
            f"After step {self.state.global_step} the weight '{name}' is not finite, so it is not saved. "
            f"{self._kept()} Lower the learning rate or clip harder (max_grad_norm)."
        )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        checkpoint.load_weights(Path(resume_from_checkpoint), self.reasoner.model)

    def _load_best_model(self) -> None:
        if self.state.best_model_checkpoint:
            checkpoint.load_weights(Path(self.state.best_model_checkpoint), self.reasoner.model)


class LastStep(TrainerCallback):
    """Validates and saves after the last step too, where its number is no multiple of `eval_steps`."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ask for it on top of what the schedule asks for."""
        if state.global_step >= state.max_steps and args.eval_strategy == IntervalStrategy.STEPS:
            control.should_evaluate = control.should_save = True


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


class _Staged(torch.utils.data.Dataset[dict[str, Any]]):
    """Encoded rows as they are at a micro-batch, with their number, so that an error can name the example."""

    def __init__(self, data: PreparedData, method: Method, seed: int, epoch_steps: int) -> None:
        self.data, self.method, self.seed, self.epoch_steps = data, method, seed, epoch_steps

    def __len__(self) -> int:
        return len(self.data.lengths)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        number, step = key
        stage = self.method.stage_at(step, self.epoch_steps)
        rng = random.Random(f"{self.seed}-{step}-{number}")
        return {**self.method.staged(self.data.encoded[number], stage, rng), "number": number}


def checkpoint_to_resume(output: Path) -> Path | None:
    """The newest complete checkpoint of a run, or None."""
    folders = [folder for folder in output.glob("checkpoint-*") if (folder / COMPLETE).exists()]
    return max(folders, key=lambda folder: int(folder.name.rpartition("-")[2]), default=None)
