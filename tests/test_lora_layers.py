"""LoRA's layers under autocast: fewer kernels than peft's, and numbers as good."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
from peft.tuners.lora import Linear
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from codi.modeling.configuration import LoraSettings
from codi.modeling.context import Tokens
from codi.modeling.lora_layers import AdaptedLinear, as_peft_computes
from codi.modeling.model import ThoughtModel
from tiny_models import tiny_model

QUESTION = Tokens(torch.tensor([[31, 32, 33, 34], [41, 42, 43, 44]]), torch.ones(2, 4, dtype=torch.long))


def adapted(family: str, dropout: float = 0.0) -> tuple[ThoughtModel, ThoughtModel]:
    """A model, and the same with peft's own layers."""
    ours = tiny_model(family, lora=LoraSettings(rank=4, alpha=2, dropout=dropout)).train()
    peft = copy.deepcopy(ours)
    as_peft_computes(peft)
    assert any(type(layer) is AdaptedLinear for layer in ours.modules())
    assert not any(type(layer) is AdaptedLinear for layer in peft.modules())
    assert len([a for a in ours.modules() if isinstance(a, Linear)]) == len(
        [a for a in peft.modules() if type(a) is Linear]
    )
    return ours, peft


def learned(model: ThoughtModel, bf16: bool) -> list[Tensor]:
    """The final states after three thoughts, and every gradient."""
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        context = model.think(model.read(QUESTION).context, 3)
        final = model.read(QUESTION, after=context).final
    final.float().sin().sum().backward()
    return [final.detach().float(), *(p.grad.float() for p in model.parameters() if p.grad is not None)]


def norm_of(difference: list[Tensor]) -> float:
    return float(torch.stack([tensor.norm() for tensor in difference]).norm())


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_outside_autocast_nothing_changes(family: str) -> None:
    ours, peft = adapted(family)
    for one, other in zip(learned(ours, bf16=False), learned(peft, bf16=False), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_under_autocast_it_is_as_near_to_float32_as_pefts_layers_are(family: str) -> None:
    ours, peft = adapted(family)
    exact = learned(peft, bf16=False)
    errors = [
        norm_of([a - b for a, b in zip(learned(model, bf16=True), exact, strict=True)])
        for model in (ours, peft)
    ]
    assert 0 < errors[0] < 1.25 * errors[1]
    assert errors[0] < 0.1 * norm_of(exact)


def test_it_takes_fewer_kernels() -> None:
    counts = []
    for model in adapted("gpt2", dropout=0.1):
        with profile(activities=[ProfilerActivity.CPU]) as found:
            learned(model, bf16=True)
        counts.append(Counter(event.name for event in found.events()))
    kinds = ("aten::copy_", "aten::mul", "aten::add", "aten::addmm", "aten::mm")
    ours, peft = ({name: count[name] for name in kinds} for count in counts)
    assert ours["aten::copy_"] < peft["aten::copy_"]
    assert ours["aten::add"] < peft["aten::add"]
    assert sum(ours.values()) < sum(peft.values()), (ours, peft)


def test_what_peft_does_with_its_layers_still_holds() -> None:
    ours, peft = adapted("gpt2", dropout=0.5)
    assert ours.state_dict().keys() == peft.state_dict().keys()
    with torch.autocast("cpu", torch.bfloat16):
        torch.manual_seed(3)
        dropped = ours.read(QUESTION).final
        assert not torch.equal(dropped, ours.read(QUESTION).final)  # dropout
        answers = [model.eval().read(QUESTION).final for model in (ours, peft)]
        torch.testing.assert_close(*answers, rtol=2e-2, atol=2e-2)
        with ours.backbone.disable_adapter(), peft.backbone.disable_adapter():
            assert torch.equal(ours.read(QUESTION).final, peft.read(QUESTION).final)
        for model in (ours, peft):
            model.backbone.merge_adapter()
        assert torch.equal(ours.read(QUESTION).final, peft.read(QUESTION).final)
