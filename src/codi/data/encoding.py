"""The one place where text becomes tokens, for training and for answering alike.

    question            rationale                 answer
    [bos?] Q ...        <<3*4=12>> <<12+1=13>>    The answer is: 13 eos
                                                               │
                                              distillation token: right before the answer

(what follows a question, a step and an answer, and what stands between steps, is set by the text format)

Each part is tokenised alone and the ids are joined without a separator, as the published code does. What the
answer prompt's tokens are, and which token comes right before the answer, is read from the tokenizer's
character offsets: GPT-2 ends the prompt in `:`, LLaMA-3 and SentencePiece put a lone space before a number.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from codi.data.chat_template import PROBE, ChatTemplate
from codi.data.example import Example
from codi.data.text_format import TextFormat
from codi.errors import DataError, RecipeError

_CLOSING = {"}": "{", ")": "(", "]": "["}


@dataclass(frozen=True, slots=True)
class EncodedAnswer:
    """The answer segment: ids (prompt + answer + eos) and the index of the distillation token in it."""

    ids: list[int]
    distillation: int


class MeltedAnswer(RecipeError):
    """The tokenizer joins the end of the answer prompt and an answer into one token."""


class HalfCharacter(DataError):
    """A text with half of a surrogate pair, which JSON can hold and no tokenizer can read."""


class _Coded(Protocol):
    """What a tokenizer makes of a text: ids, and where each stands in it (first and last character)."""

    @property
    def ids(self) -> list[int]: ...
    @property
    def offsets(self) -> list[tuple[int, int]]: ...


class TextEncoder:
    """Turns questions, rationales and answers into ids, as a text format says.

    Needs a fast tokenizer with an eos token, and with a chat template where the format asks for one; raises
    RecipeError for another.
    """

    def __init__(self, tokenizer: Any, form: TextFormat) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise RecipeError(
                "The tokenizer gives no character offsets. Use a fast tokenizer (tokenizer.json)."
            )
        if tokenizer.eos_token_id is None:
            raise RecipeError(
                "The tokenizer has no end-of-sequence token; set one (eos_token) before training."
            )
        self.tokenizer, self.form = tokenizer, form
        self.chat = ChatTemplate(tokenizer, form.system_prompt) if form.chat_template else None
        self._ahead: dict[str, _Coded] = {}
        self._opening_ahead: list[int] | None = None
        self.eos_id: int = tokenizer.eos_token_id
        pad = tokenizer.pad_token_id
        self.pad_id: int = self.eos_id if pad is None else pad
        unknown: int | None = getattr(tokenizer, "unk_token_id", None)
        # GPT-2 names its end of text as the unknown token too, and never uses it so: it knows every byte.
        self.unknown_id = None if unknown in (self.eos_id, self.pad_id) else unknown
        """What stands for a word that the tokenizer does not know; None where it knows all."""
        self.prompt_ids: list[int] = self._coded(form.answer_prompt).ids

    def question(self, question: str) -> list[int]:
        """Question ids, with the tokenizer's opening token (bos) where it has one.

        In a chat template they are all that the template writes, opening token and roles included.
        Raises DataError if empty.
        """
        if not question.strip():
            raise DataError("An empty question was given. Every question needs at least one word.")
        ids = self._coded(self.question_text(question)).ids
        return ids if self.chat else self._opening() + ids

    def around_question(self) -> tuple[list[int], list[int]]:
        """What a question's ids begin with (bos, or the chat template's) and end with (the suffix's)."""
        probe = "x"
        if self.chat is None:
            alone = self._coded(probe).ids  # some tokenizers begin every text with a space of its own
            return self._opening(), self._coded(self.question_text(probe)).ids[len(alone) :]
        text = self.chat.wrapped(PROBE)
        start, coded = text.index(PROBE), self._coded(text)
        placed = list(zip(coded.ids, coded.offsets, strict=True))
        opening = [token for token, (_, end) in placed if end <= start]
        return opening, [token for token, (first, _) in placed if first >= start + len(PROBE)]

    def question_text(self, question: str) -> str:
        """The text of a question as it is tokenised: with its suffix, or in the chat template."""
        return self.chat.wrapped(question) if self.chat else question + self.form.question_suffix

    def rationale(self, steps: Sequence[str]) -> list[int]:
        """Ids of the steps joined; empty when there is none."""
        return self._coded(self.rationale_text(steps)).ids if steps else []

    def rationale_text(self, steps: Sequence[str]) -> str:
        """The text of a rationale as it is tokenised."""
        return self.form.step_separator.join([step + self.form.step_suffix for step in steps])

    def steps(self, steps: Sequence[str]) -> tuple[list[int], list[int]]:
        """Ids of the steps joined, and for each step how many of them it and those before it take up."""
        if not steps:
            return [], []
        coded = self._coded(self.rationale_text(steps))
        starts = [start for start, _ in coded.offsets]  # in order
        ends, stop = list[int](), -len(self.form.step_separator)
        for step in steps:
            stop += len(self.form.step_separator) + len(step) + len(self.form.step_suffix)
            ends.append(bisect_left(starts, stop))
        return coded.ids, ends

    def answer(self, answer: str) -> EncodedAnswer:
        """Ids of prompt + answer + eos, and where the distillation token is.

        Raises MeltedAnswer when the tokenizer melts the end of the prompt into the answer: then what is read
        at serving time would not be what was trained.
        """
        start = len(self.form.answer_prompt) + len(self.form.answer_separator)
        coded = self._coded(self.answer_text(answer))
        ids, prompt = coded.ids, len(self.prompt_ids)
        first = next((i for i, (_, end) in enumerate(coded.offsets) if end > start), None)
        if ids[:prompt] != self.prompt_ids or first is None or first < prompt:
            raise MeltedAnswer(
                f"The tokenizer joins the end of the answer prompt '{self.form.answer_prompt}' with the "
                f"answer '{answer[:80]}'. Choose a prompt or an answer_separator that keeps them apart."
            )
        before = first - 1 if self.form.distillation_token == "before-answer" else prompt - 1
        return EncodedAnswer([*ids, self.eos_id], before)

    def answer_text(self, answer: str) -> str:
        """The text of an answer as it is tokenised, its prompt before it."""
        return self.form.answer_prompt + self.form.answer_separator + answer + self.form.answer_suffix

    def reads(self, question: str) -> bool:
        """Whether the tokenizer knows every word of a question."""
        return self.unknown_id is None or self.unknown_id not in self.question(question)

    def single_token(self, text: str) -> int:
        """The id of a text that is one token. Raises RecipeError when it is none or several."""
        ids = self._coded(text).ids
        if len(ids) != 1 or ids[0] == self.unknown_id:
            raise RecipeError(f"'{text}' is not one token of this tokenizer but {len(ids)}; name another.")
        return ids[0]

    def decode(self, ids: list[int]) -> str:
        """Text of ids, without special tokens."""
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        return text

    @property
    def prompt(self) -> str:
        """The words before every answer."""
        return self.form.answer_prompt

    @property
    def suffix(self) -> str:
        """What stands after every answer, before the end of the text."""
        return self.form.answer_suffix

    def value(self, text: str) -> str | None:
        """The answer in a text that the model wrote: what follows the last answer prompt, or None."""
        # A word-level decoder may put spaces where the prompt has none, or leave some out.
        prompt = r"\s*".join(re.escape(mark) for mark in "".join(self.form.answer_prompt.split()))
        ends = [found.end() for found in re.finditer(prompt, text)]
        if not ends:
            return None
        value = _without_suffix(text[ends[-1] :].strip(), self.form.answer_suffix.strip()).strip()
        if self.form.answer_prompt not in text and not any(character.isalpha() for character in value):
            value = "".join(value.split())  # such a decoder parts a minus sign from its number, too
        return value or None

    def fingerprint(self) -> str:
        """Identity of everything that decides ids: vocabulary, merges, and the text format."""
        state = json.loads(self.tokenizer.backend_tokenizer.to_str())
        state.pop("truncation", None), state.pop("padding", None)
        form = self.form
        decides = [
            form.answer_prompt, form.answer_separator, form.answer_suffix, form.distillation_token,
            self.eos_id, form.question_suffix, form.step_separator, form.step_suffix,
        ]  # fmt: skip
        if self.chat:
            decides.append(self.chat.text)
        return hashlib.sha256(json.dumps([state, decides], sort_keys=True).encode()).hexdigest()[:16]

    @contextmanager
    def ahead(self, texts: Iterable[str]) -> Iterator[None]:
        """Inside, these texts (`question_text`, ...) are tokenised already: in one go, on all cores.

        The ids are those that a text alone gets; a text that is not among them is tokenised as ever.
        """
        wanted = [text for text in dict.fromkeys(texts) if _is_whole(text)]
        with _on_all_cores():
            coded = self._backend().encode_batch(wanted, add_special_tokens=False)
        self._ahead, self._opening_ahead = dict(zip(wanted, coded, strict=True)), self._opening()
        try:
            yield
        finally:
            self._ahead, self._opening_ahead = {}, None

    def _opening(self) -> list[int]:
        """The token that the tokenizer puts before every text, if any."""
        if self._opening_ahead is not None:
            return self._opening_ahead
        around: list[int] = self._backend().encode("", add_special_tokens=True).ids
        bos = self.tokenizer.bos_token_id
        return [token for token in around if token != self.eos_id or self.eos_id == bos][:1]

    def _coded(self, text: str) -> _Coded:
        known = self._ahead.get(text)
        if known is not None:
            return known
        if not _is_whole(text):
            raise HalfCharacter(
                f"A text holds half of a surrogate pair (an emoji cut in two, say), which is no character: "
                f"{text[:80]!r}. Mend or remove it."
            )
        coded: _Coded = self._backend().encode(text, add_special_tokens=False)
        return coded

    def _backend(self) -> Any:
        """The tokenizer itself, which a call with a length limit may have left cutting texts short."""
        backend = self.tokenizer.backend_tokenizer
        if backend.truncation is not None:
            backend.no_truncation()
        if backend.padding is not None:
            backend.no_padding()
        return backend


def _is_whole(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= mark <= "\udfff" for mark in text)


def _without_suffix(value: str, suffix: str) -> str:
    """A value without the format's own suffix and what the model wrote after it."""
    if not suffix:
        return value
    opening, depth = _CLOSING.get(suffix[0]), 0
    for at, mark in enumerate(value):
        if opening is None:
            break
        depth += (mark == opening) - (mark == suffix[0])
        if depth < 0:  # closes what the prompt has opened
            return value[:at]
    end = re.search(re.escape(suffix) + r"\W*$", value)
    return value[: end.start()] if end else value


@contextmanager
def _on_all_cores() -> Iterator[None]:
    """The tokenizers library takes one core where TOKENIZERS_PARALLELISM says so; here it may take all."""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = "true"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def first_too_long(lengths: list[int], examples: list[Example], limit: int) -> str | None:
    """The id of the first example longer than `limit` tokens, for an error message."""
    return next(
        (example.id for length, example in zip(lengths, examples, strict=True) if length > limit), None
    )
