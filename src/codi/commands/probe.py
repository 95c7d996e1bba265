"""`codi probe`: look at what a checkpoint thinks, about one question or over a benchmark."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import codi
from codi.commands import options
from codi.commands.console import check_output, load_reasoner, note, progress, write_json
from codi.commands.probe_tables import print_benchmark, print_question
from codi.errors import UsageError

if TYPE_CHECKING:
    from codi.interpretability.lenses import TunedLens
    from codi.interpretability.report import Report


def probe(
    checkpoint: Annotated[str, typer.Argument(help="Folder of a trained model that thinks, or a hub id.")],
    question: Annotated[str | None, typer.Option(help="A question to look at.")] = None,
    benchmark: Annotated[str | None, typer.Option(help="A benchmark or file to measure over.")] = None,
    file: Annotated[Path | None, typer.Option(help="A local copy of the benchmark.")] = None,
    count: Annotated[int | None, typer.Option(help="The first so many problems only.")] = None,
    part: Annotated[
        list[str] | None,
        typer.Option(
            help="table3, interventions, shortcuts, patching, shift or probes; repeat it for more; else all."
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="One self-contained HTML file.")] = None,
    json_output: Annotated[Path | None, typer.Option("--json", help="A JSON file for machines.")] = None,
    figures: Annotated[Path | None, typer.Option(help="A folder for the figures as PNG and PDF.")] = None,
    latents: options.Latents = None,
    stop: options.Stop = None,
    layer: Annotated[int | None, typer.Option(help="Attention of this layer only (from 0).")] = None,
    head: Annotated[int | None, typer.Option(help="Attention of this head only (from 0).")] = None,
    patch: Annotated[
        str, typer.Option(help="What patching puts in: latent, keys-values or latents-up-to.")
    ] = "latent",
    pairs: Annotated[int, typer.Option(help="Pairs of problems for each step and latent.")] = 200,
    lens: Annotated[Path | None, typer.Option(help="A tuned lens made with --train-lens.")] = None,
    train_lens: Annotated[
        Path | None, typer.Option(help="Train a tuned lens on the benchmark's first half and write it here.")
    ] = None,
    batch_size: options.BatchSize = 64,
    seed: Annotated[int, typer.Option(help="Seed of pairs, noise and splits.")] = 0,
    device: options.Device = None,
    base: options.Base = None,
    dtype: options.Dtype = None,
    overwrite: options.Overwrite = False,
) -> None:
    """See each continuous thought: what it decodes to, attends to, and changes in the answer."""
    if question is None and benchmark is None:
        raise UsageError('Give something to look at: --question "..." or --benchmark NAME (or both).')
    if train_lens is not None and (lens is not None or benchmark is None):
        raise UsageError("--train-lens needs a --benchmark to train on, and no --lens beside it.")
    if pairs < 1 or (count is not None and count < 1):
        raise UsageError(f"--pairs is {pairs} and --count is {count}; both must be 1 or more.")
    for path in (output, json_output, train_lens):
        check_output(path, overwrite)

    from codi.evaluation.benchmarks import load_benchmark
    from codi.interpretability.benchmark_report import PARTS, check_parts
    from codi.interpretability.lenses import load_lens
    from codi.interpretability.report import Report
    from codi.interpretability.thinking import refuse_without_thoughts

    loaded = None
    if benchmark is not None:
        loaded = load_benchmark(benchmark, file=str(file) if file else None, limit=count)
    reasoner = load_reasoner(checkpoint, device, base, dtype, stop)
    if loaded is not None:
        check_parts(reasoner, part or PARTS, latents)
    if question is not None or lens is not None or train_lens is not None:
        refuse_without_thoughts(reasoner, latents)
    tuned: TunedLens | None = load_lens(lens, reasoner.model) if lens is not None else None
    if train_lens is not None and loaded is not None:
        tuned, rest = _train_lens(reasoner, loaded.examples, train_lens, str(benchmark), latents, seed)
        loaded = loaded._replace(examples=rest)
    found = Report(None, None)
    if question is not None:
        found = codi.probe(reasoner, question, latents=latents, layer=layer, head=head, lens=tuned, seed=seed)
    if found.question is not None:  # before a long measurement begins
        print_question(found.question)
    if loaded is not None:
        with progress("probing") as bar:
            measured = codi.probe(
                reasoner, benchmark=loaded, parts=part or PARTS, patch=patch, pairs=pairs, latents=latents,
                layer=layer, head=head, lens=tuned, batch_size=batch_size, seed=seed, progress=lambda _: bar,
            )  # fmt: skip
        if measured.benchmark is not None:
            print_benchmark(measured.benchmark)
        found = replace(measured, question=found.question)
    found = replace(found, made_from={"checkpoint": checkpoint, **found.made_from})
    _write(found, output, json_output, figures)


def _train_lens(
    reasoner: Any, examples: list[Any], path: Path, source: str, latents: int | None, seed: int
) -> tuple[Any, list[Any]]:
    """Train on the first half; what is measured afterwards is the other half, never seen."""
    from codi.evaluation.benchmarks import format_question
    from codi.interpretability.lens_questions import split_in_half
    from codi.interpretability.lenses import save_lens, train_tuned_lens
    from codi.interpretability.usable_rows import in_words, rows_that_fit

    examples, left_out = rows_that_fit(reasoner, examples, latents)
    if left_out:
        typer.echo(f"left out of the lens: {in_words(left_out)}")
    first, second = split_in_half(examples)
    with progress("training the lens") as bar:
        lens = train_tuned_lens(
            reasoner,
            [format_question(example.question) for example in first],
            [format_question(example.question) for example in second],
            seed=seed,
            latents=latents,
            source=f"{source}, the first {len(first):,} of {len(examples):,} questions",
            on_progress=lambda done, total, _loss: bar(done, total),
        )
    save_lens(lens, path)
    typer.echo(f"Tuned lens written to {path}; what follows is measured on the other {len(second)}.")
    return lens, second


def _write(found: Report, output: Path | None, json_output: Path | None, figures: Path | None) -> None:
    if json_output is not None:
        write_json(json_output, found.as_dict())
    if output is not None:
        found.save_page(output)
    if figures is not None:
        found.save_figures(figures)
    if output is not None or figures is not None:
        from codi.interpretability.figure_text import in_code_points
        from codi.interpretability.figures import characters_without_a_font

        missing = characters_without_a_font(found.question)
        if missing:
            note(
                f"No installed font has {in_code_points(missing)}; the figures draw □ there (the page's text "
                "is whole). Install one that has them, such as a Noto Sans for that script."
            )
    for path in (output, json_output, figures):
        if path is not None:
            typer.echo(f"written: {path}")
