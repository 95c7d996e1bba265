"""LoRA's adapters multiplied into the base: the same answers, without peft and without the base.

Whatever base and adapters are held in, the product is held in float32: rounded, it would lose most of them.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, cast

import torch
from torch import nn

from codi.errors import UsageError
from codi.modeling.model import ThoughtModel
from codi.modeling.precision import cast_weights


def merged(model: ThoughtModel) -> ThoughtModel:
    """A copy without adapters. `model` stays as it is. Raises UsageError where there is nothing to merge."""
    if model.config.lora is None:
        raise UsageError("This model has no LoRA adapters: all its weights are its own already.")
    alone = copy.deepcopy(model)
    alone.training_parts = nn.ModuleDict()
    cast_weights(alone, torch.float32)
    alone.backbone = cast("Any", alone.backbone).merge_and_unload()
    alone.config = replace(
        model.config, lora=None, dtype="float32", base_dtype=None, base_rounded_to=None, base_fingerprint=None
    )
    return alone
