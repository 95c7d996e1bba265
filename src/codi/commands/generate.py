"""`codi generate`: ask a checkpoint questions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from codi.commands import options
from codi.commands.console import load_reasoner
from codi.commands.questions import questions_asked
from codi.errors import UsageError

if TYPE_CHECKING:
    from codi.generation.answer import Answer

SHOWN_TOKENS = 3


def generate(
    checkpoint: Annotated[str, typer.Argument(help="Folder of a trained model, or a hub id.")],
    question: Annotated[
        str | None, typer.Argument(help="The question; without it, standard input, one question a line.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(help="Text with one question a line, or rows of any form that `codi eval` reads."),
    ] = None,
    question_column: options.QuestionColumn = None,
    mode: options.Mode = None,
    latents: options.Latents = None,
    stop: options.Stop = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, with all counts.")] = False,
    show_thoughts: Annotated[
        bool, typer.Option("--show-thoughts", help="Show the tokens that each continuous thought decodes to.")
    ] = False,
    batch_size: options.BatchSize = 64,
    temperature: options.Temperature = 0.0,
    top_k: options.TopK = 0,
    top_p: options.TopP = 1.0,
    seed: options.SamplingSeed = 0,
    max_new_tokens: options.MaxNewTokens = 256,
    device: options.Device = None,
    base: options.Base = None,
    dtype: options.Dtype = None,
    graphs: options.Graphs = "auto",
) -> None:
    """Answer a question, a file of questions, or standard input."""
    options.check_stop(stop, mode, latents)
    questions = questions_asked(question, file, question_column)

    from codi.generation.decoding import Sampling

    sampling = Sampling(temperature, top_k, top_p, seed)
    reasoner = load_reasoner(checkpoint, device, base, dtype, stop, graphs)
    written_out = reasoner.method.mode(mode) == "explicit"
    if show_thoughts:
        reasoner.method.mode("latent")  # refuses a model without latents before anything is answered
        if written_out or latents == 0:
            reason = "--mode explicit" if written_out else "--latents 0"
            raise UsageError(
                f"--show-thoughts was given with {reason}, which has no latents to decode. Leave one out."
            )
    for batch in reasoner.answer_batches(
        questions,
        mode=mode,
        latents=latents,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
    ):
        for _, answer in batch:
            thoughts = (
                reasoner.decode_thoughts(answer.question, SHOWN_TOKENS, latents) if show_thoughts else None
            )
            _print(answer, thoughts, as_json=as_json, written_out=written_out)


def _print(
    answer: Answer,
    thoughts: Sequence[Sequence[tuple[str, float]]] | None,
    *,
    as_json: bool,
    written_out: bool,
) -> None:
    if as_json:
        values: dict[str, Any] = asdict(answer)
        if thoughts is not None:
            values["decoded_thoughts"] = thoughts
        typer.echo(json.dumps(values, ensure_ascii=False))
        return
    for number, tokens in enumerate(thoughts or (), start=1):
        shown = "   ".join(f"{token.strip() or token!r} {100 * share:.0f} %" for token, share in tokens)
        typer.echo(f"thought {number}: {shown}")
    typer.echo(answer.text.strip() if written_out or answer.value is None else answer.value)
