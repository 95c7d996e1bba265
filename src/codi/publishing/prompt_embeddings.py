"""Thoughts here, the answer anywhere: what the model reads before an answer, as embeddings of a plain model.

    question  <bot>  z_1 ... z_n  <eot>  answer prompt │ answer
    └──────────── prompt_embeds [t, d] ────────────────┘ └─ any engine that takes embeddings

model/                      the base with its adapters merged in; no thought tokens are needed any more
prompt_embeds.safetensors   "0", "1", ...: [t, d], one for each question
prompts.jsonl               question, positions, and the answer prompt that was read, which the answer follows
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from codi.errors import CheckpointError, UsageError
from codi.generation.latent_reasoner import LatentReasoner
from codi.storage import write_whole

MODEL, EMBEDDINGS, PROMPTS = "model", "prompt_embeds.safetensors", "prompts.jsonl"


@torch.no_grad()
def prompt_embeddings(
    reasoner: LatentReasoner,
    questions: Sequence[str],
    *,
    latents: int | None = None,
    batch_size: int = 64,
    done: Callable[[int, int], None] = lambda _, __: None,
) -> list[Tensor]:
    """Per question all that is read before its answer, [t, d], thoughts in their places.

    done: told how many of how many are ready. Raises UsageError for a model that puts nothing between
    question and answer, and for a question that is empty or too long.
    """
    method = reasoner.method
    if not method.thought_positions(latents):
        raise UsageError(
            f"A {method.name} model reads nothing between question and answer but text: give the engine its "
            "questions as text."
        )
    encoded = [
        reasoner.question_ids(question, f"Question {number + 1}", latents=latents)
        for number, question in enumerate(questions)
    ]
    prompts: list[Tensor] = []
    reasoner.model.eval()
    for first in range(0, len(encoded), batch_size):
        with _inputs_of(reasoner) as passes:
            real = reasoner.start(encoded[first : first + batch_size], latents=latents).context.mask.bool()
        inputs, _ = passes[0]
        for later, before in passes[1:]:  # a round stands in the place of the round before
            inputs = torch.cat([inputs[:, :before], later], 1)
        prompts += [row[kept].cpu() for row, kept in zip(inputs, real, strict=True)]
        done(len(prompts), len(encoded))
    return prompts


@contextmanager
def _inputs_of(reasoner: LatentReasoner) -> Iterator[list[tuple[Tensor, int]]]:
    """What the body is given in each pass, whatever the method: inputs [b, t, d], after how many places."""
    passes: list[tuple[Tensor, int]] = []

    def note(_: Any, __: Any, named: dict[str, Any]) -> None:
        cache = named["cache"] if "cache" in named else named["past_key_values"]
        passes.append((named["inputs_embeds"], cache.get_seq_length()))

    model = reasoner.model
    packs, model.packs = model.packs, False  # packed rows would have to be told apart again
    handle = model.causal.base_model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield passes
    finally:
        handle.remove()
        model.packs = packs


def export(
    reasoner: LatentReasoner,
    output: Path,
    questions: Sequence[str] = (),
    *,
    latents: int | None = None,
    batch_size: int = 64,
    done: Callable[[int, int], None] = lambda _, __: None,
) -> None:
    """Write the plain model, and the prompts of `questions` where there are any.

    Older files of this kind in `output` are replaced, or removed where there are no questions now.
    Raises UsageError as `prompt_embeddings` does, and CheckpointError when the disk refuses.
    """
    alone = reasoner.without_adapters()
    prompts: list[Tensor] = []
    if questions:
        prompts = prompt_embeddings(alone, questions, latents=latents, batch_size=batch_size, done=done)
    causal = alone.model.causal
    causal.generation_config.eos_token_id = alone.text.eos_id
    causal.generation_config.pad_token_id = alone.text.pad_id
    try:
        output.mkdir(parents=True, exist_ok=True)
        for stale in (EMBEDDINGS, PROMPTS):  # of the model that was here before
            (output / stale).unlink(missing_ok=True)
        causal.save_pretrained(output / MODEL)
        alone.tokenizer.save_pretrained(output / MODEL)
        if prompts:
            save_file({str(number): prompt for number, prompt in enumerate(prompts)}, output / EMBEDDINGS)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"'{output}' could not be written: {error}. Free some space or choose another output."
        ) from error
    if prompts:
        read = alone.text.decode(alone.text.prompt_ids)
        lines = [
            {"number": number, "question": question, "positions": len(prompt), "read": read}
            for number, (question, prompt) in enumerate(zip(questions, prompts, strict=True))
        ]
        write_whole(output / PROMPTS, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
