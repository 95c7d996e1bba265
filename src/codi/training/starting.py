"""What a run starts from: an untrained reasoner as configured, or the weights of a checkpoint in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from codi.errors import CheckpointError, TrainingError
from codi.generation.latent_reasoner import LatentReasoner
from codi.methods.method import build_method
from codi.modeling.bases import look_at
from codi.modeling.checkpoint import (
    check_base,
    load_base_tokenizer,
    load_tokenizer,
    load_weights,
    locate,
    read_configuration,
)
from codi.modeling.configuration import ModelConfig
from codi.modeling.model import ThoughtModel
from codi.modeling.pretrained import check_world
from codi.training.recipes import RunConfig


def build_reasoner(config: RunConfig) -> LatentReasoner:
    """An untrained reasoner as configured; the caller has set the seed."""
    model = config.model
    if config.tokenizer is not None:
        tokenizer = load_tokenizer(config.tokenizer)
    elif model.base is not None:
        tokenizer = load_base_tokenizer(model)
    else:
        raise TrainingError(
            "A base built from a configuration needs a tokenizer: set 'tokenizer' in the recipe."
        )
    if model.base is not None:
        _check_tokenizer(model, tokenizer)
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


def _check_tokenizer(config: ModelConfig, tokenizer: Any) -> None:
    """Raise CheckpointError where a base pretrained here would be asked in other words than its own."""
    assert config.base is not None
    base = look_at(config.base, config.base_revision, config.gguf_file)
    check_world(Path(base.where), tokenizer)


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
