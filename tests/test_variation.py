"""Problems with other numbers: what may vary, what must not, and that every step stays true."""

from __future__ import annotations

import json
import random
import re
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from codi.cli import app
from codi.data.example import Example
from codi.data.problem_steps import NotVariable
from codi.data.problem_template import template
from codi.data.quantities import decimal_text, mentions, spelled_out
from codi.data.sources import folded, load_examples
from codi.data.variation import VariationReport, variants, vary


def problem(question: str, steps: str, answer: str = "") -> Example:
    equations = tuple(steps.split())
    return Example("p", question, equations, answer or equations[-1].rstrip(">").rpartition("=")[2])


BREAD = problem(
    "A bakery sells 12 loaves at $3 each and half as many cakes at $8 each. How much does it take?",
    "<<12*3=36>> <<12/2=6>> <<6*8=48>> <<36+48=84>>",
)


def made(example: Example, times: int = 20, seed: int = 1) -> list[Example]:
    return list(variants(template(example), times, random.Random(seed)))


def value(equation: str) -> tuple[Fraction, Fraction]:
    """Both sides, computed by Python itself."""
    left, right = equation.strip("<>").split("=")
    exact = re.sub(r"\d*\.?\d+", lambda number: f"Fraction('{number.group()}')", left)
    return eval(exact, {"Fraction": Fraction}), Fraction(right)


def numbers(text: str) -> list[Fraction]:
    return [mention.value for mention in mentions(text)]


def test_wording_stays_and_every_equation_is_true() -> None:
    found = made(BREAD)
    assert len(found) == 20
    assert len({variant.question for variant in found}) == 20
    for variant in found:
        loaves, loaf, cake = numbers(variant.question)
        assert variant.question == (
            f"A bakery sells {loaves} loaves at ${loaf} each and half as many cakes at ${cake} each. "
            "How much does it take?"
        )
        assert variant.steps == (
            f"<<{loaves}*{loaf}={loaves * loaf}>>",
            f"<<{loaves}/2={loaves / 2}>>",
            f"<<{loaves / 2}*{cake}={loaves / 2 * cake}>>",
            f"<<{loaves * loaf}+{loaves / 2 * cake}={variant.answer}>>",
        )


@pytest.mark.parametrize(
    ("question", "steps", "pattern"),
    [
        ("Five ducks lay three eggs each. How many eggs?", "<<5*3=15>>", r"\w+ ducks lay \w+ eggs each"),
        ("An 8-inch rope is cut off 30 inches. What is left?", "<<30-8=22>>",
         r"(An (8|11|18)|A (?!8|11|18)\d+)-inch rope is"),
        ("A shirt of $40 is sold at 25% off. And now?", "<<40*.25=10>> <<40-10=30>>", r"\d[05]?% off"),
        ("A shirt of $40 is sold at 25% off. What is it now?", "<<100-25=75>> <<40*0.75=30>>", r"% off"),
        ("Pens cost $1.50 each. What do 4 pens cost?", "<<4*1.5=6>>", r"\$\d+\.\d\d each"),
        ("A town of 12,000 people grows by 3,000. How many now?", "<<12000+3000=15000>>", r"\d+,000 people"),
    ],
)  # fmt: skip
def test_numbers_are_written_as_the_problem_writes_them(question: str, steps: str, pattern: str) -> None:
    found = made(problem(question, steps))
    assert found
    for variant in found:
        assert re.search(pattern, variant.question), variant.question
        for step in variant.steps:
            left, right = value(step)
            assert left == right


@pytest.mark.parametrize(
    ("question", "steps", "kept"),
    [
        ("Ana has twice as many as the 9 of Bo. How many?", "<<9*2=18>>", "twice as many"),
        ("Ana works 6 hours on the 7 days of a week. And in all?", "<<6*7=42>>", "the 7 days of a week"),
        ("In 1998 a tree of 3 meters grew 2 meters. How tall?", "<<3+2=5>>", "In 1998"),
        ("At 8 a.m. 12 buses leave, 5 more at noon. How many?", "<<12+5=17>>", "At 8 a.m."),
        ("1 pound is 453.6 grams. How many are 3 cans of 2 pounds?", "<<3*2=6>> <<6*453.6=2721.6>>",
         "is 453.6 grams"),
        ("2/3 of the 18 cats sleep. How many?", "<<18*2/3=12>>", "2/3 of"),
        ("Three boxes: the first has 9 pens, the second 4, the third 6. How many pens?", "<<9+4+6=19>>",
         "Three boxes"),
    ],
)  # fmt: skip
def test_what_is_no_quantity_stays(question: str, steps: str, kept: str) -> None:
    found = made(problem(question, steps))
    assert found
    assert all(kept in variant.question for variant in found)


