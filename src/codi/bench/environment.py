"""What the figures of a bench depend on, and the wait for what an accelerator still has to do."""

from __future__ import annotations

import platform
from typing import Any

import torch
import transformers


def environment(device: torch.device, bf16: bool) -> dict[str, Any]:
    """What a figure depends on."""
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{device.type} {platform.machine()}",
        "dtype": "bfloat16 autocast" if bf16 else "float32",
    }


def synchronize(device: torch.device) -> None:
    """Wait for what the accelerator still has to do."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
