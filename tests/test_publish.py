"""What is published loads elsewhere: with this package, and in a process that does not have it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from codi.cli import app
from codi.errors import UsageError
from codi.generation.latent_reasoner import LatentReasoner
from codi.methods.method import build_method
from codi.modeling.checkpoint import load_tokenizer
from codi.modeling.configuration import LoraSettings, ModelConfig, TextFormat
from codi.modeling.merging import merged
from codi.modeling.model import ThoughtModel
from tiny_checkpoints import tiny_reasoner

QUESTIONS = [
    "Mia has 3 apples and buys 4 more . How many apples does Mia have ?",
    "How many apples ?",
    "On Monday the price rises by 2 dollars . What does it cost now ?",
]
WITHOUT_CODI = """
import json, sys
sys.modules["codi"] = None  # an import of it fails
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, questions, latents, side = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
tokenizer = AutoTokenizer.from_pretrained(folder, padding_side=side)
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
asked = tokenizer(questions, return_tensors="pt", padding=True)
kept = {"input_ids": asked["input_ids"], "attention_mask": asked["attention_mask"]}
ids = model.generate(**kept, max_new_tokens=12, latents=latents)
print(json.dumps(tokenizer.batch_decode(ids[:, kept["input_ids"].shape[1]:], skip_special_tokens=True)))
"""


def run(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result.output


def refused(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 2, result.output + repr(result.exception)
    return " ".join(result.output.split())


def lora_reasoner(folder: Path, family: str) -> LatentReasoner:
    """Adapters that are not zero over a saved base."""
    tokenizer = load_tokenizer("word-problems")
    size = {"vocab_size": len(tokenizer), "bos_token_id": None, "eos_token_id": tokenizer.eos_token_id}
    shapes: dict[str, dict[str, Any]] = {
        "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 160},
        "llama": {
            "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "max_position_embeddings": 160,
        },
    }  # fmt: skip
    torch.manual_seed(3)
    base = ThoughtModel(ModelConfig(base_config={"model_type": family, **size, **shapes[family]}))
    base.causal.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    model = ThoughtModel(ModelConfig(base=str(folder / "base"), lora=LoraSettings(rank=2)))
    for name, weight in model.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(weight, std=0.3)
    return LatentReasoner(model.eval(), build_method({"name": "codi"}), tokenizer, TextFormat())


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_merged_answers_as_the_adapters_did(family: str, tmp_path: Path) -> None:
    reasoner = lora_reasoner(tmp_path, family)
    reasoner.save_pretrained(tmp_path / "lora")
    said = run("merge", tmp_path / "lora", "--output", tmp_path / "merged")
    assert "The merged checkpoint is in" in said
    names = {file.name for file in (tmp_path / "merged").iterdir()}
    assert "model.safetensors" in names
    assert "adapter_model.safetensors" not in names
    alone = LatentReasoner.from_pretrained(tmp_path / "merged", device="cpu")
    assert alone.model.config.lora is None
    assert alone.answer(QUESTIONS, max_new_tokens=12) == reasoner.answer(QUESTIONS, max_new_tokens=12)
    ids = torch.tensor([reasoner.text.question(QUESTIONS[0])])
    with torch.no_grad():
        ours, theirs = alone.model.causal(ids).logits, reasoner.model.causal(ids).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert any(".lora_" in name for name, _ in reasoner.model.named_parameters())  # the original is whole


def test_nothing_to_merge_is_told(tmp_path: Path) -> None:
    tiny_reasoner("codi").save_pretrained(tmp_path / "full")
    assert "no LoRA adapters" in refused("merge", tmp_path / "full", "--output", tmp_path / "new")
    assert "the checkpoint itself" in refused(
        "merge", tmp_path / "full", "--output", tmp_path / "full", "--overwrite"
    )
    with pytest.raises(UsageError, match="no LoRA adapters"):
        merged(tiny_reasoner("codi").model)


@pytest.mark.parametrize("kind", ["gpt2 with LoRA", "llama with LoRA", "full, without projection"])
def test_a_process_without_this_package_gets_the_same_answers(kind: str, tmp_path: Path) -> None:
    if "LoRA" in kind:
        reasoner = lora_reasoner(tmp_path, kind.split()[0])
    else:
        reasoner = tiny_reasoner("codi")
        config = ModelConfig(base_config=reasoner.model.config.base_config, projection=False)
        torch.manual_seed(5)
        reasoner = LatentReasoner(ThoughtModel(config), reasoner.method, reasoner.tokenizer, TextFormat())
    reasoner.save_pretrained(tmp_path / "trained")
    run("publish", tmp_path / "trained", "--output", tmp_path / "out")
    ours = LatentReasoner.from_pretrained(tmp_path / "out", device="cpu")
    assert ours.answer(QUESTIONS, max_new_tokens=12) == reasoner.answer(QUESTIONS, max_new_tokens=12)
    for latents, side in ((6, "left"), (2, "right")):
        asked = [str(tmp_path / "out"), json.dumps(QUESTIONS), str(latents), side]
        done = subprocess.run([sys.executable, "-c", WITHOUT_CODI, *asked], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        expected = [answer.text for answer in reasoner.answer(QUESTIONS, latents=latents, max_new_tokens=12)]
        assert json.loads(done.stdout.splitlines()[-1]) == expected


def test_the_card_says_what_the_run_left_behind_and_nothing_else(tmp_path: Path) -> None:
    reasoner = tiny_reasoner("codi")
    reasoner.save_pretrained(tmp_path / "run")
    run("publish", tmp_path / "run", "--output", tmp_path / "bare", "--name", "org/bare")
    bare = (tmp_path / "bare/README.md").read_text()
    assert "It came without measured results" in bare
    assert "training data | not recorded" in bare
    assert "steps, seed" not in bare
    (tmp_path / "run/run.yaml").write_text(
        "data: {train: my-set}\ntraining: {seed: 7, learning_rate: 0.001}\n"
    )
    (tmp_path / "run/training.json").write_text('{"steps": 99, "validation_accuracy": 0.75}')
    questions = tmp_path / "mine.jsonl"
    questions.write_text("".join(json.dumps({"question": q, "answer": "7"}) + "\n" for q in QUESTIONS))
    run("eval", tmp_path / "run", "--benchmark", questions, "--output", tmp_path / "eval.json",
        "--latency-questions", 0, "--device", "cpu")  # fmt: skip
    run(
        "publish",
        tmp_path / "run",
        "--output",
        tmp_path / "out",
        "--name",
        "org/mine",
        "--eval",
        tmp_path / "eval.json",
    )
    card = (tmp_path / "out/README.md").read_text()
    for said in (
        "# org/mine", "my-set", "99 steps, seed 7; learning_rate 0.001", "75.0 %", "| 3 | number | 8.0 |",
        "thinks 6 vectors (8 thought\ntokens", "arXiv:2502.21074", "library_name: codi",
    ):  # fmt: skip
        assert said in card
    (found,) = json.loads((tmp_path / "eval.json").read_text())["benchmarks"].values()
    assert f"{100 * found['ci95'][0]:.1f} – {100 * found['ci95'][1]:.1f}" in card


def test_what_cannot_be_published_is_told(tmp_path: Path) -> None:
    tiny_reasoner("cot-sft").save_pretrained(tmp_path / "cot")
    assert "no continuous thoughts" in refused("publish", tmp_path / "cot", "--output", tmp_path / "out")
    tiny_reasoner("codi").save_pretrained(tmp_path / "codi")
    (tmp_path / "no.json").write_text("{}")
    asked = ("publish", tmp_path / "codi", "--output", tmp_path / "out", "--eval")
    assert "is no file of `codi eval --output`" in refused(*asked, tmp_path / "no.json")
    assert "is no file of `codi eval --output`" in refused(*asked, tmp_path / "absent.json")
    (tmp_path / "other.json").write_text('{"benchmarks": {}, "method": "coconut"}')
    assert "measured a coconut model" in refused(*asked, tmp_path / "other.json")
    assert not (tmp_path / "out").exists()
