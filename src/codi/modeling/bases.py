"""What stands at `model.base`, looked at before anything is loaded: each fault is named with its way out.

    a folder or hub id      config.json and whole weights: a plain causal LM
    an adapter (PEFT)       adapter_config.json: never attached in silence; refused, or merged if asked for
    a .gguf file            by its path, or model.base=FOLDER_OR_HUB_ID and model.gguf_file=NAME

A path that is not there is never taken for a hub id.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codi.errors import CheckpointError, RecipeError

ADAPTER_CONFIG, MODEL_CONFIG, CODI_CONFIG = "adapter_config.json", "config.json", "codi.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""In one file; several are listed in an index of the same name with `.index.json` behind it."""
GGUF, GGUF_MAGIC = ".gguf", b"GGUF"
_LFS_POINTER = b"version https://git-lfs"
_FILE_ENDINGS = (".safetensors", ".bin", ".json", GGUF)


@dataclass(frozen=True)
class Base:
    """A base that can be loaded. where: folder or hub id; adapter: of a PEFT adapter, its configuration."""

    where: str
    revision: str | None = None
    gguf_file: str | None = None
    adapter: dict[str, Any] | None = None

    @property
    def under_adapter(self) -> str:
        """The base that the adapter was trained over. Raises CheckpointError where it does not say."""
        name = (self.adapter or {}).get("base_model_name_or_path")
        if not name:
            raise CheckpointError(
                f"The adapter in '{self.where}' does not say what it was trained over. Write it into its "
                f"{ADAPTER_CONFIG} as base_model_name_or_path."
            )
        return str(name)


def look_at(base: str, revision: str | None = None, gguf_file: str | None = None) -> Base:
    """What stands at `base`.

    Raises CheckpointError (RecipeError where the settings contradict each other) when it is no model: nothing
    there, no configuration, weights missing, cut off, or not fetched.
    """
    path = Path(base).expanduser()
    if path.is_file():
        return _file(path, gguf_file)
    if path.is_dir():
        return _folder(path, base, gguf_file)
    if is_path(base):
        raise CheckpointError(f"There is no model at '{base}'{_seen_from(path)}.")
    if gguf_file is not None:
        _needs_gguf(f"{base}/{gguf_file}")
        return Base(base, revision, gguf_file)
    return Base(base, revision, adapter=_adapter_on_hub(base, revision))


def is_path(name: str) -> bool:
    """Whether a name can only be a path: hub ids are NAME or OWNER/NAME."""
    return (
        name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name
        or name.endswith(("/", *_FILE_ENDINGS))
    )  # fmt: skip


def _seen_from(path: Path) -> str:
    return "" if path.is_absolute() else f" (seen from '{Path.cwd()}')"


def _file(path: Path, gguf_file: str | None) -> Base:
    if path.suffix.lower() == GGUF:
        if gguf_file is not None:
            raise RecipeError(
                f"model.base is the GGUF file '{path}' and model.gguf_file names '{gguf_file}'. Give one "
                "of them."
            )
        _check_gguf(path)
        return Base(str(path.parent), gguf_file=path.name)
    raise CheckpointError(
        f"'{path}' is a file. As a base give the folder that holds the model, '{path.parent}', or a .gguf "
        "file."
    )


def _folder(path: Path, base: str, gguf_file: str | None) -> Base:
    if gguf_file is not None:
        if not (path / gguf_file).is_file():
            raise CheckpointError(
                f"There is no file '{gguf_file}' in '{path}' (model.gguf_file).{_gguf_files(path)}"
            )
        _check_gguf(path / gguf_file)
        return Base(base, gguf_file=gguf_file)
    if (path / ADAPTER_CONFIG).exists():
        return Base(base, adapter=_json(path / ADAPTER_CONFIG))
    if not (path / MODEL_CONFIG).exists():
        raise CheckpointError(f"'{path}' holds no model: there is no {MODEL_CONFIG} in it.{_instead(path)}")
    if not _json(path / MODEL_CONFIG).get("model_type"):
        raise CheckpointError(
            f"{path / MODEL_CONFIG} names no model_type: it is not the configuration of a transformers model."
        )
    _check_weights(path)
    return Base(base)


def _instead(path: Path) -> str:
    """What a folder without a model holds, and what to do about it."""
    if any(path.glob(f"*{GGUF}")):
        return _gguf_files(path)
    inner = [folder.name for folder in sorted(path.iterdir()) if (folder / MODEL_CONFIG).is_file()]
    if inner:
        return f" Its folder '{inner[0]}' does: give '{path / inner[0]}'."
    names = sorted(file.name for file in path.iterdir())
    if not names:
        return " It is empty."
    if any(name.startswith(("tokenizer", "vocab")) for name in names) and not any(map(_is_weights, names)):
        return " It holds a tokenizer alone. Give the folder of a whole model, or this one as tokenizer=..."
    return f" It holds {_listed(names)}. Give the folder of a whole model (config.json, weights, tokenizer)."


def _is_weights(name: str) -> bool:
    return name.endswith((".safetensors", ".bin"))


def _gguf_files(path: Path) -> str:
    files = sorted(file.name for file in path.glob(f"*{GGUF}"))
    return f" It holds {_listed(files)}: give one of them, model.base={path / files[0]}" if files else ""


def _listed(names: list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names[:5]) + (f" and {len(names) - 5} more" if names[5:] else "")


