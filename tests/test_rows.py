"""Rows of every usual form: what is understood is right, what is not is refused with the way out."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from codi.data.example import Example, LoadReport
from codi.data.sources import Columns, load_examples
from codi.errors import DataError, RecipeError, UsageError
from codi.training.recipes import load_recipe

Q = "A pen costs 3 and a book 4. What do both cost?"
USER, HUMAN = {"role": "user", "content": Q}, {"from": "human", "value": Q}


def load(path: Path, *rows: dict[str, Any], **options: Any) -> tuple[list[Example], LoadReport]:
    """Write rows as the ending says, and load them."""
    with path.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".csv":
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        else:
            file.writelines(f"{json.dumps(row)}\n" for row in rows)
    return load_examples(str(path), **options)


def only(path: Path, row: dict[str, Any], **options: Any) -> tuple[str, tuple[str, ...], str]:
    [example], _ = load(path, row, **options)
    return example.question, example.steps, example.answer


def said(**fields: Any) -> list[dict[str, Any]]:
    return [USER, {"role": "assistant", **fields}]


SUM = ("The pen costs 3.", "Both cost 3 + 4 = 7.")
SOLUTION = "\n".join(SUM)


@pytest.mark.parametrize(
    ("row", "steps", "answer"),
    [
        # MetaMathQA, OpenMathInstruct, NuminaMath, MATH, Orca-Math with its rewritten answers
        (
            {
                "type": "GSM",
                "query": Q,
                "original_question": "-",
                "response": f"{SOLUTION}\n#### 7\nThe answer is: 7",
            },
            SUM,
            "7",
        ),
        (
            {"problem": Q, "generated_solution": f"{SOLUTION}\nSo \\boxed{{7}}.", "expected_answer": "7"},
            SUM,
            "7",
        ),
        (
            {
                "problem": Q,
                "solution": f"{SOLUTION}\nHence the answer is $\\boxed{{\\frac{{7}}{{1}}}}$.",
                "source": "x",
                "messages": said(content="-"),
            },
            SUM,
            "\\frac{7}{1}",
        ),
        (
            {"problem": Q, "solution": SOLUTION, "answer": "7", "generations": ["a", "b"], "messages": []},
            SUM,
            "7",
        ),
        ({"question": Q, "answer": f"{SOLUTION} #### 7"}, SUM, "7"),
        (
            {
                "question": Q,
                "answer": "Step-by-Step Answer: The pen costs 3. Both cost 3 + 4 = 7. The answer is 7.",
                "answer_number": 7,
                "equation_solution": "3+4=7",
            },
            SUM,
            "7",
        ),
        ({"question": Q, "answer": f"{SOLUTION}\n#### 7", "final_answer": 7.0}, SUM, "7"),
        ({"Question": Q, "Chain-of-Thought": SOLUTION, "Final Answer": "7"}, SUM, "7"),
        # Alpaca, Dolly, prompt and completion
        ({"instruction": Q, "input": "", "output": f"{SOLUTION}\nThe answer is 7."}, SUM, "7"),
        ({"prompt": Q, "completion": f" {SOLUTION}\n#### 7"}, SUM, "7"),
        ({"prompt": Q, "response": f"<think>{SOLUTION}</think> <answer>7</answer>"}, SUM, "7"),
        (
            {"prompt": [USER], "completion": [{"role": "assistant", "content": f"{SOLUTION}\n#### 7"}]},
            SUM,
            "7",
        ),
        # Conversations
        ({"messages": said(content=f"{SOLUTION}\nThe answer is: 7")}, SUM, "7"),
        ({"conversations": [HUMAN, {"from": "gpt", "value": f"{SOLUTION}\n#### 7"}], "id": "c1"}, SUM, "7"),
        ({"messages": said(content=f"<think>\n{SOLUTION}\n</think>\n\n\\[\n\\boxed{{7}}\n\\]")}, SUM, "7"),
        ({"messages": said(content="7", reasoning_content=SOLUTION)}, SUM, "7"),
        ({"messages": said(content="The answer is 7.", reasoning=SOLUTION)}, SUM, "7"),
        ({"messages": said(content=None, reasoning_content=f"{SOLUTION}\nThe answer is: 7")}, SUM, "7"),
        ({"messages": said(content=f"<think>\n\n</think>\n\n{SOLUTION}\n#### 7")}, SUM, "7"),
        (
            {
                "messages": said(
                    content=[{"type": "thinking", "thinking": SOLUTION}, {"type": "text", "text": "7"}]
                )
            },
            SUM,
            "7",
        ),
        ({"messages": said(content=SOLUTION), "answer": "7"}, SUM, "7"),
        ({"prompt": Q, "prompt_id": "p", "messages": said(content=f"{SOLUTION}\n#### 7")}, SUM, "7"),
        # Steps as tables and models write them
        ({"question": Q, "steps": [{"step": SUM[0]}, {"step": SUM[1]}], "answer": 7}, SUM, "7"),
        ({"question": Q, "steps": {"1": SUM[0], "2": SUM[1]}, "answer": 7}, SUM, "7"),
        (
            {"question": Q, "steps": [{"explanation": "Both cost", "output": "3 + 4 = 7."}], "answer": "7"},
            ("Both cost 3 + 4 = 7.",),
            "7",
        ),
        ({"question": Q, "steps": [*SUM, "#### 7"], "answer": "7"}, SUM, "7"),
        (
            {"question": Q, "steps": [SUM[0], "So $3 + 4 = \\boxed{7}$."], "answer": "7"},
            (SUM[0], "So $3 + 4 = 7$."),
            "7",
        ),
        # Answers that are no number; columns that are not the answer
        (
            {"question": Q, "answer": "Nora is a sterpus.", "steps": list(SUM), "target": 3, "root": 0},
            SUM,
            "Nora is a sterpus.",
        ),
        ({"qid": "a", "question": Q, "answer": False, "facts": ["a", "b"]}, (), "false"),
        ({"question": Q, "answer": True, "decomposition": ["a?", "b?"]}, (), "true"),
        (
            {
                "question": Q,
                "correct_answer": "carbon dioxide",
                "distractor1": "neon",
                "support": "It is. So.",
            },
            (),
            "carbon dioxide",
        ),
        ({"question": Q, "answer": "$\\frac{3}{8}$"}, (), "\\frac{3}{8}"),
        ({"question": Q, "answer": "36."}, (), "36."),
        ({"question": Q, "answer": "7\nThe answer is: 7"}, (), "7"),
    ],
)
def test_understood(tmp_path: Path, row: dict[str, Any], steps: tuple[str, ...], answer: str) -> None:
    assert only(tmp_path / "in.jsonl", row) == (Q, steps, answer)


@pytest.mark.parametrize(
    ("row", "question"),
    [
        ({"instruction": "Add.", "input": "3, 4", "output": "7"}, "Add.\n3, 4"),
        ({"instruction": "Add.", "input": "3, 4", "answer": "7"}, "Add.\n3, 4"),
        (
            {
                "instruction": "Who wrote it?",
                "context": "Emma is by Austen.",
                "response": "7",
                "category": "qa",
            },
            "Who wrote it?\nEmma is by Austen.",
        ),
        ({"question": "is it", "passage": "It is.", "answer": "7"}, "It is.\nis it"),
        (
            {"question": "How many?", "table": "pen | 3\nbook | 4", "answer": "7"},
            "pen | 3\nbook | 4\nHow many?",
        ),
        ({"Body": "He has 3", "Question": "And 4?", "Answer": "7 (pens)"}, "He has 3. And 4?"),
        (
            {
                "messages": [
                    {"role": "system", "content": "Be brief."},
                    {"role": "user", "content": "3+4?"},
                    {"role": "assistant", "content": "7"},
                ]
            },
            "Be brief.\n\n3+4?",
        ),
        ({"system": "Be brief.", "conversations": [HUMAN, {"from": "gpt", "value": "7"}]}, f"Be brief.\n{Q}"),
        ({"question": "a", "query": "b", "prompt": "c", "answer": "7"}, "a"),
    ],
)
def test_what_a_question_stands_on(tmp_path: Path, row: dict[str, Any], question: str) -> None:
    assert only(tmp_path / "in.jsonl", row)[0] == question


@pytest.mark.parametrize(
    "written",
    [
        "['4*9=36', '36-6=30']",
        '["4*9=36", "36-6=30"]',
        "['4*9=36'\n '36-6=30']",
        "['4*9=36' '36-6=30']",
        "[np.str_('4*9=36'), np.str_('36-6=30')]",
        "('4*9=36', '36-6=30')",
        "[{'step': '4*9=36'}\n {'step': '36-6=30'}]",
    ],
)
@pytest.mark.parametrize("column", ["steps", "cot", "rationale"])
def test_lists_in_a_table(tmp_path: Path, written: str, column: str) -> None:
    row = {"question": "Q?", column: written, "answer": "30"}
    assert only(tmp_path / "in.csv", row)[1] == ("4*9=36", "36-6=30")


def test_quotes_and_backslashes_in_a_list(tmp_path: Path) -> None:
    for steps in (["it's 3", 'he says "4"'], ["a\nb", "$\\frac{1}{2}$"], ["50%", "é 。"]):
        row = {"question": "Q?", "steps": repr(steps), "answer": "30"}
        assert only(tmp_path / "in.csv", row)[1] == tuple(steps)
    row = {"question": "Q?", "steps": "['$\\sqrt{4}$ is 2', 'so 3']", "answer": "3"}
    assert only(tmp_path / "in.csv", row)[1] == ("$\\sqrt{4}$ is 2", "so 3")
    row = {"question": "Q?", "cot": "[5, 7] holds 6. So 6.", "answer": "6"}
    assert only(tmp_path / "in.csv", row)[1] == ("[5, 7] holds 6.", "So 6.")


def test_rationales_are_found_row_by_row(tmp_path: Path) -> None:
    examples, report = load(
        tmp_path / "in.jsonl",
        {"question": "a", "steps": ["1+2=3", "3*2=6"], "answer": "6"},
        {"question": "b", "cot": "Add 3. Get 6.", "answer": "6"},
        {"question": "c", "steps": None, "cot": "<<1+2=3>>", "answer": 3},
        {"question": "d", "steps": [], "cot": " ", "answer": "So <<1+2=3>>3.\n#### 3"},
        {"question": "e", "answer": 3},
    )
    assert [example.steps for example in examples] == [
        ("1+2=3", "3*2=6"), ("Add 3.", "Get 6."), ("<<1+2=3>>",), ("So <<1+2=3>>3.",), (),
    ]  # fmt: skip
    assert report.as_dict() == {
        "source": str(tmp_path / "in.jsonl"), "read": 5, "kept": 5, "dropped": {}, "stopped_at": None
    }  # fmt: skip


def test_blank_steps_are_left_out_and_counted(tmp_path: Path) -> None:
    examples, report = load(
        tmp_path / "in.jsonl",
        {"question": "a", "steps": ["1+2=3", " ", "3*2=6", "", None, "\u200b"], "answer": "6"},
        {"question": "b", "steps": ["1+2=3"], "answer": "3"},
    )
    assert [example.steps for example in examples] == [("1+2=3", "3*2=6"), ("1+2=3",)]
    assert report.noted == {"blank steps left out": 4}
    assert report.describe().endswith("2 kept; noted: 4 blank steps left out")
    assert report.as_dict()["noted"] == report.noted


def test_the_gold_column_counts_and_another_answer_is_a_defect(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    rows = [
        {"problem": "a", "solution": "3+4.\nIt is \\boxed{7}.", "answer": "7.0"},
        {"problem": "b", "solution": "3+4.\nIt is \\boxed{8}.", "answer": "7"},
        {"problem": "c", "solution": "3+4.\nThe answer is: seven pens", "answer": "7"},
    ]
    with pytest.raises(
        DataError, match=r"line 2: rationale that ends in another answer: '8'.*of the row is '7'"
    ):
        load(path, *rows)
    examples, report = load(path, *rows, skip_bad_rows=True)
    assert [(example.steps, example.answer) for example in examples] == [
        (("3+4.", "It is 7."), "7.0"), (("3+4.",), "7"),
    ]  # fmt: skip
    assert report.dropped == {"rationale that ends in another answer": 1}
    assert report.noted == {"rationales that may end in another answer": 1}


def test_a_solution_that_is_only_the_answer_holds_no_reasoning(tmp_path: Path) -> None:
    assert only(tmp_path / "in.jsonl", {"problem": "a", "solution": "7", "answer": "7"}) == ("a", (), "7")


def test_the_published_rules_stay_literal(tmp_path: Path) -> None:
    row = {"question": "a", "cot": "<<1+2=3>>  <<3*2=6>> The answer is: 6", "answer": "6"}
    assert only(tmp_path / "in.jsonl", row, steps_rule="published-spaces")[1] == (
        "<<1+2=3>>", "", "<<3*2=6>>", "The", "answer", "is:", "6",
    )  # fmt: skip
    assert only(tmp_path / "in.jsonl", row)[1] == ("<<1+2=3>>", "<<3*2=6>>")


def test_annotations_are_left_out_when_asked(tmp_path: Path) -> None:
    row = {"question": "a", "answer": "He sells 48/2 = <<48/2=24>>24.\n<<24+1=25>>\n#### 25"}
    kept = only(tmp_path / "in.jsonl", row)
    assert kept[1] == ("He sells 48/2 = <<48/2=24>>24.", "<<24+1=25>>")
    assert only(tmp_path / "in.jsonl", row, annotations="remove")[1] == ("He sells 48/2 = 24.", "<<24+1=25>>")


def test_another_word_for_annotations_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"annotations is 'removed'.*Did you mean 'remove'"):
        load(tmp_path / "in.jsonl", {"question": "a", "answer": "1"}, annotations="removed")
    with pytest.raises(RecipeError, match=r"data.annotations is 'drop'; it must be one of keep, remove"):
        load_recipe("word-problems", ["data.annotations=drop"])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"question": "a", "answer": "It is 3.\nThen 4."},
            r"line 1: answer with a line break: 'It is 3\.\\nThen 4\.'\. .*####.*--answer-column",
        ),
        (
            {"instruction": "a", "output": "The sea rises twice a day. The moon pulls it."},
            r"answer of whole sentences: 'The sea rises twice a day\.",
        ),
        ({"question": "a", "answer": "x" * 30 + "\n" + "y" * 70}, r"'x{30}\\ny{49}'\.\.\."),
        ({"question": "a", "steps": "['a', 'b", "answer": "3"}, r"list of steps that cannot be read: .*JSON"),
        ({"question": "a", "answer": "['3', '4']"}, r"the answer is a list"),
        ({"question": "a N_00", "answer": "3"}, r"question with placeholders"),
        (
            {"question": "a", "context": {"x": 1}, "answer": "3"},
            r"'context', .* not text but dict.*--question-column",
        ),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}] * 2},
            r"not one question and one reply: 'user: a / assistant: b.*2 turns of the user",
        ),
        ({"messages": [{"role": "assistant", "content": "b"}]}, r"0 turns of the user"),
        ({"messages": [{"role": "user", "content": "a"}]}, r"missing answer"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "tool", "content": "b"}]}, r"is by 'tool'"),
        ({"messages": "oops"}, r"the answer|conversation"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, r"holds 'image_url'"),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "<think>so"}]},
            r"missing answer|'<think>so'",
        ),
        (
            {"prompt": "a", "chosen": "b", "rejected": "c"},
            r"no column recognised as the answer .*--answer-column",
        ),
        (
            {"question": "a", "label": 1, "target": 2},
            r"several columns that could be the answer: 'target', 'label'",
        ),
        ({"question": "a", "response": "b", "label": 1}, r"answer: 'label', 'response'"),
        ({"query": "a", "prompt": "b", "answer": "1"}, r"could be the question: 'query', 'prompt'"),
        (
            {"question": "a", "expected_answer": "1", "final_answer": "1"},
            r"'final_answer', 'expected_answer'",
        ),
        ({"talk": [USER], "n": 1}, r"no column recognised as the question .*'messages'.*found: 'talk', 'n'"),
    ],
)
def test_refused(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(tmp_path / "in.jsonl", row)


def test_bad_rows_of_every_kind_are_counted_when_asked(tmp_path: Path) -> None:
    _, report = load(
        tmp_path / "in.jsonl",
        {"question": "a", "answer": "3"},
        {"question": "a", "answer": "It is 3.\nThen 4."},
        {"question": "a", "answer": "It is 3. Then it is 4."},
        {"question": "a", "answer": ["3"]},
        {"question": ["a"], "answer": "3"},
        {"question": "a", "steps": 5, "answer": "3"},
        skip_bad_rows=True,
    )
    assert report.kept == 1
    assert report.dropped == {
        "answer with a line break": 1,
        "answer of whole sentences": 1,
        "the answer is neither text nor a number but list": 1,
        "the question is not text but list": 1,
        "the steps are not a list but int": 1,
    }


def test_columns_that_are_named_are_read_as_asked(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    row = {"question": "a", "query": "b", "answer": "1", "label": "2", "cot": "x. Y.", "why": "One. Two."}
    assert only(path, row, columns=Columns(question="query", answer="label")) == ("b", ("x.", "Y."), "2")
    assert only(path, row, columns=Columns(rationale="why"))[1] == ("One.", "Two.")
    # A conversation under another name is named once for each role, or once where its name is known.
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "3+4=7.\n#### 7"}]
    chat: dict[str, Any] = {"talk": talk, "answers": 1}
    assert only(path, chat, columns=Columns(question="talk", answer="talk")) == ("a", ("3+4=7.",), "7")
    assert only(path, {"messages": talk}, columns=Columns(question="messages")) == ("a", ("3+4=7.",), "7")


def test_a_conversation_in_a_table(tmp_path: Path) -> None:
    written = (
        "[{'role': 'user', 'content': '3+4?'}\n {'role': 'assistant', 'content': \"It's 3+4=7.\\n#### 7\"}]"
    )
    assert only(tmp_path / "in.csv", {"messages": written}) == ("3+4?", ("It's 3+4=7.",), "7")


def test_system_messages_are_noted(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "Think."}, *said(content="7")]
    assert load(tmp_path / "in.jsonl", {"messages": turns})[1].noted == {
        "system messages put before the question": 1
    }


@pytest.mark.parametrize("nothing", ["nan", "NaN", "None", "null", "N/A", "<NA>"])
def test_words_of_programs_for_nothing(tmp_path: Path, nothing: str) -> None:
    path = tmp_path / "in.csv"
    assert only(path, {"question": Q, "rationale": nothing, "context": nothing, "answer": "7"}) == (
        Q,
        (),
        "7",
    )
    with pytest.raises(DataError, match=r"missing answer: .*Programs write that where there is no value"):
        load(path, {"question": Q, "answer": nothing})
    with pytest.raises(DataError, match="empty question"):
        load(path, {"question": nothing, "answer": "7"})
    # an option may be called so
    row = {"question": "Which?", "options": [nothing, "two"], "answer": nothing}
    assert only(tmp_path / "in.jsonl", row)[2] == "A"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": Q, "answer": {"value": "18"}}, r"dict.*--answer-column answer\.value"),
        ({"question": Q, "answer": ["8"]}, r"list.*--answer-column answer\.0"),
        ({"question": {"text": Q}, "answer": "7"}, r"without a 'stem'.*--question-column question\.text"),
        (
            {"question": Q, "answer": None, "label": "B"},
            r"missing answer\. The column 'label' holds 'B'.*--answer-column label",
        ),
        (
            {"question": Q, "steps": "[Add 3 and 4, then stop]", "answer": "7"},
            r"Put each of its steps in quotes",
        ),
        ({"question": Q, "cot": "3+4=7。所以答案是7。", "answer": "8"}, r"ends in another answer: '7'"),
        ({"question": Q, "answer": "It is 7.\nThe answer is 7!"}, r"may be a factorial"),
    ],
)
def test_refused_with_the_way_out(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(tmp_path / "in.jsonl", row)


def test_columns_that_are_not_read_are_listed(tmp_path: Path) -> None:
    row = {"question": Q, "distractor1": "6", "distractor2": "8", "correct_answer": "7", "support": "3+4."}
    _, report = load(tmp_path / "in.jsonl", row)
    assert report.unread == ["distractor1", "distractor2", "support"]
    assert report.describe().endswith("columns not read: 'distractor1', 'distractor2', 'support'")
