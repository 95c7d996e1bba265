"""Which token comes next: the likeliest, or one drawn from what temperature, top-k and top-p leave.

A drawn token is the inverse of the cumulative distribution at one uniform number. The number comes from the
row's own generator on the CPU; the distribution stays where it is, so one number a row is all that travels,
and a seed gives the same text on every device and in every batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from codi.errors import UsageError

GREEDY_BELOW = 1e-5
"""Temperatures below this are greedy: logits divided by them overflow (vLLM draws the same line)."""
NUCLEUS = 1024
"""Likeliest tokens looked at first where top_p cuts off; all of them where these do not reach it."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. temperature 0 is greedy; top_k 0 and top_p 1 cut nothing off.

    The likeliest token is never cut off. seed: any whole number.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise UsageError(f"temperature is {self.temperature}; it must be 0 (greedy) or more, and finite.")
        if self.top_k < 0:
            raise UsageError(f"top_k is {self.top_k}; it must be 0 (off) or more.")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top_p is {self.top_p}; it must be above 0 and at most 1.")

    @property
    def is_greedy(self) -> bool:
        """Whether nothing is drawn."""
        return self.temperature < GREEDY_BELOW or self.top_k == 1

    def generator(self, number: int) -> torch.Generator:
        """Where the uniform numbers of one answer come from. number: of the question, or the choice."""
        return torch.Generator().manual_seed((self.seed * 1_000_003 + number) % 2**63)


def choose(logits: Tensor, samplings: Sequence[Sampling], uniforms: Sequence[float]) -> Tensor:
    """As `Choice` for these rows alone."""
    return Choice(samplings, logits.device).of(logits, uniforms)


class Choice:
    """How the next tokens of some rows are chosen; what is the same for every token is on the device."""

    def __init__(self, samplings: Sequence[Sampling], device: torch.device) -> None:
        self.samplings = tuple(samplings)
        drawn = [index for index, sampling in enumerate(samplings) if not sampling.is_greedy]
        parts = ([index for index in drawn if _cuts(samplings[index]) is cuts] for cuts in (False, True))
        self._parts = [_Part([samplings[at] for at in rows], rows, device) for rows in parts if rows]

    def of(self, logits: Tensor, uniforms: Sequence[float]) -> Tensor:
        """The next token of every row [b]; -1 where a row's logits are not finite.

        logits: [b, vocabulary], float32; uniforms: one number in [0, 1) a row, looked at where it is drawn.
        """
        best, chosen = logits.max(-1)
        if self._parts:
            where = _sent([[number] for number in uniforms], logits)
        for part in self._parts:
            scores = logits[part.at].sub_(best[part.at, None]).div_(part.temperature)
            ids = part.drawn(scores, where[part.at])
            chosen = chosen.index_copy(0, part.at, ids)
        return torch.where(best.isfinite(), chosen, -1)


class _Part:
    """Rows that are drawn, all with cuts or all without. at: [n], which they are; temperature: [n, 1]."""

    def __init__(self, samplings: Sequence[Sampling], rows: Sequence[int], device: torch.device) -> None:
        self.at = torch.tensor(rows, device=device)
        column = partial(torch.tensor, dtype=torch.float32, device=device)
        self.temperature: Tensor = column([[one.temperature] for one in samplings])
        self._cuts = _cuts(samplings[0])
        self._most = [one.top_k for one in samplings]
        self._top_k = torch.tensor([[most] for most in self._most], device=device)
        self._top_p: Tensor = column([[one.top_p] for one in samplings])

    def drawn(self, scores: Tensor, where: Tensor) -> Tensor:
        """scores: [n, vocabulary], 0 at the likeliest, used up; where: [n, 1]. Returns [n]."""
        if not self._cuts:
            return _at(scores.exp_(), where)
        return self._drawn_cut(scores, where)

    def _drawn_cut(self, scores: Tensor, where: Tensor) -> Tensor:
        """Drawn among the likeliest: at most top_k, of these as many as it takes to reach top_p."""
        vocabulary = scores.shape[-1]
        most = [min(top_k or vocabulary, vocabulary) for top_k in self._most]
        top_k = torch.where(self._top_k == 0, vocabulary, self._top_k.clamp(max=vocabulary))
        whole = scores.exp().sum(-1, keepdim=True)
        # To sort a large vocabulary takes far longer than to find its likeliest tokens, which mostly suffice.
        for width in (min(vocabulary, max(k if k < vocabulary else NUCLEUS for k in most)), vocabulary):
            ordered, ids = scores.topk(width)
            rank = torch.arange(width, device=scores.device)
            weights = ordered.exp().masked_fill(rank >= top_k, 0)
            shares = weights / torch.where(top_k < vocabulary, weights.sum(-1, keepdim=True), whole)
            reached = shares.cumsum(-1)
            if width == vocabulary or bool(((reached[:, -1:] >= self._top_p) | (top_k <= width)).all()):
                break
        cut = ((reached - shares >= self._top_p) & (rank > 0)) | (rank >= top_k)
        kept = torch.where(cut, rank, width).amin(-1)  # [n], how many of the likeliest
        found = _at(shares.masked_fill_(rank >= kept[:, None], 0), where)
        return ids.gather(-1, torch.minimum(found, kept - 1).unsqueeze(1)).squeeze(1)


def _at(shares: Tensor, where: Tensor) -> Tensor:
    """The inverse of the cumulative distribution, [b]. where: [b, 1] in [0, 1).

    shares: [b, n], of any sum; used up (a large vocabulary is copied as seldom as can be).
    """
    reached = shares.cumsum_(-1)
    end = reached[:, -1:]
    # Kept below the end, which rounding could reach: the token found is one that has a share, as long as the
    # sums only rise. CUDA's, added up in parallel, may fall by a rounding.
    target = torch.minimum(where * end, torch.nextafter(end, torch.zeros_like(end)))
    return torch.searchsorted(reached, target, right=True).squeeze(1).clamp(max=shares.shape[-1] - 1)


def _cuts(sampling: Sampling) -> bool:
    return sampling.top_k > 0 or sampling.top_p < 1


def _sent(values: Sequence[Sequence[float]], like: Tensor) -> Tensor:
    """On the device, without waiting for it."""
    on_cuda = like.device.type == "cuda"
    made = torch.tensor(values, dtype=like.dtype, pin_memory=on_cuda)
    return made.to(like.device, non_blocking=on_cuda)
