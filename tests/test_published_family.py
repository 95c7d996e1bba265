"""`codi convert` for PCCoT and for SIM-CoT on CODI: folders as their code writes them, at small size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from typer.testing import CliRunner

from codi.cli import app
from codi.generation.latent_reasoner import LatentReasoner
from codi.methods.pccot import Pccot
from codi.methods.sim_cot import SimCot
from codi.modeling.pccot_layout import refining_logits
from published_checkpoints import ADAPTED, PREFIX, make_base, published_weights, source_logits, write
from test_conversion import ANSWER, LATENTS, QUESTION, assert_computes, converted, refused
from tiny_models import VOCABULARY

BOT, EOT, LATENT, PAD, EOS = VOCABULARY, VOCABULARY + 1, VOCABULARY + 2, VOCABULARY + 3, 1
SAID = {
    "bot_token_id": BOT, "eot_token_id": EOT, "latent_token_id": LATENT, "label_pad_token_id": -100,
    "answer_prompt": "The answer is:", "num_latent_tokens": 5, "use_peft": True, "lora_r": 4,
}  # fmt: skip
CONFIG = {
    "num_iterations": 3, "use_projection": False, "use_layerwise_std": False, "loss_alpha": 1.0,
    "loss_beta": 2.0, "loss_gamma": 20.0,
}  # fmt: skip


def pccot_model(base: Path, causal: Any, family: str, *, projection: bool, eos: bool) -> Any:
    """peft's model as PCCoT's code makes it: a longer vocabulary, adapters, and trained token rows."""
    causal.resize_token_embeddings(VOCABULARY + 4)
    if projection:
        causal.prj = nn.Sequential(nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 32), nn.LayerNorm(32))
    layer = "wte" if family == "gpt2" else "embed_tokens"
    settings = LoraConfig(
        r=4, lora_alpha=32, lora_dropout=0.1, target_modules=list(ADAPTED[family]),
        trainable_token_indices={layer: [BOT, EOT, LATENT, PAD, *([EOS] if eos else [])]},
        modules_to_save=["prj"] if projection else None, fan_in_fan_out=family == "gpt2",
        task_type="CAUSAL_LM",
    )  # fmt: skip
    model = get_peft_model(causal, settings)
    model.peft_config["default"].base_model_name_or_path = str(base)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.requires_grad:
                spread = 0.3 if "token_adapter" in name else 0.15
                weight.copy_(spread * torch.randn(weight.shape, generator=generator))
    return model.eval()


def write_pccot(folder: Path, model: Any, config: dict[str, Any] | None) -> Path:
    model.save_pretrained(folder)
    (folder / "pccot_args.json").write_text(json.dumps(SAID))
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config) if config else "")
    return folder


@torch.no_grad()
def thinking(model: Any, projection: bool, rounds: int = 3) -> tuple[Tensor, Tensor]:
    """By peft's model, every pass over the whole text: thoughts [n, d], logits [1 + answer, vocabulary]."""
    embed, number = model.get_input_embeddings(), SAID["num_latent_tokens"]
    project = model.base_model.model.prj if projection else nn.Identity()
    begun = embed(torch.tensor([[*QUESTION, BOT]]))
    x = embed(torch.tensor([[LATENT] * number]))
    for _ in range(rounds):
        states = model(inputs_embeds=torch.cat([begun, x], 1), output_hidden_states=True).hidden_states[-1]
        thoughts = states[:, begun.shape[1] - 1 :][:, :number]
        x = project(thoughts)
    whole = torch.cat([begun, x, embed(torch.tensor([[EOT, *ANSWER]]))], 1)
    return thoughts[0], model(inputs_embeds=whole).logits[0, -1 - len(ANSWER) :, :VOCABULARY]


