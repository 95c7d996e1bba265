"""LoRA: what is trained, and how much of it."""

from __future__ import annotations

import warnings

import pytest
import torch

from codi.errors import RecipeError
from codi.methods.codi import Codi
from codi.modeling.backbone import fingerprint
from codi.modeling.configuration import LoraSettings, ModelConfig
from codi.modeling.model import ThoughtModel
from tiny_models import LORA, encoded_batch, tiny_config, tiny_model

ADAPTERS, PROJECTION, TOKENS = 18_874_368, 1_182_720, 2 * 768


@pytest.mark.parametrize(
    ("train_tokens", "expected"), [(True, ADAPTERS + PROJECTION + TOKENS), (False, 20_057_088)]
)
def test_trainable_parameters_of_the_published_gpt2_run(train_tokens: bool, expected: int) -> None:
    with torch.device("meta"):
        model = ThoughtModel(
            ModelConfig(
                base_config={"model_type": "gpt2"}, lora=LoraSettings(), train_thought_tokens=train_tokens
            )
        )
    trained = {name: weight.numel() for name, weight in model.named_parameters() if weight.requires_grad}
    assert sum(trained.values()) == expected
    assert sum(n for name, n in trained.items() if ".lora_" in name) == ADAPTERS
    assert sum(n for name, n in trained.items() if name.startswith("projection.")) == PROJECTION


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2"])
def test_only_adapter_projection_and_thought_tokens_learn(family: str) -> None:
    model, method = tiny_model(family, lora=LORA), Codi(latents=2)
    before = fingerprint(model.causal)
    optimizer = torch.optim.AdamW([w for w in model.parameters() if w.requires_grad], lr=0.1)
    method.loss(model, encoded_batch(method))["loss"].backward()
    for name, weight in model.named_parameters():
        ours = ".lora_" in name or name.startswith(("projection.", "thought_tokens"))
        assert weight.requires_grad is ours, name
        assert (weight.grad is not None) is ours, name
    optimizer.step()
    assert fingerprint(model.causal) == before


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_adding_adapters_warns_of_nothing(family: str) -> None:
    """What peft and transformers say to whoever calls them is not the user's to mend (`make versions`)."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tiny_model(family, lora=LORA)


def test_fresh_adapters_change_nothing() -> None:
    torch.manual_seed(1)
    model = ThoughtModel(tiny_config("llama", lora=LORA)).eval()
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        adapted = model.causal(input_ids=ids).logits
        with model.backbone.disable_adapter():
            base = model.causal(input_ids=ids).logits
    torch.testing.assert_close(adapted, base)


def test_targets_that_do_not_fit() -> None:
    with pytest.raises(RecipeError, match=r"model.lora.targets = \['q_projj'\]"):
        ThoughtModel(tiny_config(lora=LoraSettings(targets=["q_projj"])))


def test_unknown_keys_are_named() -> None:
    with pytest.raises(RecipeError, match="Did you mean 'projection'"):
        ModelConfig.from_dict({"projektion": True})
    with pytest.raises(RecipeError, match=r"model\.lora.*Did you mean 'rank'"):
        ModelConfig.from_dict({"lora": {"rang": 4}})
    config = tiny_config(lora=LORA)
    assert ModelConfig.from_dict(config.as_dict()) == config
