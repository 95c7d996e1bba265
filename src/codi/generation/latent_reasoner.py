"""`LatentReasoner`: a trained model, its method and its tokenizer, ready to answer, save and load.

reasoner = LatentReasoner.from_pretrained("runs/quickstart/codi")
reasoner.answer(["Mia has 3 apples . ..."])[0].value
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from codi.data.collation import collate
from codi.data.encoding import TextEncoder
from codi.data.text_format import TextFormat
from codi.errors import CheckpointError, UsageError
from codi.generation.answer import Answer
from codi.generation.decoded_thoughts import TOP_TOKENS, named_tokens
from codi.generation.decoding import Sampling, Written, decode
from codi.generation.fixed_answering import FixedAnswering
from codi.methods.codi_adaptive import CodiAdaptive
from codi.methods.method import Method, Start, build_method
from codi.modeling import checkpoint
from codi.modeling.configuration import ModelConfig, check_keys
from codi.modeling.context import Tokens
from codi.modeling.graphs import graphs_wanted
from codi.modeling.merging import merged
from codi.modeling.model import ThoughtModel

ROOM_TO_ANSWER = 16
"""Positions kept free for the answer."""
CHARACTERS_A_TOKEN = 64
"""A question of more characters than this for each of the model's positions is not even tokenised."""


class QuestionTooLong(UsageError):
    """A question has no room in the model's positions."""


