"""Where an answer ends before its end of text: at the first of the texts that were named as stops."""

from __future__ import annotations

from collections.abc import Sequence


def cut_at_stop(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """The text before the first stop in it, and whether there was one. Empty stops are none."""
    ends = [at for stop in stops if stop and (at := text.find(stop)) >= 0]
    return (text[: min(ends)], True) if ends else (text, False)


def settled(text: str, stops: Sequence[str]) -> str:
    """What of an unfinished text no later token can take back.

    Its end may be the beginning of a stop, or half a character, which decodes to U+FFFD.
    """
    whole = text.rstrip("�")
    held = max((_overlap(whole, stop) for stop in stops), default=0)
    return whole[: len(whole) - held]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of the text that is a beginning of the stop."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
