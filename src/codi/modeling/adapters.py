"""LoRA's adapters multiplied in for a while: W + s B A made once, where a step makes many passes.

    as peft adds them     y = x W + s (x A) B         in every linear layer of every pass
    multiplied once       V = W + s B A, y = x V      the same numbers and gradients, without dropout

A step of CODI makes nine passes over few tokens each. In a small base most of the time goes into the many
small operations of the first form; in a large one V would cost a copy of the weights, and their gradients.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from codi.errors import RecipeError
from codi.modeling.precision import computed_in


@contextmanager
def without_advice() -> Iterator[None]:
    """Inside, warnings of peft and transformers are left out: they speak of calls that are made here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"(peft|transformers)\.")
        yield


@contextmanager
def multiplied_once(model: nn.Module, wanted: bool = True) -> Iterator[None]:
    """Inside, every adapted linear layer of `model` computes with one weight, made on entering."""
    adapted = _adapted(model) if wanted else []
    for layer in adapted:
        base = layer.get_base_layer()
        weight = base.weight + layer.get_delta_weight(layer.active_adapters[0])
        # Cast once here, where autocast would do it in every pass. Outside it is held as the adapters are:
        # rounded to the base's type it would lose most of them.
        weight = weight.to(computed_in(weight.device) or weight.dtype)
        if isinstance(base, nn.Linear):
            layer.forward = partial(_linear, weight=weight, bias=base.bias)
        else:  # GPT-2's Conv1D holds its weight the other way round
            layer.forward = partial(_linear, weight=weight.T, bias=base.bias)
    try:
        yield
    finally:
        for layer in adapted:
            del layer.forward


def _adapted(model: nn.Module) -> list[Any]:
    from peft.tuners.lora import Linear

    return [layer for layer in model.modules() if isinstance(layer, Linear)]


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if computed_in(x.device) is not None:
        return F.linear(x, weight, bias)
    return F.linear(x.to(weight.dtype), weight, None if bias is None else bias.to(weight.dtype)).to(x.dtype)


def check_once(dropout: float, recompute: bool = False) -> None:
    """Raise RecipeError where adapters have dropout, which acts on each pass's own inputs, or where passes
    are computed again in backward, when what was multiplied is gone."""
    if recompute:
        raise RecipeError(
            "model.lora.multiply_once was asked for with model.recompute: adapters are multiplied in for the "
            "forward pass, and computed again it would run without. Leave one of them out."
        )
    if dropout:
        raise RecipeError(
            f"model.lora.multiply_once was asked for with model.lora.dropout = {dropout}: dropout acts on "
            "the inputs of each pass, so adapters cannot be multiplied in before. Leave one of them out."
        )
