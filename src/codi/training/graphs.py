"""A training step recorded once for each shape of batch and played from then on, as a CUDA graph.

    first batch of a shape    computed ─► recorded ─► played ─► both compared: loss terms, gradients
    every other               copied into the recording's inputs ─► played
    of no such shape          computed
    optimiser still fresh     computed: what it will hold finds its memory before recordings do

A step is thousands of small kernels, and launching them one by one takes a host longer than a GPU takes to
run them; a graph is launched whole. Loss and backward are recorded; clipping and optimiser are not.

Nothing that a recording touches may move: batch and divisors are copied into tensors of its own, and
gradients are added up in buffers that all recordings share, so that micro-batches add up whatever their
shapes. Random numbers go on as they would: what is played draws what would have been drawn. Whatever does not
hold ends the recordings, says so, and leaves the run to go on as it would without.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from codi import processes
from codi.errors import TrainingError
from codi.modeling.configuration import ModelConfig
from codi.modeling.graphs import give_back
from codi.training.recorders import RECORDERS, Compute, Gradients, Terms

if TYPE_CHECKING:
    from transformers import TrainingArguments

BUCKETS = 4
"""Shapes of batches where `data.width_buckets` leaves it open."""


def why_not(args: TrainingArguments, model: ModelConfig, own_masks: bool = True) -> str:
    """Why the step of such a run cannot be recorded; nothing where it can. own_masks: of the base."""
    optimizer = str(getattr(args.optim, "value", args.optim))
    launched = ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED")
    reasons = {
        f"CUDA graphs need a CUDA GPU, and the device is {args.device.type}": args.device.type
        not in RECORDERS,
        f"{processes.count()} processes share a step": processes.count() > 1,
        "FSDP or DeepSpeed moves the weights": any(os.environ.get(n, "").lower() == "true" for n in launched),
        "training.fp16 scales losses by what it finds in the gradients (training.bf16 does not)": args.fp16,
        "model.recompute computes again in backward": model.recompute,
        "the base's attention masks are made by transformers, which looks at them": not own_masks,
        "training.torch_compile is on": args.torch_compile,
        "training.auto_find_batch_size changes the shapes": args.auto_find_batch_size,
        f"training.optim={optimizer} steps during backward": "lomo" in optimizer or "layerwise" in optimizer,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def check(choice: str, why: str) -> None:
    """Raise TrainingError where steps were to be recorded and cannot; why: see `why_not`."""
    if choice == "on" and why:
        raise TrainingError(
            f"training.graphs=on was asked for, but steps cannot be recorded: {why}. Leave it at auto, which "
            "takes CUDA graphs where it can and computes every step where it cannot, or change what stops it."
        )


def notes(recorded: bool, why: str, device: torch.device) -> list[str]:
    """What is said of it before a run. why: not recorded."""
    if recorded:
        return [
            "CUDA graphs: the step of each shape is recorded at its first batch and played from then on "
            "(training.graphs=off computes every step anew)."
        ]
    if why and device.type == "cuda":
        return [f"CUDA graphs are not used: {why} (training.graphs)."]
    return []


@dataclass(frozen=True, slots=True)
class Recording:
    """A step of one shape. inputs: batch and divisors, copied into before it is played; reached: the weights
    that get a gradient."""

    inputs: list[Tensor]
    reached: list[nn.Parameter]
    play: Compute

    def fill(self, given: list[Tensor]) -> None:
        """Copy a batch of the same shape in."""
        torch._foreach_copy_(self.inputs, given)


class RecordedSteps:
    """Loss and gradients of a run's batches, played where their shape was recorded.

    stopped: why nothing is recorded any more; empty as long as it is.
    """

    def __init__(
        self,
        weights: Mapping[str, nn.Parameter],
        device: torch.device,
        rows: int,
        tolerance: float,
        say: Callable[[str], None],
    ) -> None:
        """weights: those that learn, by name; rows: of a whole batch; tolerance: how far, relatively, what is
        played may be from what was computed."""
        self.weights, self.device, self.rows, self.tolerance = dict(weights), device, rows, tolerance
        self.say, self.stopped, self._said_unfit = say, "", False
        self.gradients = Gradients(self.weights)
        self._forget(None)

    def step(
        self,
        model: nn.Module,
        batch: Terms,
        divisors: Terms,
        whole: bool,
        computation: object = None,
        fresh: bool = False,
    ) -> Terms:
        """The terms of the loss, detached, which hold until the next step; gradients are added to `.grad`.

        model: of (batch, divisors), the wrapped loss; whole: whether the batch has one of the few shapes;
        computation: recordings of another one are let go; fresh: whether the optimiser has yet to make its
        first step.
        """
        if computation != self._computation:
            self._forget(computation)
        compute = partial(_loss_and_gradients, model, batch, divisors)
        if self.stopped or fresh:
            return self._computed(compute)
        if not whole:
            if len(next(iter(batch.values()))) == self.rows and not self._said_unfit:
                self._said_unfit = True
                self.say(
                    "A batch fits none of the shapes (data.width_buckets): it has longer rows, or more "
                    "labels, slots or thoughts. It is computed without a CUDA graph, and so is every other "
                    "such batch."
                )
            return self._computed(compute)
        given = [*batch.values(), *divisors.values()]
        key = tuple((tensor.shape, tensor.dtype) for tensor in given)
        recording = self._recordings.get(key)
        if recording is None:
            inputs = [tensor.clone() for tensor in given]
            own = [dict(zip(names, part, strict=True)) for names, part in
                   ((batch, inputs[: len(batch)]), (divisors, inputs[len(batch) :]))]  # fmt: skip
            return self._first(key, inputs, partial(_loss_and_gradients, model, *own))
        recording.fill(given)
        self.gradients.hold(recording.reached)
        return recording.play()

    def _computed(self, compute: Compute) -> Terms:
        terms, found = self._apart(compute)
        self.gradients.add(found)
        return terms

    def _apart(self, compute: Compute) -> tuple[Terms, dict[nn.Parameter, Tensor]]:
        """Terms, and the gradients of this computation alone. Lacking memory, the recordings give theirs."""
        state, before = self._recorder.random_state(), self.gradients.taken()
        try:
            terms = compute()
        except torch.OutOfMemoryError:
            self.gradients.put({})
            if not self._recordings:
                self.gradients.put(before)
                raise
            terms = {}
        if not terms:  # the error is gone, and with it what it held
            self._stop(OUT_OF_MEMORY)
            self._recorder.set_random_state(state)
            terms = compute()
        found = self.gradients.taken()
        self.gradients.put(before)
        return terms, found

    def _first(self, key: object, inputs: list[Tensor], compute: Compute) -> Terms:
        """Compute a batch, record its shape and play it; what is played is what counts from the first on, so
        that a run that was stopped in between goes on to the same weights."""
        recorder = self._recorder
        state = recorder.random_state()
        with recorder.aside():
            terms, found = self._apart(compute)
        if self.stopped or not _are_finite([terms["loss"], *found.values()]):  # no fault of a recording's
            self.gradients.add(found)
            return terms
        after, before, reached = recorder.random_state(), self.gradients.taken(), list(found)
        try:
            before = {weight: gradient.clone() for weight, gradient in before.items()}
            self.gradients.hold(reached)
            play, played, fault = self._recorded(compute, state, terms, found)
        except FAILURES as error:  # the step has been computed without
            fault = _in_words(error)
        if fault:
            recorder.set_random_state(after)
            self.gradients.put(before)
            self._stop(fault)
            self.gradients.add(found)
            return terms
        self._recordings[key] = Recording(inputs, reached, play)
        self.gradients.add(before)
        return played

    def _recorded(
        self, compute: Compute, state: tuple[Tensor, ...], terms: Terms, found: Mapping[nn.Parameter, Tensor]
    ) -> tuple[Compute, Terms, str]:
        """What plays it, what that gave, and where that is not what was computed."""
        play = self._recorder.record(compute, set_up=False)
        self._recorder.set_random_state(state)
        played = play()
        return play, played, self._difference(terms, played, found)

    def _difference(self, terms: Terms, played: Terms, found: Mapping[nn.Parameter, Tensor]) -> str:
        """In words, where what was played is not what was computed."""
        for name, term in terms.items():
            one, other = float(term), float(played[name])
            if not abs(one - other) <= self.tolerance * max(abs(one), abs(other)) + 1e-7:
                return f"the recorded step gives {name} {other:.6g}, the computed one {one:.6g}"
        names = {weight: name for name, weight in self.weights.items()}
        others = [names[w] for w in self.gradients.weights if (w.grad is not None) != (w in found)]
        if others:
            return f"'{others[0]}' has a gradient in one of the recorded and the computed step only"
        norms = torch.stack([gradient.norm().float() for gradient in found.values()])
        off = torch.stack([(w.grad - gradient).norm().float() for w, gradient in found.items()])  # type: ignore[operator]
        off = off / (norms + 1e-3 * norms.norm() + 1e-30)  # a key's bias has none but for rounding
        worst = int(off.nan_to_num(torch.inf).argmax())
        if not float(off[worst]) <= self.tolerance:
            name = names[list(found)[worst]]
            return f"the recorded step's gradient of '{name}' is off by {float(off[worst]):.2g}"
        return ""

    def _stop(self, reason: str) -> None:
        self.stopped = reason
        self.gradients = Gradients(self.weights)
        self._forget(self._computation)
        self.say(f"CUDA graphs are given up for the rest of the run, which goes on without: {reason}.")

    def let_go(self) -> bool:
        """Memory has run out elsewhere: give what recordings hold, for the rest of the run.

        Returns whether there were any.
        """
        if self._recordings:
            self._stop(OUT_OF_MEMORY)
            return True
        return False

    def _forget(self, computation: object) -> None:
        """Let all recordings and their memory go."""
        self._computation = computation
        self._recordings: dict[object, Recording] = {}
        give_back(self.device)
        self._recorder = RECORDERS[self.device.type](self.device)


FAILURES = (RuntimeError, TypeError, ValueError, AttributeError, LookupError, AssertionError)
"""What CUDA and torch raise over something that cannot be recorded."""
OUT_OF_MEMORY = (
    "the GPU's memory does not hold their steps besides what else it holds; to have them, lower "
    "training.per_device_train_batch_size (with more training.gradient_accumulation_steps), or "
    "data.width_buckets"
)


def _in_words(error: BaseException) -> str:
    """Why nothing could be recorded: what was raised first, not the end of the recording over it."""
    while error.__context__ is not None:
        error = error.__context__
    if isinstance(error, torch.OutOfMemoryError):
        return OUT_OF_MEMORY
    said = " ".join(str(error).split()) or type(error).__name__
    return f"a step could not be recorded ({said[:300]})"


def _are_finite(tensors: list[Tensor]) -> bool:
    return bool(torch.stack([torch.isfinite(tensor).all() for tensor in tensors]).all())


def _loss_and_gradients(model: nn.Module, batch: Terms, divisors: Terms) -> Terms:
    # Autocast begins and ends in here, and what it has cast is recorded with the rest.
    terms: Terms = model(batch, divisors)
    terms["loss"].backward()  # type: ignore[no-untyped-call]
    return {name: term.detach() for name, term in terms.items()}
