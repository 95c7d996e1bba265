"""Reading the weight files of a published CODI checkpoint: found, and read without running what is in them.

    pytorch_model.bin                    model.safetensors
    pytorch_model.bin.index.json + ..    model.safetensors.index.json + ..     (sharded)

A `.bin` file is a pickle, and a pickle can hold code. It is read with torch's `weights_only`, which knows
tensors and nothing else.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from codi.errors import CheckpointError
from codi.modeling.checkpoint import CONFIGURATION, fetch

LAYOUTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""In the order in which they are looked for; the released code too takes safetensors first."""
ADAPTERS = tuple(name.replace("pytorch_model", "model").replace("model", "adapter_model") for name in LAYOUTS)
"""The same of a folder that peft wrote."""


def fetched(source: str) -> Path:
    """A file or folder on this machine; a hub id is fetched. Raises CheckpointError when there is none."""
    path = Path(source)
    return path if path.exists() else fetch(source, ["*.safetensors", "*.bin", "*.json"])


def find_weights(source: str, layouts: tuple[str, ...] = LAYOUTS) -> Path:
    """The weight file, or the index of the shards, of a folder, a file or a hub id.

    Raises CheckpointError when there is none.
    """
    folder = fetched(source)
    if folder.is_file():
        return folder
    for name in layouts:
        if (folder / name).is_file():
            return folder / name
    if (folder / CONFIGURATION).exists():
        raise CheckpointError(
            f"'{source}' is a checkpoint of this package already (it has {CONFIGURATION}): use it as it is."
        )
    found = ", ".join(sorted(file.name for file in folder.iterdir())[:8]) or "nothing"
    raise CheckpointError(
        f"'{source}' holds no weights. Looked for {', '.join(layouts)}; found {found}. "
        "Give the folder or the file with the published weights."
    )


def read_weights(file: Path) -> dict[str, Tensor]:
    """Every tensor by name, on the CPU. `file`: weights, or the index of shards beside it.

    Raises CheckpointError for a file that is damaged, holds anything but tensors, or lacks a shard.
    """
    if not file.name.endswith(".index.json"):
        return _read_one(file)
    weights: dict[str, Tensor] = {}
    listed = _listed(file)
    for shard in sorted(set(listed.values())):
        # Names in an index are not ours to trust: only files beside it are opened.
        if Path(shard).name != shard:
            raise CheckpointError(f"{file} names the shard '{shard}', which is not a file beside it.")
        if not (file.parent / shard).is_file():
            raise CheckpointError(f"{file} names the shard '{shard}', which is missing. Fetch it again.")
        weights.update(_read_one(file.parent / shard))
    lost = sorted(set(listed) - set(weights))
    if lost:
        raise CheckpointError(f"{file} lists weights that no shard holds: {', '.join(lost[:5])}.")
    return weights


def _listed(index: Path) -> dict[str, str]:
    """The index's map from weight to shard."""
    try:
        contents: Any = json.loads(index.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{index} is not JSON: {error}. Fetch it again.") from error
    listed = contents.get("weight_map") if isinstance(contents, dict) else None
    if not isinstance(listed, dict) or not all(isinstance(shard, str) for shard in listed.values()):
        raise CheckpointError(f"{index} has no 'weight_map' from weights to files. Fetch it again.")
    return listed


def _read_one(file: Path) -> dict[str, Tensor]:
    if file.suffix == ".safetensors":
        try:
            return load_file(file)
        except SafetensorError as error:
            raise CheckpointError(_damaged(file, error)) from error
    try:
        weights: Any = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "unsupported" in str(error).lower():
            raise CheckpointError(
                f"{file} is a pickle that asks for more than tensors ({_reason(error)}). Opening it could "
                "run code, so it was refused and nothing of it was run. Get the weights as .safetensors, or "
                "from someone you trust."
            ) from error
        raise CheckpointError(_damaged(file, error)) from error
    except (
        OSError, RuntimeError, EOFError, ValueError, KeyError, IndexError, AssertionError, TypeError,
    ) as error:  # fmt: skip
        raise CheckpointError(_damaged(file, error)) from error
    if not isinstance(weights, dict) or not all(
        isinstance(name, str) and isinstance(weight, Tensor) for name, weight in weights.items()
    ):
        raise CheckpointError(
            f"{file} does not hold tensors by name but a {type(weights).__name__} of other things. "
            "Give the weights file alone, not a training state."
        )
    return {name: weight.detach() for name, weight in weights.items()}


def _reason(error: Exception) -> str:
    """The line of torch's message that names what was asked for."""
    lines = [line.strip() for line in str(error).splitlines() if "unsupported" in line.lower()]
    return lines[0].rstrip(".")


def _damaged(file: Path, error: Exception) -> str:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return (
        f"{file} could not be read: it is damaged or cut short ({file.stat().st_size:,} bytes; {reason}). "
        "Fetch it again."
    )
