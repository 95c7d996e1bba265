"""Whether two runs have the same settings, whenever and wherever each was written down.

What a run's settings do not name is at its default: a setting that the package learnt later voids no finished
run, and neither does one that is written out. A default that changed does: settings are kept whole.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import MISSING, asdict, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

from codi.methods.method import METHODS, method_kinds
from codi.training.recipes import RunConfig

Settings = dict[str, Any]


def comparable(values: Settings) -> Settings:
    """JSON-ready settings; of the checkpoints that a run stands on, variant and seed alone."""
    settings: Settings = json.loads(json.dumps(values))
    for section, key in ((settings, "start"), (settings["method"], "teacher")):
        if section.get(key):
            section[key] = "/".join(Path(section[key]).parts[-2:])
    return settings


def same_settings(one: Settings, other: Settings) -> bool:
    """Whether comparable settings of two runs mean the same."""
    return beyond_defaults(one) == beyond_defaults(other)


def same_basis(one: Any, other: Any) -> bool:
    """Whether two runs stand on the same: base, problems, and the settings and basis of runs by name."""
    if not (isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys()):
        return False
    runs, others = one.get("runs"), other.get("runs")
    if not (isinstance(runs, dict) and isinstance(others, dict) and runs.keys() == others.keys()):
        return False
    return all(one[key] == other[key] for key in one.keys() - {"runs"}) and all(
        isinstance(runs[name], dict)
        and same_settings(runs[name]["configuration"], others[name]["configuration"])
        and same_basis(runs[name]["stands_on"], others[name]["stands_on"])
        for name in runs
    )


def beyond_defaults(settings: Settings) -> Settings:
    """A run's settings without those at their defaults."""
    left = _beyond(settings, RunConfig)
    name = settings["method"].get("name")
    method_kinds(name)  # imports every method
    if name in METHODS:
        left["method"] = {"name": name} | _beyond(settings["method"], METHODS[name])
    return left


def _beyond(values: Settings, kind: type) -> Settings:
    known = _known(kind)
    left: Settings = {}
    for name, value in values.items():
        section, default = known.get(name, (None, None))
        if section is not None and isinstance(value, dict):
            value = _beyond(value, section)
            default = _beyond(default, section) if isinstance(default, dict) else default
        if value != default:
            left[name] = value
    return left


@cache
def _known(kind: type) -> dict[str, tuple[type | None, Any]]:
    """By setting: the dataclass that it is a section of, if any, and its default as JSON has it.

    Where there is no default: a value that equals none.
    """
    hints = get_type_hints(kind)
    known: dict[str, tuple[type | None, Any]] = {}
    for one in fields(kind):
        hint = hints[one.name]
        section = next((part for part in (hint, *get_args(hint)) if is_dataclass(part)), None)
        default = one.default_factory() if one.default_factory is not MISSING else one.default
        if default is not MISSING:
            whole = asdict(default) if is_dataclass(default) and not isinstance(default, type) else default
            default = json.loads(json.dumps(whole))
        known[one.name] = (section if isinstance(section, type) else None, default)
    return known


def digest(values: Any) -> str:
    """SHA-256 of JSON-ready values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
