"""Splitting rationales: decimals and abbreviations survive, published rules to the letter."""

from __future__ import annotations

import pytest

from codi.data.steps import STEPS_RULES, split_steps, without_annotations
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


@pytest.mark.parametrize(
    "text",
    [
        "## Step 1: the rolls\n6*8 = 48 rolls.\n\n## Step 2: what is left\n48-30 = 18 are left.",
        "### Solution\n6*8 = 48 rolls.\n48-30 = 18 are left.",
        "**Step 1**\n6*8 = 48 rolls.\n**Step 2**\n48-30 = 18 are left.",
        "**Step 1: the rolls**\n\n6*8 = 48 rolls.\n\n**Step 2: what is left**\n\n48-30 = 18 are left.",
        "# The rolls\n6*8 = 48 rolls.\n# What is left\n48-30 = 18 are left.",
        "### 1. The rolls\n6*8 = 48 rolls.\n### 2. What is left\n48-30 = 18 are left.",
        "Step 2:\n6*8 = 48 rolls.\n**What is left:**\n48-30 = 18 are left.",
        "A: Let's think step by step.\n6*8 = 48 rolls.\n48-30 = 18 are left.",
        "Let’s think step by step. 6*8 = 48 rolls. 48-30 = 18 are left.",
        "## Step 1: 6*8 = 48 rolls.\n## Step 2: 48-30 = 18 are left.",
    ],
)
def test_headings_are_no_steps_and_belong_to_none(text: str) -> None:
    assert split_steps(text) == ("6*8 = 48 rolls.", "48-30 = 18 are left.")


def test_what_only_looks_like_a_heading_stays() -> None:
    assert split_steps("# of apples: 5\n# of pears: 3") == ("# of apples: 5", "# of pears: 3")
    assert split_steps("## The rolls\n## What is left") == ("## The rolls", "## What is left")
    assert split_steps("Let's think step by step.") == split_steps("A: Let's think step by step.") == ()
    assert split_steps("Let's think: 6*8 = 48.\nSo 48.") == ("Let's think: 6*8 = 48.", "So 48.")
    # Two lines below a heading of a numbered step are one step.
    assert split_steps("## Step 1: x\nSix of 8\nare 48.\n## Step 2: y\n18.") == ("Six of 8 are 48.", "18.")


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


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        # What stands between equations
        ("<<3+4=7>>,<<7*2=14>>", ("<<3+4=7>>", "<<7*2=14>>")),
        ("<<3+4=7>>; <<7*2=14>>\n", ("<<3+4=7>>", "<<7*2=14>>")),
        ("3+4=7, 7*2=14", ("3+4=7", "7*2=14")),
        ("3+4=7,7*2=14", ("3+4=7", "7*2=14")),
        ("3 + 4 = 7; 7 * 2 = 14;", ("3 + 4 = 7", "7 * 2 = 14")),
        ("3+4=7 7*2=14", ("3+4=7", "7*2=14")),
        ("3+4=7\n7*2=14", ("3+4=7", "7*2=14")),
        ("1,500+2,500=4,000, 4,000/2=2,000", ("1,500+2,500=4,000", "4,000/2=2,000")),
        ("($5+$4)*2=$18, 18*50%=9", ("($5+$4)*2=$18", "18*50%=9")),
        ("-3 + 5 = 2, 2 × 6 = 12", ("-3 + 5 = 2", "2 × 6 = 12")),
        ("We get 3+4=7, 7*2=14", ("We get 3+4=7, 7*2=14",)),
        # Numbered lines and bullets
        ("1. Add 2 and 3.\n2. Double\n   the sum.", ("Add 2 and 3.", "Double the sum.")),
        ("1) 2+3=5\n2) 5*2=10", ("2+3=5", "5*2=10")),
        ("1) 2+3=5 2) 5*2=10", ("2+3=5", "5*2=10")),
        ("Step 1: Add.\nStep 2: Double.\n\nSo it is 10.", ("Add.", "Double.", "So it is 10.")),
        ("**Step 1: Add**\n2+3=5\n\n**Step 2: Double**\n5*2=10", ("2+3=5", "5*2=10")),
        ("### Step 1\nAdd.\n### Step 2\nDouble.", ("Add.", "Double.")),
        ("- Add 2 and 3.\n- Double it.", ("Add 2 and 3.", "Double it.")),
        ("48\n- 30\n= 18", ("48", "- 30", "= 18")),
        ("2. So 5.\n4. So 6.", ("2. So 5.", "4. So 6.")),
        # Other alphabets
        ("他有3个。又买了4个！一共7个。", ("他有3个。", "又买了4个！", "一共7个。")),
        ("彼は「はい。」と言った。次に3。", ("彼は「はい。」と言った。", "次に3。")),
        ("वह 3 लेता है। फिर 4।", ("वह 3 लेता है।", "फिर 4।")),
        ("كم؟ لديه 3. إذن 7.", ("كم؟", "لديه 3.", "إذن 7.")),
        ("اس کے پاس 3 ہیں۔ اب 7۔", ("اس کے پاس 3 ہیں۔", "اب 7۔")),
        ("Он взял 3. Потом 4.", ("Он взял 3.", "Потом 4.")),
        # LaTeX, HTML, Windows
        ("We have $x = 3. y = 4$ here. So 7.", ("We have $x = 3. y = 4$ here.", "So 7.")),
        ("We have $3^2 = 9.$ Thus 10.", ("We have $3^2 = 9.$", "Thus 10.")),
        ("He has $5. She has $6. So $11.", ("He has $5.", "She has $6.", "So $11.")),
        ("Then\n\\[\nx = 3. \\\\\ny = 4\n\\]\nSo 7.", ("Then", "\\[ x = 3. \\\\ y = 4 \\]", "So 7.")),
        ("$\\begin{pmatrix}1\\\\2\\end{pmatrix}$ is it.\nSo 3.",
         ("$\\begin{pmatrix}1\\\\2\\end{pmatrix}$ is it.", "So 3.")),
        ("a = 3 \\\\\nb = 4 \\\\ c = 7", ("a = 3", "b = 4", "c = 7")),
        ("We have\n\\begin{align*}\nx &= 3*4 \\\\\n &= 12, \\\\\ny &= 13\n\\end{align*}\nThus 13.",
         ("We have", "x = 3*4 = 12,", "y = 13", "Thus 13.")),
        ("3+4 is 7.\\nThen 14, as x \\neq 7.", ("3+4 is 7.", "Then 14, as x \\neq 7.")),
        ("3+4 is 7.<br>Then 14.<br/>", ("3+4 is 7.", "Then 14.")),
        ("3+4 is 7.\r\nThen 14.\r\n\r\n", ("3+4 is 7.", "Then 14.")),
        ("3+4 is 7.\u2028Then 14.", ("3+4 is 7.", "Then 14.")),
        ("<br>\u200b\n", ()),
    ],
)  # fmt: skip
def test_layouts(text: str, steps: tuple[str, ...]) -> None:
    assert split_steps(text) == steps


