"""Thoughts of this package, answers of another engine: transformers' own `generate`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from codi.cli import app
from codi.errors import UsageError
from codi.generation.latent_reasoner import LatentReasoner
from codi.publishing.prompt_embeddings import prompt_embeddings
from codi.serving.engine import Engine, Event, Finished, Question
from test_publish import QUESTIONS, lora_reasoner
from tiny_checkpoints import tiny_reasoner

STOCK = """
import json, sys
sys.modules["codi"] = None  # an import of it fails
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
folder = sys.argv[1]
model = AutoModelForCausalLM.from_pretrained(folder + "/model").eval()
tokenizer = AutoTokenizer.from_pretrained(folder + "/model")
prompts, found = load_file(folder + "/prompt_embeds.safetensors"), []
for line in map(json.loads, open(folder + "/prompts.jsonl")):
    embeds = prompts[str(line["number"])].unsqueeze(0)
    ids = model.generate(inputs_embeds=embeds, do_sample=False, max_new_tokens=12)
    found.append(ids[0].tolist())
print(json.dumps(found))
"""


def engine_answers(reasoner: LatentReasoner, latents: int | None) -> list[str]:
    """What `codi serve` answers, all questions in one batch or as they come."""
    engine, ends = Engine(reasoner), [list[Event]() for _ in QUESTIONS]
    asked = [Question(text, latents=latents, max_new_tokens=12, in_pieces=False) for text in QUESTIONS]
    engine.submit_all(asked, [end.append for end in ends])
    engine.close()
    finished = [end[-1] for end in ends]
    assert all(isinstance(one, Finished) for one in finished)
    return [one.answer.text for one in finished if isinstance(one, Finished)]


@pytest.mark.parametrize(("family", "latents"), [("gpt2", None), ("llama", 3)])
def test_a_stock_generate_writes_the_engines_answers(
    family: str, latents: int | None, tmp_path: Path
) -> None:
    reasoner = lora_reasoner(tmp_path, family)
    reasoner.save_pretrained(tmp_path / "checkpoint")
    questions = tmp_path / "questions.jsonl"
    questions.write_text("".join(json.dumps({"question": text}) + "\n" for text in QUESTIONS))
    out = tmp_path / "exported"
    words = ["export", tmp_path / "checkpoint", "--prompt-embeds", questions, "--output", out]
    words += [] if latents is None else ["--latents", latents]
    told = CliRunner().invoke(app, [str(word) for word in words])
    assert told.exit_code == 0, told.output + repr(told.exception)

    written = subprocess.run(
        [sys.executable, "-c", STOCK, str(out)], capture_output=True, text=True, check=True, timeout=120
    )
    ids = json.loads(written.stdout.splitlines()[-1])
    text = reasoner.text
    stock = [
        text.decode(text.prompt_ids + [token for token in row if token not in (text.eos_id, text.pad_id)])
        for row in ids
    ]
    assert stock == engine_answers(reasoner, latents)
    assert len(set(stock)) > 1, "the answers must depend on the questions for this to show anything"
    lines = [json.loads(line) for line in (out / "prompts.jsonl").read_text().splitlines()]
    thoughts = 6 if latents is None else latents
    expected = [len(text.question(q)) + thoughts + 2 + len(text.prompt_ids) for q in QUESTIONS]
    assert [line["positions"] for line in lines] == expected


@pytest.mark.parametrize("method", ["codi", "coconut", "pause-tokens"])
def test_prompts_do_not_depend_on_the_batch(method: str) -> None:
    reasoner = tiny_reasoner(method)
    together = prompt_embeddings(reasoner, QUESTIONS)
    alone = [prompt_embeddings(reasoner, [text])[0] for text in QUESTIONS]
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    assert reasoner.model.packs, "looking on leaves the model as it was"


def test_what_cannot_be_exported(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="as text"):
        prompt_embeddings(tiny_reasoner("cot-sft"), QUESTIONS)
    tiny_reasoner("codi").save_pretrained(tmp_path / "checkpoint")
    words = ["export", str(tmp_path / "checkpoint"), "--output", str(tmp_path / "out")]
    assert CliRunner().invoke(app, [*words, "--prompt-embeds", str(tmp_path / "none.txt")]).exit_code == 2
    assert not (tmp_path / "out").exists()
    assert CliRunner().invoke(app, [*words[:-1], str(tmp_path / "checkpoint"), "--overwrite"]).exit_code == 2


def test_prompts_of_an_earlier_export_do_not_stay(tmp_path: Path) -> None:
    tiny_reasoner("codi").save_pretrained(tmp_path / "checkpoint")
    (tmp_path / "questions.txt").write_text(QUESTIONS[0] + "\n")
    words = ["export", str(tmp_path / "checkpoint"), "--output", str(tmp_path / "out"), "--overwrite"]
    first = CliRunner().invoke(app, [*words, "--prompt-embeds", str(tmp_path / "questions.txt")])
    assert first.exit_code == 0, first.output
    assert list(load_file(tmp_path / "out" / "prompt_embeds.safetensors")) == ["0"]
    assert CliRunner().invoke(app, words).exit_code == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["model"]
