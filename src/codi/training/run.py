"""One training run: configuration in; checkpoints, curves and the account of the data out.

OUTPUT/
  run.yaml            the effective configuration
  data.json           what was read, what was left out of it, and why
  training.json       losses, validation accuracy, the account of the data, versions
  checkpoint-N/       for resuming
  codi.json, ...      the best checkpoint, loadable with LatentReasoner.from_pretrained(OUTPUT)
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import TrainerCallback, TrainingArguments, set_seed

import codi
from codi import processes
from codi.data.example import Example
from codi.errors import CheckpointError, TrainingError
from codi.evaluation.scorers import AUTO, Scorer
from codi.generation.latent_reasoner import LatentReasoner
from codi.methods.method import build_method
from codi.modeling.checkpoint import check_base, load_tokenizer, load_weights, locate, read_configuration
from codi.modeling.configuration import ModelConfig
from codi.modeling.model import ThoughtModel
from codi.storage import write_whole
from codi.training.preparation import PreparedData, prepare
from codi.training.recipes import RunConfig
from codi.training.shares import Share
from codi.training.trainer import COMPLETE, CodiTrainer, checkpoint_to_resume

RUN_FILES = (
    "run.yaml", "data.json", "training.json", "codi.json", "config.json", "generation_config.json",
    "adapter_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "README.md",
)  # fmt: skip
"""What a run writes beside its checkpoint folders and weights."""
DEFAULTS: dict[str, Any] = {"seed": 11, "logging_steps": 10, "save_total_limit": 2, "report_to": "none"}


@dataclass(frozen=True)
class TrainingResult:
    """What a run gave. accuracy: best validation accuracy as a fraction, None without validation."""

    output: Path
    steps: int
    seconds: float
    accuracy: float | None


def train(
    config: RunConfig,
    output: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    say: Callable[[str], None] = print,
    callbacks: Sequence[TrainerCallback] = (),
) -> TrainingResult:
    """Train as configured and leave the best checkpoint in `output`.

    Under torchrun every process calls it, and process 0 speaks and writes for all.
    Raises TrainingError when `output` holds a run and neither `resume` nor `overwrite` is given.
    """
    arguments = {**DEFAULTS, **config.training}
    share = _share(arguments)
    processes.join(float(arguments.get("ddp_timeout", 1800)))
    if not processes.is_first():
        say = _say_nothing
    with processes.together():
        last = _checkpoint_of(config, output, resume, overwrite)
        set_seed(int(arguments["seed"]))  # before any weight is made
        reasoner = build_reasoner(config)
    data = processes.first_alone(lambda: prepare(config.data, reasoner, config.scorer))
    _require_same(config, data, last)
    for report in data.reports:
        say(report.describe())
    validating = bool(data.validation)
    if validating and data.scorer is not None and config.scorer == AUTO:
        say(f"Validation answers are read by scorer '{data.scorer.name}', chosen from the answers.")
    validate = _validator(data.validation, data.scorer) if validating and data.scorer is not None else None
    trainer = CodiTrainer(
        reasoner, _arguments(arguments, output, validating, share), data, validate,
        muon=config.optimizer == "muon", share=share,
    )  # fmt: skip
    started = config.model.base is not None or config.start is not None
    notes = reasoner.method.check_run(
        config.model, started, trainer.planned_epochs, trainer.clock.epoch_steps
    )
    account = [report.as_dict() for report in data.reports]
    with processes.together():
        if processes.is_first():  # nothing of an earlier run is lost to a mistake found above
            _prepare_output(output, resume, overwrite)
            write_whole(output / "run.yaml", yaml.safe_dump(config.as_dict(), sort_keys=False))
            write_whole(output / "data.json", json.dumps(account, indent=2) + "\n")
    for note in notes:
        say(note)
    for callback in callbacks:
        trainer.add_callback(callback)
    trainable = sum(p.numel() for p in reasoner.model.parameters() if p.requires_grad)
    say(
        f"{reasoner.method.name}: {trainable:,} trainable weights, {len(data.lengths):,} examples, "
        f"device {trainer.args.device}{_in_words(share)}"
    )
    if share.processes > 1:
        set_seed(int(arguments["seed"]) + share.number)  # else all would drop the same units out
    with processes.speaking_for_itself():
        seconds = trainer.run(last)
    best, steps = trainer.state.best_metric, trainer.state.global_step
    trainer.check_weights()
    trainer.save_model(str(output))
    if trainer.is_world_process_zero():
        summary = {
            "codi_version": codi.__version__,
            "versions": versions(),
            "device": str(trainer.args.device),
            "processes": share.processes,
            "steps": steps,
            "train_seconds": seconds,
            "validation_accuracy": best,
            "scorer": data.scorer.name if validating and data.scorer is not None else None,
            "best_checkpoint": Path(trainer.state.best_model_checkpoint or "").name or None,
            "data": account,
            "history": trainer.state.log_history,
        }
        write_whole(output / "training.json", json.dumps(summary, indent=2) + "\n")
    processes.everyones(None)  # the output is there before any of them returns
    return TrainingResult(output, steps, seconds, best)


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
    sample = range(0, len(data.ids), max(1, len(data.ids) // 1000))  # of the tokens; all ids and lengths
    processes.require_same(
        {
            "settings": config.as_dict(),
            "training data": [data.ids, data.lengths, [data.encoded[i] for i in sample]],
            "validation questions": [(e.question, e.answer) for e in data.validation],
            "checkpoints in the output folder": None if last is None else last.name,
        },
        "Every process must read the same files: put data and output where all machines see them, "
        "and start the same command everywhere.",
    )


def build_reasoner(config: RunConfig) -> LatentReasoner:
    """An untrained reasoner as configured; the caller has set the seed."""
    name = config.tokenizer or config.model.base
    if name is None:
        raise TrainingError(
            "A base built from a configuration needs a tokenizer: set 'tokenizer' in the recipe."
        )
    tokenizer = load_tokenizer(name)
    model = config.model
    if model.base_config is not None:
        if model.lora is not None:
            raise TrainingError(
                "LoRA was asked for over a base built from a configuration. Its random base would be stored "
                "nowhere: train all weights (model.lora=null), or give a saved base (model.base=...)."
            )
        special = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
        model = ModelConfig.from_dict(
            model.as_dict() | {"base_config": {"vocab_size": len(tokenizer), **special, **model.base_config}}
        )
    reasoner = LatentReasoner(ThoughtModel(model), build_method(config.method), tokenizer, config.text)
    has_thoughts = config.start is not None and start_from(config.start, reasoner)
    if config.model.thought_tokens_from is not None and not has_thoughts:
        reasoner.model.copy_thought_tokens(reasoner.text.single_token(config.model.thought_tokens_from))
    return reasoner


def start_from(checkpoint: str, reasoner: LatentReasoner) -> bool:
    """Give a reasoner the weights of a checkpoint, whatever method that was trained with.

    Returns whether projection and thought tokens came with them.

    The language model's (or adapter's) weights always; projection and thought tokens where the checkpoint's
    method thinks and both have them. Raises CheckpointError when the two do not fit together.
    """
    path = locate(checkpoint)
    saved = read_configuration(path)
    found, model = ModelConfig.from_dict(saved["model"]), reasoner.model
    if (found.lora is None) != (model.config.lora is None):
        raise CheckpointError(
            f"The run cannot start from '{checkpoint}': one of them uses LoRA and the other does not."
        )
    if found.base_vocabulary_rows != model.bot_id:
        raise CheckpointError(
            f"The run cannot start from '{checkpoint}': it has {found.base_vocabulary_rows} vocabulary rows, "
            f"the run's base {model.bot_id}."
        )
    if load_tokenizer(str(path)).get_vocab() != reasoner.tokenizer.get_vocab():
        raise CheckpointError(
            f"The run cannot start from '{checkpoint}': its tokenizer gives tokens other ids than the run's. "
            "Give the same one: tokenizer=" + str(path)
        )
    if found.lora is not None:
        check_base(path, found, model.config)
    thinks = build_method(saved["method"]).thinks and found.projection == model.config.projection
    load_weights(path, model, thoughts=thinks)
    return thinks


def _checkpoint_of(config: RunConfig, output: Path, resume: bool, overwrite: bool) -> Path | None:
    """The checkpoint to resume from, if any; refuses a folder that holds another run."""
    holds_run = _holds_run(output)
    if holds_run and not (resume or overwrite):
        raise TrainingError(
            f"'{output}' already holds a run. Use --resume to go on with it, or --overwrite to start anew."
        )
    last = checkpoint_to_resume(output) if resume else None
    if last is not None:
        refuse_changed_settings(config, output)
    return last


def refuse_changed_settings(config: RunConfig, output: Path) -> None:
    """Raise TrainingError when `output` holds a run that was started with other settings."""
    if not (output / "run.yaml").exists():
        return
    before = yaml.safe_load((output / "run.yaml").read_text(encoding="utf-8")) or {}
    now = yaml.safe_load(yaml.safe_dump(config.as_dict()))
    changed = sorted(key for key in now if now[key] != before.get(key))
    if changed:
        raise TrainingError(
            f"'{output}' was started with other settings in: {', '.join(changed)}. "
            "Go on with the same settings (see its run.yaml), or start anew with --overwrite."
        )


def _holds_run(output: Path) -> bool:
    return (output / "run.yaml").exists() or (output / "codi.json").exists()


def _prepare_output(output: Path, resume: bool, overwrite: bool) -> None:
    """Make the folder: empty where a run is overwritten, without half-written checkpoints on resuming."""
    if overwrite and not resume and _holds_run(output):
        _remove_run(output)
    output.mkdir(parents=True, exist_ok=True)
    for folder in output.glob("checkpoint-*"):
        if resume and not (folder / COMPLETE).exists():
            shutil.rmtree(folder)  # cut off while being written


def _remove_run(output: Path) -> None:
    """Remove what a run writes, and nothing else that someone keeps in the folder."""
    for pattern in ("checkpoint-*", "tensorboard", "runs"):
        for folder in output.glob(pattern):
            shutil.rmtree(folder)
    for pattern in ("*.safetensors", "*.safetensors.index.json", *RUN_FILES):
        for file in output.glob(pattern):
            file.unlink()


def _arguments(
    values: dict[str, Any], output: Path, validating: bool, share: Share | None = None
) -> TrainingArguments:
    values = dict(values)
    if share is not None and share.processes > 1:
        values["per_device_train_batch_size"] = share.own_batch
        values["gradient_accumulation_steps"] = share.own_accumulation
    if validating:
        values.setdefault("eval_strategy", "epoch")
        values.setdefault("save_strategy", values["eval_strategy"])
        if "eval_steps" in values:
            values.setdefault("save_steps", values["eval_steps"])
        values |= {
            "load_best_model_at_end": True,
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
    try:
        arguments = TrainingArguments(**values)
    except (TypeError, ValueError) as error:
        raise TrainingError(f"The training settings do not work together: {error}") from error
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


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    import accelerate
    import peft
    import transformers

    return {
        "python": platform.python_version(),
        "codi": codi.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
        "accelerate": accelerate.__version__,
    }
