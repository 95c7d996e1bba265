"""Bases as people have them: adapters are never attached in silence, what is no model is said to be none."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from codi.cli import app
from codi.errors import CheckpointError, RecipeError
from codi.generation.latent_reasoner import LatentReasoner
from codi.methods.codi import Codi
from codi.methods.method import build_method
from codi.modeling.backbone import build_base, fingerprint
from codi.modeling.checkpoint import load_base_tokenizer, load_tokenizer
from codi.modeling.configuration import LoraSettings, ModelConfig, TextFormat
from codi.modeling.model import ThoughtModel
from tiny_bases import save_adapter, save_base, write_gguf
from tiny_models import byte_level_tokenizer
from tiny_runs import examples, run, weights, write_rows

IDS = torch.tensor([[5, 6, 7, 40, 300]])
LORA = LoraSettings(rank=2)
QUESTION = "Tom has 7 apples and buys 15 more. How many?"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("bases") / "base")


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, base: Path) -> tuple[Path, torch.Tensor]:
    """An adapter without a tokenizer of its own, and what the tuned model says."""
    folder = tmp_path_factory.mktemp("adapters") / "adapter"
    tuned = save_adapter(folder, base)
    with torch.no_grad():
        return folder, tuned(input_ids=IDS).logits


def logits(causal: Any) -> torch.Tensor:
    with torch.no_grad():
        return causal.eval()(input_ids=IDS).logits.float()  # type: ignore[no-any-return]


def settings_over(base: Path | str, folder: Path, **model: Any) -> dict[str, Any]:
    """A run of two steps over a base."""
    return {
        "method": {"name": "codi", "latents": 2},
        "model": {"base": str(base), **model},
        "data": {"train": write_rows(folder / "train.jsonl", examples(6)), "validation": None},
        "training": {
            "max_steps": 2, "per_device_train_batch_size": 3, "use_cpu": True, "disable_tqdm": True,
            "dataloader_pin_memory": False, "learning_rate": 1e-3,
        },
    }  # fmt: skip


# --- adapters


@pytest.mark.parametrize("lora", [LORA, None], ids=["lora", "all weights"])
def test_an_adapter_is_refused_with_the_way_out(
    adapter: tuple[Path, torch.Tensor], base: Path, lora: LoraSettings | None
) -> None:
    with pytest.raises(CheckpointError, match=r"model\.merge_adapter=true") as caught:
        ThoughtModel(ModelConfig(base=str(adapter[0]), lora=lora))
    assert str(base) in str(caught.value)
    assert "LORA adapter" in str(caught.value)


def test_an_adapter_with_weights_beside_it_is_refused_too(
    adapter: tuple[Path, torch.Tensor], base: Path, tmp_path: Path
) -> None:
    shutil.copytree(base, tmp_path / "both")
    for file in adapter[0].iterdir():
        shutil.copy(file, tmp_path / "both")
    with pytest.raises(CheckpointError, match=r"also holds model\.safetensors.*without adapter_config\.json"):
        build_base(ModelConfig(base=str(tmp_path / "both")))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_adapter_is_merged_where_that_is_asked_for(
    adapter: tuple[Path, torch.Tensor], base: Path, dtype: str
) -> None:
    merged = build_base(ModelConfig(base=str(adapter[0]), merge_adapter=True, dtype=dtype))
    close = {"rtol": 1e-4, "atol": 1e-4} if dtype == "float32" else {"rtol": 0.1, "atol": 0.2}
    torch.testing.assert_close(logits(merged), adapter[1], **close)
    plain = build_base(ModelConfig(base=str(base)))
    assert (logits(plain) - adapter[1]).abs().max() > 0.5
    assert all(weight.requires_grad for weight in merged.parameters())
    assert not [name for name, _ in merged.named_parameters() if "lora" in name]
    whole = build_base(ModelConfig(base=str(adapter[0]), merge_adapter=True))
    assert fingerprint(merged) == fingerprint(whole)


def test_merging_what_is_no_adapter_is_a_mistake(base: Path) -> None:
    with pytest.raises(RecipeError, match="is no adapter"):
        build_base(ModelConfig(base=str(base), merge_adapter=True))


def test_a_run_over_a_merged_adapter_is_loaded_again(
    adapter: tuple[Path, torch.Tensor], base: Path, tmp_path: Path
) -> None:
    """Found again through the recorded settings; moved, with --base; saved in one piece, with --base too."""
    settings = settings_over(adapter[0], tmp_path, merge_adapter=True, lora={"rank": 2})
    run(settings, tmp_path / "run")
    saved = json.loads((tmp_path / "run/codi.json").read_text())["model"]
    assert (saved["base"], saved["merge_adapter"]) == (str(adapter[0]), True)
    merged = build_base(ModelConfig(base=str(adapter[0]), merge_adapter=True))
    assert saved["base_fingerprint"] == fingerprint(merged)
    answer = LatentReasoner.from_pretrained(tmp_path / "run", device="cpu").answer([QUESTION])[0].text
    shutil.copytree(adapter[0], tmp_path / "moved")
    merged.save_pretrained(tmp_path / "whole")
    for now in ("moved", "whole"):
        again = LatentReasoner.from_pretrained(tmp_path / "run", device="cpu", base=str(tmp_path / now))
        assert again.answer([QUESTION])[0].text == answer
        again.save_pretrained(tmp_path / f"saved-{now}")
        LatentReasoner.from_pretrained(tmp_path / f"saved-{now}", device="cpu")
    with pytest.raises(CheckpointError, match="another base"):
        LatentReasoner.from_pretrained(tmp_path / "run", device="cpu", base=str(base))


def test_all_weights_learn_over_a_merged_adapter(adapter: tuple[Path, torch.Tensor], tmp_path: Path) -> None:
    run(settings_over(adapter[0], tmp_path, merge_adapter=True), tmp_path / "run")
    assert not (tmp_path / "run/adapter_config.json").exists()
    merged = build_base(ModelConfig(base=str(adapter[0]), merge_adapter=True)).state_dict()
    trained = weights(tmp_path / "run")
    changed = [n for n, t in merged.items() if f"model.safetensors:{n}" in trained
               and not torch.equal(trained[f"model.safetensors:{n}"], t)]  # fmt: skip
    assert len(changed) > 20
    assert LatentReasoner.from_pretrained(tmp_path / "run", device="cpu")


def test_adapters_that_bring_rows_and_heads_of_their_own(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", tied=False)
    tuned = save_adapter(tmp_path / "adapter", base, modules_to_save=["embed_tokens", "lm_head"])
    with torch.no_grad():
        wanted = tuned(input_ids=IDS).logits
    merged = build_base(ModelConfig(base=str(tmp_path / "adapter"), merge_adapter=True))
    torch.testing.assert_close(logits(merged), wanted, rtol=1e-4, atol=1e-4)


def test_the_tokenizer_of_an_adapter_is_its_own_or_its_bases(
    adapter: tuple[Path, torch.Tensor], base: Path, tmp_path: Path
) -> None:
    plain = byte_level_tokenizer()
    config = ModelConfig(base=str(adapter[0]), merge_adapter=True)
    assert load_base_tokenizer(config).get_vocab() == load_tokenizer(str(base)).get_vocab()
    shutil.copytree(adapter[0], tmp_path / "own")
    plain.add_tokens(["<extra>"])
    plain.save_pretrained(tmp_path / "own")
    own = load_base_tokenizer(ModelConfig(base=str(tmp_path / "own"), merge_adapter=True))
    assert "<extra>" in own.get_vocab()
    with pytest.raises(CheckpointError, match="merge_adapter=true"):
        load_base_tokenizer(ModelConfig(base=str(tmp_path / "own")))


def test_broken_adapters_are_named(adapter: tuple[Path, torch.Tensor], tmp_path: Path, base: Path) -> None:
    def spoilt(name: str, **changes: Any) -> ModelConfig:
        folder = tmp_path / name
        shutil.copytree(adapter[0], folder)
        values = json.loads((folder / "adapter_config.json").read_text()) | changes
        (folder / "adapter_config.json").write_text(json.dumps(values))
        return ModelConfig(base=str(folder), merge_adapter=True)

    gone = spoilt("gone", base_model_name_or_path=str(tmp_path / "nowhere"))
    with pytest.raises(CheckpointError, match=r"(?s)nowhere.*base_model_name_or_path"):
        build_base(gone)
    with pytest.raises(CheckpointError, match="does not say what it was trained over"):
        build_base(spoilt("unnamed", base_model_name_or_path=None))
    with pytest.raises(CheckpointError, match="names itself"):
        build_base(spoilt("itself", base_model_name_or_path=str(tmp_path / "itself")))
    without = spoilt("without")
    (tmp_path / "without/adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="could not be merged"):
        build_base(without)
    with pytest.raises(CheckpointError, match=r"does not fit its base.*missing"):
        build_base(spoilt("more", target_modules=r".*(_proj|lm_head)"))
    with pytest.raises(CheckpointError, match="could not be merged"):
        build_base(spoilt("other", r=3))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/adapter_config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"adapter_config\.json cannot be read"):
        build_base(ModelConfig(base=str(tmp_path / "broken")))


def test_a_codi_checkpoint_given_as_a_base_is_told_from_an_adapter(base: Path, tmp_path: Path) -> None:
    model = ThoughtModel(ModelConfig(base=str(base), lora=LORA))
    reasoner = LatentReasoner(model, Codi(latents=2), byte_level_tokenizer(), TextFormat())
    reasoner.save_pretrained(tmp_path / "codi")
    with pytest.raises(CheckpointError, match=r"checkpoint of codi.*start="):
        build_base(ModelConfig(base=str(tmp_path / "codi")))


@pytest.mark.parametrize("method", ["codi", "pause-tokens", "cot-sft"])
def test_a_whole_checkpoint_as_a_base_does_not_lose_its_thoughts(
    method: str, base: Path, tmp_path: Path
) -> None:
    model = ThoughtModel(ModelConfig(base=str(base)))
    made = LatentReasoner(model, build_method({"name": method}), byte_level_tokenizer(), TextFormat())
    made.save_pretrained(tmp_path / "codi")
    settings = settings_over(tmp_path / "codi", tmp_path)
    if method == "cot-sft":
        run(settings, tmp_path / "run")
        return
    with pytest.raises(CheckpointError, match=rf"trained with {method}.*start="):
        run(settings, tmp_path / "run")
    run(settings | {"model": {"base": str(base)}, "start": str(tmp_path / "codi")}, tmp_path / "run")


def test_settings_and_weights_of_a_base_that_are_not_used(
    base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(base, tmp_path / "more")
    file = tmp_path / "more/model.safetensors"
    save_file({**load_file(file), "tower.weight": torch.zeros(2, 2)}, file, metadata={"format": "pt"})
    with caplog.at_level("WARNING", "codi"):
        build_base(ModelConfig(base=str(tmp_path / "more"), base_revision="main"))
    said = [record.getMessage() for record in caplog.records if record.name == "codi"]
    assert "base_revision=main is not used" in said[0]
    assert "1 weights of the base" in said[1]
    assert "tower.weight" in said[1]
    with pytest.raises(RecipeError, match=r"model\.base_revision says how to read model\.base"):
        build_base(ModelConfig(base_config={"model_type": "gpt2"}, base_revision="main"))


def test_a_hub_id_of_an_adapter_is_refused_as_a_folder_is(
    adapter: tuple[Path, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub's part, finding the file, is transformers' own; what follows is ours."""
    found = str(adapter[0] / "adapter_config.json")
    monkeypatch.setattr("transformers.utils.peft_utils.find_adapter_config_file", lambda *_, **__: found)
    with pytest.raises(CheckpointError, match=r"'someone/tuned' is a LORA adapter.*merge_adapter=true"):
        build_base(ModelConfig(base="someone/tuned"))


