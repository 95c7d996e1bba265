"""What `codi probe` prints: one table for each part that was measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from codi.commands.console import print_table

if TYPE_CHECKING:
    from codi.interpretability.benchmark_report import BenchmarkReport
    from codi.interpretability.cot_shift import CotShift
    from codi.interpretability.disturbed_answers import Intervention
    from codi.interpretability.intermediate_results import Table3
    from codi.interpretability.interventions import InterventionTable
    from codi.interpretability.lenses import LensComparison
    from codi.interpretability.patching import PatchTable
    from codi.interpretability.probes import ProbeResult
    from codi.interpretability.question_report import QuestionReport
    from codi.interpretability.shortcut_table import ShortcutRow, ShortcutTable

SHOWN_TOKENS, SHOWN_ATTENDED = 3, 5
LONGEST_SHOWN = 40


def print_question(report: QuestionReport) -> None:
    """Each thought, and the answer."""
    rows: list[tuple[str, ...]] = [
        (
            thought.name,
            "  ".join(
                f"{token.token if token.whole == token.token else f'{token.token} ({token.whole})'} "
                f"{100 * token.share:.0f}%"
                for token in thought.tokens[:SHOWN_TOKENS]
            ),
            "  ".join(f"{name} {weight:.2f}" for name, weight in thought.attended[:SHOWN_ATTENDED]),
            _cut(thought.silenced or "none"),
        )
        for thought in report.thoughts
    ]
    headings: tuple[str, ...] = ("", "decodes to", "attends to", "answer if silenced")
    if not report.attention:  # every pass made all thoughts
        headings, rows = (*headings[:2], headings[3]), [(*row[:2], row[3]) for row in rows]
    print_table("What each thought says", headings, rows)
    rounds = len(report.thoughts[0].rounds)
    if rounds:
        print_table(
            "What goes into each round",
            ("", *(f"round {number + 1}" for number in range(rounds))),
            [
                (thought.name, *(f"{each[0].token} {100 * each[0].share:.0f}%" for each in thought.rounds))
                for thought in report.thoughts
            ],
        )
    typer.echo(
        f"answer: {report.value or 'none'}   ({report.passes} passes, {report.latent_ms:.1f} ms at batch 1)"
    )
    if report.explicit is not None:
        typer.echo(
            f"written out: {report.explicit.strip()}   ({report.explicit_passes} passes, "
            f"{report.explicit_ms:.1f} ms)"
        )


def print_benchmark(report: BenchmarkReport) -> None:
    """Every part that was measured, and what was left out."""
    if report.table3 is not None and report.table3_whole is not None:
        _print_table3(report.table3, report.table3_whole)
    if report.interventions is not None:
        _print_interventions(report.interventions)
    if report.shortcuts is not None:
        _print_shortcuts(report.shortcuts)
    if report.patching:
        _print_patching(report.patching)
    if report.shift is not None:
        _print_shift(report.shift)
    if report.probes:
        _print_probes(report.probes)
    if report.lens is not None:
        _print_lens(report.lens)
    for name, reason in (report.left_out or {}).items():
        typer.echo(f"left out: {name}: {reason}")
    for name, reasons in (report.rows_left_out or {}).items():
        where = "every part" if name == "all" else name
        for reason, count in reasons.items():
            typer.echo(f"problems left out of {where}: {count:,}: {reason}")


def _print_table3(table: Table3, whole: Table3) -> None:
    print_table(
        f"Table 3: intermediate results among the top {table.top_k} tokens "
        f"({table.correct:,} of {table.asked:,} answered correctly)",
        ("results", "problems", "match %", "95 % interval", "whole numbers %", "top-1 %", "by chance %"),
        [
            (
                str(row.results), str(row.n), _percent(row.share), _between(row.ci95),
                _percent(also.share), _percent(row.top_1),
                "-" if row.by_chance is None else _percent(row.by_chance),
            )
            for row, also in zip(table.rows, whole.rows, strict=True)
        ],
        numbers=True,
    )  # fmt: skip
    if not table.rows:
        typer.echo("No problem with an intermediate result was answered correctly, so the table has no row.")


def _print_interventions(table: InterventionTable) -> None:
    print_table(
        f"Interventions ({table.n} problems, undisturbed {100 * table.accuracy:.1f} %)",
        ("thoughts replaced by", "accuracy %", "difference", "95 % interval", "p", "changed %"),
        [(row.name, *_compared(row)) for row in table.rows],
        numbers=True,
    )


def _print_shortcuts(table: ShortcutTable) -> None:
    print_table(
        f"Do the thoughts do anything? ({table.n:,} questions, undisturbed {100 * table.accuracy:.1f} %)",
        ("in the way", "accuracy %", "difference", "95 % interval", "changed %", "thoughts' %",
         "question's %"),
        [_shortcut(row) for row in table.rows if row.found is not None],
        numbers=True,
    )  # fmt: skip
    for row in table.rows:
        if row.reason is not None:
            typer.echo(f"does not apply: {row.name}: {row.reason}")
    for sentence in table.verdict:
        typer.echo(sentence)


def _shortcut(row: ShortcutRow) -> tuple[str, ...]:
    assert row.found is not None
    followed = row.followed
    owners = ("", "") if followed is None else (_percent(followed.thoughts), _percent(followed.question))
    accuracy, difference, interval, _, changed = _compared(row.found)
    return (row.name, accuracy, difference, interval, changed, *owners)


def _print_patching(tables: Sequence[PatchTable]) -> None:
    print_table(
        f"Patching ({tables[0].what}): answers that followed the other problem's value, best",
        ("steps", "problems", "of step", "thought", "followed %", "95 % interval", "pairs",
         "same value kept %", "pairs"),
        [_patched(table) for table in tables],
        numbers=True,
    )  # fmt: skip


def _patched(table: PatchTable) -> tuple[str, ...]:
    """The best place; where no answer followed anywhere there is none."""
    best = table.best()
    place = (str(best.step), f"z{best.latent}") if best.followed else ("-", "-")
    kept = "-" if best.kept is None or not best.followed else _percent(best.kept)
    return (
        str(table.steps), str(table.problems), *place, _percent(best.followed), _between(best.ci95),
        str(best.n), kept, "-" if kept == "-" else str(best.n_same),
    )  # fmt: skip


def _print_shift(shift: CotShift) -> None:
    print_table(
        f"CoT shift over {shift.examples} problems with a rationale",
        ("layer", "cosine", "norm ratio", "distance left"),
        [
            (str(row.layer), *(f"{part.mean:.3f}" for part in (row.cosine, row.norm_ratio, row.distance)))
            for row in shift.layers
        ],
        numbers=True,
    )


def _print_probes(probes: Sequence[ProbeResult]) -> None:
    steps = sorted({found.step for found in probes})
    best_of = [max((p for p in probes if p.step == step), key=lambda p: p.accuracy) for step in steps]
    print_table(
        "Linear probes, best place for each step's result",
        ("step", "thought", "layer", "accuracy %", "control %", "majority %", "tested on"),
        [
            (
                str(p.step), f"z{p.thought}", str(p.layer), _percent(p.accuracy),
                _percent(p.control_accuracy), _percent(p.majority), str(p.n_test),
            )
            for p in best_of
        ],
        numbers=True,
    )  # fmt: skip


def _print_lens(lens: LensComparison) -> None:
    print_table(
        f"Lenses: KL from the last layer, nats ({lens.questions:,} questions it was not trained on)",
        ("layer", "logit lens", "tuned lens"),
        [
            (str(layer), f"{logit:.3f}", f"{tuned:.3f}")
            for layer, (logit, tuned) in enumerate(zip(lens.logit, lens.tuned, strict=True))
        ],
        numbers=True,
    )


def _compared(found: Intervention) -> tuple[str, ...]:
    low, high = found.difference_ci95
    return (
        _percent(found.accuracy), f"{100 * found.difference:+.1f}", f"{100 * low:+.1f} to {100 * high:+.1f}",
        f"{found.p_value:.2g}", _percent(found.changed),
    )  # fmt: skip


def _cut(text: str) -> str:
    """An answer in a column; a disturbed model may never stop writing."""
    return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 1] + "…"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _between(bounds: tuple[float, float]) -> str:
    return f"{100 * bounds[0]:.1f} - {100 * bounds[1]:.1f}"
