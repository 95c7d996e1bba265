"""The training steps that are measured against one another: each paper's, and the library's."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import NewGELUActivation

from codi.bench.coconut_literal import literal_coconut_step
from codi.bench.environment import synchronize
from codi.bench.paper_literal import literal_step
from codi.bench.pccot_literal import literal_pccot_step
from codi.bench.sft_literal import literal_sft_step
from codi.methods.coconut import Coconut
from codi.methods.codi import Codi
from codi.methods.icot import ICot
from codi.methods.method import Method
from codi.methods.pccot import Pccot
from codi.modeling.configuration import LoraSettings, ModelConfig
from codi.modeling.model import ThoughtModel

SIZES: dict[str, dict[str, Any]] = {
    "gpt2": {},  # transformers' defaults are GPT-2's 124 M weights
    "tiny": {"n_embd": 64, "n_layer": 2, "n_head": 2, "vocab_size": 512},
}
METHODS: dict[str, Method] = {"codi": Codi(), "coconut": Coconut(), "icot": ICot(stage=6), "pccot": Pccot()}
"""Coconut in its last stage; iCoT with 6 tokens removed, about half of a rationale; PCCoT as published."""
VARIANTS = ("literal", "literal_fused", "codi", "codi_recomputed")
"""literal: transformers' model as it stands; literal_fused: with our fused GELU; codi: the library's step;
codi_recomputed: the same with `model.recompute`."""

Step = Callable[[dict[str, Tensor]], dict[str, Tensor]]


def build_models(
    method: Method, size: str, lora_rank: int, seed: int, device: torch.device, only: str | None = None
) -> dict[str, ThoughtModel]:
    """A model per variant (or for one), with the same weights. Adapters start off zero, so all learn."""
    torch.manual_seed(seed)
    no_dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    config = ModelConfig(
        base_config={"model_type": "gpt2", **SIZES[size], **no_dropout},
        lora=LoraSettings(rank=lora_rank, dropout=0.0) if lora_rank else None,
        projection=isinstance(method, Codi) and not isinstance(method, Pccot),
        rows=list(method.rows),
    )
    model = ThoughtModel(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".lora_B." in name:
                weight.normal_(std=0.01)
    names = VARIANTS if only is None else (only,)
    models = {name: model if name == names[-1] else copy.deepcopy(model) for name in names}
    if "literal" in models:
        _stock_activations(models["literal"])
    if "codi_recomputed" in models:
        again = models["codi_recomputed"]
        again.config = replace(again.config, recompute=True)
    return {name: model.to(device).train() for name, model in models.items()}


def _stock_activations(model: nn.Module) -> None:
    """Undo `fuse_activations`: transformers' own GELU, as the published step runs it."""
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.GELU) and child.approximate == "tanh":
                setattr(module, name, NewGELUActivation())


def step_of(variant: str, model: ThoughtModel, method: Method) -> Step:
    """The function from a batch to the losses, for one variant."""
    if variant.startswith("codi"):
        return lambda batch: method.loss(model, batch)
    if isinstance(method, Pccot):
        return lambda batch: literal_pccot_step(model, method, batch)
    if isinstance(method, Codi):
        return lambda batch: literal_step(model, method, batch)
    if isinstance(method, Coconut):
        return lambda batch: literal_coconut_step(model, batch)
    return lambda batch: literal_sft_step(model, batch)


def timed_step(
    step: Step, optimizer: torch.optim.Optimizer, batch: dict[str, Tensor], device: torch.device, bf16: bool
) -> float:
    """Seconds for forward, backward and the optimiser's step."""
    synchronize(device)
    start = time.perf_counter()
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        loss = step(batch)["loss"]
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    synchronize(device)
    return time.perf_counter() - start
