"""One training run: configuration in; checkpoints, curves and the account of the data out.

OUTPUT/
  run.yaml            the effective configuration
  data.json           what was read, what was left out of it, and why; what the method reads, in numbers
  data.md             the same numbers as a table, and the first examples as the method reads them
  training.json       losses, validation accuracy, the account of the data, versions
  checkpoint-N/       for resuming
  codi.json, ...      the best checkpoint, loadable with LatentReasoner.from_pretrained(OUTPUT)
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml
from transformers import TrainerCallback, TrainingArguments, set_seed

from codi import processes
from codi.data.example import Example
from codi.errors import TrainingError, UsageError
from codi.evaluation.scorers import AUTO, Scorer
from codi.generation.latent_reasoner import LatentReasoner
from codi.methods.method import build_method
from codi.modeling.checkpoint import check_base, check_vocabulary, read_configuration
from codi.modeling.configuration import ModelConfig
from codi.modeling.precision import check_computed_type
from codi.storage import write_whole
from codi.training import graphs
from codi.training.account import TrainingResult, is_finished, result_of, versions, write_account
from codi.training.interruption import kept_on_interrupt
from codi.training.preparation import PreparedData, prepare
from codi.training.recipes import Recipe, RunConfig, Settings, load_recipe
from codi.training.rehearsal import check_arguments, one_message, rehearse
from codi.training.resuming import (
    COMPLETE,
    Mark,
    checkpoints,
    holds_run,
    refuse_changed_settings,
    whole_checkpoint,
)
from codi.training.shares import Share
from codi.training.starting import build_reasoner, start_from
from codi.training.trainer import CodiTrainer

RUN_FILES = (
    "run.yaml", "data.json", "data.md", "training.json", "codi.json", "config.json", "generation_config.json",
    "adapter_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "chat_template.jinja", "README.md",
)  # fmt: skip
"""What a run writes beside its checkpoint folders and weights."""
DEFAULTS: dict[str, Any] = {
    "seed": 11, "logging_steps": 10, "save_total_limit": 2, "report_to": "none",
    "accelerator_config": {"non_blocking": True},  # a batch is copied to a GPU while that computes
}  # fmt: skip


def train(
    recipe: Recipe,
    output: str | Path,
    settings: Settings | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    say: Callable[[str], None] = print,
    callbacks: Sequence[TrainerCallback] = (),
) -> TrainingResult:
    """Train a recipe and leave the best checkpoint in `output`: `codi train`.

        train("word-problems", "runs/mine", {"data.train": "mine.jsonl", "training.max_steps": 500})

    Args:
        recipe: the name of a recipe, the path of a YAML file, its values by section, or a `RunConfig`.
        output: folder of the run.
        settings: over the recipe's values, by their dotted keys; or texts as typed on the command line.
        resume, overwrite: go on with the run in the folder, or delete it first.
        say: called with every line that the command would print.
        callbacks: of transformers' Trainer.

    Under torchrun every process calls it, and process 0 speaks and writes for all.

    Raises:
        RecipeError: an unknown recipe, key, or value that makes no sense.
        DataError: data that cannot be used.
        TrainingError: `output` holds a run and neither `resume` nor `overwrite` is given, or training cannot
            start or must stop.
        UsageError: both were given, or `output` is a file.
    """
    config, output = load_recipe(recipe, settings), Path(output)
    if resume and overwrite:
        raise UsageError("--resume goes on with a run and --overwrite deletes it. Give one of them.")
    if output.exists() and not output.is_dir():
        raise UsageError(f"The output '{output}' is a file. Give a folder.")
    with kept_on_interrupt(output):
        return _train(config, output, resume, overwrite, say, callbacks)


def _train(
    config: RunConfig,
    output: Path,
    resume: bool,
    overwrite: bool,
    say: Callable[[str], None],
    callbacks: Sequence[TrainerCallback],
) -> TrainingResult:
    share = _share(config.training)
    processes.join(float(config.training.get("ddp_timeout", 1800)))
    if not processes.is_first():
        say = _say_nothing
    method = build_method(config.method)
    with ExitStack() as afterwards:
        with processes.together():  # what can be refused before anything is loaded is refused here
            settings = _checked_settings(config, output, share)
            last = _checkpoint_of(config, output, resume, overwrite, say, settings)
        if resume and last is None and is_finished(output):
            say(f"The run in '{output}' is finished and keeps no checkpoints: nothing is left to do.")
            return result_of(output)
        if resume and last is None:
            say(f"'{output}' holds no checkpoint to go on from: the run begins at its first step.")
        afterwards.callback(method.release)
        with processes.together():
            set_seed(settings.seed)  # before any weight is made
            reasoner = build_reasoner(config)
            method.check_start(reasoner.model, reasoner.text)
            if last is not None:
                _require_same_model(last, reasoner)
        data = processes.first_alone(lambda: prepare(config.data, reasoner, config.scorer))
        _require_same(config, data, last)
        for report in data.reports:
            say(report.describe())
        seen = data.overview.describe()
        say(seen)
        if data.validation and data.scorer is not None and config.scorer == AUTO:
            say(f"Validation answers are read by scorer '{data.scorer.name}', chosen from the answers.")
        trainer = _trainer(config, reasoner, settings, data, share)
        if last is not None:
            _require_same_rows(last, trainer.rows_mark, output)
        started = config.model.base is not None or config.start is not None
        notes = method.check_run(config.model, started, trainer.planned_epochs, trainer.clock.epoch_steps)
        account = [report.as_dict() for report in data.reports]
        with processes.together():
            if processes.is_first():  # nothing of an earlier run is lost to a mistake found above
                _prepare_output(output, resume, overwrite)
                write_whole(output / "run.yaml", yaml.safe_dump(config.as_dict(), sort_keys=False))
                read = {"reports": account, "overview": data.overview.as_dict()}
                write_whole(output / "data.json", json.dumps(read, indent=2) + "\n")
                write_whole(output / "data.md", seen + "\n")
        for note in (*data.notes, *notes, *trainer.notes()):
            say(note)
        for callback in callbacks:
            trainer.add_callback(callback)
        trainable = sum(p.numel() for p in reasoner.model.parameters() if p.requires_grad)
        say(
            f"{method.name}: {trainable:,} trainable weights, {len(data.lengths):,} examples, "
            f"device {trainer.args.device}{_in_words(share)}"
        )
        if share.processes > 1:
            set_seed(settings.seed + share.number)  # else all would drop the same units out
        with processes.speaking_for_itself():
            seconds = trainer.run(last, say)
        trainer.check_weights()
        trainer.save_model(str(output))
        if trainer.is_world_process_zero():
            write_account(output, trainer, data, seconds)
        processes.everyones(None)  # the output is there before any of them returns
        return TrainingResult(output, trainer.state.global_step, seconds, trainer.accuracy)


def _checked_settings(config: RunConfig, output: Path, share: Share) -> TrainingArguments:
    """The Trainer's arguments, tried out. Raises TrainingError when they cannot be used here, RecipeError
    when the model's types do not go with them."""
    validating = config.data.validation is not None and config.data.validation_limit != 0
    settings = _arguments({**DEFAULTS, **config.training}, output, validating, share)
    check_arguments(settings, build_method(config.method))
    check_computed_type(config.model, settings.bf16, settings.fp16, validating)
    graphs.check(config.training.get("graphs", "auto"), graphs.why_not(settings, config.model))
    rehearse(settings, own_optimizer=config.optimizer == "muon")
    return settings


