"""What is the answer in a text, and what its rationale."""

from __future__ import annotations

import pytest

from codi.data.answer_text import same_answer
from codi.data.answers import ANSWER_PROMPT, answer_defect, separate

SUM = "A tray holds 8 rolls.\n6 * 8 = 48 rolls are baked."


@pytest.mark.parametrize(
    ("ending", "answer"),
    [
        ("#### 48", "48"),
        ("#### 48\nThe answer is: 48", "48"),
        ("####48", "48"),
        ("#### 1,048", "1048"),
        ("#### $1,048.50", "$1048.50"),
        ("#### 1,2", "1,2"),
        ("#### Nora is a sterpus.", "Nora is a sterpus."),
        (f"{ANSWER_PROMPT} 48", "48"),
        ("The answer is 48.", "48"),
        ("The answer is 3.5.", "3.5"),
        ("The answer is U.S.", "U.S."),
        ("The answer is U.S..", "U.S."),
        ("The answer is: $\\boxed{48}$.", "48"),
        ("Thus, the final answer is $\\frac{3}{8}$.", "\\frac{3}{8}"),
        ("So the answer is no.", "no"),
        ("The answer is New York City.", "New York City"),
        ("The answer is x = 5.", "x = 5"),
        ("The correct answer is (C).", "C"),
        ("Answer is C.", "C"),
        ("Answer : C", "C"),
        ("ANSWER:B", "B"),
        ("Ans. B", "B"),
        ("answer c", "c"),
        ("Option B is correct.", "B"),
        ("Hence, option (D)", "D"),
        ("48 is the answer.", "48"),
        ("Answer: 48", "48"),
        ("**Answer:** 48", "48"),
        ("**The answer is: 48**", "48"),
        ("*The answer is: 48*", "48"),
        ("### Final Answer: 48", "48"),
        ("**Final Answer**\n48", "48"),
        ("### Final Answer\n\\[\n\\boxed{48}\n\\]", "48"),
        ("Final Answer: The final answer is $48$. I hope it is correct.", "48"),
        ("\\boxed{48}", "48"),
        ("$\\boxed{\\frac{3}{2+\\sqrt{2}}}$", "\\frac{3}{2+\\sqrt{2}}"),
        ("$$\\fbox{48}$$", "48"),
        ("So $\\boxed{70{,}000}$.", "70000"),
        ("\\boxed{\\text{Evelyn}}", "Evelyn"),
        ("\\boxed{\\textbf{(C)}\\ 20}", "C"),
        ("\\boxed{50\\%}", "50%"),
        ("The answer is: A*", "A*"),
        ("The answer is: `48`<|im_end|>", "48"),
        ("$\\boxed{\\begin{pmatrix} 1 \\\\\n 2 \\end{pmatrix}}$", "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}"),
        ("<answer> 48 </answer>", "48"),
        ("The answer is 48, because 6 * 8 is 48.", "48"),
    ],
)  # fmt: skip
def test_what_only_states_the_answer_leaves_the_rationale(ending: str, answer: str) -> None:
    assert separate(f"{SUM}\n{ending}")[:2] == (SUM, answer)
    assert separate(ending)[:2] == ("", answer)