def test_weights_of_an_earlier_model_do_not_stay_beside_new_ones(base: Path, tmp_path: Path) -> None:
    """transformers would put an adapter_config.json that lies about over the whole model."""
    for lora in (LORA, None, LORA):
        model = ThoughtModel(ModelConfig(base=str(base), lora=lora))
        reasoner = LatentReasoner(model, Codi(latents=2), byte_level_tokenizer(), TextFormat())
        reasoner.save_pretrained(tmp_path / "codi")
        assert (tmp_path / "codi/adapter_config.json").exists() is (lora is not None)
        assert (tmp_path / "codi/model.safetensors").exists() is (lora is None)
        assert LatentReasoner.from_pretrained(tmp_path / "codi", device="cpu")
    reasoner.without_adapters().save_pretrained(tmp_path / "merged")
    shutil.copy(tmp_path / "codi/adapter_config.json", tmp_path / "merged")
    with pytest.raises(CheckpointError, match=r"an adapter_config\.json lies beside"):
        LatentReasoner.from_pretrained(tmp_path / "merged", device="cpu")


# --- GGUF


@pytest.mark.parametrize("half", [False, True], ids=["F32", "F16"])
def test_a_gguf_file_is_a_base(tmp_path: Path, half: bool) -> None:
    written = write_gguf(tmp_path / "tiny.gguf", half=half)
    causal = build_base(ModelConfig(base=str(tmp_path / "tiny.gguf")))
    table = causal.get_input_embeddings().weight
    assert torch.equal(table, torch.from_numpy(written["token_embd.weight"]).float())
    by_name = build_base(ModelConfig(base=str(tmp_path), gguf_file="tiny.gguf"))
    assert fingerprint(causal) == fingerprint(by_name)
    for config in (ModelConfig(base=str(tmp_path / "tiny.gguf")), ModelConfig(base=str(tmp_path),
                   gguf_file="tiny.gguf")):  # fmt: skip
        assert load_base_tokenizer(config)(QUESTION).input_ids == byte_level_tokenizer()(QUESTION).input_ids
    assert load_tokenizer(str(tmp_path / "tiny.gguf")).eos_token == "</s>"


