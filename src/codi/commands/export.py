"""`codi export`: a plain model, and prompts with the thoughts in them, for other engines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from codi.commands import options
from codi.commands.console import check_output, load_reasoner, note, progress
from codi.commands.questions import questions_of
from codi.errors import UsageError


def export(
    checkpoint: Annotated[str, typer.Argument(help="Folder of a trained model, or a hub id.")],
    output: Annotated[Path, typer.Option(help="Folder to write.")],
    prompt_embeds: Annotated[
        Path | None,
        typer.Option(
            help="Questions to think about: one a line, or rows of any form that `codi eval` reads."
        ),
    ] = None,
    question_column: options.QuestionColumn = None,
    latents: options.Latents = None,
    stop: options.Stop = None,
    batch_size: options.BatchSize = 64,
    device: options.Device = None,
    base: options.Base = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Write a plain transformers model, and with --prompt-embeds what it reads before each answer.

    The prompts hold the thoughts as embeddings: vLLM, or `generate(inputs_embeds=...)`, writes the answers.
    """
    check_output(output, overwrite)
    if Path(checkpoint).resolve() == output.resolve():
        raise UsageError(f"--output '{output}' is the checkpoint itself. Choose another folder.")
    options.check_stop(stop, latents=latents)
    if stop is not None and prompt_embeds is None:
        raise UsageError(
            f"--stop {stop} says when the thinking about questions ends, and no questions were given. Give "
            "--prompt-embeds QUESTIONS, or leave --stop out."
        )
    questions = [] if prompt_embeds is None else questions_of(prompt_embeds, question_column)

    from codi.publishing.prompt_embeddings import EMBEDDINGS, MODEL
    from codi.publishing.prompt_embeddings import export as write

    reasoner = load_reasoner(checkpoint, device, base, stop=stop)
    with progress("thinking") as done:
        write(reasoner, output, questions, latents=latents, batch_size=batch_size, done=done)
    typer.echo(f"The plain model is in {output / MODEL}.")
    if questions:
        typer.echo(f"The prompts of {len(questions)} questions are in {output / EMBEDDINGS}.")
    else:
        note("It does not think by itself; --prompt-embeds QUESTIONS writes what it is to read.")
