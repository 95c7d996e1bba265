"""Checkpoints on disk: written whole or not at all, loaded strictly.

    codi.json                  method, model, text format, vocabulary identity, package version
    thoughts.safetensors       projection, the <bot>/<eot> rows and the method's own
    adapter_model.safetensors  with LoRA: the adapter alone (peft's format)
    model.safetensors          without LoRA: the whole causal LM (transformers' format)
    tokenizer files

With LoRA the base itself is never written.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from codi.data.text_format import TextFormat
from codi.errors import CheckpointError, RecipeError, UsageError
from codi.modeling.backbone import (
    UNREADABLE,
    check_head,
    first_line,
    fuse_activations,
    load_causal,
    without_flash,
)
from codi.modeling.bases import ADAPTER_CONFIG, CODI_CONFIG, is_path, look_at
from codi.modeling.configuration import ModelConfig
from codi.modeling.model import ThoughtModel, fingerprint_of
from codi.modeling.precision import DTYPES, attention_at_hand, cast_weights, held_base_type
from codi.modeling.tokenizers import load_base_tokenizer, load_tokenizer
from codi.version import installed_version

CONFIGURATION, THOUGHTS, ADAPTER = CODI_CONFIG, "thoughts.safetensors", "adapter_model.safetensors"
TRAINING_PARTS = "training_parts.safetensors"
"""What only training needs, in the checkpoints of a run that another can go on from."""


class BaseMoved(CheckpointError):
    """The base of a LoRA checkpoint is not where it was."""


def locate(directory: str | Path) -> Path:
    """The local directory of a checkpoint; a hub id is fetched. Raises CheckpointError when there is none."""
    path = Path(directory)
    if path.is_dir():
        if (path / CONFIGURATION).exists():
            return path
        raise CheckpointError(
            f"'{path}' is not a checkpoint: it has no {CONFIGURATION}. Give the folder of a trained model."
        )
    return fetch(str(directory))


def fetch(name: str, patterns: list[str] | None = None) -> Path:
    """The local copy of a hub model, fetched where needed. patterns: of the files wanted; None is all.

    Raises CheckpointError when `name` is no hub id, or the hub does not give it.
    """
    if name.count("/") != 1 or is_path(name):
        raise CheckpointError(
            f"There is no checkpoint at '{name}'. Give the folder of a trained model, or a hub id."
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except (
        HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError, OSError,
    ) as error:  # fmt: skip
        raise CheckpointError(
            f"There is no folder '{name}', and no such model could be fetched from the hub: "
            f"{str(error).splitlines()[0]}"
        ) from error


def read_configuration(path: Path) -> dict[str, Any]:
    """The contents of codi.json. Raises CheckpointError when broken or incomplete."""
    try:
        saved: Any = json.loads((path / CONFIGURATION).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise CheckpointError(
            f"{path / CONFIGURATION} is not JSON (line {error.lineno}: {error.msg})."
        ) from error
    missing = {"model", "method", "text", "vocabulary"} - set(saved if isinstance(saved, dict) else ())
    if missing:
        raise CheckpointError(
            f"{path / CONFIGURATION} lacks {', '.join(sorted(missing))}: not a checkpoint of codi."
        )
    contents: dict[str, Any] = saved
    return contents


def save(
    path: Path,
    model: ThoughtModel,
    tokenizer: Any,
    *,
    method: dict[str, Any],
    text: TextFormat,
    vocabulary: str,
) -> None:
    """Write a checkpoint into a folder beside `path`, then move it into place.

    Raises CheckpointError when it cannot be written (a full disk); what was at `path` before stays valid.
    Files of others in an existing `path` (a trainer's state) are kept.
    """
    if model.config.lora is not None and model.config.base is None:
        raise CheckpointError(
            "A LoRA checkpoint holds no base, but this base was built from a configuration and is stored "
            "nowhere. Save the base first and give its folder as model.base, or train without LoRA."
        )
    scratch = path.parent / f".{path.name}.saving"
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        model.backbone.save_pretrained(scratch)  # type: ignore[operator]
        save_file({name: t.contiguous() for name, t in thought_weights(model).items()}, scratch / THOUGHTS)
        tokenizer.save_pretrained(scratch)
        configuration = {
            "codi_version": installed_version(),
            "method": method,
            "model": model.config.as_dict(),
            "text": {key: getattr(text, key) for key in text.__dataclass_fields__},
            "special_tokens": {name: model.row_id(name) for name in model.row_names},
            "vocabulary": vocabulary,
        }
        (scratch / CONFIGURATION).write_text(json.dumps(configuration, indent=2) + "\n", encoding="utf-8")
        path.mkdir(parents=True, exist_ok=True)
        # Without its configuration a folder is no checkpoint: one that a kill leaves half done is refused.
        (path / CONFIGURATION).unlink(missing_ok=True)
        written = sorted(scratch.iterdir(), key=lambda file: file.name == CONFIGURATION)
        _remove_other_weights(path, {file.name for file in written})
        for file in written:
            file.replace(path / file.name)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"The checkpoint could not be written to '{path}': {error}\n"
            "Free some space (or fix the folder's rights); checkpoints written before are untouched."
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _remove_other_weights(path: Path, written: set[str]) -> None:
    """Remove weights that an earlier model left in the folder: they would be loaded with the new ones."""
    parts = "model-?????-of-?????.safetensors"
    for pattern in ("model.safetensors", parts, "model.safetensors.index.json", ADAPTER, ADAPTER_CONFIG):
        for file in path.glob(pattern):
            if file.name not in written:
                file.unlink()


def thought_weights(model: ThoughtModel) -> dict[str, Tensor]:
    """Projection and the rows of our own by name."""
    rows = {f"rows.{name}": row.detach() for name, row in model.rows.items()}
    return {"thought_tokens": model.thought_tokens.detach(), **rows, **_prefixed(model)}


def _prefixed(model: ThoughtModel) -> dict[str, Tensor]:
    return {f"projection.{name}": tensor for name, tensor in model.projection.state_dict().items()}


def load_model(
    path: Path, config: ModelConfig, base: str | None = None, dtype: str | None = None
) -> ThoughtModel:
    """Build the model that `config` describes and load the weights in `path`, strictly.

    base: where the base of a LoRA checkpoint is now; dtype: hold every weight in that type in place of those
    that were recorded. Raises CheckpointError where a base is given that would not be used, UsageError for a
    type that does not exist.
    """
    config = replace(config, attention=attention_at_hand(config.attention, dtype or held_base_type(config)))
    if dtype is None:
        return _load_model(path, config, base)
    if dtype not in DTYPES:
        raise UsageError(f"The type '{dtype}' is unknown; choose one of {', '.join(DTYPES)}.")
    # What was trained over a rounded base answers over one.
    recorded = held_base_type(config)
    narrow = recorded if config.lora is not None and recorded != "float32" else None
    changed = replace(config, dtype=dtype, base_dtype=None, base_rounded_to=config.base_rounded_to or narrow)
    # In float16 a base has another fingerprint than in the wider types, so it is compared as it was recorded.
    if recorded == "float16":
        loaded = config
    else:
        loaded = replace(changed, dtype="float32" if dtype == "float16" else dtype)
    model = _load_model(path, loaded, base)
    cast_weights(model, DTYPES[dtype])
    model.config = replace(
        model.config, dtype=dtype, base_dtype=None, base_rounded_to=changed.base_rounded_to
    )
    model.config = replace(model.config, base_fingerprint=fingerprint_of(model.causal, model.config))
    return model


def _load_model(path: Path, config: ModelConfig, base: str | None) -> ThoughtModel:
    if config.lora is None:
        if base is not None:
            raise CheckpointError(
                f"'{path}' holds all its weights, so the base '{base}' (--base, in Python base=...) would "
                "not be used. Leave it out; to train another base give it as model.base."
            )
        model = ThoughtModel(replace(config, base_fingerprint=None), base=_whole_base(path, config))
        rows = model.config.base_vocabulary_rows
        if rows != config.base_vocabulary_rows:
            raise CheckpointError(
                f"'{path}' was saved with {config.base_vocabulary_rows} vocabulary rows, "
                f"but its model has {rows}."
            )
        model.config = config
        _load_thoughts(path, model)
    else:
        model = _over_base(path, config, base)
        check_base(path, config, model.config)
        load_weights(path, model)
    return model


def _over_base(path: Path, config: ModelConfig, base: str | None) -> ThoughtModel:
    """The untrained model over the recorded base, or over `base`, where it is now."""
    try:
        if base is None or base == config.base:
            return ThoughtModel(config)
        now = look_at(base)
        kept = config.gguf_file if config.gguf_file and (Path(base) / config.gguf_file).is_file() else None
        merge = config.merge_adapter if now.adapter is not None else None
        moved = replace(config, base=base, base_revision=None, gguf_file=kept, merge_adapter=merge)
        return ThoughtModel(moved)
    except CheckpointError as error:
        if base is not None:
            raise
        recorded = str(config.base)
        reason = f": {error}"
        if not Path(recorded).expanduser().exists():
            reason = ", which is gone." if is_path(recorded) else (
                f", which is no folder in '{Path.cwd()}' and could not be fetched from the hub."
            )  # fmt: skip
        raise BaseMoved(
            f"'{path}' holds LoRA adapters alone, and their base could not be loaded. It was at '{recorded}'"
            f"{reason}\n"
            "Say where the base is now with --base FOLDER_OR_HUB_ID (in Python base=...); its weights must "
            "be the recorded ones."
        ) from error


def check_base(path: Path, recorded: ModelConfig, found: ModelConfig) -> None:
    """Refuse a base other than the one the checkpoint was trained on."""
    expected = (recorded.base_vocabulary_rows, recorded.base_fingerprint)
    got = (found.base_vocabulary_rows, found.base_fingerprint)
    if expected != got:
        raise CheckpointError(
            f"'{path}' was trained on another base. Expected '{recorded.base}' with {expected[0]} vocabulary "
            f"rows and weights {expected[1]}; found '{found.base}' with {got[0]} rows and weights {got[1]}. "
            "Point at the right base with --base (in Python base=...), or restore it."
        )


def load_weights(
    path: Path,
    model: ThoughtModel,
    *,
    thoughts: bool = True,
    rows: Sequence[str] | None = None,
    of_another_run: bool = False,
) -> None:
    """Load projection, rows of our own and adapter (or whole base) into an existing model, strictly.

    thoughts: False leaves projection and rows as they are; rows: what the checkpoint has of the rows beside
    <bot> and <eot>, where that may be others than the model has: then those of both are loaded;
    of_another_run: the model was configured anew, so that what it computes is compared with what the saved
    one does.
    """
    if thoughts:
        _load_thoughts(path, model, rows)
    if model.config.lora is not None:
        from peft import get_peft_model_state_dict, set_peft_model_state_dict

        adapter = read_tensors(path / ADAPTER)
        _compare(path / ADAPTER, get_peft_model_state_dict(model.backbone), adapter)
        set_peft_model_state_dict(model.backbone, adapter)
    else:
        whole = _whole_base(path, model.config)
        model.causal.load_state_dict(whole.state_dict())
        if of_another_run:
            _check_same(path, whole, model.causal)


@torch.no_grad()
def _check_same(path: Path, saved: Any, loaded: Any) -> None:
    """Refuse weights that fit in every shape a model that computes otherwise: other heads, another head tied.

    saved: the model in `path`; loaded: ours, with its weights. A pass of some tokens.
    """
    tokens = torch.arange(min(24, loaded.get_input_embeddings().weight.shape[0])).unsqueeze(0)
    said = []
    for causal in (saved, loaded):
        training = causal.training
        with without_flash(causal):
            found = causal.eval()(input_ids=tokens.to(causal.device), use_cache=False).logits
        said.append(found.float().cpu())
        causal.train(training)
    if not torch.allclose(said[0], said[1], rtol=1e-3, atol=1e-3 * float(said[0].abs().max())):
        theirs, ours = saved.config.to_dict(), loaded.config.to_dict()
        other = [key for key in sorted(theirs) if key not in _NEUTRAL and theirs[key] != ours.get(key)]
        told = ", ".join(f"{key} {theirs[key]!r} there and {ours.get(key)!r} here" for key in other[:5])
        raise CheckpointError(
            f"The weights in '{path}' fit this model in shape, but it computes something else with them"
            f"{f' ({told})' if told else ''}. Give the run the same model.base or model.base_config."
        )


_NEUTRAL = {
    "_name_or_path", "architectures", "dtype", "transformers_version", "use_cache", "bos_token_id",
    "eos_token_id", "pad_token_id",
}  # fmt: skip
"""Of a configuration, what has no part in what a model computes."""


def _load_thoughts(path: Path, model: ThoughtModel, rows: Sequence[str] | None = None) -> None:
    thoughts, wanted = read_tensors(path / THOUGHTS), thought_weights(model)
    if rows is not None:  # theirs alone is left, ours alone is kept
        for name in set(rows) ^ set(model.rows):
            (thoughts if name in rows else wanted).pop(f"rows.{name}", None)
    _compare(path / THOUGHTS, wanted, thoughts)
    with torch.no_grad():
        model.thought_tokens.copy_(thoughts.pop("thought_tokens"))
        for name in [name for name in thoughts if name.startswith("rows.")]:
            model.rows[name.removeprefix("rows.")].copy_(thoughts.pop(name))
    model.projection.load_state_dict({name.removeprefix("projection."): t for name, t in thoughts.items()})


def _whole_base(path: Path, config: ModelConfig) -> Any:
    if (path / ADAPTER_CONFIG).exists():  # transformers would put the adapter over the weights unasked
        raise CheckpointError(
            f"'{path}' was saved as a whole model, but an {ADAPTER_CONFIG} lies beside it, of another model. "
            "Move that file away."
        )
    try:
        causal, info = load_causal(path, config.dtype, attention=config.attention)
    except UNREADABLE as error:
        raise CheckpointError(f"The weights in '{path}' could not be loaded: {first_line(error)}") from error
    wrong = {kind: sorted(info[kind]) for kind in ("missing_keys", "unexpected_keys") if info[kind]}
    if wrong:
        raise CheckpointError(f"The weights in '{path}' do not fit its configuration: {wrong}.")
    fuse_activations(causal)
    check_head(causal)
    return causal


def save_training_parts(path: Path, model: ThoughtModel) -> None:
    """Beside a checkpoint that training goes on from: what the model itself is saved without."""
    if len(model.training_parts):
        tensors = {name: t.contiguous() for name, t in _untied(model.training_parts).items()}
        save_file(tensors, path / TRAINING_PARTS)


def load_training_parts(path: Path, model: ThoughtModel) -> None:
    """The reverse. Raises CheckpointError where they are missing, damaged, or another model's."""
    if len(model.training_parts):
        given = read_tensors(path / TRAINING_PARTS)
        _compare(path / TRAINING_PARTS, _untied(model.training_parts), given)
        model.training_parts.load_state_dict(given, strict=False)  # a tied weight was saved once


def _untied(parts: Any) -> dict[str, Tensor]:
    """Weights and buffers by name; one that has two names is given under the first."""
    found: dict[str, Tensor] = {}
    seen = set[int]()
    for name, tensor in parts.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            found[name] = tensor.detach()
    return found


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Every tensor of a safetensors file. Raises CheckpointError when it is missing or damaged."""
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} is missing or damaged: {error}") from error


def _compare(file: Path, wanted: dict[str, Tensor], given: dict[str, Tensor]) -> None:
    """Refuse other names, and other shapes: copying would broadcast one row over two without a word."""
    expected, found = set(wanted), set(given)
    for name in sorted(expected & found):
        if wanted[name].shape != given[name].shape:
            raise CheckpointError(
                f"{file} does not fit the configuration beside it: {name} has shape "
                f"{list(given[name].shape)}, expected {list(wanted[name].shape)}."
            )
    if expected != found:
        raise CheckpointError(
            f"{file} does not fit the configuration beside it. "
            f"Missing: {sorted(expected - found)[:5] or 'none'}; "
            f"unexpected: {sorted(found - expected)[:5] or 'none'}."
        )


def check_vocabulary(path: Path, expected: str, found: str) -> None:
    """Refuse a tokenizer that would give other ids than in training."""
    if expected != found:
        raise CheckpointError(
            f"The tokenizer in '{path}' is not the one the model was trained with (recorded {expected}, "
            f"found {found}). Restore the tokenizer files that were saved with the checkpoint."
        )


__all__ = [
    "RecipeError",
    "fetch",
    "load_base_tokenizer",
    "load_model",
    "load_tokenizer",
    "load_training_parts",
    "load_weights",
    "locate",
    "read_configuration",
    "read_tensors",
    "save",
    "save_training_parts",
]
