"""The colour of each system, the same in every figure that compares systems."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import cycle

COLOURS = {
    "CoT-SFT": "#7a8594",
    "CODI": "#1769aa",
    "No-CoT-SFT": "#d08a35",
    "Coconut": "#2f8f6b",
    "iCoT": "#e3b5cd",
    "iCoT, slower removal": "#b0578d",
    "Pause tokens": "#8c6d4f",
    "CODI with a learned stop": "#6fa8d6",
    "PCCoT": "#c0392b",
    "KaVa": "#e88b7d",
    "LOTUS": "#6c4fa3",
    "SIM-CoT": "#1f9aa8",
    "SIM-CoT over Coconut": "#8fd0b4",
}
"""By the system's title."""
OTHERS = (
    "#222222", "#9e9ac8", "#7a1f2b", "#a3b018", "#d4b800", "#e0609a", "#00606b", "#ff8a3d", "#3f51d1",
    "#5c6b00", "#c77dff", "#a8dadc", "#4e342e",
)  # fmt: skip
"""For ablations and settings, in their order in a table. None is a system's."""


def colours_of(titles: Iterable[str]) -> list[str]:
    """A colour for each title of a table: a system's own, and of the others one after another."""
    others = cycle(OTHERS)
    return [COLOURS.get(title) or next(others) for title in titles]
