"""Splitting rationales: decimals and abbreviations survive, published rules to the letter."""

from __future__ import annotations

import pytest

from codi.data.steps import STEPS_RULES, split_steps
from codi.errors import UsageError


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("<<7+5=12>> <<12*2=24>>", ("<<7+5=12>>", "<<12*2=24>>")),
        ("<<7+5=12>><<12*2=24>>", ("<<7+5=12>>", "<<12*2=24>>")),
        ("<<7 + 5 = 12>>\n<<12*.5=6>>", ("<<7 + 5 = 12>>", "<<12*.5=6>>")),
        ("", ()),
        (" \n ", ()),
        ("X=((32.0+42.0)-35.0)", ("X=((32.0+42.0)-35.0)",)),
        ("( 76.0 - 25.0 )", ("( 76.0 - 25.0 )",)),
        ("He has 3 left. He buys 2.", ("He has 3 left.", "He buys 2.")),
        ("Each costs 3.5 dollars. Two cost 7.0.", ("Each costs 3.5 dollars.", "Two cost 7.0.")),
        ("It costs $4.50. She pays $5.00.", ("It costs $4.50.", "She pays $5.00.")),
        ("It grows .5 inches. Then 2/.5 = 4.", ("It grows .5 inches.", "Then 2/.5 = 4.")),
        ("Mr. Lee met Mrs. Hu. Dr. Wu left.", ("Mr. Lee met Mrs. Hu.", "Dr. Wu left.")),
        ("He did one more rep. Then he ate a fig. He slept.",
         ("He did one more rep.", "Then he ate a fig.", "He slept.")),
        ("Fruit, e.g. Apples, i.e. 5. So 5.", ("Fruit, e.g. Apples, i.e. 5.", "So 5.")),
        ("The U.S. Army has 5. So 5.", ("The U.S. Army has 5.", "So 5.")),
        ("She lives in the U.S. She has 3.", ("She lives in the U.S.", "She has 3.")),
        ("John F. Kennedy had 2. He lost 1.", ("John F. Kennedy had 2.", "He lost 1.")),
        ("The answer is B. Therefore B.", ("The answer is B.", "Therefore B.")),
        ("At 5 p.m. she left. At 6 p.m. She returned.",
         ("At 5 p.m. she left.", "At 6 p.m.", "She returned.")),
        ("It is 12 ft. long, 5 lb. 3 oz. heavy. Good.", ("It is 12 ft. long, 5 lb. 3 oz. heavy.", "Good.")),
        ("Pens, etc. cost 5. See No. 5. It is right.", ("Pens, etc. cost 5.", "See No. 5.", "It is right.")),
        ("Count 1, 2, ... 10. So 10.", ("Count 1, 2, ... 10.", "So 10.")),
        ("Well... he has 5... So 5.", ("Well... he has 5...", "So 5.")),
        ("Well… he has 5… So 5.", ("Well… he has 5…", "So 5.")),
        ('"How many?" he asked. She said "Five." Then 5.',
         ('"How many?" he asked.', 'She said "Five."', "Then 5.")),
        ("How many? 5! Yes.", ("How many?", "5!", "Yes.")),
        ("We know 5! = 120. So 120.", ("We know 5! = 120.", "So 120.")),
        ("1. Add 2 and 3. 2. Double 5.", ("1. Add 2 and 3.", "2. Double 5.")),
        ("Step 1. Add 2. Step 2. Double.", ("Step 1. Add 2.", "Step 2. Double.")),
        ("x = 5. y = 3.", ("x = 5.", "y = 3.")),
        ("It is 5. $3 is left. <<2+3=5>>5 in all.", ("It is 5.", "$3 is left.", "<<2+3=5>>5 in all.")),
        ("In May: 48/2 = <<48/2=24>>24 clips. Mr. X.\nIn all: <<48+24=72>>72.\r\n",
         ("In May: 48/2 = <<48/2=24>>24 clips. Mr. X.", "In all: <<48+24=72>>72.")),
        ("No full stop", ("No full stop",)),
    ],
)  # fmt: skip
def test_auto(text: str, steps: tuple[str, ...]) -> None:
    assert split_steps(text) == steps
    # Nothing is lost but white space.
    assert "".join("".join(steps).split()) == "".join(text.split())


def test_equations_are_taken_out_of_text_when_asked() -> None:
    assert split_steps("48/2 = <<48/2=24>>24 in May.\nAll: <<48+24=72>>72.", "equations") == (
        "<<48/2=24>>",
        "<<48+24=72>>",
    )
    assert split_steps("No equation here.", "equations") == ()


def test_published_rules_are_literal() -> None:
    assert split_steps("<<1+2=3>> <<3 * 2=6>>", "published-spaces") == ("<<1+2=3>>", "<<3", "*", "2=6>>")
    text = "Mr. Lee has 3.5. He adds 1.  So 4.5."
    steps = split_steps(text, "published-sentences")
    assert steps == ("Mr.", "Lee has 3.5.", "He adds 1.", " So 4.5.")
    assert " ".join(steps) == text
    assert split_steps(" ", "published-spaces") == split_steps("", "published-sentences") == ()


def test_published_sentences_are_the_pieces_of_a_split_at_full_stop_and_space() -> None:
    text = "A has 1. B has 2. . C? D."
    kept = [step.removesuffix(".") for step in split_steps(text, "published-sentences")]
    assert kept == [piece.removesuffix(".") for piece in text.split(". ")]


def test_unknown_rule_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"'sentence'.*Did you mean 'sentences'\?") as raised:
        split_steps("a", "sentence")  # type: ignore[arg-type]
    assert all(rule in str(raised.value) for rule in STEPS_RULES)
