"""What replies of every shape say, and which of them are kept with which steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chat_endpoint import said
from codi.data.example import Example
from codi.data.sources import load_examples
from codi.data.thinking import split_thinking
from codi.evaluation.annotation_replies import NotAReply, parse_body, read_reply
from codi.evaluation.annotation_verdict import Verdict, clean_steps, judge, kind_of
from codi.evaluation.scorers import get_scorer

STEPS = ("Six trays of 8 are 48 rolls.", "After 30 are sold, 18 are left.")
RATIONALE = " ".join(STEPS)


def verdict(content: Any, gold: str = "18", *, use_reasoning: bool = False, **message: Any) -> Verdict:
    finish = message.pop("finish", "stop")
    reply = read_reply(parse_body(json.dumps(said(content, finish, **message)).encode()))
    scorer = get_scorer("number" if gold[-1:].isdigit() else "letter")
    return judge(reply, Example("q", "How many?", (), gold), scorer, use_reasoning=use_reasoning)


@pytest.mark.parametrize(
    "content",
    [
        f"{RATIONALE}\nThe answer is: 18",
        f"{RATIONALE}\n\n**The answer is: 18**",
        f"{RATIONALE} **The answer is:** 18.",
        f"{RATIONALE}\n\n__The answer is: 18__",
        f"{RATIONALE}\nThe answer is: **$18**",
        f"{RATIONALE}\n\n## Final answer\n\n**18**",
        f"{RATIONALE}\n\\[\\boxed{{18}}\\]",
        f"{RATIONALE}\nThe answer is: $\\boxed{{18}}$",
        f"{RATIONALE}\n#### 18",
        f"{RATIONALE} So, the answer is: 18 rolls",
        f"The answer is: 18\n\n{RATIONALE}",
        f"{RATIONALE}\nThe answer is: 18\n\nLet me know if you have another question!",
        f"**Reasoning:** {RATIONALE}\n\n**Answer:** 18",
        f"<think>Is it 3 + 5? The answer is: 8? No.</think>\n{RATIONALE}\nThe answer is: 18",
        f"Hm, 3 + 5?</think>{RATIONALE}\nThe answer is: 18",
        f"◁think▷Hm.◁/think▷{RATIONALE}\nThe answer is: 18",
        f"<thinking>\nHm.\n</thinking>\n\n{RATIONALE}\nThe answer is: 18<|im_end|>",
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>"
        f"{RATIONALE}\nThe answer is: 18",
        f"[THINK]Hm.[/THINK]{RATIONALE}\nThe answer is: 18",
        "\n".join(f"**Step {n}:** {step}" for n, step in enumerate(STEPS, 1)) + "\nThe answer is: 18",
        "\n".join(f"{n}. {step}" for n, step in enumerate(STEPS, 1)) + "\n\nThe answer is: 18",
        "\n\n".join(f"### Step {n}\n{step}" for n, step in enumerate(STEPS, 1)) + "\n\nThe answer is: 18",
        "\n".join(f"- {step}" for step in STEPS) + "\n- The answer is: 18",
        "\n".join(f"> {step}" for step in STEPS) + "\n>\n> The answer is: 18",
        "```\n" + "\n".join(STEPS) + "\n```\nThe answer is: 18",
        "\ufeff" + "\r\n".join(STEPS) + "\r\nThe answer is: 18\r\n",
        [{"type": "text", "text": f"{RATIONALE}\nThe answer is: 18"}],
        [{"type": "output_text", "text": RATIONALE}, {"type": "output_text", "text": "The answer is: 18"}],
        [
            {"type": "thinking", "thinking": [{"type": "text", "text": "Hm. The answer is: 8?"}]},
            {"type": "text", "text": f"{RATIONALE}\nThe answer is: 18"},
        ],
        {"type": "text", "text": {"value": f"{RATIONALE}\nThe answer is: 18"}},
        json.dumps({"steps": STEPS, "answer": 18}),
        "```json\n"
        + json.dumps({"steps": [{"explanation": step} for step in STEPS], "final_answer": "18"})
        + "\n```",
        {"reasoning": RATIONALE, "answer": "18"},
    ],
)
def test_steps_are_clean_whatever_surrounds_them(content: Any) -> None:
    assert verdict(content) == Verdict(STEPS)


def test_what_is_kept_trains_as_it_is(tmp_path: Path) -> None:
    written = [
        f"1. {STEPS[0]}\n2. {STEPS[1]}\nThe answer is: 18",
        "6 * 8 = 48\n48 - 30 = 18\nThe answer is: 18",
        "We have $6 \\cdot 8 = 48$.\n\n$$48 - 30 = 18$$\n\n\\boxed{18}",
        "The box holds 48.\nShe answers: 18 are left.\nThe answer is: 18",
    ]
    steps = [list(verdict(content).steps) for content in written]
    rows = [{"question": f"{n}?", "steps": found, "answer": "18"} for n, found in enumerate(steps)]
    (tmp_path / "kept.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    examples, _ = load_examples(str(tmp_path / "kept.jsonl"))
    assert [list(example.steps) for example in examples] == steps
    assert all(len(found) == 2 for found in steps)


def test_lines_are_the_writers_own_marks() -> None:
    assert verdict("6 * 8 = 48\n48 - 30 = 18\nThe answer is: 18").steps == ("6 * 8 = 48", "48 - 30 = 18")
    table = (
        "| what | count |\n|---|---|\n| baked | 6 * 8 = 48 |\n| left | 48 - 30 = 18 |\n\nThe answer is: 18"
    )
    assert verdict(table).steps == ("baked, 6 * 8 = 48", "left, 48 - 30 = 18")
    assert clean_steps("$6 \\times 8 = 48$\n\n$$48 - 30 = 18$$") == ("$6 \\times 8 = 48$", "$$48 - 30 = 18$$")
    assert clean_steps("1. Bake:\n   - 6 * 8 = 48\n2. Sell:\n   - 48 - 30 = 18") == (
        "Bake: 6 * 8 = 48", "Sell: 48 - 30 = 18",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("written", "gold"), [("−5", "-5"), ("\\$1,200", "1200"), ("**(B)**", "B"), ("B) blue", "B")]
)
def test_answers_as_models_write_them(written: str, gold: str) -> None:
    assert verdict(f"It fell. So it is this.\nThe answer is: {written}", gold).reason is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("reasoning_content", RATIONALE),
        ("reasoning", RATIONALE),
        ("thinking", RATIONALE),
        (
            "reasoning_details",
            [{"type": "reasoning.text", "text": RATIONALE}, {"type": "reasoning.encrypted", "data": "x"}],
        ),
        ("reasoning_details", [{"type": "reasoning.summary", "summary": RATIONALE}]),
        ("thinking_blocks", [{"type": "thinking", "thinking": RATIONALE, "signature": "x"}]),
    ],
)
def test_the_reasoning_is_read_where_the_content_has_none(field: str, value: Any) -> None:
    kept = Verdict(STEPS, rationale_from=field)
    assert verdict("The answer is: 18", **{field: value}) == kept
    assert verdict("18", **{field: value}) == kept
    other = "It is 18, of course.\nThe answer is: 18"
    assert verdict(other, **{field: value}) == Verdict(("It is 18, of course.",))
    assert verdict(other, use_reasoning=True, **{field: value}) == kept
    assert verdict(other, use_reasoning=True).steps == ("It is 18, of course.",)


@pytest.mark.parametrize("content", [None, "", "  ", []])
def test_an_empty_answer_is_read_from_the_reasoning_or_says_where_it_is(content: Any) -> None:
    answered = verdict(content, reasoning_content=f"{RATIONALE}\nThe answer is: 18")
    assert answered == Verdict(STEPS, rationale_from="reasoning_content")
    reason = verdict(content, reasoning_content="Hm, 48 rolls,\nor 30? " * 40).reason or ""
    assert reason.startswith("empty answer; the reasoning came in reasoning_content: Hm, 48 rolls, or 30? Hm")
    assert reason.endswith("...")
    assert len(reason) < 300
    assert kind_of(reason) == "empty answer"
    assert verdict(content).reason == "empty answer"
    assert verdict(content, reasoning="The answer is: 17. Yes.").reason == "wrong answer"


def test_thinking_in_tags_is_the_reasoning() -> None:
    assert verdict(f"<think>{RATIONALE}</think>\nThe answer is: 18") == Verdict(
        STEPS, rationale_from="<think>"
    )
    assert verdict(f"<reasoning>{RATIONALE}</reasoning>\n<answer>18</answer>").steps == STEPS
    assert verdict(f"<think>{RATIONALE}</think>18").steps == STEPS
    unclosed = verdict("<think>\nHm, let me see")
    assert unclosed.reason == "empty answer; the reasoning came in <think>: Hm, let me see"
    assert verdict("<think>\nHm, let me see", finish="length").reason == "cut off"
    assert split_thinking("a <think>b <think>c</think> d</think> e<think>f") == ("a  e", "b c d" + "f")
    assert split_thinking("if x < thinkers and y > 2") == ("if x < thinkers and y > 2", "")


@pytest.mark.parametrize(
    ("content", "message", "reason"),
    [
        (f"{RATIONALE}\nThe answer is: 17", {}, "wrong answer"),
        (f"{RATIONALE}\nThe answer is: many", {}, "unreadable answer"),
        (RATIONALE, {}, "without 'The answer is:'"),
        ("The answer is: 18", {}, "no reasoning"),
        (RATIONALE, {"finish": "length"}, "cut off"),
        ("", {"finish": "content_filter"}, "content filter"),
        ("Half", {"finish": "SAFETY"}, "content filter"),
        (None, {"refusal": "No."}, "refused by the model: No."),
        ([{"type": "refusal", "refusal": "No."}], {}, "refused by the model: No."),
        (None, {"tool_calls": [{"function": {"name": "sum"}}]}, "empty answer: the model called a tool"),
    ],
)
def test_what_is_set_apart_says_why(content: Any, message: dict[str, Any], reason: str) -> None:
    assert verdict(content, **message).reason == reason


def test_what_is_no_reply_says_what_it_is() -> None:
    for body, told in [
        ("<html><head><title>Bad gateway</title></head></html>", r"web page \(Bad gateway\)"),
        ("", "answered nothing"),
        ("ok", "no JSON: ok"),
        ({"ok": True}, "without choices"),
        ({"choices": [{}]}, "no message"),
        ([1, 2], "without choices"),
    ]:
        with pytest.raises(NotAReply, match=told):
            read_reply(body)
    for body, status in [
        ({"error": {"message": "x", "code": 429}}, 429),
        ({"error": "x"}, 400),
        ({"choices": [{"error": {"message": "x", "code": 502}, "message": {}}]}, 502),
        ({"choices": [{"finish_reason": "error", "message": {"content": "Half"}}]}, 503),
    ]:
        with pytest.raises(NotAReply) as refused:
            read_reply(body)
        assert (refused.value.status, refused.value.error is not None) == (status, True)
    assert read_reply({"choices": [], "prompt_filter_results": [{"hate": {"filtered": True}}]}).filtered
    assert not read_reply({"choices": None}).filtered
