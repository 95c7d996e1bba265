"""`codi stop-curve`: what ending the thinking early saves, and what it costs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from codi.commands import options
from codi.commands.console import check_figure, check_output, load_reasoner, print_table, write_json


def stop_curve(
    checkpoint: Annotated[str, typer.Argument(help="Folder of a trained CODI model, or a hub id.")],
    benchmark: Annotated[
        str, typer.Option(metavar="NAME|SOURCE", help="What to evaluate on, as of `codi eval`.")
    ],
    rule: Annotated[
        list[str] | None,
        typer.Option(help="learned or confident; repeat it for both. By default the model's."),
    ] = None,
    threshold: Annotated[
        list[float] | None, typer.Option(help="Threshold of a rule, 0 to 1; repeat it for more points.")
    ] = None,
    file: Annotated[str | None, typer.Option(help="Local copy of a named benchmark.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first so many questions.")] = None,
    batch_size: options.BatchSize = 64,
    max_new_tokens: options.MaxNewTokens = 256,
    output: options.JsonOutput = None,
    figure: Annotated[Path | None, typer.Option(help="PNG, PDF or SVG file of the curve.")] = None,
    device: options.Device = None,
    base: options.Base = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Accuracy against mean thoughts, by threshold, beside fixed numbers of thoughts."""
    check_output(output, overwrite)
    check_figure(figure, overwrite)

    from codi.evaluation.benchmarks import load_benchmark
    from codi.evaluation.stop_curve import THRESHOLDS, draw
    from codi.evaluation.stop_curve import stop_curve as measure
    from codi.methods.codi_adaptive import CodiAdaptive

    loaded = load_benchmark(benchmark, file=file, limit=limit)
    reasoner = load_reasoner(checkpoint, device, base)
    own = reasoner.method.stop if isinstance(reasoner.method, CodiAdaptive) else "confident"
    rules = rule or ["confident" if own == "never" else own]
    points = measure(
        reasoner, loaded, rules, threshold or THRESHOLDS, batch_size=batch_size, max_new_tokens=max_new_tokens
    )
    print_table(
        f"{checkpoint} on {benchmark}: accuracy by mean thoughts",
        ("ended by", "at", "mean thoughts", "passes", "accuracy %"),
        [
            (
                point.rule, f"{point.at:g}", f"{point.thoughts:.2f}", f"{point.result.sequential_passes:.1f}",
                f"{100 * point.result.accuracy:.1f}",
            )
            for point in points
        ],
        numbers=True,
    )  # fmt: skip
    if output is not None:
        write_json(
            output,
            {
                "checkpoint": checkpoint,
                "benchmark": benchmark,
                "method": reasoner.method.as_dict(),
                "points": [point.as_dict() for point in points],
            },
        )
    if figure is not None:
        draw(points, figure)
    for path in (output, figure):
        if path is not None:
            typer.echo(f"written: {path}")