@pytest.mark.parametrize(
    ("text", "rationale", "answer"),
    [
        # The marker is not the end, or the sentence says more.
        ("The answer is C. Light moves in lines.", "Light moves in lines.", "C"),
        ("The answer is: 18\n\nCheck: 6*3 = 18.", "Check: 6*3 = 18.", "18"),
        ("9, so 10.\nThus the answer is $\\boxed{10}$.\nThe answer is: 10", "9, so 10.", "10"),
        ("6*3=18 #### 18", "6*3=18", "18"),
        ("6*3 = 18 The answer is 18", "6*3 = 18", "18"),
        ("<<6*3=18>> Answer: 18", "<<6*3=18>>", "18"),
        ("It is 2*3=6: $\\boxed{6}$.", "It is 2*3=6: $6$.", "6"),
        ("So $x=\\boxed{2}$ or $x=\\boxed{3}$.", "So $x=2$ or $x=3$.", "2, 3"),
        ("First $\\boxed{2}$ of us. Then 5, so $\\boxed{5}$.", "First $2$ of us. Then 5, so $5$.", "5"),
        ("She walks 5 km a day, so the answer is 5.", "She walks 5 km a day", "5"),
        ("So the answer is 3 * 4 = 12.", "3 * 4 = 12.", "12"),
        ("Answer: Ann has 3. She buys 4. 3+4=7. The answer is 7.", "Ann has 3. She buys 4. 3+4=7.", "7"),
        # No marker at all
        ("The answer is found by adding 3. 3+4=7.", "The answer is found by adding 3. 3+4=7.", None),
        ("If the answer is 5, x is 2. So 7.", "If the answer is 5, x is 2. So 7.", None),
        ("To answer it we add.", "To answer it we add.", None),
        ("A box of 3.", "A box of 3.", None),
        ("#### Step 1\nAdd 3.\n#### Step 2\nSo 7.", "#### Step 1\nAdd 3.\n#### Step 2\nSo 7.", None),
        ("We know the answer to the above question is 12. So 7.\n#### 7",
         "We know the answer to the above question is 12. So 7.", "7"),
        # Thinking
        ("<think>\nHm. The answer is: 8?\n</think>\n\n5 runs of 3 km. 3*5 = 15.\nThe answer is: 15",
         "5 runs of 3 km. 3*5 = 15.", "15"),
        ("<think>5 runs.\n3*5 = 15.</think>\nThe answer is: 15", "5 runs.\n3*5 = 15.", "15"),
        ("<think>5 runs.\n3*5 = 15.</think>\n\n15 km", "5 runs.\n3*5 = 15.", "15 km"),
        ("5 runs.\n3*5 = 15.\n</think>\n#### 15", "5 runs.\n3*5 = 15.", "15"),
        ("<|begin_of_thought|>3*5 = 15.<|end_of_thought|><|begin_of_solution|>\\boxed{15}<|end_of_solution|>",
         "3*5 = 15.", "15"),
        # A marker with nothing behind it
        ("So 5. #### ", "So 5.", ""),
    ],
)  # fmt: skip
def test_separate(text: str, rationale: str, answer: str | None) -> None:
    assert separate(text)[:2] == (rationale, answer)
    again = separate(rationale)
    assert again.rationale == rationale
    assert again.answer is None


def test_a_summary_after_the_thinking_is_no_rationale_when_asked() -> None:
    text = "<think>5 runs of 3.\n3*5 = 15.</think>She runs 15 km.\n#### 15"
    assert separate(text).rationale == "She runs 15 km."
    assert separate(text, summary=True).rationale == "5 runs of 3.\n3*5 = 15."


@pytest.mark.parametrize(
    ("answer", "defect"),
    [
        ("18", None), ("3.5", None), ("U.S.", None), ("Mr. Lee", None), ("Nora is a sterpus.", None),
        ("\\frac{3}{8}", None), ("x = 5 and y = 3", None), ("(1, 2, 3)", None), ("no", None),
        ("the University of California, Los Angeles", None),
        ("", "missing answer"), (" \n", "missing answer"),
        ("18\n19", "answer with a line break"), ("18\u202819", "answer with a line break"),
        ("18 The answer is: 18", "answer with an answer prompt in it"),
        ("18 #### 18", "answer with an answer prompt in it"),
        ("Answer: 18", "answer with an answer prompt in it"),
        ("so \\boxed{18}", "answer with an answer prompt in it"),
        ("She had 3. Then she had 4.", "answer of whole sentences"),
        ("She had 3 and bought 4, so 3 + 4 = 7", "answer of whole sentences"),
        ("It rains because warm air rises and cools until the water in it turns to drops that fall down",
         "answer of whole sentences"),
    ],
)  # fmt: skip
def test_what_can_be_an_answer(answer: str, defect: str | None) -> None:
    assert answer_defect(answer) == defect


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ("18", "18.0", True), ("$1,800", "1800", True), ("\\dfrac{3}{8}", "\\frac{3}{8}", True),
        ("3/8", "0.375", True),
        ("x = 5", "5", True), ("12 \\text{ cm}", "12", True), ("yes", "true", True), ("C", "c", True),
        ("−5", "-5", True),
        ("18", "20", False), ("1/2", "2", False), ("C", "B", False), ("no", "true", False),
        ("8.33", "25/3", None), ("50%", "0.5", None), ("blue", "red", None), ("18 km", "18", None),
    ],
)  # fmt: skip
def test_same_answer(left: str, right: str, same: bool | None) -> None:
    assert same_answer(left, right) is same
    assert same_answer(right, left) is same


