"""Passes computed again in backward: the same losses and gradients, less memory, and no thought forgets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from codi.errors import RecipeError
from codi.methods.coconut import Coconut
from codi.methods.codi import Codi
from codi.methods.kava import Kava
from codi.methods.lotus import Lotus
from codi.methods.method import Method
from codi.modeling.configuration import LoraSettings
from codi.modeling.model import ThoughtModel
from test_width_buckets import METHODS, batch_at
from tiny_models import (
    FAMILIES,
    LORA,
    assert_same_gradients,
    encoded_batch,
    gradients,
    tiny_config,
    tiny_model,
)


def recomputing(model: ThoughtModel, on: bool) -> None:
    model.config = replace(model.config, recompute=on)


def both(model: ThoughtModel, method: Method, batch: dict[str, Tensor], **autocast: Any) -> list[Any]:
    found = []
    for on in (False, True):
        recomputing(model, on)
        torch.manual_seed(5)  # dropout draws the same, the second time too
        with torch.autocast("cpu", torch.bfloat16, enabled=bool(autocast)):
            terms = method.loss(model, batch)
        found.append((terms, gradients(model, terms["loss"])))
    return found


def assert_equal(found: list[Any]) -> None:
    (kept, kept_gradients), (again, our_gradients) = found
    for term, value in kept.items():
        assert again[term].item() == pytest.approx(value.item(), rel=1e-5), term
    assert_same_gradients(our_gradients, kept_gradients)


@pytest.mark.parametrize(("method", "stage"), METHODS, ids=lambda given: getattr(given, "name", None))
def test_every_method_has_the_same_loss_and_gradients(method: Method, stage: int) -> None:
    projection = method.name not in ("coconut", "lotus", "pccot")
    model = tiny_model("llama", projection=projection, rows=list(method.rows))
    model.training_parts.update(method.training_parts(model))
    assert_equal(both(model, method.at_stage(stage), batch_at(method, stage)))


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("packs", [True, False], ids=["packed", "padded"])
def test_families_packed_and_padded(family: str, packs: bool) -> None:
    model, method = tiny_model(family), Codi(latents=3)
    model.packs = model.packs and packs
    assert_equal(both(model, method, encoded_batch(method)))


def test_with_dropout_under_lora_and_mixed_precision() -> None:
    model = tiny_model("llama", lora=LoraSettings(rank=4, alpha=8, dropout=0.3), projection_dropout=0.2)
    method = Codi(latents=2)
    assert_equal(both(model, method, encoded_batch(method), autocast=True))


def test_less_is_kept_for_backward() -> None:
    method, kept = Codi(latents=6), []
    batch = encoded_batch(method)
    for on in (False, True):
        model, seen = tiny_model("llama"), dict[int, int]()
        recomputing(model, on)
        own = {weight.untyped_storage().data_ptr() for weight in model.parameters()}

        def keep(tensor: Tensor, own: set[int] = own, seen: dict[int, int] = seen) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                seen[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = method.loss(model, batch)["loss"]  # held until it is counted
        kept.append(sum(seen.values()))
        assert loss.isfinite()
    assert kept[1] < 0.4 * kept[0]


def test_answering_computes_nothing_again() -> None:
    model = tiny_model("llama", recompute=True).eval()
    calls: list[int] = []
    model.causal.base_model.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        Codi(latents=2).loss(model, encoded_batch(Codi(latents=2)))
    assert len(calls) == 5  # question and <bot>, teacher, two thoughts, student


def test_not_with_adapters_multiplied_once() -> None:
    with pytest.raises(RecipeError, match="computed again it would run without"):
        ThoughtModel(tiny_config("llama", recompute=True, lora=replace(LORA, multiply_once=True)))


def test_the_list_has_curricula_refinements_and_asked_attention() -> None:
    assert {Coconut, Lotus, Kava} <= {type(method) for method, _ in METHODS}
