"""Layers at each thought, and what lenses read there, against a plain forward pass of transformers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from codi.errors import CheckpointError, UsageError
from codi.generation.decoded_thoughts import decoded_tokens
from codi.generation.latent_reasoner import LatentReasoner
from codi.interpretability.layer_states import all_layer_states, final_norm, layer_states
from codi.interpretability.lenses import (
    TunedLens,
    as_read,
    compare_lenses,
    lens_divergence,
    lens_tokens,
    lens_top,
    load_lens,
    model_fingerprint,
    save_lens,
    train_tuned_lens,
)
from codi.interpretability.thinking import think_through
from codi.methods.codi import Codi
from codi.methods.cot_sft import CotSft
from codi.modeling.context import Context, Tokens
from codi.modeling.model import ThoughtWatcher
from tiny_models import EXAMPLES, FAMILIES, LORA, reasoner, tiny_model

QUESTIONS = [example.question for example in EXAMPLES]
SUBJECTS, NUMBERS = ("Mia", "Tom", "Ben", "Nina"), range(2, 12)
MANY = [f"{who} has {n} apples. She finds {n + m} more." for who in SUBJECTS for n in NUMBERS for m in (1, 4)]


def tiny(family: str = "llama", *, latents: int = 3, **settings: object) -> LatentReasoner:
    return reasoner(Codi(latents=latents), tiny_model(family, **settings))  # type: ignore[arg-type]


def recomputed(asked: LatentReasoner, question: str, latents: Tensor) -> Tensor:
    """One plain pass over question, <bot> and the latents [n, d] that were fed back. [n, layers + 1, d]"""
    model = asked.model
    ids = torch.tensor([[*asked.text.question(question), model.bot_id]])
    inputs = torch.cat([model.embed(ids), latents.unsqueeze(0)], 1)
    with torch.no_grad():
        output = model.causal.base_model(inputs_embeds=inputs, use_cache=False, output_hidden_states=True)
    every = torch.stack(output.hidden_states, 2)[0]
    first = ids.shape[1] - 1  # <bot>, whose pass makes the first thought
    return every[first : first + latents.shape[0]]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("adapted", [False, True], ids=["whole", "lora"])
def test_states_equal_transformers_hidden_states(family: str, adapted: bool) -> None:
    asked = tiny(family, lora=LORA if adapted else None)
    thinking, states = layer_states(asked, QUESTIONS)
    assert states.shape == (4, 3, 3, 32)
    assert torch.equal(states[:, :, -1], thinking.thoughts)
    for row, question in enumerate(QUESTIONS):
        expected = recomputed(asked, question, thinking.latents[row])
        torch.testing.assert_close(states[row], expected, rtol=1e-4, atol=1e-5)
    assert (states[:, 1:] - states[:, :-1]).abs().amax(-1).min() > 0.01, "every thought has states of its own"


@pytest.mark.parametrize("family", ["gpt2", "mistral"])
def test_batch_of_one_equals_batch_of_n(family: str) -> None:
    asked = tiny(family)
    together = all_layer_states(asked, QUESTIONS)
    for size in (1, 3):
        torch.testing.assert_close(
            all_layer_states(asked, QUESTIONS, batch_size=size), together, rtol=1e-4, atol=1e-5
        )


def test_recording_leaves_the_model_as_it_was() -> None:
    asked = tiny("gpt2")
    asked.model.train()
    before = think_through(asked, QUESTIONS).thoughts
    layer_states(asked, QUESTIONS)
    assert asked.model.packs
    assert asked.model.training
    assert asked.model.watcher is None
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in asked.model.modules())
    assert torch.equal(think_through(asked, QUESTIONS).thoughts, before)


def test_states_of_thoughts_that_a_watcher_changed() -> None:
    class Halve(ThoughtWatcher):
        def feed(self, number: int, context: Context, latent: Tensor) -> Tensor:
            # A pass of its own must not be taken for the thought's.
            asked.model.read(Tokens.repeated([5], context.rows, latent.device), after=context)
            return latent / 2

    asked = tiny()
    thinking, states = layer_states(asked, QUESTIONS[:1], watcher=Halve())
    torch.testing.assert_close(
        states[0], recomputed(asked, QUESTIONS[0], thinking.latents[0]), rtol=1e-4, atol=1e-5
    )
    assert not torch.allclose(states, layer_states(asked, QUESTIONS[:1])[1])


def test_a_context_put_in_a_thoughts_place_is_refused() -> None:
    class Replace(ThoughtWatcher):
        def fed(self, number: int, context: Context) -> Context:
            return replace(context, last_hidden=torch.zeros_like(context.last_hidden))

    with pytest.raises(UsageError, match="do not belong to the thoughts"):
        layer_states(tiny(), QUESTIONS, watcher=Replace())


@pytest.mark.parametrize("family", FAMILIES)
def test_logit_lens(family: str) -> None:
    asked = tiny(family)
    model = asked.model
    thinking, states = layer_states(asked, QUESTIONS)
    shares, ids = lens_top(asked, states, 4)
    assert shares.shape == ids.shape == (4, 3, 3, 4)

    decoded = model.logits(thinking.thoughts).softmax(-1).topk(4)
    assert torch.equal(ids[:, :, -1], decoded.indices)
    assert torch.equal(shares[:, :, -1], decoded.values)
    for layer in (0, 1):
        expected = model.logits(final_norm(model)(states[:, :, layer])).softmax(-1).topk(4)
        assert torch.equal(ids[:, :, layer], expected.indices)
        torch.testing.assert_close(shares[:, :, layer], expected.values)


def test_last_layer_names_what_the_thought_decodes_to() -> None:
    asked = tiny()
    thinking, states = layer_states(asked, QUESTIONS)
    by_layer = lens_tokens(asked, states, 3)
    decoded = decoded_tokens(asked.model, asked.text, thinking.thoughts, top_k=3)
    for question, of_question in zip(by_layer, decoded, strict=True):
        for thought, tokens in zip(question, of_question, strict=True):
            assert len(thought) == 3
            assert thought[-1] == [(token.token, token.share) for token in tokens]


def test_divergence_is_that_of_the_definition() -> None:
    asked = tiny()
    states = all_layer_states(asked, QUESTIONS)
    final = asked.model.logits(states[:, :, -1]).softmax(-1)
    for layer, found in enumerate(lens_divergence(asked, states, batch_size=3)):
        scores = asked.model.logits(as_read(asked.model, states[:, :, layer], layer)).softmax(-1)
        expected = (final * (final / scores).log()).sum(-1).mean().item()
        assert found == pytest.approx(expected, rel=1e-3)
        assert found > 0.1


def test_untrained_tuned_lens_is_the_logit_lens() -> None:
    asked = tiny("gpt2")
    states = all_layer_states(asked, QUESTIONS)
    for plain, tuned in zip(
        lens_top(asked, states), lens_top(asked, states, lens=TunedLens.untrained(asked.model)), strict=True
    ):
        assert torch.equal(plain, tuned)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_training_lowers_held_out_divergence_and_is_repeatable(family: str) -> None:
    asked = tiny(family, latents=2)
    before = {name: weight.clone() for name, weight in asked.model.state_dict().items()}
    steps: list[tuple[int, int, float]] = []
    lens, again = (
        train_tuned_lens(
            asked,
            MANY[:64],
            MANY[64:],
            steps=60,
            learning_rate=1e-2,
            on_progress=lambda *at: steps.append(at),
        )
        for _ in range(2)
    )
    assert lens.held_out is not None
    assert (lens.held_out.questions, lens.held_out.thoughts) == (16, 2)
    for logit, tuned in zip(lens.held_out.logit, lens.held_out.tuned, strict=True):
        assert tuned < 0.6 * logit
    assert [at[:2] for at in steps[:60]] == [(step, 60) for step in range(1, 61)]
    assert steps[59][2] < 0.6 * steps[0][2]

    assert again.held_out == lens.held_out
    for name, weight in lens.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name])
    assert all(torch.equal(weight, before[name]) for name, weight in asked.model.state_dict().items())
    assert all(weight.grad is None for weight in asked.model.parameters())


@pytest.fixture(scope="module")
def trained() -> tuple[LatentReasoner, TunedLens]:
    asked = tiny(latents=1)
    return asked, train_tuned_lens(asked, MANY[:16], MANY[64:], steps=5, learning_rate=1e-2)


def test_a_saved_lens_is_the_same(trained: tuple[LatentReasoner, TunedLens], tmp_path: Path) -> None:
    asked, lens = trained
    file = tmp_path / "lenses" / "tuned.safetensors"
    save_lens(lens, file)
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    # The model itself may be saved and loaded in between.
    asked.save_pretrained(tmp_path / "model")
    loaded_model = LatentReasoner.from_pretrained(tmp_path / "model", device="cpu")
    loaded = load_lens(file, loaded_model.model)
    assert loaded.held_out == lens.held_out
    assert loaded.settings == lens.settings
    assert loaded.settings["steps"] == 5
    states = all_layer_states(asked, QUESTIONS)
    for one, other in zip(
        lens_top(asked, states, lens=lens), lens_top(loaded_model, states, lens=loaded), strict=True
    ):
        assert torch.equal(one, other)
    assert compare_lenses(asked, states, loaded) == compare_lenses(asked, states, lens)


def test_lens_of_another_model_is_refused(trained: tuple[LatentReasoner, TunedLens], tmp_path: Path) -> None:
    asked, lens = trained
    file = tmp_path / "tuned.safetensors"
    save_lens(lens, file)
    others = {
        "other weights": tiny_model("llama", seed=2),
        "other family": tiny_model("gpt2"),
        "adapters over the same base": tiny_model("llama", lora=LORA),
    }
    for other in others.values():
        with pytest.raises(CheckpointError, match="another model") as refused:
            load_lens(file, other)
        assert model_fingerprint(asked.model) in str(refused.value)
        assert model_fingerprint(other) in str(refused.value)
    # One adapter, the base untouched: the LM head is still the same.
    adapted = tiny_model("llama", lora=LORA)
    found = model_fingerprint(adapted)
    with torch.no_grad():
        next(weight for name, weight in adapted.named_parameters() if ".lora_B." in name).add_(0.1)
    assert model_fingerprint(adapted) != found


def test_files_that_are_no_lens_are_refused(
    trained: tuple[LatentReasoner, TunedLens], tmp_path: Path
) -> None:
    asked, lens = trained
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"half a file")
    (tmp_path / "a_file").write_text("in the way")
    for name, said in (
        ("other.safetensors", "no tuned lens"),
        ("broken.safetensors", "missing or damaged"),
        ("nothing.safetensors", "missing or damaged"),
    ):
        with pytest.raises(CheckpointError, match=said):
            load_lens(tmp_path / name, asked.model)
    with pytest.raises(CheckpointError, match="could not be written"):
        save_lens(lens, tmp_path / "a_file" / "tuned.safetensors")


def test_what_cannot_be_asked_is_said() -> None:
    asked = tiny()
    states = all_layer_states(asked, QUESTIONS)
    with pytest.raises(UsageError, match="no layer 3"):
        as_read(asked.model, states[:, :, 0], 3)
    with pytest.raises(UsageError, match=r"end in \[3, 32\]"):
        lens_top(asked, states[:, :, 1:])
    with pytest.raises(UsageError, match="also trained on"):
        train_tuned_lens(asked, MANY[:4], MANY[3:5])
    with pytest.raises(UsageError, match="No questions"):
        train_tuned_lens(asked, MANY[:4], [])
    with pytest.raises(UsageError, match="0 steps"):
        train_tuned_lens(asked, MANY[:4], MANY[4:5], steps=0)
    with pytest.raises(UsageError, match="no continuous thoughts"):
        layer_states(reasoner(CotSft(), tiny_model()), QUESTIONS)
