"""Tiny training runs: a tokenizer and examples of their own, so that no other part decides what they give.

python -c "import tiny_runs; tiny_runs.train_and_wait(...)"     a run in a process of its own, to be killed
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast, TrainerCallback

from codi.data.example import Example
from codi.modeling.configuration import ModelConfig
from codi.modeling.model import ThoughtModel
from codi.training.recipes import RunConfig, build_run_config
from codi.training.run import train

PIECES = "<pad> <eos> <unk> << >> + - * / = . : ? ,"
PROSE = (
    "The answer is Tom has pens and buys more gives away He then doubles them How many left are After that in"
)
WORDS = [*PIECES.split(), *PROSE.split()]
LARGEST = 40


def save_tokenizer(folder: Path) -> str:
    """A word-level tokenizer (numbers up to `LARGEST`) in a folder; returns its path."""
    pieces = [*WORDS, *(str(n) for n in range(LARGEST + 1))]
    tokenizer = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token="<unk>"))
    split = pre_tokenizers.Split(Regex(r"<<|>>|[0-9]+|\p{L}+|[^\s]"), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), split])
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )
    fast.save_pretrained(folder)
    return str(folder)


def examples(count: int) -> list[Example]:
    """Problems of one to three steps, of different lengths."""
    made = []
    for i in range(count):
        a, b = 3 + i % 7, 1 + i % 5
        question, steps, value = f"Tom has {a} pens and buys {b} more .", [f"<<{a}+{b}={a + b}>>"], a + b
        if i % 3 > 0:
            question += " He then doubles them ."
            steps.append(f"<<{value}*2={value * 2}>>")
            value *= 2
        if i % 3 > 1:
            question += " After that He gives 1 away ."
            steps.append(f"<<{value}-1={value - 1}>>")
            value -= 1
        made.append(Example(f"row-{i}", f"{question} How many are left ?", tuple(steps), str(value)))
    return made


def write_rows(path: Path, rows: list[Example]) -> str:
    """Examples as JSONL; returns the path."""
    lines = [
        json.dumps({"id": e.id, "question": e.question, "steps": e.steps, "answer": e.answer}) for e in rows
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def tiny_settings(folder: Path, *, rows: int = 20, dropout: float = 0.0, **training: Any) -> dict[str, Any]:
    """A recipe's values: a two-layer GPT-2 of width 32 on `rows` examples, without validation."""
    drops = {"resid_pdrop": dropout, "embd_pdrop": dropout, "attn_pdrop": dropout}
    return {
        "method": {"name": "codi", "latents": 2},
        "tokenizer": save_tokenizer(folder / "tokenizer"),
        "model": {
            "base_config": {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 96}
            | drops
        },
        "data": {"train": write_rows(folder / "train.jsonl", examples(rows)), "validation": None},
        "training": {
            "max_steps": 12,
            "per_device_train_batch_size": 4,
            "learning_rate": 3e-3,
            "logging_steps": 1,
            "save_strategy": "steps",
            "save_steps": 4,
            "use_cpu": True,
            "disable_tqdm": True,
            "dataloader_pin_memory": False,
            **training,
        },
    }


def lora_over_saved_base(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The same settings with LoRA (dropout on) over a base that is saved in `folder`."""
    base = settings["model"]["base_config"] | {"vocab_size": len(WORDS) + LARGEST + 1, "eos_token_id": 1}
    torch.manual_seed(3)
    ThoughtModel(ModelConfig(base_config=base)).causal.save_pretrained(folder / "base")
    lora = {"rank": 4, "alpha": 8, "dropout": 0.2}
    return settings | {"model": {"base": str(folder / "base"), "lora": lora, "projection_dropout": 0.1}}


def run(settings: dict[str, Any], output: Path, **options: Any) -> dict[str, Any]:
    """Train and return what training.json holds."""
    train(configured(settings), output, say=lambda _: None, **options)
    summary: dict[str, Any] = json.loads((output / "training.json").read_text(encoding="utf-8"))
    return summary


def configured(settings: dict[str, Any]) -> RunConfig:
    """The typed configuration."""
    return build_run_config(settings, "the test")


def weights(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a checkpoint."""
    found: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= {f"{file.name}:{name}": tensor for name, tensor in load_file(file).items()}
    assert found, f"no weights in {folder}"
    return found


def same_weights(one: Path, other: Path) -> bool:
    """Whether two checkpoints are equal bit by bit."""
    ours, theirs = weights(one), weights(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


class Interrupt(TrainerCallback):
    """Ends the run after a step, as an interrupt from the keyboard does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


class StopAt(TrainerCallback):
    """Says that a step was reached, and waits there to be killed."""

    def __init__(self, step: int, sign: Path) -> None:
        self.step, self.sign = step, sign

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            self.sign.touch()
            time.sleep(600)


def train_and_wait(settings_file: str, output: str, step: int) -> None:
    """Entry point of the process that is killed: trains, and stands still after `step`."""
    torch.set_num_threads(1)
    settings = json.loads(Path(settings_file).read_text(encoding="utf-8"))
    train(configured(settings), Path(output), callbacks=[StopAt(step, Path(f"{output}.reached"))])
