"""Generated problems of polynomial iteration, as a module, as a source and on the command line."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from typer.testing import CliRunner

from codi.cli import app
from codi.data import polynomial_iteration
from codi.data.chains import chain_of, seen_chains, share_of_chain
from codi.data.example import Example
from codi.data.polynomial_iteration import MODULI, SPLITS, Iteration, IterationStyle, generate
from codi.data.sources import GENERATORS, load_examples
from codi.data.word_tokenizer import build_word_tokenizer
from codi.errors import DataError

STEP = re.compile(r"<<(\d+)\*(\d+)\+(\d+)=(\d+)>>")
FIRST_50 = "230c589a978ed2acf718b7d8017f86c6cf1728196dd882afecab0b1d21173ca8"


@cache
def problems(split: str, seed: int = 1) -> tuple[Example, ...]:
    return tuple(generate(split, 500, seed))


def numbers(example: Example) -> list[int]:
    """The numbers of the question: addend, modulus, the cards, the score to start from."""
    return [int(number) for number in re.findall(r"\d+", example.question)]


def test_same_seed_gives_the_same_bytes_on_every_machine() -> None:
    text = json.dumps([dataclasses.asdict(example) for split in SPLITS for example in generate(split, 50)])
    assert hashlib.sha256(text.encode()).hexdigest() == FIRST_50


def test_a_larger_count_begins_with_the_smaller_one_and_seeds_differ() -> None:
    assert generate("train", 100)[:20] == generate("train", 20)
    assert {e.question for e in problems("train")} != {e.question for e in problems("train", 2)}
    assert [e.id for e in generate("train", 2, seed=7)] == ["train-7-0", "train-7-1"]


def test_the_example_of_the_docstring() -> None:
    iteration = Iteration(start=10, cards=(5, 3), addend=4, modulus=11)
    assert iteration.values() == (10, 10, 1)
    assert iteration.question() in " ".join((polynomial_iteration.__doc__ or "").split())
    assert " ".join(iteration.steps()) in (polynomial_iteration.__doc__ or "")


@pytest.mark.parametrize("split", SPLITS)
def test_every_equation_is_true_and_the_last_result_is_the_answer(split: str) -> None:
    """By the question alone: each step takes the next card and the score before it."""
    for example in problems(split):
        addend, modulus, *cards, score = numbers(example)
        assert len(example.steps) == len(cards)
        for step, card in zip(example.steps, cards, strict=True):
            found = STEP.fullmatch(step)
            assert found, step
            assert [int(part) for part in found.groups()[:3]] == [score, card, addend]
            score = (score * card + addend) % modulus
            assert int(found[4]) == score
        assert example.answer == str(score)


@pytest.mark.parametrize("split", SPLITS)
def test_no_number_drops_out_of_play(split: str) -> None:
    for example in problems(split):
        addend, modulus, *cards, start = numbers(example)
        assert modulus == 11
        assert 1 <= addend <= 10
        assert 1 <= start <= 10
        assert all(2 <= card <= 10 for card in cards)
        # Invertible: other scores before a turn give other scores after it.
        assert all(len({(s * card + addend) % modulus for s in range(modulus)}) == modulus for card in cards)


def test_splits_share_no_question_whatever_the_seed_and_none_occurs_twice() -> None:
    known = {}
    for split in SPLITS:
        for seed in (1, 2):
            assert len({e.question for e in problems(split, seed)}) == 500
        known[split] = {e.question for seed in (1, 2) for e in problems(split, seed)}
        assert {share_of_chain(chain_of(e)) for e in problems(split)} == {split}
    assert not known["train"] & known["validation"]
    assert not known["test"] & (known["train"] | known["validation"])


@pytest.mark.parametrize("split", SPLITS[1:])
def test_no_chain_of_another_split_stands_in_training(split: str) -> None:
    for seed in (1, 2, 11):
        training = generate("train", 3_000, seed) + generate("train", 1_000, seed, IterationStyle(2, 3, 13))
        assert seen_chains(problems(split, seed), training).seen == 0


def test_hops_and_answers_are_even() -> None:
    hops = Counter(len(example.steps) for example in problems("train"))
    assert set(hops) == {2, 3, 4, 5, 6}
    assert all(60 < count < 140 for count in hops.values())  # 100 each, four standard deviations
    answers = Counter(example.answer for example in problems("train"))
    assert set(answers) == {str(n) for n in range(11)}
    assert max(answers.values()) < 80


def test_a_style_changes_hops_and_modulus() -> None:
    made = generate("test", 100, style=IterationStyle(7, 8, 19))
    assert {len(example.steps) for example in made} == {7, 8}
    assert {numbers(example)[1] for example in made} == {19}
    assert "The card is" in generate("test", 1, style=IterationStyle(1, 1))[0].question


@pytest.mark.parametrize("modulus", MODULI)
def test_the_word_tokenizer_knows_every_token_and_the_tiny_model_has_room(modulus: int) -> None:
    tokenizer = build_word_tokenizer()
    for example in generate("train", 200, style=IterationStyle(3, 6, modulus)):
        text = " ".join([example.question, *example.steps, example.answer])
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert len(ids) <= 120  # the recipe's model takes 160


@pytest.mark.parametrize(
    ("style", "message"),
    [
        ((0, 3), "hops are 0 to 3"),
        ((4, 2), "hops are 4 to 2"),
        ((2, 6, 9), "the modulus is 9; it must be one of 5, 7, 11"),
        ((2, 6, 23), "the modulus is 23"),
    ],
)
def test_a_style_that_cannot_be_is_refused(style: tuple[int, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        IterationStyle(*style)


def test_what_cannot_be_generated_is_refused() -> None:
    with pytest.raises(DataError, match="Did you mean 'validation'"):
        generate("validatoin", 1)
    with pytest.raises(DataError, match="-1 problems"):
        generate("train", -1)
    two_hops_modulo_5 = IterationStyle(2, 2, 5)
    everything = 3 * 3 * 4 * 4  # cards, addends, starts
    made = [len(_all_of(split, two_hops_modulo_5)) for split in SPLITS]
    assert sum(made) == everything
    with pytest.raises(
        DataError,
        match=rf"after {made[2]} no new one with 2 hops and modulus 5.*{made[2]} chains.*Ask for fewer",
    ):
        generate("test", everything, style=two_hops_modulo_5)


def _all_of(split: str, style: IterationStyle) -> list[Example]:
    """Every problem of a split: as many as can be asked for."""
    for count in range(1, 1000):
        try:
            made = generate(split, count, style=style)
        except DataError:
            return made
    raise AssertionError("the style has more problems than thought")


# As a source


def test_source_options() -> None:
    examples, report = load_examples("polynomial-iteration?seed=2&count=5&hops=3-4&modulus=7", split="test")
    assert examples == generate("test", 5, 2, IterationStyle(3, 4, 7))
    assert (report.read, report.kept, report.dropped) == (5, 5, {})
    four, _ = load_examples("polynomial-iteration?count=20&hops=4")
    assert {len(example.steps) for example in four} == {4}
    both, _ = load_examples("polynomial-iteration?count=2", split="test+validation")
    assert both == generate("test", 2) + generate("validation", 2)


def test_source_default_counts() -> None:
    assert len(load_examples("polynomial-iteration")[0]) == 20_000
    assert len(load_examples("polynomial-iteration", split="test")[0]) == 1_000


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("polynomial-iteration?hop=2", r"unknown option 'hop'\. Did you mean 'hops'\? Options: seed"),
        ("polynomial-iteration?steps=2", r"unknown option 'steps'.*Options: seed, .*, hops, modulus\."),
        ("word-problems?hops=2", r"unknown option 'hops'.*Options: seed, count, version, steps\."),
        ("polynomial-iteration?hops=two", "hops must be a whole number of at least 1, got 'two'"),
        ("polynomial-iteration?hops=2-", "hops must be a whole number of at least 1, got ''"),
        ("polynomial-iteration?hops=0-3", "hops must be a whole number of at least 1, got '0'"),
        ("polynomial-iteration?hops=4-3", "hops are 4 to 3"),
        ("polynomial-iteration?count=0", "count must be a whole number of at least 1, got '0'"),
        ("polynomial-iteration?modulus=10", "the modulus is 10"),
        ("polynomial-iteration?version=1", "asks for version 1 .*, and this codi makes version 2"),
        ("word-problems?version=3", "asks for version 3 of these problems"),
        ("polynomial-iteratio", r"Did you mean 'polynomial-iteration'\?"),
    ],
)
def test_source_errors(source: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_examples(source)


def test_command_line(tmp_path: Path) -> None:
    def run(*words: str) -> str:
        result = CliRunner().invoke(app, ["data", *words])
        assert result.exit_code == 0, result.output
        return result.output

    for name in GENERATORS.keys() - {"word-problems"}:
        assert name in run("--list")
    path = tmp_path / "x.jsonl"
    run("polynomial-iteration?hops=4&count=9", "--split", "test", "--output", str(path))
    assert load_examples(str(path))[0] == generate("test", 9, style=IterationStyle(4, 4))
    run("polynomial-iteration", "--count", "3", "--seed", "5", "--output", str(path), "--overwrite")
    assert load_examples(str(path))[0] == generate("train", 3, 5)
