"""CODI: chains of thought compressed into continuous space by self-distillation (arXiv 2502.21074).

    train           a recipe, with settings over it: `codi train`
    load_examples   of any source: `codi data`
    evaluate        a checkpoint on a benchmark or on what is yours: `codi eval`
    compare         two results on the same questions: `codi compare`
    probe           what the thoughts say and do: `codi probe`
    LatentReasoner  a trained model that answers;  Example, Columns: a problem, and where it stands in a row

`import codi` loads nothing heavy: each public name is imported when it is first used, so the command line
answers at once and only what needs the model waits for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from codi.version import installed_version

if TYPE_CHECKING:
    from codi.data.columns import Columns
    from codi.data.example import Example
    from codi.data.sources import load_examples
    from codi.evaluation.comparison import compare
    from codi.evaluation.runner import evaluate
    from codi.generation.latent_reasoner import LatentReasoner
    from codi.interpretability.report import probe
    from codi.training.run import train

    __version__: str

__all__ = [
    "Columns",
    "Example",
    "LatentReasoner",
    "__version__",
    "compare",
    "evaluate",
    "load_examples",
    "probe",
    "train",
]

_HOME = {
    "Columns": "codi.data.columns",
    "Example": "codi.data.example",
    "LatentReasoner": "codi.generation.latent_reasoner",
    "compare": "codi.evaluation.comparison",
    "evaluate": "codi.evaluation.runner",
    "load_examples": "codi.data.sources",
    "probe": "codi.interpretability.report",
    "train": "codi.training.run",
}


def __getattr__(name: str) -> object:
    """Import a public name on first use (PEP 562) and keep it for the next."""
    if name == "__version__":
        value: object = installed_version()
    elif name in _HOME:
        value = getattr(import_module(_HOME[name]), name)
    else:
        raise AttributeError(f"module 'codi' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
