"""`codi why`: what the paper explains its results by, measured on runs of the small scale."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def why(
    figures: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FIGURE ...",
            help="gradients, distilled-token, last-step, forgetting, projection; all by default.",
        ),
    ] = None,
    runs: Annotated[Path, typer.Option(help="Folder of runs, VARIANT/seed-N in it.")] = Path(
        "runs/reproduce/small"
    ),
    seeds: Annotated[
        list[int] | None, typer.Option("--seed", help="Only this seed; repeatable. By default 1, 2, 3.")
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder for what was found, and the figures.")] = Path(
        "docs/results/why"
    ),
    page: Annotated[Path | None, typer.Option(help="Write the page (Markdown) to this file.")] = None,
    show: Annotated[
        bool, typer.Option("--show", help="Measure nothing: figures and page of what was found.")
    ] = False,
    problems: Annotated[int, typer.Option(help="Unseen problems asked.")] = 1500,
    replayed: Annotated[
        int, typer.Option(help="Seeds whose first updates are trained once more, to watch them.")
    ] = 1,
    updates: Annotated[
        int, typer.Option(help="First updates of CODI in which gradients are measured.")
    ] = 240,
) -> None:
    """Measure what the paper explains its results by (docs/why.md)."""
    from codi.errors import UsageError
    from codi.reproduce.why import Measurement, figures_named, measure, read_measured
    from codi.reproduce.why_figures import save_figures

    names = [figure.name for figure in figures_named(figures or ())]
    if not show:
        ask = Measurement(
            runs,
            tuple(seeds or (1, 2, 3)),
            problems=problems,
            replayed=replayed,
            updates=updates,
            every=max(1, min(20, updates // 2)),
        )
        measure(names, ask, output, typer.echo)
    found = read_measured(output)
    if not found and page is None:
        raise UsageError(f"Nothing was measured yet: there is no file in '{output}'. Leave --show out.")
    save_figures(found, output)
    for name in found:
        typer.echo(f"Drawn: {output / f'{name}.png'}")
    if page is not None:
        from codi.reproduce.why_page import write_page

        write_page(page, output)
        typer.echo(f"Written: {page}")
