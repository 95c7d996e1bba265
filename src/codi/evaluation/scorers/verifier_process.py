"""math-verify in a process of its own: JSON lines in, JSON lines out. Started by `verifier.Verifier`.

    [gold]           ->  whether it can be read, and equals itself
    [gold, value]    ->  whether the two are the same

An expression can take for ever to simplify, and math-verify stops itself with a signal, which only the main
thread of a process gets. A process can be ended from any thread. Nothing of this package is imported here.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from functools import lru_cache
from typing import Any

MEMORY = 4 * 1024**3
"""Bytes that it may take: 10^(10^10) written out would take all there is."""


@lru_cache(maxsize=4096)
def read(text: str) -> list[Any]:
    """The expressions that `text` stands for, as sympy has them. Empty where it is none."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    marked = text.count("$") > 1 or re.search(r"\\boxed|\\\(|\\\[", text) is not None
    found: list[Any] = parse(
        text if marked else f"${text}$",
        extraction_config=[LatexExtractionConfig(), *([ExprExtractionConfig()] if marked else [])],
        fallback_mode="no_fallback",
        parsing_timeout=None,
    )
    return found


def answer(asked: list[str]) -> bool:
    """Whether a gold can be read (one text), or a value equals it (two)."""
    from math_verify import verify

    gold, value = read(asked[0]), read(asked[-1])
    return bool(gold and value) and verify(gold, value, timeout_seconds=None)


def main() -> None:
    """Answer one line at a time until the input ends."""
    logging.disable(logging.CRITICAL)  # math-verify warns that it does not stop itself: the caller does
    answers = sys.stdout
    sys.stdout = sys.stderr  # nothing else may stand between the answers
    if sys.platform != "win32":
        import resource

        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        most = MEMORY if hard == resource.RLIM_INFINITY else min(MEMORY, hard)
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    read("1")  # imports sympy, which takes a second
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        try:
            same = answer(json.loads(line))
        except (ArithmeticError, MemoryError, RecursionError):
            same = False  # an expression that cannot be computed with equals nothing
        print(json.dumps(same), file=answers, flush=True)


if __name__ == "__main__":
    main()
