"""What a GPU did in a step: how long it computed, with how many kernels, and how near to its limit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from codi.bench.steps import Work, timed_step

PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Operations a second in bfloat16, dense, by what a GPU's name has in it."""


def operations(work: Work, batch: dict[str, Tensor]) -> int:
    """Additions and multiplications of matrix products in forward and backward, padding included."""
    with FlopCounterMode(display=False) as counter:
        work(batch)
    return int(counter.get_total_flops())


def share_of_peak(operations: int, seconds: float, device: torch.device) -> float | None:
    """Of what the GPU can do in bfloat16; None for one that is not known."""
    name = torch.cuda.get_device_name(device)
    peak = next((peak for known, peak in PEAK.items() if known in name), None)
    return None if peak is None else operations / seconds / peak


def profiled(
    work: Work, optimizer: torch.optim.Optimizer, batch: dict[str, Tensor], device: torch.device
) -> dict[str, Any]:
    """Kernels of one step, and the seconds that they took together."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        timed_step(work, optimizer, batch, device)
    kernels = [
        event
        for event in profile.events() or ()
        if event.device_type.name == "CUDA" and not getattr(event, "is_user_annotation", False)
    ]
    return {"kernels": len(kernels), "gpu_seconds": sum(e.time_range.elapsed_us() for e in kernels) / 1e6}
