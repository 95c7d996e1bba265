"""What a source stands for: the files of a path, a folder or a pattern, or the splits of a set on the hub."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from codi.data.columns import Columns
from codi.data.files import READERS, Rows, file_stem, read_file
from codi.data.generators import GENERATORS
from codi.data.hub import (
    HUB_SETS,
    PREFIX,
    HubSource,
    find_hub_set,
    parse_hub_source,
    read_hub,
    read_saved_set,
)
from codi.data.shards import files_of, is_data_path, path_of, saved_by_datasets, split_off
from codi.errors import DataError, nearest


@dataclass(frozen=True)
class Part:
    """One split or file of a source.

    Attributes:
        name: what messages call it; its rows are named after it.
        stem: what ids of rows without an id of their own begin with.
        rows: its rows, to be gone through once.
        columns: where question and answer stand, if that is known of the set.
        known_nulls: rows without an answer are a known fault of the set.
    """

    name: str
    stem: str
    rows: Rows
    columns: Columns | None = None
    known_nulls: bool = False


def parts_of(source: str, split: str, *, limited: bool = False) -> Iterator[Part]:
    """The files or splits that a source (other than a generated one) stands for, opened one after another.

    Args:
        source, split: see `load_examples`.
        limited: only the first rows are wanted.

    Raises:
        DataError: the source is unknown or cannot be read.
    """
    base = source.partition("?")[0]
    if find_hub_set(base) is None and is_data_path(source):
        yield from _parts_of_path(path_of(source), split_off(source)[1] or split)
        return
    asked = _hub_source(source)
    known = find_hub_set(asked.hub_id)
    note = (
        "There is no file or folder of this name here, either." if "/" in base and PREFIX not in base else ""
    )
    for part in (asked.split or split).split("+"):
        wanted = replace(asked, split=part)
        if known is not None:
            known.require_split(source, wanted)
            note = known.note
        name = f"{base.removeprefix(PREFIX)}/{part}"
        rows = read_hub(source, wanted, limited=limited, note=note)
        yield Part(name, name, rows, known.columns if known else None, known is not None and known.nulls)


def _hub_source(source: str) -> HubSource:
    asked = parse_hub_source(source)
    # What begins with a folder that is here is a path gone wrong, sooner than a set of that owner.
    owner = Path(source).parts[0]
    if asked is None or (not has_own_columns(source) and ":" not in owner and Path(owner).is_dir()):
        names = (*GENERATORS, *HUB_SETS)
        at_hub = f" If it is meant to be a set on the hub: 'hub:{source}'." if asked else ""
        raise DataError(
            f"Unknown data source '{source}'.{nearest(source, names)} Give the path of a file or folder "
            f"({', '.join(READERS)}), the id of a set on the hub (hub:OWNER/NAME), or one of: "
            f"{', '.join(names)}.{at_hub}"
        )
    return asked


def _parts_of_path(path: Path, split: str) -> Iterator[Part]:
    if path.is_dir() and saved_by_datasets(path):
        for name, rows in read_saved_set(path, split):
            yield Part(str(path.parent / name), name, rows)
        return
    files = files_of(path, split)
    stems = [file_stem(file) for file in files]
    for file, stem in zip(files, stems, strict=True):
        # Shards of several folders may be called the same.
        stem = stem if stems.count(stem) == 1 else f"{file.parent.name}/{stem}"
        yield Part(str(file), stem, read_file(file, split))


def is_source(text: str) -> bool:
    """Whether `text` has the form of a source that is not generated: a path, a known set or a hub id."""
    return is_data_path(text) or parse_hub_source(text) is not None


def source_name(source: str) -> str:
    """A short name for a source, fit for the name of a file: 'test' for `data/test.jsonl.gz`."""
    if is_data_path(source):
        path, (_, split) = path_of(source), split_off(source)
        words = [path.name if path.is_dir() else file_stem(path), split or ""]
    else:
        words = re.findall(r"(?:^|=)([^?&=]+)", source.removeprefix("hub:"))
    return re.sub(r"[^\w.]+", "-", " ".join(words)).strip("-") or "data"


def has_own_columns(source: str) -> bool:
    """Whether a source is generated, or a known set: columns named for other sources are not for it."""
    base = source.partition("?")[0]
    return base in GENERATORS or find_hub_set(base.removeprefix(PREFIX)) is not None
