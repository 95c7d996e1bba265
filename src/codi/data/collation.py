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
from numpy.typing import NDArray
from torch import Tensor

Encoded = dict[str, Any]
"""One encoded example: each list of ids is a segment, each `Nested` one of segments, each int a position."""


class Nested(list[list[int]]):
    """A segment of segments, the ids of each step. Its own type, so that an empty one is known."""


def sizes(examples: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """What a batch of these rows needs, by the names that `collate` takes.

    `<segment>`: its width; of a `Nested` one the most steps, and `<segment>_width` the longest step.
    `<segment>_places`, `<segment>_slots`: how many there are in all rows. `<name>_mask`: the largest int.
    """
    needed: dict[str, int] = {}
    for name, value in examples[0].items():
        column = [example[name] for example in examples]
        if isinstance(value, int):
            needed[f"{name}_mask"] = max(0, *column)
        elif isinstance(value, Nested):
            lengths = [len(step) for steps in column for step in steps]
            needed[name], needed[f"{name}_width"] = max(1, *map(len, column)), max([1, *lengths])
            needed[f"{name}_places"] = sum(lengths)
            needed[f"{name}_slots"] = max(1, sum(length > 0 for length in lengths))
        else:
            lengths = [len(ids) for ids in column]
            needed[name], needed[f"{name}_places"] = max(1, *lengths), sum(lengths)
    return needed


def collate(
    examples: Sequence[Mapping[str, Any]], pad_id: int, least: Mapping[str, int] | None = None
) -> dict[str, Tensor]:
    """`<segment>_ids` and `<segment>_mask` [b, t] for each list, `<name>` [b] for each int.

    Of a `Nested` segment they are [b, n, t], as many steps and tokens as the longest has, and one at least.

    `<segment>_places` [k]: the places of its real tokens in the flattened ids, in order. `<segment>_slots`:
    of a `Nested` one, the places of the steps that have any in [b * n]; the first where none has.
    `<name>_mask` [b, m]: as many ones as the row's int says, m the largest.

    least: what is padded to more than it needs, by the names of `sizes`. Places and slots are filled up with
    others, which the masks say are none; where they are to be all that there are, places are left out.
    """
    least = least or {}
    batch: dict[str, Tensor] = {}
    for name, value in examples[0].items():
        column = [example[name] for example in examples]
        if isinstance(value, int):
            numbers = np.array(column, dtype=np.int64)
            counted = np.arange(max(0, numbers.max(), least.get(f"{name}_mask", 0))) < numbers[:, None]
            batch[name], batch[f"{name}_mask"] = torch.from_numpy(numbers), torch.from_numpy(counted).long()
            continue
        if isinstance(value, Nested):
            batch |= _collated_steps(name, column, pad_id, least)
            continue
        lengths = np.array([len(ids) for ids in column])
        places = np.arange(max(1, lengths.max(), least.get(name, 0)))
        if name == "question":  # ends where the width ends
            places = places[::-1]
        mask = places < lengths[:, None]
        ids = np.full(mask.shape, pad_id, dtype=np.int64)
        ids[mask] = np.fromiter(chain.from_iterable(column), np.int64, lengths.sum())
        batch[f"{name}_ids"], batch[f"{name}_mask"] = torch.from_numpy(ids), torch.from_numpy(mask).long()
        if least.get(f"{name}_places", 0) < mask.size:
            batch[f"{name}_places"] = _filled_up(mask, least.get(f"{name}_places", 0))
    return batch


def _collated_steps(
    name: str, column: Sequence[Nested], pad_id: int, least: Mapping[str, int]
) -> dict[str, Tensor]:
    """What `collate` gives of a `Nested` segment."""
    number = max(1, least.get(name, 0), *map(len, column))
    longest = max([1, least.get(f"{name}_width", 0), *(len(step) for steps in column for step in steps)])
    ids = np.full((len(column), number, longest), pad_id, dtype=np.int64)
    mask = np.zeros(ids.shape, dtype=bool)
    for row, steps in enumerate(column):
        for place, step in enumerate(steps):
            ids[row, place, : len(step)] = step
            mask[row, place, : len(step)] = True
    slots = _filled_up(np.asarray(mask.any(2)), max(1, least.get(f"{name}_slots", 0)))
    # What is filled up lies in those slots: nothing is computed of others.
    among = np.zeros((mask.shape[0] * number, longest), dtype=bool)
    among[slots.numpy()] = True
    places = _filled_up(mask, least.get(f"{name}_places", 0), among)
    return {
        f"{name}_ids": torch.from_numpy(ids),
        f"{name}_mask": torch.from_numpy(mask).long(),
        f"{name}_places": places,
        f"{name}_slots": slots,
    }


def _filled_up(real: NDArray[np.bool_], least: int, among: NDArray[np.bool_] | None = None) -> Tensor:
    """The flattened places of what is real, in order, with the first others (of `among`) up to `least`."""
    chosen = real.flatten()
    missing = least - int(chosen.sum())
    if missing > 0:
        others = ~chosen if among is None else among.flatten() & ~chosen
        chosen[np.flatnonzero(others)[:missing]] = True
    return torch.from_numpy(np.flatnonzero(chosen))


def row_alone(batch: Mapping[str, Tensor], row: int) -> dict[str, Tensor]:
    """One row of a collated batch, as wide as it was. Where its real tokens are is left for a mask to say."""
    of_all = ("_places", "_slots")
    return {name: tensor[row : row + 1] for name, tensor in batch.items() if not name.endswith(of_all)}

