"""Leaving padding out of the computation changes neither results nor gradients."""

from __future__ import annotations

import pytest
import torch

from codi.interpretability.layer_states import blocks
from codi.methods.codi import Codi
from codi.modeling.context import Tokens
from codi.modeling.packing import Packing, allow_packing, may_attend
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


@pytest.mark.parametrize("outer_is_packed", [True, False])
def test_a_pass_within_a_pass_disturbs_neither(outer_is_packed: bool) -> None:
    """As when two threads read with one model: the second pass begins and ends inside the first."""
    model = tiny_model().eval()
    batch = encoded_batch(Codi())
    packed = Tokens.of(batch, "question")
    plain = Tokens(packed.ids[:1, -2:], torch.ones_like(packed.ids[:1, -2:]))
    assert not packed.mask.bool().all()
    outer, inner = (packed, plain) if outer_is_packed else (plain, packed)
    expected = [model.read(tokens).context.last_hidden for tokens in (outer, inner)]
    within: list[torch.Tensor] = []

    def read_inner(*_: object) -> None:
        hook.remove()
        within.append(model.read(inner).context.last_hidden)

    hook = blocks(model)[0].register_forward_hook(read_inner)
    found = model.read(outer).context.last_hidden
    assert torch.equal(found, expected[0])
    assert torch.equal(within[0], expected[1])


def test_a_sliding_window_is_read_padded() -> None:
    assert "mistral" in FAMILIES
    model = tiny_model("mistral")
    assert not model.packs
    assert model.causal.config._attn_implementation == "sdpa"


def test_another_attention_is_read_padded() -> None:
    causal = tiny_model().causal
    causal.config._attn_implementation = "eager"
    assert not allow_packing(causal)


def test_pack_and_unpack_are_inverse() -> None:
    mask = torch.tensor([[0, 1, 1], [1, 1, 1], [0, 0, 1]])
    places = mask.flatten().nonzero().squeeze(1)
    packing = Packing.of(places, may_attend(mask, mask.shape[1]), cache=None)  # type: ignore[arg-type]
    padded = torch.randn(3, 3, 2) * mask.unsqueeze(-1)
    assert packing.pack(padded).shape == (1, 6, 2)
    assert torch.equal(packing.unpack(packing.pack(padded)), padded)
    assert bool(packing.may_attend.any(-1).all())  # no row of a softmax is empty