@pytest.mark.parametrize("lora", [{"rank": 2}, None], ids=["lora", "all weights"])
def test_training_over_a_gguf_file(tmp_path: Path, lora: dict[str, Any] | None) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    run(settings_over(tmp_path / "tiny.gguf", tmp_path, lora=lora), tmp_path / "run")
    answer = LatentReasoner.from_pretrained(tmp_path / "run", device="cpu").answer([QUESTION])[0].text
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "tiny.gguf").rename(tmp_path / "elsewhere/tiny.gguf")
    if lora is None:  # all weights are its own
        assert LatentReasoner.from_pretrained(tmp_path / "run", device="cpu")
        return
    with pytest.raises(CheckpointError, match=r"(?s)which is gone.*--base"):
        LatentReasoner.from_pretrained(tmp_path / "run", device="cpu")
    moved = str(tmp_path / "elsewhere/tiny.gguf")
    again = LatentReasoner.from_pretrained(tmp_path / "run", device="cpu", base=moved)
    assert again.answer([QUESTION])[0].text == answer


def test_gguf_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_gguf(tmp_path / "strange.gguf", architecture="rwkv6")
    with pytest.raises(CheckpointError, match=r"(?s)rwkv6.*safetensors"):
        build_base(ModelConfig(base=str(tmp_path / "strange.gguf")))
    write_gguf(tmp_path / "tiny.gguf")
    data = (tmp_path / "tiny.gguf").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.gguf").write_text("this is not a model, whatever its name says")
    (tmp_path / "empty.gguf").touch()
    for name in ("cut", "text", "empty"):
        for load in (lambda config: build_base(config), load_base_tokenizer):
            with pytest.raises(CheckpointError, match=f"{name}.gguf|not be loaded"):
                load(ModelConfig(base=str(tmp_path / f"{name}.gguf")))
    with pytest.raises(CheckpointError, match=r"no file 'tin\.gguf'.*'tiny\.gguf'"):
        build_base(ModelConfig(base=str(tmp_path), gguf_file="tin.gguf"))
    with pytest.raises(CheckpointError, match=r"give one of them, model\.base=.*cut\.gguf"):
        build_base(ModelConfig(base=str(tmp_path)))
    with pytest.raises(RecipeError, match="Give one of them"):
        build_base(ModelConfig(base=str(tmp_path / "tiny.gguf"), gguf_file="tiny.gguf"))
    monkeypatch.setattr("transformers.utils.import_utils.is_gguf_available", lambda *_: False)
    with pytest.raises(CheckpointError, match=r"pip install 'codi\[gguf\]'"):
        build_base(ModelConfig(base=str(tmp_path / "tiny.gguf")))


