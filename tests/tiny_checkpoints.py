"""Untrained checkpoints of a tiny model, one for each method, made in a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from codi.generation.latent_reasoner import LatentReasoner
from codi.methods.method import build_method
from codi.modeling.checkpoint import load_tokenizer
from codi.modeling.configuration import LoraSettings, ModelConfig, TextFormat
from codi.modeling.model import ThoughtModel

QUESTION = "Mia has 3 apples and buys 4 more . How many apples does Mia have ?"


def base_config(rows: int, eos: int) -> dict[str, Any]:
    """A GPT-2 of hidden size 32 that takes 160 positions."""
    return {
        "model_type": "gpt2",
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 2,
        "n_positions": 160,
        "vocab_size": rows,
        "bos_token_id": eos,
        "eos_token_id": eos,
    }


def tiny_reasoner(method: str, **options: Any) -> LatentReasoner:
    """A reasoner with random weights and the word-level tokenizer."""
    tokenizer = load_tokenizer("word-problems")
    torch.manual_seed(0)
    model = ThoughtModel(ModelConfig(base_config=base_config(len(tokenizer), tokenizer.eos_token_id)))
    return LatentReasoner(model, build_method({"name": method, **options}), tokenizer, TextFormat())


def save_lora_checkpoint(folder: Path) -> tuple[Path, Path]:
    """A LoRA checkpoint and, beside it, a base of the same shape with other weights."""
    bases = []
    tokenizer = load_tokenizer("word-problems")
    for seed, name in enumerate(("base", "other-base")):
        torch.manual_seed(seed)
        config = ModelConfig(base_config=base_config(len(tokenizer), tokenizer.eos_token_id))
        ThoughtModel(config).causal.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        bases.append(folder / name)
    model = ThoughtModel(ModelConfig(base=str(bases[0]), lora=LoraSettings(rank=2)))
    reasoner = LatentReasoner(model, build_method({"name": "codi"}), tokenizer, TextFormat())
    reasoner.save_pretrained(folder / "lora")
    return folder / "lora", bases[1]
