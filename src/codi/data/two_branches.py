"""Two people with a step each, then their sum or difference: the problems of the small scale.

    question  Ben gets 4. starts 15. Tom completes 30. starts 9. together?
    steps     <<15+4=19>> <<30-9=21>> <<19+21=40>>
    answer    40

In a plain chain the state before the answer needs the last result alone. Here it must hold *both* branches'
results, since the step that joins them is the one that CODI's teacher does not write. Wording is terse, so
that a run takes minutes; every number is told before the one it starts from, as in the word problems.

What is learned is held out: the SHA-256 of a problem's equations (without names and words, and whichever
person comes first) says which of train, validation and test may use it. So no equation chain of one of them
stands in another, in any wording, with any seed. Single steps do occur in all; there are few.

`shorter=20` leaves one branch without a step in 20 % of the problems of `train`, `validation`, `test` and
`reworded`; without it all of these have a step in each.

    reworded        SVAMP       verbs that `train` never uses
    larger_numbers  GSM-Hard    a branch whose result lies above the usual range
    shorter_chains  MultiArith  one of the two has no step, and other verbs
    longer_chains               two steps in one branch or in both
    pretraining                 the world of the small base: see below

`pretraining` holds what a pretrained model would know, and no problem with two steps and their joining:
arithmetic alone; one person with one step, written or at once; two people of whom at most one has a step,
with and without the joining step; and questions of full size that ask for a starting number only. All verbs
and the larger numbers occur. Problems of two people there are those of the training share.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product

from codi.data.example import Example
from codi.data.word_problem_chains import Chain
from codi.errors import DataError, nearest

VERSION = 1
"""Of what is generated. A base remembers the version that it was pretrained on."""
SPLITS = (
    "train", "validation", "test", "reworded", "larger_numbers", "shorter_chains", "longer_chains",
    "pretraining",
)  # fmt: skip
"""The names `generate` takes."""
NAMES = ("Mia", "Tom", "Ana", "Ben")
VERBS = {
    "+": ("gets", "finds"), "-": ("loses", "sells"), "*": ("times", "multiplies"),
    "/": ("shares", "splits"), "c": ("fills", "completes"),
}  # fmt: skip
"""What `train` says for each operation; `c` is the complement, operand - value."""
OTHER_VERBS = {
    "+": ("adds", "buys"), "-": ("spends", "drops"), "*": ("repeats", "scales"),
    "/": ("parts", "divides"), "c": ("reaches", "tops"),
}  # fmt: skip
ASKED = {"+": "together", "-": "difference"}
MOST = 72
"""Largest number there can be: both branches at the top of the world's range, put together."""

_SHARES = ("train",) * 8 + ("validation", "test")
_MOST_DRAWS = 20_000  # for one problem, before its split is declared used up
_FEW_DRAWS = 300  # the same, where those that are left can be counted
_ALONE = 4  # equations that stand before a question about arithmetic alone


@dataclass(frozen=True, slots=True)
class BranchStyle:
    """The numbers of the problems. All are whole and 1 or more; a value is a start or a step's result."""

    largest: int = 30
    """Largest value in a branch."""
    above: int = 6
    """How far `larger_numbers` and `pretraining` go above it."""
    largest_addend: int = 5
    factors: tuple[int, ...] = (2, 3)
    shorter: int = 0
    """Percent of `train`, `validation`, `test` and `reworded` in which a branch has no step."""

    def __post_init__(self) -> None:
        """Raises DataError for numbers that no problem, or no token, could have."""
        if not 0 <= self.shorter <= 100:
            raise DataError(
                f"{self.shorter} % of the problems were asked to be shorter; ask for 0 to 100 "
                "(two-branches?shorter=20)."
            )
        if not 6 <= self.largest <= MOST // 2 - self.above:
            raise DataError(
                f"The largest value of a branch is {self.largest}; it must lie between 6 and "
                f"{MOST // 2 - self.above}, so that every sum has a token of its own."
            )

    @property
    def complements(self) -> tuple[int, ...]:
        """The numbers that a value is taken away from."""
        return self.largest, 2 * self.largest // 3


DEFAULT_STYLE = BranchStyle()


@dataclass(frozen=True, slots=True)
class Problem:
    """Two branches and what joins their results: `+`, or `-` where the first is larger."""

    first: Chain
    second: Chain
    join: str

    @property
    def results(self) -> tuple[int, int]:
        """What each branch comes to."""
        return self.first.values()[-1], self.second.values()[-1]

    @property
    def answer(self) -> int:
        """Sum or difference of the results."""
        x, y = self.results
        return x + y if self.join == "+" else x - y

    def steps(self) -> tuple[str, ...]:
        """The steps of the first branch, of the second, and the one that joins them."""
        x, y = self.results
        return (*self.first.steps(), *self.second.steps(), f"<<{x}{self.join}{y}={self.answer}>>")

    @property
    def key(self) -> str:
        """What holds a problem out: its equations, whichever person comes first."""
        return f"{self.join} {sorted([_written(self.first), _written(self.second)])}"

    @property
    def share(self) -> str:
        """The split, of train, validation and test, that alone may use these equations."""
        digest = hashlib.sha256(self.key.encode()).digest()
        return _SHARES[int.from_bytes(digest[:8], "big") % len(_SHARES)]


