"""The small scale's problems: two people, a step each, then their sum or difference."""

from __future__ import annotations

import re
from functools import cache

import pytest

from codi.data.example import Example
from codi.data.sources import load_examples
from codi.data.two_branches import (
    MOST,
    OTHER_VERBS,
    SPLITS,
    VERBS,
    BranchStyle,
    generate,
)
from codi.data.word_tokenizer import build_branches_tokenizer
from codi.errors import DataError

STEP = re.compile(r"<<(\d+)([-+*/])(\d+)=(\d+)>>")
PROBLEMS = tuple(split for split in SPLITS if split != "pretraining")


@cache
def problems(split: str, seed: int = 1) -> tuple[Example, ...]:
    return tuple(generate(split, 300, seed))


def parsed(step: str) -> tuple[int, str, int, int]:
    found = STEP.fullmatch(step)
    assert found, step
    return int(found[1]), found[2], int(found[3]), int(found[4])


def equations_of(example: Example) -> tuple[str, frozenset[int], frozenset[str]]:
    """The equations of a problem, whichever person comes first."""
    *steps, last = example.steps
    left, sign, right, _ = parsed(last)
    return sign, frozenset((left, right)), frozenset(steps)


@pytest.mark.parametrize("split", PROBLEMS)
def test_every_equation_is_true_and_the_last_joins_both_branches(split: str) -> None:
    for example in problems(split):
        results = []
        for step in example.steps:
            left, sign, right, result = parsed(step)
            assert (
                result == {"+": left + right, "-": left - right, "*": left * right, "/": left / right}[sign]
            )
            results.append(result)
        assert str(results[-1]) == example.answer
        first, sign, second, _ = parsed(example.steps[-1])
        starts = [int(number) for number in re.findall(r"starts (\d+)", example.question)]
        assert {first, second} <= {*results[:-1], *starts}
        assert example.question.endswith("together?" if sign == "+" else "difference?")
        assert 1 <= results[-1] <= MOST


def test_the_state_before_the_answer_needs_both_results() -> None:
    """Neither branch gives the answer away: to one result there are many answers."""
    answers: dict[int, set[str]] = {}
    for example in generate("train", 2000):
        answers.setdefault(parsed(example.steps[0])[3], set()).add(example.answer)
    assert sum(len(found) > 10 for found in answers.values()) >= 25


def test_no_chain_of_one_split_stands_in_another_whatever_the_seed() -> None:
    chains = {
        split: {equations_of(example) for seed in (1, 2) for example in generate(split, 1000, seed)}
        for split in ("train", "validation", "test", "reworded")
    }
    assert not chains["train"] & (chains["validation"] | chains["test"] | chains["reworded"])
    assert not chains["validation"] & (chains["test"] | chains["reworded"])
    held_out = {equations_of(example) for example in problems("shorter_chains")}
    pretrained = {
        equations_of(example) for example in generate("pretraining", 5000) if len(example.steps) == 2
    }
    assert pretrained
    assert not pretrained & held_out


def test_no_two_problems_have_the_same_equations() -> None:
    for split in ("train", "test", "larger_numbers"):
        keys = [equations_of(example) for example in problems(split)]
        assert len(set(keys)) == len(keys)


def test_the_base_never_sees_two_steps_and_their_joining() -> None:
    """Not written, and not asked for: that is what fine-tuning teaches."""
    for example in generate("pretraining", 5000):
        if example.question.endswith(("together?", "difference?")):
            told = re.findall(r"\b[a-z]+ \d+\.", example.question)
            assert sum(not sentence.startswith("starts") for sentence in told) <= 1
            assert len(example.steps) <= 2


def test_other_splits_are_what_they_say() -> None:
    usual = {verb for verbs in VERBS.values() for verb in verbs}
    others = {verb for verbs in OTHER_VERBS.values() for verb in verbs}
    for split, allowed in (
        ("train", usual),
        ("test", usual),
        ("reworded", others),
        ("shorter_chains", others),
    ):
        for example in problems(split):
            verbs = set(re.findall(r"\b([a-z]+) \d", example.question)) - {"starts"}
            assert verbs <= allowed
    assert all(len(example.steps) == 2 for example in problems("shorter_chains"))
    assert {len(example.steps) for example in problems("longer_chains")} == {4, 5}
    for example in problems("larger_numbers"):
        assert max(parsed(step)[3] for step in example.steps[:2]) > 30
    for example in problems("test"):
        assert max(parsed(step)[3] for step in example.steps[:2]) <= 30


def test_the_same_arguments_give_the_same_problems_and_a_larger_count_begins_with_them() -> None:
    assert generate("train", 50, 3) == generate("train", 200, 3)[:50]
    assert generate("train", 50, 3) != generate("train", 50, 4)
    assert generate("pretraining", 50) == generate("pretraining", 80)[:50]


@pytest.mark.parametrize("split", SPLITS)
def test_the_tokenizer_knows_every_word(split: str) -> None:
    tokenizer = build_branches_tokenizer()
    for example in problems(split):
        text = " ".join([example.question, *example.steps, f"The answer is: {example.answer}"])
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids).replace(" ", "") == text.replace(" ", "")


def test_too_few_problems_says_how_many_there_are() -> None:
    with pytest.raises(DataError, match=r"100000 distinct 'test' .* there are 341\. Ask for fewer"):
        generate("test", 100_000, style=BranchStyle(largest=8))
    every = generate("test", 341, style=BranchStyle(largest=8))
    assert len({equations_of(example) for example in every}) == 341


def test_as_a_source() -> None:
    examples, report = load_examples("two-branches?seed=2&count=7", split="validation")
    assert examples == generate("validation", 7, 2)
    assert report.read == 7
    with pytest.raises(DataError, match="largest value of a branch is 40; it must lie between 6 and 30"):
        load_examples("two-branches?largest=40")
    with pytest.raises(DataError, match=r"no split 'tset'. Did you mean 'test'"):
        load_examples("two-branches", split="tset")


def test_shorter_problems_are_mixed_in_and_held_out_alike() -> None:
    def whole(example: Example) -> tuple[object, int]:
        return equations_of(example), len(example.steps)  # both branches may have the same step

    mixed = BranchStyle(shorter=20)
    made = {split: generate(split, 1000, 1, mixed) for split in ("train", "validation", "test", "reworded")}
    for split, examples in made.items():
        assert 150 <= sum(len(example.steps) == 2 for example in examples) <= 250, split
        assert len({whole(example) for example in examples}) == 1000
    chains = {split: {whole(example) for example in examples} for split, examples in made.items()}
    held_out = {whole(example) for example in problems("shorter_chains")}
    assert not chains["train"] & (chains["validation"] | chains["test"] | chains["reworded"] | held_out)
    assert generate("larger_numbers", 50, 1, mixed) == generate("larger_numbers", 50)
    source = "two-branches?count=1000&shorter=20"
    assert load_examples(source, split="train")[0] == made["train"]
    assert load_examples("two-branches?count=50&shorter=0", split="train")[0] == generate("train", 50)
    with pytest.raises(DataError, match=r"101 % of the problems .* ask for 0 to 100"):
        load_examples("two-branches?shorter=101", split="train")
