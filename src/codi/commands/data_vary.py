"""`codi data vary`: more problems from few, with other numbers and the steps computed again."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codi.commands import options
from codi.commands.console import check_output, note, print_table, progress
from codi.errors import DataError
from codi.storage import write_whole

if TYPE_CHECKING:
    from codi.data.example import Example

SHOWN = 2
"""Problems printed with a variant, to be read."""


def vary(
    sources: Annotated[
        list[str], typer.Argument(help="Problems with equations as steps: files, folders or hub sets.")
    ],
    output: Annotated[Path, typer.Option(help="The .jsonl file to write.")],
    times: Annotated[int, typer.Option(help="Most variants of each problem.", min=1)] = 10,
    seed: Annotated[int, typer.Option(help="Seed of the numbers drawn.", min=0)] = 1,
    exclude: Annotated[
        list[str] | None,
        typer.Option(help="A validation or test set, none of whose questions may come out; give several."),
    ] = None,
    only_variants: Annotated[
        bool, typer.Option("--only-variants", help="Leave the problems themselves out of the output.")
    ] = False,
    split: Annotated[str, typer.Option(help="Split of a hub set or generator.")] = "train",
    exclude_split: Annotated[str, typer.Option(help="Split of excluded hub sets.")] = "test",
    count: Annotated[int | None, typer.Option(help="The first so many problems only.", min=1)] = None,
    skip_bad_rows: Annotated[
        bool, typer.Option("--skip-bad-rows", help="Count and leave out defective rows; do not stop at them.")
    ] = False,
    question_column: options.QuestionColumn = None,
    answer_column: options.AnswerColumn = None,
    rationale_column: options.RationaleColumn = None,
    steps_column: options.StepsColumn = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Write problems with other numbers: same wording, steps computed exactly.

    A problem whose numbers could be misread is left alone, and counted with the reason.
    """
    check_output(output, overwrite)

    from codi.data.example import Example
    from codi.data.sources import load_examples, write_jsonl
    from codi.data.variation import VariationReport, folded
    from codi.data.variation import vary as run

    columns = options.named_columns(question_column, answer_column, rationale_column, steps_column)
    begun = time.monotonic()
    examples = list[Example]()
    for source in sources:
        loaded, account = load_examples(
            source, split=split, columns=columns, limit=count, skip_bad_rows=skip_bad_rows
        )
        note(account.describe())
        examples += loaded
    kept_out = set[str]()
    for name in exclude or ():
        others, _ = load_examples(name, split=exclude_split, skip_bad_rows=True)
        kept_out |= {folded(other.question) for other in others}
    named = " and ".join(f"'{source}'" for source in sources)
    examples = _distinct(examples, kept_out, named)

    report, written = VariationReport(), list[Example]()
    shown = list[tuple[Example, Example]]()
    with progress("problems") as bar:
        for example, made in zip(examples, run(examples, times, seed, kept_out, report), strict=True):
            bar(report.read, len(examples))
            written += made if only_variants else [example, *made]
            if made and len(shown) < SHOWN:
                shown.append((example, made[0]))
    if not report.variants:
        reasons = ", ".join(f"{n} {reason}" for reason, n in report.left_alone.items())
        raise DataError(
            f"No problem of {named} could be varied: {reasons}. Steps must be equations such as "
            "<<48/2=24>> that end in the answer."
        )
    write_jsonl(written, output)
    account_file = output.with_suffix(".variation.json")
    seconds = round(time.monotonic() - begun, 1)
    write_whole(
        account_file,
        json.dumps({"times": times, "seed": seed, "seconds": seconds, **asdict(report)}, indent=2) + "\n",
    )
    rows = [("varied", report.varied), ("variants", report.variants)]
    rows += [(f"left alone: {reason}", n) for reason, n in sorted(report.left_alone.items())]
    if report.excluded:
        rows.append(("variants left out: the question is there already", report.excluded))
    print_table(f"{report.read} problems", ("what", "how many"), [(what, str(n)) for what, n in rows])
    for example, variant in shown:
        typer.echo(f"  {example.question}\n  {variant.question}")
        typer.echo(f"  {' '.join(variant.steps)}  answer {variant.answer}\n")
    typer.echo(f"{len(written)} problems written to {output}, the account to {account_file}")


def _distinct(examples: list[Example], kept_out: set[str], named: str) -> list[Example]:
    """The problems that stand in no excluded set, each once; what goes is said."""
    from codi.data.variation import folded

    distinct = {folded(example.question): example for example in reversed(examples)}
    if len(distinct) < len(examples):
        note(f"{len(examples) - len(distinct)} problems stand twice and are taken once.")
    kept = [example for key, example in reversed(distinct.items()) if key not in kept_out]
    if len(kept) < len(distinct):
        note(f"{len(distinct) - len(kept)} problems stand in an excluded set too, and are left out.")
    if not kept:
        raise DataError(f"Every problem of {named} stands in an excluded set: nothing is left to vary.")
    return kept
