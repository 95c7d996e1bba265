"""`codi data`: write any source as JSON lines, or show what a method reads of it; `codi data annotate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import codi
from codi.commands import data_annotate, data_cache, options
from codi.commands.console import check_output, print_table
from codi.commands.data_vary import vary
from codi.errors import UsageError

WORD_PROBLEMS = "word-problems"
"""The source whose splits can be named alone: `codi data test`."""


class _DataCommands(TyperGroup):
    """`codi data SOURCE ...` writes; only another command's name in its place is that command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] != "--help":
            args = [WRITE, *args]
        return super().parse_args(ctx, args)


WRITE = "write"
app = typer.Typer(
    cls=_DataCommands,
    no_args_is_help=True,
    help="Write the examples of any source, or rationales for one's own.",
)


app.command("cache")(data_cache.cache)
app.command("annotate", cls=data_annotate.RetryWithoutReason)(data_annotate.annotate)


@app.command(WRITE)
def data(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="SPLIT|SOURCE",
            help="A split of the word problems, a generator, a hub set, a file, a folder or a pattern.",
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="The .jsonl file to write.")] = None,
    split: Annotated[
        str | None, typer.Option(help="Split of a generator, a hub set or a folder; 'a+b' joins two.")
    ] = None,
    count: Annotated[
        int | None, typer.Option(help="How many: generated, or the first so many of another source.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of a generator (1 by default).")] = None,
    skip_bad_rows: Annotated[
        bool, typer.Option("--skip-bad-rows", help="Count and leave out defective rows; do not stop at them.")
    ] = False,
    annotations: Annotated[
        str | None, typer.Option(help="Calculator annotations <<48/2=24>> inside sentences: keep or remove.")
    ] = None,
    question_column: options.QuestionColumn = None,
    answer_column: options.AnswerColumn = None,
    rationale_column: options.RationaleColumn = None,
    steps_column: options.StepsColumn = None,
    show: Annotated[
        int | None,
        typer.Option(help="Print what a method reads of the source, with so many examples written out."),
    ] = None,
    method: Annotated[str | None, typer.Option(help="With --show: whose reading (codi by default).")] = None,
    recipe: Annotated[
        str | None, typer.Option(help="With --show: a recipe or a run's run.yaml, for its method and text.")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="With --show: hub id or folder of the tokenizer to count with.")
    ] = None,
    trained_on: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE", help="Say how many of the chains stand in this training source (split train)."
        ),
    ] = None,
    steps_rule: Annotated[
        str | None, typer.Option(help="How a rationale in one text becomes steps (docs/own-data.md).")
    ] = None,
    show_list: Annotated[bool, typer.Option("--list", help="List the known splits and sets.")] = False,
    overwrite: options.Overwrite = False,
) -> None:
    """Write the examples of any source as JSON lines, or show what a method reads of them."""
    if show_list:
        _print_sources()
        return
    if source is None or (output is None and show is None):
        raise UsageError(
            "Name a source and an --output file, or --show 3 to look at it; `codi data --list` shows the "
            "known sources."
        )
    if show is None and (method or recipe or tokenizer):
        raise UsageError("--method, --recipe and --tokenizer say how to --show a source. Add --show 3.")
    check_output(output, overwrite)
    if count is not None and count < 1:
        raise UsageError(f"--count must be at least 1, got {count}.")

    from codi.commands import data_show
    from codi.data.sources import write_jsonl

    name, part, limit = _resolve(source, split, count, seed)
    columns = options.named_columns(question_column, answer_column, rationale_column, steps_column)
    read_as = None if show is None else data_show.recipe_of(recipe, method)
    settings = {} if read_as is None else data_show.reading(name, read_as)
    given = {"columns": columns, "skip_bad_rows": skip_bad_rows or None, "steps_rule": steps_rule}
    given["annotations"] = annotations
    settings |= {key: value for key, value in given.items() if value is not None}
    examples, report = codi.load_examples(name, split=part, limit=limit, **settings)
    typer.echo(report.describe())
    if show is not None and read_as is not None:
        typer.echo(data_show.shown(name, examples, read_as, tokenizer, show))
    if trained_on is not None:
        from codi.data.chains import seen_chains

        typer.echo(seen_chains(examples, codi.load_examples(trained_on, split="train")[0]).describe())
    if output is not None:
        write_jsonl(examples, output)
        typer.echo(f"{len(examples)} examples written to {output}")


app.command("vary")(vary)


def _resolve(
    source: str, split: str | None, count: int | None, seed: int | None
) -> tuple[str, str, int | None]:
    """Source, split and limit for `load_examples`."""
    from codi.data.sources import GENERATORS
    from codi.data.word_problems import SPLITS

    if source in SPLITS:
        if split is not None and split != source:
            raise UsageError(f"'{source}' is a split already; --split {split} is another. Leave one out.")
        source, split = WORD_PROBLEMS, source
    if source.partition("?")[0] not in GENERATORS:
        if seed is not None:
            raise UsageError(f"--seed applies to generated problems only, and '{source}' is not generated.")
        return source, split or "train", count
    given = [f"{key}={value}" for key, value in (("seed", seed), ("count", count)) if value is not None]
    if given and "?" in source:
        raise UsageError(f"'{source}' has options already. Give them there, or as --seed and --count.")
    return f"{source}?{'&'.join(given)}" if given else source, split or "train", None


def _print_sources() -> None:
    from codi.data.files import READERS
    from codi.data.sources import GENERATORS, HUB_SETS
    from codi.data.word_problems import SPLITS

    rows = [(split, "generated word problems") for split in SPLITS]
    rows += [(name, generator.note) for name, generator in GENERATORS.items() if name != WORD_PROBLEMS]
    rows += [(name, f"{', '.join(hub.splits)} · {hub.hub_id} · {hub.note}") for name, hub in HUB_SETS.items()]
    rows.append(("hub:OWNER/NAME", "any other set on the hub; ?config=, ?split= and ?revision= after it"))
    rows.append(("PATH", f"a file ({', '.join(READERS)}), a folder of them, or a pattern in quotes"))
    print_table("Sources", ("name", "what it is"), rows)