@pytest.mark.parametrize("layout", ["safetensors", "bin", "sharded"])
@pytest.mark.parametrize(
    ("family", "projection", "eos"), [("gpt2", False, True), ("llama", True, True), ("llama", False, False)]
)
def test_a_pccot_folder_thinks_and_answers_as_before(
    family: str, projection: bool, eos: bool, layout: str, tmp_path: Path
) -> None:
    causal = make_base(tmp_path / "base", family)
    model = pccot_model(tmp_path / "base", causal, family, projection=projection, eos=eos)
    folder = write_pccot(tmp_path / "pccot", model, {**CONFIG, "use_projection": projection})
    if layout != "safetensors":
        in_another_layout(folder, layout)
    result = CliRunner().invoke(app, ["convert", str(folder), "--output", str(tmp_path / "new")])
    assert result.exit_code == 0, result.output + repr(result.exception)
    reasoner = LatentReasoner.from_pretrained(tmp_path / "new", device="cpu")
    assert reasoner.method == Pccot(latents=5, rounds=3, alpha=2.0, beta=20.0, gamma=1.0, std="all")
    thoughts, logits = thinking(model, projection)
    ours = refining_logits(reasoner.model, QUESTION, 5, 3, ANSWER)
    assert (ours - logits).abs().max() < 1e-5 * max(1.0, float(logits.abs().max()))
    start = reasoner.start([QUESTION])
    assert start.context.thoughts is not None
    torch.testing.assert_close(start.context.thoughts[0], thoughts, rtol=1e-4, atol=1e-5)
    assert start.passes == 3 + 2
    form = reasoner.text_format
    assert (form.answer_separator, form.distillation_token) == ("", "prompt-end")
    stored = tmp_path / "new" / "base"  # its end of text is another row than the base's
    assert reasoner.model.config.base == str(stored if eos else tmp_path / "base")
    assert stored.exists() == eos


def in_another_layout(folder: Path, layout: str) -> None:
    """The adapters' file as a pickle, or in two shards with an index."""
    from safetensors.torch import load_file, save_file

    whole = folder / "adapter_model.safetensors"
    weights = load_file(whole)
    whole.unlink()
    if layout == "bin":
        torch.save(weights, folder / "adapter_model.bin")
        return
    names = sorted(weights)
    listed = {}
    for number in range(2):
        file = f"adapter_model-0000{number + 1}-of-00002.safetensors"
        part = {name: weights[name].clone() for name in names[number::2]}
        save_file(part, folder / file)
        listed.update(dict.fromkeys(part, file))
    (folder / "adapter_model.safetensors.index.json").write_text(json.dumps({"weight_map": listed}))


@pytest.mark.parametrize("projection", [False, True], ids=["plain", "projection"])
@pytest.mark.parametrize("config", [{}, None], ids=["empty", "missing"])
def test_without_its_configuration_the_rounds_are_asked_for(
    config: dict[str, Any] | None, projection: bool, tmp_path: Path
) -> None:
    causal = make_base(tmp_path / "base", "gpt2")
    model = pccot_model(tmp_path / "base", causal, "gpt2", projection=projection, eos=True)
    folder = write_pccot(tmp_path / "pccot", model, config)
    said = refused(folder, "--output", tmp_path / "new")
    assert "does not say num_iterations" in said
    assert "--rounds (the published runs: 3)" in said
    assert not (tmp_path / "new").exists()
    loaded, _ = converted(folder, tmp_path / "base", tmp_path / "new", "--rounds", 2, "--latents", 4)
    assert loaded.method == Pccot(latents=4, rounds=2)
    assert loaded.model.config.projection == projection
    ours = refining_logits(loaded.model, QUESTION, 5, 2, ANSWER)
    assert (ours - thinking(model, projection, rounds=2)[1]).abs().max() < 1e-4


