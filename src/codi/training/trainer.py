"""A small subclass of transformers' Trainer: resume, mixed precision, trackers and launchers come with it.

One wrapped forward per micro-step holds the question pass, teacher, thoughts, student and losses, and returns
scalars: under DDP and FSDP gradients are only synchronised through the wrapped forward, and mixed precision
copies whatever tensors it returns.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.data_loader import prepare_data_loader
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import (
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainingArguments,
)
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME
from transformers.trainer_utils import rotate_checkpoints

from codi import processes
from codi.data.collation import row_alone
from codi.errors import CheckpointError, TrainingError
from codi.generation.latent_reasoner import LatentReasoner
from codi.methods.method import Trained
from codi.modeling import checkpoint
from codi.storage import keep_through_power_cut
from codi.training import graphs, sharding
from codi.training.batches import LengthGroupedBatches
from codi.training.callbacks import KnownBest, LastStep, LossBar
from codi.training.collator import Collator, OnHost, ShapesByStage, fills_in
from codi.training.curriculum import Clock, Curriculum, StagedRows, stage_began
from codi.training.loss_watch import LossWatch
from codi.training.muon import MuonWithAdamW
from codi.training.preparation import PreparedData
from codi.training.rehearsal import check_arguments
from codi.training.resuming import (
    COMPLETE,
    Best,
    Mark,
    accuracies,
    best_at_hand,
    checkpoint_to_resume,
    read_state,
)
from codi.training.shares import Share


class MethodLoss(nn.Module):
    """The wrapped forward: batch in, scalar losses out, by the method of the stage that the step is in."""

    def __init__(self, reasoner: LatentReasoner) -> None:
        super().__init__()
        self.model, self.reasoner = reasoner.model, reasoner

    def forward(
        self, batch: dict[str, Tensor], divisors: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """See `Method.loss`."""
        with self.model.whole_weights():
            return self.reasoner.method.loss(self.model, batch, divisors)


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
        share: Share | None = None,
        record: str = "auto",
    ) -> None:
        """share: what this process does of a step; `args` say the same. None for a process alone. record:
        `training.graphs`. Raises TrainingError where it is `on` and
        they cannot."""
        check_arguments(args, reasoner.method)
        self.reasoner, self.data, self.validate = reasoner, data, validate
        self.share = share or Share(args.train_batch_size, args.gradient_accumulation_steps)
        self.clock = Clock(
            epoch_steps=-(-len(data.lengths) // self.share.batch), update_steps=self.share.accumulation
        )
        self.rows_mark = ""
        self.term_sums: Tensor | None = None
        """[terms] Since the last log, on the device: read when they are logged."""
        self.term_steps = 0
        self.losses = LossWatch()
        self.say: Callable[[str], None] = print
        self.began = time.perf_counter()
        self.first_epoch = 0
        made = None
        if muon:
            made = MuonWithAdamW(
                reasoner.model, args.learning_rate, args.weight_decay, (args.adam_beta1, args.adam_beta2)
            )
        rows = StagedRows(data, reasoner.method, args.seed, self.clock)
        why_not = graphs.why_not(args, reasoner.model.config, reasoner.model.own_masks)
        graphs.check(record, why_not)
        self.why_computed = "" if record == "off" else why_not
        """Why steps are no CUDA graphs; empty where they are, or were not to be."""
        self.recorded: graphs.RecordedSteps | None = None
        buckets = data.width_buckets
        if record != "off" and not why_not:
            self.recorded = graphs.RecordedSteps(
                {name: weight for name, weight in reasoner.model.named_parameters() if weight.requires_grad},
                args.device, self.share.own_batch, 1e-2 if args.bf16 else 1e-4, lambda line: self.say(line),
            )  # fmt: skip
            buckets = buckets or graphs.BUCKETS
        self.shapes: ShapesByStage | None = None
        """Of batches, where they are few."""
        if buckets is not None:
            epoch = self._batches(args, Share(self.share.batch))
            self.shapes = ShapesByStage(rows, [[row for row, _ in batch] for batch in epoch], buckets)
        super().__init__(
            optimizers=(made, None),  # the Trainer makes what is None
            model=MethodLoss(reasoner),
            args=args,
            train_dataset=rows,
            eval_dataset=data.validation or None,  # asked by `validate`, never collated
            data_collator=Collator(reasoner.text.pad_id, self.shapes),
        )
        sharding.check_plugin(getattr(self.accelerator.state, "fsdp_plugin", None), made)
        self.add_callback(LastStep)
        self.curriculum = Curriculum(reasoner, self.clock, self._trained_on)
        self.add_callback(self.curriculum)
        self.remove_callback(ProgressCallback)
        self.remove_callback(PrinterCallback)  # `disable_tqdm` means silence; training.json holds every value
        if not args.disable_tqdm:
            self.add_callback(LossBar)

    def run(self, last: Path | None, say: Callable[[str], None] = print) -> float:
        """Train, on from a checkpoint if given, and load the best weights. Returns the run's seconds.

        Says when the best checkpoint so far is not in the run's folder.
        """
        self.began, self.say = time.perf_counter(), say
        if last is None:
            self.train()
            return time.perf_counter() - self.began
        self.began -= Mark.of(last).seconds
        state = read_state(last)
        self.first_epoch = state.global_step // self.clock.epoch_updates
        best = Best()
        if self.args.load_best_model_at_end:
            since = stage_began(self.reasoner.method, self.clock, state.global_step)
            best = best_at_hand(state, last.parent, since, say)
        if state.global_step < state.max_steps:
            self.add_callback(KnownBest(best))
            self.train(resume_from_checkpoint=str(last))
        else:  # killed after its last step; the Trainer would take one more
            best.into(state)
            self.state = state
            last_step = self.clock.micro_batch(state.global_step - 1)
            stage = self.reasoner.method.stage_at(last_step, self.clock.epoch_steps)
            self.reasoner.method = self.reasoner.method.at_stage(stage)
            self._load_from_checkpoint(str(last))
            self._load_best_model()
        return time.perf_counter() - self.began

    @property
    def accuracy(self) -> float | None:
        """Validation accuracy of the weights that are held at the end: the chosen checkpoint's, or the last
        step's where none was chosen; None where they were not measured."""
        if self.best_checkpoint is not None:
            return self.state.best_metric
        return accuracies(self.state).get(self.state.global_step)

    @property
    def best_checkpoint(self) -> str | None:
        """Name of the checkpoint whose weights are held at the end; None for those of the last step."""
        chosen = self.state.best_model_checkpoint if self.args.load_best_model_at_end else None
        return Path(chosen).name if chosen else None

    @property
    def planned_epochs(self) -> float:
        """Epochs until the run ends, by whichever setting ends it."""
        if self.args.max_steps > 0:
            return self.args.max_steps / self.clock.epoch_updates
        return float(self.args.num_train_epochs)

    def notes(self) -> list[str]:
        """What a person should know of how batches are shaped and steps are computed."""
        shapes = [] if self.shapes is None else [self.shapes.first().describe()]
        return [*shapes, *graphs.notes(self.recorded is not None, self.why_computed, self.args.device)]

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Batches in an order fixed by seed and epoch, of similar lengths unless the recipe mixes them."""
        # A process alone may have been told to try smaller batches (auto_find_batch_size).
        share = self.share if self.share.processes > 1 else Share(self._train_batch_size)
        batches = self._batches(self.args, share)
        batches.set_epoch(self.first_epoch)
        loader: DataLoader[Any] = DataLoader(
            cast("StagedRows", self.train_dataset),
            batch_sampler=batches,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory and torch.cuda.is_available(),
        )
        if self.share.processes > 1:  # each has its share already; accelerate would deal them out again
            return prepare_data_loader(  # type: ignore[no-any-return]
                loader,
                self.accelerator.device,
                num_processes=1,
                process_index=0,
                put_on_device=True,
                non_blocking=self.accelerator.non_blocking,
            )
        return self.accelerator.prepare(loader)  # type: ignore[no-any-return]

    def _batches(self, args: TrainingArguments, share: Share) -> LengthGroupedBatches:
        seed = args.seed if args.data_seed is None else args.data_seed
        return LengthGroupedBatches(self.data.lengths, share.batch, seed, self.data.group_by_length, share)

    def _trained_on(self, update: int) -> Iterator[Trained]:
        rows = cast("StagedRows", self.train_dataset)
        return rows.trained_on(self._batches(self.args, Share(self.share.batch)), update)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        """Each term's divisor, summed over the accumulated micro-batches and averaged over processes.

        With it 1 x 4 and 4 x 1 (batch x accumulation) give the same gradient, and gradients averaged over
        processes are those of the whole batch. One thing cannot: CODI's division by the teacher's standard
        deviation, which is taken over what is in memory at once, the micro-batch.
        """
        each = [self.reasoner.method.divisors(batch) for batch in batch_samples]
        for batch, counted in zip(batch_samples, each, strict=True):
            if fills_in(batch["number"]):
                counted.update({name: 0 * divisor for name, divisor in counted.items()})
        totals = (
            {name: torch.stack([d[name] for d in each]).sum().to(device) for name in each[0]} if each else {}
        )
        processes = self.accelerator.num_processes
        if processes > 1:
            gather: Any = self.accelerator.gather
            totals = {name: gather(total).sum() / processes for name, total in totals.items()}
        return totals

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        """The Trainer's, or a recorded one; a loss that is not finite stops the run, before the optimiser has
        used it."""
        if self.recorded is None or self.recorded.stopped:
            loss = super().training_step(model, inputs, num_items_in_batch)
        else:
            loss = self._recorded_step(self.recorded, model, inputs, num_items_in_batch)
        self.losses.check()  # backward is on its way: while it runs, what is waited for is long there
        return loss

    def _recorded_step(
        self, recorded: graphs.RecordedSteps, model: nn.Module, inputs: dict[str, Any], divisors: Any
    ) -> Tensor:
        """What the Trainer's does for one process, with loss and backward in one."""
        model.train()
        learns = getattr(self.optimizer, "train", None)  # of optimisers without a schedule
        if callable(learns):
            learns()
        inputs = self._prepare_inputs(inputs)
        host = OnHost.taken_from(inputs)
        computation = cast("StagedRows", self.train_dataset).method.computed_at(host.stage)
        terms = recorded.step(model, inputs, divisors, host.whole, computation, self.curriculum.fresh)
        return self._noted(terms, inputs, host.numbers)

    def compute_loss(  # type: ignore[override]
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: dict[str, Tensor] | None = None,
    ) -> Tensor:
        """The method's loss, whose terms are added up."""
        host = OnHost.taken_from(inputs)
        terms = model(inputs, num_items_in_batch)
        if fills_in(host.numbers):
            terms = {name: 0 * term for name, term in terms.items()}
        self._noted(terms, inputs, host.numbers)
        return terms["loss"]  # type: ignore[no-any-return]

    def _noted(self, terms: dict[str, Tensor], inputs: dict[str, Tensor], numbers: list[int]) -> Tensor:
        """Add the terms up and have the loss looked at. Returns it, in a tensor of its own."""
        if self.term_sums is None:  # first since the last log, or since a resume
            self.term_steps = self.state.global_step
        names = self.reasoner.method.terms
        values = torch.stack([terms[name].detach().float() for name in ("loss", *names)])
        self.term_sums = values[1:] if self.term_sums is None else self.term_sums + values[1:]
        self.losses.note(values, lambda found: self._not_finite(found, inputs, numbers))
        return values[0]

    @torch.no_grad()
    def _not_finite(self, found: list[float], inputs: dict[str, Tensor], numbers: list[int]) -> str:
        """The message for a loss that is not finite: step, terms, and the rows that cause it."""
        alone = [row_alone(inputs, i) for i in range(len(numbers))]
        module = self.accelerator.unwrap_model(self.model)
        if self.is_fsdp_enabled:  # a sharded model answers to all processes at once only
            alone = []
        bad = [i for i, row in enumerate(alone) if not torch.isfinite(module(row)["loss"])]
        named = bad or range(len(numbers))
        ids = [self.data.ids[int(numbers[i])] for i in named]
        named_terms = zip(("loss", *self.reasoner.method.terms), found, strict=True)
        values = ", ".join(f"{name} {value:.4g}" for name, value in named_terms)
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
            sums = [] if self.term_sums is None else self.term_sums.tolist()
            everyones = processes.everyones(sums)
            for name, each in zip(self.reasoner.method.terms, zip(*everyones, strict=True), strict=False):
                logs[name] = sum(each) / len(everyones) / steps
            self.term_sums = None
        super().log(logs, start_time)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Accuracy on the validation questions, by generation. Lacking memory, recorded steps give theirs."""
        try:
            accuracy: float | None = self._validated()
        except torch.OutOfMemoryError:
            accuracy = None
            if self.recorded is None or not self.recorded.let_go():
                raise
        # Only here is the error gone, and with it what it held.
        metrics = {"eval_accuracy": self._validated() if accuracy is None else accuracy}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _validated(self) -> float:
        assert self.validate is not None
        with sharding.answering(self.model), torch.no_grad(), self.reasoner.model.whole_weights():
            return self.validate(self.reasoner)

    def _evaluate(
        self, trial: Any, ignore_keys_for_eval: Any, skip_scheduler: bool = False
    ) -> dict[str, float]:
        return self.evaluate()

    def _save_training_parts(self, folder: Path) -> None:
        """What only training needs, for resuming. All processes call it; process 0 writes."""
        with sharding.writing(self.model):
            if self.args.should_save:
                checkpoint.save_training_parts(folder, self.reasoner.model)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the reasoner. All processes call it; process 0 writes."""
        with sharding.writing(self.model):
            if self.args.should_save:
                self.reasoner.save_pretrained(Path(str(output_dir or self.args.output_dir)))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_fsdp_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        sharding.save_optimizer(self.optimizer, Path(output_dir) / OPTIMIZER_NAME)
        if self.args.should_save and self.lr_scheduler is not None:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if not self.is_fsdp_enabled or checkpoint is None or self.lr_scheduler is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        sharding.load_optimizer(self.optimizer, Path(checkpoint) / OPTIMIZER_NAME)
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / SCHEDULER_NAME, weights_only=True))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """As the Trainer's, but a folder that could not be written whole is removed again.

        Older checkpoints are deleted only once this one is marked complete: a kill leaves one to resume from.
        """
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        self.check_weights()
        if self.args.should_save:  # a damaged one of that step may be there
            (folder / COMPLETE).unlink(missing_ok=True)
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
            self._save_training_parts(folder)
            processes.everyones(None)  # complete once all have written theirs
            if self.args.should_save:
                keep_through_power_cut(folder)
                mark = Mark(time.perf_counter() - self.began, self.share.processes, self.rows_mark)
                (folder / COMPLETE).write_text(mark.text(), encoding="utf-8")
                keep_through_power_cut(folder, COMPLETE)
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
        parts = ((name, sharding.own_part(weight)) for name, weight in trained)
        name = next((name for name, part in parts if not torch.isfinite(part).all()), None)
        name = next((name for name in processes.everyones(name) if name is not None), None)
        if name is None:
            return
        raise TrainingError(
            f"After step {self.state.global_step} the weight '{name}' is not finite, so it is not saved. "
            f"{self._kept()} Lower the learning rate or clip harder (max_grad_norm)."
        )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        with sharding.loading(self.model):
            checkpoint.load_weights(Path(resume_from_checkpoint), self.reasoner.model)
            checkpoint.load_training_parts(Path(resume_from_checkpoint), self.reasoner.model)

    def _load_best_model(self) -> None:
        if self.state.best_model_checkpoint:
            self._load_from_checkpoint(self.state.best_model_checkpoint)

