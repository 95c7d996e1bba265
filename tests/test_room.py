"""Thoughts write their keys and values behind those that are there: nothing is copied, and nobody notices."""

from __future__ import annotations

import gc
import weakref
from random import Random
from threading import Barrier, Thread
from typing import Any

import pytest
import torch
from torch import Tensor

from codi.modeling.context import Context, Tokens
from codi.modeling.model import ThoughtModel
from codi.modeling.room import Room
from tiny_models import LORA, tiny_model

QUESTION = Tokens(
    torch.tensor([[0, 0, 31, 32, 33], [41, 42, 43, 44, 45]]), torch.tensor([[0, 0, 1, 1, 1], [1] * 5])
)
ANSWER = Tokens(torch.tensor([[50, 51], [53, 54]]), torch.ones(2, 2, dtype=torch.long), padded=False)


def held(context: Context) -> list[Tensor]:
    layers: list[Any] = context.cache.layers
    return [tensor for layer in layers for tensor in (layer.keys, layer.values)]


def thought(model: ThoughtModel, after: Context, number: int) -> Context:
    """As `think`, with every key and value of the question copied by every thought."""
    for _ in range(number):
        latent = model.projection(after.last_hidden)
        after = model.feed(latent.unsqueeze(1), None, after).context
    return after


