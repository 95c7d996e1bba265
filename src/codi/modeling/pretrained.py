"""Bases that are pretrained here, on generated texts: the one that comes with the package, and one's own.

    small_base/  config.json, model.safetensors, tokenizer files      a plain causal LM
                 base.json    what it was pretrained on, by which tokenizer, and the weights' SHA-256

Such a base knows one world. Another version of the generator, or another tokenizer, would ask it in words it
has never seen, and every system that starts from it would be measured on that.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from codi.data import two_branches
from codi.errors import CheckpointError

OWN_BASES = {"small-base": Path(__file__).parent / "small_base"}
"""The bases that come with the package, by the name that `model.base` takes."""
VERSIONS = {"two-branches": two_branches.VERSION}
"""Of the generators that bases are pretrained on."""
IDENTITY, WEIGHTS = "base.json", "model.safetensors"


def write_identity(folder: Path, *, source: str, tokenizer: Any, made_by: str) -> None:
    """Say beside a base's weights what it is. source: the generator whose texts it was pretrained on."""
    values = {
        "made_by": made_by,
        "source": source,
        "version": VERSIONS[source],
        "tokenizer": _vocabulary_mark(tokenizer),
        "sha256": _sha256(folder / WEIGHTS),
    }
    (folder / IDENTITY).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def check_whole(folder: Path) -> None:
    """Raise CheckpointError where a base pretrained here has other weights than it was made with."""
    if not (folder / IDENTITY).is_file():
        return
    said = _identity(folder)
    if _sha256(folder / WEIGHTS) != said["sha256"]:
        raise CheckpointError(
            f"The weights in '{folder}' are not those that {IDENTITY} beside them was written for "
            f"(SHA-256 {str(said['sha256'])[:12]}...). Make the base anew: {said['made_by']}"
        )


def check_world(folder: Path, tokenizer: Any) -> None:
    """Raise CheckpointError where a base pretrained here does not fit the tokenizer or today's generator."""
    if not (folder / IDENTITY).is_file():
        return
    said = _identity(folder)
    source, version = said["source"], said["version"]
    if VERSIONS.get(source) != version:
        raise CheckpointError(
            f"The base '{folder}' was pretrained on {source} version {version}; this package generates "
            f"version {VERSIONS.get(source, 'none')}, whose problems it does not know. Make it anew: "
            f"{said['made_by']}"
        )
    if _vocabulary_mark(tokenizer) != said["tokenizer"]:
        raise CheckpointError(
            f"The base '{folder}' was pretrained with another tokenizer than the run's, so it would read "
            "other words. Leave 'tokenizer' out of the settings (the base brings its own), or make the base "
            f"anew: {said['made_by']}"
        )


def base_digest(base: str | None) -> str | None:
    """SHA-256 of the weights of a base that was pretrained here, as its identity says; None of another.

    Raises CheckpointError where the identity is damaged.
    """
    folder = OWN_BASES.get(base or "") or Path(base or "")
    return str(_identity(folder)["sha256"]) if base and (folder / IDENTITY).is_file() else None


def _identity(folder: Path) -> dict[str, Any]:
    try:
        said = json.loads((folder / IDENTITY).read_text(encoding="utf-8"))
        return {key: said[key] for key in ("made_by", "source", "version", "tokenizer", "sha256")}
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{folder / IDENTITY} is damaged ({error}). Copy or make the base again."
        ) from error


def _vocabulary_mark(tokenizer: Any) -> str:
    vocabulary = json.dumps(tokenizer.get_vocab(), sort_keys=True)
    return hashlib.sha256(vocabulary.encode()).hexdigest()[:16]


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
