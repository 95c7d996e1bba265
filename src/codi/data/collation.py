"""Encoded examples to padded tensors: the question to the left, everything after it to the right.

So every row's question ends at the same position, and whatever follows starts there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

Encoded = dict[str, Any]
"""One encoded example: each list of ids is a segment, each `Nested` one of segments, each int a position."""


class Nested(list[list[int]]):
    """A segment of segments, the ids of each step. Its own type, so that an empty one is known."""


def collate(examples: Sequence[Mapping[str, Any]], pad_id: int) -> dict[str, Tensor]:
    """`<segment>_ids` and `<segment>_mask` [b, t] for each list, `<name>` [b] for each int.

    Of a `Nested` segment they are [b, n, t], as many steps and tokens as the longest has, and one at least.
    """
    batch: dict[str, Tensor] = {}
    for name, value in examples[0].items():
        column = [example[name] for example in examples]
        if isinstance(value, int):
            batch[name] = torch.tensor(column, dtype=torch.long)
            continue
        if isinstance(value, Nested):
            batch[f"{name}_ids"], batch[f"{name}_mask"] = _padded_steps(column, pad_id)
            continue
        lengths = np.array([len(ids) for ids in column])
        places = np.arange(max(1, lengths.max()))
        if name == "question":  # ends where the width ends
            places = places[::-1]
        mask = places < lengths[:, None]
        ids = np.full(mask.shape, pad_id, dtype=np.int64)
        ids[mask] = np.fromiter(chain.from_iterable(column), np.int64, lengths.sum())
        batch[f"{name}_ids"], batch[f"{name}_mask"] = torch.from_numpy(ids), torch.from_numpy(mask).long()
    return batch


def _padded_steps(column: Sequence[Nested], pad_id: int) -> tuple[Tensor, Tensor]:
    """Ids and mask, [b, n, t]."""
    number = max(1, max(len(steps) for steps in column))
    longest = max([1, *(len(step) for steps in column for step in steps)])
    ids = torch.full((len(column), number, longest), pad_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, steps in enumerate(column):
        for place, step in enumerate(steps):
            ids[row, place, : len(step)] = torch.tensor(step, dtype=torch.long)
            mask[row, place, : len(step)] = 1
    return ids, mask
