"""`codi pretrain`: make a base of the package's own from random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from codi import processes
from codi.commands import options


def pretrain(
    base: Annotated[str, typer.Argument(help="Which base: small.")],
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE ...", help="Settings over the recipe's, e.g. training.seed=2."),
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder for the base.")] = Path("runs/small-base"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder.")] = False,
    overwrite: options.Overwrite = False,
) -> None:
    """Pretrain the small scale's base on the world of its problems."""
    from codi.training.pretraining import pretrain as run

    result = run(base, output, settings, resume=resume, overwrite=overwrite)
    processes.leave()
    if not processes.is_first():
        return
    accuracy = "" if result.accuracy is None else f", validation accuracy {100 * result.accuracy:.1f} %"
    typer.echo(f"{result.steps} steps in {result.seconds:.0f} s{accuracy}.")
    typer.echo(f"The base is in {result.output}: give it as model.base={result.output}")
