"""The base model: any causal LM of transformers, from pretrained weights or from a configuration.

Everything is found by interface (`get_input_embeddings`, `get_output_embeddings`, the base-model prefix),
never by the name of a model family.
"""

from __future__ import annotations

import hashlib
import logging
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors import SafetensorError
from torch import nn

from codi.errors import CheckpointError, RecipeError, nearest
from codi.modeling.bases import Base, look_at, refuse_adapter
from codi.modeling.configuration import ModelConfig
from codi.modeling.precision import DTYPES, cast_weights, check_attention, check_types, held_base_type

if TYPE_CHECKING:
    from transformers import PreTrainedModel

UNREADABLE = (
    OSError, ValueError, RuntimeError, ImportError, KeyError, AttributeError, TypeError, EOFError,
    SafetensorError, pickle.UnpicklingError,
)  # fmt: skip
"""What transformers and the readers below it raise over files that they cannot make sense of."""


def build_base(config: ModelConfig) -> PreTrainedModel:
    """The base causal LM, without adapters.

    Raises RecipeError when the configuration names no base or two, CheckpointError when it cannot be loaded.
    """
    from transformers import AutoConfig, AutoModelForCausalLM  # here and below: slow to import

    check_types(config)
    check_attention(config.attention)
    dtype = held = held_base_type(config)
    if config.base_rounded_to not in (None, held):
        dtype = "float32"  # rounded twice, some weights would end elsewhere
    if (config.base is None) == (config.base_config is None):
        raise RecipeError("Give exactly one of model.base (a pretrained model) and model.base_config.")
    if config.base_config is not None:
        for setting in ("base_revision", "gguf_file", "merge_adapter"):
            if getattr(config, setting):
                raise RecipeError(
                    f"model.{setting} says how to read model.base, but the model is built from "
                    f"model.base_config. Leave model.{setting} out, or give model.base."
                )
        settings = dict(config.base_config)
        model_type = settings.pop("model_type", None)
        if model_type is None:
            raise RecipeError("model.base_config has no 'model_type' (for example gpt2, llama, qwen2).")
        try:
            base_config = AutoConfig.for_model(model_type, **settings)
        except ValueError as error:
            raise RecipeError(f"model.base_config: {error}") from error
        known = set(type(base_config)().to_dict()) | set(base_config.attribute_map)
        for key in settings:  # transformers takes any keyword, and trains its defaults without a word
            if key not in known:
                raise RecipeError(
                    f"Unknown key '{key}' in model.base_config for {model_type}.{nearest(key, sorted(known))}"
                )
        automatic: Any = AutoModelForCausalLM
        with _attention_said(config.attention):
            causal = automatic.from_config(base_config, dtype=DTYPES[dtype], **attending(config.attention))
    else:
        causal = _from_pretrained(config, dtype)
    if config.base_rounded_to is not None:
        round_weights(causal, DTYPES[config.base_rounded_to])
        cast_weights(causal, DTYPES[held])
    fuse_activations(causal)
    check_head(causal)
    return causal  # type: ignore[no-any-return]


def attending(attention: str | None) -> dict[str, str]:
    """What transformers is told of the attention to use."""
    return {} if attention is None else {"attn_implementation": attention}


@contextmanager
def _attention_said(attention: str | None) -> Iterator[None]:
    """Where a base refuses the attention that was asked for, a RecipeError says so."""
    try:
        yield
    except (ValueError, ImportError) as error:
        if attention is None or "attention" not in str(error).lower():
            raise
        said = first_line(error).partition(". ")[0]
        raise RecipeError(
            f"model.attention={attention} cannot be had with this base: {said}. Leave model.attention out."
        ) from error


def load_causal(
    path: str | Path | None,
    dtype: str,
    revision: str = "main",
    gguf_file: str | None = None,
    attention: str | None = None,
) -> tuple[Any, dict[str, Any]]:
    """A causal LM, and transformers' account of missing and unexpected weights.

    gguf_file: name of the file in `path` to read; its weights are held dequantised. Raises UNREADABLE, and
    RecipeError where the model does not have the attention that is asked for.
    """
    from transformers import AutoModelForCausalLM

    automatic: Any = AutoModelForCausalLM  # its annotations leave out what output_loading_info returns
    options: dict[str, Any] = attending(attention)
    if gguf_file is not None:
        import transformers

        options["gguf_file"] = gguf_file
        if hasattr(transformers, "GgufConfig"):  # else it is dequantised without being told
            options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    with _attention_said(attention):
        causal, info = automatic.from_pretrained(
            path, revision=revision, dtype=DTYPES[dtype], output_loading_info=True, **options
        )
    return causal, info


