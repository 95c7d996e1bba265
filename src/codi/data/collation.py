"""Encoded examples to padded tensors: the question to the left, everything after it to the right.

So every row's question ends at the same position, and whatever follows starts there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Encoded = dict[str, Any]
"""One encoded example: each list of ids is a segment, each int a position in one."""


def collate(examples: Sequence[Mapping[str, Any]], pad_id: int) -> dict[str, Tensor]:
    """`<segment>_ids` and `<segment>_mask` [b, t] for each list, `<name>` [b] for each int."""
    batch: dict[str, Tensor] = {}
    for name, value in examples[0].items():
        column = [example[name] for example in examples]
        if isinstance(value, int):
            batch[name] = torch.tensor(column, dtype=torch.long)
            continue
        width = max(1, *(len(ids) for ids in column))
        ids = torch.full((len(column), width), pad_id, dtype=torch.long)
        mask = torch.zeros((len(column), width), dtype=torch.long)
        for row, tokens in enumerate(column):
            where = slice(width - len(tokens), width) if name == "question" else slice(0, len(tokens))
            ids[row, where] = torch.tensor(tokens, dtype=torch.long)
            mask[row, where] = 1
        batch[f"{name}_ids"], batch[f"{name}_mask"] = ids, mask
    return batch
