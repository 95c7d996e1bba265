"""LoRA's layers under autocast: inputs are cast once, and what the adapter adds comes with its last product.

    as peft computes them    x' = x in A's type;            y = x W + ((drop(x') A) B) s    cast to and fro
    here                     x' = x in the computed type;   y = addmm(x' W, drop(x') A, B, s)

Outside autocast, with adapters off, merged, sharded layer by layer or of another kind than LoRA, it is peft's
own layer.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn

from codi.modeling.precision import computed_in


class AdaptedLinear(Linear):
    """peft's, with fewer casts and kernels in mixed precision; it holds and saves what that does."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """x: [.., d]. Returns [.., o]."""
        dtype = computed_in(x.device)
        if dtype is None or args or kwargs or not self._is_plain():
            computed: Tensor = super().forward(x, *args, **kwargs)
            return computed
        (name,) = self.active_adapters
        x = x.to(dtype)
        y: Tensor = self.base_layer(x)
        narrow = self.lora_A[name](self.lora_dropout[name](x))
        wide: Any = self.lora_B[name].weight
        added = torch.addmm(y.flatten(0, -2), narrow.flatten(0, -2), wide.T, alpha=self.scaling[name])
        return added.view(y.shape)

    def _is_plain(self) -> bool:
        if len(self.active_adapters) != 1 or self.disable_adapters or self.merged:
            return False
        (name,) = self.active_adapters
        if name not in self.lora_A or name in self.lora_variant or self.lora_B[name].bias is not None:
            return False
        # Where weights are gathered for a layer's own forward alone, B is not whole when it is read here.
        wide: Any = self.lora_B[name].weight
        return wide.shape == (self.out_features, self.r[name]) and not hasattr(wide, "device_mesh")


def cast_once(model: nn.Module) -> None:
    """Let every adapted linear layer of `model` compute so. They stay peft's layers to peft."""
    for layer in model.modules():
        if type(layer) is Linear:
            layer.__class__ = AdaptedLinear


def as_peft_computes(model: nn.Module) -> None:
    """Undo `cast_once`."""
    ours: list[Any] = [layer for layer in model.modules() if type(layer) is AdaptedLinear]
    for layer in ours:
        layer.__class__ = Linear