def _trainer(
    config: RunConfig, reasoner: LatentReasoner, settings: TrainingArguments, data: PreparedData, share: Share
) -> CodiTrainer:
    validate = None
    if data.validation and data.scorer is not None:
        validate = _validator(data.validation, data.scorer)
    with one_message("Training cannot be set up with these settings"):
        trainer = CodiTrainer(
            reasoner, settings, data, validate, muon=config.optimizer == "muon", share=share,
            record=config.training.get("graphs", "auto"),
        )  # fmt: skip
    trainer.rows_mark = mark_of_rows(data)
    return trainer


def _share(arguments: dict[str, Any]) -> Share:
    """What this process does of a step. Raises TrainingError when the processes do not divide it."""
    return Share.of_this_process(
        int(arguments.get("per_device_train_batch_size", TrainingArguments.per_device_train_batch_size)),
        int(arguments.get("gradient_accumulation_steps", 1)),
    )


def _in_words(share: Share) -> str:
    if share.processes == 1:
        return ""
    return (
        f", {share.processes} processes with {share.own_batch} x {share.own_accumulation} rows each "
        f"({share.batch * share.accumulation} a step)"
    )


def _say_nothing(_: str) -> None:
    """In place of printing, where process 0 prints for all."""


def _require_same(config: RunConfig, data: PreparedData, last: Path | None) -> None:
    """Raise UsageError when the processes would train on different things."""
    processes.require_same(
        {
            "settings": config.as_dict(),
            "training data": mark_of_rows(data),
            "validation questions": [(e.question, e.answer) for e in data.validation],
            "checkpoints in the output folder": None if last is None else last.name,
        },
        "Every process must read the same files: put data and output where all machines see them, "
        "and start the same command everywhere.",
    )


