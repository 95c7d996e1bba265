"""Leaving padding out of the computation changes neither results nor gradients."""

from __future__ import annotations

import pytest
import torch

from codi.methods.codi import Codi
from codi.modeling.context import Tokens
from codi.modeling.packing import Packing, can_pack
from tiny_models import FAMILIES, assert_same_gradients, encoded_batch, gradients, tiny_model


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2"])
def test_packed_and_padded_reading_agree(family: str) -> None:
    model, method = tiny_model(family), Codi(latents=2)
    assert model.packs
    batch = encoded_batch(method)
    packed = method.loss(model, batch)
    packed_gradients = gradients(model, packed["loss"])
    model.packs = False
    padded = method.loss(model, batch)
    for term, value in padded.items():
        assert packed[term].item() == pytest.approx(value.item(), rel=1e-5)
    assert_same_gradients(packed_gradients, gradients(model, padded["loss"]))


def test_the_cache_and_states_are_laid_out_as_without_packing() -> None:
    model, method = tiny_model(), Codi()
    batch = encoded_batch(method)
    question, rest = Tokens.of(batch, "question"), Tokens.of(batch, "teacher")
    readings = []
    for packs in (True, False):
        model.packs = packs
        readings.append(model.read(rest, after=model.read(question).context, hidden_states=True))
    ours, theirs = readings
    real, whole = rest.mask.bool(), theirs.context.mask.bool()
    torch.testing.assert_close(ours.final[real], theirs.final[real], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.context.last_hidden, theirs.context.last_hidden, atol=1e-5, rtol=1e-5)
    assert ours.hidden_states is not None
    assert theirs.hidden_states is not None
    for a, b in zip(ours.hidden_states, theirs.hidden_states, strict=True):
        torch.testing.assert_close(a[real], b[real], atol=1e-5, rtol=1e-5)
    for a, b in zip(ours.context.cache.layers, theirs.context.cache.layers, strict=True):
        assert a.keys.shape == b.keys.shape
        torch.testing.assert_close(
            a.keys.transpose(1, 2)[whole], b.keys.transpose(1, 2)[whole], atol=1e-5, rtol=1e-5
        )
    assert model.causal.config._attn_implementation == "sdpa"


def test_a_sliding_window_is_read_padded() -> None:
    assert "mistral" in FAMILIES
    assert not tiny_model("mistral").packs


def test_another_attention_is_read_padded() -> None:
    causal = tiny_model().causal
    causal.config._attn_implementation = "eager"
    assert not can_pack(causal)


def test_pack_and_unpack_are_inverse() -> None:
    mask = torch.tensor([[0, 1, 1], [1, 1, 1], [0, 0, 1]])
    packing = Packing.of(mask, mask, cache=None)  # type: ignore[arg-type]
    padded = torch.randn(3, 3, 2) * mask.unsqueeze(-1)
    assert packing.pack(padded).shape == (1, 6, 2)
    assert torch.equal(packing.unpack(packing.pack(padded)), padded)
    assert bool(packing.may_attend.any(-1).all())  # no row of a softmax is empty
