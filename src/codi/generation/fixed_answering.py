"""Answering in few shapes: the thinking is one recording, and so is a further token of each batch size.

    question, padded to a bucket ─► start (one replay) ─► context ─► fixed buffers ─► token (one replay) ...

Batches are filled up to a power of two, questions to a multiple of 32 positions, buffers to a power of two; a
shape is recorded when a second question has it. Before a recording is used, what it gives is compared with
what the plain path gives. Whatever cannot be recorded, or is not the same, is answered by the plain path,
from the same context; one line says why.

All recordings of a model share memory, so each may write over what another gave. What is read later, the
logits and the context, is therefore the buffers' own, or copied before another recording can run.
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
from codi.generation.same import Differs, check_same, check_same_start
from codi.methods.method import Method, Start
from codi.modeling.context import Context, Tokens
from codi.modeling.fixed_context import FixedContext, can_be_fixed
from codi.modeling.graphs import Recorder, give_back
from codi.modeling.model import ThoughtModel
from codi.modeling.precision import computed_in

T = TypeVar("T")
log = logging.getLogger("codi")
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


@dataclass(eq=False)
class Writing:
    """Buffers lent to one decoding, whose rows get a token with every `step`, until let go. size: bytes."""

    held: FixedContext
    replay: Callable[[], Tensor]
    size: int
    one_at_a_time: threading.RLock
    lent_to: weakref.ref[object] | None = field(default=None, repr=False)

    def step(self, tokens: Tensor) -> Tensor:
        """Read tokens [b]. Returns the logits of what follows, [b, vocabulary], until the next step.

        Nothing has changed until `keep`: a step can be made again.
        """
        with self.one_at_a_time:
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

    @property
    def is_lent(self) -> bool:
        """Whether a decoding has the buffers."""
        return self.lent_to is not None and self.lent_to() is not None

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

    Buffers are lent to one decoding at a time; several threads may ask, on one stream of the device.
    """

    def __init__(self, model: ThoughtModel, *, at_once: bool = False) -> None:
        """at_once: record a shape when it comes for the first time, not the second."""
        self.model, self._first_time = model, 1 if at_once else 2
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
        self._buffers: weakref.WeakSet[Writing] = weakref.WeakSet()  # also those let go, and still lent
        self._thinking: dict[Hashable, _Thinking] = {}
        self._writing: dict[Hashable, Writing] = {}
        self._forget()

    @property
    def recorded(self) -> int:
        """How many shapes are recorded now."""
        return len(self._thinking) + len(self._writing)

    @property
    def held_bytes(self) -> int:
        """What they hold, with buffers of earlier ones that are still lent."""
        thinking = sum(one.size for one in self._thinking.values())
        return thinking + sum(one.size for one in self._buffers)

    def let_go(self) -> None:
        """Free what is recorded: memory is needed. A shape is recorded anew when it has come again."""
        with self._one_at_a_time:
            self._forget()
            self._seen.clear()

    def _forget(self) -> None:
        on_cuda = self.model.device.type == "cuda"
        if on_cuda:
            torch.cuda.synchronize(self.model.device)  # what is replayed just now is still read
        self._recorder = Recorder(self.model.device)
        self._thinking.clear()
        self._writing.clear()
        self._modules = list(self.model.modules())
        self._where = self._addresses()
        if self._seen:
            give_back(self.model.device)  # else a recording's memory is nobody's, and stays taken

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
            context = given.context.copied(len(encoded), left, self.model.causal.config)
            return Start(context, given.written, given.thoughts, given.passes)

        with self._one_at_a_time:
            return self._tried(answered, key)

    def _record_start(
        self, method: Method, text: TextEncoder, inputs: Tensor, mode: str, latents: int | None, key: Hashable
    ) -> _Thinking | None:
        model, there = self.model, torch.empty_like(inputs, device=self.model.device)
        self._put(there, inputs)

        def start() -> Start:
            return method.start(model, text, Tokens(there[0], there[1]), mode, latents)

        plain = start()
        inside = plain.context.cache_bytes
        if not self._make_room(inside, key):
            return None
        recorded = self._recorded(start, 0, inside, key)
        if recorded is None:
            return None
        replay, size = recorded
        check_same_start(replay(), plain, model, self._computed)
        return _Thinking(there, replay, size)

    # --- the writing ----------------------------------------------------------------------------------------

    def lend(
        self, context: Context, tokens: Tensor, to: object, asked: set[Hashable] | None = None
    ) -> Writing | None:
        """Buffers that hold the context, for `to` alone, until it lets them go or is no more.

        tokens: [b], to be read next; asked: the shapes that the same questions have come in before, to which
        this one is added: a shape does not come again with every token.
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
                if not self._comes_again(key, asked):
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
            return self._tried(lent, key)

    def _record_writing(
        self, context: Context, tokens: Tensor, rows: int, length: int, key: Hashable
    ) -> Writing | None:
        model = self.model
        first: Any = context.cache.layers[0]
        each = 2 * len(context.cache.layers) * first.keys[:1, :, :1].numel() * first.keys.element_size()
        size = rows * (length * each + 4 * model.bot_id)  # with the logits
        if not self._make_room(size, key):
            return None
        held = FixedContext(model, context, rows, length)
        held.load(context)
        held.set_tokens(tokens)
        recorded = self._recorded(held.read, size, 0, key)
        if recorded is None:
            return None
        replay, size = recorded
        found = replay()[: context.rows]
        ids = tokens.unsqueeze(1)
        plain = model.read(Tokens(ids, torch.ones_like(ids), padded=False), after=context).context
        logits = model.logits(plain.last_hidden).float()
        check_same("logits", found, logits, self._computed, other_kernels=True, centred=True)
        found_hidden = held.last_hidden[: context.rows]
        check_same("hidden states", found_hidden, plain.last_hidden, self._computed, other_kernels=True)
        made = Writing(held, replay, size, self._one_at_a_time)
        self._buffers.add(made)
        return made

    # --- what can be recorded, and what was -----------------------------------------------------------------

    def _fits(self, rows: int) -> bool:
        model = self.model
        if self.failure is not None or torch.is_grad_enabled() or model.training or rows > LARGEST_BATCH:
            return False
        if not model.own_masks:
            self._say(
                f"{type(model.causal).__name__} attends in a way of its own (sliding windows, or another "
                "implementation than sdpa)"
            )
            return False
        modules = list(model.modules())
        if model.watcher is not None or any(map(_is_another, modules)):
            self._say("somebody looks on while it thinks, or has changed what a layer computes")
            return False
        with self._one_at_a_time:
            # Cast, moved, or put in the place of others.
            if modules != self._modules or self._addresses() != self._where:
                self._forget()
        return True

    @property
    def _computed(self) -> torch.dtype:
        weight: Tensor = self.model.causal.get_input_embeddings().weight
        return computed_in(self.model.device) or weight.dtype

    def _addresses(self) -> tuple[int, ...]:
        return tuple(
            weight.data_ptr()
            for module in self._modules
            for weight in (*module._parameters.values(), *module._buffers.values())
            if weight is not None
        )

    def _comes_again(self, key: Hashable, asked: set[Hashable] | None = None) -> bool:
        if asked is None or key not in asked:
            self._seen[key] += 1
        if asked is not None:
            asked.add(key)
        return self._seen[key] >= self._first_time and key not in self._too_large

    def _make_room(self, size: int, key: Hashable) -> bool:
        """Whether there is room for so many bytes, made by letting all others go."""
        if size > self.most_bytes:
            self._too_large.add(key)
            self._say("a batch would hold more than a quarter of the memory for it")
            return False
        if self.held_bytes + size > self.most_bytes:
            known = set(self._writing.values())
            stays = sum(one.size for one in self._buffers if one.is_lent or one not in known)
            if stays + size > self.most_bytes:
                return False  # until they are given back
            self._forget()
        return True

    def _recorded(
        self, function: Callable[[], T], outside: int, inside: int, key: Hashable
    ) -> tuple[Callable[[], T], int] | None:
        """Its replay, and the bytes that it holds; None where they are too many.

        outside: bytes of buffers that were made before; inside: those of what it gives, at least.
        """
        before = self._reserved()
        replay = self._recorder.record(function)
        size = outside + max(inside, self._reserved() - before)
        if size > self.most_bytes:
            self._too_large.add(key)
            self._say("a batch would hold more than a quarter of the memory for it")
            return None
        return replay, size

    def _reserved(self) -> int:
        """Bytes taken from the device, for recordings and all else."""
        on_cuda = self.model.device.type == "cuda"
        return torch.cuda.memory_reserved(self.model.device) if on_cuda else 0

    def _tried(self, do: Callable[[], T | None], key: Hashable) -> T | None:
        """What it gives; None where it failed: for this shape where memory ran out, else for good."""
        try:
            return do()
        except Exception as error:  # whatever it was, the plain path answers
            if isinstance(error, CodiError) and not isinstance(error, Differs):
                raise  # the question's own: the plain path would say so too
            log.debug("Answering with CUDA graphs has failed.", exc_info=error)
            if isinstance(error, torch.OutOfMemoryError):
                self._too_large.add(key)
                self._say("memory ran out for a batch of that shape (a smaller batch size needs less)")
            else:
                self.failure = one_line(error)
                log.warning("Answering without CUDA graphs from now on: %s.", self.failure)
            error.__traceback__ = None  # its frames hold what was made
            self._forget()
            return None

    def _say(self, reason: str) -> None:
        if reason not in self._said:
            self._said.add(reason)
            log.warning("Answering without CUDA graphs where %s.", reason)

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


def one_line(error: BaseException) -> str:
    """What went wrong, in a line."""
    first = (str(error).splitlines() or [""])[0]
    return first if isinstance(error, CodiError) else f"{type(error).__name__}: {first}"
