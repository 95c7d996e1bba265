"""Tokenizers: the package's own, one from the hub or a folder, or the one that comes with a base."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer, GPT2Tokenizer, PreTrainedTokenizerFast

from codi.data.word_tokenizer import build_word_tokenizer
from codi.errors import CheckpointError
from codi.modeling.backbone import UNREADABLE, first_line
from codi.modeling.bases import CODI_CONFIG, GGUF, MODEL_CONFIG, is_path, look_at, refuse_adapter
from codi.modeling.configuration import ModelConfig
from codi.modeling.tokenizer_pipeline import as_in_file


def load_tokenizer(name: str, *, revision: str | None = None, gguf_file: str | None = None) -> Any:
    """`word-problems`, a hub id, a .gguf file, a directory with a tokenizer (vocab.json and merges.txt do).

    gguf_file: name of one in the directory or hub id, which then brings it. Raises CheckpointError.
    """
    if name == "word-problems":
        return build_word_tokenizer()
    path = Path(name).expanduser()
    if path.is_file() and path.suffix.lower() == GGUF:
        found = look_at(name)
        name, gguf_file = found.where, found.gguf_file
        path = Path(name)
    if not path.exists() and is_path(name):
        raise CheckpointError(
            f"There is no tokenizer at '{name}'. Give the folder that holds it, or a hub id."
        )
    if gguf_file is None and _is_bare_gpt2(path):
        end = "<|endoftext|>"
        return GPT2Tokenizer.from_pretrained(name, eos_token=end, bos_token=None, unk_token=end)
    try:
        if (path / CODI_CONFIG).exists():
            # As it was saved: nothing of AutoTokenizer's is wanted here.
            return PreTrainedTokenizerFast.from_pretrained(name)
        options = {key: value for key, value in (("revision", revision), ("gguf_file", gguf_file)) if value}
        loaded = AutoTokenizer.from_pretrained(name, **options)
        return as_in_file(loaded, name, revision) if gguf_file is None else _as_in_gguf(loaded)
    except UNREADABLE as error:
        raise CheckpointError(
            f"The tokenizer '{name}' could not be loaded: {first_line(error)}\n"
            "Give a directory that holds it, or connect to the hub and check the name."
        ) from error


def load_base_tokenizer(config: ModelConfig) -> Any:
    """The tokenizer that comes with `config.base`: an adapter without one has that of its own base.

    Raises CheckpointError when there is none.
    """
    assert config.base is not None
    base = look_at(config.base, config.base_revision, config.gguf_file)
    if base.adapter is not None and not config.merge_adapter:
        raise refuse_adapter(base)
    folder = Path(base.where)
    if base.adapter is not None and folder.is_dir() and not any(folder.glob("tokenizer*")):
        below = replace(config, base=base.under_adapter, base_revision=None, gguf_file=None)
        return load_base_tokenizer(below)
    return load_tokenizer(base.where, revision=base.revision, gguf_file=base.gguf_file)


def _is_bare_gpt2(path: Path) -> bool:
    """Whether a folder holds GPT-2's two files and nothing that names another tokenizer or its tokens."""
    others = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", MODEL_CONFIG)
    return (path / "merges.txt").exists() and not any((path / name).exists() for name in others)


def _as_in_gguf(tokenizer: Any) -> Any:
    """A GGUF file's tokenizer without tokens that the file does not have and the model has no rows for.

    transformers builds it from a class that brings GPT-2's <|endoftext|> along.
    """
    size = tokenizer.vocab_size
    more = {str(token) for number, token in tokenizer.added_tokens_decoder.items() if number >= size}
    if not more:
        return tokenizer
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["id"] < size]
    special = {name: token for name, token in tokenizer.special_tokens_map.items() if token not in more}
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        chat_template=tokenizer.chat_template,
        **special,
    )