class LatentReasoner:
    """A thought model with everything needed to use it."""

    def __init__(
        self,
        model: ThoughtModel,
        method: Method,
        tokenizer: Any,
        text_format: TextFormat,
        *,
        graphs: str = "auto",
    ) -> None:
        """graphs: `auto` records the thinking and each token as CUDA graphs where the model is on CUDA, with
        the same answers; `on` insists, `off` never does."""
        self.model, self.method, self.tokenizer, self.text_format = model, method, tokenizer, text_format
        self.graphs = graphs
        self.fixed: FixedAnswering | None = None
        """What answers in fixed shapes, once it is wanted."""
        self.text = TextEncoder(tokenizer, text_format)
        self._warned_of: list[str] = []
        if len(tokenizer) > model.bot_id:
            raise CheckpointError(
                f"The tokenizer has {len(tokenizer)} tokens but the base's embedding has {model.bot_id} "
                "rows. Use the tokenizer that belongs to the base."
            )

    @classmethod
    def from_pretrained(
        cls,
        directory: str | Path,
        *,
        device: str | torch.device | None = None,
        base: str | None = None,
        dtype: str | None = None,
        graphs: str = "auto",
    ) -> LatentReasoner:
        """Load a checkpoint directory or a hub id, strictly.

        `base` points at the base model where the recorded one has moved; its weights must be the same.
        `dtype` (float32, bfloat16, float16) holds all weights in that type, and computes in it; None leaves
        them as they were trained. `graphs`: see the class. Raises CheckpointError when anything is missing,
        unexpected, or not what the checkpoint recorded, UsageError for a type that does not exist, and for
        graphs=on without CUDA.
        """
        place = torch.device(device or default_device())
        graphs_wanted(graphs, place)
        path = checkpoint.locate(directory)
        saved = checkpoint.read_configuration(path)
        config = ModelConfig.from_dict(saved["model"])
        model = checkpoint.load_model(path, config, base=base, dtype=dtype)
        tokenizer = checkpoint.load_tokenizer(str(path))
        check_keys(saved["text"], TextFormat, f"text of {path / checkpoint.CONFIGURATION}")
        method = build_method(saved["method"])
        reasoner = cls(model, method, tokenizer, TextFormat(**saved["text"]), graphs=graphs)
        checkpoint.check_vocabulary(path, saved["vocabulary"], reasoner.text.fingerprint())
        model.eval().to(place)
        return reasoner

    def save_pretrained(self, directory: str | Path) -> None:
        """Write a checkpoint: whole or not at all. With LoRA the base itself is never written."""
        checkpoint.save(
            Path(directory),
            self.model,
            self.tokenizer,
            method=self.method.as_dict(),
            text=self.text_format,
            vocabulary=self.text.fingerprint(),
        )

    def push_to_hub(self, repo_id: str, *, private: bool = False, token: str | None = None) -> str:
        """Save to a temporary directory and upload it. Returns the address of the commit."""
        import tempfile

        from huggingface_hub import HfApi

        api = HfApi(token=token)
        api.create_repo(repo_id, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as directory:
            self.save_pretrained(Path(directory) / "checkpoint")
            commit = api.upload_folder(repo_id=repo_id, folder_path=Path(directory) / "checkpoint")
        return str(commit.commit_url)

    def stopping(self, stop: str, threshold: float | None = None) -> LatentReasoner:
        """The same model, which ends its thinking by another rule: `learned`, `confident` or `never`.

        threshold: of the rule, also as `learned:0.7`; None is its own (see `codi_adaptive`). Raises
        UsageError for a method that does not think as CODI does, an unknown rule, or a learned one without
        its head.
        """
        method = CodiAdaptive.of(self.method, stop, threshold)
        method.check_head(self.model)
        return LatentReasoner(self.model, method, self.tokenizer, self.text_format, graphs=self.graphs)

    def without_adapters(self) -> LatentReasoner:
        """The same answers from a model whose adapters are merged into its base; itself where it has none."""
        if self.model.config.lora is None:
            return self
        alone = merged(self.model)
        return LatentReasoner(alone, self.method, self.tokenizer, self.text_format, graphs=self.graphs)

    def answer(
        self,
        questions: Sequence[str],
        *,
        mode: str | None = None,
        latents: int | None = None,
        batch_size: int = 64,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        max_new_tokens: int = 256,
    ) -> list[Answer]:
        """Answer questions, in their order.

        mode: `latent`, `explicit` or `direct`, as the method allows; None is the method's own.
        latents: another number of continuous thoughts than trained. Raises UsageError on bad arguments.
        """
        answers: dict[int, Answer] = {}
        for numbered in self.answer_batches(
            questions, mode=mode, latents=latents, batch_size=batch_size, max_new_tokens=max_new_tokens,
            sampling=Sampling(temperature, top_k, top_p, seed),
        ):  # fmt: skip
            answers.update(numbered)
        return [answers[number] for number in range(len(questions))]

    @torch.no_grad()
    def answer_batches(
        self,
        questions: Sequence[str],
        *,
        mode: str | None = None,
        latents: int | None = None,
        batch_size: int = 64,
        max_new_tokens: int = 256,
        sampling: Sampling | None = None,
    ) -> Iterator[list[tuple[int, Answer]]]:
        """Answer batch by batch, in order; yields (question number, answer) pairs of each finished batch."""
        mode = self.checked_mode(mode, latents)
        if batch_size < 1 or max_new_tokens < 1:
            raise UsageError("batch_size and max_new_tokens must be 1 or more.")
        encoded = [
            self.question_ids(question, f"Question {number + 1}", mode, latents)
            for number, question in enumerate(questions)
        ]
        self._warn_of_unknown_words(questions, encoded)
        was_training = self.model.training
        self.model.eval()
        try:
            for first in range(0, len(questions), batch_size):
                numbers = range(first, min(first + batch_size, len(questions)))
                start = self.start([encoded[number] for number in numbers], mode, latents)
                rows = decode(
                    self.model,
                    start,
                    self.text.eos_id,
                    max_new_tokens,
                    sampling or Sampling(),
                    first_row=first,
                    fixed=self.fixed_answering(),
                )
                yield [
                    (number, self.answer_of(questions[number], start.written, thoughts, written))
                    for number, written, (thoughts, _) in zip(numbers, rows, start.spent(), strict=True)
                ]
        finally:
            self.model.train(was_training)

    @torch.no_grad()
    def decode_thoughts(
        self, question: str, top_k: int = TOP_TOKENS, latents: int | None = None
    ) -> list[list[tuple[str, float]]]:
        """What each continuous thought says through the LM head, before the projection (paper, Figure 6).

        Returns, per thought, its `top_k` tokens with their probabilities (see `decoded_thoughts`). Raises
        UsageError for a model without thoughts, or a top_k that is not 1 to the vocabulary.
        """
        mode = self.method.mode("latent")
        ids = self.question_ids(question, "The question", mode, latents)
        was_training = self.model.training
        self.model.eval()
        thoughts = self.start([ids], mode, latents).context.thoughts
        self.model.train(was_training)
        if thoughts is None:
            raise UsageError("This model thinks 0 latents, so there is nothing to decode.")
        return named_tokens(self.model, self.text, thoughts[0], top_k)

    def checked_mode(self, mode: str | None, latents: int | None = None) -> str:
        """The mode that is meant; None is the method's own.

        Raises UsageError where the method cannot answer that way, or has no such number of latents.
        """
        mode = self.method.mode(mode)
        if latents is not None and not (self.method.thinks and mode == "latent"):
            raise UsageError(
                f"{latents} latents were asked for, but a {self.method.name} model in mode '{mode}' has none."
            )
        if latents is not None and latents < 0:
            raise UsageError(f"{latents} latents were asked for; the number must be 0 or more.")
        return mode

    def question_ids(
        self, question: str, name: str, mode: str | None = None, latents: int | None = None
    ) -> list[int]:
        """The question's tokens. Raises UsageError, about `name`, for an empty or too long one.

        One that could not fit by far is refused before it is taken apart.
        """
        if not question.strip():
            raise UsageError(f"{name} is empty. Every question needs at least one word.")
        room = self.model.longest_sequence
        if room is not None and len(question) > room * CHARACTERS_A_TOKEN:
            raise QuestionTooLong(
                f"{name} has {len(question):,} characters, but the model takes at most {room} tokens. "
                "Shorten the question."
            )
        try:
            question.encode()
        except UnicodeEncodeError as error:
            raise UsageError(
                f"{name} has half a character (U+{ord(question[error.start]):04X}, a lone surrogate) at "
                f"place {error.start + 1}. Send the whole character."
            ) from error
        return self._fitting(self.text.question(question), name, mode, latents)

    def framed_ids(
        self, ids: Sequence[int], name: str, mode: str | None = None, latents: int | None = None
    ) -> list[int]:
        """A question that comes as tokens, with what a question begins and ends with where it lacks that.

        Raises UsageError, about `name`, for one that is empty, too long, or has ids that are no tokens.
        """
        known = len(self.tokenizer)
        if ids and not 0 <= min(ids) <= max(ids) < known:
            place, token = next((at, id_) for at, id_ in enumerate(ids) if not 0 <= id_ < known)
            raise UsageError(
                f"{name} has the token id {token} at place {place + 1}; ids are 0 to {known - 1}."
            )
        opening, closing = self.text.around_question()
        bare = list(ids[len(opening) :]) if list(ids[: len(opening)]) == opening else list(ids)
        if not bare:
            raise UsageError(f"{name} is empty. Every question needs at least one token.")
        ends = closing if bare[len(bare) - len(closing) :] != closing else []
        return self._fitting([*opening, *bare, *ends], name, mode, latents)

    def _fitting(self, ids: list[int], name: str, mode: str | None, latents: int | None) -> list[int]:
        """The same ids. Raises UsageError where question, thoughts and a short answer do not fit."""
        thoughts = 0 if self.method.mode(mode) == "explicit" else self.method.thought_positions(latents)
        room, more = self.model.longest_sequence, thoughts + len(self.text.prompt_ids) + ROOM_TO_ANSWER
        if room is not None and len(ids) + more > room:
            raise QuestionTooLong(
                f"{name} has {len(ids)} tokens; with room for thoughts and an answer it needs "
                f"{len(ids) + more}, but the model takes at most {room}. Shorten the question"
                + (", or think fewer latents." if latents else ".")
            )
        return ids

    def start(
        self, encoded: Sequence[list[int]], mode: str | None = None, latents: int | None = None
    ) -> Start:
        """Take a batch of questions in (and think), up to where the answers are decoded.

        encoded: each from `question_ids`; mode: None is the method's own.
        """
        mode, fixed = self.method.mode(mode), self.fixed_answering()
        start = None if fixed is None else fixed.start(self.method, self.text, encoded, mode, latents)
        return start or self._plain_start(encoded, mode, latents)

    def fixed_answering(self) -> FixedAnswering | None:
        """What answers in fixed shapes; None where `graphs` wants none. Raises UsageError for `on` without
        CUDA."""
        if self.fixed is not None and self.fixed.model is not self.model:
            self.fixed = None  # another model was put in the place of the one it answers with
        if self.fixed is None and graphs_wanted(self.graphs, self.model.device):
            self.fixed = FixedAnswering(self.model, at_once=self.graphs == "on")
        return self.fixed

    def _plain_start(self, encoded: Sequence[list[int]], mode: str, latents: int | None) -> Start:
        batch = collate([{"question": ids} for ids in encoded], self.text.pad_id)
        question = Tokens.of({name: ids.to(self.model.device) for name, ids in batch.items()}, "question")
        return self.method.start(self.model, self.text, question, mode, latents)

    def _warn_of_unknown_words(self, questions: Sequence[str], encoded: list[list[int]]) -> None:
        unknown = self.text.unknown_id
        lost = [question for question, ids in zip(questions, encoded, strict=True) if unknown in ids]
        if unknown is not None and lost and lost != self._warned_of:  # asked again, to time it, it is known
            self._warned_of = lost
            logging.getLogger("codi").warning(
                "%d of %d questions have words or numbers that this model's tokenizer does not know, so it "
                "cannot tell them apart; the first: %s", len(lost), len(questions), lost[0],
            )  # fmt: skip

    def answer_of(self, question: str, opening: list[int], thoughts: int, written: Written) -> Answer:
        """The answer that a question was given.

        opening, thoughts: `Start.written`, and of `Start.spent` its thoughts, of where its decoding began.
        """
        text = self.text.decode(opening + written.ids)
        answer_tokens = len(written.ids)
        if not opening:  # it wrote everything: what stands before the answer prompt is the rationale
            prompt = self.text.prompt_ids
            ends = [i for i in range(len(written.ids)) if written.ids[i : i + len(prompt)] == prompt]
            rationale = ends[-1] if ends else len(written.ids)
            thoughts += rationale
            answer_tokens = len(written.ids) - rationale - (len(prompt) if ends else 0)
        return Answer(
            question=question,
            text=text,
            value=self.text.value(text),
            thoughts=thoughts,
            passes=written.passes,
            answer_tokens=answer_tokens,
            finished=written.ended,
        )


def default_device() -> torch.device:
    """The accelerator torch sees, else the CPU."""
    return (
        torch.accelerator.current_accelerator() or torch.device("cpu")
        if torch.accelerator.is_available()
        else torch.device("cpu")
    )
