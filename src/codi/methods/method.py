"""What every method says: how an example becomes segments, its loss, and how an answer starts.

A new method is one new file in this folder with a `@register`ed subclass of `Method`; nothing else changes.
Its dataclass fields are its options: they are checked, saved with the checkpoint, and set from recipes.
"""

from __future__ import annotations

import importlib
import pkgutil
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, TypeVar, get_type_hints

import torch
from torch import Tensor, nn

from codi.data.collation import Encoded
from codi.data.encoding import TextEncoder
from codi.data.example import Example
from codi.errors import RecipeError, UsageError, nearest
from codi.modeling.configuration import ModelConfig, check_keys
from codi.modeling.context import Context, Tokens
from codi.modeling.model import ThoughtModel

Batch = dict[str, Tensor]
Trained = tuple[Encoded, Encoded]
"""An encoded example, and what of it was trained on (`staged`)."""


@dataclass(frozen=True, slots=True)
class Start:
    """Where the decoding of an answer begins.

    context: its last hidden state predicts the first token; written: ids already read in as part of the
    answer (the answer prompt); thoughts: thought tokens spent, <bot> and <eot> counted; passes: sequential
    passes of the model so far; both of a row that thought all of its thoughts (see `spent`).
    """

    context: Context
    written: list[int]
    thoughts: int
    passes: int

    def spent(self) -> list[tuple[int, int]]:
        """Each row's own thought tokens and passes: one that stopped early is counted as if it were alone."""
        if self.context.thought is None or self.context.thoughts is None:
            return [(self.thoughts, self.passes)] * self.context.rows
        most = self.context.thoughts.shape[1]
        return [
            (self.thoughts - most + own, self.passes - most + own) for own in self.context.thought.tolist()
        ]


