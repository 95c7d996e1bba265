"""Problems that an untrained model answers rightly: its own numbers are the gold answers."""

from __future__ import annotations

from dataclasses import replace

from codi.data.example import Example


def ending_in(example: Example, answer: str) -> Example:
    """The same problem with another answer, which its last step gives: `<<16+4=20>>` after a 16."""
    *before, _ = example.steps
    value, last = int(answer), int(before[-1].strip("<>").partition("=")[2]) if before else 0
    sign = "+" if value >= last else "-"
    return replace(
        example, answer=answer, steps=(*before, f"<<{last}{sign}{abs(value - last)}={value}>>")
    )  # fmt: skip
