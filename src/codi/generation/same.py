"""Whether a recording gives what the plain path gives: each row for itself, so that none hides in a batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from codi.errors import CodiError
from codi.methods.method import Start
from codi.modeling.context import Context
from codi.modeling.model import ThoughtModel


class Differs(CodiError):
    """A recording gives something else than the plain path."""


def check_same_start(found: Start, plain: Start, model: ThoughtModel, computed: torch.dtype) -> None:
    """Raise Differs where two starts of the same questions are not the same. computed: see `check_same`."""
    ours, theirs = found.context, plain.context
    if (found.written, found.thoughts, found.passes) != (plain.written, plain.thoughts, plain.passes):
        raise Differs("what is written or thought before an answer would differ from the plain path's")
    for name in ("mask", "next_position", "thought"):
        one, other = getattr(ours, name), getattr(theirs, name)
        if (one is None) != (other is None) or (one is not None and not torch.equal(one, other)):
            raise Differs(f"their {name.replace('_', ' ')} would differ from the plain path's")
    for name in ("thoughts", "latents", "last_hidden"):
        one, other = getattr(ours, name), getattr(theirs, name)
        if (one is None) != (other is None):
            raise Differs(f"their {name.replace('_', ' ')} would differ from the plain path's")
        if one is not None:
            check_same(name.replace("_", " "), one, other, computed)
    logits, expected = (model.logits(one.last_hidden) for one in (ours, theirs))
    check_same("logits", logits, expected, computed, centred=True)
    _check_same_cache(ours, theirs, computed)


def check_same(
    name: str,
    found: Tensor,
    plain: Tensor,
    computed: torch.dtype,
    *,
    other_kernels: bool = False,
    centred: bool = False,
) -> None:
    """Raise Differs where vectors [..., n] are further apart, relative to their size, than rounding explains.

    computed: the type of the computation; other_kernels: attention over more positions, masked, adds up in
    another order: that alone puts logits 1.1e-2 apart in bfloat16, 2e-6 in float32 (12 layers, on a CPU);
    centred: less their mean: what all logits of a row have in common, which may be most of their size,
    decides nothing. It is rounded all the same, so as much as that moves them is allowed besides.
    What is no finite number on the plain path is not compared: a broken row is no fault of a recording.
    """
    finite = plain.isfinite()
    ours, theirs = (one.float().masked_fill(~finite, 0) for one in (found, plain))
    rounded = torch.zeros((), device=plain.device)
    if centred:
        rounded = torch.finfo(computed).eps * theirs.norm(dim=-1)
        ours, theirs = (one - one.mean(-1, keepdim=True) for one in (ours, theirs))
    _check(name, (ours - theirs).norm(dim=-1), theirs.norm(dim=-1), rounded, computed, other_kernels)


def _check_same_cache(found: Context, plain: Context, computed: torch.dtype) -> None:
    """The same of keys, and of values: at each position of each row those of all layers are one vector."""
    ours: list[Any] = found.cache.layers
    theirs: list[Any] = plain.cache.layers
    for name in ("keys", "values"):
        apart = size = torch.zeros((), device=plain.mask.device)
        for one, other in zip(ours, theirs, strict=True):  # layer by layer: large batches leave little memory
            kept = getattr(other, name)
            finite = kept.isfinite()
            one_layer, its = (each.float().masked_fill(~finite, 0) for each in (getattr(one, name), kept))
            apart = apart + (one_layer - its).square().sum((1, 3))
            size = size + its.square().sum((1, 3))
        _check(name, apart.sqrt(), size.sqrt(), torch.zeros_like(size), computed, other_kernels=False)


def _check(
    name: str, apart: Tensor, size: Tensor, rounded: Tensor, computed: torch.dtype, other_kernels: bool
) -> None:
    in_16_bits = 5e-2 if other_kernels else 2e-2
    share = 1e-4 if computed == torch.float32 else in_16_bits
    if not bool((apart <= share * size + rounded).all()):
        worst = float((apart / size.clamp(min=1e-30)).max())
        raise Differs(f"their {name} would differ from the plain path's by {worst:.1e} of their size")
