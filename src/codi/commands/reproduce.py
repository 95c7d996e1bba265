"""`codi reproduce`: the paper's tables and figures, our figures beside the paper's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codi.commands.console import note, print_table
from codi.errors import CodiError, UsageError
from codi.reproduce.scales import SCALES

if TYPE_CHECKING:
    from codi.reproduce.plans import Plan
    from codi.reproduce.tables import Table


def reproduce(
    tables: Annotated[
        list[str] | None, typer.Argument(metavar="TABLE ...", help="Names of tables, or all.")
    ] = None,
    scale: Annotated[
        str, typer.Option(help="; ".join(f"{one.name}: {one.about}" for one in SCALES.values()))
    ] = "small",
    seeds: Annotated[list[int] | None, typer.Option("--seed", help="Only this seed; repeatable.")] = None,
    results: Annotated[Path, typer.Option(help="Folder of configurations and results.")] = Path("results"),
    runs: Annotated[Path, typer.Option(help="Folder of checkpoints.")] = Path("runs/reproduce"),
    page: Annotated[Path | None, typer.Option(help="Write the results page (Markdown) to this file.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the runs and what they would take.")
    ] = False,
    show: Annotated[bool, typer.Option("--show", help="Print what is finished; run nothing.")] = False,
    show_list: Annotated[bool, typer.Option("--list", help="List the tables.")] = False,
    steps: Annotated[int | None, typer.Option(hidden=True)] = None,
    questions: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Run tables and figures of the paper; finished runs are skipped."""
    from codi.reproduce.tables import TABLES

    if show_list:
        print_table("Tables", ("name", "what it is"), [(t.name, t.title) for t in TABLES.values()])
        return
    if not tables:
        raise UsageError(f"Name a table, or all: {', '.join(TABLES)}.")
    from codi.reproduce.plans import plan, tuning_warning
    from codi.reproduce.sweep import first_kept, measure_latency_of, run_sweep
    from codi.reproduce.table_names import tables_named

    chosen = tables_named(tables)
    plans = plan(tables, scale, results, runs, seeds=seeds, steps=steps, questions=questions)
    warning = tuning_warning(plans)
    if warning:
        note(f"warning: {warning}")
    if dry_run:
        _print_plans(plans, scale)
        return
    if page is not None and scale != "small":
        raise UsageError("The results page is of the small scale. Leave --page out, or --scale paper.")
    errors = {}
    if not show:
        errors = run_sweep(plans, typer.echo)
        for table in chosen:
            if table.kind == "cost" or table.costs:
                its = plan([table.name], scale, results, runs, seeds=seeds, steps=steps, questions=questions)
                measure_latency_of(
                    first_kept([one for one in its if one.variant.name in table.rows]), typer.echo
                )
    for table in chosen:
        whole = plan([table.name], scale, results, runs, seeds=seeds, steps=steps, questions=questions)
        _print_table(table, whole, scale)
    if page is not None:
        from codi.reproduce.results_page import write_page

        write_page(page, results)
        typer.echo(f"Written: {page}")
    if errors:
        failed = "\n".join(f"  {name}: {error}" for name, error in errors.items())
        raise CodiError(f"{len(errors)} of {len(plans)} runs failed; the others are kept.\n{failed}")


def _print_plans(plans: list[Plan], scale: str) -> None:
    from codi.reproduce.estimate import estimate, seconds_per_step
    from codi.reproduce.sweep import read_result

    rows, minutes, unknown = [], 0.0, 0
    found = [read_result(one) for one in plans]
    taken = seconds_per_step(result for result, _ in found if result is not None)
    for one, (result, why) in zip(plans, found, strict=True):
        cost = estimate(one, taken)
        rows.append((one.name, "finished" if result else why, cost.time, cost.memory))
        if result is None:
            minutes, unknown = minutes + (cost.minutes or 0.0), unknown + (cost.minutes is None)
    print_table(f"Runs at {scale} scale", ("run", "state", "time", "memory"), rows)
    typer.echo(
        f"{sum(row[1] != 'finished' for row in rows)} of {len(rows)} runs to make, about "
        f"{minutes:.0f} minutes one after the other"
        + (f", and {unknown} of unknown length" if unknown else "")
        + "."
    )


def _print_table(table: Table, plans: list[Plan], scale: str) -> None:
    from codi.reproduce.table_report import (
        collect,
        directions,
        distance_note,
        how_tested,
        kept_note,
        rising_note,
        rows,
    )

    found = collect(plans)
    headings, made = rows(table, found, scale)
    print_table(f"{table.title}\n{scale} scale", headings, made, numbers=True)
    tested = directions(table, found, scale)
    for line in (
        rising_note(table, found), kept_note(found, scale), distance_note(table, found),
        *(one.describe() for one in tested), how_tested(tested), table.note,
    ):  # fmt: skip
        if line:
            typer.echo(f"  {line}")
