"""The page: ask a question, see the thoughts come, change what is fed back, compare the answers.

The model runs in a worker thread, so a slow answer never holds up the server; what is thought meanwhile
reaches the page through a queue. Each tab has a `ThoughtPage` of its own over the one shared session.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from nicegui import run, ui
from nicegui.events import GenericEventArguments

from codi.errors import CodiError
from codi.generation.decoded_thoughts import DecodedToken
from codi.serving.thought_card import ThoughtCard, heading
from codi.serving.thought_panels import show_answers, show_attention, show_tables
from codi.serving.thought_session import KEEP, Asked, Thoughts, ThoughtSession

BLUE = "#1565c0"  # white text on it is readable; NiceGUI's own blue is too light for that
STYLE = Path(__file__).with_name("thought_page.css")
# What is asked travels with the click. Events of a page that is still connecting arrive in any order, so the
# text that the server last heard of may be older than what stands in the box.
_WITH_THE_BOX = "() => emit(document.querySelector('.question textarea').value)"
_BEFORE, _AFTER = "before the changes", "with the changes"


class ThoughtPage:
    """One tab. Building it builds the page."""

    def __init__(self, session: ThoughtSession, name: str) -> None:
        self.session = session
        self.asked: Asked | None = None
        self.changed: Thoughts | None = None
        self.changes: dict[int, str] = {}
        self.selected = 0
        self.attention = _BEFORE
        self.cards: list[ThoughtCard] = []
        self.example = 0
        self.client = ui.context.client
        ui.on_exception(self._failed)
        ui.add_css(STYLE)
        ui.colors(primary=BLUE)
        with ui.element("main").classes("page"):
            heading("What the model thinks", 1)
            ui.label(
                f"{name}: {session.reasoner.method.name}, {session.latents} continuous thoughts, "
                f"on {session.reasoner.model.device}"
            ).classes("small")
            self._build_question()
            self.message = ui.element("div").classes("message")
            self.message.props["role"] = "alert"
            self.thoughts_area = ui.element("section")
            self.answers_area = ui.element("section")
            self.answers_area.props["aria-live"] = "polite"
            self.attention_area = ui.element("section")

    def _build_question(self) -> None:
        examples = self.session.examples
        self.question = ui.textarea("Question", value=examples[0].question if examples else "")
        self.question.props("outlined autogrow maxlength=20000").classes("question")
        self.question.on("keydown.enter.prevent", self._ask_box, js_handler=_WITH_THE_BOX)
        with ui.row().classes("buttons"):
            self.ask_button = ui.button("Ask").props("no-caps unelevated")
            self.ask_button.on("click", self._ask_box, js_handler=_WITH_THE_BOX)
            if len(examples) > 1:
                another = ui.button("Another example", on_click=self.next_example)
                another.props("no-caps outline")

    def next_example(self) -> None:
        """Fill in the next problem of the test split."""
        self.example = (self.example + 1) % len(self.session.examples)
        self.question.value = self.session.examples[self.example].question

    async def _ask_box(self, event: GenericEventArguments) -> None:
        await self.ask(str(event.args))

    async def ask(self, question: str) -> None:
        """Ask a question: its thoughts appear as they come, then the rest."""
        if not self.ask_button.enabled:
            return
        self._clear()
        self.ask_button.disable()
        self.ask_button.props("loading")
        try:
            asked = await self._ask(question.strip())
        except CodiError as error:
            self._say(str(error), "error")
            return
        finally:
            if not self.client.is_deleted:
                self.ask_button.enable()
                self.ask_button.props(remove="loading")
        if asked is not None and not self.client.is_deleted:
            self._show(asked)

    async def _ask(self, question: str) -> Asked | None:
        """None when the server stops meanwhile, or the tab was closed."""
        loop, thoughts = asyncio.get_running_loop(), asyncio.Queue[tuple[int, list[DecodedToken]] | None]()

        def arrived(number: int, tokens: list[DecodedToken]) -> None:
            loop.call_soon_threadsafe(thoughts.put_nowait, (number, tokens))

        asking = asyncio.ensure_future(run.io_bound(self.session.ask, question, arrived))
        asking.add_done_callback(lambda _: thoughts.put_nowait(None))
        while (thought := await thoughts.get()) is not None:
            if not self.client.is_deleted:
                self._add_thought(*thought)
        return await asking

    def _add_thought(self, number: int, tokens: list[DecodedToken]) -> None:
        if not self.cards:
            with self.thoughts_area:
                with ui.row().classes("title-row"):
                    heading("Thoughts", 2)
                    self.reset = ui.button("Keep all", on_click=self.keep_all).props("no-caps flat dense")
                    self.reset.set_visibility(False)
                self.row = ui.element("div").classes("thoughts")
        with self.row:
            card = ThoughtCard(number, self.session.choices(), self.select, self.change)
            card.show(tokens)
        self.cards.append(card)

    def _show(self, asked: Asked) -> None:
        self.asked = asked
        if asked.unknown_words:
            self._say(
                f"The model's tokenizer does not know: {', '.join(asked.unknown_words)}. It reads each "
                "as the same unknown word, so the answer cannot depend on which one it is.",
                "warning",
            )
        for card, tokens in zip(self.cards, asked.thoughts.tokens, strict=True):
            card.complete(tokens)
        self.attention = _BEFORE
        self.select(0)
        self._show_answers()

    def select(self, number: int) -> None:
        """Show what this thought attended to."""
        self.selected = number
        for card in self.cards:
            card.mark(selected=card.number == number)
        self._show_attention(self.attention)

    async def change(self) -> None:
        """Think anew with what the cards say is fed back. A later change overtakes an earlier one."""
        changes = {card.number: card.choice for card in self.cards if card.choice != KEEP}
        asked = self.asked
        if asked is None or changes == self.changes:
            return
        self.changes = changes
        changed = await run.io_bound(self.session.change, asked, changes) if changes else None
        if self.client.is_deleted or self.asked is not asked or self.changes != changes:
            return
        self.changed = changed
        self.reset.set_visibility(bool(changes))
        first = min(changes, default=len(self.cards))
        for card, usual in zip(self.cards, asked.thoughts.tokens, strict=True):
            later = changed is not None and card.number > first
            card.show_changed(changed.tokens[card.number] if changed and later else None, usual)
            card.mark_choice()
        self._show_answers()
        self._show_attention(_AFTER if changed else _BEFORE)

    def keep_all(self) -> None:
        """Undo every change."""
        for card in self.cards:
            card.select.value = KEEP

    def _show_answers(self) -> None:
        assert self.asked is not None
        self.answers_area.clear()
        with self.answers_area:
            heading("Answer", 2)
            show_answers(self.asked, self.changes, self.changed)

    def _show_attention(self, which: str) -> None:
        if self.asked is None:
            return
        self.attention = which
        self.attention_area.clear()
        with self.attention_area:
            with ui.row().classes("title-row"):
                heading(f"What z{self.selected + 1} attended to", 2)
                if self.changed is not None:
                    toggle = ui.toggle([_BEFORE, _AFTER], value=which).props("no-caps unelevated")
                    toggle.on_value_change(lambda event: self._show_attention(event.value))
            shown = self.changed if which == _AFTER and self.changed is not None else self.asked.thoughts
            show_attention(self.asked, shown, self.selected)
            show_tables(self.asked, shown, self.selected)

    def _clear(self) -> None:
        self.asked, self.changed, self.changes, self.cards = None, None, {}, []
        for area in (self.message, self.thoughts_area, self.answers_area, self.attention_area):
            area.clear()

    def _say(self, text: str, kind: str) -> None:
        if self.client.is_deleted:
            return
        self.message.clear()
        with self.message, ui.row().classes(f"message-row {kind}"):
            ui.icon("error_outline" if kind == "error" else "warning_amber", size="sm")
            ui.label(text)

    def _failed(self, error: Exception) -> None:
        self._say(f"This did not work: {error}. The server's terminal has the whole story.", "error")