def assert_same(one: Context, two: Context) -> None:
    for a, b in zip([*held(one), one.last_hidden], [*held(two), two.last_hidden], strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_thoughts_copy_the_question_once(family: str) -> None:
    model = tiny_model(family)
    begun = model.read(QUESTION).context
    assert model.think(begun, 0) is begun
    roomy = begun.with_room(4)
    contexts = [roomy]
    for _ in range(4):
        contexts.append(thought(model, contexts[-1], 1))
    first, last = held(contexts[1]), held(contexts[-1])
    assert [a.data_ptr() for a in first] == [a.data_ptr() for a in last]
    for number, context in enumerate(contexts[1:], 1):  # each still holds what it held
        assert_same(context, thought(model, begun, number))
    beyond = thought(model, contexts[-1], 1)  # no room any more: as ever
    assert [a.data_ptr() for a in held(beyond)] != [a.data_ptr() for a in last]
    assert_same(beyond, thought(model, begun, 5))


def test_who_extends_an_older_context_gets_tensors_of_its_own() -> None:
    model = tiny_model()
    begun = model.read(QUESTION).context
    roomy = begun.with_room(8)
    one = thought(model, roomy, 2)
    kept = [tensor.clone() for tensor in held(one)]
    other = model.read(ANSWER, after=roomy).context  # the same place, from the same context
    again = model.read(ANSWER, after=one.cut(1, one.last_hidden)).context  # a thought earlier
    picked = thought(model, one.select(torch.tensor([1])), 1)
    for before, now in zip(kept, held(one), strict=True):
        assert torch.equal(before, now)
    assert_same(other, model.read(ANSWER, after=begun).context)
    assert_same(again, model.read(ANSWER, after=thought(model, begun, 2).cut(1, one.last_hidden)).context)
    assert_same(picked, thought(model, thought(model, begun, 2).select(torch.tensor([1])), 1))
    assert_same(thought(model, one, 1), thought(model, begun, 3))  # the newest still has its room


def program(model: ThoughtModel, seed: int) -> list[Tensor]:
    """Contexts extended, cut, joined and picked from in any order: all that they hold, and gradients."""
    chance = Random(seed)
    contexts = [model.read(QUESTION).context]
    for _ in range(12):
        one = chance.choice(contexts[-4:])
        rows, ids = one.rows, torch.tensor([[chance.randrange(10, 60)]])
        made = {
            "think": lambda one=one: model.think(one, chance.randrange(1, 4)),
            "read": lambda one=one, rows=rows, ids=ids: (
                model.read(
                    Tokens(ids.expand(rows, 1), torch.ones(rows, 1, dtype=torch.long), padded=False),
                    after=one,
                ).context
            ),
            "room": lambda one=one: one.with_room(chance.randrange(1, 4), chance.randrange(4)),
            "cut": lambda one=one: one.cut(1, one.last_hidden),
            "pick": lambda one=one, rows=rows: one.select(torch.tensor([chance.randrange(rows)])),
            "join": lambda one=one: Context.join([one, chance.choice(contexts[-3:])]),
        }
        done = chance.choice(["think", "read", "read", "room", "room", "cut", "pick", "join"])
        contexts.append(made[done]())
    model.zero_grad()
    sum((c.last_hidden.sum() + sum(t.sin().sum() for t in held(c))) for c in contexts).backward()
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    return [t.detach() for c in contexts for t in (*held(c), c.last_hidden)] + gradients


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_whatever_is_done_with_contexts_room_changes_nothing(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model(family, lora=LORA).train()
    with_room = [program(model, seed) for seed in range(25)]
    monkeypatch.setattr("codi.modeling.context.extend_in_place", lambda *_: False)
    for seed, found in enumerate(with_room):
        for ours, joined in zip(found, program(model, seed), strict=True):
            torch.testing.assert_close(ours, joined, rtol=1e-5, atol=1e-5)


def test_memory_is_given_back_with_the_rows_that_go() -> None:
    model = tiny_model()
    with torch.no_grad():
        begun = model.read(QUESTION).context
        roomy = thought(model, begun.with_room(8), 1)
        layers: list[Any] = roomy.cache.layers
        buffers = [weakref.ref(t) for layer in layers for t in (layer.room.keys, layer.room.values)]
        one = roomy.select(torch.tensor([1]))
        joined = Context.join([roomy, one])
        longer = model.read(ANSWER, after=roomy.cut(1, roomy.last_hidden)).context
        del roomy, layers
        gc.collect()
    assert [buffer() for buffer in buffers] == [None] * 4
    assert [context.rows for context in (one, joined, longer)] == [1, 3, 2]


@pytest.mark.parametrize("recompute", [False, True])
def test_the_gradients_are_those_of_keys_and_values_joined_anew(recompute: bool) -> None:
    model = tiny_model(lora=LORA, recompute=recompute).train()
    gradients = []
    for roomy in (True, False):
        begun = model.read(QUESTION).context
        thoughts = model.think(begun, 4) if roomy else thought(model, begun, 4)
        teacher = model.read(ANSWER, after=begun).final
        model.zero_grad()
        # Both read on from the same question, and the loss hangs on keys and values besides.
        loss = model.read(ANSWER, after=thoughts).final.pow(2).sum() + teacher.sum()
        (loss + sum(tensor[..., -3:, :].sum() for tensor in held(thoughts))).backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-5, atol=1e-5)


def test_of_two_threads_one_writes_and_the_other_gets_tensors_of_its_own() -> None:
    keys = torch.randn(1, 1, 3, 2)
    wrong = 0
    for _ in range(200):
        room, found = Room(keys, keys, 4), dict[float, Tensor]()
        barrier = Barrier(2)

        def extend(number: float, room: Room = room, barrier: Barrier = barrier, found: Any = found) -> None:
            more = torch.full((1, 1, 1, 2), number)
            barrier.wait()
            extended = room.extended(keys, keys, more, more)
            if extended is not None:
                found[number] = extended[0]

        threads = [Thread(target=extend, args=(number,)) for number in (1.0, 2.0)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 1
        wrong += sum(not torch.equal(k[0, 0, 3], torch.full((2,), number)) for number, k in found.items())
    assert wrong == 0


def test_types_are_those_of_keys_and_values_joined_anew() -> None:
    """A question read under autocast, thought about outside of it."""
    model = tiny_model()
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            begun = model.read(QUESTION).context
        assert_same(model.think(begun, 3), thought(model, begun, 3))
        plain = model.read(QUESTION).context
        with torch.autocast("cpu", torch.bfloat16):
            assert_same(model.think(plain, 3), thought(model, plain, 3))


def test_what_was_made_in_inference_mode_is_not_written_to_outside() -> None:
    model = tiny_model()
    with torch.inference_mode():
        roomy = model.read(QUESTION).context.with_room(4)
    with torch.no_grad():
        assert_same(thought(model, roomy, 2), thought(model, model.read(QUESTION).context, 2))


def test_an_older_context_does_not_keep_what_was_computed_after_it() -> None:
    model = tiny_model().train()
    roomy = model.read(QUESTION).context.with_room(4)
    newer = model.read(ANSWER, after=roomy).context
    keys = weakref.ref(held(newer)[0])
    assert keys() is not None
    del newer
    gc.collect()
    assert keys() is None  # nor the graph behind it
    assert roomy.width == 5


def test_room_is_only_for_whoever_holds_the_newest() -> None:
    first, more = torch.randn(1, 1, 3, 2), torch.ones(1, 1, 1, 2)
    room = Room(first, first, 2)
    assert room.has(first, 2)
    assert not room.has(first, 3)
    assert not room.has(first.clone(), 1)
    extended = room.extended(first, first, more, more)
    assert extended is not None
    assert torch.equal(extended[0], torch.cat([first, more], 2))
    assert room.has(extended[0], 1)
    assert not room.has(first, 1)
    assert room.extended(first, first, more, more) is None
    assert room.extended(*extended, more.double(), more) is None