def test_results_keep_their_kind() -> None:
    example = problem("12 apples are shared by 4 children. How many each?", "<<12/4=3>>")
    assert all(Fraction(variant.answer).denominator == 1 for variant in made(example))
    left = problem("Of 30 birds 11 fly away. How many stay?", "<<30-11=19>>")
    for variant in made(left):
        birds, away = numbers(variant.question)
        assert 0 < Fraction(variant.answer) < birds
        assert away < birds


def test_rounded_results_become_exact_ones() -> None:
    example = problem("20 litres are shared by 3 families. How much each?", "<<20/3=6.67>>")
    for variant in made(example):
        left, right = value(variant.steps[0])
        assert left == right
        assert right.denominator in (2, 4, 5, 10, 20, 25, 50, 100)


def test_shares_stay_within_a_whole() -> None:
    example = problem(
        "Of 200 cars 30% are red, 50% are blue and the rest white. How many are white?",
        "<<100-30-50=20>> <<200*.2=40>>",
    )
    for variant in made(example):
        _, red, blue = numbers(variant.question)
        assert red + blue < 100


def test_days_of_a_week_and_hours_of_a_day() -> None:
    example = problem("Eva swims 5 days a week, 2 hours a day. How long in a week?", "<<5*2=10>>")
    found = [numbers(variant.question) for variant in made(example)]
    assert all(days <= 7 and hours <= 24 for days, hours in found)


def test_a_number_that_stands_twice_stays_the_same_one() -> None:
    example = problem(
        "Tim buys a 6 pound bag at $4 and a 6 pound box at $5 a pound. Cost?",
        "<<6*4=24>> <<6*5=30>> <<24+30=54>>",
    )
    for variant in made(example):
        bag, _, box, _ = numbers(variant.question)
        assert bag == box


@pytest.mark.parametrize(
    ("question", "steps", "answer", "reason"),
    [
        ("What is it?", "", "5", "without steps"),
        ("Two of 5 and 4?", "<<5+4=9>>", "10", "the last step is not the answer"),
        ("Half of 5 and 4?", "<<5+4=8>>", "8", "not true"),
        ("20 litres at 3 a minute?", "<<20/3=6.76>>", "6.76", "not true"),
        ("5 and 5 more are 5?", "<<5-5=0>>", "0", "above 0"),
        ("A price of $350 for 3?", "<<350-90=260>>", "260", "stands nowhere"),
        ("4 men and 9 women", "<<4+9=13>> <<9-4=5>>", "5", "no later step uses"),
        ("6 rows of 8, some are broken", "<<6*8=48>> <<48-x=4>>", "4", "not one equation"),
        ("James makes 4 hats of a yard and needs 3 yards a cloak. What do 6 cloaks and 12 hats need?",
         "<<12/4=3>> <<6*3=18>> <<3+18=21>>", "21", "two things"),
        ("He has 30 minutes. She is 15 minutes late and fills 4 a minute, he 7.",
         "<<7*30=210>> <<4*15=60>> <<210+60=270>>", "270", "two things"),
    ],
)  # fmt: skip
def test_what_could_be_misread_is_left_alone(question: str, steps: str, answer: str, reason: str) -> None:
    example = Example("p", question, tuple(steps.split()), answer)
    with pytest.raises(NotVariable, match=reason):
        template(example)


def test_steps_without_brackets_and_with_other_signs() -> None:
    example = Example("p", "6 boxes of 9 pens, 4 pens lost. How many?", ("6 × 9 = 54", "54 − 4 = 50"), "50")
    variant = made(example)[0]
    boxes, pens, lost = numbers(variant.question)
    assert variant.steps == (f"{boxes}*{pens}={boxes * pens}", f"{boxes * pens}-{lost}={variant.answer}")


def test_a_problem_gives_the_same_variants_whatever_stands_beside_it() -> None:
    other = problem("Of 30 birds 11 fly away. How many stay?", "<<30-11=19>>")
    alone = list(vary([BREAD], 5, 3, set(), VariationReport(), processes=1))
    beside = list(vary([other, BREAD], 5, 3, set(), VariationReport(), processes=1))
    assert alone[0] == beside[1]
    assert alone[0] != next(iter(vary([BREAD], 5, 4, set(), VariationReport(), processes=1)))


