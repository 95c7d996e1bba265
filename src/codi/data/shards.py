"""Sources of several files: folders, patterns (`data/train-*.jsonl.gz`), and what `datasets` saved to disk.

The files of a source are read in natural order (`part-2` before `part-10`). Where they are of several splits,
by their names, the split asked for is read; files of several forms are refused, for they may be the same rows
twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from codi.data.files import READERS, data_ending, file_stem
from codi.data.splits import choose_split, split_of
from codi.errors import DataError

SAVED_SET, SAVED_SPLITS = "state.json", "dataset_dict.json"
"""Files that `datasets` writes beside what it saves to disk: for one split, and for several."""

_NO_ROWS = {SAVED_SET, SAVED_SPLITS, "dataset_info.json", "dataset_infos.json", "license.txt", "readme.txt",
            "requirements.txt"}  # fmt: skip
# A '?' with an option after it asks for something: it is no pattern.
_PATTERN = re.compile(r"[*\[]|\?(?!\w+=)")


def split_off(source: str) -> tuple[str, str | None]:
    """A path and the split that `?split=NAME` after it asks for (None where nothing does)."""
    match = re.fullmatch(r"(.+)\?split=([^?*/&]+)", source)
    return (match[1], match[2]) if match else (source, None)


def path_of(source: str) -> Path:
    """The path that `source` names; `~` is the home folder."""
    return Path(split_off(source)[0]).expanduser()


def is_data_path(source: str) -> bool:
    """Whether `source` names a file, a folder or a pattern of data: one that is there, or by its form."""
    path = split_off(source)[0]
    if "://" in path or path.startswith("hub:"):
        return False
    return path_of(path).exists() or data_ending(path) is not None or bool(_PATTERN.search(path))


def saved_by_datasets(folder: Path) -> bool:
    """Whether `folder` is what `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote."""
    return any((folder / name).is_file() for name in (SAVED_SET, SAVED_SPLITS))


def files_of(path: Path, split: str) -> list[Path]:
    """The files that `path` (of a file, a folder or a pattern) stands for, in natural order.

    Raises:
        DataError: there is none, none of the split asked for, or they are of several forms.
    """
    if path.is_dir():
        return _of_folder(path, split)
    if path.exists() or not _PATTERN.search(str(path)):
        return [path]
    matching = list(_matching(path))
    files = _with_data(filter(Path.is_file, matching))
    if not files:
        folders = sum(found.is_dir() for found in matching)
        found = f"{folders} folders" if folders else f"{len(matching)} files of no known form"
        raise DataError(
            f"No file of data matches '{path}' (found: {found if matching else 'nothing'}). Check the "
            f"pattern; known forms: {', '.join(READERS)}."
        )
    splits = _by_split(files, _fixed_part(path))
    # A pattern that matches one split says which; a folder does not.
    chosen = files if len(splits) == 1 else _of_split(splits, split, f"'{path}'")
    return _of_one_form(chosen, f"'{path}'")


def named_files(path: Path) -> list[Path]:
    """All files that `path` (of a file, a folder or a pattern) names, of any split and form, in order.

    Hidden ones below a folder are none; the folder itself may lie in a hidden one.
    """
    if path.is_dir():
        below = ((file, file.relative_to(path)) for file in path.rglob("*") if file.is_file())
        return sorted(file for file, inner in below if not any(part.startswith(".") for part in inner.parts))
    if path.is_file() or not _PATTERN.search(str(path)):
        return [path] if path.is_file() else []
    return sorted(filter(Path.is_file, _matching(path)))


def _of_folder(folder: Path, split: str) -> list[Path]:
    where = f"The folder '{folder}'"
    files = _with_data(filter(Path.is_file, folder.iterdir()))
    if not files:
        # One level down, as sets lie on the hub: data/, or a folder for each split or configuration.
        folders = sorted(sub for sub in folder.iterdir() if sub.is_dir() and not sub.name.startswith("."))
        inner = {sub: found for sub in folders if (found := _with_data(filter(Path.is_file, sub.iterdir())))}
        unnamed = [sub for sub in inner if split_of(sub.name) is None]
        if len(inner) > 1 and unnamed:
            raise DataError(
                f"{where} holds several folders of data: {', '.join(sub.name for sub in inner)}. Give the "
                f"path of one: '{unnamed[0]}'."
            )
        files = [file for found in inner.values() for file in found]
    if not files:
        raise DataError(f"{where} holds no file of a known form ({', '.join(READERS)}). Check the path.")
    splits = _by_split(files, folder)
    chosen = files if list(splits) == [None] else _of_split(splits, split, where)
    return _of_one_form(chosen, where)


def _with_data(files: Iterable[Path]) -> list[Path]:
    """Those that may hold rows, in natural order."""
    kept = [file for file in files if data_ending(file.name) and file.name.lower() not in _NO_ROWS]
    return sorted((file for file in kept if not file.name.startswith(".")), key=_natural)


def _natural(path: Path) -> list[tuple[int, int, str]]:
    """A key that orders numbers in names by their value."""
    return [(0, int(piece), "") if piece.isdecimal() else (1, 0, piece)
            for piece in re.split(r"(\d+)", str(path))]  # fmt: skip


def exists(source: str) -> bool:
    """Whether the file or folder that `source` names is there, or anything that matches it."""
    path = path_of(source)
    return path.exists() or (bool(_PATTERN.search(str(path))) and any(_matching(path)))


def _matching(pattern: Path) -> Iterator[Path]:
    fixed = _fixed_part(pattern)
    return fixed.glob(str(pattern.relative_to(fixed)))


def _fixed_part(pattern: Path) -> Path:
    """The folder that every match of `pattern` lies in."""
    return next(folder for folder in pattern.parents if not _PATTERN.search(str(folder)))


def _by_split(files: list[Path], base: Path) -> dict[str | None, list[Path]]:
    """Files by the split that their name says, or the folder below `base` they lie in; None: neither does."""
    splits: dict[str | None, list[Path]] = {}
    for file in files:
        named = split_of(file.name) or (split_of(file.parent.name) if file.parent != base else None)
        splits.setdefault(named, []).append(file)
    return splits


def _of_split(splits: dict[str | None, list[Path]], split: str, where: str) -> list[Path]:
    named = [name for name in splits if name is not None]
    unnamed = splits.get(None)
    if unnamed:
        raise DataError(
            f"{where} holds files of the splits {', '.join(named)} and others ('{unnamed[0].name}'"
            f"{f' and {len(unnamed) - 1} more' if len(unnamed) > 1 else ''}). Give a pattern that matches "
            "the ones to read, such as 'FOLDER/train-*.jsonl'."
        )
    chosen = dict.fromkeys(choose_split(named, one, where) for one in split.split("+"))
    return [file for name in chosen for file in splits[name]]


def _of_one_form(files: list[Path], where: str) -> list[Path]:
    forms: dict[str, list[Path]] = {}
    for file in files:
        forms.setdefault(file.name.removeprefix(file_stem(file)), []).append(file)
    if len(forms) > 1:
        counts = ", ".join(f"{len(found)} {form}" for form, found in forms.items())
        raise DataError(
            f"{where} holds files of several forms: {counts}. They may be the same rows twice: give a "
            f"pattern, such as '{files[0].parent}/*{next(iter(forms))}'."
        )
    return files
