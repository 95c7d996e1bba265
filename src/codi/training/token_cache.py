"""Token sets kept on disk between runs, under all that decides the tokens and nothing else.

    CODI_CACHE (default ~/.cache/codi)
      tokenised/
        3f0c…/             one set: arrays that are mapped, not read
          contents.json    what it was made from, and the SHA-256 of every other file
        .building-x1y2/    one that is being written; it gets its name when it is whole

A set is found again by its key: the content of the files that were read (not their dates or place), how they
were read, the tokenizer and the text format, those options of the method that its `encode` reads, and what
`encode` and the code that reads rows are today. A set that is damaged counts as none.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

import codi.data
from codi.data.encoded_rows import EncodedRows
from codi.data.encoding import TextEncoder
from codi.data.example import Example, LoadReport
from codi.data.hub import HubSource, find_hub_set, parse_hub_source
from codi.data.shards import is_data_path, named_files, path_of
from codi.data.sources import GENERATORS
from codi.errors import CodiError, DataError
from codi.methods.method import Method
from codi.storage import write_whole
from codi.training.tokenisation import TokenisedSet

_LAYOUT = 1
"""Of the files in a set's folder."""
_CONTENTS, _ROWS = "contents.json", "rows.json"
_STALE_SECONDS = 24 * 3600
"""Age at which what a killed process left half-written is removed."""

PROBES = (
    Example("plain", "Mia has 3 apples and buys 4 more. How many?", ("<<3+4=7>>", "<<7*2=14>>"), "14"),
    Example("one step", "Tom has 7 pens.\nHe loses 2 of them.", ("He has 7 - 2 = 5 pens left.",), "5"),
    Example("no step", "  Is it true?  ", (), "yes"),
    Example("sentences", "A shop sells 1,200 of 3.5 kg.", ("It is 1,200.", "That is $4.50.", "So."), "-4.5"),
    Example("letter", "Which?\nA: a bank\nB: the “sea”", ("Fish swim…", "So it is B."), "B"),
    Example("formula", r"What is $\frac{1}{2}+x$?", (r"\frac{1}{2}", r"x = \sqrt{3}", ""), r"\frac{3}{8}"),
    Example("script", "小明有3个苹果，又买了4个。 Ça va? 😀", ("3+4=7。", "  7 × 2 = 14 "), "１４"),
)  # fmt: skip
"""Coded anew for every key: a change of `encode`, or of the tokenizer's own code, gives another key."""


@dataclass(frozen=True, slots=True)
class KeptSet:
    """A token set on disk, as `kept_sets` lists it. size: bytes; written: seconds since 1970."""

    folder: Path
    source: str
    rows: int
    size: int
    written: float


def folder_of_sets() -> Path:
    """Where token sets are kept."""
    return Path(os.environ.get("CODI_CACHE") or Path.home() / ".cache" / "codi") / "tokenised"


def cache_key(
    method: Method, text: TextEncoder, form: str, source: str, reading: dict[str, Any], identity: Any
) -> str:
    """The name of a token set.

    form: of the rationales; reading: how the source is read; identity: what stands in it, see
    `source_identity` and `identity_of_rows`.
    """
    owner = next(kind for kind in type(method).__mro__ if "encode" in vars(kind))
    decides = {
        "layout": _LAYOUT,
        "code": _code(method),
        "probes": _encoded_probes(method, text),
        "text": text.fingerprint(),
        "tokenizers": tokenizers.__version__,
        "encode": [owner.__module__, owner.__qualname__, method.encoding_options(), method.reads_last_step],
        "form": form,
        "name": Path(source).name,
        "reading": reading,
        "identity": identity,
    }
    return _digest(json.dumps(decides, sort_keys=True, default=repr).encode())[:24]


def source_identity(source: str) -> list[str] | None:
    """What stands in a source, without reading its rows; None where that cannot be told.

    Files by their content (for a folder or a pattern, all that it names), hub sets by their version,
    generated problems by the source's own options (the code that makes them is part of every key).
    """
    if source.partition("?")[0] in GENERATORS:
        return ["generated", source]
    if not source:
        return None
    base, _, options = source.partition("?")
    known = find_hub_set(base)
    if known is not None:
        asked = dict(pair.split("=", 1) for pair in options.split("&") if "=" in pair)
        config = asked.get("config", known.config)
        return _hub_identity(HubSource(known.hub_id, asked.get("split"), config, asked.get("revision")))
    if is_data_path(source):
        path = path_of(source)
        try:
            return [
                f"{file.relative_to(path) if path.is_dir() else file.name} {_sha256(file)}"
                for file in named_files(path)
            ] or None
        except OSError:
            return None  # the reader of the rows says what is wrong
    try:
        unknown = parse_hub_source(source)
    except DataError:  # likewise
        return None
    return None if unknown is None else _hub_identity(unknown)


def identity_of_rows(examples: Iterable[Example]) -> list[str]:
    """What stands in rows that have been read, for a source that `source_identity` cannot tell."""
    rows = hashlib.sha256()
    for example in examples:
        rows.update(repr((example.id, example.question, example.steps, example.answer)).encode())
    return ["rows", rows.hexdigest()]


