"""Pause tokens against a pass written out by hand, and what sets them apart from thoughts."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from codi.errors import RecipeError, UsageError
from codi.methods.method import build_method
from codi.methods.pause_tokens import PauseTokens
from tiny_models import EXAMPLES, encoded_batch, reasoner, tiny_model, word_encoder


@pytest.mark.parametrize("pauses", [0, 1, 6])
def test_loss_is_that_of_one_plain_pass(pauses: int) -> None:
    model, text, method = tiny_model("llama"), word_encoder(), PauseTokens(pauses=pauses)
    summed, tokens = torch.zeros(()), 0
    for example in EXAMPLES:
        answer = text.answer(example.answer).ids
        before = [*text.question(example.question), *[model.bot_id] * (1 + pauses), model.eot_id]
        embedded = model.embed(torch.tensor([before + answer]))
        logits = model.causal(inputs_embeds=embedded).logits[0, len(before) - 1 : -1]
        summed = summed + F.cross_entropy(logits, torch.tensor(answer), reduction="sum")
        tokens += len(answer)
    loss = method.loss(model, encoded_batch(method))["loss"]
    torch.testing.assert_close(loss, summed / tokens, rtol=1e-5, atol=0)


def test_the_constant_is_learned_and_counts_as_thought_tokens_in_one_pass() -> None:
    model, method = tiny_model("llama"), PauseTokens(pauses=4)
    method.loss(model, encoded_batch(method))["loss"].backward()
    assert model.thought_tokens.grad is not None
    assert model.thought_tokens.grad.abs().amax(1).min() > 0
    answer = reasoner(method, model).answer([EXAMPLES[0].question], max_new_tokens=5)[0]
    assert answer.thoughts == 6
    assert answer.passes == answer.answer_tokens + answer.finished  # nothing is read after the last token


def test_what_it_cannot_do_is_said() -> None:
    with pytest.raises(RecipeError, match="pauses is -1"):
        build_method({"name": "pause-tokens", "pauses": -1})
    asked = reasoner(PauseTokens(), tiny_model("llama"))
    with pytest.raises(UsageError, match="latents"):
        asked.answer(["How many?"], latents=3)
    with pytest.raises(UsageError, match="no latents"):
        asked.decode_thoughts("How many?")
