"""Which way the terms of a loss pull: their gradients' sizes and cosines, on fixed problems.

    L = L_student + beta L_distance + gamma L_teacher   g_student, g_distance, g_teacher on seen problems
    L_student on problems that are never trained on     g_unseen

    cosine(g_distance, g_student) > 0       a step against the distance also lowers the student's answer loss
    cosine(g_distance, g_unseen)  > 0       and that on unseen problems

A cosine speaks of one infinitely small step of plain gradient descent, from the weights as they are.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from codi.data.collation import collate
from codi.data.example import Example
from codi.errors import UsageError
from codi.generation.latent_reasoner import LatentReasoner

UNSEEN = "unseen"
"""The student's answer loss on the unseen problems, beside the method's own terms."""


@dataclass(frozen=True)
class LossGradients:
    """After so many updates. losses: each term's value; norms: of its gradient, unweighted; cosines: by
    `a, b` for every two terms, None where one of them has no gradient at all."""

    updates: int
    losses: dict[str, float]
    norms: dict[str, float]
    cosines: dict[str, float | None]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def loss_gradients(
    reasoner: LatentReasoner, seen: Sequence[Example], unseen: Sequence[Example], updates: int = 0
) -> LossGradients:
    """The terms' gradients over all trainable weights, on `seen`, and the student's on `unseen`.

    Both are read in one batch each. Nothing is changed. Raises UsageError for a method without a student.
    """
    model, method = reasoner.model, reasoner.method
    if "student" not in method.terms:
        raise UsageError(
            f"The gradient of the student's loss was asked for, but a {method.name} model has none: its "
            f"terms are {', '.join(method.terms)}."
        )
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    was_training = model.training
    model.eval()
    try:
        own = {name: name for name in method.terms}
        losses, pulls = _pulls(reasoner, seen, own, weights)
        others, more = _pulls(reasoner, unseen, {UNSEEN: "student"}, weights)
    finally:
        model.train(was_training)
    losses, pulls = losses | others, pulls | more
    norms = {name: float(pull.norm()) for name, pull in pulls.items()}
    names = list(pulls)
    cosines = {
        f"{one}, {other}": float(pulls[one] @ pulls[other]) / (norms[one] * norms[other])
        if norms[one] and norms[other]
        else None
        for place, one in enumerate(names)
        for other in names[place + 1 :]
    }
    return LossGradients(updates, losses, norms, cosines)


def _pulls(
    reasoner: LatentReasoner, examples: Sequence[Example], terms: dict[str, str], weights: Sequence[Tensor]
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Values and gradients [weights] of the terms (of `terms`' values), under the names of its keys."""
    model, method = reasoner.model, reasoner.method
    rows = [method.encode(example, reasoner.text) for example in examples]
    batch = {name: each.to(model.device) for name, each in collate(rows, reasoner.text.pad_id).items()}
    with model.whole_weights():
        loss = method.loss(model, batch)
    pulls = {
        name: _flat(torch.autograd.grad(loss[term], weights, retain_graph=True, allow_unused=True), weights)
        for name, term in terms.items()
    }
    return {name: float(loss[term].detach()) for name, term in terms.items()}, pulls


def _flat(gradients: Sequence[Tensor | None], weights: Sequence[Tensor]) -> Tensor:
    """One vector in double precision; a weight that the term does not reach has 0."""
    each = (
        torch.zeros_like(weight) if gradient is None else gradient
        for gradient, weight in zip(gradients, weights, strict=True)
    )
    return torch.cat([gradient.flatten().double() for gradient in each])


class GradientLog(TrainerCallback):
    """Measures `loss_gradients` during a run, before the first of `updates` and after each, then ends it."""

    def __init__(self, seen: Sequence[Example], unseen: Sequence[Example], updates: Collection[int]) -> None:
        self.seen, self.unseen, self.updates = seen, unseen, sorted(updates)
        self.found: list[LossGradients] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Measure the weights as they are before the step, where that is wanted."""
        if state.global_step in self.updates[:-1]:
            self._measure(model, state)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """The last measurement ends the run."""
        if state.global_step >= self.updates[-1]:
            self._measure(model, state)
            control.should_training_stop = True

    def _measure(self, model: Any, state: Any) -> None:
        self.found.append(loss_gradients(model.reasoner, self.seen, self.unseen, state.global_step))
