"""The training steps that are measured against one another: each paper's, and the library's."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
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
from codi.training.graphs import RecordedSteps
from codi.training.recorders import RECORDERS

_GPT2 = {"model_type": "gpt2", "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
SIZES: dict[str, dict[str, Any]] = {
    "gpt2": _GPT2,  # transformers' defaults are GPT-2's 124 M weights
    "tiny": {**_GPT2, "n_embd": 64, "n_layer": 2, "n_head": 2, "vocab_size": 512},
    "smollm2": {  # SmolLM2-135M
        "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152,
        "tie_word_embeddings": True,
    },
    "llama1b": {  # LLaMA-3.2-1B
        "model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256,
        "tie_word_embeddings": True,
    },
}  # fmt: skip
"""Configurations of models with random weights, without dropout."""
METHODS: dict[str, Method] = {"codi": Codi(), "coconut": Coconut(), "icot": ICot(stage=6), "pccot": Pccot()}
"""Coconut in its last stage; iCoT with 6 tokens removed, about half of a rationale; PCCoT as published."""
VARIANTS = ("literal", "literal_fused", "codi", "codi_recomputed")
"""literal: transformers' model as it stands; literal_fused: with our fused GELU; codi: the library's step;
codi_recomputed: the same with `model.recompute`."""
GRAPH = "codi_graph"
"""The library's step recorded and played, where the device can (`codi.training.graphs`)."""

Step = Callable[[dict[str, Tensor]], dict[str, Tensor]]
Work = Callable[[dict[str, Tensor]], None]
"""Loss and gradients of a batch."""


def variants_on(device: torch.device) -> tuple[str, ...]:
    """What can be measured there."""
    return (*VARIANTS, GRAPH) if device.type in RECORDERS else VARIANTS


def build_models(
    method: Method, size: str, lora_rank: int, seed: int, device: torch.device, only: str | None = None,
    base_dtype: str | None = None,
) -> dict[str, ThoughtModel]:  # fmt: skip
    """A model per variant (or for one), with the same weights. Adapters start off zero, so all learn."""
    torch.manual_seed(seed)
    config = ModelConfig(
        base_config=SIZES[size],
        base_dtype=base_dtype,
        lora=LoraSettings(rank=lora_rank, dropout=0.0) if lora_rank else None,
        projection=isinstance(method, Codi) and not isinstance(method, Pccot),
        rows=list(method.rows),
    )
    model = ThoughtModel(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".lora_B." in name:
                weight.normal_(std=0.01)
    names = variants_on(device) if only is None else (only,)
    models = {name: model if name == names[-1] else copy.deepcopy(model) for name in names}
    if "literal" in models:
        _stock_activations(models["literal"])
        if lora_rank:
            from codi.modeling.lora_layers import as_peft_computes  # peft is slow to import

            as_peft_computes(models["literal"])
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


class Wrapped(nn.Module):
    """A method's loss over a model, under mixed precision where asked for, as the trainer wraps it."""

    def __init__(self, model: ThoughtModel, method: Method, device: torch.device, bf16: bool) -> None:
        super().__init__()
        self.model, self.method, self.device, self.bf16 = model, method, device, bf16

    def forward(
        self, batch: dict[str, Tensor], divisors: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """See `Method.loss`."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            return self.method.loss(self.model, batch, divisors)


def played(
    model: ThoughtModel, method: Method, rows: int, device: torch.device, bf16: bool,
    say: Callable[[str], None],
) -> Work:  # fmt: skip
    """The library's step for batches of one shape: recorded at the first, played from then on.

    say: told why, where it is given up.
    """
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    steps = RecordedSteps(weights, device, rows, 1e-2 if bf16 else 1e-4, say)
    wrapped = Wrapped(model, method, device, bf16)

    def work(batch: dict[str, Tensor]) -> None:
        steps.step(wrapped, batch, method.divisors(batch), whole=True)

    return work


def computed(step: Step, device: torch.device, bf16: bool) -> Work:
    """A step as it is."""

    def work(batch: dict[str, Tensor]) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss = step(batch)["loss"]
        loss.backward()  # type: ignore[no-untyped-call]

    return work


@dataclass(frozen=True, slots=True)
class Taken:
    """Seconds of a step: until it was done, and until the host had nothing more to do for it."""

    whole: float
    host: float


def timed_step(
    work: Work, optimizer: torch.optim.Optimizer, batch: dict[str, Tensor], device: torch.device
) -> Taken:
    """Forward, backward and the optimiser's step."""
    synchronize(device)
    start = time.perf_counter()
    optimizer.zero_grad(set_to_none=True)
    work(batch)
    optimizer.step()
    host = time.perf_counter() - start
    synchronize(device)
    return Taken(time.perf_counter() - start, host)
