"""Look at what a model thinks: one question's thoughts, then a whole set's.

    python examples/look_at_thoughts.py                        # a tiny model, trained for a few steps
    python examples/look_at_thoughts.py runs/quickstart/codi --limit 500 --page runs/thoughts.html

How to read it, and what it does not show: docs/thoughts.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import codi

QUESTION = "Tom gets 2. starts 25. Ana completes 20. starts 7. difference?"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", help="a model that thinks; left out, one is trained")
    parser.add_argument("--question", default=QUESTION)
    parser.add_argument("--benchmark", default="two-branches", help="a benchmark's name, or your own source")
    parser.add_argument("--limit", type=int, default=16, help="problems measured over")
    parser.add_argument("--page", type=Path, help="also write all of it as one HTML file")
    parser.add_argument("--output", type=Path, default=Path("runs/looked-at"), help="folder of a trained one")
    asked = parser.parse_args(arguments)
    reasoner = codi.LatentReasoner.from_pretrained(asked.checkpoint or quickly_trained(asked.output))

    found = codi.probe(
        reasoner, asked.question, benchmark=asked.benchmark, parts=("interventions",), limit=asked.limit
    )
    if found.question is not None:
        print(f"{found.question.question}\nanswer: {short(found.question.value)}")
        for thought in found.question.thoughts:
            tokens = "  ".join(f"{token.token} {token.share:.0%}" for token in thought.tokens[:3])
            print(f"  {thought.name}: says {tokens};  silenced, the answer is {short(thought.silenced)}")
    if found.benchmark is not None and found.benchmark.interventions is not None:
        table = found.benchmark.interventions
        print(f"{table.n} problems, {table.accuracy:.1%} right; with every thought replaced by ...")
        for row in table.rows:
            print(f"  {row.name}: {row.accuracy:.1%}, {row.changed:.1%} of the answers changed")
    if asked.page is not None:
        found.save_page(asked.page)
        print(f"written: {asked.page}")


def short(answer: str | None) -> str:
    """An answer on one line: an untrained model does not end its own."""
    return "none" if answer is None else answer[:24]


def quickly_trained(folder: Path) -> Path:
    """A tiny CODI model after four steps: enough to be looked at, not to be right."""
    settings = {
        "start": None,  # the recipe's is a longer training of the teacher
        "data.train": "two-branches?count=64&shorter=20",
        "data.validation": None,
        "training.max_steps": 4,
        "training.eval_strategy": "no",
    }
    return codi.train("quickstart", folder, settings, overwrite=True, say=lambda _: None).output


if __name__ == "__main__":
    main()
