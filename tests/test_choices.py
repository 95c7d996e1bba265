"""Multiple choice: options in every usual form, written into the question; the answer becomes a letter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from codi.data.choices import Choices, choices_of, shows_options
from codi.data.example import RowDefect
from codi.data.sources import Columns, write_jsonl
from codi.errors import DataError
from test_rows import load, only

SHOWN = "Question: Which flies?\nChoices:\nA: cow\nB: hen\nC: dog"
TEXTS = ["cow", "hen", "dog"]
LETTERED = [("A", "cow"), ("B", "hen"), ("C", "dog")]


@pytest.mark.parametrize(
    "options",
    [
        {"options": ["A)cow", "B)hen", "C)dog"], "correct": "B"},
        {"options": ["(A) cow", "(B) hen", "(C) dog"], "answer": "(B)"},
        {"options": ["A. cow", "B. hen", "C. dog"], "answer": "B."},
        {"options": ["a: cow", "b: hen", "c: dog"], "answer": "b"},
        {"options": ["1) cow", "2) hen", "3) dog"], "answer": 2},
        {"options": "A) cow\nB) hen\nC) dog", "answer": "B"},
        {"options": "a ) cow , b ) hen , c ) dog", "correct": "b"},
        {"options": "['cow' 'hen' 'dog']", "answer": "hen"},
        {"options": {"A": "cow", "B": "hen", "C": "dog"}, "answer": "hen", "answer_idx": "B"},
        {"options": {"A": "cow", "B": "hen", "C": "dog", "D": None}, "answer": "B"},
        {"options": TEXTS, "answer": "B) hen"},
        {"options": TEXTS, "answer": "Hen."},
        {"options": TEXTS, "answer": "The answer is (B)."},
        {"choices": TEXTS, "answer": 1},
        {"choices": TEXTS, "answer": 1.0},
        {"choices": TEXTS, "subject": "x", "answer": "1"},
        {"endings": TEXTS, "label": "1"},
        {"choices": {"label": ["A", "B", "C"], "text": TEXTS}, "answerKey": "B"},
        {"choices": {"label": ["1", "2", "3"], "text": TEXTS}, "answerKey": "2"},
        {"choices": {"label": [1, 2, 3], "text": TEXTS}, "answerKey": 2},
        {"choices": [{"label": label, "text": text} for label, text in LETTERED], "answer": "B"},
        {"options": [{"key": label, "value": text} for label, text in LETTERED], "answer": "B"},
        {"choices": {"text": TEXTS}, "answer": 1},
        {"A": "cow", "B": "hen", "C": "dog", "answer": "B"},
        {"Option A": "cow", "Option B": "hen", "Option C": "dog", "Answer": "hen"},
        {"opa": "cow", "opb": "hen", "opc": "dog", "cop": 1, "exp": "-"},
        {"option1": "cow", "option2": "hen", "option3": "dog", "answer": "2"},
        {"ending0": "cow", "ending1": "hen", "ending2": "dog", "label": 1},
        {"target_scores": {"cow": 0, "hen": 1, "dog": 0}},
        {"mc1_targets": {"choices": TEXTS, "labels": [0, 1, 0]}},
        {"choices": "{'text': array(['cow', 'hen', 'dog'], dtype=object), 'label': array(['1', '2', '3'])}",
         "answerKey": "2"},
    ],
)  # fmt: skip
def test_every_form_is_written_the_same_way(tmp_path: Path, options: dict[str, Any]) -> None:
    question, _, answer = only(tmp_path / "in.jsonl", {"question": "Which flies?"} | options)
    assert (question, answer) == (SHOWN, "B")


def test_asked_columns_take_the_options_too(tmp_path: Path) -> None:
    row = {"question": "Which flies?", "options": TEXTS, "correct": "C", "other": "B"}
    columns = Columns(answer="other")
    assert only(tmp_path / "in.jsonl", row, columns=columns)[::2] == (SHOWN, "B")


def test_options_that_the_question_shows_are_not_repeated(tmp_path: Path) -> None:
    for question in (
        "Which flies?\nA) cow\nB) hen\nC) dog",
        "Which flies? (A) cow (B) hen (C) dog",
        SHOWN,
    ):
        assert (
            only(tmp_path / "in.jsonl", {"question": question, "options": TEXTS, "answer": 1})[0] == question
        )
    # Their texts alone do not say which letter is which.
    row = {"question": "A cow, a hen or a dog?", "options": TEXTS, "answer": 1}
    assert only(tmp_path / "in.jsonl", row)[0].endswith("C: dog")


def test_ten_options_and_rows_of_other_lengths(tmp_path: Path) -> None:
    ten = [str(number * number) for number in range(10)]
    examples, _ = load(
        tmp_path / "in.jsonl",
        {"question": "9 * 9?", "options": ten, "answer": "J", "answer_index": 9, "cot_content": ""},
        {"question": "1 + 1?", "options": ["1", "2"], "answer": "B"},
        {"question": "No options?", "options": None, "answer": "none"},
    )
    assert [example.answer for example in examples] == ["J", "B", "none"]
    assert examples[0].question.endswith("\nI: 64\nJ: 81")
    assert examples[2].question == "No options?"


@pytest.mark.parametrize(
    ("rationale", "steps"),
    [
        ("3 * 4 = 12\nSo 12 legs.\nAnswer is C.", ("3 * 4 = 12", "So 12 legs.")),
        ("3 * 4 = 12\nSo 12 legs.\nAnswer : C", ("3 * 4 = 12", "So 12 legs.")),
        ("3 * 4 = 12\nSo 12 legs.\nANSWER:C", ("3 * 4 = 12", "So 12 legs.")),
        ("3 * 4 = 12\nSo 12 legs.\nOption C is correct.", ("3 * 4 = 12", "So 12 legs.")),
        ("3 * 4 = 12. So 12 legs. The answer is (C).", ("3 * 4 = 12.", "So 12 legs.")),
        ("3 * 4 = 12. So 12 legs. The answer is 12.", ("3 * 4 = 12.", "So 12 legs.")),
        ("3 * 4 = 12. So 12 legs. answer c", ("3 * 4 = 12.", "So 12 legs.")),
    ],
)
def test_the_letter_at_the_end_of_a_rationale(tmp_path: Path, rationale: str, steps: tuple[str, ...]) -> None:
    row = {"question": "Legs?", "options": ["A)4", "B)8", "C)12"], "rationale": rationale, "correct": "C"}
    assert only(tmp_path / "in.jsonl", row)[1:] == (steps, "C")
    with pytest.raises(DataError, match=r"rationale that ends in another answer.*'B'"):
        load(tmp_path / "in.jsonl", row | {"correct": "B"})


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"question": "Q?", "possibilities": ["7", "8"], "answer": "A"},
            r"options were not read: 'A'. The column 'possibilities' may hold them: name it 'options'",
        ),
        ({"question": "Q?", "opts": "A) 7 B) 8", "answer": "A"}, r"The column 'opts' may hold them"),
        (
            {"question": "Q?", "options": ["7", "8"], "answer": "nine"},
            r"none of the options: 'nine'. Options: A: 7; B: 8",
        ),
        ({"question": "Q?", "options": ["7", "8"], "answer": "D"}, r"none of the options: 'D'"),
        ({"question": "Q?", "options": ["7", "8"], "answer": 3}, r"none of the options: '3'"),
        ({"question": "Q?", "options": ["0", "2", "1"], "answer": "1"}, r"could be two of the options: '1'"),
        ({"question": "Q?", "options": ["7", "7"], "answer": "7"}, r"could be two of the options: '7'"),
        ({"question": "Q?", "options": ["7", None], "answer": "A"}, r"the choices cannot be read"),
        ({"question": "Q?", "options": "7 8", "answer": "A"}, r"the choices cannot be read: '7 8'"),
        ({"question": "Q?", "options": ["7", "8"], "answer": None}, r"missing answer"),
        ({"question": "Q?", "endings": ["7", "8"], "label": ""}, r"missing answer"),
    ],
)
def test_refused(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(tmp_path / "in.jsonl", row)


def test_a_letter_beside_lists_that_are_no_options_is_an_answer(tmp_path: Path) -> None:
    for row in (
        {"question": "Which letter?", "answer": "C"},
        {"question": "Which? A) 7 B) 8", "tags": ["x", "y"], "answer": "B"},
        {
            "question": "Which letter?",
            "answer": "C",
            "checked": [True, False],
            "messages": [{"role": "user"}] * 2,
        },
    ):
        assert only(tmp_path / "in.jsonl", row)[0] == row["question"]


def test_a_letter_with_its_text_where_the_question_shows_the_options(tmp_path: Path) -> None:
    assert only(tmp_path / "in.jsonl", {"question": "Q? A) 7 B) 8", "answer": "B) 8"})[2] == "B"
    assert only(tmp_path / "in.jsonl", {"question": "Q?", "answer": "B) 8"})[2] == "B) 8"


def test_written_choices_are_read_back(tmp_path: Path) -> None:
    examples, _ = load(tmp_path / "in.jsonl", {"question": "Which flies?", "choices": TEXTS, "answer": 1})
    write_jsonl(examples, tmp_path / "out.jsonl")
    from codi.data.sources import load_examples

    [again], _ = load_examples(str(tmp_path / "out.jsonl"))
    assert (again.question, again.answer) == (SHOWN, "B")


def test_letters_and_labels() -> None:
    assert choices_of({"label": ["F", "G"], "text": ["a", "b"]}).letters == ("F", "G")
    assert Choices(("1", "2"), ("a", "b")).letter("1") == "A"
    assert Choices(None, ("a", "b")).meant("c") is None
    with pytest.raises(RowDefect, match="cannot be read"):
        choices_of([])
    assert shows_options("$\\textbf{(A)}\\ 5 \\qquad \\textbf{(B)}\\ 6$")
    assert not shows_options("If f(a) = 3, what is f(b)?")


def letters(path: Path, options: Any, answers: list[Any]) -> list[str]:
    examples, _ = load(path, *({"question": "Q?", "choices": options, "answer": key} for key in answers))
    return [example.answer for example in examples]


def test_whether_keys_count_from_0_or_1_is_told_by_all_rows(tmp_path: Path) -> None:
    path, texts = tmp_path / "in.jsonl", ["x", "y", "z", "w"]
    assert letters(path, texts, [1, 2, 3, 4]) == ["A", "B", "C", "D"]
    assert letters(path, texts, ["1", "2", "4"]) == ["A", "B", "D"]
    assert letters(path, texts, [3, 1, 0]) == ["D", "B", "A"]
    # one row in many at odds with the others is refused, and is not advised to be left out
    with pytest.raises(DataError, match=r"none of the options: '4'.*count from 0") as refused:
        letters(path, texts, [0, 0, 1, 4])
    assert "skip" not in str(refused.value)
    # where no row tells, they count from 0, and that is said
    examples, report = load(path, {"question": "Q?", "choices": texts, "answer": 2})
    assert examples[0].answer == "C"
    assert list(report.noted) == ["answers taken as places counted from 0: no row says whether from 0 or 1"]


def test_columns_of_options_are_counted_by_all_rows(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text(
        "question,opa,opb,opc,opd,cop\n" + "".join(f"Q{key}?,x,y,z,w,{key}\n" for key in (1, 2, 3, 4)),
        encoding="utf-8",
    )
    from codi.data.sources import load_examples

    assert [example.answer for example in load_examples(str(path))[0]] == ["A", "B", "C", "D"]
    rows = [{"question": "Q?", "answerA": "x", "answerB": "y", "answerC": "z", "label": key} for key in "132"]
    assert [example.answer for example in load(tmp_path / "in.jsonl", *rows)[0]] == ["A", "C", "B"]


def test_numbers_beside_numbers_are_options_or_places_as_the_rows_tell(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    assert letters(path, [4, 2, 8, 16], [2, 16, 4]) == ["B", "D", "A"]
    assert letters(path, ["4", "2", "8", "16"], ["2", "8"]) == ["B", "C"]
    assert letters(path, [4, 2, 8, 16], [0, 3, 2]) == ["A", "D", "C"]
    with pytest.raises(DataError, match=r"could be two of the options: '2'.*Write the letter") as refused:
        letters(path, [4, 2, 8, 16], [2])
    assert "skip" not in str(refused.value)


def test_columns_of_numbers_are_no_options(tmp_path: Path) -> None:
    for names in (("A", "B"), ("op1", "op2"), ("sol1", "sol2"), ("ans1", "ans2")):
        rows = [
            {"question": f"{left}-{right}?", names[0]: left, names[1]: right, "answer": left - right}
            for left, right in ((5, 4), (9, 7), (8, 3))
        ]
        examples, report = load(tmp_path / "in.jsonl", *rows)
        assert [(example.question, example.answer) for example in examples] == [
            ("5-4?", "1"), ("9-7?", "2"), ("8-3?", "5"),
        ]  # fmt: skip
        quoted = f"'{names[0]}', '{names[1]}'"
        assert report.noted == {f"rows whose columns {quoted} were not read as answer options": 3}
    # what most answers name are options
    rows = [{"question": "Q?", "A": 5, "B": 4, "answer": key} for key in "AB"]
    assert [example.answer for example in load(tmp_path / "in.jsonl", *rows)[0]] == ["A", "B"]


def test_options_set_apart_by_semicolons(tmp_path: Path) -> None:
    row = {"question": "Which flies?", "options": "cow; hen; dog", "answer": "hen"}
    assert only(tmp_path / "in.jsonl", row)[::2] == (SHOWN, "B")
