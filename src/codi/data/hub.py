"""Sets on the Hugging Face hub: known ones by short name, any other by its id.

gsm8k-aug                                          an entry of `HUB_SETS`; a new one is one new entry
hub:owner/name?split=train&config=main             any set; `revision` too
owner/name                                         the same, where no such path exists here
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from codi.data.columns import Columns
from codi.data.rows import Row, Rows
from codi.data.splits import choose_split
from codi.errors import DataError, nearest

PREFIX = "hub:"
PAGES = "https://huggingface.co/datasets/"
_OPTIONS = ("split", "config", "revision")
_BARE_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_BATCH = 1_000


@dataclass(frozen=True)
class HubSource:
    """A set on the hub as it is asked for: its id, and what stands after the `?` (None where it does not)."""

    hub_id: str
    split: str | None = None
    config: str | None = None
    revision: str | None = None


@dataclass(frozen=True)
class HubSet:
    """One set on the hub.

    Attributes:
        hub_id: its name there.
        splits: the splits it has, and how many rows each is known to hold (None where not stated).
        columns: where question, rationale and answer stand.
        config: the configuration to load, where there are several.
        nulls: rows without an answer are a known fault of the set: they are counted and left out, where
            another source would be refused.
        note: what to know before training on it or comparing with published numbers.
    """

    hub_id: str
    splits: Mapping[str, int | None]
    columns: Columns = field(default_factory=Columns)
    config: str | None = None
    nulls: bool = False
    note: str = ""

    def require_split(self, name: str, asked: HubSource) -> None:
        """Raise DataError when the configuration that is known has no such split."""
        if asked.config == self.config and asked.split not in self.splits:
            raise DataError(
                f"The set '{name}' ({self.hub_id}) has no split '{asked.split}'."
                f"{nearest(str(asked.split), self.splits)} Splits: {', '.join(self.splits)}. "
                f"{self.note}".rstrip()
            )


_COT = Columns(question="question", rationale="cot", answer="answer")
_STEPS = Columns(question="question", steps="steps", answer="answer")

HUB_SETS: dict[str, HubSet] = {
    "gsm8k-aug": HubSet(
        "whynlp/gsm8k-aug", {"train": 385_620, "validation": 500, "test": 1_319}, _STEPS,
        note="GSM8k-Aug with its steps as a list. Its validation questions also stand in GSM8K train.",
    ),
    "gsm8k-aug-published": HubSet(
        "zen-E/GSM8k-Aug", {"train": 385_620}, _COT,
        note="The same rows as the published CODI code loads them: steps joined by spaces.",
    ),
    "gsm8k-aug-nl": HubSet(
        "zen-E/GSM8k-Aug-NL", {"train": 384_625}, _COT, nulls=True,
        note="Rationales in sentences. No test split: evaluate on gsm8k.",
    ),
    "commonsenseqa-cot": HubSet(
        "zen-E/CommonsenseQA-GPT4omini", {"train": 8_096, "validation": 1_221}, _COT,
        note="Five choices, with rationales; the answer is a letter.",
    ),
    "gsm8k": HubSet(
        "openai/gsm8k", {"train": 7_473, "test": 1_319}, Columns(question="question", answer="answer"),
        config="main", note="Rationale and answer in one column, parted by '####'.",
    ),
    "svamp": HubSet(
        "ChilleD/SVAMP", {"train": None, "test": None},
        Columns(question="question_concat", answer="Answer"),
        note="train+test is the set of 1,000 that the paper evaluates.",
    ),
    "gsm-hard": HubSet(
        "juyoung-trl/gsm-hard", {"train": 1_319}, Columns(question="instruction", answer="response"),
        note="GSM8K test with larger numbers; all of it stands in the split 'train'.",
    ),
    "gsm-hard-original": HubSet(
        "reasoning-machines/gsm-hard", {"train": 1_319}, Columns(question="input", answer="target"),
        note="The same questions as first published, answers as floating-point numbers.",
    ),
    "multiarith": HubSet(
        "ChilleD/MultiArith", {"train": 420, "test": 180}, Columns(question="question", answer="final_ans"),
        note="The published code evaluates the test split.",
    ),
}  # fmt: skip


def find_hub_set(name: str) -> HubSet | None:
    """The set with this short name or hub id, or None."""
    by_id = {hub_set.hub_id: hub_set for hub_set in HUB_SETS.values()}
    return HUB_SETS.get(name) or by_id.get(name)


def parse_hub_source(source: str) -> HubSource | None:
    """What `source` asks of the hub; None where it is neither a known set nor a hub id.

    Raises:
        DataError: an unknown option, or no id.
    """
    hub_id, _, text = source.partition("?")
    marked = hub_id.startswith((PREFIX, PAGES))
    hub_id = hub_id.removeprefix(PREFIX).removeprefix(PAGES).rstrip("/")
    known = find_hub_set(hub_id)
    if known is not None:
        hub_id = known.hub_id
    elif not marked and not _BARE_ID.fullmatch(hub_id):
        return None
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", hub_id):
        raise DataError(
            f"'{source}' names no set on the hub: expected 'hub:OWNER/NAME', with ?config=, ?split= or "
            "?revision= after it where needed. A single file there is downloaded first, and given by its "
            "path."
        )
    # As it is typed: to a form's rules '+' would be a space, and 'train+test' is two splits.
    pairs = [pair.partition("=") for pair in text.split("&") if pair]
    options = {key: value for key, _, value in pairs}
    for key, value in options.items():
        if key not in _OPTIONS:
            raise DataError(
                f"'{source}': unknown option '{key}'.{nearest(key, _OPTIONS)} Options: {', '.join(_OPTIONS)}."
            )
        if not value:
            raise DataError(f"'{source}': the option '{key}' has no value. Give one, or leave it out.")
    asked = HubSource(hub_id, **options)
    return replace(asked, config=known.config) if known and asked.config is None else asked


def read_hub(name: str, asked: HubSource, *, limited: bool = False, note: str = "") -> Rows:
    """The rows of one split of a set, from the hub or the local cache of `datasets`.

    Args:
        name: what the person calls it, for messages.
        asked: the set; its split must be given.
        limited: only the first rows are wanted: they are read as they arrive, and nothing is kept.
        note: what to know about the set where it cannot be read.

    Raises:
        DataError: there is no such set, configuration or split, or it cannot be reached; the message says
            which there are, or how to read a local copy. Also while the rows are gone through.
    """
    # Seconds to import, and not needed for files.
    import datasets

    # Not passed where it is not asked for: `revision=None` and `streaming=False` are the defaults.
    extra: dict[str, Any] = {"revision": asked.revision} if asked.revision else {}
    extra |= {"streaming": True} if limited else {}
    try:
        loaded = datasets.load_dataset(asked.hub_id, asked.config, split=asked.split, **extra)
        rows = rows_of_dataset(loaded)
    except Exception as error:  # the kinds differ between versions of three libraries
        raise _not_loaded(name, asked, error, note) from error

    def arriving() -> Iterator[tuple[int, Row]]:  # a set that streams is first reached here
        try:
            yield from rows.rows
        except Exception as error:
            raise _not_loaded(name, asked, error, note) from error

    return replace(rows, rows=arriving())


def rows_of_dataset(loaded: Any) -> Rows:
    """The rows of a set of `datasets`, whether it is here or streams."""

    def rows() -> Iterator[Row]:
        if not hasattr(loaded, "num_rows"):
            yield from loaded
            return
        for batch in loaded.iter(_BATCH):  # twenty times as fast as row by row
            for values in zip(*batch.values(), strict=True):
                yield dict(zip(batch, values, strict=True))

    if loaded.column_names is None:
        return Rows.peeked(enumerate(rows(), start=1), "row")
    return Rows(tuple(loaded.column_names), enumerate(rows(), start=1), "row")


def read_saved_set(folder: Path, split: str) -> Iterator[tuple[str, Rows]]:
    """Name and rows of each split asked for that `datasets` wrote into `folder` with `save_to_disk`.

    Raises:
        DataError: it holds several splits and not the one asked for, or it is damaged.
    """
    import datasets

    try:
        loaded = datasets.load_from_disk(str(folder))
    except Exception as error:
        raise DataError(
            f"The folder '{folder}' was written by `datasets`, and cannot be read back: {_reason(error)}. "
            "Copy or save it again."
        ) from error
    if not isinstance(loaded, datasets.DatasetDict):
        yield folder.name, rows_of_dataset(loaded)
        return
    for one in split.split("+"):
        name = choose_split(loaded, one, f"The folder '{folder}'")
        yield f"{folder.name}/{name}", rows_of_dataset(loaded[name])


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).split("\n")[0].rstrip(".")


def _not_loaded(name: str, asked: HubSource, error: Exception, note: str) -> DataError:
    """What went wrong, in the library's words, and what to do about that."""
    text = str(error)
    listed = re.search(r"\[([^\]]*)\]", text)
    there = re.findall(r"'([^']+)'", listed[1]) if listed else []
    hub_id, page = asked.hub_id, f"{PAGES}{asked.hub_id}"
    what = f"The set '{name}' ({hub_id}, split '{asked.split}')"
    if there and re.search(r"config", text, re.IGNORECASE):
        found = f"no configuration '{asked.config}'" if asked.config else "several configurations"
        return DataError(
            f"{what} has {found}: {', '.join(there)}. Name one: 'hub:{hub_id}?config={there[0]}'."
        )
    if there and "split" in text:
        return DataError(
            f"{what} has no such split.{nearest(str(asked.split), there)} Splits: {', '.join(there)}. "
            f"Name one: 'hub:{hub_id}?split={there[0]}', or --split."
        )
    if "scripts are no longer supported" in text:
        return DataError(
            f"{what} is made by a script, which is not run. The hub keeps most such sets as Parquet too: "
            f"'hub:{hub_id}?revision=refs/convert/parquet'."
        )
    if type(error).__name__ == "DatasetNotFoundError":
        return DataError(
            f"{what} could not be found on the hub: {_reason(error)}. Check the spelling at {page}. A "
            "private set, or one with conditions, needs `hf auth login`; a file or folder here must exist "
            "under this name."
        )
    return DataError(
        f"{what} could not be loaded from the hub: {_reason(error)}. Without a network, download it on "
        f"another machine, as one .jsonl, .json, .csv or .parquet file (or a folder of them) from {page}, "
        f"and give the path of that file in place of '{name}'. {note}".rstrip()
    )
