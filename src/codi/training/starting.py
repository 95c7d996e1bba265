"""What a run starts from: an untrained reasoner as configured, or the weights of a checkpoint in it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from codi.errors import CheckpointError, RecipeError, TrainingError, nearest
from codi.generation.latent_reasoner import LatentReasoner
from codi.methods.method import build_method
from codi.modeling.bases import CODI_CONFIG, find_file, look_at
from codi.modeling.checkpoint import (
    check_base,
    load_base_tokenizer,
    load_tokenizer,
    load_weights,
    locate,
    read_configuration,
)
from codi.modeling.configuration import ModelConfig
from codi.modeling.model import BOT, EOT, ThoughtModel
from codi.modeling.precision import check_trained_types
from codi.modeling.pretrained import check_world
from codi.modeling.tokenizer_pipeline import difference
from codi.training.recipes import RunConfig


def build_reasoner(config: RunConfig) -> LatentReasoner:
    """An untrained reasoner as configured; the caller has set the seed."""
    model = config.model
    check_trained_types(model)
    if model.base is not None and not model.merge_adapter:
        _refuse_thoughts(model.base, model.base_revision)
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
    method = build_method(config.method)
    model = replace(model, rows=list(method.rows))
    reasoner = LatentReasoner(ThoughtModel(model), method, tokenizer, config.text, graphs="off")
    begun = start_from(config.start, reasoner) if config.start is not None else []
    _begin_rows(reasoner, without=begun)
    reasoner.model.training_parts.update(method.training_parts(reasoner.model))
    return reasoner


def _check_tokenizer(config: ModelConfig, tokenizer: Any) -> None:
    """Raise CheckpointError where a base pretrained here would be asked in other words than its own."""
    assert config.base is not None
    base = look_at(config.base, config.base_revision, config.gguf_file)
    check_world(Path(base.where), tokenizer)


def _begin_rows(reasoner: LatentReasoner, without: Sequence[str]) -> None:
    """Let the rows start from tokens of the vocabulary, as configured; `without` those that are there."""
    origins = reasoner.model.config.thought_tokens_from
    names = reasoner.model.row_names
    if isinstance(origins, str):
        origins = dict.fromkeys(names, origins)
    for name, token in (origins or {}).items():
        if name not in names:
            raise RecipeError(
                f"model.thought_tokens_from names '{name}', but {reasoner.method.name} has no such row."
                f"{nearest(name, names)} It has {', '.join(names)}."
            )
        if name not in without:
            reasoner.model.copy_row(name, reasoner.text.single_token(token))


def _refuse_thoughts(base: str, revision: str | None) -> None:
    """Raise CheckpointError where the base is a checkpoint whose thoughts would be lost."""
    found = find_file(base, CODI_CONFIG, revision)
    if found is None:
        return
    saved = read_configuration(found.parent)
    method = build_method(saved["method"])
    if method.thought_positions() == 0 or ModelConfig.from_dict(saved["model"]).lora is not None:
        return  # nothing to lose; an adapter is refused (or merged) where the base is looked at
    raise CheckpointError(
        f"model.base='{base}' is a checkpoint of codi, trained with {method.name}: as a base it would lose "
        f"its projection and its thought tokens. To train on from it give start={base}, and as model.base "
        "(or model.base_config) what it was trained over. For its language model alone give a copy of the "
        f"folder without {CODI_CONFIG}."
    )


def start_from(checkpoint: str, reasoner: LatentReasoner) -> list[str]:
    """Give a reasoner the weights of a checkpoint, whatever method that was trained with.

    Returns the names of the rows of our own that came with them (<bot>, ...), and the projection with these.

    The language model's (or adapter's) weights always; projection and thought tokens where the checkpoint's
    method thinks (or is the run's own) and both have them. Raises CheckpointError where the two do not fit.
    """
    try:
        path = locate(checkpoint)
    except CheckpointError as error:
        raise CheckpointError(
            f"What the run starts from is not there: {error}\nTrain it first (the recipe's first lines name "
            "the command), name another with start=FOLDER, or begin at the base with start=null."
        ) from error
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
    tokenizers = (load_tokenizer(str(path)), reasoner.tokenizer)
    other = difference(*(tokenizer.backend_tokenizer for tokenizer in tokenizers))
    if other is not None:
        raise CheckpointError(
            f"The run cannot start from '{checkpoint}': its tokenizer gives texts other ids than the "
            f"run's: it {other}. Give the same one: tokenizer={path}"
        )
    if found.lora is not None:
        check_base(path, found, model.config)
    method = build_method(saved["method"])
    learned = method.thinks or (method.thought_positions() > 0 and method.name == reasoner.method.name)
    both = learned and found.projection == model.config.projection
    if learned and not both and reasoner.method.thought_positions() > 0:
        logging.getLogger("codi").warning(
            "Of '%s' the language model alone is taken: it was trained with model.projection=%s, the run has "
            "%s, so its thoughts begin anew.", checkpoint, *(str(has).lower() for has in
            (found.projection, model.config.projection)),
        )  # fmt: skip
    load_weights(path, model, thoughts=both, rows=found.rows, of_another_run=True)
    return [BOT, EOT, *(name for name in found.rows if name in model.rows)] if both else []
