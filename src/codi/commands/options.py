"""Options that several commands share, each described once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codi.errors import UsageError

if TYPE_CHECKING:
    from codi.data.sources import Columns

Mode = Annotated[
    str | None,
    typer.Option(help="How to answer: latent, explicit or direct. By default the method's own way."),
]
Latents = Annotated[
    int | None, typer.Option(help="Another number of continuous thoughts than trained (0 or more).")
]
Stop = Annotated[
    str | None,
    typer.Option(
        metavar="RULE[:THRESHOLD]",
        help="When a CODI model ends its thinking: learned, confident or never; also as learned:0.7.",
    ),
]
BatchSize = Annotated[int, typer.Option(help="Questions answered at a time.")]
Temperature = Annotated[float, typer.Option(help="0 is greedy; above 0 samples.")]
TopK = Annotated[int, typer.Option(help="Sample among the k likeliest tokens; 0 is off.")]
TopP = Annotated[float, typer.Option(help="Sample within this share of the probability; 1 is off.")]
SamplingSeed = Annotated[int, typer.Option("--seed", help="Seed of the sampling.")]
MaxNewTokens = Annotated[int, typer.Option(help="Most tokens written for one answer.")]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1, mps, ...; by default an accelerator if there is one.")
]
Base = Annotated[
    str | None,
    typer.Option(help="Where the base model is now, if it has moved; its weights must be the recorded ones."),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        help="Hold the weights and compute in float32, bfloat16 or float16; by default as it was trained."
    ),
]
Graphs = Annotated[
    str,
    typer.Option(
        help="CUDA graphs, with the same answers: auto takes them on CUDA, on insists, off never does."
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is already there.")]
QuestionColumn = Annotated[str | None, typer.Option(help="Column of the question, if not recognised.")]
AnswerColumn = Annotated[str | None, typer.Option(help="Column of the answer, if not recognised.")]
RationaleColumn = Annotated[str | None, typer.Option(help="Column of the reasoning as one text.")]
StepsColumn = Annotated[str | None, typer.Option(help="Column of the reasoning as a list of steps.")]
JsonOutput = Annotated[Path | None, typer.Option(help="JSON file to write the results to.")]


def check_stop(stop: str | None, mode: str | None = None, latents: int | None = None) -> None:
    """Raise UsageError for a rule that ends the thinking where nothing is thought."""
    if stop is None or (mode in (None, "latent") and latents != 0):
        return
    given = f"--mode {mode}" if mode not in (None, "latent") else "--latents 0"
    raise UsageError(
        f"--stop {stop} was given with {given}, where nothing is thought that it could end. Leave one out."
    )


def named_columns(
    question: str | None, answer: str | None, rationale: str | None, steps: str | None
) -> Columns | None:
    """The columns named on the command line; None when none is."""
    from codi.data.sources import Columns

    named = Columns(question=question, rationale=rationale, steps=steps, answer=answer)
    return None if named == Columns() else named