def generate(split: str, count: int, seed: int = 1, style: BranchStyle = DEFAULT_STYLE) -> list[Example]:
    """Generate `count` problems of `split`, the same on every machine for the same arguments.

    The first problems of a larger count are those of a smaller one. No two have the same equations
    (`pretraining` repeats some: its world is small). Ids are `split-seed-index`.

    Raises:
        DataError: the split is unknown, the count negative, or there are too few distinct problems.
    """
    if split not in SPLITS:
        raise DataError(
            f"two-branches has no split '{split}'.{nearest(split, SPLITS)} Splits: {', '.join(SPLITS)}."
        )
    if count < 0:
        raise DataError(f"{count} problems of two branches were asked for; ask for 0 or more.")
    rng = random.Random(f"two-branches/{split}/{seed}")
    if split == "pretraining":
        texts = (_pretraining(rng, style) for _ in range(count))
        return [Example(f"{split}-{seed}-{index}", *text) for index, text in enumerate(texts)]
    verbs = OTHER_VERBS if split in ("reworded", "shorter_chains") else VERBS
    return [
        Example(f"{split}-{seed}-{index}", _tell(problem, rng, verbs), problem.steps(), str(problem.answer))
        for index, problem in enumerate(_problems(split, count, rng, style))
    ]


_SHORTER = ((0, 1), (1, 0))
_STEPS = {"shorter_chains": _SHORTER, "longer_chains": ((1, 2), (2, 1), (2, 2))}
"""Steps of the two branches; of the other splits one each, but for the style's `shorter`."""
_USUAL = ((1, 1),)


def _problems(split: str, count: int, rng: random.Random, style: BranchStyle) -> Iterator[Problem]:
    share = split if split in _SHARES else "test"
    seen: set[str] = set()
    for _ in range(count):
        shorter = style.shorter and split != "larger_numbers" and rng.randrange(100) < style.shorter
        sizes = rng.choice(_STEPS.get(split, _SHORTER if shorter else _USUAL))
        for _ in range(_MOST_DRAWS if _uncounted(split) else _FEW_DRAWS):
            problem = _drawn_for(split, rng, style, sizes)
            if problem.key not in seen and problem.share == share:
                break
        else:
            problem = _one_that_is_left(split, style, rng, seen, count)
        seen.add(problem.key)
        yield problem


def _drawn_for(split: str, rng: random.Random, style: BranchStyle, sizes: tuple[int, int]) -> Problem:
    if split != "larger_numbers":
        return _draw(rng, _usual(style), *sizes)
    while True:
        first, second = rng.sample([rng.choice(_above(style)), _world(style).draw(rng, 1)], 2)
        problem = Problem(first, second, rng.choice(list(ASKED)))
        if problem.answer > 0:
            return problem


def _uncounted(split: str) -> bool:
    """Whether a split has too many problems to be gone through."""
    return split in _STEPS or split == "larger_numbers"


def _one_that_is_left(
    split: str, style: BranchStyle, rng: random.Random, seen: set[str], count: int
) -> Problem:
    """When draws find nothing new. Raises DataError where nothing is left."""
    there_are = f"after {len(seen)} no new one was found in {_MOST_DRAWS} draws"
    if not _uncounted(split):
        every = _every(split if split in _SHARES else "test", style)
        left, there_are = sorted(every.keys() - seen), f"there are {len(every):,}"
        if left:
            return every[rng.choice(left)]
    raise DataError(
        f"{count} distinct '{split}' problems of two branches were asked for, but {there_are}. Ask for "
        "fewer, or for a larger range (two-branches?largest=30)."
    )


@cache
def _every(share: str, style: BranchStyle) -> dict[str, Problem]:
    """Every problem of one step a branch that this split may use, by its key."""
    branches = _usual(style).of_one_step()
    problems = (Problem(*pair, join) for pair in product(branches, branches) for join in ASKED)
    return {problem.key: problem for problem in problems if problem.answer > 0 and problem.share == share}


class _Range:
    """Draws branches whose values lie in 1..largest. The operations are drawn first: numbers for division
    are few, and would be rare."""

    def __init__(self, largest: int, style: BranchStyle) -> None:
        self.largest = largest
        operands: dict[str, tuple[int, ...]] = {
            "+": tuple(range(1, style.largest_addend + 1)), "-": tuple(range(1, style.largest_addend + 1)),
            "*": style.factors, "/": style.factors, "c": style.complements,
        }  # fmt: skip
        self.moves = {
            operation: {
                value: found
                for value in range(2, largest + 1)
                if (found := [(k, r) for k in of if (r := _result(value, operation, k)) and r <= largest])
            }
            for operation, of in operands.items()
        }
        self.starts = {operation: list(moves) for operation, moves in self.moves.items()}

    def draw(self, rng: random.Random, steps: int) -> Chain:
        """A branch of so many steps, never two of a kind in a row: they could be merged into one."""
        if not steps:
            return Chain(rng.randint(1, self.largest), "", ())
        while True:
            kinds, operations = list[str](), ""
            for _ in range(steps):
                kinds.append(rng.choice([kind for kind in ("+-", "*/", "c") if kinds[-1:] != [kind]]))
                operations += rng.choice(kinds[-1])
            start = value = rng.choice(self.starts[operations[0]])
            operands = []
            for operation in operations:
                if value not in self.moves[operation]:
                    break
                operand, value = rng.choice(self.moves[operation][value])
                operands.append(operand)
            else:
                return Chain(start, operations, tuple(operands))

    def of_one_step(self) -> list[Chain]:
        """Every branch of one step."""
        return [
            Chain(value, operation, (operand,))
            for operation, moves in self.moves.items()
            for value, found in moves.items()
            for operand, _ in found
        ]


