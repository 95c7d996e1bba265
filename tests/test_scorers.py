"""The scorer table: what each named rule reads, and what it refuses."""

from __future__ import annotations

import pytest

from codi.data.example import Example
from codi.errors import DataError, UsageError
from codi.evaluation.scorers import SCORERS, check_gold_answers, get_scorer

PARSED = [
    ("codi", "The answer is: 18", "18"),
    ("codi", "<<16-3-4=9>> <<9*2=18>> The answer is: 18", "18"),
    ("codi", "The answer is: 1,234,567", "1234567"),
    ("codi", "= -1,234.5 dollars", "-1234.5"),
    ("codi", "The answer is: -7", "-7"),
    ("codi", "The answer is: 2.50", "2.50"),
    ("codi", "It is 18.", "18."),
    ("codi", "5-3", "-3"),
    ("codi", ".5", "5"),
    ("codi", "no idea", None),
    ("codi", "", None),
    ("codi", "9" * 400, None),
    ("coconut", "<<9*2=18>>\n### 1,018", "1018"),
    ("coconut", "18", "18"),
    ("coconut", "steps ### ", None),
    ("icot", "<<9*2=18>> #### 1,018", "1018"),
    ("icot", " 18 ", "18"),
    ("icot", "steps ####", None),
    ("letter", "He walked. The answer is: B", "B"),
    ("letter", "The answer is:C: mall", "C"),
    ("letter", "The answer is: A or not. The answer is: E", "E"),
    ("letter", " D", "D"),
    ("letter", "D: mall", "D"),
    ("letter", "D.", "D"),
    ("letter", "A revolving door is at a bank", None),
    ("letter", "The answer is: 4", None),
    ("letter", "The answer is: F", None),
    ("letter", "The answer is: b", None),
    ("letter", "The answer is:", None),
    ("letter", "", None),
]


@pytest.mark.parametrize(("scorer", "text", "value"), PARSED)
def test_parse(scorer: str, text: str, value: str | None) -> None:
    assert get_scorer(scorer).parse(text) == value


COMPARED = [
    ("codi", "The answer is: 18", "18", True),
    ("codi", "The answer is: 18.00", "18", True),
    ("codi", "The answer is: 1,000", "1000", True),
    ("codi", "The answer is: 1000", "1,000", True),
    ("codi", "The answer is: -9867630", "-9867630.0", True),
    ("codi", "The answer is: 9867630", "-9867630", False),
    ("codi", "18 then 19", "18", False),
    ("codi", "none", "0", False),
    ("codi", "9281234567890", "9281234567890", True),
    # Gold answers of GSM-Hard in scientific notation: the last number of the text would be -06.
    ("codi", "0.0000020107", "2.0107e-06", True),
    ("codi", "-6", "2.0107e-06", False),
    ("coconut", "### 18", "18", True),
    ("coconut", "### 18.0", "18", False),
    ("coconut", "### 1,000", "1,000", True),
    ("icot", "#### 18", "#### 18", True),
    ("icot", "#### 18.0", "18", False),
    ("letter", "The answer is: B", "B", True),
    # The published code would count this one as "C", hence as right.
    ("letter", "The answer is: ?", "C", False),
]


@pytest.mark.parametrize(("scorer", "text", "gold", "right"), COMPARED)
def test_correct(scorer: str, text: str, gold: str, right: bool) -> None:
    assert get_scorer(scorer).correct(text, gold) is right


def test_every_scorer_says_what_it_does() -> None:
    assert set(SCORERS) == {"codi", "coconut", "icot", "letter"}
    for name, scorer in SCORERS.items():
        assert scorer.name == name
        assert scorer.describe


def test_unknown_scorer_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="Did you mean 'coconut'") as caught:
        get_scorer("coconuts")
    assert "letter" in str(caught.value)


@pytest.mark.parametrize(("scorer", "gold"), [("codi", "many"), ("letter", "18"), ("icot", " ")])
def test_gold_the_scorer_cannot_compare_names_the_example(scorer: str, gold: str) -> None:
    good = "A" if scorer == "letter" else "3"
    examples = [
        Example("row-1", "q", (), good),
        Example("row-2", "q", (), gold),
        Example("row-3", "q", (), gold),
    ]
    with pytest.raises(DataError, match="'row-2' \\(and 1 more\\)"):
        check_gold_answers(examples, get_scorer(scorer))
    with pytest.raises(DataError, match="gold answer"):
        get_scorer(scorer).correct("3", gold)
    check_gold_answers(examples[:1], get_scorer(scorer))
