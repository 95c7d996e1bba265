"""KaVa against its paper: the distillation of keys and values by hand, row by row, head by head."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from codi.data.collation import row_alone
from codi.errors import RecipeError, UsageError
from codi.methods.kava import Kava, unrotated
from codi.methods.method import build_method
from codi.methods.pccot import LATENT, Pccot
from codi.modeling.model import ThoughtModel
from codi.training.recipes import load_recipe
from family_literal import embedded, pccot_latents, whole_pass
from tiny_models import (
    EXAMPLES,
    assert_same_gradients,
    encoded_batch,
    gradients,
    reasoner,
    tiny_model,
    word_encoder,
)

QUESTIONS = [example.question for example in EXAMPLES]


def model_of(family: str = "llama", **settings: Any) -> ThoughtModel:
    return tiny_model(family, rows=[LATENT], **settings)


def scores(keys: Tensor, logits: Tensor, importance: float) -> Tensor:
    """R-KV of one head, [N]. keys: [N, e]; logits: [group, q, N], of the answer's tokens."""
    pooled = logits.max(0).values.softmax(-1).mean(0)
    cosine = torch.stack([F.cosine_similarity(keys, key.unsqueeze(0), dim=-1) for key in keys])
    redundant = (-(cosine.sum(1) - cosine.diagonal()) / len(keys)).softmax(0)
    return importance * pooled + (1 - importance) * redundant


def literal_kv(model: ThoughtModel, method: Kava) -> Tensor:
    """L_KV over the examples, with queries made from the states that enter each layer."""
    text, found = word_encoder(), list[list[tuple[Tensor, Tensor]]]()  # per row, per layer and kind
    for example in EXAMPLES:
        row = method.encode(example, text)
        q, n_q, length = embedded(model, row["question"]), len(row["question"]), row["rationale"]
        x = pccot_latents(model, row["question"], method.latents, method.rounds)
        layers = model.causal.base_model.layers
        with torch.no_grad():
            read = whole_pass(model, q, embedded(model, row["teacher"]), use_cache=True)
            inputs = [layer.input_layernorm(state) for layer, state in zip(layers, read.states, strict=False)]
            queries = [layer.self_attn.q_proj(one) for layer, one in zip(layers, inputs, strict=True)]
        teacher = read.output.past_key_values
        student = whole_pass(model, q, model.thought_tokens[:1], x, use_cache=True).output.past_key_values
        pairs = list[tuple[Tensor, Tensor]]()
        heads, e = 2, 8
        positions = torch.arange(n_q + len(row["teacher"])).unsqueeze(0)
        cos, sin = model.causal.base_model.rotary_emb(q, positions)
        for layer in range(2):
            theirs, ours = teacher.layers[layer], student.layers[layer]
            k_t, v_t = (part[0, :, n_q : n_q + length] for part in (theirs.keys, theirs.values))
            k_s, v_s = (part[0, :, -method.latents :] for part in (ours.keys, ours.values))
            asked = queries[layer].view(1, -1, 4, e).transpose(1, 2)
            turned, _ = apply_rotary_pos_emb(asked, asked, cos, sin)
            for head in range(heads):
                if not length:
                    continue
                group = turned[0, 2 * head : 2 * head + 2, n_q + length :]
                logits = group @ k_t[head].T / e**0.5
                score = scores(k_t[head], logits, method.importance)
                kept = sorted(score.topk(min(method.latents, length)).indices.tolist())
                for target, state in ((k_t, k_s), (v_t, v_s)):
                    pairs.append((target[head][kept], state[head, : len(kept)]))
        found.append(pairs)
    total = torch.zeros(())
    for kind in range(2):
        for layer in range(2):
            mine = [[pairs[4 * layer + 2 * head + kind] for head in range(2)] for pairs in found if pairs]
            distances = [F.smooth_l1_loss(s, t) for row in mine for t, s in row]
            deviation = torch.cat([t.flatten() for row in mine for t, _ in row]).std()
            total = total + sum(distances) / 2 / (deviation if method.kv_std else 1)
    return total / 4 / len(EXAMPLES)


@pytest.mark.parametrize(
    "options", [{}, {"latents": 5}, {"importance": 0.9, "kv_std": False}, {"importance": 0.0}], ids=str
)
def test_terms_and_gradients_equal_the_literal_ones(options: dict[str, Any]) -> None:
    method = Kava(**{"latents": 20, "rounds": 2, "beta": 1.5, "kv": 0.8, **options})
    model = model_of()
    batch = encoded_batch(method)
    theirs = Pccot(latents=method.latents, rounds=2, beta=1.5, distance="l1").loss(model, batch)
    theirs["kv"] = literal_kv(model, method)
    theirs["loss"] = theirs["loss"] + method.kv * theirs["kv"]
    ours = method.loss(model, batch)
    assert ours.keys() == theirs.keys() == {"loss", *method.terms}
    for term, value in theirs.items():
        assert value > 0
        torch.testing.assert_close(ours[term], value, rtol=1e-5, atol=0, msg=lambda m, t=term: f"{t}: {m}")
    assert_same_gradients(gradients(model, ours["loss"]), gradients(model, theirs["loss"]))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("selection", ["rkv", "uniform", "crop"])
