"""Every layer's state at the pass that makes each thought: what lenses and probes look at.

    pass   reads      layer 0      layer 1              layer M
    0      Q <bot>    embedding    after block 1   ..   after block M and the final norm = thought z1
    1      z1         embedding    after block 1   ..   after block M and the final norm = thought z2
    ...

Recorded with forward hooks, only when asked for. The blocks and the final norm are found by interface: the
body's list of as many modules as the model has layers, and the one child that is a norm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from codi.errors import UsageError
from codi.generation.latent_reasoner import LatentReasoner
from codi.interpretability.thinking import Thinking, in_batches, think_through
from codi.modeling.context import Context
from codi.modeling.model import ThoughtModel, ThoughtWatcher

BATCH_SIZE = 32


def blocks(model: ThoughtModel) -> nn.ModuleList:
    """The transformer blocks of the base, in order. Raises UsageError where they cannot be found."""
    body = model.causal.base_model
    found = [
        child for child in body.children() if isinstance(child, nn.ModuleList) and len(child) == model.layers
    ]
    if len(found) != 1:
        raise UsageError(
            f"The layers of {type(body).__name__} were looked for as its one list of {model.layers} modules, "
            f"but it has {len(found)} such lists. Lenses and probes do not know this model's layout."
        )
    return found[0]


def final_norm(model: ThoughtModel) -> nn.Module:
    """The norm between the last block and the LM head. Raises UsageError where it cannot be found."""
    body = model.causal.base_model
    found: dict[str, nn.Module] = {n: child for n, child in body.named_children() if _is_norm(child)}
    if len(found) != 1:
        raise UsageError(
            f"The final norm of {type(body).__name__} was looked for as its one child with a one-dimensional "
            f"weight, but {', '.join(found) or 'none'} was found. Lenses and probes do not know this model's "
            "layout."
        )
    (norm,) = found.values()
    return norm


def _is_norm(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.ndim == 1


@contextmanager
def recorded_layers(model: ThoughtModel) -> Iterator[list[Tensor]]:
    """Meanwhile the list holds the states of the model's latest pass, at its last position.

    One [b, d] per layer: what goes into each block, then what the final norm gives; this is what
    transformers calls hidden states. Padded rows are computed as they are (left padding leaves the last
    position real).
    """
    layers, norm, packed = blocks(model), final_norm(model), model.packs
    latest: list[Tensor] = []

    def begin(_module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        latest.clear()
        enter(_module, inputs, named)

    def enter(_module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        state = inputs[0] if inputs else named["hidden_states"]
        latest.append(state[:, -1].detach())

    def end(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        latest.append(output[:, -1].detach())

    hooks = [
        block.register_forward_pre_hook(enter if place else begin, with_kwargs=True)
        for place, block in enumerate(layers)
    ]
    hooks.append(norm.register_forward_hook(end))
    model.packs = False  # packed rows have no last position of their own
    try:
        yield latest
    finally:
        model.packs = packed
        for hook in hooks:
            hook.remove()


@dataclass
class _LayerRecorder(ThoughtWatcher):
    """Keeps the layers of every pass that made a thought. `inner` may run passes of its own in between.

    latest: see `recorded_layers`; states: [b, layers + 1, d] per thought, and one of the pass that reads the
    last thought.
    """

    latest: list[Tensor]
    inner: ThoughtWatcher = field(default_factory=ThoughtWatcher)
    states: list[Tensor] = field(default_factory=list)

    def feed(self, number: int, context: Context, latent: Tensor) -> Tensor:
        """The first thought was made by the pass just over."""
        if number == 0:
            self.states.append(torch.stack(self.latest, 1))
        return self.inner.feed(number, context, latent)

    def fed(self, number: int, context: Context) -> Context:
        """The pass just over read this thought and so made the next."""
        self.states.append(torch.stack(self.latest, 1))
        return self.inner.fed(number, context)


def layer_states(
    reasoner: LatentReasoner,
    questions: Sequence[str],
    *,
    latents: int | None = None,
    watcher: ThoughtWatcher | None = None,
) -> tuple[Thinking, Tensor]:
    """Think over b questions and record every layer at each of n thoughts: [b, n, layers + 1, d].

    Layer 0 is the embedding; the last is the thought itself, after the final norm. `watcher` may change
    thoughts on the way. Raises UsageError for a model without thoughts or of unknown layout, for a question
    that is empty or too long, and where the watcher puts a context of another pass in a thought's place.
    """
    if reasoner.method.refines:
        raise UsageError(
            f"A {reasoner.method.name} model makes all thoughts in every pass, and layers are recorded of "
            "one pass for each. Its decoded thoughts, round by round, and interventions can be had."
        )
    with recorded_layers(reasoner.model) as latest:
        recorder = _LayerRecorder(latest, watcher or ThoughtWatcher())
        thinking = think_through(reasoner, questions, latents=latents, watcher=recorder)
    states = torch.stack(recorder.states[: thinking.number], 1)
    if not torch.equal(states[:, :, -1], thinking.thoughts):
        raise UsageError(
            "The states recorded do not belong to the thoughts: the last layer is not the thought itself. A "
            "watcher that puts a context of its own in a thought's place cannot be combined with lenses and "
            "probes; record without it, or let it change the latents alone."
        )
    return thinking, states


def all_layer_states(
    reasoner: LatentReasoner,
    questions: Sequence[str],
    *,
    latents: int | None = None,
    batch_size: int = BATCH_SIZE,
    on_progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """`layer_states` of any number of questions, batch by batch, on the CPU: [questions, n, layers + 1, d].

    on_progress: called with the questions done and all of them. Raises UsageError where there is no question.
    """
    if not questions:
        raise UsageError("No questions were given, so there are no thoughts to record. Give at least one.")
    found = []
    for rows in in_batches(len(questions), batch_size):
        batch = [questions[row] for row in rows]
        found.append(layer_states(reasoner, batch, latents=latents)[1].cpu())
        if on_progress is not None:
            on_progress(rows[-1] + 1, len(questions))
    return torch.cat(found)
