"""Published CODI checkpoints at small size, built here from random weights in the released layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from codi.data.word_tokenizer import build_word_tokenizer
from tiny_models import VOCABULARY, tiny_config

RANK, WIDTH, HIDDEN = 4, 24, 32
ADAPTED = {
    "gpt2": ("c_attn", "c_proj", "c_fc"),
    "llama": ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj", "gate_proj"),
}
PREFIX = "codi.base_model.model."
EMBEDDING = {"gpt2": "transformer.wte.weight", "llama": "model.embed_tokens.weight"}
LAYOUTS = ("bin", "safetensors", "sharded bin", "sharded safetensors", "bin, the file itself")


def make_base(folder: Path, family: str, *, tied: bool = True, seed: int = 3) -> Any:
    """A base in float32 with its tokenizer, saved in `folder`."""
    settings = dict(tiny_config(family, tied=tied).base_config or {})
    torch.manual_seed(seed)
    causal = AutoModelForCausalLM.from_config(AutoConfig.for_model(settings.pop("model_type"), **settings))
    causal.save_pretrained(folder)
    build_word_tokenizer().save_pretrained(folder)
    return causal.eval()


def published_weights(causal: Any, family: str, seed: int = 4) -> dict[str, Tensor]:
    """What the released code saved: bfloat16 base with three more rows, float32 adapters and projection."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int, spread: float) -> Tensor:
        return spread * torch.randn(*shape, generator=generator)

    weights: dict[str, Tensor] = {}
    for name, weight in causal.state_dict().items():
        module, _, kind = name.rpartition(".")
        held = weight.detach().to(torch.bfloat16)
        if name in (EMBEDDING[family], "lm_head.weight"):
            more = drawn(3, HIDDEN, spread=0.2).to(torch.bfloat16)
            tied_to = weights.get(PREFIX + EMBEDDING[family])
            is_tied = name == "lm_head.weight" and causal.config.tie_word_embeddings
            held = tied_to.clone() if is_tied and tied_to is not None else torch.cat([held, more])
        if module.rpartition(".")[2] not in ADAPTED[family]:
            weights[PREFIX + name] = held
            continue
        weights[f"{PREFIX}{module}.base_layer.{kind}"] = held
        if kind == "weight":
            # GPT-2's Conv1D holds [in, out], a linear layer [out, in].
            into, out = weight.shape if family == "gpt2" else reversed(weight.shape)
            weights[f"{PREFIX}{module}.lora_A.default.weight"] = drawn(RANK, into, spread=0.3)
            weights[f"{PREFIX}{module}.lora_B.default.weight"] = drawn(out, RANK, spread=0.1)
    weights["prj.1.weight"], weights["prj.1.bias"] = (
        drawn(WIDTH, HIDDEN, spread=0.3),
        drawn(WIDTH, spread=0.1),
    )
    weights["prj.3.weight"], weights["prj.3.bias"] = (
        drawn(HIDDEN, WIDTH, spread=0.3),
        drawn(HIDDEN, spread=0.1),
    )
    weights["prj.ln.weight"], weights["prj.ln.bias"] = (
        1 + drawn(HIDDEN, spread=0.2),
        drawn(HIDDEN, spread=0.1),
    )
    return weights


def write(folder: Path, weights: dict[str, Tensor], layout: str = "bin") -> Path:
    """The weights in one of the layouts. Returns what is to be given as the source."""
    folder.mkdir(parents=True, exist_ok=True)
    ending = "safetensors" if "safetensors" in layout else "bin"
    stem = "model" if ending == "safetensors" else "pytorch_model"

    def store(part: dict[str, Tensor], name: str) -> None:
        if ending == "safetensors":
            save_file(part, folder / name)
        else:
            torch.save(part, folder / name)

    if "sharded" not in layout:
        store(weights, f"{stem}.{ending}")
        return folder / f"{stem}.{ending}" if "itself" in layout else folder
    names, listed = sorted(weights), {}
    for number in range(3):
        file = f"{stem}-0000{number + 1}-of-00003.{ending}"
        part = {name: weights[name] for name in names[number::3]}
        store(part, file)
        listed.update(dict.fromkeys(part, file))
    (folder / f"{stem}.{ending}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": listed}))
    return folder


def published(folder: Path, family: str = "gpt2", layout: str = "bin", **base: Any) -> tuple[Path, Path]:
    """A base and a published checkpoint over it: source and base folder."""
    weights = published_weights(make_base(folder / "base", family, **base), family)
    return write(folder / "published", weights, layout), folder / "base"


def source_logits(
    weights: dict[str, Tensor], causal: Any, family: str, question: list[int], latents: int, answer: list[int]
) -> Tensor:
    """The layout's own computation without peft: adapters multiplied into the weights. alpha 32.

    One question, no padding. Returns [1 + answer, vocabulary + 3], for <eot> and the answer's tokens.
    """
    held = {name: weight.float() for name, weight in weights.items()}
    merged: dict[str, Tensor] = {}
    for name, weight in held.items():
        if not name.startswith(PREFIX) or ".lora_" in name:
            continue
        own = name.removeprefix(PREFIX).replace(".base_layer", "")
        if name.endswith("base_layer.weight"):
            stem = name.removesuffix("base_layer.weight")
            product = held[f"{stem}lora_B.default.weight"] @ held[f"{stem}lora_A.default.weight"]
            weight = weight + 32 / RANK * (product.T if family == "gpt2" else product)
        merged[own] = weight
    config = type(causal.config)(**{**causal.config.to_dict(), "vocab_size": VOCABULARY + 3})
    model = AutoModelForCausalLM.from_config(config).eval()
    model.load_state_dict(merged)
    embedding = model.get_input_embeddings().weight

    def project(hidden: Tensor) -> Tensor:
        inner = torch.nn.functional.gelu(hidden @ held["prj.1.weight"].T + held["prj.1.bias"])
        outer = inner @ held["prj.3.weight"].T + held["prj.3.bias"]
        return torch.nn.functional.layer_norm(
            outer, (HIDDEN,), held["prj.ln.weight"], held["prj.ln.bias"], 1e-5
        )

    with torch.no_grad():
        inputs = embedding[[*question, VOCABULARY + 1]][None]
        for _ in range(latents + 1):  # no cache: everything is read again
            states = model(inputs_embeds=inputs, output_hidden_states=True).hidden_states
            inputs = torch.cat([inputs, project(states[-1][:, -1:])], 1)
        # The last one's projection is not used.
        inputs = torch.cat([inputs[:, :-1], embedding[[VOCABULARY + 2, *answer]][None]], 1)
        scores: Tensor = model(inputs_embeds=inputs).logits[0, -1 - len(answer) :]
    return scores
