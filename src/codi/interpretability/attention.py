"""What a thought attends to (paper, Figures 6, A2 and A3). Recorded only when asked for.

    pass      reads             its last hidden state becomes
    0         Q <bot>           thought z1
    1         z1                thought z2
    ...
    n         z_n               nothing: <eot> comes next
    n + 1     <eot> The answer is:     the answer's first token

The row of z_i is the attention of the pass that *made* it (pass i - 1): what it looked at to become what it
decodes to. Earlier latents appear as `z3=20`, with the token they decode to, and the first token of the
sequence is left out, as in the paper: attention without a purpose rests there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from codi.errors import UsageError
from codi.generation.decoded_thoughts import named_tokens, token_text
from codi.generation.latent_reasoner import LatentReasoner
from codi.generation.question_words import question_words
from codi.interpretability.thinking import Thinking, think_through
from codi.modeling.model import ThoughtModel, ThoughtWatcher

TOP_ATTENDED = 10


@dataclass(frozen=True)
class AttentionMap:
    """Attention of one question's passes.

    weights: one [layers, heads, s] per pass, of its last position over all s before and with it;
    keys: names of the positions, in order; rows: what each pass made (z1 .. zn, `after zn`, `answer`).
    """

    weights: list[Tensor]
    keys: list[str]
    rows: list[str]

    def mean(self, row: int, layer: int | None = None, head: int | None = None) -> Tensor:
        """[s], the mean over layers and heads, or one layer's or head's. Raises UsageError out of range."""
        weights = self.weights[row]
        for name, asked, there in (("layer", layer, weights.shape[0]), ("head", head, weights.shape[1])):
            if asked is not None and not 0 <= asked < there:
                raise UsageError(f"There is no {name} {asked}: the model has {name}s 0 to {there - 1}.")
        weights = weights if layer is None else weights[layer : layer + 1]
        weights = weights if head is None else weights[:, head : head + 1]
        return weights.mean((0, 1))

    def top(
        self, row: int, top_k: int = TOP_ATTENDED, layer: int | None = None, head: int | None = None
    ) -> list[tuple[str, float]]:
        """The most attended positions of a row, first token left out: (name, weight)."""
        weights = self.mean(row, layer, head)[1:]
        best = weights.topk(min(top_k, weights.shape[0]))
        return [
            (self.keys[1 + place], weight)
            for place, weight in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]


class _Passes(ThoughtWatcher):
    """The attention of every pass since it was opened."""

    def __init__(self) -> None:
        self.current: list[Tensor] = []
        self.passes: list[Tensor] = []

    def close(self) -> None:
        """The pass is over: what its layers gave is one entry. [layers, b, heads, s]"""
        if self.current:
            self.passes.append(torch.stack(self.current))
            self.current = []


@contextmanager
def recorded_attention(model: ThoughtModel) -> Iterator[list[Tensor]]:
    """Meanwhile every pass of the model leaves its attention: [layers, b, heads, s], of its last position.

    The base attends through transformers' `eager` path meanwhile, the one that gives weights.
    Raises UsageError where the base's attention gives none.
    """
    config, packed = model.causal.config, model.packs
    usual = config._attn_implementation
    found = _Passes()

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        weights = output[1] if isinstance(output, tuple) and len(output) > 1 else None
        if not isinstance(weights, Tensor) or weights.ndim != 4:
            raise UsageError(f"The attention of {type(model.causal).__name__} gives no weights to record.")
        found.current.append(weights[:, :, -1].detach())

    def end(_module: nn.Module, _inputs: Any, _output: Any) -> None:
        found.close()

    attentions = [module for module in model.causal.modules() if _is_attention(module)]
    hooks = [module.register_forward_hook(keep) for module in attentions]
    hooks.append(model.causal.base_model.register_forward_hook(end))
    config._attn_implementation, model.packs = "eager", False
    try:
        yield found.passes
    finally:
        config._attn_implementation, model.packs = usual, packed
        for hook in hooks:
            hook.remove()


def _is_attention(module: nn.Module) -> bool:
    """Whether it is the attention of a layer: it knows its place in the cache and holds the projections."""
    has_place = isinstance(getattr(module, "layer_idx", None), int)
    return has_place and "attention" in type(module).__name__.lower()


def attended(
    reasoner: LatentReasoner,
    question: str,
    *,
    latents: int | None = None,
    watcher: ThoughtWatcher | None = None,
) -> tuple[Thinking, AttentionMap]:
    """Think over one question and record what every pass attends to.

    Raises UsageError where a pass makes more than one thought.
    """
    if reasoner.method.refines:
        raise UsageError(
            f"A {reasoner.method.name} model makes all thoughts in every pass, and what is shown here is one "
            "pass for each. Its decoded thoughts and interventions can be had."
        )
    with recorded_attention(reasoner.model) as passes:
        thinking = think_through(reasoner, [question], latents=latents, watcher=watcher)
    model, text = reasoner.model, reasoner.text
    said = [token for ((token, _),) in named_tokens(model, text, thinking.thoughts[0], 1)]
    keys = [word.text for word in question_words(model, text, question, thinking.question.ids[0].tolist())]
    keys.append(token_text(model, text, model.bot_id))
    keys += [f"z{i + 1}={token}" for i, token in enumerate(said)]
    keys += [token_text(model, text, token) for token in [model.eot_id, *thinking.start.written]]
    rows = [f"z{i + 1}" for i in range(thinking.number)] + [f"after z{thinking.number}", "answer"]
    return thinking, AttentionMap([weights[:, 0] for weights in passes], keys, rows)
