"""Answering in few shapes: the thinking is one recording, and so is a further token of each batch size.

    question, padded to a bucket ─► start (one replay) ─► context ─► fixed buffers ─► token (one replay) ...

Batches are filled up to a power of two, questions to a multiple of 32 positions, buffers to a power of two; a
shape is recorded when it comes again. Before a recording is used, what it gives is compared with what the
plain path gives. Whatever cannot be recorded, or is not the same, is answered by the plain path, from the
same context; one line says why.
"""

from __future__ import annotations

import logging
import math
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from codi.data.collation import collate
from codi.data.encoding import TextEncoder
from codi.errors import CodiError
from codi.methods.method import Method, Start
from codi.modeling.context import Context, Tokens, stacked
from codi.modeling.fixed_context import FixedContext, can_be_fixed
from codi.modeling.graphs import Recorder
from codi.modeling.model import ThoughtModel
from codi.modeling.precision import computed_in

T = TypeVar("T")
QUESTION_STEP = 32
"""Questions are padded to a multiple of this."""
LONGEST_QUESTION, LARGEST_BATCH = 1024, 512
"""Beyond these the plain path answers: there its launches are no longer what takes the time."""
SHORTEST_BUFFER = 64
ROOM = 16
"""Positions that new buffers have left at least; when they are full, longer ones take over."""
SHARE_OF_MEMORY = 1 / 4
"""Of the device's, for buffers and what recordings give; beyond it all are let go and made anew."""
FEW = 4
"""Rows that are done stay in their buffers until a smaller batch by this factor holds the others."""


class Differs(CodiError):
    """A recording gives something else than the plain path."""


@dataclass(eq=False)
class Writing:
    """Buffers lent to one decoding, whose rows get a token with every `step`, until let go. size: bytes."""

    held: FixedContext
    replay: Callable[[], Tensor]
    size: int
    lent_to: weakref.ref[object] | None = field(default=None, repr=False)

    def step(self, tokens: Tensor) -> Tensor:
        """Read tokens [b]. Returns the logits of what follows, [b, vocabulary], until the next step.

        Nothing has changed until `keep`: a step can be made again.
        """
        self.held.set_tokens(tokens)
        return self.replay()[: self.held.occupied]

    def keep(self) -> None:
        """The step is made."""
        self.held.width += 1

    def is_worth_it(self, rows: int) -> bool:
        """Whether to go on with rows that are done beside so many that are left to write."""
        return FEW * rows > self.held.rows and not self.is_full

    @property
    def is_full(self) -> bool:
        """Whether no further token has room."""
        return self.held.width == self.held.length

    def let_go(self) -> None:
        """Others may have the buffers."""
        self.lent_to = None


@dataclass(frozen=True, slots=True)
class _Thinking:
    """inputs: [2, b, t], ids and mask; replay: the start of an answer to what is in them; size: bytes."""

    inputs: Tensor
    replay: Callable[[], Start]
    size: int


