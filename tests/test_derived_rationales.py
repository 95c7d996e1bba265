"""The rationales of Table A3: intermediate results alone, or with their operators."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from codi.data.derived_rationales import derive
from codi.data.example import Example
from codi.errors import DataError, RecipeError
from codi.methods.coconut import Coconut
from codi.methods.codi import Codi
from codi.methods.cot_sft import CotSft
from codi.training.recipes import load_recipe
from codi.training.tokenisation import tokenise
from tiny_models import word_encoder

PAPERS = Example("x", "How many?", ("<<10*2=20>>", "<<1*7=7>>", "<<20+7=27>>", "<<36-27=9>>"), "9")
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


def test_the_last_step_is_left_out_once_whoever_leaves_it_out() -> None:
    """A rationale of n steps gives n - 1 results, to a method that reads all and to CODI's teacher alike."""
    text = word_encoder()
    for form, written in (("results", "20 7 27"), ("operators-and-results", "* 20 * 7 + 27")):
        expected = text.rationale([written]) + text.answer("9").ids
        for method in (CotSft(), CotSft(keep_last_step=False), Codi(), Codi(keep_last_step=True)):
            [row] = tokenise([PAPERS], method, text, form=form).encoded
            assert row["teacher"] == expected, (form, method)
        [row] = tokenise([PAPERS], Coconut(), text, form=form).encoded
        assert row["student"] == expected
        assert len(row["step_ends"]) == 3


def test_a_last_step_in_words_is_no_hindrance() -> None:
    words = Example("x", "Q", ("<<1+1=2>>", "So he has 2."), "2")
    assert derive(words, "results").steps == ("2",)
    assert derive(words, "results", with_last_step=True).steps == ("2", "So he has 2.")


def test_rows_without_equations_can_be_left_out_counted() -> None:
    text, words = word_encoder(), Example("y", "How many?", ("He adds two.", "<<1+1=2>>"), "2")
    with pytest.raises(DataError, match=r"'y'.*data\.skip_bad_rows=true"):
        tokenise([PAPERS, words], Codi(), text, form="results")
    tokens = tokenise([PAPERS, words], Codi(), text, form="results", skip_bad_rows=True)
    assert tokens.ids == ["x"]
    assert tokens.reports[0].dropped == {"step that is not one equation": 1}


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