@pytest.mark.parametrize(
    ("text", "answer", "rationale"),
    [
        # a calculator annotation behind the marker
        ("7*2=14.\nThe answer is <<7*2=14>>14.", "14", "7*2=14."),
        ("#### <<3+4=7>>7", "7", ""),
        ("The answer is <<3+4=7>> apples.", "7 apples", ""),
        (
            "So the answer is 3 + 4 = <<3+4=7>>7 apples.",
            "7 apples",
            "3 + 4 = <<3+4=7>>7 apples.",
        ),
        # tags of thinking, of any kind, and one that is never closed
        ("<think> 3+4=7. 7*2=14.", None, "3+4=7. 7*2=14."),
        ("<think> 3+4=7. The answer is 7", "7", "3+4=7."),
        ("[THINK]3+4=7.[/THINK] 7", "7", "3+4=7."),
        # what stands behind the answer
        ("3+4=7.\nThe answer is 7.\n\nI hope this helps! Let me know if you have questions.", "7", "3+4=7."),
        ("3+4=7.\nThe answer is 7.\nNote: no pen was lost.", "7", "3+4=7."),
        ("3+4=7.\n#### 7\nCheck: 7-4=3. Good.", "7", "3+4=7."),
        ("The answer is 7.\nCheck: 7-4=3", "7", "Check: 7-4=3"),  # all the reasoning there is
        ("3+4=7.\nNote: 7 is odd.\nSo 7+1=8.", None, "3+4=7.\nNote: 7 is odd.\nSo 7+1=8."),
        ("The answer is 7.\nShe is happy", "7", "She is happy"),
        ("The answer is 7. See if you have any questions left", "7", "See if you have any questions left"),
        # a reasoning that begins like a statement
        ("The answer is 4 times 3. 4*3=12.", None, "The answer is 4 times 3. 4*3=12."),
        ("The answer should be larger than 4. 4+3=7.", None, "The answer should be larger than 4. 4+3=7."),
        ("The answer is not 5, because 3+4=7.", None, "The answer is not 5, because 3+4=7."),
        # odd answers
        ("Answer: $\\$18$", "$18", ""),
        ("The answer is 3 . 5", "3 . 5", ""),
        ("\\boxed{7}\\ \\text{and}\\ \\boxed{8}", "7, 8", ""),
        # other languages
        ("3+4=7。所以答案是7。", "7", "3+4=7。"),
        ("3+4=7\n答案：7", "7", "3+4=7"),
        ("3+4=7，答案为7", "7", "3+4=7"),
        ("他买了4支。答：他有7支。", "他有7支", "他买了4支。"),
        ("3+4=7\n答えは7です。", "7", "3+4=7"),
        ("3+4=7\nОтвет: 7.", "7", "3+4=7"),
        ("3+4=7.\nLa respuesta correcta es 7.", "7", "3+4=7."),
        ("3+4=7.\nDonc la réponse est 7.", "7", "3+4=7."),
        ("3+4=7.\nDie Antwort lautet 7.", "7", "3+4=7."),
        (
            "3+4=7.\nDie Antwort auf die Frage ist leicht.",
            None,
            "3+4=7.\nDie Antwort auf die Frage ist leicht.",
        ),
    ],
)
def test_what_is_said_around_an_answer(text: str, answer: str | None, rationale: str) -> None:
    separated = separate(text, summary=True)
    assert (separated.answer, separated.rationale) == (answer, rationale)


@pytest.mark.parametrize("text", ["3+4=7", "Total = 3+4 = 7", "3+4=7>>7", "3+4=7，答案为7", "Ответ: 7"])
def test_what_holds_more_than_the_answer_is_none(text: str) -> None:
    assert answer_defect(text) is not None


@pytest.mark.parametrize("text", ["3x+4y=12", "y=2x+3", "x = 5", "-3", "12/25/2020", "1/2", "1, 2, 3"])
def test_equations_that_may_be_asked_for_are_answers(text: str) -> None:
    assert answer_defect(text) is None
