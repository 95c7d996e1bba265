"""Contexts are values: a fork never touches another; stepping back equals never having read."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.cache_utils import LinearAttentionLayer

from codi.errors import CheckpointError, RecipeError, TrainingError
from codi.modeling.backbone import build_base, check_head, fingerprint
from codi.modeling.configuration import ModelConfig
from codi.modeling.context import Context, Tokens, can_join, empty_cache, given_to, remembers_all
from codi.modeling.model import ThoughtModel
from tiny_models import FAMILIES, LORA, VOCABULARY, tiny_config, tiny_model

QUESTION = Tokens(
    torch.tensor([[0, 0, 0, 31, 32, 33, 34, 35], [40, 41, 42, 43, 44, 45, 46, 47]]),
    torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1], [1] * 8]),
)
MORE = Tokens(torch.tensor([[50, 51, 52], [53, 0, 0]]), torch.tensor([[1, 1, 1], [1, 0, 0]]))


def snapshot(context: Context) -> list[Tensor]:
    tensors = [context.mask, context.next_position, context.last_hidden]
    tensors += [t for layer in context.cache.layers for t in (layer.keys, layer.values)]
    return [t.detach().clone() for t in tensors]


def assert_same(first: Context, second: Context) -> None:
    for a, b in zip(snapshot(first), snapshot(second), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_extending_a_fork_leaves_the_others_whole(family: str) -> None:
    model = tiny_model(family)
    root = model.read(QUESTION).context
    before = snapshot(root)
    one = model.read(MORE, after=root).context
    one_before = snapshot(one)
    two = model.think(after=root, steps=3)
    again = model.read(MORE, after=root).context

    for kept, context in ((before, root), (one_before, one), (one_before, again)):
        for a, b in zip(kept, snapshot(context), strict=True):
            assert torch.equal(a, b)
    assert root.thoughts is None
    assert two.thoughts is not None
    assert two.thoughts.shape == (2, 3, 32)
    assert torch.equal(two.thoughts[:, 0], root.last_hidden)
    assert root.next_position.tolist() == [5, 8]
    assert one.next_position.tolist() == [8, 9]
    assert two.next_position.tolist() == [8, 11]


@pytest.mark.parametrize("family", FAMILIES)
def test_reading_in_pieces_equals_reading_at_once(family: str) -> None:
    model = tiny_model(family)
    joined = Tokens(torch.cat([QUESTION.ids, MORE.ids], 1), torch.cat([QUESTION.mask, MORE.mask], 1))
    whole, pieces = model.read(joined), model.read(MORE, after=model.read(QUESTION).context)
    torch.testing.assert_close(
        pieces.final[MORE.mask.bool()], whole.final[:, 8:][MORE.mask.bool()], rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(pieces.context.last_hidden, whole.context.last_hidden, rtol=1e-4, atol=1e-5)
    # The state after a row's last real token is that row's, alone and without padding.
    alone = model.read(
        Tokens(torch.tensor([[31, 32, 33, 34, 35, 50, 51, 52]]), torch.ones(1, 8, dtype=torch.long))
    )
    torch.testing.assert_close(whole.context.last_hidden[:1], alone.context.last_hidden, rtol=1e-4, atol=1e-5)


def test_a_row_without_a_token_keeps_its_last_state() -> None:
    model = tiny_model()
    root = model.read(QUESTION).context
    nothing = Tokens(MORE.ids, torch.tensor([[1, 1, 0], [0, 0, 0]]))
    context = model.read(nothing, after=root).context
    assert torch.equal(context.last_hidden[1], root.last_hidden[1])
    assert not torch.equal(context.last_hidden[0], root.last_hidden[0])
    assert context.next_position.tolist() == [7, 8]


@pytest.mark.parametrize("family", FAMILIES)
def test_select_equals_having_read_those_rows_only(family: str) -> None:
    model = tiny_model(family)
    context = model.think(after=model.read(QUESTION).context, steps=2)
    before = snapshot(context)
    second = context.select(torch.tensor([1]))
    assert second.rows == 1
    ones = torch.ones(1, 3, dtype=torch.long)
    after = model.read(Tokens(MORE.ids[:1], ones), after=second)
    alone = model.think(after=model.read(Tokens(QUESTION.ids[1:], QUESTION.mask[1:])).context, steps=2)
    torch.testing.assert_close(
        after.final, model.read(Tokens(MORE.ids[:1], ones), after=alone).final, rtol=1e-4, atol=1e-5
    )
    for a, b in zip(before, snapshot(context), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("family", FAMILIES)
def test_read_two_equals_two_readings(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(family)
    bot = Tokens.repeated([model.bot_id], 2, model.device)
    asked = model.read(QUESTION).context
    begun = model.read(bot, after=asked).context

    passes = 0
    extend = ThoughtModel.feed

    def counted(*args: Any, **keywords: Any) -> Any:
        nonlocal passes
        passes += 1
        return extend(*args, **keywords)

    monkeypatch.setattr(ThoughtModel, "feed", counted)
    first, both = model.read_two(QUESTION, bot)
    slides = family == "mistral"
    assert passes == (2 if slides else 1)  # a sliding window forgets the oldest positions
    assert remembers_all(both.cache) is not slides
    assert_same(first, asked)
    assert_same(both, begun)
    assert_same(model.read(MORE, after=first).context, model.read(MORE, after=asked).context)


@pytest.mark.parametrize("family", FAMILIES)
def test_joined_rows_go_on_as_each_went_on_alone(family: str) -> None:
    """Long and short, thought over and not, joined in two steps; then the long ones leave."""
    model = tiny_model(family).eval()
    with torch.no_grad():
        long = model.think(after=model.read(QUESTION).context, steps=4)
        short = model.read(Tokens(torch.tensor([[60, 61, 62]]), torch.ones(1, 3, dtype=torch.long))).context
        middle = model.think(after=short, steps=2)
        alone = [long.select(torch.tensor([0])), long.select(torch.tensor([1])), short, middle]
        before = [snapshot(context) for context in alone]
        joined = Context.join([Context.join([long, short]), middle])
        assert (joined.rows, joined.width) == (4, long.width)
        assert joined.thoughts is None
        assert joined.next_position.tolist() == [int(context.next_position[0]) for context in alone]
        for first, last in ((70, 74), (80, 82)):
            ids = torch.arange(first, last)
            for token in ids:
                same = torch.full((4, 1), int(token))
                joined = model.read(Tokens(same, torch.ones_like(same)), after=joined).context
                one = torch.full((1, 1), int(token))
                alone = [
                    model.read(Tokens(one, torch.ones_like(one)), after=context).context for context in alone
                ]
                expected = torch.cat([context.last_hidden for context in alone])
                torch.testing.assert_close(joined.last_hidden, expected, rtol=1e-4, atol=1e-5)
            # The two long rows leave: what only they used is cut away, and nothing changes.
            alone = alone[-2:] * 2
            widest = int(joined.mask[-2:].sum(1).max())
            joined = joined.select(torch.tensor([2, 3, 2, 3])).narrowed(widest)
            assert joined.width == widest
    for kept, context in zip(before, [long, long, short, middle], strict=True):
        assert kept[0].shape[1] == context.width  # what was joined is left whole


def test_one_context_joined_is_itself() -> None:
    context = tiny_model().read(QUESTION).context
    assert Context.join([context]) is context
    assert context.narrowed(context.width) is context
    assert can_join(context.cache)
    recurrent = copy.copy(context.cache)
    recurrent.layers = [*context.cache.layers, LinearAttentionLayer()]
    assert not can_join(recurrent)


def test_gradients_flow_through_a_context_stepped_back() -> None:
    model = tiny_model()
    bot = Tokens.repeated([model.bot_id], 2, model.device)
    stepped, _ = model.read_two(QUESTION, bot)
    model.read(MORE, after=stepped).final.square().sum().backward()
    assert model.thought_tokens.grad is None or model.thought_tokens.grad.abs().max() == 0
    gradient = model.causal.get_input_embeddings().weight.grad
    assert gradient is not None
    assert gradient[40].abs().max() > 0


def test_thought_tokens_are_embedded_by_rows_of_their_own() -> None:
    model = tiny_model()
    assert (model.bot_id, model.eot_id) == (VOCABULARY, VOCABULARY + 1)
    embedded = model.embed(torch.tensor([[model.bot_id, 5, model.eot_id]]))
    weight = model.causal.get_input_embeddings().weight
    assert torch.equal(
        embedded[0], torch.stack([model.thought_tokens[0], weight[5], model.thought_tokens[1]])
    )
    assert weight.shape[0] == VOCABULARY


# --- the base ---


@pytest.mark.parametrize("range_", [0.02, 0.5])
def test_a_soft_cap_after_the_head_is_refused(range_: float) -> None:
    settings = {
        **FAMILIES["llama"],
        "vocab_size": 64,
        "head_dim": 8,
        "initializer_range": range_,
        "final_logit_softcapping": 30.0,
    }
    with pytest.raises(CheckpointError, match="after the LM head"):
        build_base(ModelConfig(base_config={"model_type": "gemma2", **settings}))
    free = AutoConfig.for_model("gemma2", **{**settings, "final_logit_softcapping": None})
    check_head(AutoModelForCausalLM.from_config(free))


def test_check_head_leaves_the_model_as_it_was() -> None:
    model = tiny_model().causal
    for training in (True, False):
        model.train(training)
        check_head(model)
        assert model.training is training
    assert not model.get_output_embeddings()._forward_hooks


def test_activation_checkpointing_is_refused() -> None:
    model = tiny_model()
    model.causal.gradient_checkpointing_enable()
    with pytest.raises(TrainingError, match="lose their question"):
        model.read(QUESTION)
    with pytest.raises(TrainingError, match="lose their question"):
        ThoughtModel(tiny_config(), base=model.causal)
    model.eval().read(QUESTION)  # answering is not touched by it


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_activation_checkpointing_is_refused_under_lora(family: str) -> None:
    model = tiny_model(family, lora=LORA)
    model.backbone.gradient_checkpointing_enable()
    with pytest.raises(TrainingError, match="Turn it off"):
        model.read(QUESTION)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (ModelConfig(), "exactly one of model.base"),
        (ModelConfig(base="x", base_config={}), "exactly one of model.base"),
        (ModelConfig(base_config={"n_embd": 3}), "no 'model_type'"),
        (ModelConfig(base_config={"model_type": "gpt22"}), "gpt22"),
        (tiny_config(dtype="float8"), "dtype is 'float8'"),
    ],
)
def test_bad_model_settings(config: ModelConfig, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        build_base(config)


def test_a_base_that_is_not_there(tmp_path: Any) -> None:
    with pytest.raises(CheckpointError, match="There is no model at"):
        build_base(ModelConfig(base=str(tmp_path / "nowhere")))


def test_fingerprint_tells_bases_apart_and_precisions_not() -> None:
    base = build_base(tiny_config("llama"))
    before = fingerprint(base)
    assert fingerprint(build_base(tiny_config("llama"))) != before
    with torch.no_grad():
        base.get_input_embeddings().weight[0, 0] += 1
    changed = fingerprint(base)
    assert changed != before
    assert fingerprint(base.bfloat16()) == changed


def test_weights_that_are_no_numbers_are_named() -> None:
    """A damaged file, or a run that diverged: not taken for a model that caps its logits."""
    model = tiny_model().causal
    name, weight = next(iter(model.named_parameters()))
    weight.data.view(-1)[0] = float("nan")  # of the first token, which the check reads
    with pytest.raises(CheckpointError, match=f"1 weights .* the first is '{name}'"):
        check_head(model)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_cache_is_given_under_the_name_that_the_base_has_for_it(family: str) -> None:
    """transformers 5.24 renamed it; what is called by the old name warns every user of the newer ones."""
    model = tiny_model(family).eval()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        context = model.think(after=model.read(QUESTION).context, steps=2)
        model.read(MORE, after=context)
    assert not [warning for warning in said if "past_key_values" in str(warning.message)]


def test_both_names_of_a_cache() -> None:
    class Older:
        def forward(self, past_key_values: Any = None) -> None: ...

    class Newer:
        def forward(self, cache: Any = None) -> None: ...

    kept = empty_cache(tiny_model().causal.config)
    assert given_to(Older(), kept) == {"past_key_values": kept}
    assert given_to(Newer(), kept) == {"cache": kept}
