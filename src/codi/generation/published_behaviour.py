"""Answering as the released code does (zhenyi4/codi 4fd88d4), faults included. For checking numbers, only.

    question    . . Q Q Q <bot>      padding masked, but positions count it
    latents       z_1 ... z_6        no mask: they attend to the padding too; no position ids
    answer        <eot> The answer   no mask, no position ids; the answer prompt is written, not read in

What that means: a question's answer depends on which questions it is batched with, so batch size and order
belong to a number obtained this way. `LatentReasoner` is the correct way, and at batch size 1 both agree.

Two more things decide the digits. The released code casts the whole model to bfloat16. And its libraries
(transformers 4.52, on a GPU) let a padded position, to which the mask leaves nothing, attend to everything;
the keys and values that come of it are what the latents see.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from codi.data.collation import collate
from codi.errors import UsageError
from codi.generation.answer import Answer
from codi.generation.decoding import Sampling, Written
from codi.generation.latent_reasoner import LatentReasoner
from codi.methods.codi import Codi
from codi.modeling.context import Tokens, empty_cache, given_to
from codi.modeling.conversion import PublishedRows
from codi.modeling.model import ThoughtModel
from codi.modeling.precision import DTYPES


class PublishedBehaviour:
    """A CODI model that answers as the released code would. Greedy, in batches as given."""

    def __init__(
        self, reasoner: LatentReasoner, rows: PublishedRows | None = None, dtype: str = "bfloat16"
    ) -> None:
        """rows: what a converted checkpoint has beside it; without, padding is the tokenizer's own token.

        Raises UsageError for a model that is none of CODI's, or a type that does not exist.
        """
        method = reasoner.method
        if not isinstance(method, Codi) or method.refines or method.stops:
            raise UsageError(
                f"The published behaviour is that of CODI's code, but this is a {method.name} model, which "
                "thinks otherwise."
            )
        if dtype not in DTYPES:
            raise UsageError(f"The type '{dtype}' is unknown; choose one of {', '.join(DTYPES)}.")
        self.reasoner, self.method, self.text = reasoner, method, reasoner.text
        self.model: ThoughtModel = reasoner.model
        if any(weight.dtype != DTYPES[dtype] for weight in reasoner.model.parameters()):
            self.model = copy.deepcopy(reasoner.model).to(DTYPES[dtype])
        self.model.eval()
        embedding: Tensor = self.model.causal.get_input_embeddings().weight
        self.vocabulary = embedding.shape[0]
        # The released code adds a padding token where the tokenizer has none of its own.
        own_padding = reasoner.tokenizer.pad_token_id is not None or rows is None
        padding = embedding[self.text.pad_id] if own_padding or rows is None else rows.padding.to(embedding)
        self.added = torch.stack([padding, self.model.thought_tokens[0]]).detach()
        """[2, d]: embeddings of padding and <bot>, the ids after the vocabulary in the released code."""
        self.added_head = None if rows is None else rows.head.to(embedding)
        """[2, d]: their rows of the head; the released code forbids <eot> alone."""

    @classmethod
    def beside(cls, reasoner: LatentReasoner, folder: Path, dtype: str = "bfloat16") -> PublishedBehaviour:
        """With the rows that `codi convert` left in the checkpoint's folder, if it did."""
        return cls(reasoner, PublishedRows.load(folder), dtype)

    @torch.no_grad()
    def answer_batches(
        self,
        questions: Sequence[str],
        *,
        mode: str | None = None,
        latents: int | None = None,
        batch_size: int = 128,
        max_new_tokens: int = 256,
        sampling: Sampling | None = None,
    ) -> Iterator[list[tuple[int, Answer]]]:
        """As `LatentReasoner.answer_batches`. Raises UsageError for another mode than latent, or sampling."""
        if self.method.mode(mode) != "latent" or (sampling or Sampling()).temperature:
            raise UsageError(
                "The published behaviour is greedy and latent: leave out the temperature and the mode."
            )
        if batch_size < 1 or max_new_tokens < 1:
            raise UsageError("batch_size and max_new_tokens must be 1 or more.")
        steps = self.method.latents if latents is None else latents
        encoded = [
            self.reasoner.question_ids(question, f"Question {number + 1}", "latent", latents)
            for number, question in enumerate(questions)
        ]
        for first in range(0, len(questions), batch_size):
            batch = encoded[first : first + batch_size]
            rows = self._answer_batch(batch, steps, max_new_tokens)
            yield [
                (first + row, self._answer(questions[first + row], steps, written))
                for row, written in enumerate(rows)
            ]

    def _answer_batch(self, questions: list[list[int]], steps: int, max_new_tokens: int) -> list[Written]:
        batch = collate([{"question": ids} for ids in questions], self.text.pad_id)
        question = Tokens.of({name: t.to(self.model.device) for name, t in batch.items()}, "question")
        rows, width = question.ids.shape
        is_real = question.mask.bool().unsqueeze(-1)
        padded = torch.where(is_real, self.model.embed(question.ids), self.added[0])
        bot = self.model.thought_tokens[0].expand(rows, 1, -1)
        mask = torch.cat([question.mask, question.mask.new_ones(rows, 1)], 1)
        # One cache, changed in place, as there: nothing here is forked.
        body, place = self.model.causal.base_model, width + 1
        cache = empty_cache(self.model.causal.config)

        def run(inputs: Tensor, position: int, attention_mask: Tensor | None = None) -> Tensor:
            """inputs: [b, t, d] from `position` on. Returns the last hidden state, [b, d]."""
            output = body(
                inputs_embeds=inputs,
                attention_mask=attention_mask,
                position_ids=torch.arange(position, position + inputs.shape[1], device=inputs.device)[None],
                use_cache=True,
                **given_to(body, cache),
            )
            final: Tensor = output.last_hidden_state[:, -1]
            return final

        hidden = run(torch.cat([padded, bot], 1), 0, _additive_mask(mask, padded.dtype))
        for _ in range(steps):
            hidden = run(self.model.projection(hidden).unsqueeze(1), place)
            place += 1
        following = self.model.thought_tokens[1].expand(rows, 1, -1)
        ids: list[list[int]] = [[] for _ in range(rows)]
        ended, written, limit = [False] * rows, 0, self.model.longest_sequence
        while not all(ended) and written < max_new_tokens and (limit is None or place < limit):
            tokens = self._scores(run(following, place)).argmax(-1)
            for row, token in enumerate(tokens.tolist()):
                if not ended[row]:
                    ended[row] = token == self.text.eos_id
                    ids[row] += [] if ended[row] else [token]
            following, place, written = self._embed(tokens).unsqueeze(1), place + 1, written + 1
        # <bot>, the latents, <eot>, and every token written; the last but eos is not fed back.
        return [Written(own, steps + 1 + len(own) + done, done) for own, done in zip(ids, ended, strict=True)]

    def _scores(self, hidden: Tensor) -> Tensor:
        """[b, d] -> [b, vocabulary, and padding and <bot> where their rows are known]."""
        scores = self.model.logits(hidden)
        return scores if self.added_head is None else torch.cat([scores, hidden @ self.added_head.T], -1)

    def _embed(self, ids: Tensor) -> Tensor:
        """[b] ids, padding and <bot> after the vocabulary -> [b, d]."""
        known: Tensor = self.model.causal.get_input_embeddings()(ids.clamp(max=self.vocabulary - 1))
        added = self.added[(ids - self.vocabulary).clamp(min=0)]
        return torch.where((ids >= self.vocabulary).unsqueeze(-1), added, known)

    def _answer(self, question: str, steps: int, written: Written) -> Answer:
        text = self.text.decode([token for token in written.ids if token < self.vocabulary])
        prompt = self.text.prompt_ids
        opening = len(prompt) if written.ids[: len(prompt)] == prompt else 0
        return Answer(
            question=question,
            text=text,
            value=self.text.value(text),
            thoughts=steps + 2,
            passes=written.passes,
            answer_tokens=len(written.ids) - opening,
            finished=written.ended,
        )


def _additive_mask(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """mask: [b, t]. Returns [b, 1, t, t], added to attention's scores: causal, padding left out.

    A padded position that may attend to nothing attends to everything.
    """
    causal = torch.ones(mask.shape[1], mask.shape[1], dtype=torch.bool, device=mask.device).tril()
    allowed = causal & mask.bool()[:, None, :]
    allowed = (allowed | ~allowed.any(-1, keepdim=True)).unsqueeze(1)
    nothing_added = torch.zeros(allowed.shape, dtype=dtype, device=mask.device)
    return nothing_added.masked_fill(~allowed, torch.finfo(dtype).min)
