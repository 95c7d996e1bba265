"""`codi curves`: training runs side by side, by what they learned after how many updates."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from codi.commands import options
from codi.commands.console import check_figure, check_output, print_table, write_json


def curves(
    runs: Annotated[list[Path], typer.Argument(help="Folders of training runs, finished or not.")],
    output: options.JsonOutput = None,
    figure: Annotated[Path | None, typer.Option(help="PNG, PDF or SVG file of the curves.")] = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Validation curves of runs, and the settings in which they differ."""
    check_output(output, overwrite)
    check_figure(figure, overwrite)

    from codi.reproduce.run_curves import draw, read_curves

    found = read_curves(runs)
    print_table(
        "Validation accuracy, %",
        ("run", f"settings: of {found[0].name}, then where others differ", "seconds", "after updates"),
        [
            (
                run.name, "\n".join(_told(run.settings, {} if run is found[0] else found[0].settings)),
                "not finished" if run.seconds is None else f"{run.seconds:.0f}",
                ", ".join(f"{one['step']:.0f}: {100 * one['accuracy']:.1f}" for one in run.curve) or "none",
            )
            for run in found
        ],
    )  # fmt: skip
    if output is not None:
        write_json(output, {"runs": [run.as_dict() for run in found]})
    if figure is not None:
        draw(found, figure)
    for path in (output, figure):
        if path is not None:
            typer.echo(f"written: {path}")


def _told(settings: Mapping[str, object], known: Mapping[str, object]) -> list[str]:
    """Settings that are not the known ones; a `start` by the name of its folder alone."""
    others = {key: value for key, value in settings.items() if key not in known or value != known[key]}
    return [f"{key}={'null' if value is None else value}" for key, value in others.items()]
