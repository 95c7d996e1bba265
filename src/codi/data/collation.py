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
"""One encoded example: each list of ids is a segment, each int a position in one."""


def collate(examples: Sequence[Mapping[str, Any]], pad_id: int) -> dict[str, Tensor]:
    """`<segment>_ids` and `<segment>_mask` [b, t] for each list, `<name>` [b] for each int."""
    batch: dict[str, Tensor] = {}
    for name, value in examples[0].items():
        column = [example[name] for example in examples]
        if isinstance(value, int):
            batch[name] = torch.tensor(column, dtype=torch.long)
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