def test_several_processes_write_what_one_does() -> None:
    examples = [
        problem(f"Of {birds} birds 11 fly away. How many stay?", f"<<{birds}-11={birds - 11}>>")
        for birds in range(20, 160)
    ]
    one = list(vary(examples, 3, 1, set(), VariationReport(), processes=1))
    assert list(vary(examples, 3, 1, set(), VariationReport(), processes=2)) == one


def test_no_variant_is_a_question_that_is_taken() -> None:
    example = problem("Of 30 birds 11 fly away. How many stay?", "<<30-11=19>>")
    free = next(iter(vary([example], 6, 1, set(), VariationReport(), processes=1)))
    taken = {folded(free[0].question), folded(free[3].question)}
    report = VariationReport()
    left = next(iter(vary([example], 6, 1, taken, report, processes=1)))
    assert report.excluded == 2
    assert not taken & {folded(variant.question) for variant in left}


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 400), st.integers(2, 60), st.integers(2, 9), st.integers(0, 2**31))
def test_whatever_varies_is_true_and_ends_in_its_answer(a: int, b: int, c: int, seed: int) -> None:
    total = a * c + b
    steps = (f"<<{a}*{c}={a * c}>>", f"<<{a * c}+{b}={total}>>")
    example = Example("p", f"{a} bags of {c} nuts and {b} more. How many?", steps, str(total))
    try:
        found = made(example, times=3, seed=seed)
    except NotVariable:
        return
    for variant in found:
        assert all(left == right for left, right in map(value, variant.steps))
        assert value(variant.steps[-1])[1] == Fraction(variant.answer)
        bags, nuts, more = numbers(variant.question)
        assert bags * nuts + more == Fraction(variant.answer)


@given(st.integers(0, 99))
def test_number_words_are_read_as_they_are_written(number: int) -> None:
    found = mentions(f"She has {spelled_out(number)} pens.")
    assert [mention.value for mention in found] == ([number] if number else [])


@given(st.integers(0, 10**9), st.integers(0, 6))
def test_decimals_are_exact(number: int, places: int) -> None:
    amount = Fraction(number, 10**places)
    assert Fraction(decimal_text(amount)) == amount


# --- the command


def run(*arguments: object) -> tuple[int, str]:
    outcome = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return outcome.exit_code, outcome.output


def test_the_command_writes_problems_and_variants(tmp_path: Path) -> None:
    source, test, out = (tmp_path / name for name in ("train.jsonl", "test.jsonl", "out.jsonl"))
    rows = [
        {"question": BREAD.question, "steps": list(BREAD.steps), "answer": BREAD.answer},
        {"question": "Who?", "steps": ["<<1+1=2>>"], "answer": "2"},
        {"question": "Of 30 birds 11 fly away. How many stay?", "steps": ["<<30-11=19>>"], "answer": "19"},
    ]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    test.write_text(json.dumps({"question": rows[2]["question"], "answer": "19"}) + "\n")
    code, said = run("data", "vary", source, "--output", out, "--times", 4, "--exclude", test)
    assert code == 0, said
    assert "1 problems stand in an excluded set" in said
    assert json.loads(out.with_suffix(".variation.json").read_text())["varied"] == 1
    examples, _ = load_examples(str(out))
    assert [example.question for example in examples[:1]] == [BREAD.question]
    assert len(examples) == 1 + 4 + 1
    assert "no number of the question" in said
    code, said = run("data", "vary", source, "--output", out, "--only-variants", "--times", 2, "--overwrite")
    assert code == 0, said
    assert len(load_examples(str(out))[0]) == 4
    code, said = run("data", "vary", source, "--output", out)
    assert code == 2
    assert "already exists" in said


def test_the_command_says_why_nothing_varies(tmp_path: Path) -> None:
    source = tmp_path / "train.jsonl"
    source.write_text(json.dumps({"question": "Who?", "steps": ["It is Ann."], "answer": "2"}) + "\n")
    code, said = run("data", "vary", source, "--output", tmp_path / "out.jsonl")
    assert code == 2
    assert "a step that is not one equation" in said
    assert not (tmp_path / "out.jsonl").exists()


def test_real_problems(shared_data: Path) -> None:
    examples, _ = load_examples(str(shared_data / "gsm8k_train_eq.jsonl"), limit=400)
    report = VariationReport()
    for variants_of_one in vary(examples, 2, 1, set(), report, processes=1):
        for variant in variants_of_one:
            assert all(left == right for left, right in map(value, variant.steps))
            assert value(variant.steps[-1])[1] == Fraction(variant.answer)
    assert report.varied >= 0.75 * report.read
