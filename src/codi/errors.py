"""Every error that `codi` raises on purpose.

    CodiError
    ├── DataError         a file, column, row or hub set that cannot be used
    ├── RecipeError       an unknown recipe, key or value in a configuration
    ├── CheckpointError   a saved model that does not fit what it says it is
    ├── TrainingError     training that cannot start or must not go on
    └── UsageError        a flag or an argument that cannot be used

Each message says what was asked, what was found, and what to do. The command line prints it alone,
without a traceback, and exits with status 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CodiError(Exception):
    """Base of all errors meant for the person at the keyboard."""

    only_here: bool = False
    """One of several processes has it and must print it; any other is printed by process 0 for all."""


class DataError(CodiError):
    """A file, column, row or hub set cannot be used as asked."""


class RecipeError(CodiError):
    """A recipe or a configuration key is unknown or has a value that makes no sense."""


class CheckpointError(CodiError):
    """A checkpoint is incomplete, belongs to another base, or cannot be written."""


class TrainingError(CodiError):
    """Training cannot start, or must stop."""


class UsageError(CodiError):
    """A flag or argument cannot be used."""


class Interrupted(KeyboardInterrupt):
    """Someone ended the work from outside. The message says what was kept; exit_code: of the process."""

    def __init__(self, message: str, exit_code: int = 130) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint naming the known word closest to `name`, or an empty string when none is close."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else ""