def test_single_rows_sum_to_the_batch(family: str, selection: str) -> None:
    method = Kava(latents=6, rounds=2, selection=selection, divide_by_std=False, kv_std=False)
    model = model_of(family)
    batch = encoded_batch(method)
    whole = method.loss(model, batch)
    rows = [method.loss(model, encoded_batch(method, (e,)), method.divisors(batch)) for e in EXAMPLES]
    for term, value in whole.items():
        torch.testing.assert_close(sum(row[term] for row in rows), value, rtol=1e-5, atol=0)


def test_a_row_without_a_rationale_alone_in_a_wide_batch_has_a_finite_loss() -> None:
    """So that a loss that is not finite is not laid at its door."""
    method, model = Kava(latents=3, rounds=1), model_of("gpt2")
    short = replace(EXAMPLES[0], steps=EXAMPLES[0].steps[:1])  # the step that is left out of the rationale
    batch = encoded_batch(method, (short, *EXAMPLES))
    alone = row_alone(batch, 0)
    assert alone["rationale_mask"].shape[1] > 0 == int(alone["rationale"])
    terms = method.loss(model, alone)
    assert terms["kv"] == 0
    assert all(term.isfinite() for term in terms.values())


def test_no_gradient_reaches_the_teacher_through_keys_and_values() -> None:
    model = model_of("gpt2", tied=False)
    method = Kava(latents=4, rounds=1)
    batch = encoded_batch(method)
    found = gradients(model, method.loss(model, batch)["kv"])["backbone.transformer.wte.weight"]
    read = {name: set(batch[f"{name}_ids"].flatten().tolist()) for name in ("question", "teacher")}
    only_teacher = sorted(read["teacher"] - read["question"])
    assert only_teacher
    assert not found[only_teacher].any()
    assert found.abs().max() > 0


def test_without_weight_it_is_pccot_with_codis_term() -> None:
    model, batch = model_of(), encoded_batch(Kava())
    ours = Kava(latents=5, rounds=2, kv=0).loss(model, batch)
    theirs = Pccot(latents=5, rounds=2, beta=10, distance="l1").loss(model, batch)
    assert ours["kv"] == 0
    for term, value in theirs.items():
        assert torch.equal(ours[term], value)
    answers = [
        reasoner(method, model).answer(QUESTIONS, max_new_tokens=5)
        for method in (Kava(latents=5, rounds=2), Pccot(latents=5, rounds=2))
    ]
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    ("selection", "expected"),
    [("crop", [[0, 1, 2], [0, 1]]), ("uniform", [[1, 3, 5], [0, 1]])],
)
def test_other_selections(selection: str, expected: list[list[int]]) -> None:
    method = Kava(latents=3, selection=selection)
    there = torch.arange(7) < torch.tensor([[7], [2]])
    kept, filled = method.choose(torch.randn(2, 2, 7, 4), there, None, torch.ones(2, 1))
    for row, places in enumerate(expected):
        for head in range(2):
            assert kept[row, head][filled[row, head]].tolist() == places


def test_random_selections_are_of_the_rationale_in_order_and_differ() -> None:
    method, there = Kava(latents=3, selection="random"), torch.arange(9) < torch.tensor([[9], [5]])
    torch.manual_seed(1)
    drawn = [method.choose(torch.randn(2, 2, 9, 4), there, None, torch.ones(2, 1)) for _ in range(20)]
    for kept, filled in drawn:
        assert filled.all()
        assert (kept.diff(dim=-1) > 0).all()
        assert kept[1].max() < 5
    assert len({str(kept.tolist()) for kept, _ in drawn}) > 10


def test_keys_before_rope_do_not_know_where_they_stand() -> None:
    model = model_of()
    rotary = model.causal.base_model.rotary_emb
    keys, positions = torch.randn(2, 2, 5, 8), torch.tensor([[3, 4, 5, 6, 7], [9, 8, 0, 1, 2]])
    turned, _ = apply_rotary_pos_emb(keys, keys, *rotary(keys, positions))
    torch.testing.assert_close(unrotated(model, turned, positions), keys, rtol=1e-5, atol=1e-5)
    assert unrotated(model_of("gpt2"), keys, positions) is keys
    batch = encoded_batch(Kava())
    methods = [Kava(latents=4, rounds=1, keys=keys) for keys in ("rotated", "unrotated")]
    assert not torch.allclose(*(method.loss(model, batch)["kv"] for method in methods))


def test_what_it_cannot_do_is_said() -> None:
    for options, message in (
        ({"selection": "best"}, "rkv, random, uniform, crop"),
        ({"kv_distance": "cosine"}, "smooth-l1"),
        ({"keys": "turned"}, "rotated, unrotated"),
        ({"latents": 0}, "latents is 0"),
        ({"rounds": 0}, "rounds is 0"),
        ({"importance": 2.0}, "between 0 and 1"),
    ):
        with pytest.raises(RecipeError, match=message):
            build_method({"name": "kava", **options})
    method = Kava(latents=4, rounds=1)
    with pytest.raises(UsageError, match="sliding window"):
        method.loss(model_of("mistral"), encoded_batch(method))


def test_published_settings() -> None:
    gpt2, llama = load_recipe("gpt2-gsm8k-aug-kava"), load_recipe("llama1b-gsm8k-aug-kava")
    assert build_method(llama.method) == Kava(latents=24, rounds=3, beta=10.0, kv=1.0, importance=0.1)
    assert build_method(gpt2.method) == replace(Kava(), beta=10.0)
    assert llama.model.projection
    training = llama.training
    assert (training["learning_rate"], training["num_train_epochs"]) == (8e-4, 10)
    assert (training["weight_decay"], training["max_grad_norm"]) == (0.1, 2.0)
