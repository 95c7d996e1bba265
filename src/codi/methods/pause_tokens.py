"""Pause tokens (Goyal et al., 2024, arXiv 2310.02226): more computation, but no continuous thought.

    Q  <bot> p_1 p_2 ... p_6  <eot>  The answer is : 12 eos         every p_i is the same learned embedding

The control that separates "more positions to compute at" from "a thought that is fed back": as many inputs
as CODI has latents, none of which depends on the state before it, so all of them are read in one pass.
The constant is a learned row of its own, `<pause>`; the loss covers the answer alone, as in the paper's
baseline. Checkpoints from before it had one use the row of `<bot>`, and still do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from codi.data.encoding import TextEncoder
from codi.errors import RecipeError, UsageError
from codi.methods.method import Batch, Start, append, predicted_after, register
from codi.methods.no_cot_sft import NoCotSft
from codi.modeling.context import Tokens
from codi.modeling.model import ThoughtModel

PAUSE = "<pause>"


@register
@dataclass(frozen=True)
class PauseTokens(NoCotSft):
    """No-CoT-SFT (same segments, same loss) with constant inputs between question and answer."""

    name: ClassVar[str] = "pause-tokens"
    rows: ClassVar[tuple[str, ...]] = (PAUSE,)

    pauses: int = 6
    """Constant inputs between <bot> and <eot>; 0 leaves <bot><eot> alone."""

    def __post_init__(self) -> None:
        if self.pauses < 0:
            raise RecipeError(f"method.pauses is {self.pauses}; it must be 0 or more.")

    def loss(
        self, model: ThoughtModel, batch: Batch, divisors: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """-1/N sum log P(y_i | y_<i, p_1..p_n, Q)."""
        n = divisors or self.divisors(batch)
        paused = model.read(append(Tokens.of(batch, "question"), self._pauses(model))).context
        loss = predicted_after(model, paused, Tokens.of(batch, "student")) / n["student"]
        return {"loss": loss, "student": loss}

    def thought_positions(self, latents: int | None = None) -> int:
        """<bot>, the pauses, <eot>."""
        return 2 + self.pauses

    def start(
        self, model: ThoughtModel, text: TextEncoder, question: Tokens, mode: str, latents: int | None = None
    ) -> Start:
        """Question, pauses and answer prompt in one pass. Raises UsageError when `latents` are asked for."""
        if latents is not None:
            raise UsageError(
                "A pause-tokens model has no latents; its number of pauses is fixed by training."
            )
        context = model.read(append(question, self._pauses(model) + text.prompt_ids)).context
        return Start(context, written=text.prompt_ids, thoughts=self.pauses + 2, passes=1)

    def _pauses(self, model: ThoughtModel) -> list[int]:
        """<bot> p_1..p_n <eot>."""
        pause = model.row_id(PAUSE) if PAUSE in model.row_names else model.bot_id
        return [model.bot_id, *[pause] * self.pauses, model.eot_id]
