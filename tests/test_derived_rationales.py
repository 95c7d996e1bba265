"""The rationales of Table A3: intermediate results alone, or with their operators."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from codi.data.derived_rationales import derive
from codi.data.example import Example
from codi.errors import DataError, RecipeError
from codi.training.recipes import load_recipe

PAPERS = Example("x", "Q", ("<<10*2=20>>", "<<1*7=7>>", "<<20+7=27>>", "<<36-27=9>>"), "9")
REAL = Path(__file__).parents[2] / "shared/data/gsm8k_aug_train_first3000.jsonl"


def test_forms_of_the_papers_example() -> None:
    assert derive(PAPERS, "whole") is PAPERS
    assert derive(PAPERS, "results").steps == ("20", "7", "27")
    assert derive(PAPERS, "operators-and-results").steps == ("* 20", "* 7", "+ 27")


@pytest.mark.parametrize(
    ("step", "short"),
    [
        ("<<600*30/100=180>>", "* / 180"),
        ("<<-3+5=2>>", "+ 2"),
        ("<<3--2=5>>", "- 5"),
        ("<<(4+4)*.5=4>>", "+ * 4"),
        ("<<5=5>>", "5"),
        ("<<20%*50=10>>", "* 10"),
    ],
)
def test_operators_are_told_from_signs(step: str, short: str) -> None:
    assert derive(Example("x", "Q", (step, "<<1+1=2>>"), "2"), "operators-and-results").steps == (short,)


def test_one_step_leaves_no_rationale() -> None:
    assert derive(Example("x", "Q", ("<<1+1=2>>",), "2"), "results").steps == ()


def test_what_has_no_equation_is_named() -> None:
    with pytest.raises(DataError, match=r"'x': the step 'He adds two\.' is not one equation"):
        derive(Example("x", "Q", ("He adds two.", "<<1+1=2>>"), "2"), "results")
    with pytest.raises(RecipeError, match="whole, results, operators-and-results"):
        load_recipe("word-problems", ["data.rationale_form=short"])


@pytest.mark.skipif(not REAL.exists(), reason="the real data are not here")
def test_real_rows_have_both_forms() -> None:
    for line in REAL.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        example = Example("x", row["question"], tuple(row["cot"]), row["answer"])
        results = derive(example, "results").steps
        both = derive(example, "operators-and-results").steps
        assert [step.split()[-1] for step in both] == [result.split()[-1] for result in results]
        assert len(results) == max(0, len(example.steps) - 1)
