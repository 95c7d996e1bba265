"""Tiny bases as people have them on disk: a plain folder, a PEFT adapter over it, a GGUF file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model

from codi.modeling.model import ThoughtModel
from tiny_models import byte_level_tokenizer, tiny_config

ROWS = 340  # of the byte-level tokenizer (335 tokens), and some to spare
WIDTH, INNER, HEADS, KV_HEADS, LAYERS = 32, 48, 4, 2, 2


def save_base(folder: Path, *, seed: int = 1, tied: bool = True, **options: Any) -> Path:
    """A Qwen2 of random weights with the byte-level tokenizer."""
    torch.manual_seed(seed)
    config = tiny_config("qwen2", tied=tied)
    assert config.base_config is not None
    config.base_config["vocab_size"] = ROWS
    ThoughtModel(config).causal.save_pretrained(folder, **options)
    byte_level_tokenizer().save_pretrained(folder)
    return folder


def save_adapter(folder: Path, base: Path, **settings: Any) -> Any:
    """A PEFT adapter over `base`, its matrices filled; returns the adapted model, in evaluation mode."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(5)
    causal = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    chosen = {"r": 4, "lora_alpha": 16, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **settings}
    adapted = get_peft_model(causal, LoraConfig(**chosen))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if ".lora_B." in name or ".modules_to_save." in name:
                weight.normal_(std=0.2)
    adapted.save_pretrained(folder)
    return adapted.eval()


def write_gguf(file: Path, *, architecture: str = "llama", half: bool = False) -> dict[str, np.ndarray]:
    """A LLaMA with GPT-2's kind of tokenizer as llama.cpp's converters write it; returns its tensors."""
    import gguf

    tokenizer = byte_level_tokenizer()
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_name("tiny")
    writer.add_block_count(LAYERS)
    writer.add_context_length(160)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    special = set(tokenizer.all_special_tokens)
    writer.add_token_types([3 if token in special else 1 for token in tokens])
    merges = state["model"]["merges"]
    writer.add_token_merges([" ".join(merge) if isinstance(merge, list) else merge for merge in merges])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    draw = np.random.default_rng(0)
    kept: dict[str, np.ndarray] = {}

    def add(name: str, *shape: int) -> None:
        drawn = draw.normal(0, 0.2, shape).astype(np.float16 if half else np.float32)
        kept[name] = drawn if len(shape) > 1 else np.ones(shape, np.float32)
        writer.add_tensor(name, kept[name])

    add("token_embd.weight", len(tokens), WIDTH)
    add("output_norm.weight", WIDTH)
    narrow = WIDTH // HEADS * KV_HEADS
    for layer in range(LAYERS):
        for name, rows, columns in (
            ("attn_q", WIDTH, WIDTH), ("attn_k", narrow, WIDTH), ("attn_v", narrow, WIDTH),
            ("attn_output", WIDTH, WIDTH), ("ffn_gate", INNER, WIDTH), ("ffn_up", INNER, WIDTH),
            ("ffn_down", WIDTH, INNER),
        ):  # fmt: skip
            add(f"blk.{layer}.{name}.weight", rows, columns)
        add(f"blk.{layer}.attn_norm.weight", WIDTH)
        add(f"blk.{layer}.ffn_norm.weight", WIDTH)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return kept
