"""`codi convert`: published checkpoints, in each layout they come in, compute what they did; bad ones are
refused with one message, and a pickle's code never runs."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from codi.cli import app
from codi.errors import RecipeError
from codi.generation.latent_reasoner import LatentReasoner
from codi.modeling.backbone import build_base
from codi.modeling.configuration import ModelConfig
from codi.modeling.conversion import PublishedRows
from codi.modeling.published_layout import PublishedLayout, thinking_logits
from published_checkpoints import (
    EMBEDDING,
    HIDDEN,
    LAYOUTS,
    PREFIX,
    RANK,
    WIDTH,
    make_base,
    published,
    published_weights,
    source_logits,
    write,
)
from tiny_models import VOCABULARY

QUESTION, ANSWER, LATENTS = [5, 9, 30, 41, 8, 77], [12, 20, 33], 6


def convert(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["convert", *map(str, arguments)])


def converted(source: Path, base: Path, output: Path, *more: object) -> tuple[LatentReasoner, Any]:
    result = convert(source, "--output", output, "--base", base, *more)
    assert result.exit_code == 0, result.output + repr(result.exception)
    return LatentReasoner.from_pretrained(output, device="cpu"), result


def refused(*arguments: object) -> str:
    """The message of a conversion that must be refused, in one line."""
    result = convert(*arguments)
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    _, error, message = result.stderr.rpartition("error: ")
    assert error
    return " ".join(message.split())


def assert_computes(reasoner: LatentReasoner, expected: Tensor) -> None:
    ours = thinking_logits(reasoner.model, QUESTION, LATENTS, ANSWER)
    expected = expected[:, :VOCABULARY]
    assert (ours - expected).abs().max() < 1e-5 * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_each_layout_computes_the_same(family: str, layout: str, tmp_path: Path) -> None:
    causal = make_base(tmp_path / "base", family)
    weights = published_weights(causal, family)
    source = write(tmp_path / "published", weights, layout)
    reasoner, result = converted(source, tmp_path / "base", tmp_path / "new")
    assert_computes(reasoner, source_logits(weights, causal, family, QUESTION, LATENTS, ANSWER))
    assert "largest difference" in result.stdout
    config = reasoner.model.config
    assert config.lora is not None
    assert (config.lora.rank, config.lora.alpha) == (RANK, 32)
    assert config.projection_width == WIDTH
    assert config.base == str(tmp_path / "base")
    assert config.base_rounded_to == "bfloat16"
    assert reasoner.method.as_dict()["latents"] == 6
    assert {file.name for file in (tmp_path / "new").glob("*.safetensors")} == {
        "adapter_model.safetensors",
        "published_rows.safetensors",
        "thoughts.safetensors",
    }
    embedding = weights[PREFIX + EMBEDDING[family]].float()
    assert torch.equal(reasoner.model.thought_tokens, embedding[VOCABULARY + 1 :])
    rows = PublishedRows.load(tmp_path / "new")
    assert rows is not None
    assert torch.equal(rows.padding, embedding[VOCABULARY])
    assert torch.equal(rows.head, embedding[VOCABULARY : VOCABULARY + 2])


def test_the_check_of_the_command_is_the_layouts_own_computation(tmp_path: Path) -> None:
    causal = make_base(tmp_path / "base", "llama")
    weights = published_weights(causal, "llama")
    reasoner, _ = converted(write(tmp_path / "p", weights), tmp_path / "base", tmp_path / "new")
    assert reasoner.model.config.lora is not None
    theirs = PublishedLayout(causal.config, reasoner.model.config.lora, weights).logits(
        QUESTION, LATENTS, ANSWER
    )
    expected = source_logits(weights, causal, "llama", QUESTION, LATENTS, ANSWER)[:, :VOCABULARY]
    torch.testing.assert_close(theirs, expected, atol=1e-5, rtol=1e-5)


def test_a_head_of_its_own(tmp_path: Path) -> None:
    causal = make_base(tmp_path / "base", "llama", tied=False)
    weights = published_weights(causal, "llama")
    source = write(tmp_path / "p", weights)
    reasoner, _ = converted(source, tmp_path / "base", tmp_path / "new")
    assert_computes(reasoner, source_logits(weights, causal, "llama", QUESTION, LATENTS, ANSWER))
    rows = PublishedRows.load(tmp_path / "new")
    assert rows is not None
    assert torch.equal(rows.head, weights[f"{PREFIX}lm_head.weight"][VOCABULARY : VOCABULARY + 2].float())


def test_a_base_that_was_trained_is_stored_with_it(tmp_path: Path) -> None:
    causal = make_base(tmp_path / "base", "gpt2")
    weights = published_weights(causal, "gpt2")
    for name in (EMBEDDING["gpt2"], "lm_head.weight"):
        weights[PREFIX + name][7] += 0.5
    source = write(tmp_path / "p", weights)
    reasoner, result = converted(source, tmp_path / "base", tmp_path / "new")
    said = " ".join(result.stderr.split())
    assert "1 weights of the base are not those of" in said
    assert "transformer.wte.weight" in said
    assert reasoner.model.config.base == str(tmp_path / "new" / "base")
    assert reasoner.model.config.base_rounded_to is None
    assert_computes(reasoner, source_logits(weights, causal, "gpt2", QUESTION, LATENTS, ANSWER))


def test_old_buffers_and_a_head_left_out_do_not_matter(tmp_path: Path) -> None:
    causal = make_base(tmp_path / "base", "gpt2")
    weights = published_weights(causal, "gpt2")
    expected = source_logits(weights, causal, "gpt2", QUESTION, LATENTS, ANSWER)
    del weights[f"{PREFIX}lm_head.weight"]
    weights[f"{PREFIX}transformer.h.0.attn.bias"] = torch.ones(1, 1, 8, 8, dtype=torch.bool)
    weights[f"{PREFIX}transformer.h.0.attn.masked_bias"] = torch.tensor(-1e4)
    reasoner, _ = converted(write(tmp_path / "p", weights), tmp_path / "base", tmp_path / "new")
    assert_computes(reasoner, expected)


def test_what_the_file_does_not_say_can_be_given(tmp_path: Path) -> None:
    source, base = published(tmp_path)
    reasoner, _ = converted(source, base, tmp_path / "new", "--latents", 3, "--lora-alpha", 16)
    assert reasoner.method.as_dict()["latents"] == 3
    assert reasoner.model.config.lora is not None
    assert reasoner.model.config.lora.alpha == 16


def test_one_that_was_trained_in_a_chat_template_is_asked_in_it(tmp_path: Path) -> None:
    source, base = published(tmp_path)
    said = refused(source, "--output", tmp_path / "out", "--base", base, "--chat-template")
    assert "the tokenizer has no chat template" in said
    assert not (tmp_path / "out").exists()
    (base / "chat_template.jinja").write_text("Ask: {{ messages[0]['content'] }} Reply:", encoding="utf-8")
    loaded, _ = converted(source, base, tmp_path / "out", "--chat-template")
    assert loaded.text_format.chat_template
    assert loaded.text.question_text("Mia?") == "Ask: Mia? Reply:"
    asked = loaded.tokenizer("Ask: Mia? Reply:", add_special_tokens=False)["input_ids"]
    assert loaded.text.question("Mia?") == asked


def test_a_rounded_base_is_the_rounded_base(tmp_path: Path) -> None:
    causal = make_base(tmp_path / "base", "gpt2")
    rounded = build_base(ModelConfig(base=str(tmp_path / "base"), base_rounded_to="bfloat16"))
    for name, weight in causal.named_parameters():
        held = rounded.get_parameter(name)
        assert held.dtype == torch.float32
        assert torch.equal(held, weight.to(torch.bfloat16).float())
    with pytest.raises(RecipeError, match="base_rounded_to is 'int4'"):
        build_base(ModelConfig(base=str(tmp_path / "base"), base_rounded_to="int4"))


# --- bad input ----------------------------------------------------------------------------------------------


class Runs:
    """Unpickled the usual way, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "bare pickle"])
