"""`codi compare`: two systems on the same questions, from their prediction files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import codi
from codi.commands import options
from codi.commands.console import check_output, note, print_table, write_json


def compare(
    first: Annotated[Path, typer.Argument(help="Predictions (JSONL) of one system.")],
    second: Annotated[Path, typer.Argument(help="Predictions of the other, on the same questions.")],
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
    output: options.JsonOutput = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Whether two systems differ: paired bootstrap and McNemar's exact test on the same questions."""
    check_output(output, overwrite)

    from dataclasses import asdict

    found = codi.compare(first, second, seed)
    rows = [
        [str(file), f"{accuracy:.1%}", f"{low:.1%} to {high:.1%}", scorer or "–"]
        for file, accuracy, (low, high), scorer in zip(
            (first, second), found.accuracy, found.ci95, found.scorers, strict=True
        )
    ]
    headings = ("predictions", "accuracy", "95 % interval", "scorer")
    print_table(f"{found.n:,} questions", headings, rows, numbers=True)
    if None not in found.scorers and found.scorers[0] != found.scorers[1]:
        note(
            f"The first was scored with '{found.scorers[0]}', the second with '{found.scorers[1]}': part of "
            "the difference may be theirs."
        )
    low, high = found.difference_ci95
    typer.echo(
        f"Second less first: {100 * found.difference:+.1f} points, paired bootstrap 95 % {100 * low:+.1f} to "
        f"{100 * high:+.1f}.\nRight in the first only: {found.only_first}; in the second only: "
        f"{found.only_second}; McNemar's exact p = {found.mcnemar_p:.2g}."
    )
    if output is not None:
        write_json(output, asdict(found))
