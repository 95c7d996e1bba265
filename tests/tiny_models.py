"""Builders of tiny models, tokenizers and batches that several tests share.

The weights are drawn with a large spread: with transformers' own 0.02 a two-layer model hardly notices a
wrong mask or position, and a test would pass over the mistake.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from codi.data.collation import collate
from codi.data.encoding import TextEncoder
from codi.data.example import Example
from codi.data.word_tokenizer import build_word_tokenizer
from codi.generation.latent_reasoner import LatentReasoner
from codi.methods.method import Method
from codi.modeling.configuration import LoraSettings, ModelConfig, TextFormat
from codi.modeling.model import ThoughtModel

VOCABULARY = 300  # the word tokenizer's, and some rows to spare
ROTARY = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 128,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
    },
    "llama": ROTARY,
    "qwen2": ROTARY,
    "mistral": {**ROTARY, "sliding_window": 6},
}
EXAMPLES = (
    Example("a", "Mia has 3 apples. She finds 5 more.", ("<<3+5=8>>", "<<8*2=16>>", "<<16-4=12>>"), "12"),
    Example("b", "Tom has 7 stamps and gives away 2 of them. How many are left?", ("<<7-2=5>>",), "5"),
    Example("c", "How many?", ("<<2*3=6>>", "<<6/2=3>>"), "3"),
    Example("d", "Ben has 4 pens.", ("<<4+4=8>>", "<<8+1=9>>"), "-9"),
)
LORA = LoraSettings(rank=4, alpha=8, dropout=0.0)


def tiny_config(family: str = "gpt2", *, tied: bool = True, **changes: Any) -> ModelConfig:
    """A two-layer model of one family, from random weights."""
    settings = {
        "model_type": family,
        "vocab_size": VOCABULARY,
        "initializer_range": 0.2,
        "tie_word_embeddings": tied,
        "bos_token_id": 1,
        "eos_token_id": 1,
        "pad_token_id": 0,
        **FAMILIES[family],
    }
    return ModelConfig(base_config=settings, **changes)


def tiny_model(family: str = "gpt2", *, tied: bool = True, seed: int = 1, **changes: Any) -> ThoughtModel:
    """Seeded, in training mode. LoRA's second matrices are filled, so that adapters do something."""
    torch.manual_seed(seed)
    model = ThoughtModel(tiny_config(family, tied=tied, **changes))
    fill_adapters(model)
    return model


def fill_adapters(model: ThoughtModel) -> None:
    """Give LoRA's second matrices, which start at zero, values."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".lora_B." in name:
                weight.normal_(std=0.1)


def word_encoder() -> TextEncoder:
    """The word-level tokenizer with the default text format."""
    return TextEncoder(build_word_tokenizer(), TextFormat())


def encoded_batch(method: Method, examples: tuple[Example, ...] = EXAMPLES) -> dict[str, Tensor]:
    """A collated batch: mixed lengths, and the one-step problem `b`, whose teacher has no rationale."""
    text = word_encoder()
    return collate([method.encode(example, text) for example in examples], text.pad_id)


def reasoner(method: Method, model: ThoughtModel) -> LatentReasoner:
    """A model with its method and the word-level tokenizer, ready to answer and save."""
    return LatentReasoner(model.eval(), method, build_word_tokenizer(), TextFormat())


def gradients(model: ThoughtModel, loss: Tensor) -> dict[str, Tensor]:
    """The gradient of every trained tensor; zeros where the loss does not reach it."""
    model.zero_grad(set_to_none=True)
    loss.backward()
    return {
        name: torch.zeros_like(weight) if weight.grad is None else weight.grad.clone()
        for name, weight in model.named_parameters()
        if weight.requires_grad
    }


def assert_same_gradients(ours: dict[str, Tensor], theirs: dict[str, Tensor], relative: float = 1e-5) -> None:
    """Equal tensor by tensor, relative to each one's norm.

    A thousandth of the whole gradient's norm is added to that: the gradient of a key bias is zero but for
    rounding, and has no norm of its own.
    """
    assert ours.keys() == theirs.keys()
    whole = torch.stack([grad.norm() for grad in theirs.values()]).norm()
    assert whole > 0
    for name, grad in theirs.items():
        error = (ours[name] - grad).norm() / (grad.norm() + 1e-3 * whole)
        assert error < relative, f"{name}: {error:.2e}"


def with_lora(base: str, **changes: Any) -> ModelConfig:
    """LoRA over a base that is saved in a folder."""
    return replace(ModelConfig(base=base, lora=LORA), **changes)


# --- tokenizers of three families ---------------------------------------------------------------------------

SENTENCES = [
    "The answer is: 12. The answer is: -5. The answer is: A.",
    "Tom has 7 apples and buys 15 more, so he has 22 apples: <<7+15=22>>. The answer is: 22",
    "Each costs 3.5 dollars. <<3.5*2=7>> The answer is: 7. The answer is: B, C, D or E. 1234567890",
]
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def byte_level_tokenizer() -> PreTrainedTokenizerFast:
    """GPT-2's kind: byte-level BPE, the space before a word or number is part of its token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _trained(tokenizer, pre_tokenizers.ByteLevel.alphabet())


def llama3_tokenizer() -> PreTrainedTokenizerFast:
    """LLaMA-3's kind: byte-level BPE that cuts the space before a number off as a token of its own."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return _trained(tokenizer, pre_tokenizers.ByteLevel.alphabet())


def sentencepiece_tokenizer(*, digits_apart: bool = False) -> PreTrainedTokenizerFast:
    """SentencePiece's kind: `▁` opens every word; `digits_apart` makes each digit a token (LLaMA-2)."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    pieces: list[Any] = [pre_tokenizers.Metaspace(prepend_scheme="first")]
    if digits_apart:
        pieces.append(pre_tokenizers.Digits(individual_digits=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(pieces)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    return _trained(tokenizer, [])


def _trained(tokenizer: Tokenizer, alphabet: list[str]) -> PreTrainedTokenizerFast:
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES * 4, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
