"""Which type the weights are held in, what is computed in, and which attention there is.

frozen base     model.base_dtype    bfloat16 halves it, and no pass casts it again under mixed precision
what learns     model.dtype         float32: steps are smaller than a bfloat16 can move by
computation     training.bf16       autocast; keys and values are kept in its type too
"""

from __future__ import annotations

import logging

import torch
from torch import nn

from codi.errors import RecipeError
from codi.modeling.configuration import ModelConfig

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
BASE_DTYPES = ("float32", "bfloat16")
ATTENTIONS = ("sdpa", "eager", "flash_attention_2")


def held_base_type(config: ModelConfig) -> str:
    """The type that the base is held in."""
    return config.dtype if config.base_dtype is None else config.base_dtype


def check_types(config: ModelConfig) -> None:
    """Raise RecipeError for a type that does not exist, or that a base cannot be held in."""
    for name, known in (("dtype", DTYPES), ("base_rounded_to", DTYPES), ("base_dtype", BASE_DTYPES)):
        value = getattr(config, name)
        if value is not None and value not in known:
            raise RecipeError(f"{name} is '{value}', but it must be one of {', '.join(known)}.")


def check_trained_types(config: ModelConfig) -> None:
    """Raise RecipeError where weights that learn would be held in fewer bits than learning takes."""
    coarse = (
        "A bfloat16 has 8 significant bits, so most steps of the optimiser are rounded away (measured: after "
        "20 steps of AdamW at 5e-5, 47 % of the weights had not moved at all)."
    )
    if config.dtype != "float32":
        under_lora = "" if config.lora is None else ", and the frozen base with model.base_dtype=bfloat16"
        raise RecipeError(
            f"model.dtype={config.dtype} would hold weights that are trained in {config.dtype}. {coarse} "
            f"Set model.dtype=float32; compute in bfloat16 with training.bf16=true{under_lora}."
        )
    if config.lora is None and held_base_type(config) != "float32":
        raise RecipeError(
            f"model.base_dtype={config.base_dtype} is for a frozen base, but without model.lora the base is "
            f"trained. {coarse} Set model.base_dtype=null; compute in bfloat16 with training.bf16=true."
        )


def check_computed_type(config: ModelConfig, bf16: bool, fp16: bool, validating: bool) -> None:
    """Raise RecipeError where training would compute in another type than the weights are held for.

    bf16, fp16: of mixed precision; validating: whether questions are answered on the way, which is done in
    the type of the weights.
    """
    held = held_base_type(config)
    if held != "float32" and not bf16:
        raise RecipeError(
            f"model.base_dtype={held} is for mixed precision in bfloat16, but training.{_mixed(fp16)}: "
            "everything between the adapters, norms too, would be computed in the base's type alone. Set "
            "training.bf16=true, or hold the base in float32 with model.base_dtype=null."
        )
    if config.attention == "flash_attention_2" and (not (bf16 or fp16) or (validating and held == "float32")):
        why = "validation answers in the weights' type" if bf16 or fp16 else f"training.{_mixed(fp16)}"
        raise RecipeError(
            f"model.attention=flash_attention_2 computes in 16 bits alone, but {why} (float32). Set "
            "training.bf16=true and, under LoRA, model.base_dtype=bfloat16; or take model.attention=sdpa."
        )


def _mixed(fp16: bool) -> str:
    return "fp16 is true" if fp16 else "bf16 is false"


def check_attention(attention: str | None) -> None:
    """Raise RecipeError for an attention that does not exist, or cannot be had on this machine."""
    if attention is not None and (fault := _attention_fault(attention)):
        raise RecipeError(f"model.attention={attention} {fault}")


def attention_at_hand(attention: str | None, held: str) -> str | None:
    """The attention that a saved model was trained with; None (and a warning) where this machine lacks it, or
    the type that the base is held in is none of its."""
    fault = "" if attention is None else _attention_fault(attention)
    if attention == "flash_attention_2" and not fault and held == "float32":
        fault = "computes in 16 bits alone, and the weights are held in float32 (--dtype bfloat16)."
    if not fault:
        return attention
    logging.getLogger("codi").warning(
        "The model was trained with model.attention=%s, which %s Another attention is used.", attention, fault
    )
    return None


def _attention_fault(attention: str) -> str:
    if attention not in ATTENTIONS:
        return f"does not exist; choose one of {', '.join(ATTENTIONS)}, or leave it out."
    if attention != "flash_attention_2":
        return ""
    from transformers.utils.import_utils import is_flash_attn_2_available  # slow to import

    if not is_flash_attn_2_available():
        return (
            "needs a CUDA GPU and the package flash-attn, and one of them is not here. Leave it out: sdpa "
            "has a flash attention of its own."
        )
    return ""


def cast_weights(model: nn.Module, dtype: torch.dtype) -> None:
    """Hold every weight in `dtype`. Buffers (RoPE's frequencies) stay exact, as transformers leaves them."""
    for weight in model.parameters():
        weight.data = weight.data.to(dtype)


def computed_in(device: torch.device) -> torch.dtype | None:
    """The type that autocast computes in just now; None outside autocast."""
    kind = device.type
    if not (torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)):
        return None
    return torch.get_autocast_dtype(kind)
