"""`codi data cache`: the tokenised training sets that are kept between runs."""

from __future__ import annotations

import shutil
from datetime import datetime
from typing import Annotated

import typer

from codi.commands.console import print_table
from codi.errors import UsageError


def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Delete them all.")] = False,
) -> None:
    """List the tokenised sets kept on disk (CODI_CACHE), or delete them; a run makes anew what it needs."""
    from codi.training.token_cache import folder_of_sets, kept_sets

    sets = kept_sets()
    if not sets:
        typer.echo(f"No tokenised set is kept in '{folder_of_sets()}'.")
        return
    if clear:
        try:
            for one in sets:
                shutil.rmtree(one.folder)
        except OSError as error:
            raise UsageError(f"'{one.folder}' could not be deleted: {error.strerror or error}.") from error
        typer.echo(f"{len(sets)} deleted from '{folder_of_sets()}'.")
        return
    print_table(
        f"Kept in {folder_of_sets()}",
        ("set", "made from", "rows", "MB", "written"),
        [
            (
                one.folder.name,
                one.source,
                f"{one.rows:,}",
                f"{one.size / 1e6:.1f}",
                datetime.fromtimestamp(one.written).strftime("%Y-%m-%d %H:%M"),
            )
            for one in sets
        ],
    )
