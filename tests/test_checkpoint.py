"""Checkpoints: what was saved answers the same; what does not fit is refused; a full disk loses nothing."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from codi.errors import CheckpointError, CodiError
from codi.generation.latent_reasoner import LatentReasoner
from codi.methods.codi import Codi
from codi.methods.cot_sft import CotSft
from codi.modeling import checkpoint
from codi.modeling.model import ThoughtModel
from codi.training.run import start_from
from tiny_checkpoints import tiny_reasoner
from tiny_models import EXAMPLES, fill_adapters, reasoner, tiny_model, with_lora

QUESTIONS = [example.question for example in EXAMPLES]


def save_base(folder: Path, family: str = "gpt2", *, tied: bool = True) -> str:
    tiny_model(family, tied=tied).causal.save_pretrained(folder)
    return str(folder)


def lora_reasoner(base: str, **changes: Any) -> LatentReasoner:
    model = ThoughtModel(with_lora(base, **changes))
    fill_adapters(model)
    return reasoner(Codi(latents=2), model)


def answers(asked: LatentReasoner) -> list[Any]:
    return [asked.answer(QUESTIONS, mode=mode, max_new_tokens=6) for mode in asked.method.modes]


def edit(file: Path, change: Any) -> None:
    weights = load_file(file)
    change(weights)
    save_file(weights, file, metadata={"format": "pt"})


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2"])
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_saved_and_loaded_it_answers_the_same(kind: str, family: str, tied: bool, tmp_path: Path) -> None:
    if kind == "full":
        asked = reasoner(Codi(latents=2), tiny_model(family, tied=tied))
    else:
        asked = lora_reasoner(save_base(tmp_path / "base", family, tied=tied))
    asked.save_pretrained(tmp_path / "saved")
    loaded = LatentReasoner.from_pretrained(tmp_path / "saved", device="cpu")
    assert answers(loaded) == answers(asked)
    assert loaded.method == asked.method
    assert loaded.model.config == asked.model.config
    assert loaded.text_format == asked.text_format
    assert not loaded.model.training
    ours, theirs = asked.model.state_dict(), loaded.model.state_dict()
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        assert torch.equal(weight, theirs[name]), name
    loaded.save_pretrained(tmp_path / "again")  # and once more
    assert answers(LatentReasoner.from_pretrained(tmp_path / "again", device="cpu")) == answers(asked)


@pytest.mark.parametrize("changes", [{"projection": False}, {"projection_width": 50}, {"dtype": "bfloat16"}])
def test_model_options_are_kept(changes: dict[str, Any], tmp_path: Path) -> None:
    asked = reasoner(CotSft(), tiny_model("llama", **changes))
    asked.save_pretrained(tmp_path / "saved")
    loaded = LatentReasoner.from_pretrained(tmp_path / "saved", device="cpu")
    assert loaded.model.config == asked.model.config
    assert loaded.model.thought_tokens.dtype == asked.model.thought_tokens.dtype
    assert answers(loaded) == answers(asked)


def test_lora_checkpoint_holds_no_base(tmp_path: Path) -> None:
    asked = lora_reasoner(save_base(tmp_path / "base"))
    asked.save_pretrained(tmp_path / "saved")
    weights = {name for file in (tmp_path / "saved").glob("*.safetensors") for name in load_file(file)}
    assert {file.name for file in (tmp_path / "saved").glob("*.safetensors")} == {
        "adapter_model.safetensors",
        "thoughts.safetensors",
    }
    assert not list((tmp_path / "saved").glob("*.bin"))
    assert all(".lora_" in n or n.startswith(("projection.", "thought_tokens")) for n in weights), weights
    trained = sum(w.numel() for w in asked.model.parameters() if w.requires_grad)
    size = sum(file.stat().st_size for file in (tmp_path / "saved").glob("*.safetensors"))
    assert size < 4 * trained + 16_000  # float32 and headers


def test_configuration_says_everything(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base")
    lora_reasoner(base).save_pretrained(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "codi.json").read_text())
    assert saved["model"]["base"] == base
    assert saved["model"]["base_fingerprint"]
    assert saved["model"]["lora"]["rank"] == 4
    assert saved["method"]["name"] == "codi"
    assert saved["method"]["latents"] == 2
    assert saved["text"]["answer_prompt"] == "The answer is:"
    assert saved["special_tokens"] == {"<bot>": 300, "<eot>": 301}
    assert saved["codi_version"]
    assert saved["vocabulary"]


# --- strict loading -----------------------------------------------------------------------------------------


@pytest.fixture(params=["full", "lora"])
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "full":
        reasoner(Codi(latents=2), tiny_model()).save_pretrained(tmp_path / "saved")
    else:
        lora_reasoner(save_base(tmp_path / "base")).save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def refused(folder: Path, said: str, **keywords: Any) -> None:
    with pytest.raises(CheckpointError, match=said):
        LatentReasoner.from_pretrained(folder, device="cpu", **keywords)


def weights_file(folder: Path) -> Path:
    adapter = folder / "adapter_model.safetensors"
    return adapter if adapter.exists() else folder / "model.safetensors"


def test_missing_and_unexpected_weights(saved: Path) -> None:
    file = weights_file(saved)
    whole = file.read_bytes()
    name = min(name for name in load_file(file) if "attn" in name)
    leaf = name.removeprefix("base_model.model.")
    edit(file, lambda weights: weights.pop(name))
    refused(saved, f"(?s)(?i)missing.*{leaf}")
    file.write_bytes(whole)
    edit(file, lambda weights: weights.update(stray=torch.ones(2)))
    refused(saved, "(?i)unexpected.*stray")
    file.write_bytes(whole)

    thoughts = saved / "thoughts.safetensors"
    whole = thoughts.read_bytes()
    edit(thoughts, lambda weights: weights.pop("projection.layers.1.bias"))
    refused(saved, "Missing.*projection.layers.1.bias")
    thoughts.write_bytes(whole)
    edit(thoughts, lambda weights: weights.update(stray=torch.ones(2)))
    refused(saved, "unexpected.*stray")
    thoughts.write_bytes(whole)
    LatentReasoner.from_pretrained(saved, device="cpu")


def test_weights_of_another_shape(saved: Path) -> None:
    thoughts, file = saved / "thoughts.safetensors", weights_file(saved)
    whole = thoughts.read_bytes()
    for name, other in (("thought_tokens", (1, 32)), ("projection.layers.1.weight", (16, 32))):
        edit(thoughts, lambda weights, n=name, o=other: weights.update({n: torch.zeros(o)}))
        refused(saved, name)
        thoughts.write_bytes(whole)
    name = min(name for name in load_file(file) if "attn" in name)
    edit(file, lambda weights: weights.update({name: torch.zeros(3, 3)}))
    refused(saved, "(?i)shape|size|mismatch|do not fit|loaded")


def test_files_damaged_or_gone(saved: Path) -> None:
    for file in (saved / "thoughts.safetensors", weights_file(saved)):
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        refused(saved, "damaged|could not be loaded")
        file.unlink()
        refused(saved, "missing|could not be loaded")
        file.write_bytes(whole)


def test_another_base(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base")
    asked = lora_reasoner(base)
    asked.save_pretrained(tmp_path / "saved")
    torch.manual_seed(99)
    from transformers import AutoConfig, AutoModelForCausalLM

    other = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base))
    other.save_pretrained(tmp_path / "other")
    refused(tmp_path / "saved", "another base", base=str(tmp_path / "other"))

    shutil.move(base, tmp_path / "moved")
    refused(tmp_path / "saved", "could not be loaded")
    moved = LatentReasoner.from_pretrained(tmp_path / "saved", device="cpu", base=str(tmp_path / "moved"))
    assert answers(moved) == answers(asked)

    shutil.copytree(tmp_path / "other", base)
    refused(tmp_path / "saved", "another base")


def test_a_changed_vocabulary(saved: Path) -> None:
    file = saved / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    first, second = list(vocabulary)[30:32]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    file.write_text(json.dumps(tokenizer))
    refused(saved, "not the one the model was trained with")


def test_what_is_no_checkpoint(saved: Path, tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "no checkpoint at")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "is not a checkpoint")
    file = saved / "codi.json"
    whole = json.loads(file.read_text())
    file.write_text('{"model":\n nonsense')
    refused(saved, "not JSON .line 2")
    for broken in ("[]", "3", '"text"'):
        file.write_text(broken)
        refused(saved, "not a checkpoint")
    file.write_text(json.dumps({"model": whole["model"]}))
    refused(saved, "lacks method, text, vocabulary")
    file.write_text(json.dumps({**whole, "method": {"name": "codi", "latent": 1}}))
    with pytest.raises(CodiError, match="Did you mean 'latents'"):
        LatentReasoner.from_pretrained(saved, device="cpu")
    file.write_text(json.dumps({**whole, "text": {**whole["text"], "answer_promt": "x"}}))
    with pytest.raises(CodiError, match="Did you mean 'answer_prompt'"):
        LatentReasoner.from_pretrained(saved, device="cpu")


# --- saving -------------------------------------------------------------------------------------------------


def test_full_disk_leaves_the_previous_checkpoint_valid(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = LatentReasoner.from_pretrained(saved, device="cpu")
    expected = answers(before)
    listing = sorted(file.name for file in saved.iterdir())

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with torch.no_grad():
        before.model.thought_tokens.add_(1)
        for weight in before.model.parameters():
            weight.add_(0.1)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", full)
        with pytest.raises(CheckpointError, match=r"(?s)No space left.*Free some space.*untouched"):
            before.save_pretrained(saved)
    assert sorted(file.name for file in saved.iterdir()) == listing
    assert {file.name for file in saved.parent.iterdir()} <= {"saved", "base"}  # no half-written folder
    assert answers(LatentReasoner.from_pretrained(saved, device="cpu")) == expected


def test_saving_over_a_checkpoint_keeps_the_files_of_others(saved: Path) -> None:
    loaded = LatentReasoner.from_pretrained(saved, device="cpu")
    (saved / "trainer_state.json").write_text("{}")
    with torch.no_grad():
        loaded.model.thought_tokens.add_(1)
    loaded.save_pretrained(saved)
    assert (saved / "trainer_state.json").exists()
    again = LatentReasoner.from_pretrained(saved, device="cpu")
    assert torch.equal(again.model.thought_tokens, loaded.model.thought_tokens)


def test_lora_over_a_base_stored_nowhere_is_refused(tmp_path: Path) -> None:
    from tiny_models import LORA

    asked = reasoner(Codi(), tiny_model(lora=LORA))
    with pytest.raises(CheckpointError, match="stored nowhere"):
        asked.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_push_to_hub_uploads_a_loadable_checkpoint(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub is out of reach of a test: what would be sent to it is kept and loaded."""

    class Hub:
        def __init__(self, token: str | None) -> None:
            assert token == "secret"

        def create_repo(self, name: str, *, private: bool, exist_ok: bool) -> None:
            assert (name, private, exist_ok) == ("someone/codi", True, True)

        def upload_folder(self, *, repo_id: str, folder_path: Path) -> Any:
            shutil.copytree(folder_path, tmp_path / "hub" / repo_id)
            return type("Commit", (), {"commit_url": f"https://hub/{repo_id}"})

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    sent = LatentReasoner.from_pretrained(saved)
    assert sent.push_to_hub("someone/codi", private=True, token="secret") == "https://hub/someone/codi"
    received = LatentReasoner.from_pretrained(tmp_path / "hub/someone/codi")
    questions = [example.question for example in EXAMPLES]
    assert received.answer(questions, max_new_tokens=5) == sent.answer(questions, max_new_tokens=5)