def mark_of_rows(data: PreparedData) -> str:
    """A short identity of the training rows: all ids and lengths, and the tokens of a thousand."""
    sample = range(0, len(data.ids), max(1, len(data.ids) // 1000))
    values = [data.ids, data.lengths, [data.encoded[number] for number in sample]]
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _require_same_rows(last: Path, rows: str, output: Path) -> None:
    """Raise TrainingError when a run would go on with other rows than it began with."""
    before = Mark.of(last).rows
    if before and before != rows:
        raise TrainingError(
            f"The run in '{output}' began with other training rows: the data (or how this version of codi "
            "reads it) has changed since, and going on would give another model. Put the data back, or start "
            "anew with --overwrite."
        )


def _require_same_model(last: Path, reasoner: LatentReasoner) -> None:
    """Raise CheckpointError when a LoRA run would go on over another base, or with other token ids."""
    saved = read_configuration(last)
    if reasoner.model.config.lora is not None:
        check_base(last, ModelConfig.from_dict(saved["model"]), reasoner.model.config)
    check_vocabulary(last, saved["vocabulary"], reasoner.text.fingerprint())


def _checkpoint_of(
    config: RunConfig,
    output: Path,
    resume: bool,
    overwrite: bool,
    say: Callable[[str], None],
    settings: TrainingArguments,
) -> Path | None:
    """The checkpoint to resume from, if any; refuses a folder that holds another run."""
    if holds_run(output) and not (resume or overwrite):
        raise TrainingError(
            f"'{output}' already holds a run. Use --resume to go on with it, or --overwrite to start anew."
        )
    if not resume:
        return None
    refuse_changed_settings(config, output)
    return whole_checkpoint(output, say, processes.count(), scaled=settings.fp16)


def _prepare_output(output: Path, resume: bool, overwrite: bool) -> None:
    """Make the folder: empty where a run is overwritten, without half-written checkpoints on resuming."""
    if overwrite and not resume and holds_run(output):
        _remove_run(output)
    output.mkdir(parents=True, exist_ok=True)
    if not resume:
        return
    for folder in checkpoints(output):
        if not (folder / COMPLETE).exists():
            shutil.rmtree(folder)  # cut off while being written
    for scratch in output.glob(".*.saving"):
        shutil.rmtree(scratch) if scratch.is_dir() else scratch.unlink()


def _remove_run(output: Path) -> None:
    """Remove what a run writes, and nothing else that someone keeps in the folder."""
    for pattern in ("checkpoint-*", ".checkpoint-*.saving", "tensorboard", "runs"):
        for folder in output.glob(pattern):
            shutil.rmtree(folder)
    for pattern in ("*.safetensors", "*.safetensors.index.json", *RUN_FILES):
        for file in output.glob(pattern):
            file.unlink()


def _arguments(
    values: dict[str, Any], output: Path, validating: bool, share: Share | None = None
) -> TrainingArguments:
    values = {name: value for name, value in values.items() if name != "graphs"}  # not the Trainer's
    if share is not None and share.processes > 1:
        values["per_device_train_batch_size"] = share.own_batch
        values["gradient_accumulation_steps"] = share.own_accumulation
    if validating and values.get("eval_strategy") != "no":
        values.setdefault("eval_strategy", "epoch")
        values.setdefault("save_strategy", values["eval_strategy"])
        if "eval_steps" in values:
            values.setdefault("save_steps", values["eval_steps"])
        values |= {  # without checkpoints there is none to choose: the last step's weights are kept
            "load_best_model_at_end": values["save_strategy"] != "no",
            "metric_for_best_model": "eval_accuracy",
            "greater_is_better": True,
        }
    else:
        values["eval_strategy"] = "no"
        values.setdefault("save_strategy", "epoch")
    # every loss is checked for being finite, so the Trainer need not hide such values
    values |= {"output_dir": str(output), "logging_nan_inf_filter": False, "remove_unused_columns": False}
    if "tensorboard" in (values.get("report_to") or ()):  # a name or a list of names
        os.environ["TENSORBOARD_LOGGING_DIR"] = str(output / "tensorboard")
    with one_message("The training settings do not work together"):
        arguments = TrainingArguments(**values)
    if arguments.n_gpu > 1:  # one process uses one GPU; the Trainer would take all, through DataParallel
        arguments._n_gpu = 1
    return arguments


def _validator(examples: list[Example], scorer: Scorer) -> Callable[[LatentReasoner], float]:
    def accuracy(reasoner: LatentReasoner) -> float:
        mine = examples[processes.number() :: processes.count()]
        answers = reasoner.answer([example.question for example in mine])
        right = sum(scorer.correct(a.text, e.answer) for a, e in zip(answers, mine, strict=True))
        return sum(processes.everyones(right)) / len(examples)

    return accuracy


__all__ = ["TrainingResult", "build_reasoner", "start_from", "train", "versions"]
