"""The names that splits go by in files and folders."""

from __future__ import annotations

import re
from collections.abc import Iterable

from codi.errors import DataError

_NAMES = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip


def split_named(name: str, split: str | None = None) -> bool:
    """Whether `name` is the name of a split: of `split` where one is given, by its own or a usual name."""
    usual = _NAMES.get(name.lower())
    if split is None:
        return usual is not None
    return name == split or (usual is not None and usual == _NAMES.get(split.lower()))


def split_of(file_name: str) -> str | None:
    """The split that a file or folder is named after (`train-00000-of-00002`, `gsm8k_test`), or None."""
    words = re.split(r"[^a-z]+", file_name.lower())
    return next((_NAMES[word] for word in words if word in _NAMES), None)


def choose_split(found: Iterable[str], split: str, where: str) -> str:
    """The one of the splits `found` that is asked for. Raises DataError naming them when it is not there."""
    names = list(found)
    if split in names:
        return split
    chosen = next((name for name in names if split_named(name, split)), None)
    if chosen is None:
        raise DataError(
            f"{where} has no split '{split}'. Splits: {', '.join(names)}. Choose one by '?split={names[0]}' "
            "after the source, by --split, or by data.train_split and data.validation_split in training."
        )
    return chosen