def test_code_in_a_pickle_is_refused_and_does_not_run(legacy: bool, tmp_path: Path) -> None:
    make_base(tmp_path / "base", "gpt2")
    trace, folder = tmp_path / "it-ran", tmp_path / "p"
    folder.mkdir()
    contents = {"prj.1.weight": torch.ones(2, 2), "hidden": Runs(trace)}
    if legacy:
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"hidden": Runs(trace)}, protocol=2))
    else:
        torch.save(contents, folder / "pytorch_model.bin")
    message = refused(folder, "--output", tmp_path / "new", "--base", tmp_path / "base")
    assert "could run code" in message
    assert "mkdir" in message
    assert not trace.exists()
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("layout", ["bin", "safetensors", "sharded bin", "sharded safetensors"])
def test_truncated(layout: str, tmp_path: Path) -> None:
    source, base = published(tmp_path, layout=layout)
    file = sorted(file for file in source.iterdir() if file.suffix != ".json")[-1]
    whole = file.read_bytes()
    for size in (len(whole) // 2, 100, 0):
        file.write_bytes(whole[:size])
        message = refused(source, "--output", tmp_path / "new", "--base", base)
        assert file.name in message
        assert "damaged or cut short" in message
        assert "Fetch it again" in message


def test_not_tensors(tmp_path: Path) -> None:
    make_base(tmp_path / "base", "gpt2")
    (tmp_path / "p").mkdir()
    torch.save({"model": {"prj.1.weight": torch.ones(1)}, "step": 3}, tmp_path / "p" / "pytorch_model.bin")
    message = refused(tmp_path / "p", "--output", tmp_path / "new", "--base", tmp_path / "base")
    assert "does not hold tensors by name" in message


LORA = f"{PREFIX}transformer.h.1.mlp.c_fc.lora_B.default.weight"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: w.update({LORA: torch.ones(3, RANK)}),
         f"{LORA} has shape [3, {RANK}], expected [128, {RANK}]"),
        (lambda w: w.update({"prj.3.bias": torch.ones(5)}), f"prj.3.bias has shape [5], expected [{HIDDEN}]"),
        (lambda w: w.update({"prj.5.weight": torch.ones(2)}), "1 unknown weight(s): prj.5.weight."),
        (lambda w: w.pop(LORA), f"lacks 1 weight(s): {LORA}"),
        (lambda w: w.pop("prj.ln.bias"), "lacks 1 weight(s): prj.ln.bias"),
        (lambda w: w.pop("prj.1.weight"), "no matrix 'prj.1.weight'"),
        (lambda w: [w.pop(name) for name in list(w) if ".lora_" in name], "it has no adapters"),
        (lambda w: w[f"{PREFIX}lm_head.weight"].add_(1), "tied head twice, with different values"),
        (lambda w: w.update({LORA: w[LORA].long()}), f"{LORA} holds torch.int64 values"),
        (lambda w: w.clear(), "it has no adapters"),
    ],
    ids=["lora shape", "bias shape", "unknown", "no lora", "no norm", "no projection", "no adapters", "heads",
         "integers", "nothing"],
)  # fmt: skip
def test_weights_that_do_not_fit(change: Any, said: str, tmp_path: Path) -> None:
    weights = published_weights(make_base(tmp_path / "base", "gpt2"), "gpt2")
    change(weights)
    message = refused(
        write(tmp_path / "p", weights), "--output", tmp_path / "new", "--base", tmp_path / "base"
    )
    assert said in message
    assert "pytorch_model.bin" in message
    assert not (tmp_path / "new").exists()


