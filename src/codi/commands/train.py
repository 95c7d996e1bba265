"""`codi train`: train a recipe. `codi quickstart`: train and compare three methods on generated problems."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import codi
from codi import processes
from codi.commands import options
from codi.commands.console import print_table
from codi.errors import UsageError


def train(
    recipe: Annotated[str | None, typer.Argument(help="Name of a recipe, or a YAML file.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE ...", help="Settings over the recipe's, e.g. method.latents=3."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for the run and its checkpoint.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder.")] = False,
    overwrite: options.Overwrite = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the effective configuration and stop.")
    ] = False,
    show_list: Annotated[bool, typer.Option("--list", help="List the recipes.")] = False,
) -> None:
    """Train a recipe and save the best checkpoint."""
    if show_list:
        _print_recipes()
        return
    if recipe is None or (output is None and not dry_run):
        raise UsageError("Name a recipe and an --output folder; `codi train --list` shows the recipes.")
    if dry_run or output is None:
        import yaml

        from codi.training.recipes import load_recipe

        config = load_recipe(recipe, settings)
        if processes.is_first():
            typer.echo(yaml.safe_dump(config.as_dict(), sort_keys=False).rstrip())
        return

    result = codi.train(recipe, output, settings, resume=resume, overwrite=overwrite)
    processes.leave()
    if not processes.is_first():
        return
    accuracy = "" if result.accuracy is None else f", validation accuracy {100 * result.accuracy:.1f} %"
    typer.echo(f"{result.steps} steps in {result.seconds:.0f} s{accuracy}.")
    typer.echo(f"The checkpoint is in {result.output}.")


def quickstart(
    seed: Annotated[int, typer.Option(help="Seed of data, weights and training.")] = 1,
    output: Annotated[Path, typer.Option(help="Folder for results, figure and checkpoints.")] = Path(
        "runs/quickstart"
    ),
    steps: Annotated[
        int | None, typer.Option(help="Fewer training steps than the default, to try it out.")
    ] = None,
    questions: Annotated[int, typer.Option(help="Questions of each of the five test sets.")] = 1000,
    overwrite: options.Overwrite = False,
    summary: Annotated[
        Path | None,
        typer.Option(help="Run nothing: print the tables of a folder of seed-N.json files."),
    ] = None,
) -> None:
    """Train three methods on generated problems, compare them."""
    if summary is not None:
        from codi.quickstart.report import summary as summarise

        typer.echo(summarise(summary))
        return
    if questions < 1:
        raise UsageError(f"--questions must be at least 1, got {questions}.")

    from codi.quickstart.run import run_quickstart

    run_quickstart(output=output, seed=seed, steps=steps, questions=questions, overwrite=overwrite)


def _print_recipes() -> None:
    from codi.training.recipes import recipe_names, recipe_text

    rows = []
    for name in recipe_names():
        comments = [line for line in recipe_text(name).splitlines() if line.startswith("#")]
        rows.append((name, comments[0].lstrip("# ") if comments else ""))
    print_table("Recipes", ("name", "what it trains"), rows)
