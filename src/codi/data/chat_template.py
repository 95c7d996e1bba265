"""A question as an Instruct model expects it: a user's message in the chat template of its tokenizer.

    <|begin|><|user|>            Mia has 3 apples ...            <|end|><|assistant|>
    └────── the template's ─────┘└────── the question ──────┘└────── the template's ──────┘

What the template writes is the whole question: it opens the text itself, so that no other opening token is
put before it, and the model's turn begins where it ends.
"""

from __future__ import annotations

import re
from datetime import date
from typing import Any

from jinja2 import TemplateError

from codi.errors import RecipeError

FIXED_DATE = date(2024, 7, 26)
"""The day that stands where a template writes today's: what is asked later must be what was trained."""

_TODAY = re.compile(r"""strftime_now\(\s*(?P<quote>["'])(?P<form>.*?)(?P=quote)\s*\)""")
PROBE = "Mia has 3 apples and buys 4 more. How many apples does Mia have?"
"""A question to find out what a template writes around one."""


class ChatTemplate:
    """The template of one tokenizer, with the system message of a run.

    Raises RecipeError when the tokenizer has none, or one that cannot be used.
    """

    def __init__(self, tokenizer: Any, system_prompt: str) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise RecipeError(
                "text.chat_template is on, but the tokenizer has no chat template. Give the tokenizer of an "
                "Instruct model (tokenizer=HUB_ID_OR_FOLDER), or set text.chat_template=false."
            )
        self._tokenizer, self._system_prompt = tokenizer, system_prompt
        tokenizer.chat_template = _dated(self._template())  # the copy that a checkpoint keeps
        if PROBE not in self.wrapped(PROBE):
            raise RecipeError(
                "text.chat_template is on, but the tokenizer's template does not write the user's message "
                "out, so the model would never see a question. Give another tokenizer, or set "
                "text.chat_template=false."
            )

    @property
    def text(self) -> str:
        """The template and the system message: all that decides how a question is wrapped."""
        return f"{self._tokenizer.chat_template}\0{self._system_prompt}"

    def wrapped(self, question: str) -> str:
        """The question as the model reads it, up to where its own turn begins."""
        messages = [{"role": "user", "content": question}]
        if self._system_prompt:
            messages.insert(0, {"role": "system", "content": self._system_prompt})
        try:
            rendered = self._tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=False
            )
        except (TemplateError, TypeError, ValueError, LookupError) as error:
            asked = " with a system message (text.system_prompt)" if self._system_prompt else ""
            raise RecipeError(
                f"The tokenizer's chat template fails on one user message{asked}: {error}. Mend the template "
                "(chat_template.jinja beside the tokenizer), or set text.chat_template=false."
            ) from error
        return str(rendered)

    def _template(self) -> str:
        try:
            return str(self._tokenizer.get_chat_template())
        except ValueError as error:  # several by name, and none of them the default
            raise RecipeError(
                f"text.chat_template is on, but which of the tokenizer's templates is meant? {error}"
            ) from error


def _dated(template: str) -> str:
    """The template with FIXED_DATE where it asks for today's date."""
    fixed = _TODAY.sub(lambda call: f'"{FIXED_DATE.strftime(call["form"])}"', template)
    if "strftime_now(" in fixed:
        raise RecipeError(
            "The tokenizer's chat template writes today's date in a form of its own, so that a question "
            "asked tomorrow would not be the one trained today. Put a fixed date into the template "
            "(chat_template.jinja beside the tokenizer), or set text.chat_template=false."
        )
    return fixed
