"""How a question is put and an answer written out, apart from any tokenizer."""

from __future__ import annotations

from dataclasses import dataclass

from codi.errors import RecipeError


@dataclass(frozen=True)
class TextFormat:
    """What stands around questions, steps and answers (paper, section 3.4 and Appendix G)."""

    answer_prompt: str = "The answer is:"
    answer_separator: str = " "
    """Between prompt and answer; empty for a prompt that ends in `{`."""
    answer_suffix: str = ""
    """After the answer, e.g. `}`."""
    question_suffix: str = ""
    """After the question; Coconut's published text has a line break there."""
    step_separator: str = " "
    """Between two steps."""
    step_suffix: str = ""
    """After every step; Coconut's published text has a line break there, and no separator."""
    distillation_token: str = "before-answer"
    """`before-answer`: the token right before the first answer token (with LLaMA-3 that is the lone space);
    `prompt-end`: the last token of the answer prompt, whatever follows it."""
    chat_template: bool = False
    """Ask each question as a user's message in the tokenizer's own chat template: for Instruct models."""
    system_prompt: str = ""
    """With `chat_template`: the system message before it. Empty leaves what the template does by itself."""

    def __post_init__(self) -> None:
        if self.distillation_token not in ("before-answer", "prompt-end"):
            raise RecipeError(
                f"distillation_token is '{self.distillation_token}', "
                "but it must be 'before-answer' or 'prompt-end'."
            )
        if not self.answer_prompt.strip():
            raise RecipeError(
                "answer_prompt is empty. Give the words before the answer, e.g. 'The answer is:'."
            )
        if self.chat_template and self.question_suffix:
            raise RecipeError(
                f"text.chat_template ends each question as the template says, but text.question_suffix asks "
                f"for {self.question_suffix!r} after it. Leave one of them out: text.question_suffix= or "
                "text.chat_template=false."
            )
        if self.system_prompt and not self.chat_template:
            raise RecipeError(
                "text.system_prompt is a message of the chat template, which is off. Set "
                "text.chat_template=true, or leave the system prompt out."
            )
