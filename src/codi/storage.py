"""Files that are there whole or not at all: small ones written in one go, large ones brought to the disk."""

from __future__ import annotations

import os
from pathlib import Path

from codi.errors import DataError


def write_whole(path: Path, text: str) -> None:
    """Write `text` under another name, then move it into place.

    Raises DataError when the disk refuses; what was at `path` before stays.
    """
    scratch = path.with_name(f".{path.name}.saving")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(path)
    except OSError as error:
        if path.parent.is_dir():
            scratch.unlink(missing_ok=True)
        raise DataError(
            f"'{path}' could not be written: {error.strerror or error}. Free some space, fix the folder's "
            "rights, or choose another output."
        ) from error


def keep_through_power_cut(folder: Path, name: str = "*") -> None:
    """Wait until the files of a folder (those called `name`) are on the disk, not only on their way to it.

    Raises OSError when the disk refuses.
    """
    for path in (*(file for file in folder.glob(name) if file.is_file()), folder):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
