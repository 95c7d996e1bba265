"""One thought on the page: what it decodes to, what is fed back for it, and what changes make of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from nicegui import ui

from codi.generation.decoded_thoughts import DecodedToken
from codi.serving.thought_session import KEEP, MEAN, SILENCE

CHOICE_NAMES = {KEEP: "keep it", SILENCE: "silence: zeros", MEAN: "mean of all thoughts"}


def choice_name(choice: str) -> str:
    """How a choice of `ThoughtSession.choices` reads on the page."""
    return CHOICE_NAMES.get(choice, f"{choice} instead")


def heading(text: str, level: int) -> ui.element:
    """A heading that screen readers find."""
    with ui.element(f"h{level}") as element:
        ui.label(text)
    return element


def details(token: DecodedToken) -> str:
    """All there is to say of a decoded token."""
    whole = f", whole number {token.whole}" if token.whole != token.token else ""
    return f"{token.token}: probability {token.share:.4f}{whole}"


class ThoughtCard:
    """A card of its own for thought `number`. Nothing can be changed until `complete` is called."""

    def __init__(
        self,
        number: int,
        choices: Sequence[str],
        on_select: Callable[[int], None],
        on_change: Callable[[], Any],
    ) -> None:
        self.number, self.name = number, f"z{number + 1}"
        with ui.card().classes("thought") as self.card:
            self.card.props["role"], self.card.props["aria-label"] = "group", f"Thought {self.name}"
            self.card.style(f"animation-delay: {60 * number}ms")
            self.title = ui.button(self.name, on_click=lambda: on_select(number))
            self.title.props("flat dense no-caps icon-right=visibility")
            self.title.props["aria-label"] = f"{self.name}: show what it attended to"
            with self.title:
                ui.tooltip(f"Show what {self.name} attended to")
            self.usual = ui.column().classes("bars")
            self.select = ui.select(
                {c: choice_name(c) for c in choices if c != self.name},
                value=KEEP,
                label=f"fed back for {self.name}",
                on_change=on_change,
            )
            self.select.props("dense outlined options-dense behavior=menu").classes("fed-back")
            self.select.disable()
            self.changed = ui.column().classes("bars changed")
            self.changed.set_visibility(False)

    @property
    def choice(self) -> str:
        """What is to be fed back."""
        return str(self.select.value)

    def show(self, tokens: Sequence[DecodedToken]) -> None:
        """What the thought decodes to, undisturbed."""
        self.usual.clear()
        with self.usual:
            _bars(tokens, "primary")

    def complete(self, tokens: Sequence[DecodedToken]) -> None:
        """Whole numbers are read too, and the thought may be changed."""
        self.show(tokens)
        self.select.enable()

    def show_changed(self, tokens: Sequence[DecodedToken] | None, usual: Sequence[DecodedToken]) -> None:
        """What it decodes to with the changes; None where no earlier thought was changed."""
        self.changed.clear()
        self.changed.set_visibility(tokens is not None)
        if tokens is None:
            return
        same = tokens[0].token == usual[0].token
        with self.changed:
            ui.label("with the changes" + (": same" if same else ": other")).classes("small")
            _bars(tokens, "grey-7" if same else "deep-orange-9")

    def mark(self, *, selected: bool) -> None:
        """Whether its attention is the one shown."""
        self.card.classes(add="selected" if selected else "", remove="" if selected else "selected")
        self.title.props["aria-pressed"] = "true" if selected else "false"
        self.title.update()

    def mark_choice(self) -> None:
        """Show at a glance whether something else is fed back."""
        changed = self.choice != KEEP
        self.select.classes(add="is-changed" if changed else "", remove="" if changed else "is-changed")


def _bars(tokens: Sequence[DecodedToken], color: str) -> None:
    for token in tokens:
        with ui.element("div").classes("bar") as bar:
            bar.props["role"], bar.props["aria-label"] = "img", details(token)
            ui.label(token.token).classes("token")
            fill = ui.linear_progress(token.share, size="10px", show_value=False, color=color)
            fill.props("rounded instant-feedback aria-hidden=true")
            ui.label(_percent(token.share)).classes("share")
            ui.tooltip(details(token))


def _percent(share: float) -> str:
    """Little is not nothing."""
    return f"{100 * share:.0f} %" if share >= 0.005 else "<1 %"
