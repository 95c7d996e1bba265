"""CODI: chains of thought compressed into continuous space by self-distillation (arXiv 2502.21074).

`import codi` loads nothing heavy: each public name is imported when it is first used, so the command line
answers at once and only what needs the model waits for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from codi.data.example import Example
    from codi.generation.latent_reasoner import LatentReasoner

    __version__: str

__all__ = ["Example", "LatentReasoner", "__version__"]

_HOME = {"Example": "codi.data.example", "LatentReasoner": "codi.generation.latent_reasoner"}


def _installed_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("codi")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "0+uninstalled"


def __getattr__(name: str) -> object:
    """Import a public name on first use (PEP 562) and keep it for the next."""
    if name == "__version__":
        value: object = _installed_version()
    elif name in _HOME:
        value = getattr(import_module(_HOME[name]), name)
    else:
        raise AttributeError(f"module 'codi' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