def _from_pretrained(config: ModelConfig, dtype: str) -> Any:
    assert config.base is not None
    base = look_at(config.base, config.base_revision, config.gguf_file)
    if config.base_revision is not None and Path(config.base).expanduser().exists():
        logging.getLogger("codi").warning(
            "model.base_revision=%s is not used: '%s' is on this machine, and versions are the hub's.",
            config.base_revision, config.base,
        )  # fmt: skip
    if base.adapter is None:
        if config.merge_adapter:
            raise RecipeError(
                f"model.merge_adapter is set, but '{config.base}' is no adapter: it has no "
                "adapter_config.json. Leave model.merge_adapter out."
            )
        return _plain(base, dtype, config.attention)
    if not config.merge_adapter:
        raise refuse_adapter(base)
    # Always in float32, whatever holds the result: the same weights, and one fingerprint, in every dtype.
    return _merged(base, seen=(), attention=config.attention).to(DTYPES[dtype])


def _plain(base: Base, dtype: str, attention: str | None = None) -> Any:
    """Raises CheckpointError when it cannot be loaded whole."""
    name = f"{base.where}/{base.gguf_file}" if base.gguf_file else base.where
    try:
        causal, info = load_causal(base.where, dtype, base.revision or "main", base.gguf_file, attention)
    except UNREADABLE as error:
        raise CheckpointError(f"The base model '{name}' could not be loaded: {_why(base, error)}") from error
    if info["missing_keys"]:
        raise CheckpointError(
            f"The base model '{name}' lacks weights: {sorted(info['missing_keys'])[:5]}. "
            "It would have been filled with random values; use a complete causal-LM checkpoint."
        )
    if info["unexpected_keys"]:
        unused = sorted(info["unexpected_keys"])
        logging.getLogger("codi").warning(
            "%d weights of the base '%s' have no place in %s and are not used; the first: %s.",
            len(unused), name, type(causal).__name__, ", ".join(unused[:3]),
        )  # fmt: skip
    return causal


def _why(base: Base, error: BaseException) -> str:
    """The reason that a library gives, and the way out."""
    reason = first_line(error)
    if base.gguf_file is not None:
        return (
            f"{reason}\nWhere transformers cannot read the file's architecture, give the model itself "
            "(config.json and safetensors) as model.base; a damaged file fetch again."
        )
    if isinstance(error, pickle.UnpicklingError | EOFError):
        return (
            "its pytorch_model.bin is damaged, or holds more than tensors, which are all that is read from a "
            "pickle. Give the model as safetensors."
        )
    return f"{reason}\nGive a directory that holds the model, or connect to the hub and check the name."