class FixedAnswering:
    """Answers of one model in few shapes; None where the plain path is to answer.

    Buffers are lent to one decoding at a time; several threads may ask.
    """

    def __init__(self, model: ThoughtModel, *, at_once: bool = False) -> None:
        """at_once: record a shape when it comes for the first time, not the second."""
        self._model, self._first_time = model, 1 if at_once else 2
        self.most_bytes: float = math.inf
        """For buffers and what recordings give."""
        if model.device.type == "cuda":
            self.most_bytes = SHARE_OF_MEMORY * torch.cuda.mem_get_info(model.device)[1]
        self.failure: str | None = None
        """Why nothing is recorded any more; None while all is well."""
        self._said: set[str] = set()
        self._seen: Counter[Hashable] = Counter()
        self._too_large: set[Hashable] = set()
        self._one_at_a_time = threading.RLock()
        self._forget()

    @property
    def recorded(self) -> int:
        """How many shapes are recorded now."""
        return len(self._thinking) + len(self._writing)

    @property
    def held_bytes(self) -> int:
        """What they hold."""
        thinking = sum(one.size for one in self._thinking.values())
        return thinking + sum(one.size for one in self._writing.values())

    def _forget(self) -> None:
        if self._model.device.type == "cuda":
            torch.cuda.synchronize(self._model.device)  # what is replayed just now is still read
        self._recorder = Recorder(self._model.device)
        self._thinking: dict[Hashable, _Thinking] = {}
        self._writing: dict[Hashable, Writing] = {}
        self._modules = list(self._model.modules())
        self._weights = [*self._model.parameters(), *self._model.buffers()]
        self._where = self._addresses()

    # --- the thinking ---------------------------------------------------------------------------------------

    def start(
        self, method: Method, text: TextEncoder, encoded: Sequence[list[int]], mode: str, latents: int | None
    ) -> Start | None:
        """As `Method.start`, of questions from `question_ids`, in memory of its own."""
        width = max(len(ids) for ids in encoded)
        rows, width = bucket(len(encoded)), QUESTION_STEP * math.ceil(width / QUESTION_STEP)
        if method.stops and mode == "latent":
            self._say("its thinking ends by itself, so how long it takes is not known before")
            return None
        if width > LONGEST_QUESTION:
            self._say(f"a question has more than {LONGEST_QUESTION} tokens")
            return None
        if not self._fits(rows):
            return None
        padded = [*encoded, *[encoded[0]] * (rows - len(encoded))]
        batch = collate([{"question": ids} for ids in padded], text.pad_id, {"question": width})
        inputs = torch.stack([batch["question_ids"], batch["question_mask"]])
        key = (method, mode, latents, rows, width, self._computed, text.pad_id, *text.prompt_ids)
        left = width - max(len(ids) for ids in encoded)

        def answered() -> Start | None:
            known = self._thinking.get(key)
            if known is None:
                if not self._comes_again(key):
                    return None
                known = self._record_start(method, text, inputs, mode, latents, key)
                if known is None:
                    return None
                self._thinking[key] = known
            self._put(known.inputs, inputs)
            given = known.replay()
            context = given.context.copied(len(encoded), left, self._model.causal.config)
            return Start(context, given.written, given.thoughts, given.passes)

        with self._one_at_a_time:
            return self._tried(answered)

    def _record_start(
        self, method: Method, text: TextEncoder, inputs: Tensor, mode: str, latents: int | None, key: Hashable
    ) -> _Thinking | None:
        model, there = self._model, torch.empty_like(inputs, device=self._model.device)
        self._put(there, inputs)

        def start() -> Start:
            return method.start(model, text, Tokens(there[0], there[1]), mode, latents)

        plain = start()
        kv = stacked(plain.context.cache)
        size = kv.numel() * kv.element_size()
        if not self._make_room(size, key):
            return None
        replay = self._recorder.record(start)
        found = replay().context
        found_logits, logits = (model.logits(one.last_hidden) for one in (found, plain.context))
        check_same("keys and values", stacked(found.cache), kv, self._computed)
        check_same("logits", found_logits, logits, self._computed)
        if not torch.equal(found.mask, plain.context.mask):
            raise Differs("the mask differs")
        return _Thinking(there, replay, size)

    # --- the writing ----------------------------------------------------------------------------------------

    def lend(self, context: Context, tokens: Tensor, to: object) -> Writing | None:
        """Buffers that hold the context, for `to` alone, until it lets them go or is no more.

        tokens: [b], to be read next.
        """
        if not self._fits(context.rows):
            return None
        if not can_be_fixed(context):
            self._say("its layers hold something else than keys and values of one shape")
            return None
        rows, length = bucket(context.rows), bucket(max(context.width + ROOM, SHORTEST_BUFFER))
        key = (rows, length, self._computed, types_of(context))

        def lent() -> Writing | None:
            known = self._writing.get(key)
            if known is None:
                if not self._comes_again(key):
                    return None
                known = self._record_writing(context, tokens, rows, length, key)
                if known is None:
                    return None
                self._writing[key] = known
            holder = None if known.lent_to is None else known.lent_to()
            if holder is not None and holder is not to:
                return None
            known.held.load(context)
            known.lent_to = weakref.ref(to)
            return known

        with self._one_at_a_time:
            return self._tried(lent)

    def _record_writing(
        self, context: Context, tokens: Tensor, rows: int, length: int, key: Hashable
    ) -> Writing | None:
        model = self._model
        first: Any = context.cache.layers[0]
        each = 2 * len(context.cache.layers) * first.keys[:1, :, :1].numel() * first.keys.element_size()
        size = rows * (length * each + 4 * model.bot_id)  # with the logits
        if not self._make_room(size, key):
            return None
        held = FixedContext(model, context, rows, length)
        held.load(context)
        held.set_tokens(tokens)
        replay = self._recorder.record(held.read)
        found = replay()[: context.rows].clone()
        ids = tokens.unsqueeze(1)
        plain = model.read(Tokens(ids, torch.ones_like(ids), padded=False), after=context).context
        logits = model.logits(plain.last_hidden).float()
        check_same("logits", found, logits, self._computed, other_kernels=True)
        return Writing(held, replay, size)

    # --- what can be recorded, and what was -----------------------------------------------------------------

    def _fits(self, rows: int) -> bool:
        model = self._model
        if self.failure is not None or torch.is_grad_enabled() or model.training or rows > LARGEST_BATCH:
            return False
        if not model.own_masks:
            self._say(
                f"{type(model.causal).__name__} attends in a way of its own (sliding windows, or another "
                "implementation than sdpa)"
            )
            return False
        if model.watcher is not None or any(map(_is_another, self._modules)):
            self._say("somebody looks on while it thinks, or has changed what a layer computes")
            return False
        with self._one_at_a_time:
            if self._addresses() != self._where:  # cast, moved, or put in the place of others
                self._forget()
        return True

    @property
    def _computed(self) -> torch.dtype:
        weight: Tensor = self._model.causal.get_input_embeddings().weight
        return computed_in(self._model.device) or weight.dtype

    def _addresses(self) -> tuple[int, ...]:
        return tuple(weight.data_ptr() for weight in self._weights)

    def _comes_again(self, key: Hashable) -> bool:
        self._seen[key] += 1
        return self._seen[key] >= self._first_time and key not in self._too_large

    def _make_room(self, size: int, key: Hashable) -> bool:
        """Whether there is room for so many bytes, made by letting all others go."""
        if size > self.most_bytes:
            self._too_large.add(key)
            self._say("a batch would hold more than a quarter of the memory for it")
            return False
        if self.held_bytes + size > self.most_bytes:
            self._forget()
        return True

    def _tried(self, do: Callable[[], T | None]) -> T | None:
        """What it gives; None, for good, where it failed in any way."""
        try:
            return do()
        except Exception as error:  # whatever it was, the plain path answers
            if isinstance(error, CodiError) and not isinstance(error, Differs):
                raise  # the question's own: the plain path would say so too
            out = isinstance(error, torch.OutOfMemoryError)
            self.failure = "memory ran out (a smaller batch size needs less)" if out else one_line(error)
            logging.getLogger("codi").warning("Answering without CUDA graphs from now on: %s.", self.failure)
            error.__traceback__ = None  # its frames hold what was made
            self._forget()
            if out and self._model.device.type == "cuda":
                torch.cuda.empty_cache()
            return None

    def _say(self, reason: str) -> None:
        if reason not in self._said:
            self._said.add(reason)
            logging.getLogger("codi").warning("Answering without CUDA graphs where %s.", reason)

    def _put(self, there: Tensor, values: Tensor) -> None:
        """Copy from the host, without waiting for the device."""
        on_cuda = there.device.type == "cuda"
        there.copy_(values.pin_memory() if on_cuda else values, non_blocking=on_cuda)


