"""Encoded examples to padded tensors: the question to the left, everything after it to the right.

So every row's question ends at the same position, and whatever follows starts there.

Whatever of a step depends on what is in the batch is found out here, on the host: where the real tokens are
(for the head, and for leaving padding out), and how many there are of what is counted. A number that the
step's loops need is the width of a mask. So nothing in a step has to look at a value on the device.
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


def collate(
    examples: Sequence[Mapping[str, Any]], pad_id: int, widths: Mapping[str, int] | None = None
) -> dict[str, Tensor]:
    """`<segment>_ids` and `<segment>_mask` [b, t] for each list, `<name>` [b] for each int.

    Of a `Nested` segment they are [b, n, t], as many steps and tokens as the longest has, and one at least.

    `<segment>_places` [k]: the places of its real tokens in the flattened ids, in order. `<segment>_slots`:
    of a `Nested` one, the places of the steps that have any in [b * n]; the first where none has.
    `<name>_mask` [b, m]: as many ones as the row's int says, m the largest.

    widths: the least that segments are padded to, by name.
    """
    least = widths or {}
    batch: dict[str, Tensor] = {}
    for name, value in examples[0].items():
        column = [example[name] for example in examples]
        if isinstance(value, int):
            numbers = np.array(column, dtype=np.int64)
            counted = np.arange(max(0, numbers.max())) < numbers[:, None]
            batch[name], batch[f"{name}_mask"] = torch.from_numpy(numbers), torch.from_numpy(counted).long()
            continue
        if isinstance(value, Nested):
            step_ids, step_mask = _padded_steps(column, pad_id)
            batch[f"{name}_ids"], batch[f"{name}_mask"] = step_ids, step_mask
            batch[f"{name}_places"] = step_mask.flatten().nonzero().squeeze(1)
            slots = step_mask.any(2).flatten().nonzero().squeeze(1)
            batch[f"{name}_slots"] = slots if len(slots) else slots.new_zeros(1)
            continue
        lengths = np.array([len(ids) for ids in column])
        places = np.arange(max(1, lengths.max(), least.get(name, 0)))
        if name == "question":  # ends where the width ends
            places = places[::-1]
        mask = places < lengths[:, None]
        ids = np.full(mask.shape, pad_id, dtype=np.int64)
        ids[mask] = np.fromiter(chain.from_iterable(column), np.int64, lengths.sum())
        batch[f"{name}_ids"], batch[f"{name}_mask"] = torch.from_numpy(ids), torch.from_numpy(mask).long()
        batch[f"{name}_places"] = torch.from_numpy(np.flatnonzero(mask))
    return batch


def row_alone(batch: Mapping[str, Tensor], row: int) -> dict[str, Tensor]:
    """One row of a collated batch, as wide as it was. Where its real tokens are is left for a mask to say."""
    of_all = ("_places", "_slots")
    return {name: tensor[row : row + 1] for name, tensor in batch.items() if not name.endswith(of_all)}


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