@dataclass(frozen=True)
class Method(ABC):
    """One system of the paper."""

    name: ClassVar[str]
    modes: ClassVar[tuple[str, ...]]
    """Ways to answer, the method's own first: `latent`, `explicit` (written rationale), `direct`."""
    terms: ClassVar[tuple[str, ...]]
    """Names of the loss terms that `loss` returns beside `loss`."""
    needs_rationales: ClassVar[bool] = False
    """Whether there is nothing to learn for it from rows without steps."""
    rows: ClassVar[tuple[str, ...]] = ()
    """Learned embedding rows that it reads beside <bot> and <eot>: `model.row_id` gives their ids."""
    refines: ClassVar[bool] = False
    """Whether its thoughts are refined together in rounds, not thought one after the other."""
    one_loss: ClassVar[bool] = False
    """Whether `loss`, as written beside it, is one computation in every stage: rows alone are others."""
    encoded_by: ClassVar[tuple[str, ...] | None] = None
    """The options that `encode` reads, named beside it; None counts them all, which is never wrong. Only a
    change of these makes kept tokens useless."""

    @abstractmethod
    def encode(self, example: Example, text: TextEncoder) -> Encoded:
        """The example's segments: lists of ids by name (`question` is padded left), ints for positions,
        `Nested` for a list of steps, each with its own ids."""

    @abstractmethod
    def divisors(self, batch: Batch) -> dict[str, Tensor]:
        """What each summed term is divided by: its number of label tokens, or of rows.

        The trainer adds these up over accumulated and parallel micro-batches, so that 1 x 4 equals 4 x 1
        (but for what a method measures over the batch itself, as CODI's standard deviation).
        """

    @abstractmethod
    def loss(
        self, model: ThoughtModel, batch: Batch, divisors: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Scalars: `loss` and each of `terms`. `divisors` default to this batch's own.

        Nothing in it looks at a value on the device (`.item()`, `bool`, an index by a mask): a GPU would have
        to be waited for. What depends on the batch's contents comes with it, as `collate` says. Nor does it
        go by anything that changes from step to step: on CUDA it is recorded once for a shape.
        """

    @abstractmethod
    def start(
        self, model: ThoughtModel, text: TextEncoder, question: Tokens, mode: str, latents: int | None = None
    ) -> Start:
        """Take the question in (and think), up to where the answer is decoded token by token."""

    # --- for methods whose task changes while they train (Coconut, iCoT); the others leave these as they are

    def stage_at(self, step: int, epoch_steps: int) -> int:
        """The curriculum's stage at micro-batch `step` (from 0), of which an epoch has `epoch_steps`."""
        return 0

    def at_stage(self, stage: int) -> Method:
        """The method as it learns and answers at that stage. A checkpoint remembers it."""
        return self

    def computed_at(self, stage: int) -> int:
        """The first of the stages whose step is the same computation as that of `stage`."""
        owner = next(kind for kind in type(self).__mro__ if "loss" in vars(kind))
        return self.stage_at(0, 1) if vars(owner).get("one_loss", False) else stage

    def begins_afresh(
        self, stage: int, new_stage: bool, new_epoch: bool, before: Callable[[], Iterable[Trained]]
    ) -> bool:
        """Whether an optimiser step, in `stage`, begins with a fresh optimiser.

        new_stage, new_epoch: whether it is the first of one; before: the rows of the step before it.
        """
        return new_stage

    def staged(self, row: Encoded, stage: int, rng: random.Random) -> Encoded:
        """An encoded example as it is trained on at that stage. rng: fixed by seed, micro-batch and row."""
        return row

    def check_run(
        self, config: ModelConfig, started: bool, epochs: float, epoch_steps: int = 1000
    ) -> list[str]:
        """What a person should know before the run begins. Raises RecipeError where it cannot work.

        started: whether weights come from a pretrained base or a checkpoint; epochs: how many are planned;
        epoch_steps: micro-batches of an epoch.
        """
        return []

    @property
    def reads_last_step(self) -> bool:
        """Whether the last step of a rationale is read, as `encode` leaves it out in CODI's teacher."""
        return bool(getattr(self, "keep_last_step", True))

    def training_parts(self, model: ThoughtModel) -> dict[str, nn.Module]:
        """Modules that only training needs, by name: made once, then found in `model.training_parts`.

        They are optimised and kept for resuming, and are no part of the model that is saved.
        """
        return {}

    def check_start(self, model: ThoughtModel, text: TextEncoder) -> None:
        """Raise CodiError where something that the method brings does not fit; before any data is read."""
        return

    def release(self) -> None:
        """Let go of what the method held in memory for a run that has ended."""
        return

    def thought_positions(self, latents: int | None = None) -> int:
        """Positions that stand between question and answer prompt, <bot> and <eot> counted.

        0 for a method that puts nothing there. latents: another number than trained.
        """
        return 0

    def thought_name(self, number: int) -> str:
        """What thought `number` (from 0) is called where thoughts are shown."""
        return f"z{number + 1}"

    def positions_before(self, segment: str, row: Encoded) -> int:
        """Positions between the question and a segment of a row (`staged`), <bot> and <eot> counted."""
        if segment != "student":
            return 0
        return 2 + int(row["thoughts"]) if "thoughts" in row else self.thought_positions()

    def encoding_options(self) -> dict[str, Any]:
        """The options that decide the tokens, by name."""
        owner = next(kind for kind in type(self).__mro__ if "encode" in vars(kind))
        names = vars(owner).get("encoded_by")  # what another class says is not about this `encode`
        return {key: value for key, value in asdict(self).items() if names is None or key in names}

    @property
    def thinks(self) -> bool:
        """Whether the method has continuous thoughts."""
        return "latent" in self.modes

    @property
    def stops(self) -> bool:
        """Whether it ends its thinking by itself: then questions have different numbers of thoughts."""
        return False

    def mode(self, asked: str | None) -> str:
        """The mode to answer in. Raises UsageError when the method cannot answer that way."""
        if asked is None:
            return self.modes[0]
        if asked not in self.modes:
            reason = " It has no latents: it was not trained to think." if asked == "latent" else ""
            raise UsageError(
                f"A {self.name} model cannot answer in mode '{asked}'.{reason} "
                f"It can: {', '.join(self.modes)}."
            )
        return asked

    def as_dict(self) -> dict[str, Any]:
        """Name and options, JSON-ready."""
        return {"name": self.name, **asdict(self)}


METHODS: dict[str, type[Method]] = {}
M = TypeVar("M", bound=type[Method])


def register(method: M) -> M:
    """Class decorator: makes the method known by its name."""
    METHODS[method.name] = method
    return method


def build_method(values: dict[str, Any]) -> Method:
    """A method from its name and options. Raises RecipeError on an unknown name, key or value."""
    _import_all()
    options = dict(values)
    name = options.pop("name", None)
    if name not in METHODS:
        known = sorted(METHODS)
        raise RecipeError(
            f"Unknown method '{name}'.{nearest(str(name), known)} Known methods: {', '.join(known)}."
        )
    check_keys(options, METHODS[name], f"method ({name})")
    return METHODS[name](**options)


def method_kinds(name: Any) -> dict[str, Any]:
    """The kinds of a method's options, by name; nothing for a name that is no method's."""
    _import_all()
    return {"name": str, **(get_type_hints(METHODS[str(name)]) if str(name) in METHODS else {})}


def _import_all() -> None:
    package = importlib.import_module("codi.methods")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"codi.methods.{module.name}")


def prepend(token: int, tokens: Tokens) -> Tokens:
    """`token` before every row's (right-padded) tokens."""
    return Tokens.joined([Tokens.repeated([token], tokens.ids.shape[0], tokens.ids.device), tokens])


def append(tokens: Tokens, ids: list[int]) -> Tokens:
    """The same `ids` after every row's (left-padded) tokens."""
    return Tokens.joined([tokens, Tokens.repeated(ids, tokens.ids.shape[0], tokens.ids.device)])


def predicted_after(model: ThoughtModel, context: Context, tokens: Tokens) -> Tensor:
    """Summed cross entropy of tokens read after a context; the first is predicted by the context itself."""
    final = model.read(tokens, after=context).final
    return model.cross_entropy(torch.cat([context.last_hidden.unsqueeze(1), final[:, :-1]], 1), tokens)


def start_writing(model: ThoughtModel, question: Tokens) -> Start:
    """Read the question and let the model write everything, rationale included, token by token."""
    return Start(model.read(question).context, written=[], thoughts=0, passes=1)