def first_line(error: BaseException) -> str:
    """What an exception says, without what follows its first line."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _merged(base: Base, seen: tuple[str, ...], attention: str | None = None) -> Any:
    """The base of a PEFT adapter with the adapter multiplied in: a plain causal LM in float32.

    Raises CheckpointError when adapter or base are not there, or do not fit together.
    """
    if base.adapter is None:
        return _plain(base, "float32", attention)
    from peft import PeftConfig, PeftModel

    over, name = base.under_adapter, base.where
    if over in seen or over == name:
        raise CheckpointError(f"The adapter '{name}' names itself as its base ({over}).")
    try:
        below = look_at(over, base.adapter.get("revision"))
    except CheckpointError as error:
        raise CheckpointError(
            f"The adapter '{name}' was trained over '{over}', which cannot be used: {error}\nWhere that base "
            "is elsewhere now, write its place into adapter_config.json as base_model_name_or_path."
        ) from error
    causal = _merged(below, (*seen, name), attention)
    try:
        settings = PeftConfig.from_pretrained(name, revision=base.revision)
        if settings.is_prompt_learning:
            raise CheckpointError(
                f"The adapter '{name}' ({settings.peft_type}) is a learned prompt: it has no weights that "
                "could be merged into the base."
            )
        settings.inference_mode = True
        _make_room(causal, name, base.revision)
        adapted = PeftModel(causal, settings, autocast_adapter_dtype=False)
        loaded = adapted.load_adapter(name, "default", revision=base.revision, autocast_adapter_dtype=False)
        wrong = {"missing": loaded.missing_keys, "unexpected": loaded.unexpected_keys}
        if any(wrong.values()):
            told = "; ".join(f"{kind}: {sorted(keys)[:3]}" for kind, keys in wrong.items() if keys)
            raise CheckpointError(
                f"The adapter '{name}' does not fit its base '{over}': {told}. Give the base that it was "
                "trained over (base_model_name_or_path in its adapter_config.json)."
            )
        merged = cast("Any", adapted).merge_and_unload(safe_merge=True)
    except UNREADABLE as error:
        raise CheckpointError(
            f"The adapter '{name}' could not be merged into '{over}': {first_line(error)}"
        ) from error
    return merged.requires_grad_(True)


def _make_room(causal: Any, adapter: str, revision: str | None) -> None:
    """Give the base the vocabulary rows that an adapter brings of its own, where it was trained with more."""
    from peft.utils import load_peft_weights

    rows = [
        tensor.shape[0]
        for name, tensor in load_peft_weights(adapter, device="cpu", revision=revision).items()
        if name.endswith(("embed_tokens.weight", "wte.weight", "embed_in.weight", "lm_head.weight"))
    ]
    if rows and rows[0] != causal.get_input_embeddings().weight.shape[0]:
        causal.resize_token_embeddings(rows[0], mean_resizing=False)


@torch.no_grad()
def round_weights(causal: nn.Module, dtype: torch.dtype) -> None:
    """Round every weight to `dtype`, held in its own type as before. Buffers (RoPE's) stay exact."""
    for weight in causal.parameters():
        weight.copy_(weight.to(dtype))


def fuse_activations(model: nn.Module) -> None:
    """Swap GPT-2's tanh GELU, written as eight tensor operations, for torch's fused one (equal to 1e-7)."""
    for module in model.modules():
        for name, child in module.named_children():
            if type(child).__name__ == "NewGELUActivation":
                setattr(module, name, nn.GELU(approximate="tanh"))


@contextmanager
def without_flash(causal: Any) -> Iterator[None]:
    """Inside, flash attention, which takes neither a CPU nor float32, is put aside: weights are checked where
    and as they were loaded."""
    attention = causal.config._attn_implementation
    if attention == "flash_attention_2":
        causal.config._attn_implementation = "sdpa"
    try:
        yield
    finally:
        causal.config._attn_implementation = attention


@torch.no_grad()
def check_head(causal: Any) -> None:
    """Refuse a model that changes its logits after the head (scaling, soft caps): we call the head alone.

    Raises CheckpointError. The check itself is a pass of two tokens.
    """
    device = causal.get_input_embeddings().weight.device
    if device.type == "meta":
        return
    training, head = causal.training, causal.get_output_embeddings()
    causal.eval()
    tokens = torch.tensor([[0, 1]], device=device)
    # Enlarged to a fixed range: a soft cap hardly bends the small logits of a fresh model.
    hook = head.register_forward_hook(lambda _module, _inputs, scores: scores * (100 / scores.abs().max()))
    try:
        with without_flash(causal):
            logits = causal(input_ids=tokens, use_cache=False).logits
            ours = head(causal.base_model(input_ids=tokens, use_cache=False).last_hidden_state)
    finally:
        hook.remove()
        causal.train(training)
    if not torch.allclose(logits.float(), ours.float(), atol=0.1, rtol=1e-2):
        broken = [name for name, weight in causal.named_parameters() if not weight.isfinite().all()]
        if broken:
            raise CheckpointError(
                f"{len(broken)} weights of {type(causal).__name__} hold values that are no finite numbers; "
                f"the first is '{broken[0]}'. The file is damaged, or its training diverged: take another."
            )
        raise CheckpointError(
            f"{type(causal).__name__} transforms its logits after the LM head (a soft cap or a scale). "
            "That is not supported: its training loss would be wrong."
        )


@torch.no_grad()
def fingerprint(causal: Any) -> str:
    """A short identity of the base's weights: shapes and 64 values of every tensor, rounded to bfloat16.

    Rounding makes the same base loaded in float32 and in bfloat16 agree. Adapters are left out.
    """
    digest = hashlib.sha256()
    for name, weight in sorted(base_weights(causal).items()):
        stride = max(1, weight.numel() // 64)
        sample = weight.detach().flatten()[::stride][:64].to("cpu", torch.bfloat16)
        digest.update(f"{name} {tuple(weight.shape)}".encode())
        digest.update(sample.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]


def base_weights(causal: Any) -> dict[str, torch.Tensor]:
    """The base's own tensors by their original names: adapters left out, a tied head given once."""
    weights: dict[str, torch.Tensor] = {}
    for name, weight in causal.named_parameters():
        if ".lora_" not in name:
            weights[name.replace(".base_layer.", ".")] = weight
    return weights
