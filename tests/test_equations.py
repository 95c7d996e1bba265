"""Equations read out of steps: the same ones, however the step is written."""

from __future__ import annotations

import random
from fractions import Fraction
from pathlib import Path

import pytest

from codi.data.arithmetic import shown
from codi.data.equations import (
    Equation,
    UnreadableEquation,
    all_equations,
    equations,
    intermediate,
    number_of,
    numbers_in,
)
from codi.data.example import Example
from codi.data.sources import load_examples


def said(step: str) -> list[str]:
    return [equation.said for equation in equations(step)]


def random_equation(draw: random.Random) -> tuple[list[str], Fraction]:
    """Numbers and operators in turn, and what they come to (from left to right, * and / first)."""
    parts = [str(draw.randint(1, 99))]
    for _ in range(draw.randint(1, 3)):
        parts += [draw.choice("+-*/"), str(draw.randint(1, 99))]
    value: Fraction = eval("".join(f"Fraction({p})" if p.isdigit() else p for p in parts))
    return parts, value


STYLES = {
    "annotation": lambda parts, result: f"<<{''.join(parts)}={result}>>",
    "in a sentence": lambda parts, result: (
        f"So he has {' '.join(parts)} = <<{''.join(parts)}={result}>>{result} clips, 5 more."
    ),
    "prose": lambda parts, result: f"In all, that makes {' '.join(parts)} = {result} clips.",
    "no spaces": lambda parts, result: f"He sold {''.join(parts)}={result}.",
    "other signs": lambda parts, result: (
        f"Then {' '.join(parts)} = {result} liters".replace("*", "×").replace("/", "÷").replace("-", "−")
    ),
    "money": lambda parts, result: f"It costs ${' '.join(parts)} = ${result}.".replace("$-", "-$"),
    "units": lambda parts, result: (
        " ".join(f"{part} bags" if part.isdigit() else part for part in parts) + f" = {result} bags"
    ),
}


@pytest.mark.parametrize("style", STYLES)
def test_an_equation_is_the_same_however_it_is_written(style: str) -> None:
    draw = random.Random(style)
    tried = 0
    while tried < 60:
        parts, value = random_equation(draw)
        result = shown(value)
        if result is None or len(result) > 8:
            continue
        tried += 1
        step = STYLES[style](parts, result)
        (found,) = equations(step)
        assert (found.result, found.said) == (value, result), step
        assert found.exact, step
        assert found.expression is not None
        assert found.expression.operands == tuple(Fraction(p) for p in parts if p.isdigit()), step


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ("Half of them: 48/2 = <<48/2=24>>24, and 24+3=<<24+3=27>>27 with hers.", ["24", "27"]),
        ("He earns 5*2=10 on Monday and 3*4=12 on Tuesday.", ["10", "12"]),
        ("16 - 3 - 4 = 13 - 4 = 9 eggs are left.", ["9"]),  # a chain
        ("3*5=15+2=17", ["15", "17"]),  # two run together
        ("The discount is 40% of $1,200 = $480.", ["480"]),
        ("There will be 100 - 50 = 50% left.", ["50"]),
        ("<<20/100=20%>>", ["20"]),
        ("<<35*1/3=11.67=11.67>>", ["11.67"]),
        ("That is 2½ × 4 = 10 hours.", ["10"]),
        ("1 1/2 * 4 = 6", ["6"]),
        ("80 GB / 2 GB/minute = 40 minutes", ["40"]),
        ("2 x 16 = 32 and 2x8=16", ["32", "16"]),
        ("200 - 16 = $184", ["184"]),
        ("5 - 8 = -3", ["-3"]),
        ("5 − 8 = −$3", ["-3"]),
        ("2(3+4)=14", ["14"]),
        ("５ ＋ ３ ＝ ８", ["8"]),
        ("Dividing by 2, d = 20", ["20"]),
        ("c = 20 + d, so 2d = 40", []),  # says something of an unknown, not what it is
        ("Let x be the price.", []),
        ("( 76.0 - 25.0 )", []),
        ("X=((29.0+16.0)-38.0)", []),
        ("", []),
    ],
)
def test_results_of_a_step(step: str, expected: list[str]) -> None:
    assert said(step) == expected


