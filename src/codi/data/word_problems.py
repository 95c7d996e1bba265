"""Grade-school word problems in the form of GSM8k-Aug, generated: the data that needs no download.

    question  Mia collects apples. On Monday she finds 2 more. On Tuesday she has what is missing to 12.
              She starts with 7. How many are there in the end?
    steps     <<7+2=9>> <<12-9=3>>              every step goes on from the result of the step before
    answer    3

The number a problem starts from is told after its steps. Were it told first, every sentence could carry the
value on while the question is read, side by side with the others, and a model that answers at once would
follow several steps in one pass; told last, the steps are waiting when the value comes.

A problem is a **chain** of equations told in words. From two steps up whole chains are held out: the SHA-256
of the equations, and nothing else, says which split may use them (8 in 10 train, 1 validation, 1 test; see
`codi.data.chains`), so that a test problem's chain stands in no training problem, whatever the seeds, the
wording or the style. Of one step there are too few chains (each is one fact that must be learnt): there the
question's text decides, and no two splits share a question.

Besides sums (+ -) and products (* /) there are complements: "she has what is missing to 12" (<<12-7=5>>).
With sums and products alone a chain is one long product and one long sum, which two layers learn to do in one
pass without following the chain. A complement turns the sign of all that came before it, and gives nothing to
a guess: every result is as likely as the value before it.

Four further splits stand for the paper's out-of-domain benchmarks (section 4) or go beyond them. All draw
from the test share, so they are as disjoint from training as the test split is:

    reworded         SVAMP       phrases that training never shows, made of words that it does; some problems
                                 have a sentence that changes nothing
    larger_numbers   GSM-Hard    at least half of the values lie above the usual range
    shorter_chains   MultiArith  easier, as MultiArith is: 2 or 3 steps, in phrases of both wordings
    longer_chains                more steps than any training problem has
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from codi.data.chains import HELD_OUT_FROM, SHARES, share_of_chain, share_of_text
from codi.data.example import Example
from codi.data.word_problem_chains import Chain, ChainSampler, draw_operations
from codi.data.word_problem_wording import DAYS, PEOPLE, SCENARIOS, Scenario, mixed
from codi.errors import DataError, nearest

SPLITS = ("train", "validation", "test", "reworded", "larger_numbers", "shorter_chains", "longer_chains")
"""The names `generate` takes. The last four are out-of-domain."""

_ASIDE_SHARE = 0.5  # of the reworded problems, have a sentence that changes nothing
_MOST_DRAWS = 20_000  # for one problem, before the split is declared exhausted
_DRAWS_PER_OPERATIONS = 50  # of numbers for the same operations: else those with few numbers would be rare
_MIXED = {scenario.name: mixed(scenario) for scenario in SCENARIOS}  # the wording of shorter_chains


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
    shorter_steps: int = 3
    """Most steps of a `shorter_chains` problem; the fewest are 2."""
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
    tail_complements: tuple[int, ...] = (10, 12, 20)
    """The same for tail and `larger_numbers` problems. Without one above `usual_largest` few chains are."""
    complement_weight: float = 0.8
    """How often a step is a complement, against 1 for a sum and 1 for a product."""

    def __post_init__(self) -> None:
        """Raises `DataError` for a style that no problem could satisfy."""
        problem = ""
        wholes = self.complements + self.tail_complements
        if self.usual_largest < 8:
            problem = f"usual_largest is {self.usual_largest}; it must be 8 or more"
        elif self.tail_largest < self.usual_largest:
            problem = f"tail_largest is {self.tail_largest}, below usual_largest {self.usual_largest}"
        elif not 0 <= self.tail_share <= 1:
            problem = f"tail_share is {self.tail_share}; it must lie between 0 and 1"
        elif not self.step_weights or min(self.step_weights) < 0 or sum(self.step_weights) <= 0:
            problem = f"step_weights are {self.step_weights}; they must be 0 or more, and one of them above 0"
        elif self.shorter_steps < HELD_OUT_FROM:
            problem = f"shorter_steps is {self.shorter_steps}; it must be {HELD_OUT_FROM} or more"
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
        elif self.complement_weight < 0 or (
            self.complement_weight and not (self.complements and self.tail_complements)
        ):
            problem = f"complement_weight is {self.complement_weight} for complements {wholes}"
        elif any(not 2 <= whole <= self.tail_largest for whole in wholes):
            problem = (
                f"complements and tail_complements are {self.complements} and {self.tail_complements}; each "
                f"must lie between 2 and tail_largest {self.tail_largest}"
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
    weights = tuple(float(n) for n in range(1, steps + 1))
    shorter = min(DEFAULT_STYLE.shorter_steps, max(HELD_OUT_FROM, steps - 1))
    return ProblemStyle(step_weights=weights, shorter_steps=shorter, longer_steps=steps + 1)


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
    if split == "shorter_chains" and style.shorter_steps >= len(style.step_weights):
        raise DataError(
            f"shorter_chains has up to {style.shorter_steps} steps, and this style's problems have at most "
            f"{len(style.step_weights)}. Ask for a style with more steps."
        )
    # Seeding with text goes through SHA-512 and never through hash(), which differs from run to run.
    problems = _problems(split, count, random.Random(f"word-problems/{split}/{seed}"), style)
    return [
        Example(f"{split}-{seed}-{index}", question, steps, answer)
        for index, (question, steps, answer) in enumerate(problems)
    ]


def _problems(
    split: str, count: int, rng: random.Random, style: ProblemStyle
) -> Iterator[tuple[str, tuple[str, ...], str]]:
    """`count` distinct problems of a split: question, steps and answer."""
    share = split if split in SHARES else "test"
    usual = ChainSampler(style.usual_largest, style.largest_addend, style.factors, style.complements)
    tail = ChainSampler(style.tail_largest, style.tail_largest_addend, style.factors, style.tail_complements)
    lengths = range(1, len(style.step_weights) + 1)
    seen: dict[str, tuple[str, ...]] = {}  # question -> steps
    for index in range(count):
        # The number of steps and the range are drawn once: redraws must not shift their shares.
        length = rng.choices(lengths, style.step_weights)[0]
        in_tail = rng.random() < style.tail_share and style.tail_largest > style.usual_largest
        above = 1 if in_tail else 0
        if split == "larger_numbers":
            above = (length + 2) // 2
        elif split == "shorter_chains":
            length, above = rng.randint(HELD_OUT_FROM, style.shorter_steps), 0
        elif split == "longer_chains":
            length, above = style.longer_steps, 0
        for draw in range(_MOST_DRAWS):
            if draw % _DRAWS_PER_OPERATIONS == 0:
                operations = draw_operations(rng, length, style.complement_weight)
            drawn = (tail if above else usual).draw(rng, operations)
            if drawn is None:
                continue
            values, operands = drawn
            if above and sum(value > style.usual_largest for value in values) < above:
                continue
            steps = Chain(values[0], operations, tuple(operands)).steps()
            held_out = length >= HELD_OUT_FROM
            if held_out and share_of_chain(steps) != share:
                continue
            question = _tell(values[0], operations, operands, rng, split)
            if question not in seen and (held_out or share_of_text(question) == share):
                break
        else:
            chains = len({told for told in seen.values() if len(told) == length})
            raise DataError(
                f"{count:,} distinct '{split}' word problems were asked for; after {index:,} no new one of "
                f"{length} {'step' if length == 1 else 'steps'} was found in {_MOST_DRAWS:,} draws. This "
                f"split has {chains:,} distinct chains of that length. Ask for fewer, or for a style with a "
                "wider range."
            )
        seen[question] = steps
        yield question, steps, str(values[-1])


def _tell(start: int, operations: str, operands: Sequence[int], rng: random.Random, split: str) -> str:
    """Put a chain into words, in the wording of the split."""
    scenario: Scenario = rng.choice(SCENARIOS)
    if split == "shorter_chains":
        wording = _MIXED[scenario.name]
    else:
        wording = scenario.reworded if split == "reworded" else scenario.trained
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
    for day, operation, operand in zip(DAYS, operations, operands, strict=False):
        # The same phrase twice running reads badly, so the one just used is left out.
        phrase = rng.choice([phrase for phrase in wording.operations[operation] if phrase != told])
        unit = scenario.unit[0] if operand == 1 else scenario.unit[1]
        sentence = phrase.format(k=operand, amount=f"{operand} {unit}", **words)
        sentences.append(f"On {day} {sentence[0].lower()}{sentence[1:]}")
        told = phrase
    if wording.asides and rng.random() < _ASIDE_SHARE:
        sentences.insert(rng.randrange(1, len(sentences)), rng.choice(wording.asides).format(**words))
    sentences.append(rng.choice(wording.starts).format(n=start, **words))
    sentences.append(rng.choice(wording.endings).format(**words))
    return " ".join(sentences)
