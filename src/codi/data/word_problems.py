"""Grade-school word problems in the form of GSM8k-Aug, generated: the data that needs no download.

    question  Mia collects apples. On Monday she finds 2 more. On Tuesday she has what is missing to 12.
              She starts with 7. How many are there in the end?
    steps     <<7+2=9>> <<12-9=3>>              every step goes on from the result of the step before
    answer    3

The number a problem starts from is told after its steps. Were it told first, every sentence could carry the
value on while the question is read, side by side with the others, and a model that answers at once would
follow several steps in one pass; told last, the steps are waiting when the value comes.

A problem is a **chain** of equations told in words. The SHA-256 of the question's text, and nothing else,
says which split may use it (8 in 10 train, 1 validation, 1 test), so no two of the three share a question,
whatever the seeds. Short chains do recur in other words, as they do in GSM8k-Aug. (Holding back whole
chains was tried: a pattern such as */ has so few that the test split repeated two or three of them and
measured those, not the pattern.)

Besides sums (+ -) and products (* /) there are complements: "she has what is missing to 12" (<<12-7=5>>).
With sums and products alone a chain is one long product and one long sum, which two layers learn to do in one
pass without following the chain. A complement turns the sign of all that came before it, and gives nothing to
a guess: every result is as likely as the value before it.

Three further splits stand for the paper's out-of-domain benchmarks (section 4). All draw from the test
share, so they are as disjoint from training as the test split is:

    reworded         SVAMP       phrases that training never shows, made of words that it does; some problems
                                 have a sentence that changes nothing
    larger_numbers   GSM-Hard    at least half of the values lie above the usual range
    longer_chains    MultiArith  more steps than any training problem has
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass

from codi.data.example import Example
from codi.data.word_problem_wording import DAYS, PEOPLE, SCENARIOS, Scenario
from codi.errors import DataError, nearest

SPLITS = ("train", "validation", "test", "reworded", "larger_numbers", "longer_chains")
"""The names `generate` takes. The last three are out-of-domain."""

KINDS = ("+-", "*/", "c")
"""Operations that could be merged with a neighbour of their kind; `c` is the complement, operand - value."""
_SHARES = ("train",) * 8 + ("validation", "test")  # a question's digest modulo 10 is an index into this
_ASIDE_SHARE = 0.5  # of the reworded problems, have a sentence that changes nothing
_MOST_DRAWS = 20_000  # for one problem, before the split is declared exhausted
_DRAWS_PER_OPERATIONS = 50  # of numbers for the same operations: else those with few numbers would be rare


@dataclass(frozen=True, slots=True)
class ProblemStyle:
    """How hard the generated problems are. All numbers in a problem are whole and 1 or more.

    A value is the number a problem starts from or the result of a step.
    """

    usual_largest: int = 12
    """Largest value of a usual problem."""
    tail_largest: int = 20
    """Largest value of a tail or `larger_numbers` problem, and the largest number with a token of its own."""
    tail_share: float = 0.04
    """Share of the problems that have a value above `usual_largest` (train, validation, test, reworded)."""
    step_weights: tuple[float, ...] = (0.04, 0.08, 0.20, 0.34, 0.34)
    """Relative frequency of problems with 1, 2, ... steps."""
    longer_steps: int = 6
    """Steps of a `longer_chains` problem."""
    largest_addend: int = 2
    """Largest number added or taken away in a usual problem.

    Small on purpose: a large one gives away the value that it is taken from (only 10 can lose 9 and stay
    above 0), so that a model which never follows the chain guesses well.
    """
    tail_largest_addend: int = 3
    """The same for tail and `larger_numbers` problems."""
    factors: tuple[int, ...] = (2,)
    """The numbers multiplied and divided by."""
    complements: tuple[int, ...] = (10, 12)
    """The numbers that a value is taken away from (`<<12-7=5>>`)."""
    complement_weight: float = 0.8
    """How often a step is a complement, against 1 for a sum and 1 for a product."""

    def __post_init__(self) -> None:
        """Raises `DataError` for a style that no problem could satisfy."""
        problem = ""
        if self.usual_largest < 8:
            problem = f"usual_largest is {self.usual_largest}; it must be 8 or more"
        elif self.tail_largest < self.usual_largest:
            problem = f"tail_largest is {self.tail_largest}, below usual_largest {self.usual_largest}"
        elif not 0 <= self.tail_share <= 1:
            problem = f"tail_share is {self.tail_share}; it must lie between 0 and 1"
        elif not self.step_weights or min(self.step_weights) < 0 or sum(self.step_weights) <= 0:
            problem = f"step_weights are {self.step_weights}; they must be 0 or more, and one of them above 0"
        elif self.longer_steps <= len(self.step_weights):
            problem = (
                f"longer_steps is {self.longer_steps}; training problems have up to {len(self.step_weights)}"
            )
        elif self.longer_steps > len(DAYS):
            problem = (
                f"longer_steps is {self.longer_steps}, but a week has only {len(DAYS)} days to tell them on"
            )
        elif min(self.largest_addend, self.tail_largest_addend) < 1:
            problem = "largest_addend and tail_largest_addend must be 1 or more"
        elif self.complement_weight < 0 or (self.complement_weight and not self.complements):
            problem = f"complement_weight is {self.complement_weight} for complements {self.complements}"
        elif any(not 2 <= whole <= self.tail_largest for whole in self.complements):
            problem = (
                f"complements are {self.complements}; each must lie between 2 and "
                f"tail_largest {self.tail_largest}"
            )
        elif not self.factors or min(self.factors) < 2 or max(self.factors) > self.tail_largest:
            problem = (
                f"factors are {self.factors}; each must lie between 2 and tail_largest {self.tail_largest}"
            )
        if problem:
            raise DataError(f"This style of word problems cannot be generated: {problem}.")


DEFAULT_STYLE = ProblemStyle()


def style_up_to(steps: int) -> ProblemStyle:
    """Problems with 1 to `steps` steps, more with more of them; `longer_chains` have one more.

    Raises DataError beyond 6: with one step a day, a week ends the chain.
    """
    return ProblemStyle(step_weights=tuple(float(n) for n in range(1, steps + 1)), longer_steps=steps + 1)


@dataclass(frozen=True, slots=True)
class Chain:
    """The arithmetic of one problem: the number it starts from, then one operation and operand per step."""

    start: int
    operations: str
    operands: tuple[int, ...]

    def values(self) -> tuple[int, ...]:
        """The number it starts from and the result of every step: `steps + 1` values."""
        values = [self.start]
        for operation, operand in zip(self.operations, self.operands, strict=True):
            values.append(_apply(values[-1], operation, operand))
        return tuple(values)

    def steps(self) -> tuple[str, ...]:
        """The steps as GSM8k-Aug writes them: `<<7+5=12>>`."""
        values = self.values()
        written = []
        for before, operation, operand, after in zip(
            values, self.operations, self.operands, values[1:], strict=False
        ):
            left = f"{operand}-{before}" if operation == "c" else f"{before}{operation}{operand}"
            written.append(f"<<{left}={after}>>")
        return tuple(written)


def problem_share(question: str) -> str:
    """The split, of train, validation and test, that alone may use this question."""
    digest = hashlib.sha256(question.encode()).digest()
    return _SHARES[int.from_bytes(digest[:8], "big") % len(_SHARES)]


def generate(split: str, count: int, seed: int = 1, style: ProblemStyle = DEFAULT_STYLE) -> list[Example]:
    """Generate `count` problems of `split`, the same on every machine for the same arguments.

    The first problems of a larger count are those of a smaller one. No question occurs twice. Ids are
    `split-seed-index`.

    Raises:
        DataError: the split is unknown, the count negative, or the style has too few distinct problems.
    """
    if split not in SPLITS:
        raise DataError(
            f"The word problems have no split '{split}'.{nearest(split, SPLITS)} Splits: {', '.join(SPLITS)}."
        )
    if count < 0:
        raise DataError(f"{count} word problems were asked for; ask for 0 or more.")
    if split == "larger_numbers" and style.tail_largest == style.usual_largest:
        raise DataError("larger_numbers needs a style whose tail_largest is above its usual_largest.")
    # Seeding with text goes through SHA-512 and never through hash(), which differs from run to run.
    problems = _problems(split, random.Random(f"word-problems/{split}/{seed}"), style)
    examples = []
    for index in range(count):
        try:
            question, chain = next(problems)
        except StopIteration:
            raise DataError(
                f"{count} distinct '{split}' word problems were asked for; after {index} no new one was "
                f"found in {_MOST_DRAWS} draws. Ask for fewer, or for a style with a wider range."
            ) from None
        steps = chain.steps()
        examples.append(Example(f"{split}-{seed}-{index}", question, steps, str(chain.values()[-1])))
    return examples


def _problems(split: str, rng: random.Random, style: ProblemStyle) -> Iterator[tuple[str, Chain]]:
    """Distinct problems of a split, until a draw fails `_MOST_DRAWS` times."""
    share = split if split in _SHARES else "test"
    usual = _ChainSampler(style.usual_largest, style.largest_addend, style.factors, style.complements)
    tail = _ChainSampler(style.tail_largest, style.tail_largest_addend, style.factors, style.complements)
    lengths = range(1, len(style.step_weights) + 1)
    seen: set[str] = set()
    while True:
        # The number of steps and the range are drawn once: redraws must not shift their shares.
        length = rng.choices(lengths, style.step_weights)[0]
        in_tail = rng.random() < style.tail_share and style.tail_largest > style.usual_largest
        above = 1 if in_tail else 0
        if split == "larger_numbers":
            above = (length + 2) // 2
        elif split == "longer_chains":
            length, above = style.longer_steps, 0
        for draw in range(_MOST_DRAWS):
            if draw % _DRAWS_PER_OPERATIONS == 0:
                operations = _draw_operations(rng, length, style.complement_weight)
            drawn = (tail if above else usual).draw(rng, operations)
            if drawn is None:
                continue
            values, operands = drawn
            if above and sum(value > style.usual_largest for value in values) < above:
                continue
            chain = Chain(values[0], operations, tuple(operands))
            question = _tell(chain, rng, reworded=split == "reworded")
            if question not in seen and problem_share(question) == share:
                break
        else:
            return
        seen.add(question)
        yield question, chain


def _draw_operations(rng: random.Random, steps: int, complement_weight: float) -> str:
    """Sums, products and complements, never two of a kind in a row.

    Neighbours of one kind could be merged (+3 and -1 are +2): a chain would be shallower than it is long, and
    a step could undo the one before it.
    """
    operations, last = "", ""
    for _ in range(steps):
        weights = {kind: complement_weight if kind == "c" else 1.0 for kind in KINDS if kind != last}
        last = rng.choices(list(weights), list(weights.values()))[0]
        operations += rng.choice(last)
    return operations


_Moves = dict[int, tuple[tuple[int, int], ...]]
"""For a value, the operands of an operation, each with its result."""


class _ChainSampler:
    """Draws chains whose values all lie in 1..largest.

    The operations are given, and numbers are drawn only among those from which the remaining operations can
    still be done. Drawing numbers first would make multiplication and division rare, because few values
    allow them.
    """

    def __init__(
        self, largest: int, largest_addend: int, factors: tuple[int, ...], complements: tuple[int, ...]
    ) -> None:
        self._largest = largest
        self._largest_addend = largest_addend
        self._factors = factors
        self._complements = complements
        self._tables: dict[str, _Moves] = {}
        self._paths: dict[str, tuple[tuple[int, ...], tuple[_Moves, ...]]] = {}

    def draw(self, rng: random.Random, operations: str) -> tuple[list[int], list[int]] | None:
        """A chain that does `operations` in turn: its values and its operands; None where there is none.

        Called thousands of times for a problem of `larger_numbers`, so it looks up and makes no `Chain`.
        """
        starts, tables = self._path(operations)
        if not starts:
            return None
        value = rng.choice(starts)
        values, operands = [value], []
        for moves in tables:
            operand, value = rng.choice(moves[value])
            operands.append(operand)
            values.append(value)
        return values, operands

    def _path(self, operations: str) -> tuple[tuple[int, ...], tuple[_Moves, ...]]:
        """The numbers to start from with which all of `operations` can be done, and the moves of each."""
        if operations not in self._paths:
            tables = tuple(self._moves(operations[index:]) for index in range(len(operations)))
            self._paths[operations] = tuple(value for value in tables[0] if value >= 2), tables
        return self._paths[operations]

    def _moves(self, operations: str) -> _Moves:
        """The ways to do the first operation after which the others can still be done."""
        if operations not in self._tables:
            rest = operations[1:]
            after = self._moves(rest) if rest else None
            table: _Moves = {}
            for value in range(1, self._largest + 1):
                results = [
                    (operand, _apply(value, operations[0], operand))
                    for operand in self._possible(value, operations[0])
                ]
                moves = tuple(move for move in results if after is None or move[1] in after)
                if moves:
                    table[value] = moves
            self._tables[operations] = table
        return self._tables[operations]

    def _possible(self, value: int, operation: str) -> list[int]:
        """The operands that keep the result whole, in range, and worth computing (never 0, never n / n)."""
        if operation == "+":
            return list(range(1, min(self._largest_addend, self._largest - value) + 1))
        if operation == "-":
            return list(range(1, min(self._largest_addend, value - 1) + 1))
        if operation == "*":
            return [factor for factor in self._factors if value * factor <= self._largest]
        if operation == "c":
            return [whole for whole in self._complements if 0 < whole - value <= self._largest]
        return [factor for factor in self._factors if value % factor == 0 and value > factor]


def _apply(value: int, operation: str, operand: int) -> int:
    """The result of one step. Division is exact for every chain that is drawn."""
    if operation == "+":
        return value + operand
    if operation == "-":
        return value - operand
    if operation == "c":
        return operand - value
    return value * operand if operation == "*" else value // operand


def _tell(chain: Chain, rng: random.Random, *, reworded: bool) -> str:
    """Put a chain into words."""
    scenario: Scenario = rng.choice(SCENARIOS)
    wording = scenario.reworded if reworded else scenario.trained
    person = rng.choice(PEOPLE)
    words = {
        "name": person.name,
        "she": person.subject,
        "She": person.subject.capitalize(),
        "her": person.object,
        "hers": person.possessive,
        "thing": rng.choice(scenario.things),
    }
    sentences = [rng.choice(wording.openings).format(**words)]
    told = ""
    for day, operation, operand in zip(DAYS, chain.operations, chain.operands, strict=False):
        # The same phrase twice running reads badly, so the one just used is left out.
        phrase = rng.choice([phrase for phrase in wording.operations[operation] if phrase != told])
        unit = scenario.unit[0] if operand == 1 else scenario.unit[1]
        sentence = phrase.format(k=operand, amount=f"{operand} {unit}", **words)
        sentences.append(f"On {day} {sentence[0].lower()}{sentence[1:]}")
        told = phrase
    if wording.asides and rng.random() < _ASIDE_SHARE:
        sentences.insert(rng.randrange(1, len(sentences)), rng.choice(wording.asides).format(**words))
    sentences.append(rng.choice(wording.starts).format(n=chain.start, **words))
    sentences.append(rng.choice(wording.endings).format(**words))
    return " ".join(sentences)
