"""Chains: the equations of a problem in order, numbers included, and the split that alone may use one.

Two problems with the same chain are the same arithmetic in other words. A model that has seen the chain can
recall the answer; whether it computes shows on chains it has not seen. So a generated chain belongs to one
of train, validation and test, whatever the seed, the wording and the style: its SHA-256 says so.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from codi.data.example import Example

SHARES = ("train",) * 8 + ("validation", "test")
"""A digest modulo 10 is an index into this."""
HELD_OUT_FROM = 2
"""Steps from which whole chains are held out. Of one step there are too few: each is a fact to be learnt."""

_SALT = "codi/chains/356243:"  # another salt would deal all chains anew
_ANNOTATION = re.compile(r"<<.*?>>")


def share_of_text(text: str) -> str:
    """The split, of train, validation and test, that alone may use this text."""
    digest = hashlib.sha256((_SALT + text).encode()).digest()
    return SHARES[int.from_bytes(digest[:8], "big") % len(SHARES)]


def share_of_chain(steps: Iterable[str]) -> str:
    """The split that alone may use the chain with these equations."""
    return share_of_text(" ".join(steps))


def chain_of(example: Example) -> tuple[str, ...]:
    """The chain of a problem: of each step its calculator annotations where it has some, else its words."""
    return tuple("".join(_ANNOTATION.findall(step)) or " ".join(step.split()) for step in example.steps)


@dataclass(frozen=True, slots=True)
class SeenChains:
    """How many of a set's distinct chains of two steps or more stand in training, and how many there are."""

    seen: int
    chains: int

    def describe(self) -> str:
        """One line for a report."""
        return f"test chains of two steps or more that stand in training: {self.seen:,} of {self.chains:,}"

    def as_dict(self) -> dict[str, int]:
        """The same, JSON-ready."""
        return {"seen": self.seen, "chains": self.chains}


def seen_chains(test: Iterable[Example], training: Iterable[Example]) -> SeenChains:
    """Which of the test problems' chains training shows, order and numbers included."""
    asked = {chain_of(example) for example in test if len(example.steps) >= HELD_OUT_FROM}
    shown = {chain_of(example) for example in training if len(example.steps) >= HELD_OUT_FROM}
    return SeenChains(len(asked & shown), len(asked))
