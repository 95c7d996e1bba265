"""CODI's loss against the paper-literal step: every term and every gradient, in all its options."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from codi.bench.paper_literal import literal_step
from codi.errors import RecipeError
from codi.methods.codi import Codi
from codi.methods.cot_sft import CotSft
from codi.methods.method import METHODS, Method, build_method
from codi.methods.no_cot_sft import NoCotSft
from codi.methods.pause_tokens import PauseTokens
from tiny_models import (
    EXAMPLES,
    LORA,
    assert_same_gradients,
    encoded_batch,
    gradients,
    tiny_model,
    word_encoder,
)

WEIGHTS = {"alpha": 0.7, "beta": 1.3, "gamma": 0.9}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # name -> options of the method, of the model
    "published defaults": ({}, {}),
    "no latents": ({"latents": 0}, {}),
    "one latent": ({"latents": 1}, {}),
    "l1": ({"distance": "l1"}, {}),
    "l2": ({"distance": "l2"}, {}),
    "l2, no std": ({"distance": "l2", "divide_by_std": False}, {}),
    "blocks": ({"layers": "blocks"}, {}),
    "no std": ({"divide_by_std": False}, {}),
    "paper's Eq. 5": ({"distance": "l1", "layers": "blocks", "share_question": False}, {}),
    "question run twice": ({"share_question": False}, {}),
    "last step kept": ({"keep_last_step": True}, {}),
    "no projection": ({}, {"projection": False}),
    "wide projection": ({}, {"projection_width": 80}),
    "lora": ({}, {"lora": LORA}),
    "lora, frozen thought tokens": ({}, {"lora": LORA, "train_thought_tokens": False}),
    "softmax over the added rows": ({}, {"softmax": "added-rows"}),
    "softmax over frozen added rows": (
        {},
        {"softmax": "added-rows", "lora": LORA, "train_thought_tokens": False},
    ),
    "softmax over the added rows, untied": (
        {},
        {"softmax": "added-rows", "family": "llama", "tied": False},
    ),
    "llama": ({}, {"family": "llama"}),
    "llama, lora, untied": ({}, {"family": "llama", "lora": LORA, "tied": False}),
    "qwen2": ({}, {"family": "qwen2"}),
    "sliding window": ({}, {"family": "mistral"}),
}


@pytest.mark.parametrize("case", CASES)
def test_loss_terms_and_gradients_equal_the_literal_step(case: str) -> None:
    options, settings = CASES[case]
    method = Codi(**{"latents": 3, **WEIGHTS, **options})
    model = tiny_model(**settings)
    batch = encoded_batch(method)

    literal, ours = literal_step(model, method, batch), method.loss(model, batch)
    assert ours.keys() == literal.keys() == {"loss", *method.terms}
    for term, value in literal.items():
        assert value > 0
        torch.testing.assert_close(ours[term], value, rtol=1e-5, atol=0, msg=lambda m, t=term: f"{t}: {m}")
    assert_same_gradients(gradients(model, ours["loss"]), gradients(model, literal["loss"]))


@pytest.mark.parametrize("term", Codi.terms)
def test_gradient_of_each_term(term: str) -> None:
    method, model = Codi(latents=2), tiny_model("llama")
    batch = encoded_batch(method)
    assert_same_gradients(
        gradients(model, method.loss(model, batch)[term]),
        gradients(model, literal_step(model, method, batch)[term]),
    )


def test_batch_has_what_the_oracle_is_meant_to_see() -> None:
    batch = encoded_batch(Codi())
    for segment in ("question", "teacher", "student"):
        assert len(set(batch[f"{segment}_mask"].sum(1).tolist())) > 1, f"{segment}: all of one length"
    assert (batch["teacher_distillation"] + 1 == batch["student_distillation"]).any(), "no empty rationale"


def test_shared_and_unshared_question_agree() -> None:
    model, method = tiny_model("llama", lora=LORA), Codi(latents=2)
    batch = encoded_batch(method)
    shared, twice = (replace(method, share_question=s).loss(model, batch) for s in (True, False))
    for term in shared:
        torch.testing.assert_close(shared[term], twice[term], rtol=1e-5, atol=0)
    assert_same_gradients(gradients(model, shared["loss"]), gradients(model, twice["loss"]))


@pytest.mark.parametrize("share", [True, False])
def test_teacher_gets_no_gradient_from_the_distance(share: bool) -> None:
    model = tiny_model("gpt2", tied=False)
    method = Codi(latents=2, alpha=0, beta=1, gamma=0, share_question=share)
    batch = encoded_batch(method)
    found = gradients(model, method.loss(model, batch)["loss"])
    # Tokens that only the teacher reads: its rationale. The student's embeddings do learn.
    embedding = found["backbone.transformer.wte.weight"]
    read = {
        name: set(batch[f"{name}_ids"][batch[f"{name}_mask"].bool()].tolist())
        for name in ("question", "teacher", "student")
    }
    only_teacher = sorted(read["teacher"] - read["student"] - read["question"])
    assert only_teacher
    assert embedding[only_teacher].abs().max() == 0
    assert embedding[sorted(read["question"])].abs().min(0).values.max() > 0
    assert found["backbone.lm_head.weight"].abs().max() == 0  # the distance never passes the head

    # By hand: the teacher's states as constants, the student's as they are
    with torch.no_grad():
        constant = literal_step(model, method, batch)
    assert_same_gradients(found, gradients(model, literal_step(model, method, batch)["distillation"]))
    torch.testing.assert_close(constant["distillation"], method.loss(model, batch)["distillation"])


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize(
    "method",
    [Codi(latents=2, divide_by_std=False), CotSft(), NoCotSft(), PauseTokens(pauses=2)],
    ids=lambda m: m.name,
)
def test_single_rows_sum_to_the_batch(method: Method, family: str) -> None:
    model, text = tiny_model(family), word_encoder()
    batch = encoded_batch(method)
    whole = method.loss(model, batch)
    rows = [method.loss(model, encoded_batch(method, (e,)), method.divisors(batch)) for e in EXAMPLES]
    for term, value in whole.items():
        torch.testing.assert_close(sum(row[term] for row in rows), value, rtol=1e-5, atol=0)
    assert text.pad_id == 0
    assert_same_gradients(
        gradients(model, whole["loss"]),
        gradients(model, sum((row["loss"] for row in rows[1:]), rows[0]["loss"])),
    )


def test_std_is_taken_over_the_batch() -> None:
    """Three identical rows: the same sum of squares, over 3 d - 1 instead of 3 (d - 1) (Bessel)."""
    model, method, d = tiny_model(projection=False), Codi(latents=2, layers="blocks"), 32
    single, triple = (method.loss(model, encoded_batch(method, (EXAMPLES[0],) * n)) for n in (1, 3))
    for term in ("student", "teacher"):
        torch.testing.assert_close(triple[term], single[term], rtol=1e-5, atol=0)
    # Values repeat, so their mean does too, and only the divisor of the variance changes.
    wider = ((3 * d - 1) / (3 * (d - 1))) ** 0.5
    torch.testing.assert_close(triple["distillation"], single["distillation"] * wider, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    "method", [Codi(latents=2), CotSft(), NoCotSft(), PauseTokens(pauses=2)], ids=lambda m: m.name
)
def test_what_is_padded_with_does_not_matter(method: Method) -> None:
    model, batch = tiny_model(), encoded_batch(method)
    other = {
        name: torch.where(batch[name.replace("_ids", "_mask")] == 0, 17, ids)
        if name.endswith("_ids")
        else ids
        for name, ids in batch.items()
    }
    torch.testing.assert_close(
        method.loss(model, other)["loss"], method.loss(model, batch)["loss"], rtol=1e-6, atol=0
    )


def test_weights_of_the_terms() -> None:
    model, method = tiny_model(), Codi(latents=1, alpha=2.0, beta=3.0, gamma=5.0)
    losses = method.loss(model, encoded_batch(method))
    expected = 2 * losses["student"] + 3 * losses["distillation"] + 5 * losses["teacher"]
    torch.testing.assert_close(losses["loss"], expected)


def test_methods_are_found_by_name_and_options_are_checked() -> None:
    assert build_method({"name": "codi", "latents": 3}) == Codi(latents=3)
    assert {"codi", "cot-sft", "no-cot-sft"} <= METHODS.keys()
    assert build_method(Codi(beta=5.0).as_dict()) == Codi(beta=5.0)
    for bad, said in (
        ({"name": "cody"}, "Did you mean 'codi'"),
        ({"name": "codi", "latent": 3}, "Did you mean 'latents'"),
        ({"name": "codi", "latents": -1}, "0 or more"),
        ({"name": "codi", "distance": "cosine"}, "smooth-l1"),
        ({"name": "codi", "layers": "last"}, "'all' or 'blocks'"),
    ):
        with pytest.raises(RecipeError, match=said):
            build_method(bad)