def find(key: str) -> TokenisedSet | None:
    """The set of that key, mapped from disk; None where there is none, or a damaged one."""
    folder = folder_of_sets() / key
    if not (folder / _CONTENTS).exists():
        return None
    try:
        contents = json.loads((folder / _CONTENTS).read_text(encoding="utf-8"))
        for name, expected in contents["files"].items():
            if _sha256(folder / name) != expected:
                raise ValueError(f"{name} is not as it was written")
        rows = json.loads((folder / _ROWS).read_text(encoding="utf-8"))
        found = TokenisedSet(
            EncodedRows.load(folder),
            rows["ids"],
            rows["golds"],
            steps=np.load(folder / "_steps.npy"),
            answers=np.load(folder / "_answers.npy"),
            marks=np.load(folder / "_marks.npy"),
            reports=[LoadReport(**report) for report in rows["reports"]],
            blank_steps=rows["blank_steps"],
            sample=[Example(**row | {"steps": tuple(row["steps"])}) for row in rows["sample"]],
        )
    except (OSError, ValueError, LookupError, TypeError) as error:
        _say("The kept tokens in '%s' are damaged (%s): they are made again.", folder, error)
        return None
    return found


def keep(key: str, tokens: TokenisedSet, source: str) -> TokenisedSet:
    """Write a set under its key, whole or not at all, and return it as mapped from there.

    Where it cannot be written (a full disk, no rights) that is said, and the set stays in memory.
    """
    root = folder_of_sets()
    scratch = None
    try:
        root.mkdir(parents=True, exist_ok=True)
        _sweep(root)
        scratch = Path(tempfile.mkdtemp(prefix=".building-", dir=root))
        tokens.encoded.save(scratch)
        for name in ("steps", "answers", "marks"):
            np.save(scratch / f"_{name}.npy", getattr(tokens, name))
        rows = {
            "ids": tokens.ids,
            "golds": tokens.golds,
            "reports": [report.as_dict() for report in tokens.reports],
            "blank_steps": tokens.blank_steps,
            "sample": [asdict(example) for example in tokens.sample],
        }
        (scratch / _ROWS).write_text(json.dumps(rows), encoding="utf-8")
        contents = {
            "source": source,
            "rows": len(tokens),
            "files": {file.name: _sha256(file) for file in sorted(scratch.iterdir())},
        }
        write_whole(scratch / _CONTENTS, json.dumps(contents, indent=2) + "\n")
        if (root / key).exists() and find(key) is None:
            shutil.rmtree(root / key)
        scratch.replace(root / key)
    except (OSError, CodiError) as error:
        if find(key) is None:  # no other process was faster
            _say("The tokens of '%s' could not be kept in '%s' for the next run: %s", source, root, error)
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
    return find(key) or tokens


def kept_sets() -> list[KeptSet]:
    """The sets on disk, newest first."""
    found = []
    for file in folder_of_sets().glob(f"*/{_CONTENTS}"):
        if file.parent.name.startswith("."):
            continue
        try:
            contents = json.loads(file.read_text(encoding="utf-8"))
            size = sum(one.stat().st_size for one in file.parent.iterdir())
            found.append(
                KeptSet(file.parent, contents["source"], contents["rows"], size, file.stat().st_mtime)
            )
        except (OSError, ValueError, LookupError, TypeError):
            found.append(KeptSet(file.parent, "damaged", 0, 0, 0.0))
    return sorted(found, key=lambda one: -one.written)


def _encoded_probes(method: Method, text: TextEncoder) -> str:
    """What `encode` makes of the probes today; of one that it refuses, the refusal."""
    made: list[Any] = []
    for probe in PROBES:
        try:
            made.append(method.encode(probe, text))
        except CodiError as error:
            made.append(str(error))
    return _digest(json.dumps(made, sort_keys=True).encode())


def _code(method: Method) -> str:
    """The code that reads rows and codes them: the data floor, and the method's own modules."""
    files = {file for folder in codi.data.__path__ for file in Path(folder).rglob("*.py")}
    for kind in type(method).__mro__:
        file = getattr(sys.modules.get(kind.__module__), "__file__", None)
        if file is not None and issubclass(kind, Method):
            files.add(Path(file))
    return _digest("".join(sorted(f"{file.name} {_sha256(file)}\n" for file in files)).encode())


def _hub_identity(asked: HubSource) -> list[str] | None:
    import datasets

    try:
        builder = datasets.load_dataset_builder(asked.hub_id, asked.config, revision=asked.revision)
    except Exception:  # noqa: BLE001 (three libraries' kinds; the reader of the rows says what is wrong)
        return None
    version = [str(builder.config_id), str(builder.hash), str(builder.info.version)]
    return ["hub", asked.hub_id, *version, str(asked.split), str(asked.revision)]


def _sweep(root: Path) -> None:
    """Remove what killed processes left half-written long ago."""
    for folder in root.glob(".building-*"):
        try:
            stale = time.time() - folder.stat().st_mtime > _STALE_SECONDS
        except FileNotFoundError:  # its own process has just given it its name
            continue
        if stale:
            shutil.rmtree(folder, ignore_errors=True)


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _say(message: str, *values: object) -> None:
    logging.getLogger("codi").warning(message, *values)
