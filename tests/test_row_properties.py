"""Over made rows: what is accepted has one short answer, and steps that are its rationale without markers."""

from __future__ import annotations

import json
import re
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codi.data.answers import ANSWER_PROMPT, answer_defect, separate
from codi.data.columns import RowDefect, example_from_row, resolve_layout
from codi.data.example import Example
from codi.data.sources import load_examples, write_jsonl
from codi.data.steps import split_steps
from codi.data.written_lists import written_list
from codi.errors import CodiError, DataError
from codi.evaluation.scorers import AUTO, scorer_for

quick = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

WORDS = st.sampled_from(
    [
        "she",
        "he",
        "buys",
        "sells",
        "3",
        "4.5",
        "$6",
        "apples",
        "so",
        "then",
        "=",
        "7",
        "+",
        "U.S.",
        "Mr.",
        "Lee",
        "12",
        "km,",
        "half",
        "of",
        "them",
    ]
)
sentence = st.lists(WORDS, min_size=1, max_size=9).map(" ".join).map("We see {}.".format)
equation = st.tuples(st.integers(1, 99), st.integers(1, 99)).map(lambda p: f"{p[0]}+{p[1]}={sum(p)}")
chinese = st.integers(1, 99).map("他又买了{}个苹果。".format)
formula = st.integers(1, 99).map("So $x = {}. y = 2$ holds.".format)
line = st.one_of(sentence, equation, chinese, formula)
rationale = st.lists(line, min_size=1, max_size=5).map("\n".join)
answer = st.one_of(
    st.integers(-9999, 9999).map(str),
    st.decimals(-99, 99, places=2, allow_nan=False).map(str),
    st.sampled_from(
        ["\\frac{3}{8}", "(2,3)", "Evelyn", "yes", "U.S.", "x = 5", "C", "New York", "18 km", "50%"]
    ),
)
ENDINGS = (
    "#### {}", "The answer is: {}", "The answer is {}.", "#### {0}\nThe answer is: {0}", "**Answer:** {}",
    "So the final answer is $\\boxed{{{}}}$.", "\\[\n\\boxed{{{}}}\n\\]", "**The answer is: {}**",
    "Answer: {}", "<answer>{}</answer>",
)  # fmt: skip
ending = st.sampled_from(ENDINGS)
MARKER = re.compile(r"####|\\boxed|the answer is|\banswer:", re.IGNORECASE)


def squeezed(text: str) -> str:
    return "".join(text.split())


@quick
@given(rationale, answer, ending)
def test_what_was_put_together_comes_apart(reasoning: str, value: str, form: str) -> None:
    separated = separate(f"{reasoning}\n{form.format(value)}")
    assert (separated.rationale, separated.answer) == (reasoning, value)
    again = separate(separated.rationale)
    assert (again.rationale, again.answer) == (reasoning, None)


