"""The colour of each system, the same in every figure that compares systems."""

from __future__ import annotations

from collections.abc import Iterable

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


def colours_of(titles: Iterable[str]) -> list[str | None]:
    """A colour for each title. Where one is an ablation and no system: None, matplotlib's own, for all."""
    found = [COLOURS.get(title) for title in titles]
    return found if all(found) else [None] * len(found)