def test_another_familys_base(tmp_path: Path) -> None:
    source, _ = published(tmp_path)
    make_base(tmp_path / "llama", "llama")
    message = refused(source, "--output", tmp_path / "new", "--base", tmp_path / "llama")
    assert "--base" in message


def test_no_weights_and_no_source(tmp_path: Path) -> None:
    make_base(tmp_path / "base", "gpt2")
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "README.md").write_text("nothing else")
    base = ("--base", tmp_path / "base", "--output", tmp_path / "new")
    message = refused(tmp_path / "p", *base)
    assert "holds no weights" in message
    assert "pytorch_model.bin" in message
    assert "README.md" in message
    assert "no checkpoint" in refused(tmp_path / "absent", *base)
    assert "someone/no-model" in refused("someone/no-model", *base)
    source, its_base = published(tmp_path / "good")
    converted(source, its_base, tmp_path / "new")
    again = refused(tmp_path / "new", "--output", tmp_path / "newer", "--base", its_base)
    assert "of this package already" in again


def test_shards_missing_or_elsewhere(tmp_path: Path) -> None:
    source, base = published(tmp_path, layout="sharded bin")
    index = source / "pytorch_model.bin.index.json"
    whole = json.loads(index.read_text())
    asked = (source, "--output", tmp_path / "new", "--base", base)
    index.write_text(json.dumps({"weight_map": {**whole["weight_map"], "x": "../other.bin"}}))
    assert "not a file beside it" in refused(*asked)
    index.write_text(json.dumps({"weight_map": {**whole["weight_map"], "x": "other.bin"}}))
    assert "'other.bin', which is missing" in refused(*asked)
    shard = next(iter(whole["weight_map"].values()))
    index.write_text(json.dumps({"weight_map": {**whole["weight_map"], "x": shard}}))
    assert "lists weights that no shard holds: x" in refused(*asked)
    for broken, said in (("{", "is not JSON"), ("[]", "no 'weight_map'")):
        index.write_text(broken)
        assert said in refused(*asked)