def _is_another(module: nn.Module) -> bool:
    """Whether a call of it is not what its class says: a recording would leave the rest out, or keep it.

    transformers' own hooks stay once hidden states were asked for, and do nothing where they are not.
    """
    own = module.__dict__
    hooks = (*own["_forward_hooks"].values(), *own["_forward_pre_hooks"].values())
    others = (one for one in hooks if not str(getattr(one, "__module__", "")).startswith("transformers."))
    return "forward" in own or any(True for _ in others)


def bucket(number: int) -> int:
    """The next power of two."""
    return 1 << (number - 1).bit_length()


def types_of(context: Context) -> Hashable:
    """What buffers must have in common with a context."""
    first: Any = context.cache.layers[0]
    return first.keys.dtype, context.last_hidden.dtype


def check_same(
    name: str, found: Tensor, plain: Tensor, computed: torch.dtype, *, other_kernels: bool = False
) -> None:
    """Raise Differs where two tensors are further apart, relative to their size, than rounding explains.

    computed: the type of the computation; other_kernels: attention over more positions, masked, adds up in
    another order: that alone puts logits 1.1e-2 apart in bfloat16, 2e-6 in float32 (12 layers, on a CPU).
    What is no finite number on the plain path is not compared: a broken row is no fault of a recording.
    """
    finite = plain.isfinite()
    found, plain = found.masked_fill(~finite, 0), plain.masked_fill(~finite, 0)
    in_16_bits = 5e-2 if other_kernels else 1e-2
    allowed = 1e-4 if computed == torch.float32 else in_16_bits
    apart = (found.float() - plain.float()).norm() / plain.float().norm().clamp(min=1e-30)
    if not float(apart) <= allowed:
        raise Differs(f"their {name} would differ from the plain path's by {float(apart):.1e} of their size")


def one_line(error: BaseException) -> str:
    """What went wrong, in a line."""
    first = (str(error).splitlines() or [""])[0]
    return first if isinstance(error, CodiError) else f"{type(error).__name__}: {first}"
