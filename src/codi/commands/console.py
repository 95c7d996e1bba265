"""What commands print and write: errors, tables, progress, JSON; and the reasoner they load."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from codi.errors import UsageError
from codi.storage import write_whole

if TYPE_CHECKING:
    import torch

    from codi.generation.latent_reasoner import LatentReasoner

_TABLE_WIDTH = 120
"""Columns of a table that goes into a file or a pipe, where no terminal says how wide it is."""


def quiet_libraries() -> None:
    """Keep the bars and advice of other libraries off the terminal. Must run before they are imported."""
    for name, value in {
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", module=r"(peft|transformers)\.")


def complain(message: str) -> None:
    """One error message on the error stream."""
    typer.echo(f"error: {message}", err=True)


def note(message: str) -> None:
    """A remark on the error stream, so that output can be piped."""
    typer.echo(message, err=True)


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: bool = False
) -> None:
    """A table on the output. `numbers`: all columns after the first hold numbers and are set to the right."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        console = Console(width=_TABLE_WIDTH)
    table = Table(title=Text(title), title_justify="left")
    for index, name in enumerate(columns):
        justify: Literal["left", "right"] = "right" if numbers and index else "left"
        table.add_column(Text(name), justify=justify, no_wrap=index == 0, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)


@contextmanager
def progress(label: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on the error stream where that is a terminal; yields what is called with (done, in all)."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(label.replace("[", r"\["), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def check_output(path: Path | None, overwrite: bool) -> None:
    """Raise UsageError when an output file is there and may not be replaced, or can never be made."""
    if path is None:
        return
    if path.exists() and not overwrite:
        raise UsageError(
            f"The output '{path}' already exists. Choose another, move it away, or give --overwrite."
        )
    blocking = next((parent for parent in path.parents if parent.exists() and not parent.is_dir()), None)
    if blocking is not None:
        raise UsageError(f"The output '{path}' needs a folder where the file '{blocking}' is.")


def check_figure(path: Path | None, overwrite: bool) -> None:
    """`check_output` of a figure, which must be of a kind that can be drawn. Raises UsageError."""
    check_output(path, overwrite)
    if path is not None and path.suffix not in (".png", ".pdf", ".svg"):
        raise UsageError(f"--figure '{path}' must end in .png, .pdf or .svg.")


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write JSON whole or not at all. Raises DataError when the disk refuses."""
    write_whole(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def load_reasoner(
    checkpoint: str,
    device: str | None = None,
    base: str | None = None,
    dtype: str | None = None,
    stop: str | None = None,
    graphs: str = "auto",
) -> LatentReasoner:
    """The checkpoint as a reasoner on `device`, its weights held in `dtype`.

    stop: a rule to end its thinking by, with its threshold; graphs: whether CUDA graphs are used.

    Raises:
        UsageError: the device or the type does not exist, the model cannot end its thinking so, or graphs
            were insisted on without CUDA.
        CheckpointError: no such checkpoint, or one that does not fit what it recorded.
    """
    from transformers.utils import logging

    from codi.generation.latent_reasoner import LatentReasoner

    # Again, for a process that had transformers imported already.
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    reasoner = LatentReasoner.from_pretrained(
        checkpoint, device=find_device(device), base=base, dtype=dtype, graphs=graphs
    )
    return reasoner if stop is None else reasoner.stopping(stop)


def find_device(name: str | None) -> torch.device | None:
    """The device called `name`, tried out; None for None. Raises UsageError when it cannot be used."""
    if name is None:
        return None
    import torch

    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"The device '{name}' cannot be used: {reason} Choose another, e.g. --device cpu."
        ) from error
    return device
