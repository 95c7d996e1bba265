"""Muon for the matrices, AdamW for everything else: one optimizer to the Trainer.

    matrices inside the layers      momentum, then orthogonalised by Newton-Schulz steps    torch.optim.Muon
    embeddings, norms, biases,      AdamW                                                   torch.optim.AdamW
    thought tokens, LM head

Muon's update is scaled to the size of AdamW's (Liu et al., 2025, arXiv 2502.16982), so both take the same
learning rate. Weight decay is applied to all of them, norms and biases too, which the Trainer's own optimizer
spares.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon
from transformers import PreTrainedModel

from codi.modeling.model import ThoughtModel

MOMENTUM = 0.9
"""Below torch's 0.95: the runs it is used for are short."""


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon and AdamW over one set of groups and one state, so that schedules, saving and resets see one."""

    def __init__(
        self, model: ThoughtModel, learning_rate: float, weight_decay: float, betas: tuple[float, float]
    ) -> None:
        matrices, rest = matrices_and_rest(model)
        kinds = ((matrices, True), (rest, False))
        groups = [{"params": weights, "muon": is_muon} for weights, is_muon in kinds if weights]
        super().__init__(groups, {"lr": learning_rate, "weight_decay": weight_decay})
        shared: dict[str, Any] = {"lr": learning_rate, "weight_decay": weight_decay}
        self.parts: dict[bool, torch.optim.Optimizer] = {}
        if matrices:
            self.parts[True] = Muon(matrices, momentum=MOMENTUM, adjust_lr_fn="match_rms_adamw", **shared)
        if rest:
            self.parts[False] = AdamW(rest, betas=betas, fused=True, **shared)
        for group in self.param_groups:  # each part's own settings (momentum, betas, ...) go into our groups
            for name, value in self.parts[group["muon"]].param_groups[0].items():
                group.setdefault(name, value)

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of both. Groups and state are handed over each time: loading or a reset replaces them."""
        loss = None if closure is None else closure()
        for is_muon, part in self.parts.items():
            part.param_groups = [group for group in self.param_groups if group["muon"] == is_muon]
            part.state = self.state
            part.step()
        return loss


def matrices_and_rest(model: ThoughtModel) -> tuple[list[Tensor], list[Tensor]]:
    """The trained weights: those of linear layers but for the LM head, and all others."""
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    causals: list[Any] = [module for module in model.modules() if isinstance(module, PreTrainedModel)]
    heads = [module.get_output_embeddings() for module in causals]
    tables |= {id(head.weight) for head in heads if head is not None} | {id(model.thought_tokens)}
    matrices, rest = list[Tensor](), list[Tensor]()
    for weight in model.parameters():
        if weight.requires_grad:
            (matrices if weight.ndim == 2 and id(weight) not in tables else rest).append(weight)
    return matrices, rest
