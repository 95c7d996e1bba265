"""`codi probe`: look at what a checkpoint thinks, about one question or over a benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from codi.commands import options
from codi.commands.console import check_output, load_reasoner, print_table, progress, write_json
from codi.errors import UsageError
from codi.storage import write_whole

if TYPE_CHECKING:
    from codi.interpretability.benchmark_report import BenchmarkReport
    from codi.interpretability.lenses import TunedLens
    from codi.interpretability.question_report import QuestionReport

SHOWN_TOKENS, SHOWN_ATTENDED = 3, 5


def probe(
    checkpoint: Annotated[str, typer.Argument(help="Folder of a trained model that thinks, or a hub id.")],
    question: Annotated[str | None, typer.Option(help="A question to look at.")] = None,
    benchmark: Annotated[str | None, typer.Option(help="A benchmark or file to measure over.")] = None,
    file: Annotated[Path | None, typer.Option(help="A local copy of the benchmark.")] = None,
    count: Annotated[int | None, typer.Option(help="The first so many problems only.")] = None,
    part: Annotated[
        list[str] | None,
        typer.Option(help="table3, interventions, patching, shift or probes; repeat it for more; else all."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="One self-contained HTML file.")] = None,
    json_output: Annotated[Path | None, typer.Option("--json", help="A JSON file for machines.")] = None,
    figures: Annotated[Path | None, typer.Option(help="A folder for the figures as PNG and PDF.")] = None,
    latents: options.Latents = None,
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

    from codi.interpretability.benchmark_report import PARTS, benchmark_report
    from codi.interpretability.lenses import load_lens
    from codi.interpretability.question_report import question_report
    from codi.interpretability.thinking import refuse_without_thoughts

    reasoner = load_reasoner(checkpoint, device, base)
    refuse_without_thoughts(reasoner, latents)
    tuned: TunedLens | None = load_lens(lens, reasoner.model) if lens is not None else None
    examples: list[Any] = []
    scorer = "codi"
    if benchmark is not None:
        from codi.evaluation.benchmarks import load_benchmark

        examples, _, found = load_benchmark(benchmark, file=str(file) if file else None, limit=count)
        scorer = found.scorer
    if train_lens is not None:
        tuned, examples = _train_lens(reasoner, examples, train_lens, seed)
    asked: QuestionReport | None = None
    measured: BenchmarkReport | None = None
    if question is not None:
        asked = question_report(reasoner, question, latents=latents, layer=layer, head=head, lens=tuned)
        _print_question(asked)
    if benchmark is not None:
        with progress("probing") as bar:
            measured = benchmark_report(
                reasoner, benchmark, examples, scorer=scorer, parts=part or PARTS, what=patch, pairs=pairs,
                lens=tuned, batch_size=batch_size, seed=seed, progress=lambda _: bar,
            )  # fmt: skip
        _print_benchmark(measured)
    _write(checkpoint, reasoner, asked, measured, output, json_output, figures, layer, head, seed)


def _train_lens(reasoner: Any, examples: list[Any], path: Path, seed: int) -> tuple[Any, list[Any]]:
    """Train on the first half; what is measured afterwards is the other half, never seen."""
    from codi.evaluation.benchmarks import format_question
    from codi.interpretability.lenses import save_lens, train_tuned_lens

    half = len(examples) // 2
    if half < 1:
        raise UsageError("A tuned lens is trained on half of the problems; give 2 or more.")
    questions = [format_question(example.question) for example in examples]
    with progress("training the lens") as bar:
        lens = train_tuned_lens(
            reasoner, questions[:half], questions[half:], seed=seed,
            on_progress=lambda done, total, _loss: bar(done, total),
        )  # fmt: skip
    save_lens(lens, path)
    typer.echo(f"Tuned lens written to {path}; what follows is measured on the other {len(examples) - half}.")
    return lens, examples[half:]


def _print_question(report: QuestionReport) -> None:
    rows = [
        (
            thought.name,
            "  ".join(
                f"{token.token if token.whole == token.token else f'{token.token} ({token.whole})'} "
                f"{100 * token.share:.0f}%"
                for token in thought.tokens[:SHOWN_TOKENS]
            ),
            "  ".join(f"{name} {weight:.2f}" for name, weight in thought.attended[:SHOWN_ATTENDED]),
            thought.silenced or "none",
        )
        for thought in report.thoughts
    ]
    print_table("What each thought says", ("", "decodes to", "attends to", "answer if silenced"), rows)
    typer.echo(
        f"answer: {report.value or 'none'}   ({report.passes} passes, {report.latent_ms:.1f} ms at batch 1)"
    )
    if report.explicit is not None:
        typer.echo(
            f"written out: {report.explicit.strip()}   ({report.explicit_passes} passes, "
            f"{report.explicit_ms:.1f} ms)"
        )


def _print_benchmark(report: BenchmarkReport) -> None:
    if report.table3 is not None and report.table3_whole is not None:
        pairs = zip(report.table3.rows, report.table3_whole.rows, strict=True)
        print_table(
            f"Table 3: intermediate results among the top {report.table3.top_k} tokens "
            f"({report.table3.correct} of {report.table3.asked} answered correctly)",
            ("results", "problems", "match %", "95 % interval", "whole numbers %", "top-1 %", "by chance %"),
            [
                (
                    str(row.results), str(row.n), f"{100 * row.share:.1f}",
                    f"{100 * row.ci95[0]:.1f} - {100 * row.ci95[1]:.1f}", f"{100 * whole.share:.1f}",
                    f"{100 * row.top_1:.1f}", f"{100 * row.by_chance:.1f}",
                )
                for row, whole in pairs
            ],
            numbers=True,
        )  # fmt: skip
    if report.interventions is not None:
        table = report.interventions
        print_table(
            f"Interventions ({table.n} problems, undisturbed {100 * table.accuracy:.1f} %)",
            ("thoughts replaced by", "accuracy %", "difference", "95 % interval", "p", "changed %"),
            [
                (
                    row.name, f"{100 * row.accuracy:.1f}", f"{100 * row.difference:+.1f}",
                    f"{100 * row.difference_ci95[0]:+.1f} to {100 * row.difference_ci95[1]:+.1f}",
                    f"{row.p_value:.2g}", f"{100 * row.changed:.1f}",
                )
                for row in table.rows
            ],
            numbers=True,
        )  # fmt: skip
    if report.patching:
        print_table(
            f"Patching ({report.patching[0].what}): answers that followed the other problem's value, best",
            ("steps", "problems", "of step", "thought", "followed %", "95 % interval", "same value kept %"),
            [
                (
                    str(table.steps), str(table.problems), str(best.step), f"z{best.latent}",
                    f"{100 * best.followed:.1f}", f"{100 * best.ci95[0]:.1f} - {100 * best.ci95[1]:.1f}",
                    "-" if best.kept is None else f"{100 * best.kept:.1f}",
                )
                for table in report.patching
                for best in [table.best()]
            ],
            numbers=True,
        )  # fmt: skip
    if report.shift is not None:
        print_table(
            f"CoT shift over {report.shift.examples} problems with a rationale",
            ("layer", "cosine", "norm ratio", "distance left"),
            [
                (str(row.layer), *(f"{part.mean:.3f}" for part in (row.cosine, row.norm_ratio, row.distance)))
                for row in report.shift.layers
            ],
            numbers=True,
        )  # fmt: skip
    if report.probes:
        steps = sorted({found.step for found in report.probes})
        best_of = [
            max((p for p in report.probes if p.step == step), key=lambda p: p.accuracy) for step in steps
        ]
        print_table(
            "Linear probes, best place for each step's result",
            ("step", "thought", "layer", "accuracy %", "control %", "majority %", "tested on"),
            [
                (
                    str(p.step), f"z{p.thought}", str(p.layer), f"{100 * p.accuracy:.1f}",
                    f"{100 * p.control_accuracy:.1f}", f"{100 * p.majority:.1f}", str(p.n_test),
                )
                for p in best_of
            ],
            numbers=True,
        )  # fmt: skip
    if report.lens is not None:
        print_table(
            "Lenses: KL from the last layer, nats",
            ("layer", "logit lens", "tuned lens"),
            [
                (str(layer), f"{logit:.3f}", f"{tuned:.3f}")
                for layer, (logit, tuned) in enumerate(zip(report.lens.logit, report.lens.tuned, strict=True))
            ],
            numbers=True,
        )
    for name, reason in (report.left_out or {}).items():
        typer.echo(f"left out: {name}: {reason}")


def _write(
    checkpoint: str, reasoner: Any, asked: QuestionReport | None, measured: BenchmarkReport | None,
    output: Path | None, json_output: Path | None, figures: Path | None,
    layer: int | None, head: int | None, seed: int,
) -> None:  # fmt: skip
    import codi

    parts = (("layer", layer), ("head", head))
    chosen = [f"{name} {number}" for name, number in parts if number is not None]
    notes = {
        "checkpoint": checkpoint,
        "method": reasoner.method.name,
        "attention": ", ".join(chosen) or "mean over layers and heads",
        "seed": str(seed),
        "codi": codi.__version__,
    }
    if json_output is not None:
        values: dict[str, Any] = {"made_from": notes}
        if asked is not None:
            values["question"] = asked.as_dict()
        if measured is not None:
            values["benchmark"] = measured.as_dict()
        write_json(json_output, values)
    if output is not None:
        from codi.interpretability.report_page import report_page

        write_whole(output, report_page("What the model thinks", asked, measured, notes))
    if figures is not None:
        from codi.interpretability.figures import save_figures

        save_figures(figures, asked, measured)
    for path in (output, json_output, figures):
        if path is not None:
            typer.echo(f"written: {path}")
