"""The base model: any causal LM of transformers, from pretrained weights or from a configuration.

Everything is found by interface (`get_input_embeddings`, `get_output_embeddings`, the base-model prefix),
never by the name of a model family.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from codi.errors import CheckpointError, RecipeError, nearest
from codi.modeling.configuration import ModelConfig

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def build_base(config: ModelConfig) -> PreTrainedModel:
    """The base causal LM, without adapters.

    Raises RecipeError when the configuration names no base or two, CheckpointError when it cannot be loaded.
    """
    if config.dtype not in DTYPES:
        raise RecipeError(f"dtype is '{config.dtype}', but it must be one of {', '.join(DTYPES)}.")
    if config.base_rounded_to is not None and config.base_rounded_to not in DTYPES:
        raise RecipeError(
            f"base_rounded_to is '{config.base_rounded_to}', but it must be one of {', '.join(DTYPES)}."
        )
    if (config.base is None) == (config.base_config is None):
        raise RecipeError("Give exactly one of model.base (a pretrained model) and model.base_config.")
    if config.base_config is not None:
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
        causal = AutoModelForCausalLM.from_config(base_config, dtype=DTYPES[config.dtype])  # type: ignore[no-untyped-call]
    else:
        causal = _from_pretrained(config)
    if config.base_rounded_to is not None:
        round_weights(causal, DTYPES[config.base_rounded_to])
    fuse_activations(causal)
    check_head(causal)
    return causal  # type: ignore[no-any-return]


def load_causal(path: str | Path | None, dtype: str, revision: str = "main") -> tuple[Any, dict[str, Any]]:
    """A causal LM, and transformers' account of missing and unexpected weights.

    Raises what transformers raises.
    """
    automatic: Any = AutoModelForCausalLM  # its annotations leave out what output_loading_info returns
    causal, info = automatic.from_pretrained(
        path, revision=revision, dtype=DTYPES[dtype], output_loading_info=True
    )
    return causal, info


def _from_pretrained(config: ModelConfig) -> Any:
    try:
        causal, info = load_causal(config.base, config.dtype, revision=config.base_revision or "main")
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(
            f"The base model '{config.base}' could not be loaded: {str(error).splitlines()[0]}\n"
            "Give a directory that holds the model, or connect to the hub and check the name."
        ) from error
    if info["missing_keys"]:
        raise CheckpointError(
            f"The base model '{config.base}' lacks weights: {sorted(info['missing_keys'])[:5]}. "
            "It would have been filled with random values; use a complete causal-LM checkpoint."
        )
    return causal


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
        logits = causal(input_ids=tokens, use_cache=False).logits
        ours = head(causal.base_model(input_ids=tokens, use_cache=False).last_hidden_state)
    finally:
        hook.remove()
        causal.train(training)
    if not torch.allclose(logits.float(), ours.float(), atol=0.1, rtol=1e-2):
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
