"""Batches of random token ids with the lengths of real problems: for speed, only the lengths matter."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from codi.data.collation import Encoded, collate
from codi.errors import UsageError
from codi.methods.codi import Codi
from codi.methods.icot import ICot
from codi.methods.method import Method
from codi.training.width_buckets import WidthBuckets

# Token counts of GSM8k-Aug's first 3,000 training problems at these shares: GPT-2's tokenizer, last step left
# out. Means 42.2 (question), 12.2 (rationale), 6.3 (answer with prompt and end of sequence).
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
QUESTION_QUANTILES = (14, 28, 32, 35, 37, 40, 43, 47, 51, 59, 66, 85, 113)
RATIONALE_QUANTILES = (0, 0, 7, 7, 7, 9, 14, 14, 21, 24, 30, 42, 78)
ANSWER_QUANTILES = (6, 6, 6, 6, 6, 6, 6, 6, 6, 7, 8, 8, 13)
LENGTH_CORRELATION = 0.51
"""Of question and rationale: long questions have long rationales."""


@dataclass(frozen=True)
class Lengths:
    """Tokens of each example's question, rationale, and answer, and where its distillation token is."""

    question: tuple[int, ...]
    rationale: tuple[int, ...]
    answer: tuple[int, ...]
    distillation: tuple[int, ...]

    def columns(self) -> dict[str, tuple[int, ...]]:
        """The three lengths by name."""
        return {"question": self.question, "rationale": self.rationale, "answer": self.answer}


def sampled_lengths(count: int, seed: int) -> Lengths:
    """Lengths distributed as GSM8k-Aug's, the same for a seed on every machine."""
    normal = torch.randn(3, count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rationale = LENGTH_CORRELATION * normal[0] + (1 - LENGTH_CORRELATION**2) ** 0.5 * normal[1]
    return Lengths(
        question=_at_quantiles(normal[0], QUESTION_QUANTILES),
        rationale=_at_quantiles(rationale, RATIONALE_QUANTILES),
        answer=_at_quantiles(normal[2], ANSWER_QUANTILES),
        distillation=(3,) * count,  # the `:` of "The answer is:"
    )


def _at_quantiles(normal: Tensor, quantiles: Sequence[int]) -> tuple[int, ...]:
    lengths = []
    for value in normal.tolist():
        share = NormalDist().cdf(value)
        below = min(bisect_right(SHARES, share) - 1, len(SHARES) - 2)
        place = (share - SHARES[below]) / (SHARES[below + 1] - SHARES[below])
        lengths.append(round(quantiles[below] + place * (quantiles[below + 1] - quantiles[below])))
    return tuple(lengths)


def lengths_of(encoded: Sequence[Encoded]) -> Lengths:
    """The lengths of examples that CODI's `encode` has turned into ids."""
    return Lengths(
        question=tuple(len(e["question"]) for e in encoded),
        rationale=tuple(len(e["teacher"]) - len(e["student"]) for e in encoded),
        answer=tuple(len(e["student"]) for e in encoded),
        distillation=tuple(e["student_distillation"] - 1 for e in encoded),
    )


def random_batch(
    method: Method, lengths: Lengths, batch_size: int, vocabulary: int, seed: int, device: torch.device
) -> dict[str, Tensor]:
    """`random_rows`, collated."""
    rows = random_rows(method, lengths, batch_size, vocabulary, seed)
    return {name: tensor.to(device) for name, tensor in collate(rows, pad_id=0).items()}


def of_one_shape(batches: Sequence[Sequence[Encoded]], device: torch.device) -> list[dict[str, Tensor]]:
    """Collated batches, all padded to what takes each of them."""
    shapes = WidthBuckets.chosen(batches, 1, {})
    return [
        {name: tensor.to(device) for name, tensor in collate(rows, 0, shapes.fitting(rows)[0]).items()}
        for rows in batches
    ]


def random_rows(
    method: Method, lengths: Lengths, batch_size: int, vocabulary: int, seed: int
) -> list[Encoded]:
    """Problems drawn without replacement, with random ids below `vocabulary`.

    Segments are those of CODI (and PCCoT), of Coconut in its last stage, or of iCoT at its own.

    Raises UsageError when there are fewer problems than that.
    """
    count = len(lengths.question)
    if count < batch_size:
        raise UsageError(f"A batch of {batch_size} was asked for, but there are only {count} examples.")
    generator = torch.Generator().manual_seed(seed)

    def ids(number: int) -> list[int]:
        drawn: list[int] = torch.randint(vocabulary, (number,), generator=generator).tolist()
        return drawn

    examples: list[Encoded] = []
    for row in torch.randperm(count, generator=generator)[:batch_size].tolist():
        answer = ids(lengths.answer[row])
        examples.append(
            {
                "question": ids(lengths.question[row]),
                "teacher": ids(lengths.rationale[row]) + answer,
                "student": answer,
                "teacher_distillation": lengths.rationale[row] + lengths.distillation[row],
                "student_distillation": 1 + lengths.distillation[row],
            }
        )
    if isinstance(method, ICot):
        draws = random.Random(seed)
        rows = [{**e, "rationale": len(e["teacher"]) - len(e["student"])} for e in examples]
        examples = [method.staged(row, method.stage or 0, draws) for row in rows]
    elif not isinstance(method, Codi):
        thoughts = method.thought_positions() - 2
        examples = [
            {"question": e["question"], "student": e["student"], "thoughts": thoughts} for e in examples
        ]
    return examples