@pytest.mark.parametrize("step", ["<<x=>>", "<<48/2>>", "<<X/2=0.5X>>", "<<>>", "<<3/0=1/0>>"])
def test_an_annotation_without_a_result_is_said(step: str) -> None:
    with pytest.raises(UnreadableEquation):
        equations(step)


def test_nothing_ends_it() -> None:
    """Whatever a step holds: equations, or the one error."""
    draw = random.Random(1)
    letters = "0123456789+-*/=()%$.,^ xX×÷−½²<>ab\n中"
    for _ in range(2000):
        step = "".join(draw.choices(letters, k=draw.randint(0, 40)))
        try:
            found = equations(step)
        except UnreadableEquation:
            continue
        assert all(isinstance(equation, Equation) for equation in found)
    assert equations("2^99999999 = 4")[0].expression is None
    assert equations("(" * 5000 + "1" + ")" * 5000 + "+1 = 2")[0].result == 2


def test_the_answers_equation_is_left_out() -> None:
    def results(*steps: str, answer: str = "72") -> list[str] | None:
        found = intermediate(Example("x", "Q?", steps, answer))
        return None if found is None else [equation.said for equation in found]

    assert results("48/2 = 24", "48+24 = 72") == ["24"]
    assert results("He sold 48/2 = <<48/2=24>>24 and 48+24 = <<48+24=72>>72.") == ["24"]
    assert results("48/2 = 24", "48+24 = 72", "So he sold 72 clips.") == ["24"]
    assert results("She sells the other half.", "48/2 = 24", "Then it is three times that.") == ["24"]
    assert results("48/2 = 24", "24*3 = $72", "#### 72", answer="$72.00") == ["24"]
    assert results("<<12/15=80%>>", answer="80") == []
    assert results("<<48+24=72>>") == []
    assert results() == []


@pytest.mark.parametrize(
    ("steps", "answer"),
    [
        (("<<35+20=55>>", "<<75-55=20>>"), "5"),  # a step is left out
        (("<<6*128=768>>", "<<768/50=15.36>>"), "15"),  # rounded
        (("<<2/8=0.25>>",), "25"),  # dollars, asked for in cents
        (("<<48+24=72>>", "<<72-48=24>>"), "72"),  # a check at the end
        (("<<48+24=72>>", "<<72-48=24>>", "So it is 72."), "72"),
    ],
)
def test_where_the_last_result_is_not_the_answer_nobody_knows(steps: tuple[str, ...], answer: str) -> None:
    assert intermediate(Example("x", "Q?", steps, answer)) is None


def test_numbers_of_a_text() -> None:
    assert number_of("$1,200.50") == Fraction("1200.5")
    assert number_of("20 %") == Fraction(1, 5)
    assert number_of("−3") == -3
    assert number_of("3 apples") is number_of("") is number_of("x") is None
    text = "Three friends had 1,000 stamps, half of them red; a dozen cost $2.50."
    assert numbers_in(text) == [3, 1000, Fraction(1, 2), 12, Fraction("2.5")]
    assert shown(Fraction(7, 2)) == "3.5"
    assert shown(Fraction(1, 3)) is None


def test_computed_anew() -> None:
    (found,) = equations("(3+5)*2 - 50% = 15.5")
    assert found.expression is not None
    assert found.expression.value([Fraction(1), Fraction(2), Fraction(3), Fraction(100)]) == 8
    assert found.expression.value([Fraction(1)] * 4) == Fraction("1.99")
    (found,) = equations("<<8/4=2>>")
    assert found.expression is not None
    assert found.expression.value([Fraction(8), Fraction(0)]) is None


def test_on_gsm8k(shared_data: Path) -> None:
    """The set's own sentences say the results that its annotations say, where both were kept."""
    written, _ = load_examples(str(shared_data / "gsm8k_train.jsonl"), split="train")
    annotated, _ = load_examples(str(shared_data / "gsm8k_train_eq.jsonl"), split="train")
    sentences = {example.question: example for example in written[:600]}
    same = compared = 0
    for example in annotated:
        if example.question in sentences and example.steps:
            theirs = [equation.result for equation in all_equations(example)]
            ours = [equation.result for equation in all_equations(sentences[example.question])]
            compared += 1
            # A sentence may hold more equations than were annotated, never fewer of those.
            rest = iter(ours)
            same += all(result in rest for result in theirs)
    assert compared > 500
    assert same / compared > 0.95
