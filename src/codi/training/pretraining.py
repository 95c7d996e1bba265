"""Bases of the package's own: pretrained on a generated world, by a recipe like any other run.

The folder of such a run is a base: a plain causal LM with its tokenizer, and `base.json`, which says what it
was pretrained on.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from codi.errors import UsageError, nearest
from codi.modeling.pretrained import write_identity
from codi.modeling.tokenizers import load_tokenizer
from codi.training.account import TrainingResult
from codi.training.recipes import Settings
from codi.training.run import train

BASES = {"small": "small-base"}
"""The recipe of each base that can be pretrained."""


def pretrain(
    base: str,
    output: str | Path,
    settings: Settings | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    say: Callable[[str], None] = print,
) -> TrainingResult:
    """Pretrain a base from random weights; `output` can then be given as model.base.

    Raises UsageError for a base that there is not, and whatever `train` raises.
    """
    if base not in BASES:
        raise UsageError(f"There is no base '{base}'.{nearest(base, BASES)} Bases: {', '.join(BASES)}.")
    output = Path(output)
    result = train(BASES[base], output, settings, resume=resume, overwrite=overwrite, say=say)
    write_identity(
        output,
        source="two-branches",
        tokenizer=load_tokenizer(str(output)),
        made_by=f"codi pretrain {base} --output FOLDER",
    )
    return result
