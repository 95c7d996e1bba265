"""Small files written whole or not at all, so that a reader never meets half of one."""

from __future__ import annotations

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