def test_a_projection_that_the_configuration_denies_is_refused(tmp_path: Path) -> None:
    causal = make_base(tmp_path / "base", "gpt2")
    model = pccot_model(tmp_path / "base", causal, "gpt2", projection=True, eos=True)
    folder = write_pccot(tmp_path / "pccot", model, CONFIG)
    said = refused(folder, "--output", tmp_path / "new")
    assert "holds a projection, but" in said
    assert "config.json says use_projection false" in said


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("use_rslora", True), ("use_dora", True), ("alpha_pattern", {"c_attn": 8}), ("bias", "all"),
        ("rank_pattern", {"c_attn": 2}), ("layers_to_transform", [0]), ("init_lora_weights", "pissa"),
        ("peft_type", "LOHA"), ("qalora_group_size", 4), ("of_another_release", 1),
    ],
)  # fmt: skip
def test_adapters_that_compute_otherwise_are_refused_by_name(name: str, value: Any, tmp_path: Path) -> None:
    causal = make_base(tmp_path / "base", "gpt2")
    model = pccot_model(tmp_path / "base", causal, "gpt2", projection=False, eos=True)
    folder = write_pccot(tmp_path / "pccot", model, CONFIG)
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {name: value, "later_release": None}))
    said = refused(folder, "--output", tmp_path / "new")
    assert f"settings that are not understood here: {name} {json.dumps(value)}. Only" in said


def test_a_pccot_folder_that_does_not_fit(tmp_path: Path) -> None:
    causal = make_base(tmp_path / "base", "gpt2")
    model = pccot_model(tmp_path / "base", causal, "gpt2", projection=False, eos=True)
    folder = write_pccot(tmp_path / "pccot", model, CONFIG)
    out = ("--output", tmp_path / "new")
    assert "says LoRA's alpha itself" in refused(folder, *out, "--lora-alpha", 16)
    make_base(tmp_path / "llama", "llama")
    assert "--base" in refused(folder, *out, "--base", tmp_path / "llama")
    (folder / "config.json").write_text(json.dumps({**CONFIG, "use_projection": True}))
    assert "prj.0.bias' is nothing" in refused(folder, *out)
    (folder / "pccot_args.json").write_text("{")
    assert "pccot_args.json could not be read" in refused(folder, *out)
    (folder / "pccot_args.json").write_text("{}")
    assert "does not give bot_token_id, eot_token_id, latent_token_id" in refused(folder, *out)
    (folder / "pccot_args.json").write_text(json.dumps(SAID))
    (folder / "adapter_model.safetensors").write_bytes(b"")
    assert "damaged or cut short" in refused(folder, *out)
    (folder / "adapter_model.safetensors").unlink()
    assert "holds no weights. Looked for adapter_model.safetensors" in refused(folder, *out)
    assert not (tmp_path / "new").exists()


def sim_cot_weights(causal: Any, family: str) -> dict[str, Tensor]:
    """CODI's layout with a whole decoder beside it, as SIM-CoT's code saves it."""
    decoder = {f"decoder.{name}": weight.clone() for name, weight in causal.state_dict().items()}
    return {**published_weights(causal, family), **decoder, "pj_in.weight": torch.ones(32, 32)}


@pytest.mark.parametrize("layout", ["bin", "sharded safetensors"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_sim_cot_on_codi_leaves_its_decoder_behind(family: str, layout: str, tmp_path: Path) -> None:
    causal = make_base(tmp_path / "base", family)
    weights = sim_cot_weights(causal, family)
    source = write(tmp_path / "published", weights, layout)
    (source / "config.json").write_text("")  # published so
    reasoner, result = converted(source, tmp_path / "base", tmp_path / "new")
    assert reasoner.method == SimCot(latents=6)
    assert "Its decoder, which only training needs, was left out" in result.stderr
    own = {name: weight for name, weight in weights.items() if name.startswith((PREFIX, "prj."))}
    assert_computes(reasoner, source_logits(own, causal, family, QUESTION, LATENTS, ANSWER))
    assert "--rounds is for a PCCoT folder" in refused(
        source, "--output", tmp_path / "other", "--base", tmp_path / "base", "--rounds", 3
    )
