"""Batches of few shapes: the same losses and gradients, every row taken, the fewest positions."""

from __future__ import annotations

import random
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from codi.data.collation import collate
from codi.data.encoded_rows import EncodedRows
from codi.errors import RecipeError
from codi.methods.coconut import Coconut
from codi.methods.codi import Codi
from codi.methods.cot_sft import CotSft
from codi.methods.icot import ICot
from codi.methods.kava import Kava
from codi.methods.language_model import LanguageModel
from codi.methods.lotus import Lotus
from codi.methods.method import Method
from codi.methods.no_cot_sft import NoCotSft
from codi.methods.pause_tokens import PauseTokens
from codi.methods.pccot import Pccot
from codi.methods.sim_cot import SimCot
from codi.training.recipes import load_recipe
from codi.training.run import train
from codi.training.width_buckets import WidthBuckets, most
from tiny_models import EXAMPLES, assert_same_gradients, gradients, tiny_model, word_encoder
from tiny_runs import configured, tiny_settings, weights

WIDTHS = {"question": 23, "teacher": 31, "student": 25}
METHODS: list[tuple[Method, int]] = [
    (Codi(latents=2), 0),
    (CotSft(), 0),
    (NoCotSft(), 0),
    (LanguageModel(), 0),
    (PauseTokens(pauses=2), 0),
    (ICot(), 3),
    (Coconut(c_thought=1), 2),
    (Pccot(latents=3, rounds=2), 0),
    (Lotus(blocks=3, width=6), 2),
    (SimCot(latents=2), 0),
    (Kava(latents=3, rounds=2), 0),
]


def batch_at(method: Method, stage: int, widths: dict[str, int] | None = None) -> dict[str, Tensor]:
    """As the trainer makes it, in a stage of the method."""
    text, draws = word_encoder(), random.Random(0)
    rows = [method.staged(method.encode(example, text), stage, draws) for example in EXAMPLES]
    return collate(rows, text.pad_id, widths)


@pytest.mark.parametrize("packs", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize(("method", "stage"), METHODS, ids=lambda given: getattr(given, "name", None))
def test_wider_batches_have_the_same_loss_and_gradients(method: Method, stage: int, packs: bool) -> None:
    projection = method.name not in ("coconut", "lotus", "pccot")
    model = tiny_model("llama", projection=projection, rows=list(method.rows))
    model.training_parts.update(method.training_parts(model))
    model.packs, found = packs, []
    for widths in (None, WIDTHS):
        terms = method.at_stage(stage).loss(model, batch_at(method, stage, widths))
        found.append((terms, gradients(model, terms["loss"])))
    (narrow, narrow_gradients), (wide, wide_gradients) = found
    for term, value in narrow.items():
        assert wide[term].item() == pytest.approx(value.item(), rel=1e-5)
    assert_same_gradients(wide_gradients, narrow_gradients)


def test_segments_are_as_wide_as_asked_for_and_never_narrower_than_a_row() -> None:
    rows: list[Any] = [{"question": [5, 6], "teacher": [7]}, {"question": [5], "teacher": [7, 8, 9]}]
    batch = collate(rows, 0, {"question": 4, "teacher": 2})
    assert batch["question_ids"].tolist() == [[0, 0, 5, 6], [0, 0, 0, 5]]
    assert batch["teacher_ids"].tolist() == [[7, 0, 0], [7, 8, 9]]
    assert batch["question_places"].tolist() == [2, 3, 7]


def _random_rows(count: int) -> list[Any]:
    draws = random.Random(3)
    return [
        {"question": [1] * draws.randint(5, 40), "student": [1] * draws.randint(2, 9), "number": 4}
        for _ in range(count)
    ]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_the_shapes_are_those_with_the_fewest_positions(number: int) -> None:
    rows = _random_rows(24)
    batches = [list(range(first, first + 3)) for first in range(0, 24, 3)]
    needed = [
        tuple(max(len(rows[row][name]) for row in batch) for name in ("question", "student"))
        for batch in batches
    ]
    needed.sort(key=sum)

    def positions(shapes: list[Any]) -> int:
        return sum(next(sum(shape) for shape in shapes if (np.array(shape) >= one).all()) for one in needed)

    widest = np.max([[len(row["question"]), len(row["student"])] for row in rows], 0)
    tried = []
    for cuts in combinations(range(1, len(needed)), number - 1):
        ends = [*cuts, len(needed)]
        shapes = [np.max(needed[:end], 0) for end in ends]
        tried.append(positions([*shapes[:-1], widest]))
    buckets = WidthBuckets.chosen([[rows[row] for row in batch] for batch in batches], number, most(rows))
    assert len(buckets.shapes) == number
    ours = positions([(shape["question"], shape["student"]) for shape in buckets.shapes])
    assert ours == min(tried)
    assert buckets.more == pytest.approx(ours / sum(map(sum, needed)) - 1)


def test_every_row_fits_and_arrays_give_what_lists_give() -> None:
    rows = _random_rows(40)
    batches = [list(range(first, first + 4)) for first in range(0, 40, 4)]
    assert EncodedRows.gather(rows).most() == most(rows)
    buckets = WidthBuckets.chosen([[rows[row] for row in batch] for batch in batches], 4, most(rows))
    for row in rows:
        shape, whole = buckets.fitting([row])
        assert not whole
        assert set(shape) == {"question", "student"}
        assert all(shape[name] >= len(row[name]) for name in shape)
    assert buckets.fitting([{"question": [1] * 400, "student": [1], "number": 1}]) == ({}, False)


def test_a_run_has_few_shapes_says_so_and_ends_with_the_same_weights(tmp_path: Path) -> None:
    said: list[str] = []
    settings = tiny_settings(tmp_path, save_strategy="no")
    for name, number in (("plain", None), ("few", 2)):
        settings["data"]["width_buckets"] = number
        train(configured(settings), tmp_path / name, say=said.append)
    [line] = [line for line in said if line.startswith("Batches are padded to 2 shapes")]
    assert "(question+teacher+student)" in line
    plain, few = (weights(tmp_path / name) for name in ("plain", "few"))
    for name, weight in plain.items():
        assert (weight - few[name]).abs().max() < 1e-4, name


def test_no_buckets_are_too_few() -> None:
    with pytest.raises(RecipeError, match=r"data\.width_buckets is 0; it must be 1 or more"):
        load_recipe("word-problems", {"data.width_buckets": 0})
