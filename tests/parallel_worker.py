"""Tiny runs in one of several processes: torchrun --nproc-per-node 2 tests/parallel_worker.py JOBS.json

A job: settings (a recipe's values), output, fsdp, resume, and where to be killed (`kill`: step of process 1).
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

from codi import processes
from codi.training.run import train
from tiny_runs import configured


class KeepGradients(TrainerCallback):
    """Writes the gradients of the first step taken, whole, to `<output>.gradients`."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.file.exists():
            return
        gradients, sharded = {}, set()
        for name, weight in kwargs["model"].named_parameters():
            grad = weight.grad
            if grad is not None:
                sharded.add(isinstance(grad, DTensor))
                gradients[name] = grad.full_tensor() if isinstance(grad, DTensor) else grad.clone()
        processes.everyones(None)  # no one finds the file of this very step
        if processes.is_first():
            torch.save(gradients, self.file)
            self.file.with_suffix(".sharded").write_text(json.dumps(sorted(sharded)))


class Kill(TrainerCallback):
    """Process 1 kills itself after a step, as the kernel does when memory runs out."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if processes.number() == 1 and state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "NO_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "false",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
}


def allow_fsdp_on_cpu() -> None:
    """accelerate turns to FSDP on accelerators only, though torch shards over gloo as it does over nccl."""
    usual = AcceleratorState.__init__

    def init(self: Any, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
        usual(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin

    AcceleratorState.__init__ = init


def main(jobs_file: str) -> None:
    torch.set_num_threads(1)
    allow_fsdp_on_cpu()
    for job in json.loads(Path(jobs_file).read_text(encoding="utf-8")):
        for name, value in FSDP.items():
            os.environ.pop(name, None)
            if job.get("fsdp"):
                os.environ[name] = value
        output = Path(job["output"])
        callbacks: list[TrainerCallback] = [KeepGradients(Path(f"{output}.gradients"))]
        if "kill" in job:
            callbacks.append(Kill(job["kill"]))
        train(
            configured(job["settings"]), output, resume=job.get("resume", False), say=lambda _: None,
            callbacks=callbacks,
        )  # fmt: skip
    processes.leave()
    sys.stdout.flush()
    os._exit(0)  # a thread of gloo's that FSDP's mesh began now and then aborts an ordinary exit


if __name__ == "__main__":
    main(sys.argv[1])
