"""A step never waits for its device: on one that has no values, whatever looks at a value fails.

Two such devices. `meta`, as a GPU is used: shapes are computed, values are not; what would be copied there
from the host raises too, since it waits. And fake tensors on a CPU, which leaves padding out, under mixed
precision. A look at a value is `.item()`, `bool`, `nonzero`, an index by a mask.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from codi.data.collation import collate
from codi.generation.sampling import Sampling, choose
from codi.methods.coconut import Coconut
from codi.methods.codi import Codi
from codi.methods.codi_adaptive import CodiAdaptive
from codi.methods.cot_sft import CotSft
from codi.methods.icot import ICot
from codi.methods.kava import Kava
from codi.methods.language_model import LanguageModel
from codi.methods.lotus import Lotus
from codi.methods.method import METHODS, Batch, Method
from codi.methods.no_cot_sft import NoCotSft
from codi.methods.pause_tokens import PauseTokens
from codi.methods.pccot import Pccot
from codi.methods.sim_cot import SimCot
from codi.methods.sim_cot_coconut import SimCotCoconut
from codi.methods.static_teacher import StaticTeacher
from codi.modeling.context import Tokens
from codi.modeling.model import ThoughtModel
from tiny_models import EXAMPLES, LORA, tiny_model, word_encoder

STAGED: dict[str, int] = {"coconut": 2, "icot": 3, "lotus": 2, "sim-cot-coconut": 2}
SMALL: dict[type[Method], dict[str, Any]] = {
    Codi: {"latents": 2},
    StaticTeacher: {"latents": 2, "multitask_student": True},
    CodiAdaptive: {"latents": 3},
    Coconut: {"c_thought": 1},
    ICot: {},
    CotSft: {},
    NoCotSft: {},
    LanguageModel: {},
    PauseTokens: {"pauses": 2},
    Pccot: {"latents": 3, "rounds": 2},
    Lotus: {"blocks": 3, "width": 6},
    SimCot: {"latents": 2},
    SimCotCoconut: {"c_thought": 1},
    Kava: {"latents": 3, "rounds": 2},
}


class NothingIsCopied(TorchDispatchMode):
    """Raises where a tensor with something in it goes from one device to another."""

    def __torch_dispatch__(self, func: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        copies = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
        if func in copies and args[-1].numel() and found.device != args[-1].device:
            raise AssertionError(f"{func} copies {tuple(args[-1].shape)} to {found.device}")
        return found


class NothingIsMadeOfValues(TorchFunctionMode):
    """Raises where a tensor on the device is made of numbers that the host has."""

    def __torch_function__(self, func: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func in (torch.tensor, torch.as_tensor) and made.device.type == "meta" and made.numel():
            raise AssertionError(f"{func.__name__} copies {tuple(made.shape)} to the device")
        return made


@contextmanager
def without_values(device: str, *models: torch.nn.Module) -> Iterator[Callable[[Batch], Batch]]:
    """Inside, models and (by what is yielded) batches are on a device without values."""
    if device == "meta":
        for model in models:
            model.to("meta")
        with NothingIsCopied(), NothingIsMadeOfValues():
            yield lambda batch: {name: torch.empty_like(t, device="meta") for name, t in batch.items()}
        return
    with FakeTensorMode() as fake:
        for model in models:
            _lend(model, fake)
        with torch.autocast("cpu", torch.bfloat16):
            yield lambda batch: {name: fake.from_tensor(t) for name, t in batch.items()}


def _lend(model: torch.nn.Module, fake: FakeTensorMode) -> None:
    made: dict[int, Any] = {}
    for part in model.modules():
        for own in (part._parameters, part._buffers):
            for name, tensor in own.items():
                if tensor is not None:
                    made.setdefault(id(tensor), fake.from_tensor(tensor))
                    own[name] = made[id(tensor)]


def batch_of(method: Method) -> Batch:
    """As the trainer makes it, on the CPU; the method in a stage that has thoughts and text."""
    text, draws = word_encoder(), random.Random(0)
    stage = STAGED.get(method.name, 0)
    rows = [method.staged(method.encode(example, text), stage, draws) for example in EXAMPLES]
    return collate(rows, text.pad_id)


def built(method: Method, **changes: Any) -> ThoughtModel:
    projection = method.name not in ("coconut", "lotus", "sim-cot-coconut", "pccot")
    model = tiny_model("llama", projection=projection, rows=list(method.rows), **changes)
    model.training_parts.update(method.training_parts(model))
    return model.train()


def test_every_method_is_here() -> None:
    import codi.methods.method as method

    method._import_all()
    ours = {kind.name for kind in METHODS.values() if kind.__module__.startswith("codi.")}
    assert {kind.name for kind in SMALL} == ours


@pytest.mark.parametrize(
    ("kind", "device"),
    [*((kind, "meta") for kind in SMALL), *((kind, "cpu") for kind in (Codi, Coconut, SimCot, Kava))],
    ids=lambda given: given if isinstance(given, str) else given.name,
)
def test_loss_and_its_gradients(
    kind: type[Method], device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = kind(**SMALL[kind])
    staged = method.at_stage(STAGED[method.name]) if method.name in STAGED else method
    batch, model = batch_of(method), built(method, **({"lora": LORA} if kind is Codi else {}))
    teacher = tiny_model("llama").requires_grad_(False).eval()
    monkeypatch.setattr("codi.methods.static_teacher.load_teacher", lambda *_: teacher)
    with without_values(device, model, teacher) as moved:
        terms = staged.loss(model, moved(batch))
        terms["loss"].backward()
    assert set(terms) == {"loss", *method.terms}
    assert any(weight.grad is not None for weight in model.parameters())


@pytest.mark.parametrize(("family", "device"), [("gpt2", "meta"), ("llama", "meta"), ("llama", "cpu")])
def test_thinking_and_a_decoding_step(family: str, device: str) -> None:
    model, method, text = tiny_model(family).eval(), Codi(latents=3), word_encoder()
    batch = batch_of(method)
    with without_values(device, model) as moved, torch.no_grad():
        question = Tokens.of(moved(batch), "question")
        start = method.start(model, text, question, "latent")
        ids = model.logits(start.context.last_hidden).argmax(-1, keepdim=True)
        context = model.read(Tokens(ids, torch.ones_like(ids), padded=False), after=start.context).context
        logits = model.logits(context.last_hidden).float()
        chosen = choose(logits, [Sampling()] * len(EXAMPLES), [0.0] * len(EXAMPLES))
    assert chosen.shape == (len(EXAMPLES),)


@pytest.mark.parametrize("device", ["meta", "cpu"])
@pytest.mark.parametrize(
    "look",
    [
        lambda tensor: tensor.max().item(),
        lambda tensor: bool(tensor.any()),
        lambda tensor: tensor.nonzero(),
        lambda tensor: tensor[tensor > 0],
        lambda tensor: tensor.tolist(),
    ],
    ids=["item", "bool", "nonzero", "mask", "tolist"],
)
def test_a_look_at_a_value_is_found(look: Any, device: str) -> None:
    with without_values(device) as moved:
        tensor = moved({"it": torch.ones(3)})["it"]
        with pytest.raises((RuntimeError, NotImplementedError, DynamicOutputShapeException)):
            look(tensor)


def test_a_copy_to_the_device_is_found() -> None:
    there = torch.ones(3, device="meta")
    for copy in (lambda: torch.ones(3).to("meta"), lambda: there + torch.tensor([1, 2, 3], device="meta")):
        with without_values("meta"), pytest.raises(AssertionError, match="copies"):
            copy()
