"""Peak memory of a training step, per variant.

On an accelerator: torch's own counts, of what tensors hold and of what torch has reserved. Memory that a
recorded step computes in is free to the former, though nobody else can use it: compare graphs by the latter.
On a CPU: each variant in a fresh process, its highest resident size in two steps (the second has the
optimiser's state) less its size before the first.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from codi.bench.steps import (
    GRAPH,
    VARIANTS,
    build_models,
    computed,
    played,
    step_of,
    timed_step,
    variants_on,
)
from codi.errors import UsageError
from codi.methods.method import Method, build_method

STEPS = 2


@dataclass(frozen=True, slots=True)
class Peak:
    """Most bytes above the model itself. held: by tensors, or the process; reserved: by torch."""

    held: int
    reserved: int | None = None


def measure_memory(
    method: Method,
    size: str,
    lora_rank: int,
    batch: dict[str, Tensor],
    device: torch.device,
    bf16: bool,
    seed: int,
    base_dtype: str | None = None,
    of_one_shape: dict[str, Tensor] | None = None,
) -> dict[str, Peak]:
    """By variant. of_one_shape: the batch as a graph is given it."""
    if device.type not in ("cpu", "cuda"):
        return {}
    if device.type == "cuda":
        return {
            name: _peak_on_cuda(
                name, method, size, lora_rank, of_one_shape if name == GRAPH and of_one_shape else batch,
                device, bf16, seed, base_dtype,
            )
            for name in variants_on(device)
        }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "batch.pt"
        torch.save(batch, file)
        return {
            name: Peak(_peak_in_fresh_process(name, method, size, lora_rank, file, bf16, seed, base_dtype))
            for name in VARIANTS
        }


def _run(
    variant: str,
    method: Method,
    size: str,
    lora_rank: int,
    batch: dict[str, Tensor],
    bf16: bool,
    seed: int,
    base_dtype: str | None,
) -> Peak:
    """What is held and reserved before the steps; runs them."""
    device = batch["question_ids"].device
    model = build_models(method, size, lora_rank, seed, device, only=variant, base_dtype=base_dtype)[variant]
    if variant == GRAPH:
        work = played(model, method, len(batch["question_ids"]), device, bf16, print)
    else:
        work = computed(step_of(variant, model, method), device, bf16)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        before = Peak(torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device))
        torch.cuda.reset_peak_memory_stats(device)
    else:
        before = Peak(_resident_bytes())
    for _ in range(STEPS):
        timed_step(work, optimizer, batch, device)
    return before


def _peak_on_cuda(
    variant: str,
    method: Method,
    size: str,
    lora_rank: int,
    batch: dict[str, Tensor],
    device: torch.device,
    bf16: bool,
    seed: int,
    base_dtype: str | None,
) -> Peak:
    before = _run(variant, method, size, lora_rank, batch, bf16, seed, base_dtype)
    reserved = torch.cuda.max_memory_reserved(device) - (before.reserved or 0)
    return Peak(torch.cuda.max_memory_allocated(device) - before.held, reserved)


def _peak_in_fresh_process(
    variant: str, method: Method, size: str, lora_rank: int, batch: Path, bf16: bool, seed: int,
    base_dtype: str | None,
) -> int:  # fmt: skip
    asked = {
        "variant": variant,
        "method": method.as_dict(),
        "size": size,
        "lora_rank": lora_rank,
        "batch": str(batch),
        "bf16": bf16,
        "seed": seed,
        "base_dtype": base_dtype,
    }
    done = subprocess.run(
        [sys.executable, "-m", "codi.bench.memory", json.dumps(asked)],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        raise UsageError(
            f"The memory of '{variant}' could not be measured: {reason[0]}. Go without (memory off)."
        )
    return int(done.stdout.split()[-1])


def _resident_bytes() -> int:
    """Bytes this process holds now; where the system does not say, the most it ever held."""
    return _status("VmRSS") or peak_bytes()


def peak_bytes() -> int:
    """Most bytes this process ever held.

    The kernel's own mark where there is one: `ru_maxrss` starts, after a fork, at the parent's.
    """
    unit = 1 if sys.platform == "darwin" else 1024
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _status(field: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), None)


def _main() -> None:
    asked = json.loads(sys.argv[1])
    batch: dict[str, Tensor] = torch.load(asked.pop("batch"))
    variant, method = asked.pop("variant"), build_method(asked.pop("method"))
    before = _run(variant, method, batch=batch, **asked)
    print(peak_bytes() - before.held)


if __name__ == "__main__":
    _main()