@cache
def _usual(style: BranchStyle) -> _Range:
    return _Range(style.largest, style)


@cache
def _world(style: BranchStyle) -> _Range:
    return _Range(style.largest + style.above, style)


@cache
def _above(style: BranchStyle) -> list[Chain]:
    """Branches of one step whose result lies above the usual range."""
    return [chain for chain in _world(style).of_one_step() if chain.values()[-1] > style.largest]


def _result(value: int, operation: str, operand: int) -> int:
    """Of one step; 0 where it is not a whole number of 1 or more."""
    if operation == "/" and value % operand:
        return 0
    return max(0, Chain(value, operation, (operand,)).values()[-1])


def _draw(rng: random.Random, values: _Range, first: int, second: int) -> Problem:
    """A problem with so many steps in its branches."""
    while True:
        problem = Problem(values.draw(rng, first), values.draw(rng, second), rng.choice(list(ASKED)))
        if problem.answer > 0:
            return problem


def _tell(problem: Problem, rng: random.Random, verbs: Mapping[str, tuple[str, ...]]) -> str:
    one, other = rng.sample(NAMES, 2)
    told = f"{_branch(one, problem.first, rng, verbs)} {_branch(other, problem.second, rng, verbs)}"
    return f"{told} {ASKED[problem.join]}?"


def _branch(name: str, chain: Chain, rng: random.Random, verbs: Mapping[str, tuple[str, ...]]) -> str:
    parts = zip(chain.operations, chain.operands, strict=True)
    done = [f"{rng.choice(verbs[operation])} {operand}." for operation, operand in parts]
    return " ".join([name, *done, f"starts {chain.start}."])


def _written(chain: Chain) -> str:
    """A branch's equations; a branch without a step is its number."""
    return " ".join(chain.steps()) or str(chain.start)


# --- the world of the base ----------------------------------------------------------------------------------

_Text = tuple[str, tuple[str, ...], str]
"""Question, steps, answer."""
_BOTH_VERBS = {operation: VERBS[operation] + OTHER_VERBS[operation] for operation in VERBS}


def _pretraining(rng: random.Random, style: BranchStyle) -> _Text:
    kinds: list[Callable[[random.Random, _Range], _Text]] = [_arithmetic, _one_person, _two_people, _start]
    return rng.choices(kinds, (0.25, 0.2, 0.35, 0.2))[0](rng, _world(style))


def _arithmetic(rng: random.Random, values: _Range) -> _Text:
    """Some equations, and a last one to be completed."""
    told = [_equation(rng, values) for _ in range(_ALONE + 1)]
    asked, answer = told[-1].strip("<>").split("=")
    return f"{' '.join(told[:-1])} {asked}?", (), answer


def _equation(rng: random.Random, values: _Range) -> str:
    return values.draw(rng, 1).steps()[0] if rng.random() < 0.4 else _draw(rng, values, 0, 0).steps()[0]


def _one_person(rng: random.Random, values: _Range) -> _Text:
    chain = values.draw(rng, 1)
    steps = chain.steps() if rng.random() < 0.5 else ()
    return f"{_branch(rng.choice(NAMES), chain, rng, _BOTH_VERBS)} ends?", steps, str(chain.values()[-1])


def _two_people(rng: random.Random, values: _Range) -> _Text:
    """At most one of them has a step. All is written, or all but the joining step."""
    sizes = rng.choice(((0, 0), (0, 1), (1, 0), (0, 1), (1, 0)))
    problem = _of_training(rng, values, *sizes)
    steps = problem.steps() if rng.random() < 0.45 else problem.steps()[:-1]
    return _tell(problem, rng, _BOTH_VERBS), steps, str(problem.answer)


def _start(rng: random.Random, values: _Range) -> _Text:
    """A question of full size, of which a starting number alone is asked."""
    branches = [values.draw(rng, rng.randint(0, 2)) for _ in range(2)]
    names = rng.sample(NAMES, 2)
    told = [_branch(name, chain, rng, _BOTH_VERBS) for name, chain in zip(names, branches, strict=True)]
    asked = rng.randrange(2)
    return f"{' '.join(told)} {names[asked]} starts?", (), str(branches[asked].start)


def _of_training(rng: random.Random, values: _Range, first: int, second: int) -> Problem:
    while True:
        problem = _draw(rng, values, first, second)
        if problem.share == "train":
            return problem
