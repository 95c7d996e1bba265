"""What stands below the thoughts: the answers, what a thought attended to, and all figures as tables."""

from __future__ import annotations

from collections.abc import Mapping

from nicegui import ui

from codi.data.answer_text import same_answer
from codi.serving.thought_card import choice_name, heading
from codi.serving.thought_session import KEEP, Asked, Thoughts, Timed

_NOTHING = "no answer"
_DARKEST = 0.6
"""Opacity behind the most attended word; black text stays readable on it."""


def show_answers(asked: Asked, changes: Mapping[int, str], changed: Thoughts | None) -> None:
    """The answer in thoughts, the one with changes beside it, and the one written out."""
    usual = asked.thoughts
    with ui.element("div").classes("answers"):
        with ui.card().classes("answer") as card:
            card.props["data-answer"] = "latent"
            heading("In continuous thoughts", 3)
            _value(usual.value, asked.gold)
            ui.label(_cost(asked.latent)).classes("small")
            ui.label(usual.text.strip()).classes("written")
        if changed is not None:
            with ui.card().classes("answer is-changed") as card:
                card.props["data-answer"] = "changed"
                heading("With the changes", 3)
                _value(changed.value, asked.gold)
                same = _same(changed.value, usual.value)
                was = "the same answer as before" if same else f"before: {usual.value or _NOTHING}"
                ui.label(was).classes("small")
                for number, change in sorted(changes.items()):
                    if change != KEEP:
                        ui.label(f"z{number + 1}: {choice_name(change)}").classes("small")
                ui.label(changed.text.strip()).classes("written")
        with ui.card().classes("answer") as card:
            card.props["data-answer"] = "explicit"
            heading("Written out by the same model", 3)
            if asked.explicit is None:
                ui.label("This model was not trained to write its reasoning out.").classes("small")
            else:
                _value(asked.explicit.answer.value, asked.gold)
                ui.label(_cost(asked.explicit)).classes("small")
                ui.label(asked.explicit.answer.text.strip()).classes("written")
                if not asked.explicit.answer.finished:
                    ui.label("Cut off: it did not stop by itself.").classes("small")


def _same(value: str | None, other: str | None) -> bool:
    """Whether two answers say the same: '1,000' and '1000' do."""
    if value is None or other is None:
        return value is other
    return same_answer(value, other) is True


def _value(value: str | None, gold: str | None) -> None:
    with ui.row().classes("value-row"):
        ui.label(value if value is not None else _NOTHING).classes("value")
        if gold is not None:
            right = _same(value, gold)
            ui.badge("right" if right else f"wrong: it is {gold}", color="green-9" if right else "red-9")


def _cost(timed: Timed) -> str:
    answer = timed.answer
    return f"{timed.milliseconds:.1f} ms, {answer.passes} passes, {answer.thoughts} thought tokens"


def show_attention(asked: Asked, thoughts: Thoughts, number: int) -> None:
    """The question's words and the earlier latents, shaded by how much thought `number` looked at each."""
    weights = thoughts.attention.mean(number).tolist()
    keys = thoughts.attention.keys[: len(weights)]
    # Attention without a purpose rests on the first token: it would outshine all others.
    largest = max(weights[1:])
    ui.label(
        f"Mean over layers and heads, in the pass that made z{number + 1}. The first token, on which "
        "attention without a purpose rests, is not shaded."
    ).classes("small")
    with ui.element("div").classes("words") as words:
        words.props["role"], words.props["aria-label"] = "group", "Attention over the question"
        for place, (word, weight) in enumerate(zip(asked.words, weights, strict=False)):
            label = _shaded(word.text, weight, weight / largest if place else 0.0)
            label.classes(add=("spaced " if word.spaced else "") + ("" if word.known else "unknown"))
    with ui.element("div").classes("words latents") as earlier:
        earlier.props["role"], earlier.props["aria-label"] = "group", "Attention over the earlier latents"
        for key, weight in list(zip(keys, weights, strict=True))[len(asked.words) :]:
            _shaded(key, weight, weight / largest).classes("latent")


def _shaded(text: str, weight: float, share: float) -> ui.label:
    label = ui.label(text).classes("word").style(f"--shade: {_DARKEST * share:.3f}")
    with label:
        ui.tooltip(f"{text}: {weight:.4f}")
    return label


def show_tables(asked: Asked, thoughts: Thoughts, number: int) -> None:
    """The same figures to read, copy, or reach by keyboard."""
    with ui.expansion("All figures as tables").classes("figures"):
        readings = [
            {
                "id": f"{thought}-{place}",
                "thought": f"z{thought + 1}",
                "token": token.token,
                "probability": f"{token.share:.4f}",
                "whole": token.whole,
            }
            for thought, tokens in enumerate(thoughts.tokens)
            for place, token in enumerate(tokens)
        ]
        titles = {"thought": "thought", "token": "token", "probability": "probability", "whole": "read whole"}
        _table("What each thought decodes to", titles, readings)
        attended = [
            {"id": str(place), "position": name, "weight": f"{weight:.4f}"}
            for place, (name, weight) in enumerate(thoughts.attention.top(number))
        ]
        title = f"What z{number + 1} attended to most"
        _table(title, {"position": "position", "weight": "weight"}, attended)


def _table(title: str, columns: dict[str, str], rows: list[dict[str, str]]) -> None:
    described = [{"name": n, "label": label, "field": n, "align": "left"} for n, label in columns.items()]
    table = ui.table(title=title, columns=described, rows=rows, row_key="id")
    table.props("flat dense bordered").classes("table")
