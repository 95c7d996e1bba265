"""Continuous thoughts for `model.generate`, with torch, transformers and safetensors alone.

This file is copied into a published model's folder as `custom_generate/generate.py`:

    tokenizer = AutoTokenizer.from_pretrained(NAME, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(NAME, trust_remote_code=True)
    questions = tokenizer(["..."], return_tensors="pt", padding=True)
    answers = model.generate(**questions)[:, questions["input_ids"].shape[1]:]
    tokenizer.batch_decode(answers, skip_special_tokens=True)

    question  <bot>  z_1 ... z_n  <eot>  answer prompt  answer      z_i = projection(last hidden state)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.utils.hub import cached_file


@torch.no_grad()
def generate(
    model: Any,
    inputs: Tensor | None = None,
    input_ids: Tensor | None = None,
    attention_mask: Tensor | None = None,
    generation_config: Any = None,
    latents: int | None = None,
    max_new_tokens: int | None = None,
    do_sample: bool = False,
    **options: Any,
) -> Tensor:
    """input_ids, attention_mask: [b, t]. Greedy. Returns [b, t + m]: the questions, then prompt and answers.

    latents: another number of thoughts than trained. Rows that have ended are filled with padding.
    """
    ids = input_ids if input_ids is not None else inputs
    if ids is None:
        raise ValueError("generate needs input_ids: the questions, tokenized.")
    if do_sample or options.get("num_beams", 1) != 1:
        raise ValueError("This model's generate is greedy: leave out do_sample and num_beams.")
    settings, tokens, projection = _thoughts_of(model)
    mask = torch.ones_like(ids) if attention_mask is None else attention_mask
    question, mask = _left_padded(ids, mask, settings["pad_id"])
    rows, device = ids.shape[0], ids.device
    embed = model.get_input_embeddings()
    cache: Any = None

    def run(embedded: Tensor) -> Tensor:
        """Read on. embedded: [b, s, d]. Returns the last hidden state, [b, d]."""
        nonlocal cache, mask
        if cache is not None:
            mask = torch.cat([mask, mask.new_ones(rows, embedded.shape[1])], 1)
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -embedded.shape[1] :]
        output = model.base_model(
            inputs_embeds=embedded, attention_mask=mask, position_ids=positions, past_key_values=cache,
            use_cache=True,
        )  # fmt: skip
        cache = output.past_key_values
        last: Tensor = output.last_hidden_state[:, -1]
        return last

    bot, eot = (token.expand(rows, 1, -1) for token in tokens)
    mask = torch.cat([mask, mask.new_ones(rows, 1)], 1)
    hidden = run(torch.cat([embed(question), bot], 1))
    for _ in range(settings["latents"] if latents is None else latents):
        hidden = run(projection(hidden).unsqueeze(1))
    prompt = torch.tensor(settings["prompt_ids"], device=device).expand(rows, -1)
    hidden = run(torch.cat([eot, embed(prompt)], 1))

    most = max_new_tokens or getattr(generation_config, "max_new_tokens", None) or 256
    written, ended = [prompt], torch.zeros(rows, dtype=torch.bool, device=device)
    for number in range(most):
        following = model.get_output_embeddings()(hidden).argmax(-1)
        following = following.masked_fill(ended, settings["pad_id"])
        written.append(following.unsqueeze(1))
        ended = ended | (following == settings["eos_id"])
        if ended.all() or number + 1 == most:
            break
        hidden = run(embed(following).unsqueeze(1))
    return torch.cat([ids, *written], 1)


def _thoughts_of(model: Any) -> tuple[dict[str, Any], Tensor, nn.Module]:
    """Settings, the embeddings of <bot> and <eot> [2, d], and the projection; read once."""
    kept = getattr(model, "_codi_thoughts", None)
    if kept is None:
        name = model.config.name_or_path
        settings = json.loads(Path(_file(name, "custom_generate/settings.json")).read_text(encoding="utf-8"))
        weights = load_file(_file(name, "thoughts.safetensors"))
        tokens = weights.pop("thought_tokens")
        kept = model._codi_thoughts = (
            settings,
            tokens.to(model.device, model.dtype),
            _projection(weights, model),
        )
    found: tuple[dict[str, Any], Tensor, nn.Module] = kept
    return found


def _projection(weights: dict[str, Tensor], model: Any) -> nn.Module:
    if not weights:
        return nn.Identity()
    width, size = weights["projection.layers.1.weight"].shape
    layers = nn.Sequential(
        nn.Dropout(0.0), nn.Linear(size, width), nn.GELU(), nn.Linear(width, size), nn.LayerNorm(size)
    )
    layers.load_state_dict({name.removeprefix("projection.layers."): w for name, w in weights.items()})
    return layers.to(model.device, model.dtype).eval()


def _left_padded(ids: Tensor, mask: Tensor, pad_id: int) -> tuple[Tensor, Tensor]:
    """Padding moved to the left of each row, so that every question ends where <bot> follows."""
    order = mask.argsort(dim=1, stable=True)
    ids, mask = ids.gather(1, order), mask.gather(1, order)
    return ids.masked_fill(mask == 0, pad_id), mask


def _file(name: str, file: str) -> str:
    found = cached_file(name, file)
    if found is None:
        raise OSError(f"'{name}' has no {file}: it is not a published CODI model.")
    return str(found)
