"""Types: a frozen base in bfloat16, what learns in float32, keys and values as they are computed."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from codi.cli import app
from codi.errors import RecipeError, UsageError
from codi.generation.latent_reasoner import LatentReasoner
from codi.generation.published_behaviour import PublishedBehaviour
from codi.methods.codi import Codi
from codi.methods.sim_cot import SimCot
from codi.modeling.backbone import build_base, check_head, fingerprint
from codi.modeling.checkpoint import _check_same
from codi.modeling.configuration import ModelConfig
from codi.modeling.model import ThoughtModel
from codi.modeling.precision import attention_at_hand, check_computed_type
from codi.training.recipes import load_recipe, recipe_names
from codi.training.starting import build_reasoner
from tiny_models import (
    EXAMPLES,
    FAMILIES,
    assert_same_gradients,
    encoded_batch,
    fill_adapters,
    gradients,
    reasoner,
    tiny_config,
    tiny_model,
    with_lora,
)
from tiny_runs import lora_over_saved_base, run, tiny_settings

QUESTIONS = [example.question for example in EXAMPLES]
BF16 = torch.bfloat16


@pytest.fixture
def base(tmp_path: Path) -> str:
    tiny_model("llama").causal.save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


def over(base: str, **changes: Any) -> ThoughtModel:
    torch.manual_seed(1)
    model = ThoughtModel(with_lora(base, **changes))
    fill_adapters(model)
    return model


def types(model: torch.nn.Module, learns: bool) -> set[torch.dtype]:
    return {weight.dtype for weight in model.parameters() if weight.requires_grad is learns}


def test_a_frozen_base_is_held_in_bfloat16_and_what_learns_in_float32(base: str) -> None:
    model = over(base, base_dtype="bfloat16")
    assert types(model, learns=False) == {BF16}
    assert types(model, learns=True) == {torch.float32}
    assert model.thought_tokens.dtype == torch.float32
    assert model.config.base_fingerprint == over(base).config.base_fingerprint


@pytest.mark.parametrize("autocast", [True, False], ids=["autocast", "plain"])
def test_it_computes_what_a_base_rounded_to_bfloat16_computes(base: str, autocast: bool) -> None:
    method, found = Codi(latents=2), []
    batch = encoded_batch(method)
    for changes in ({"base_dtype": "bfloat16"}, {"base_rounded_to": "bfloat16"}):
        model = over(base, **changes)
        with torch.autocast("cpu", BF16, enabled=autocast):
            loss = method.loss(model, batch)["loss"]
        found.append((loss.item(), gradients(model, loss)))
    (ours, our_gradients), (theirs, their_gradients) = found
    assert ours == pytest.approx(theirs, rel=2e-2)
    assert_same_gradients(our_gradients, their_gradients, relative=0.2)


def test_small_steps_move_the_weights(base: str) -> None:
    """What bfloat16 cannot do: at a weight of 1 its steps are 0.008 wide."""
    model, method = over(base, base_dtype="bfloat16"), Codi(latents=2)
    norm = model.projection.layers[-1].weight  # type: ignore[index, union-attr]
    before = norm.detach().clone()
    optimizer = torch.optim.AdamW([w for w in model.parameters() if w.requires_grad], lr=1e-4)
    with torch.autocast("cpu", BF16):
        method.loss(model, encoded_batch(method))["loss"].backward()
    optimizer.step()
    assert (norm != before).all()


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_keys_and_values_are_kept_in_the_type_of_the_computation(family: str) -> None:
    model, method = tiny_model(family), Codi(latents=2)
    batch = encoded_batch(method)
    for autocast, dtype in ((True, BF16), (False, torch.float32)):
        with torch.autocast("cpu", BF16, enabled=autocast):
            context = method.start(model, *_asked(batch), "latent").context
        kept = [part.dtype for layer in context.cache.layers for part in (layer.keys, layer.values)]
        assert set(kept) == {dtype}


def _asked(batch: Any) -> tuple[Any, Any]:
    from codi.modeling.context import Tokens
    from tiny_models import word_encoder

    return word_encoder(), Tokens.of(batch, "question")


def test_adapters_multiplied_once_over_a_base_in_bfloat16(base: str) -> None:
    settings = with_lora(base).lora
    assert settings is not None
    once = over(base, base_dtype="bfloat16", lora=replace(settings, multiply_once=True))
    each = over(base, base_dtype="bfloat16")
    batch, found = encoded_batch(Codi(latents=2)), []
    for model in (once, each):
        for autocast in (True, False):
            with torch.autocast("cpu", BF16, enabled=autocast), model.whole_weights():
                found.append(Codi(latents=2).loss(model, batch)["loss"].item())
    assert found == pytest.approx([found[0]] * 4, rel=3e-2)


def test_outside_autocast_too_small_adapters_are_not_rounded_away(base: str) -> None:
    """Beside weights of 1 a bfloat16 has nothing below 0.004; inputs here cancel all but the adapter."""
    settings = with_lora(base).lora
    assert settings is not None
    model = over(base, base_dtype="bfloat16", lora=replace(settings, multiply_once=True))
    layer = model.causal.base_model.layers[0].mlp.up_proj
    with torch.no_grad():
        layer.get_base_layer().weight.fill_(1)
        layer.lora_B["default"].weight.mul_(0.01)
        x = torch.tensor([1.0, -1.0], dtype=BF16).repeat(model.hidden_size // 2).unsqueeze(0)
        expected = layer(x)
        with model.whole_weights():
            found = layer(x)
    assert 0 < expected.abs().max() < 0.004
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dtype": "bfloat16"}, "47 % of the weights had not moved"),
        ({"dtype": "float16", "base_dtype": "bfloat16"}, "model.base_dtype=bfloat16"),
        ({"base_dtype": "bfloat16", "lora": None}, "without model.lora the base is trained"),
        ({"base_dtype": "bfloat16", "lora": None}, "Set model.base_dtype=null;"),  # it may be the recipe's
    ],
)
def test_training_weights_in_bfloat16_is_refused(base: str, changes: dict[str, Any], said: str) -> None:
    model = replace(with_lora(base), **changes)
    config = replace(load_recipe("word-problems-small"), model=model)
    with pytest.raises(RecipeError, match=said):
        build_reasoner(config)


def test_a_base_in_bfloat16_trains_under_mixed_precision_in_bfloat16_alone(tmp_path: Path) -> None:
    settings = lora_over_saved_base(tmp_path, tiny_settings(tmp_path, max_steps=2))
    settings["model"]["base_dtype"] = "bfloat16"
    for mixed, said in (({}, "training.bf16 is false"), ({"fp16": True}, "training.fp16 is true")):
        given = {**settings, "training": settings["training"] | mixed}
        with pytest.raises(RecipeError, match=rf"{said}.*norms too.*model\.base_dtype=null"):
            run(given, tmp_path / "refused")
    settings["training"]["bf16"] = True
    assert run(settings, tmp_path / "run")["steps"] == 2


@pytest.mark.parametrize(
    ("changes", "bf16", "validating", "refused"),
    [
        ({}, False, False, True),
        ({}, True, True, True),
        ({}, True, False, False),
        ({"base_dtype": "bfloat16"}, True, True, False),
    ],
)
def test_flash_attention_is_for_16_bits(
    changes: dict[str, Any], bf16: bool, validating: bool, refused: bool
) -> None:
    config = with_lora("a/base", attention="flash_attention_2", **changes)
    with pytest.raises(RecipeError, match="in 16 bits alone") if refused else nullcontext():
        check_computed_type(config, bf16, fp16=False, validating=validating)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"base_dtype": "float16"}, "base_dtype is 'float16'"),
        ({"attention": "flash"}, "model.attention=flash does not exist"),
        ({"attention": "flash_attention_2"}, "needs a CUDA GPU and the package flash-attn"),
    ],
)
def test_types_and_attentions_that_cannot_be_had(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        build_base(tiny_config(**changes))


def test_a_base_without_the_attention_asked_for() -> None:
    settings = {"model_type": "bloom", "vocab_size": 64, "hidden_size": 16, "n_layer": 1, "n_head": 2}
    with pytest.raises(RecipeError, match=r"model\.attention=sdpa cannot be had with this base"):
        build_base(ModelConfig(base_config=settings, attention="sdpa"))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_attention_is_the_one_asked_for_and_the_loss_the_same(attention: str) -> None:
    model, method = tiny_model("llama", attention=attention), Codi(latents=2)
    assert model.packs is (attention == "sdpa")
    assert (model.causal.config._attn_implementation == "eager") is (attention == "eager")
    batch = encoded_batch(method)
    expected = method.loss(tiny_model("llama"), batch)["loss"].item()
    assert method.loss(model, batch)["loss"].item() == pytest.approx(expected, rel=1e-5)


def test_the_check_of_the_head_needs_no_flash_attention() -> None:
    """Which is not to be had on a CPU: a pass with it fails."""
    causal = tiny_model("llama").causal
    causal.config._attn_implementation = "flash_attention_2"
    check_head(causal)
    _check_same(Path("saved"), tiny_model("llama").causal, causal)
    assert causal.config._attn_implementation == "flash_attention_2"
    with pytest.raises((ImportError, RuntimeError, KeyError, TypeError, AttributeError, ValueError)):
        causal(input_ids=torch.tensor([[1, 2]]))


def test_flash_attention_answers_in_16_bits_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("transformers.utils.import_utils.is_flash_attn_2_available", lambda: True)
    assert attention_at_hand("flash_attention_2", "bfloat16") == "flash_attention_2"
    assert attention_at_hand("flash_attention_2", "float32") is None
    assert "held in float32" in caplog.text


def test_a_checkpoint_trained_with_an_attention_that_is_not_here(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reasoner(Codi(latents=2), tiny_model("llama")).save_pretrained(tmp_path / "saved")
    file = tmp_path / "saved/codi.json"
    saved = json.loads(file.read_text())
    saved["model"]["attention"] = "flash_attention_2"
    file.write_text(json.dumps(saved))
    loaded = LatentReasoner.from_pretrained(tmp_path / "saved", device="cpu")
    assert loaded.answer(QUESTIONS, max_new_tokens=4)
    assert "model.attention=flash_attention_2" in caplog.text


def test_saved_over_a_base_in_bfloat16_it_answers_the_same(base: str, tmp_path: Path) -> None:
    asked = reasoner(Codi(latents=2), over(base, base_dtype="bfloat16"))
    asked.save_pretrained(tmp_path / "saved")
    answers = asked.answer(QUESTIONS, max_new_tokens=6)
    loaded = LatentReasoner.from_pretrained(tmp_path / "saved", device="cpu")
    assert types(loaded.model, learns=False) == {BF16}
    assert loaded.answer(QUESTIONS, max_new_tokens=6) == answers


def test_a_checkpoint_without_the_settings_loads(base: str, tmp_path: Path) -> None:
    asked = reasoner(Codi(latents=2), over(base))
    asked.save_pretrained(tmp_path / "saved")
    file = tmp_path / "saved/codi.json"
    saved = json.loads(file.read_text())
    for name in ("base_dtype", "attention"):
        del saved["model"][name]
    file.write_text(json.dumps(saved))
    loaded = LatentReasoner.from_pretrained(tmp_path / "saved", device="cpu")
    assert {weight.dtype for weight in loaded.model.parameters()} == {torch.float32}
    assert loaded.answer(QUESTIONS, max_new_tokens=6) == asked.answer(QUESTIONS, max_new_tokens=6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("kind", ["whole", "lora"])
def test_answering_in_another_type(base: str, tmp_path: Path, kind: str, dtype: str) -> None:
    model = over(base, base_dtype="bfloat16") if kind == "lora" else tiny_model("llama")
    asked = reasoner(Codi(latents=2), model)
    asked.save_pretrained(tmp_path / "saved")
    loaded = LatentReasoner.from_pretrained(tmp_path / "saved", device="cpu", dtype=dtype)
    assert {str(weight.dtype) for weight in loaded.model.parameters()} == {f"torch.{dtype}"}
    assert len(loaded.answer(QUESTIONS, max_new_tokens=4)) == len(QUESTIONS)
    assert loaded.decode_thoughts(QUESTIONS[0])
    logits = [
        each.model.logits(each.start([each.text.question(QUESTIONS[0])]).context.last_hidden).float()
        for each in (asked, loaded)
    ]
    torch.testing.assert_close(*logits, atol=0.2, rtol=0.05)
    loaded.save_pretrained(tmp_path / "again")
    again = LatentReasoner.from_pretrained(tmp_path / "again", device="cpu")
    assert again.answer(QUESTIONS, max_new_tokens=4) == loaded.answer(QUESTIONS, max_new_tokens=4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_checkpoint_recorded_in_float16_answers_in_every_type(
    base: str, tmp_path: Path, dtype: str
) -> None:
    with torch.no_grad():  # values so small that a float16 rounds them further than a bfloat16
        causal = build_base(ModelConfig(base=base))
        causal.base_model.layers[0].self_attn.q_proj.weight.mul_(1e-4)
        causal.save_pretrained(base)
    asked = reasoner(Codi(latents=2), over(base, dtype="float16"))
    assert asked.model.config.base_fingerprint != over(base).config.base_fingerprint
    asked.save_pretrained(tmp_path / "saved")
    loaded = LatentReasoner.from_pretrained(tmp_path / "saved", device="cpu", dtype=dtype)
    wanted = {name: w.to(getattr(torch, dtype)) for name, w in asked.model.named_parameters()}
    for name, weight in loaded.model.named_parameters():
        assert torch.equal(weight, wanted[name]), name
    loaded.save_pretrained(tmp_path / "again")
    again = LatentReasoner.from_pretrained(tmp_path / "again", device="cpu")
    for name, weight in again.model.named_parameters():
        assert torch.equal(weight, wanted[name]), name


@pytest.mark.parametrize("base_dtype", [None, "float32", "bfloat16"])
def test_a_rounded_base_is_rounded_in_another_type_too(base: str, tmp_path: Path, base_dtype: str) -> None:
    asked = reasoner(Codi(latents=2), over(base, base_dtype=base_dtype, base_rounded_to="bfloat16"))
    asked.save_pretrained(tmp_path / "saved")
    loaded = LatentReasoner.from_pretrained(tmp_path / "saved", device="cpu", dtype="float32")
    for name, weight in asked.model.named_parameters():
        assert torch.equal(loaded.model.get_parameter(name), weight.float()), name


def test_a_type_that_does_not_exist(tmp_path: Path) -> None:
    reasoner(Codi(latents=2), tiny_model()).save_pretrained(tmp_path / "saved")
    with pytest.raises(UsageError, match="'int4' is unknown; choose one of float32"):
        LatentReasoner.from_pretrained(tmp_path / "saved", dtype="int4")


@pytest.mark.parametrize(
    "command", [["generate", "CHECKPOINT", "How many?"], ["probe", "CHECKPOINT", "--question", "How many?"]]
)
def test_commands_take_a_type(command: list[str], tmp_path: Path) -> None:
    reasoner(Codi(latents=2), tiny_model("llama")).save_pretrained(tmp_path / "saved")
    asked = [part.replace("CHECKPOINT", str(tmp_path / "saved")) for part in command]
    done = CliRunner().invoke(app, [*asked, "--device", "cpu", "--dtype", "bfloat16"])
    assert done.exit_code == 0, done.output
    refused = CliRunner().invoke(app, [*asked, "--dtype", "int4"])
    assert refused.exit_code != 0


def test_adapters_merged_into_a_base_in_bfloat16_are_not_rounded(base: str) -> None:
    asked = reasoner(Codi(latents=2), over(base, base_dtype="bfloat16"))
    alone = asked.without_adapters()
    assert {weight.dtype for weight in alone.model.parameters()} == {torch.float32}
    rounded = reasoner(Codi(latents=2), over(base, base_rounded_to="bfloat16"))
    learned = {name: w for name, w in asked.model.named_parameters() if w.requires_grad}
    rounded.model.load_state_dict(learned, strict=False)
    ids = [asked.text.question(QUESTIONS[0])]
    torch.testing.assert_close(
        alone.start(ids).context.last_hidden, rounded.start(ids).context.last_hidden, atol=1e-4, rtol=1e-4
    )
    assert fingerprint(asked.model.causal) == rounded.model.config.base_fingerprint


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_adapters_held_in_16_bits_are_kept_when_merged(base: str, tmp_path: Path, dtype: str) -> None:
    reasoner(Codi(latents=2), over(base)).save_pretrained(tmp_path / "saved")
    asked = LatentReasoner.from_pretrained(tmp_path / "saved", device="cpu", dtype=dtype)
    alone = asked.without_adapters()
    assert {weight.dtype for weight in alone.model.parameters()} == {torch.float32}
    asked.model.float()
    ids = [asked.text.question(QUESTIONS[0])]
    torch.testing.assert_close(
        alone.start(ids).context.last_hidden, asked.start(ids).context.last_hidden, atol=1e-4, rtol=1e-4
    )
    alone.save_pretrained(tmp_path / "alone")
    again = LatentReasoner.from_pretrained(tmp_path / "alone", device="cpu")
    assert again.answer(QUESTIONS, max_new_tokens=4) == alone.answer(QUESTIONS, max_new_tokens=4)


def test_published_behaviour_over_a_base_in_bfloat16(base: str) -> None:
    asked = reasoner(Codi(latents=2), over(base, base_dtype="bfloat16"))
    found = PublishedBehaviour(asked, dtype="float32")
    assert {weight.dtype for weight in found.model.parameters()} == {torch.float32}
    [answers] = found.answer_batches(QUESTIONS, max_new_tokens=4)
    assert len(answers) == len(QUESTIONS)


def test_sim_cots_decoder_learns_in_float32(base: str) -> None:
    model, method = over(base, base_dtype="bfloat16"), SimCot(latents=2)
    model.training_parts.update(method.training_parts(model))
    assert {weight.dtype for weight in model.training_parts.parameters()} == {torch.float32}
    with torch.autocast("cpu", BF16):
        method.loss(model, encoded_batch(method))["loss"].backward()


def test_paper_scale_recipes_hold_a_frozen_base_in_bfloat16() -> None:
    for name in recipe_names():
        config = load_recipe(name)
        paper_scale = name.startswith(("gpt2", "llama"))
        wanted = "bfloat16" if paper_scale and config.model.lora is not None else None
        assert config.model.base_dtype == wanted, name
        check_computed_type(config.model, config.training.get("bf16", False), fp16=False, validating=True)