@pytest.mark.parametrize(
    ("step", "plain"),
    [
        ("She sold 48/2 = <<48/2=24>>24 clips.", "She sold 48/2 = 24 clips."),
        ("That is 80,000+50,000=$<<80000+50000=130000>>130,000.", "That is 80,000+50,000=$130,000."),
        ("It is <<.5*4=2.00>>$2.00 a day.", "It is $2.00 a day."),
        ("So 48/2 = <<48/2=24>> clips.", "So 48/2 = 24 clips."),
        ("So it is 24<<48/2=24>> clips.", "So it is 24 clips."),
        ("<<48/2=24>>", "<<48/2=24>>"),
        ("No annotation.", "No annotation."),
    ],
)
def test_annotations_are_left_out_of_sentences(step: str, plain: str) -> None:
    assert without_annotations(step) == plain
    assert without_annotations(plain) == plain


@pytest.mark.parametrize(
    "text",
    [
        "1. 3+4=7 2. 7*2=14 3. 14+1=15", "1、3+4=7\n2、7*2=14\n3、14+1=15",
        "１．3+4=7\n２．7*2=14\n３．14+1=15",
        "一、3+4=7\n二、7*2=14\n三、14+1=15", "①3+4=7 ②7*2=14 ③14+1=15",
        "（1）3+4=7；（2）7*2=14；（3）14+1=15",
        "第一步：3+4=7\n第二步：7*2=14\n第三步：14+1=15", "[3+4=7, 7*2=14, 14+1=15]",
        "3+4=7\n---\n7*2=14\n***\n```python\n14+1=15\n```\n|---|---|",
    ],
)  # fmt: skip
def test_numbers_brackets_and_frames_of_any_kind_are_no_part_of_a_step(text: str) -> None:
    assert split_steps(text) == ("3+4=7", "7*2=14", "14+1=15")


@pytest.mark.parametrize(
    "text", ["一共有10个苹果。", "二班有3人", "（二）班有3人", "He has 2. Then 3 more.", "[0, 5]", "(2)(3)=6"]
)
def test_numbers_that_count_nothing_stay(text: str) -> None:
    assert " ".join(split_steps(text)) == text