def _check_weights(path: Path) -> None:
    """Raise CheckpointError when weights are missing, cut off, or were never fetched."""
    for name in WEIGHTS:
        index = path / f"{name}.index.json"
        if (path / name).exists():
            files: Iterable[str] = [name]
        elif index.exists():
            mapped = _json(index).get("weight_map")
            if not isinstance(mapped, dict):
                raise CheckpointError(f"{index} has no 'weight_map': it does not say where the weights are.")
            files = sorted(set(mapped.values()))
        else:
            continue
        faults = {file: fault for file in files if (fault := weights_fault(path / file)) is not None}
        if faults:
            told = "; ".join(f"{file} {fault}" for file, fault in list(faults.items())[:5])
            more = f" (and {len(faults) - 5} more)" if faults.keys() - list(faults)[:5] else ""
            raise CheckpointError(
                f"The weights in '{path}' are not whole: {told}{more}. Fetch or copy them again."
            )
        return
    raise CheckpointError(
        f"'{path}' has a {MODEL_CONFIG} but no weights ({WEIGHTS[0]}, or its index and parts). "
        "Copy or fetch them too."
    )


def weights_fault(file: Path) -> str | None:
    """What is wrong with a file of weights, without reading them all; None where it is whole.

    A safetensors file says in its header how long it must be. Of other files only emptiness is seen.
    """
    if not file.is_file():
        return "is missing"
    size = file.stat().st_size
    if size == 0:
        return "is empty"
    with file.open("rb") as opened:
        start = opened.read(len(_LFS_POINTER))
        if start == _LFS_POINTER:
            return "is a Git LFS pointer in place of the weights (git lfs pull fetches them)"
        if file.suffix != ".safetensors":
            return None
        opened.seek(0)
        length = int.from_bytes(opened.read(8), "little")
        if 8 + length > size:
            return f"is cut off or damaged ({size:,} bytes)"
        try:
            header = json.loads(opened.read(length))
            ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        except (ValueError, TypeError, KeyError, IndexError, AttributeError):
            return "is damaged (its header cannot be read)"
    wanted = 8 + length + max(ends, default=0)
    return None if size == wanted else f"is cut off or damaged ({size:,} of {wanted:,} bytes)"


def _json(file: Path) -> dict[str, Any]:
    try:
        values: Any = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}. Fetch or copy it again.") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{file} is damaged: it holds no object with settings. Fetch or copy it again.")
    return values


# --- adapters -----------------------------------------------------------------------------------------------


def refuse_adapter(base: Base) -> CheckpointError:
    """Why an adapter is not loaded as a base unasked, and what to do."""
    folder = Path(base.where)
    over = (base.adapter or {}).get("base_model_name_or_path") or "a base that it does not name"
    if (folder / CODI_CONFIG).exists():
        return CheckpointError(
            f"'{base.where}' is a checkpoint of codi with LoRA adapters over '{over}'. To train on from it "
            f"give start={base.where} with model.base={over}; to use its language model as a base, multiply "
            "the adapters in with model.merge_adapter=true."
        )
    beside = next((name for name in (*WEIGHTS, f"{WEIGHTS[0]}.index.json") if (folder / name).exists()), None)
    also = (
        f" (It also holds {beside}: where that is the merged model already, give a folder without "
        f"{ADAPTER_CONFIG}.)"
    )
    return CheckpointError(
        f"'{base.where}' is a {(base.adapter or {}).get('peft_type') or 'PEFT'} adapter of '{over}', not a "
        "whole model; its fine-tuning would be lost or frozen. Set model.merge_adapter=true to train over "
        f"'{over}' with the adapter multiplied in.{also if beside else ''}"
    )


def find_file(name: str, file: str, revision: str | None = None) -> Path | None:
    """A file of a folder or hub id; None where it has none (or nothing can be fetched)."""
    from transformers.utils.hub import cached_file

    if is_path(name) and not Path(name).expanduser().is_dir():
        return None
    try:
        found = cached_file(
            str(Path(name).expanduser()) if is_path(name) else name, file, revision=revision,
            _raise_exceptions_for_gated_repo=False, _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )  # fmt: skip
    except (OSError, ValueError):
        return None  # loading it will say what is wrong with the name
    return None if found is None else Path(found)


def _adapter_on_hub(name: str, revision: str | None) -> dict[str, Any] | None:
    """The adapter configuration of a hub id; None where it has none (or nothing can be fetched)."""
    from transformers.utils.peft_utils import find_adapter_config_file

    try:
        file = find_adapter_config_file(name, revision=revision or "main")
    except (OSError, ValueError):
        return None  # loading it will say what is wrong with the name
    return _json(Path(file)) if file is not None else None


# --- GGUF ---------------------------------------------------------------------------------------------------


def _needs_gguf(asked: str) -> None:
    from transformers.utils.import_utils import is_gguf_available

    if not is_gguf_available():
        raise CheckpointError(
            f"Reading '{asked}' needs the package gguf, which is not installed (or is too old): "
            "pip install 'codi[gguf]'"
        )


def _check_gguf(file: Path) -> None:
    """Raise CheckpointError when the file is no GGUF file, or the package that reads it is missing."""
    with file.open("rb") as opened:
        start = opened.read(24)
    if start.startswith(_LFS_POINTER[:8]):
        raise CheckpointError(f"'{file}' is a Git LFS pointer in place of the file: git lfs pull fetches it.")
    if not start.startswith(GGUF_MAGIC) or len(start) < 24 or struct.unpack("<I", start[4:8])[0] == 0:
        raise CheckpointError(f"'{file}' is not a GGUF file, or is damaged: it does not begin as one.")
    _needs_gguf(str(file))
