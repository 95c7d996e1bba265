"""What an annotation did: asked, kept, set apart for which reasons, tokens."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Account:
    """What was done, told as it happens, so that it can be read after an error. earlier: in runs before."""

    accepted: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    earlier: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    tokens_untold: int = 0
    """Replies without the number of their tokens."""
    rationale_from: Counter[str] = field(default_factory=Counter)
    """Rationales kept, by where in the reply they stood."""
    repeated: int = 0
    """Examples with the question and answer of an earlier one."""
    given_up: int = 0
    """Questions that were under way when the run stopped, and are asked again by the next."""
    refused: int = 0
    """Questions refused when the run stopped for that, and asked again by the next."""

    @property
    def asked(self) -> int:
        """Questions that got an answer in this run, or were set apart."""
        return self.accepted + sum(self.rejected.values())

    def describe(self) -> str:
        """One line for the terminal."""
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(self.rejected.items()))
        line = (
            f"{self.asked} asked ({self.earlier} were done before): {self.accepted} kept"
            f"{f'; set apart: {reasons}' if reasons else ''}. Tokens: {self.prompt_tokens:,} read, "
            f"{self.completion_tokens:,} written."
        )
        if self.tokens_untold:
            line += f" {self.tokens_untold} replies did not tell their tokens."
        elsewhere = [f"{n} from {name}" for name, n in self.rationale_from.items() if name != "content"]
        if elsewhere:
            line += f" Rationales: {self.rationale_from['content']} from content, {', '.join(elsewhere)}."
        if self.repeated:
            line += f" {self.repeated} repeated an earlier question and answer: asked once."
        if again := self.given_up + self.refused:
            line += f" {again} more will be asked again by the same command."
        return line