@quick
@given(
    rationale,
    answer,
    ending,
    st.sampled_from(["answer", "solution", "response", "messages", "cot", "completion"]),
)
def test_every_column_gives_the_same_example(reasoning: str, value: str, form: str, column: str) -> None:
    text = f"{reasoning}\n{form.format(value)}"
    row: dict[str, object] = {"question": "How many?", column: text}
    if column == "cot":
        row["answer"] = value
    elif column == "messages":
        row = {column: [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": text}]}
    example = read(row)
    assert (example.question, example.answer) == ("How many?", value)
    assert all(step.strip() and "\n" not in step and not MARKER.search(step) for step in example.steps)
    # Commas between bare equations are layout; here every line is a step's end.
    assert squeezed("".join(example.steps)) == squeezed(reasoning)


@quick
@given(st.lists(line, min_size=2, max_size=6), st.sampled_from(["{}. ", "{}) ", "Step {}: ", "- ", "* "]))
def test_numbers_and_bullets_of_lines_go_and_nothing_else(lines: list[str], mark: str) -> None:
    text = "\n".join(mark.format(number) + one for number, one in enumerate(lines, 1))
    assert split_steps(text) == tuple(lines)


fragment = st.sampled_from(
    [
        "The answer is",
        "The answer is:",
        " 18",
        "#### 18",
        "####",
        "\\boxed{",
        "}",
        "\\boxed{18}",
        "$",
        "\n",
        "\n\n",
        ". ",
        " ",
        "Answer:",
        "**",
        "3+4=7",
        ", ",
        "<<3+4=7>>",
        "She has 3.5 apples",
        "So",
        "\\[",
        "\\]",
        "<think>",
        "</think>",
        "<answer>",
        "</answer>",
        "(C)",
        "Option B",
        "is correct",
        "1. ",
        "2) ",
        "Step 1:",
        "- ",
        "<br>",
        "\\\\",
        "\\begin{align*}",
        "\\end{align*}",
        "&=",
        "。",
        "他有3个",
        "[",
        "'a'",
        "]",
        "{",
        "…",
        "!",
        "?",
        "U.S.",
        "Mr. Lee",
        "−5",
        "70,000",
        "x = 5",
        "\u2028",
        "\r\n",
        "\t",
        "because",
        "A) 10",
        "B) 15",
        "\\n",
        "\ufeff",
    ]
)
anything = st.one_of(st.lists(fragment, max_size=12).map("".join), st.text(max_size=30))
value_of_any_kind = st.one_of(
    anything, st.none(), st.integers(0, 3), st.booleans(), st.floats(),
    st.lists(st.one_of(anything, st.none()), max_size=3),
    st.dictionaries(st.sampled_from(["A", "B", "text", "label"]), anything, max_size=3),
    anything.map(lambda text: [{"role": "user", "content": text}, {"role": "assistant", "content": text}]),
)  # fmt: skip


NAMES = (
    "question", "answer", "steps", "cot", "solution", "options", "messages", "label", "final_answer",
    "context", "instruction", "input", "output", "id",
)  # fmt: skip


@settings(quick, max_examples=250)
@given(st.dictionaries(st.sampled_from(NAMES), value_of_any_kind, min_size=2, max_size=5))
def test_any_row_is_an_example_or_a_defect(row: dict[str, object]) -> None:
    try:
        example = read(row)
    except (DataError, RowDefect):  # anything else is a fault
        return
    assert example.question.strip()
    assert example.answer == example.answer.strip() != ""
    assert answer_defect(example.answer) is None
    assert all(step.strip() for step in example.steps)
    written = {
        "question": example.question,
        "steps": list(example.steps),
        "answer": example.answer,
        "id": example.id,
    }
    assert read(json.loads(json.dumps(written))) == example


kind_of_answers = st.sampled_from(
    [
        ["7", "-3", "$1,200", "12%", "3.5"], ["yes", "no"], ["Evelyn", "New York", "U.S.", "A and B"],
        ["A", "C", "B"], ["true", "false"],
    ]
)  # fmt: skip


@settings(quick, max_examples=40)
@given(st.data(), kind_of_answers, ending)
def test_what_is_accepted_its_scorer_can_read(data: st.DataObject, kind: list[str], form: str) -> None:
    """The scorer that is chosen for a set reads every gold, and counts it right where a model writes it."""
    golds = data.draw(st.lists(st.sampled_from(kind), min_size=3, max_size=6))
    texts = [f"{data.draw(rationale)}\n{form.format(gold)}" for gold in golds]
    examples = [read({"question": f"Q{place}?", "answer": text}) for place, text in enumerate(texts)]
    scorer = scorer_for(AUTO, examples)
    for example in examples:
        gold = scorer.parse_gold(example.answer)
        assert gold is not None
        assert scorer.correct(f"{ANSWER_PROMPT} {example.answer}", example.answer)
        assert not scorer.correct(f"{ANSWER_PROMPT} quite another", example.answer)


@settings(quick, max_examples=250)
@given(st.dictionaries(st.sampled_from(NAMES), value_of_any_kind, min_size=2, max_size=5))
def test_a_row_alone_is_read_by_the_scorer_chosen_for_it_or_refused(row: dict[str, object]) -> None:
    try:
        example = read(row)
        scorer = scorer_for(AUTO, [example])
    except (CodiError, RowDefect):  # with its reason
        return
    if scorer.name != "math":  # each of its comparisons is a process's
        assert scorer.correct(f"{ANSWER_PROMPT} {example.answer}", example.answer)


@settings(quick, max_examples=40)
@given(st.lists(st.tuples(rationale, answer), min_size=1, max_size=4))
def test_written_examples_load_the_same(tmp_path: Path, parts: list[tuple[str, str]]) -> None:
    rows = [{"question": f"Q{n}?", "answer": f"{why}\n#### {value}"} for n, (why, value) in enumerate(parts)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    examples, _ = load_examples(str(tmp_path / "in.jsonl"))
    write_jsonl(examples, tmp_path / "out.jsonl")
    assert load_examples(str(tmp_path / "out.jsonl"))[0] == examples


@quick
@given(st.lists(st.text(max_size=20), min_size=1, max_size=5))
def test_lists_as_python_and_numpy_write_them(texts: list[str]) -> None:
    assert written_list(repr(texts)) == texts
    assert written_list("[" + "\n ".join(map(repr, texts)) + "]") == texts
    assert written_list(json.dumps(texts)) == texts


def read(row: dict[str, object]) -> Example:
    layout = resolve_layout(tuple(row), None, "'in.jsonl'")
    return example_from_row(row, layout, fallback_id="in:1", steps_rule="auto")
