"""FSDP2: weights, gradients and optimiser state cut over the processes; whole again where they are needed.

The wrapped forward is sharded as one unit, never layer by layer. A layer is used many times in one step (the
question, each thought, the answer) and gradients flow through its key/value cache: a unit of its own would
free its weights after the first of those backward passes, and the others crash (pytorch#173794). So the whole
model's weights stand in memory during a step, in bfloat16 under bf16; what is kept between steps is divided.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from codi import processes
from codi.errors import TrainingError


def check_plugin(plugin: Any, optimizer: Any) -> None:
    """Refuse what cannot work, before anything is trained. plugin: accelerate's, None without FSDP."""
    if plugin is None:
        if os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true":
            raise TrainingError(
                "FSDP was asked for, but accelerate shards on accelerators only and found none: it would "
                "train with whole copies and say nothing. Use codi/training/launch/ddp.yaml here."
            )
        return
    use = "Start with codi/training/launch/fsdp2.yaml, which sets it right."
    if plugin.fsdp_version != 2:
        raise TrainingError(f"FSDP version {plugin.fsdp_version} was asked for; only version 2 works. {use}")
    if plugin.activation_checkpointing:
        raise TrainingError(
            "fsdp_activation_checkpointing was asked for, but it cannot be used: it sets every layer's cache "
            f"to None, so the continuous thoughts would lose their question. {use}"
        )
    policy = getattr(plugin.auto_wrap_policy, "__name__", None) or getattr(
        getattr(plugin.auto_wrap_policy, "func", None), "__name__", None
    )
    if policy is not None:
        raise TrainingError(
            f"FSDP was asked to shard layer by layer ({policy}), but gradients flow through each layer's "
            "cache, and a layer that is freed after its first backward pass crashes the others. Set "
            f"fsdp_auto_wrap_policy: NO_WRAP. {use}"
        )
    if plugin.cpu_ram_efficient_loading:
        raise TrainingError(
            "fsdp_cpu_ram_efficient_loading was asked for, but projection and thought tokens are made in "
            f"every process. Set it to false. {use}"
        )
    if optimizer is not None:
        raise TrainingError(
            "Muon was asked for together with FSDP. It makes whole matrices orthogonal, and FSDP cuts them. "
            "Use optimizer=null, or DDP (codi/training/launch/ddp.yaml)."
        )


@contextmanager
def answering(module: Any) -> Iterator[None]:
    """Whole weights on every device, in the precision of the forward pass; for use outside the forward."""
    if not isinstance(module, FSDPModule):
        yield
        return
    module.unshard()
    try:
        yield
    finally:
        module.reshard()


@contextmanager
def writing(module: Any) -> Iterator[None]:
    """Whole weights as they are trained, in process 0's memory (not the GPU's); shapes alone elsewhere.

    All processes must enter it: each tensor is put together by all of them.
    """
    with _swapped(module, _whole):
        yield


@contextmanager
def loading(module: Any) -> Iterator[None]:
    """Whole weights in every process's memory; what is written into them is cut up again afterwards."""
    with _swapped(module, lambda weight: weight.full_tensor().cpu()) as swapped, torch.no_grad():
        yield
        for sharded, whole in swapped:
            sharded.copy_(_cut_like(sharded, whole))


@contextmanager
def _swapped(module: nn.Module, whole: Callable[[DTensor], Tensor]) -> Iterator[list[tuple[DTensor, Tensor]]]:
    """Each sharded weight replaced by a whole one meanwhile; yields both. Nothing without FSDP."""
    if isinstance(module, FSDPModule):
        module.reshard()
    places: list[tuple[nn.Module, str, Any]] = [
        (part, name, weight)
        for part in module.modules()
        for name, weight in part._parameters.items()
        if isinstance(weight, DTensor)
    ]
    hooks = [(part, part._load_state_dict_post_hooks) for part in {id(p): p for p, _, _ in places}.values()]
    for part, _ in hooks:  # FSDP's own expect sharded weights
        part._load_state_dict_post_hooks = OrderedDict()
    made: dict[int, nn.Parameter] = {}
    for part, name, weight in places:
        if id(weight) not in made:  # a tied weight is one tensor before and after
            made[id(weight)] = nn.Parameter(whole(weight.detach()), requires_grad=weight.requires_grad)
        part._parameters[name] = made[id(weight)]
    try:
        yield list({id(weight): (weight, made[id(weight)]) for _, _, weight in places}.values())
    finally:
        for part, name, weight in places:
            part._parameters[name] = weight
        for part, kept in hooks:
            part._load_state_dict_post_hooks = kept


def own_part(weight: Tensor) -> Tensor:
    """What this process holds of a weight."""
    return weight.to_local() if isinstance(weight, DTensor) else weight


def save_optimizer(optimizer: Any, file: Path) -> None:
    """Write the state as one process would: it can be loaded with any number of them, sharded or not."""
    state = _mapped(optimizer.state_dict(), _whole)
    if processes.is_first():
        torch.save(state, file)


def load_optimizer(optimizer: Any, file: Path) -> None:
    """Read such a state and take this process's part of it."""
    state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    for number, moments in state["state"].items():
        weight = weights[number]
        for name, value in moments.items():
            if isinstance(weight, DTensor) and isinstance(value, Tensor) and value.shape == weight.shape:
                moments[name] = _cut_like(weight, value)
    optimizer.load_state_dict(state)


def _cut_like(sharded: DTensor, whole: Tensor) -> DTensor:
    """This process's part of a tensor that every process has."""
    given = whole.to(sharded.device)
    return distribute_tensor(given, sharded.device_mesh, sharded.placements, src_data_rank=None)


def _mapped(values: Any, change: Any) -> Any:
    if isinstance(values, dict):
        return {key: _mapped(value, change) for key, value in values.items()}
    if isinstance(values, list):
        return [_mapped(value, change) for value in values]
    return change(values) if isinstance(values, Tensor) else values


def _whole(tensor: Tensor) -> Tensor:
    """A tensor in process 0's memory; its shape alone elsewhere. Called by all processes."""
    full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return full.cpu() if processes.is_first() else torch.empty_like(full, device="meta")