def test_a_run_starts_only_from_a_checkpoint_with_its_tokens(tmp_path: Path) -> None:
    reasoner = tiny_reasoner("cot-sft")
    reasoner.save_pretrained(tmp_path / "start")
    other = tiny_reasoner("codi")
    start_from(str(tmp_path / "start"), other)
    first, second = "apples", "Mia"  # as many tokens, two of them swapped
    state = json.loads(other.tokenizer.backend_tokenizer.to_str())
    vocab = state["model"]["vocab"]
    vocab[first], vocab[second] = vocab[second], vocab[first]
    other.tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(state)))
    with pytest.raises(CheckpointError, match="other ids than the run's"):
        start_from(str(tmp_path / "start"), other)


def test_a_start_of_another_architecture_is_refused_where_all_shapes_fit(tmp_path: Path) -> None:
    """Twice the heads of half the width: no shape tells, every answer does."""
    reasoner(CotSft(), tiny_model()).save_pretrained(tmp_path / "start")
    file = tmp_path / "start/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"n_head": 8}))
    with pytest.raises(CheckpointError, match=r"fit this model in shape.*n_head 8 there"):
        start_from(str(tmp_path / "start"), reasoner(Codi(latents=2), tiny_model()))


def test_a_base_that_would_not_be_used_is_refused(tmp_path: Path) -> None:
    reasoner(Codi(latents=2), tiny_model()).save_pretrained(tmp_path / "whole")
    base = save_base(tmp_path / "base")
    refused(tmp_path / "whole", r"holds all its weights.*--base.*Leave it out", base=base)