def test_the_base_must_be_known_and_reachable(tmp_path: Path) -> None:
    source, base = published(tmp_path)
    assert "Point at the base with --base" in refused(source, "--output", tmp_path / "new")
    for absent in (tmp_path / "absent", "someone/no-base"):
        message = refused(source, "--output", tmp_path / "new", "--base", absent)
        assert str(absent) in message
        assert "local copy of the base with --base FOLDER" in message
    for file in base.glob("tokenizer*"):
        file.unlink()
    message = refused(source, "--output", tmp_path / "new", "--base", base)
    assert "has no tokenizer" in message
    assert "--base FOLDER" in message


def test_the_published_bases_are_found_by_shape(tmp_path: Path) -> None:
    from codi.modeling.conversion import known_base

    for name, shape, base in (
        ("transformer.wte.weight", (50_260, 768), "openai-community/gpt2"),
        ("model.embed_tokens.weight", (128_259, 2048), "meta-llama/Llama-3.2-1B-Instruct"),
    ):
        assert known_base({PREFIX + name: torch.empty(shape, device="meta")}) == base
    assert known_base({f"{PREFIX}transformer.wte.weight": torch.empty(303, 32)}) is None


def test_nothing_is_written_over_unasked(tmp_path: Path) -> None:
    source, base = published(tmp_path)
    converted(source, base, tmp_path / "new")
    assert "--overwrite" in refused(source, "--output", tmp_path / "new", "--base", base)
    converted(source, base, tmp_path / "new", "--overwrite")
    for folder in (source, base):
        message = refused(source, "--output", folder, "--base", base, "--overwrite")
        assert "Choose another folder" in message


def test_a_converted_model_that_computes_something_else_is_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, base = published(tmp_path)
    usual = PublishedLayout.logits
    monkeypatch.setattr(PublishedLayout, "logits", lambda *asked: usual(*asked) + 0.1)
    message = refused(source, "--output", tmp_path / "new", "--base", base)
    assert "differ from the published layout's" in message
    assert not (tmp_path / "new" / "codi.json").exists()
