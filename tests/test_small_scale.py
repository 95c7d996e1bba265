"""The small scale: the base that comes with the package, `codi pretrain`, and the recipes over it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from codi.cli import app
from codi.data.collation import collate
from codi.data.two_branches import generate
from codi.errors import CheckpointError, RecipeError, UsageError
from codi.generation.latent_reasoner import LatentReasoner
from codi.methods.codi import Codi
from codi.modeling.configuration import LoraSettings, ModelConfig
from codi.modeling.model import ThoughtModel
from codi.modeling.pretrained import OWN_BASES
from codi.training.pretraining import pretrain
from codi.training.recipes import load_recipe, recipe_names
from codi.training.run import train
from codi.training.starting import build_reasoner
from tiny_models import encoded_batch, tiny_model

SMALL = [name for name in recipe_names() if name.startswith("small-") and name != "small-base"]
COLD = {"start": None, "training.max_steps": 2, "data.train": "two-branches?count=64",
        "data.validation_limit": 4, "training.eval_steps": 2, "training.disable_tqdm": True}  # fmt: skip


def silent(_line: str) -> None:
    """In place of print."""


def copied_base(folder: Path) -> Path:
    shutil.copytree(OWN_BASES["small-base"], folder)
    return folder


def test_the_base_that_comes_with_the_package_is_small_and_whole() -> None:
    assert sum(file.stat().st_size for file in OWN_BASES["small-base"].iterdir()) < 2_000_000
    reasoner = build_reasoner(load_recipe("small-cot-sft"))
    assert reasoner.model.layers == 4
    assert (
        sum(p.numel() for name, p in reasoner.model.causal.named_parameters() if ".lora_" not in name) < 4e5
    )


def test_the_base_writes_one_step_and_does_not_know_the_task() -> None:
    """A written step of one person comes out right; two branches do not."""
    reasoner = build_reasoner(load_recipe("small-cot-sft"))
    one = [e for e in generate("pretraining", 800) if e.question.endswith("ends?") and e.steps][:50]
    answers = reasoner.answer([example.question for example in one])
    assert sum(a.value == e.answer for a, e in zip(answers, one, strict=True)) >= 40
    both = generate("validation", 50)
    answers = reasoner.answer([example.question for example in both])
    assert sum(a.value == e.answer for a, e in zip(answers, both, strict=True)) <= 15


def test_all_systems_start_with_the_same_care() -> None:
    """Base, adapters, problems, optimiser and schedule are one; updates are equal, start included."""
    wanted = load_recipe("small-codi")
    starts = {f"runs/{name}": name for name in ("small-start", "small-cot-sft-start")}
    for name in SMALL:
        config = load_recipe(name)
        assert (config.model.base, config.model.lora) == (wanted.model.base, wanted.model.lora)
        assert config.data == wanted.data
        varying = {"max_steps", "eval_steps", "learning_rate"}
        assert {k: v for k, v in config.training.items() if k not in varying} == {
            k: v for k, v in wanted.training.items() if k not in varying
        }
        updates = config.training["max_steps"]
        if config.start is not None:
            updates += load_recipe(starts[config.start]).training["max_steps"]
        assert updates == (800 if name in starts.values() else 2200), name


@pytest.mark.parametrize("name", [name for name in SMALL if name != "small-static-teacher"])
def test_each_recipe_takes_its_first_steps(name: str, tmp_path: Path) -> None:
    short = {}
    if name in ("small-coconut", "small-sim-cot-coconut"):
        short = {"method.epochs_per_stage": 0.2, "method.explicit_epochs": 0.1}
    if name == "small-lotus":
        short = {"method.epochs_per_stage": 0.2}
    if name == "small-icot":
        short = {"method.remove_per_epoch": 50.0, "method.remove_all_beyond": 0}
    result = train(name, tmp_path / "run", {**COLD, **short}, say=silent)
    assert result.steps == 2
    assert LatentReasoner.from_pretrained(tmp_path / "run").method.name == load_recipe(name).method["name"]


def test_a_recipe_like_another(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("like: small-codi\nmethod: {name: cot-sft}\ntraining: {max_steps: 7}\n")
    config, theirs = load_recipe(str(mine)), load_recipe("small-codi")
    assert config.method == {"name": "cot-sft"}
    assert config.training == {**theirs.training, "max_steps": 7}
    assert config.model == theirs.model
    mine.write_text(f"like: {mine}\n")
    with pytest.raises(RecipeError, match="which is like itself"):
        load_recipe(str(mine))
    mine.write_text("like: small-cody\n")
    with pytest.raises(RecipeError, match="Did you mean 'small-codi'"):
        load_recipe(str(mine))


def test_pretraining_makes_a_base_that_a_run_starts_from(tmp_path: Path) -> None:
    short = ["training.max_steps=3", "data.train=two-branches?count=300", "training.disable_tqdm=true"]
    for folder in ("base", "again"):
        done = CliRunner().invoke(app, ["pretrain", "small", *short, "--output", str(tmp_path / folder)])
        assert done.exit_code == 0, done.output
    said = [json.loads((tmp_path / folder / "base.json").read_text()) for folder in ("base", "again")]
    assert said[0] == said[1]  # the same weights, bit by bit
    settings = {**COLD, "model.base": str(tmp_path / "base")}
    assert train("small-cot-sft", tmp_path / "run", settings, say=silent).steps == 2
    with pytest.raises(UsageError, match=r"There is no base 'smal'. Did you mean 'small'"):
        pretrain("smal", tmp_path / "none")


def test_a_base_with_other_weights_than_it_was_made_with_is_refused(tmp_path: Path) -> None:
    base = copied_base(tmp_path / "base")
    weights = load_file(base / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"] + 1
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"are not those that base.json .* codi pretrain small"):
        build_reasoner(load_recipe("small-cot-sft", {"model.base": str(base)}))


def test_a_base_of_another_generator_or_tokenizer_is_refused(tmp_path: Path) -> None:
    base = copied_base(tmp_path / "base")
    said = json.loads((base / "base.json").read_text())
    with pytest.raises(CheckpointError, match="pretrained with another tokenizer than the run's"):
        build_reasoner(load_recipe("small-cot-sft", {"tokenizer": "word-problems"}))
    (base / "base.json").write_text(json.dumps(said | {"version": 0}))
    with pytest.raises(CheckpointError, match=r"two-branches version 0; this package generates version \d+"):
        build_reasoner(load_recipe("small-cot-sft", {"model.base": str(base)}))
    (base / "base.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"base\.json is damaged"):
        build_reasoner(load_recipe("small-cot-sft", {"model.base": str(base)}))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_adapters_multiplied_once_give_the_same_loss_and_gradients(family: str) -> None:
    lora = LoraSettings(rank=4, alpha=8, dropout=0.0)
    model, method = tiny_model(family, lora=lora), Codi(latents=2)
    torch.manual_seed(3)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".lora_B." in name:
                weight.normal_(std=0.1)
    batch = encoded_batch(method)
    found = []
    for once in (False, True):
        model.config = ModelConfig.from_dict(model.config.as_dict())
        assert model.config.lora is not None
        object.__setattr__(model.config.lora, "multiply_once", once)
        model.zero_grad()
        with model.whole_weights():
            loss = method.loss(model, batch)["loss"]
        loss.backward()
        gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        found.append((loss.detach(), gradients))
    torch.testing.assert_close(found[0][0], found[1][0])
    assert found[0][1].keys() == found[1][1].keys()
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], gradient, atol=1e-5, rtol=1e-4, msg=name)
    with torch.no_grad():  # afterwards the layers are peft's own again
        torch.testing.assert_close(method.loss(model, batch)["loss"], found[0][0])


def test_multiplying_once_is_refused_with_dropout() -> None:
    lora = LoraSettings(rank=4, dropout=0.1, multiply_once=True)
    with pytest.raises(RecipeError, match=r"multiply_once was asked for with model.lora.dropout = 0.1"):
        ThoughtModel(ModelConfig(base="small-base", lora=lora))


@pytest.mark.parametrize("weight", [1.0, 0.1])
def test_the_batch_of_the_base_is_learned_from_its_second_token_on(weight: float) -> None:
    """Every token of a text after the first has a place in the divisor and in the loss, at its weight."""
    reasoner = build_reasoner(load_recipe("small-base", [f"method.question_weight={weight}"]))
    rows = [reasoner.method.encode(e, reasoner.text) for e in generate("pretraining", 8)]
    batch = collate(rows, reasoner.text.pad_id)
    weights = [
        torch.tensor([weight] * (len(row["question"]) - 1) + [1.0] * len(row["teacher"])) for row in rows
    ]
    in_all = sum(one.sum().item() for one in weights)
    assert float(reasoner.method.divisors(batch)["text"]) == pytest.approx(in_all)
    whole = reasoner.method.loss(reasoner.model, batch)["loss"].item() * in_all
    alone = 0.0
    for row, weights_of_row in zip(rows, weights, strict=True):
        ids = torch.tensor([row["question"] + row["teacher"]])
        logits = reasoner.model.causal(input_ids=ids).logits[0, :-1]
        each = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
        alone += (weights_of_row * each).sum().item()
    assert whole == pytest.approx(alone, rel=1e-4)


def test_a_question_cannot_count_more_than_any_other_text() -> None:
    with pytest.raises(RecipeError, match=r"question_weight is 2.0; it must lie between 0"):
        load_recipe("small-base", ["method.question_weight=2.0"])
