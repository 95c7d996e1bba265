"""Polynomial iteration, generated: a controlled task in which every step needs the result before it.

    s_t = s_(t-1) * x_t + b  (mod m)            the task of arXiv 2602.00449, with 2 to 6 hops

    question  On every turn the score becomes (score * card + 4) % 11. The cards are 5, 3.
              The score starts at 10. What is the score in the end?
    steps     <<10*5+4=10>> <<10*3+4=1>>        score * card + 4 = the score after this turn
    answer    1

Word problems differ in wording, operations and range; here all of these stand still, and only the number of
hops changes. What is drawn keeps every number in play:

    m       a prime, so that multiplying by a card loses nothing: each score before a turn gives another after
    x_t     2 to m - 1: a 0 would forget the score, a 1 would only add
    b       1 to m - 1: with 0 the score would be one product, in which the order of the cards is nothing
    start   1 to m - 1: from 0 the first card would not matter

The score to start from is told last, for the reason that `codi.data.word_problems` gives: the turns wait
until the value comes. (Two turns still combine into one of the same form, so a deep enough model could gather
the cards in fewer passes than there are hops; whether one does is what the task is there to show.)

A step leaves out the modulus and what is above it: `<<10*5+4=10>>`, not `<<(10*5+4)%11=10>>`. Equations are
thus true modulo m, as the question says. No number exceeds 20, so the word-level tokenizer has a token for
every one (54 has none), and writing out is not made longer, and thoughts to look faster, by a modulus that
never changes. Every word is one of the word problems' too: the same tokenizer and tiny model serve both.

Whole chains are held out: the SHA-256 of the equations, and nothing else, says which split may use them (see
`codi.data.chains`), so no two splits share a chain, whatever the seed, the number of hops or the modulus.
There is one wording, so no two share a question either.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from codi.data.chains import share_of_chain
from codi.data.example import Example
from codi.errors import DataError, nearest

SPLITS = ("train", "validation", "test")
"""The names `generate` takes."""

MODULI = (5, 7, 11, 13, 17, 19)
"""Primes whose numbers all have a token of their own; 2 and 3 leave no choice of cards."""
_MOST_DRAWS = 20_000  # for one problem, before problems with its number of hops are declared used up


@dataclass(frozen=True, slots=True)
class IterationStyle:
    """How long the problems are, and the numbers they use. Every number of hops is equally frequent."""

    least_hops: int = 2
    most_hops: int = 6
    modulus: int = 11

    def __post_init__(self) -> None:
        """Raises `DataError` for a style that no problem could satisfy."""
        problem = ""
        if not 1 <= self.least_hops <= self.most_hops:
            problem = (
                f"hops are {self.least_hops} to {self.most_hops}; they must be 1 or more, the fewest first"
            )
        elif self.modulus not in MODULI:
            problem = f"the modulus is {self.modulus}; it must be one of {', '.join(map(str, MODULI))}"
        if problem:
            raise DataError(f"This style of polynomial iteration cannot be generated: {problem}.")


DEFAULT_STYLE = IterationStyle()


@dataclass(frozen=True, slots=True)
class Iteration:
    """The arithmetic of one problem: s_0 = start, s_t = s_(t-1) * cards[t-1] + addend (mod modulus)."""

    start: int
    cards: tuple[int, ...]
    addend: int
    modulus: int

    def values(self) -> tuple[int, ...]:
        """s_0 and the result of every step: `hops + 1` values, each 0 to modulus - 1."""
        values = [self.start]
        for card in self.cards:
            values.append((values[-1] * card + self.addend) % self.modulus)
        return tuple(values)

    def steps(self) -> tuple[str, ...]:
        """The steps in GSM8k-Aug's form: `<<10*5+4=10>>`, true modulo the modulus."""
        return tuple(
            f"<<{before}*{card}+{self.addend}={after}>>"
            for card, (before, after) in zip(self.cards, pairwise(self.values()), strict=True)
        )

    def question(self) -> str:
        """The problem in words."""
        cards = "The cards are" if len(self.cards) > 1 else "The card is"
        return (
            f"On every turn the score becomes (score * card + {self.addend}) % {self.modulus}. "
            f"{cards} {', '.join(map(str, self.cards))}. The score starts at {self.start}. "
            "What is the score in the end?"
        )


def generate(split: str, count: int, seed: int = 1, style: IterationStyle = DEFAULT_STYLE) -> list[Example]:
    """Generate `count` problems of `split`, the same on every machine for the same arguments.

    The first problems of a larger count are those of a smaller one. No question occurs twice. Ids are
    `split-seed-index`.

    Raises:
        DataError: the split is unknown, the count negative, or the style has too few distinct problems.
    """
    if split not in SPLITS:
        raise DataError(
            f"Polynomial iteration has no split '{split}'.{nearest(split, SPLITS)} "
            f"Splits: {', '.join(SPLITS)}."
        )
    if count < 0:
        raise DataError(f"{count} problems of polynomial iteration were asked for; ask for 0 or more.")
    # Seeding with text goes through SHA-512 and never through hash(), which differs from run to run.
    rng = random.Random(f"polynomial-iteration/{split}/{seed}")
    examples: list[Example] = []
    for question, steps, iteration in _problems(split, count, rng, style):
        answer = str(iteration.values()[-1])
        examples.append(Example(f"{split}-{seed}-{len(examples)}", question, steps, answer))
    return examples


def _problems(
    split: str, count: int, rng: random.Random, style: IterationStyle
) -> Iterator[tuple[str, tuple[str, ...], Iteration]]:
    """`count` distinct problems of a split: question, steps and arithmetic."""
    seen: set[str] = set()
    used: Counter[int] = Counter()  # problems by their number of hops
    for index in range(count):
        # The number of hops is drawn once: redraws must not make the short problems, which are few, rare.
        hops = rng.randint(style.least_hops, style.most_hops)
        for _ in range(_MOST_DRAWS):
            iteration = _draw(rng, hops, style.modulus)
            steps, question = iteration.steps(), iteration.question()
            if question not in seen and share_of_chain(steps) == split:
                break
        else:
            raise DataError(
                f"{count:,} distinct '{split}' problems of polynomial iteration were asked for; after "
                f"{index:,} no new one with {hops} hops and modulus {style.modulus} was found in "
                f"{_MOST_DRAWS:,} draws: there are {used[hops]:,} chains of that length for this split. Ask "
                "for fewer, for more hops, or for a larger modulus."
            )
        seen.add(question)
        used[hops] += 1
        yield question, steps, iteration


def _draw(rng: random.Random, hops: int, modulus: int) -> Iteration:
    cards = tuple(rng.randint(2, modulus - 1) for _ in range(hops))
    return Iteration(rng.randint(1, modulus - 1), cards, rng.randint(1, modulus - 1), modulus)