# --- folders that are no model, and models that have moved


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with (folder / "pytorch_model.bin").open("wb") as file:
        pickle.dump({"model.norm.weight": print}, file)


def _empty_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").touch()


def _without_a_part(folder: Path) -> None:
    (folder / "model-00002-of-00004.safetensors").unlink()
    with (folder / "model-00004-of-00004.safetensors").open("r+b") as file:
        file.truncate(900)


def _only_a_tokenizer(folder: Path) -> None:
    for file in folder.iterdir():
        if not file.name.startswith("tokenizer"):
            file.unlink()


def _pointer(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\n")


def _a_folder_deeper(folder: Path) -> None:
    (folder / "final").mkdir()
    for file in list(folder.iterdir()):
        if file.is_file():
            file.rename(folder / "final" / file.name)


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), r"no config\.json in it\. It holds"),
    "a tokenizer alone": (_only_a_tokenizer, r"It holds a tokenizer alone.*tokenizer=\.\.\."),
    "nothing": (lambda f: [file.unlink() for file in f.iterdir()], "It is empty"),
    "one folder deeper": (_a_folder_deeper, r"Its folder 'final' does"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "has a config.json but no weights"),
    "cut off": (lambda f: (f / "model.safetensors").open("r+b").truncate(5000), r"safetensors is cut off"),
    "cut off in its header": (lambda f: (f / "model.safetensors").open("r+b").truncate(50), "is cut off"),
    "LFS pointer": (_pointer, "Git LFS pointer"),
    "pickled objects": (_pickled, r"holds more than tensors"),
    "empty pickle": (_empty_pickle, r"pytorch_model\.bin is empty"),
    "broken config": (lambda f: (f / "config.json").write_text("{"), r"config\.json cannot be read"),
    "config without a type": (lambda f: (f / "config.json").write_text("{}"), "names no model_type"),
    "unknown type": (lambda f: (f / "config.json").write_text('{"model_type": "zork"}'), "zork"),
    "missing and short parts": (
        _without_a_part, r"model-00002-of-00004\.safetensors is missing; .*00004.* is cut off",
    ),
    "broken index": (
        lambda f: (f / "model.safetensors.index.json").write_text("{"), r"index\.json cannot be read",
    ),
    "index without a map": (
        lambda f: (f / "model.safetensors.index.json").write_text("{}"), "has no 'weight_map'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_folder_that_is_no_whole_model_is_named(fault: str, base: Path, tmp_path: Path) -> None:
    spoil, message = FAULTS[fault]
    if "part" in fault or "index" in fault:
        save_base(tmp_path / "model", max_shard_size="30KB")
        assert len(list((tmp_path / "model").glob("*.safetensors"))) == 4
    else:
        shutil.copytree(base, tmp_path / "model")
    spoil(tmp_path / "model")
    with pytest.raises(CheckpointError, match=message):
        build_base(ModelConfig(base=str(tmp_path / "model")))


def test_a_path_that_is_not_there_is_no_hub_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (str(tmp_path / "none"), "./none", "../none", "~/none-at-all", "a/b/c", "none/", "none.gguf"):
        for load in (build_base, load_base_tokenizer):
            with pytest.raises(CheckpointError, match=r"There is no model at"):
                load(ModelConfig(base=name))
        with pytest.raises(CheckpointError, match="There is no tokenizer at"):
            load_tokenizer(name)
        with pytest.raises(CheckpointError, match="no checkpoint at"):
            LatentReasoner.from_pretrained(name)
    with pytest.raises(CheckpointError, match=r"is a file\. As a base give the folder"):
        build_base(ModelConfig(base=str(base / "model.safetensors")))


def test_a_recipe_whose_base_is_not_there_stops_before_its_data(tmp_path: Path) -> None:
    settings = settings_over(tmp_path / "none", tmp_path, lora={"rank": 2})
    settings["data"]["train"] = str(tmp_path / "never-read.jsonl")
    with pytest.raises(CheckpointError, match="There is no model at"):
        run(settings, tmp_path / "run")
    settings["tokenizer"] = str(tmp_path / "none")
    with pytest.raises(CheckpointError, match="There is no tokenizer at"):
        run(settings, tmp_path / "run")


@pytest.fixture(scope="module")
def orphan(tmp_path_factory: pytest.TempPathFactory, base: Path) -> tuple[Path, Path]:
    """A LoRA checkpoint whose base has moved, and where that is now."""
    folder = tmp_path_factory.mktemp("orphan")
    shutil.copytree(base, folder / "old")
    model = ThoughtModel(ModelConfig(base=str(folder / "old"), lora=LORA))
    reasoner = LatentReasoner(model, Codi(latents=2), byte_level_tokenizer(), TextFormat())
    reasoner.save_pretrained(folder / "codi")
    (folder / "old").rename(folder / "new")
    return folder / "codi", folder / "new"


def test_a_base_with_a_relative_path_in_another_working_folder(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`bases/mine` could be a hub id, too: both are said."""
    shutil.copytree(base, tmp_path / "bases/mine")
    monkeypatch.chdir(tmp_path)
    model = ThoughtModel(ModelConfig(base="bases/mine", lora=LORA))
    reasoner = LatentReasoner(model, Codi(latents=2), byte_level_tokenizer(), TextFormat())
    reasoner.save_pretrained(tmp_path / "codi")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=r"(?s)no folder in '.*elsewhere' and could not be.*--base"):
        LatentReasoner.from_pretrained(tmp_path / "codi", device="cpu")
    assert LatentReasoner.from_pretrained(tmp_path / "codi", device="cpu", base="../bases/mine")


COMMANDS: dict[str, Callable[[Path, Path], list[object]]] = {
    "generate": lambda c, _: ["generate", c, QUESTION, "--max-new-tokens", 2],
    "eval": lambda c, out: ["eval", c, "--benchmark", out / "rows.jsonl", "--latency-questions", 0,
                            "--max-new-tokens", 2],
    "probe": lambda c, out: ["probe", c, "--question", QUESTION],
    "publish": lambda c, out: ["publish", c, "--output", out / "published"],
    "merge": lambda c, out: ["merge", c, "--output", out / "merged"],
    "export": lambda c, out: ["export", c, "--output", out / "exported"],
    "bench probe": lambda c, out: ["bench", "probe", c, "--questions", 1, "--problems", 1],
    "bench generate": lambda c, out: ["bench", "generate", "--latent", c, "--explicit", c, "--questions", 1],
    "bench serve": lambda c, out: ["bench", "serve", c, "--requests", 1],
    "serve": lambda c, out: ["serve", c],
    "ui": lambda c, out: ["ui", c],
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_a_base_that_has_moved_says_how_to_give_it(
    command: str, orphan: tuple[Path, Path], tmp_path: Path
) -> None:
    checkpoint, _ = orphan
    write_rows(tmp_path / "rows.jsonl", examples(1))
    arguments = [str(part) for part in COMMANDS[command](checkpoint, tmp_path)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2, result.output
    assert "which is gone" in result.stderr
    assert "--base" in result.stderr
    assert "repo_type" not in result.stderr


@pytest.mark.parametrize("command", [*COMMANDS, "bench page"])
def test_every_command_that_loads_a_checkpoint_takes_its_base(command: str) -> None:
    assert "--base" in CliRunner().invoke(app, [*command.split(), "--help"]).stdout


@pytest.mark.parametrize("command", ["generate", "eval", "merge", "publish"])
def test_a_base_that_has_moved_can_be_given(command: str, orphan: tuple[Path, Path], tmp_path: Path) -> None:
    checkpoint, now = orphan
    write_rows(tmp_path / "rows.jsonl", examples(1))
    arguments = [str(part) for part in COMMANDS[command](checkpoint, tmp_path)]
    result = CliRunner().invoke(app, [*arguments, "--base", str(now)])
    assert result.exit_code == 0, result.output


def test_the_harness_says_how_a_moved_base_is_given(orphan: tuple[Path, Path]) -> None:
    pytest.importorskip("lm_eval")
    from codi.evaluation.harness import CodiLM

    with pytest.raises(CheckpointError, match="base="):
        CodiLM(pretrained=str(orphan[0]), device="cpu")
    assert CodiLM(pretrained=str(orphan[0]), base=str(orphan[1]), device="cpu")
