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
from dataclasses import dataclass
from typing import Any

from codi.data.example import Example
from codi.errors import DataError, RecipeError


@dataclass(frozen=True, slots=True)
class EncodedAnswer:
    """The answer segment: ids (prompt + answer + eos) and the index of the distillation token in it."""

    ids: list[int]
    distillation: int


class TextEncoder:
    """Turns questions, rationales and answers into ids. Needs a fast tokenizer with an eos token."""

    def __init__(
        self,
        tokenizer: Any,
        prompt: str,
        separator: str,
        suffix: str,
        distillation_token: str,
        question_suffix: str = "",
        step_separator: str = " ",
        step_suffix: str = "",
    ) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise RecipeError(
                "The tokenizer gives no character offsets. Use a fast tokenizer (tokenizer.json)."
            )
        if tokenizer.eos_token_id is None:
            raise RecipeError(
                "The tokenizer has no end-of-sequence token; set one (eos_token) before training."
            )
        self.tokenizer = tokenizer
        self.prompt, self.separator, self.suffix = prompt, separator, suffix
        self.distillation_token = distillation_token
        self.question_suffix, self.step_separator, self.step_suffix = (
            question_suffix, step_separator, step_suffix,
        )  # fmt: skip
        self.eos_id: int = tokenizer.eos_token_id
        pad = tokenizer.pad_token_id
        self.pad_id: int = self.eos_id if pad is None else pad
        unknown: int | None = getattr(tokenizer, "unk_token_id", None)
        # GPT-2 names its end of text as the unknown token too, and never uses it so: it knows every byte.
        self.unknown_id = None if unknown in (self.eos_id, self.pad_id) else unknown
        """What stands for a word that the tokenizer does not know; None where it knows all."""
        self.prompt_ids: list[int] = self._ids(prompt)
        alone = self._ids("x")  # some tokenizers begin every text with a space of their own
        self._closing = self._ids("x" + question_suffix)[len(alone) :]

    def question(self, question: str) -> list[int]:
        """Question ids, with the tokenizer's opening token (bos) where it has one.

        Raises DataError if empty.
        """
        if not question.strip():
            raise DataError("An empty question was given. Every question needs at least one word.")
        return self._opening() + self._ids(question + self.question_suffix)

    def around_question(self) -> tuple[list[int], list[int]]:
        """What a question's ids begin with (bos, where the tokenizer has one) and end with (the suffix's)."""
        return self._opening(), self._closing

    def _opening(self) -> list[int]:
        if not self.tokenizer.backend_tokenizer.num_special_tokens_to_add(False):
            return []  # soon known; it is asked for every question
        opening: list[int] = self.tokenizer("", add_special_tokens=True)["input_ids"]
        return [
            token for token in opening if token != self.eos_id or self.eos_id == self.tokenizer.bos_token_id
        ][:1]

    def rationale(self, steps: tuple[str, ...] | list[str]) -> list[int]:
        """Ids of the steps joined; empty when there is none."""
        return self.steps(steps)[0]

    def steps(self, steps: tuple[str, ...] | list[str]) -> tuple[list[int], list[int]]:
        """Ids of the steps joined, and for each step how many of them it and those before it take up."""
        pieces = [step + self.step_suffix for step in steps]
        if not pieces:
            return [], []
        coded = self.tokenizer(
            self.step_separator.join(pieces), add_special_tokens=False, return_offsets_mapping=True
        )
        ends, stop = list[int](), -len(self.step_separator)
        for piece in pieces:
            stop += len(self.step_separator) + len(piece)
            ends.append(sum(start < stop for start, _ in coded["offset_mapping"]))
        return coded["input_ids"], ends

    def answer(self, answer: str) -> EncodedAnswer:
        """Ids of prompt + answer + eos, and where the distillation token is.

        Raises RecipeError when the tokenizer melts the end of the prompt into the answer: then what is read
        at serving time would not be what was trained.
        """
        start = len(self.prompt) + len(self.separator)
        coded = self.tokenizer(
            self.prompt + self.separator + answer + self.suffix,
            add_special_tokens=False,
            return_offsets_mapping=True,
        )
        ids: list[int] = coded["input_ids"]
        if ids[: len(self.prompt_ids)] != self.prompt_ids or len(ids) == len(self.prompt_ids):
            raise RecipeError(
                f"The tokenizer joins the end of the answer prompt '{self.prompt}' with the answer "
                f"'{answer}'. Choose a prompt or an answer_separator that keeps them apart."
            )
        first = next(i for i, (_, end) in enumerate(coded["offset_mapping"]) if end > start)
        before = first - 1 if self.distillation_token == "before-answer" else len(self.prompt_ids) - 1
        return EncodedAnswer([*ids, self.eos_id], before)

    def single_token(self, text: str) -> int:
        """The id of a text that is one token. Raises RecipeError when it is none or several."""
        ids = self._ids(text)
        if len(ids) != 1 or ids[0] == self.unknown_id:
            raise RecipeError(f"'{text}' is not one token of this tokenizer but {len(ids)}; name another.")
        return ids[0]

    def decode(self, ids: list[int]) -> str:
        """Text of ids, without special tokens."""
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        return text

    def value(self, text: str) -> str | None:
        """The answer in a text that the model wrote: what follows the last answer prompt, or None."""
        words = self.prompt.split()
        position = text.rfind(self.prompt)
        if position < 0:  # word-level decoders may put a space before punctuation
            squeezed, prompt = "".join(text.split()), "".join(words)
            position = squeezed.rfind(prompt)
            value = squeezed[position + len(prompt) :] if position >= 0 else None
        else:
            value = text[position + len(self.prompt) :].strip()
        if value is not None and self.suffix:
            value = value.removesuffix(self.suffix)
        return value.strip() or None if value is not None else None

    def fingerprint(self) -> str:
        """Identity of everything that decides ids: vocabulary, merges, and the text format."""
        state = json.loads(self.tokenizer.backend_tokenizer.to_str())
        state.pop("truncation", None), state.pop("padding", None)
        form = [self.prompt, self.separator, self.suffix, self.distillation_token, self.eos_id]
        form += [self.question_suffix, self.step_separator, self.step_suffix]
        return hashlib.sha256(json.dumps([state, form], sort_keys=True).encode()).hexdigest()[:16]

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


def first_too_long(lengths: list[int], examples: list[Example], limit: int) -> str | None:
    """The id of the first example longer than `limit` tokens, for an error message."""
    return next(
        (example.id for length, example in zip(lengths, examples, strict=True) if length > limit), None
    )
