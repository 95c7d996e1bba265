"""Thoughts looked at and changed: what is looked at is what is served, and putting back the same is exact."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from codi.errors import UsageError
from codi.generation.decoded_thoughts import decoded_tokens, whole_readings
from codi.generation.latent_reasoner import LatentReasoner
from codi.interpretability.attention import attended, recorded_attention
from codi.interpretability.disturbed_answers import Replace
from codi.interpretability.patching import PatchKeysValues
from codi.interpretability.thinking import finish, think_through
from codi.methods.coconut import Coconut
from codi.methods.codi import Codi
from codi.methods.cot_sft import CotSft
from tiny_models import EXAMPLES, reasoner, tiny_model

QUESTIONS = [example.question for example in EXAMPLES]


def thinker(family: str = "gpt2", **changes: Any) -> LatentReasoner:
    return reasoner(Codi(), tiny_model(family, **changes))


def raw_pass(thinker: LatentReasoner, question: str) -> tuple[Any, Tensor]:
    """One plain forward pass of the base over Q <bot> z_1..z_n, and the thoughts read off it."""
    thinking = think_through(thinker, [question])
    model = thinker.model
    ids = torch.tensor([[*thinker.text.question(question), model.bot_id]])
    inputs = torch.cat([model.embed(ids), thinking.latents], 1)
    config = model.causal.config
    usual, config._attn_implementation = config._attn_implementation, "eager"
    with torch.no_grad():
        output = model.causal.base_model(inputs_embeds=inputs, output_attentions=True)
    config._attn_implementation = usual
    return output, thinking.thoughts


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2"])
def test_thoughts_are_those_of_the_raw_model(family: str) -> None:
    mind = thinker(family)
    output, thoughts = raw_pass(mind, QUESTIONS[0])
    made = output.last_hidden_state[:, -7:-1]  # at <bot>, z_1 .. z_5
    torch.testing.assert_close(made, thoughts, atol=1e-5, rtol=1e-4)
    table = mind.model.causal.get_output_embeddings().weight
    shares = (made[0] @ table.T).softmax(-1).topk(3)
    thinking = think_through(mind, [QUESTIONS[0]])
    decoded = decoded_tokens(mind.model, mind.text, thinking.thoughts, thinking.contexts, 3)[0]
    for thought in range(6):
        assert [token.share for token in decoded[thought]] == pytest.approx(
            shares.values[thought].tolist(), abs=1e-5
        )


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_attention_is_that_of_the_raw_model(family: str) -> None:
    mind = thinker(family)
    output, _ = raw_pass(mind, QUESTIONS[0])
    thinking, attention = attended(mind, QUESTIONS[0])
    asked = thinking.question.ids.shape[1]
    for thought in range(6):
        place = asked + thought  # <bot> makes z_1
        weights = torch.stack([layer[0, :, place, : place + 1] for layer in output.attentions])
        torch.testing.assert_close(attention.weights[thought], weights, atol=1e-5, rtol=1e-4)
    assert attention.rows == ["z1", "z2", "z3", "z4", "z5", "z6", "after z6", "answer"]
    assert attention.keys[asked] == "<bot>"
    assert attention.keys[asked + 3].startswith("z3=")
    assert len(attention.keys) == attention.weights[-1].shape[-1]


def test_attention_of_one_head_and_what_is_left_out() -> None:
    _, attention = attended(thinker(), QUESTIONS[0])
    one = attention.mean(2, layer=1, head=3)
    torch.testing.assert_close(one, attention.weights[2][1, 3])
    names = [name for name, _ in attention.top(2, top_k=99)]
    assert len(names) == attention.weights[2].shape[-1] - 1  # the first token
    shares = [share for _, share in attention.top(2)]
    assert len(shares) == 10
    assert shares == sorted(shares, reverse=True)
    with pytest.raises(UsageError, match="no layer 7"):
        attention.mean(0, layer=7)


def test_recording_leaves_the_model_as_it_was() -> None:
    mind = thinker("llama")
    before = finish(mind, think_through(mind, QUESTIONS).start)
    usual = mind.model.causal.config._attn_implementation
    with recorded_attention(mind.model) as passes:
        think_through(mind, QUESTIONS[:1])
    assert len(passes) == 8
    assert mind.model.causal.config._attn_implementation == usual
    assert finish(mind, think_through(mind, QUESTIONS).start) == before
    assert len(passes) == 8


@pytest.mark.parametrize("method", [Codi(), Codi(latents=2), Coconut(max_stage=3)])
def test_looked_at_is_served(method: Any) -> None:
    mind = reasoner(method, tiny_model("llama", projection=isinstance(method, Codi)))
    served = [answer.text for answer in mind.answer(QUESTIONS, max_new_tokens=6)]
    assert finish(mind, think_through(mind, QUESTIONS).start, max_new_tokens=6) == served


def test_batch_of_one_equals_batch_of_n() -> None:
    mind = thinker("llama")
    together = think_through(mind, QUESTIONS)
    for row, question in enumerate(QUESTIONS):
        alone = think_through(mind, [question])
        torch.testing.assert_close(alone.thoughts[0], together.thoughts[row], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(alone.latents[0], together.latents[row], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_putting_back_the_same_is_exact(family: str) -> None:
    mind = thinker(family)
    own = think_through(mind, QUESTIONS)
    for which in (None, frozenset({2})):
        again = think_through(mind, QUESTIONS, watcher=Replace(own.latents, which))
        assert torch.equal(again.start.context.last_hidden, own.start.context.last_hidden)
    for thought in (0, 5):
        again = think_through(mind, QUESTIONS, watcher=PatchKeysValues(own, thought))
        assert torch.equal(again.start.context.last_hidden, own.start.context.last_hidden)


def test_patched_keys_and_values_reach_the_answer() -> None:
    mind = thinker("llama")
    question = "Mia has 3 apples. She finds 5 more."
    other = "Tom has 9 stamps. He loses 2 more."
    donor, own = think_through(mind, [other]), think_through(mind, [question])
    assert donor.question.ids.shape == own.question.ids.shape
    patched = think_through(mind, [question], watcher=PatchKeysValues(donor, 5))
    assert not torch.allclose(patched.start.context.last_hidden, own.start.context.last_hidden)
    # The last thought is fed and then overwritten: the thoughts themselves stay.
    assert torch.equal(patched.thoughts, own.thoughts)


def test_silencing_changes_later_thoughts_only() -> None:
    mind = thinker()
    own = think_through(mind, QUESTIONS)
    silenced = think_through(mind, QUESTIONS, watcher=Replace(torch.zeros_like(own.latents), frozenset({2})))
    assert torch.equal(silenced.thoughts[:, :3], own.thoughts[:, :3])
    assert not torch.allclose(silenced.thoughts[:, 3:], own.thoughts[:, 3:])
    assert silenced.latents[:, 2].abs().max() == 0


def test_model_without_thoughts() -> None:
    with pytest.raises(UsageError, match="no continuous thoughts to look at"):
        think_through(reasoner(CotSft(), tiny_model()), QUESTIONS)
    with pytest.raises(UsageError, match="0 latents"):
        think_through(reasoner(Codi(latents=0), tiny_model()), QUESTIONS)


def test_question_too_long() -> None:
    with pytest.raises(UsageError, match=r"Question 2 has \d+ tokens"):
        think_through(thinker(), ["How many?", "Mia has 3 apples. " * 60])


def test_whole_numbers_are_written_on_greedily() -> None:
    """On a tokenizer that splits numbers into digits: each branch equals a plain greedy continuation."""
    from codi.modeling.configuration import TextFormat
    from tiny_models import sentencepiece_tokenizer

    tokenizer = sentencepiece_tokenizer(digits_apart=True)
    model = tiny_model("llama", seed=3)
    # Digits are likely everywhere, so that numbers go on for a while.
    digits = [token for token in range(len(tokenizer)) if tokenizer.decode([token]).strip().isdigit()]
    with torch.no_grad():
        model.causal.get_input_embeddings().weight[digits] *= 4
        model.causal.get_input_embeddings().weight[len(tokenizer) :] = 0
    mind = LatentReasoner(model.eval(), Codi(), _shrunk(tokenizer), TextFormat())
    thinking = think_through(mind, ["Tom has 7 apples and buys 15 more", "Each costs 3"])
    ids = torch.tensor([[digits[0], digits[3]], [digits[1], digits[2]]])
    for context in thinking.contexts[:3]:
        found = whole_readings(mind.model, mind.text, context, ids)
        for row in range(2):
            for k in range(2):
                assert found[row][k] == _greedy_number(mind, context.select(torch.tensor([row])), ids[row, k])
    assert any(len(text) > 1 for row in found for text in row)


def _shrunk(tokenizer: Any) -> Any:
    tokenizer.add_special_tokens({"pad_token": "<unk>"})
    return tokenizer


def _greedy_number(mind: LatentReasoner, context: Any, token: Tensor) -> str:
    from codi.modeling.context import Tokens

    written, following = [int(token)], token.view(1, 1)
    for _ in range(7):
        with torch.no_grad():
            context = mind.model.read(Tokens(following, torch.ones_like(following)), after=context).context
            following = mind.model.logits(context.last_hidden).argmax(-1, keepdim=True)
        text = mind.text.decode([*written, int(following)]).strip()
        if not text.replace(".", "").replace(",", "").isdigit() or int(following) == mind.text.eos_id:
            break
        written.append(int(following))
    return mind.text.decode(written).strip()
