"""Measure two models on the same questions, and ask whether they differ.

    python examples/evaluate_and_compare.py                # two tiny models, trained for a few steps
    python examples/evaluate_and_compare.py runs/quickstart/no-cot-sft runs/quickstart/codi \\
        --benchmark two-branches-reworded --limit 1000
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import codi


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("checkpoints", nargs="*", help="two of them; left out, two are trained")
    parser.add_argument("--benchmark", default="two-branches", help="a benchmark's name, or your own source")
    parser.add_argument("--limit", type=int, default=32, help="questions asked")
    parser.add_argument("--output", type=Path, default=Path("runs/compared"), help="folder for what is made")
    asked = parser.parse_args(arguments)
    methods = ("no-cot-sft", "codi")
    checkpoints = asked.checkpoints or [quickly_trained(method, asked.output) for method in methods]
    if len(checkpoints) != 2:
        parser.error(f"two checkpoints are compared, got {len(checkpoints)}")

    results = []
    for number, checkpoint in enumerate(checkpoints, start=1):
        predictions = asked.output / f"{number}.jsonl"  # `codi compare` reads them as well
        result = codi.evaluate(
            checkpoint, asked.benchmark, limit=asked.limit, latency_questions=2, predictions=predictions,
            overwrite=True,
        )  # fmt: skip
        print(f"{checkpoint}: {result.describe()}")
        results.append(result)

    found = codi.compare(*results)
    low, high = found.difference_ci95
    print(
        f"Second less first: {100 * found.difference:+.1f} points, 95 % between {100 * low:+.1f} and "
        f"{100 * high:+.1f}; McNemar's exact p = {found.mcnemar_p:.2g}."
    )


def quickly_trained(method: str, folder: Path) -> Path:
    """A tiny model after four steps: enough to be asked, not to be right."""
    settings = {
        "method.name": method,
        "start": None,  # the recipe's is a longer training of the teacher
        "data.train": "two-branches?count=64&shorter=20",
        "data.validation": None,
        "training.max_steps": 4,
        "training.eval_strategy": "no",
    }
    return codi.train("quickstart", folder / method, settings, overwrite=True, say=lambda _: None).output


if __name__ == "__main__":
    main()
