"""Question sets on the Hugging Face hub, by short name. A new set is one new entry of `HUB_SETS`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from codi.data.columns import Columns
from codi.data.files import Rows
from codi.errors import DataError, nearest


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


def read_hub_split(name: str, hub_set: HubSet, split: str) -> Rows:
    """Load one split of a set, from the hub or the local cache of `datasets`.

    Raises:
        DataError: the set has no such split, or it cannot be reached; the message says how to read a local
            copy instead.
    """
    if split not in hub_set.splits:
        raise DataError(
            f"The set '{name}' ({hub_set.hub_id}) has no split '{split}'.{nearest(split, hub_set.splits)} "
            f"Splits: {', '.join(hub_set.splits)}. {hub_set.note}".rstrip()
        )
    # Seconds to import, and not needed for files.
    import datasets

    try:
        loaded = datasets.load_dataset(hub_set.hub_id, hub_set.config, split=split)
    except Exception as error:  # the kinds differ between versions of three libraries
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise DataError(
            f"The set '{name}' ({hub_set.hub_id}, split '{split}') could not be loaded from the hub: "
            f"{reason}. Without a network, download it on another machine, as one .jsonl, .json, .csv or "
            f".parquet file from https://huggingface.co/datasets/{hub_set.hub_id}, and give the path of "
            f"that file in place of '{name}'."
        ) from error
    return Rows(tuple(loaded.column_names), [(i, dict(row)) for i, row in enumerate(loaded, start=1)], "row")
