"""What the quickstart shows: a table, a figure, and one solved question with its thoughts decoded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

from codi.data.chains import SeenChains
from codi.errors import UsageError
from codi.evaluation.system_colours import COLOURS
from codi.quickstart.systems import BENCHMARKS, METHODS, SET_TITLES, SETS, TITLES


def draw(results: dict[str, Any], file: Path) -> None:
    """Accuracy on every set with 95 % intervals, and what an answer costs. Writes a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    order = ("cot-sft", "codi", "no-cot-sft")
    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(12, 3.8), width_ratios=(3.6, 1.1, 1.1), layout="constrained"
    )
    width = 0.26
    for offset, method in enumerate(order):
        sets = [results["methods"][method]["benchmarks"][name] for name in SETS]
        heights = [100 * s["accuracy"] for s in sets]
        spread = [
            [100 * (s["accuracy"] - s["ci95"][0]) for s in sets],
            [100 * (s["ci95"][1] - s["accuracy"]) for s in sets],
        ]
        places = [i + (offset - 1) * width for i in range(len(SETS))]
        left.bar(
            places,
            heights,
            width,
            yerr=spread,
            capsize=2,
            color=COLOURS[TITLES[method]],
            label=TITLES[method],
        )
        for place, height, up in zip(places, heights, spread[1], strict=True):
            left.text(place, height + up + 1, f"{height:.0f}", ha="center", va="bottom", fontsize=8)
    left.set_xticks(range(len(SETS)), [SET_TITLES[name] for name in SETS])
    left.set_ylabel("accuracy (%), 95 % interval")
    left.set_ylim(0, 118)
    left.set_yticks(range(0, 101, 20))
    left.legend(loc="upper right", ncols=3, frameon=False, fontsize=9)
    left.set_title(
        f"n = {results['methods']['codi']['benchmarks']['in_domain']['n']} questions per set", fontsize=10
    )
    costs: tuple[tuple[Any, str, Callable[[dict[str, Any]], float]], ...] = (
        (middle, "sequential passes per answer", lambda m: m["sequential_passes"]),
        (right, "median latency (ms), batch 1", lambda m: m["latency_ms"]["median"]),
    )
    for axis, title, cost in costs:
        values = [cost(results["methods"][method]) for method in order]
        bars = axis.bar([TITLES[m] for m in order], values, color=[COLOURS[TITLES[m]] for m in order])
        axis.bar_label(bars, fmt="%.1f", fontsize=8, padding=2)
        axis.set_title(title, fontsize=10)
        axis.set_ylim(0, 1.15 * max(values))
        axis.tick_params(axis="x", labelrotation=20, labelsize=8)
    for axis in (left, middle, right):
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=160)
    plt.close(figure)


def show(results: dict[str, Any], output: Path, say: Callable[[str], None]) -> None:
    """Print the comparison, then one question that CODI solved."""
    from rich.console import Console
    from rich.table import Table

    accuracy = Table(title="Accuracy in %, with its 95 % interval")
    costs = Table(title="What one answer costs (in domain)")
    for table, columns in (
        (accuracy, [SET_TITLES[name] for name in SETS]),
        (costs, ["thought tokens", "passes", "latency, ms", "trained in"]),
    ):
        for column in ("", *columns):
            column = column.replace(" ", "\n") if table is accuracy else column
            table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for method in METHODS:
        row = results["methods"][method]
        sets = (row["benchmarks"][name] for name in SETS)
        accuracy.add_row(
            TITLES[method],
            *(f"{100 * s['accuracy']:.1f} {100 * s['ci95'][0]:.0f}-{100 * s['ci95'][1]:.0f}" for s in sets),
        )
        costs.add_row(
            TITLES[method],
            f"{row['thought_tokens']:.1f}",
            f"{row['sequential_passes']:.1f}",
            f"{row['latency_ms']['median']:.1f}",
            f"{row['train_seconds']:.0f} s",
        )
    Console().print(accuracy, costs)
    ours, written = (
        results["methods"][m]["benchmarks"]["in_domain"]["accuracy"] for m in ("codi", "cot-sft")
    )
    direct = results["methods"]["no-cot-sft"]["benchmarks"]["in_domain"]["accuracy"]
    if written:
        say(
            f"In domain CODI reaches {ours / written:.1%} of CoT-SFT's accuracy, "
            f"No-CoT-SFT {direct / written:.1%}."
        )
    chains = results["test_chains"].values()
    seen, asked = (sum(one[key] for one in chains) for key in ("seen", "chains"))
    say(f"Over all sets, {SeenChains(seen, asked).describe()}.")
    _solved_question(output, say)
    say(f"\nSeed {results['seed']}, {results['wall_seconds']:.0f} s in all. Written to {output}:")
    say(
        "results.json, results.png, predictions, and a checkpoint per system.\nAsk one:  "
        f'codi generate {output / "codi"} --show-thoughts "..."'
    )


def summary(folder: Path) -> str:
    """The README's tables, as Markdown, from every `seed-N.json` (a results.json) in a folder.

    Raises UsageError when there is none.
    """
    files = sorted(folder.glob("seed-*.json"), key=lambda file: int(file.stem.partition("-")[2]))
    if not files:
        raise UsageError(f"There is no seed-N.json in '{folder}'. Copy a quickstart's results.json there.")
    runs = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    order = ("cot-sft", "codi", "no-cot-sft")
    n = runs[0]["methods"]["codi"]["benchmarks"]["in_domain"]["n"]
    columns = [*(SET_TITLES[name] for name in SETS), "thought tokens", "passes", "latency, ms"]
    seeds = ", ".join(str(run["seed"]) for run in runs)
    lines = [
        f"Accuracy in % (n = {n:,} per set) and what an in-domain answer costs at batch 1; mean of the seeds "
        f"{seeds}, in brackets the lowest and the highest:",
        "",
    ]
    lines += ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for method in order:
        found = [run["methods"][method] for run in runs]
        cells = [_over_seeds([100 * one["benchmarks"][name]["accuracy"] for one in found]) for name in SETS]
        for cost in ("thought_tokens", "sequential_passes"):
            cells.append(f"{fmean(one[cost] for one in found):.1f}")
        cells.append(f"{fmean(one['latency_ms']['median'] for one in found):.1f}")
        lines.append(f"| {TITLES[method]} | " + " | ".join(cells) + " |")
    columns = ["seed", *(TITLES[m] for m in order), "CODI / CoT-SFT", "No-CoT-SFT / CoT-SFT",
               "latency, CoT-SFT / CODI", "seconds in all"]  # fmt: skip
    lines += [
        "",
        "In domain, every seed:",
        "",
        "| " + " | ".join(columns) + " |",
        "|---" * len(columns) + "|",
    ]
    for run in runs:
        written, ours, direct = (run["methods"][m] for m in order)
        accuracy = [m["benchmarks"]["in_domain"]["accuracy"] for m in (written, ours, direct)]
        cells = [str(run["seed"]), *(f"{100 * share:.1f}" for share in accuracy)]
        cells += [f"{100 * share / accuracy[0]:.1f} %" for share in accuracy[1:]]
        cells.append(f"{written['latency_ms']['median'] / ours['latency_ms']['median']:.2f}")
        cells.append("resumed" if run.get("resumed") else f"{run['wall_seconds']:.0f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _over_seeds(values: list[float]) -> str:
    """Their mean, with the lowest and the highest where there are several."""
    mean = f"{fmean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.1f} to {max(values):.1f})"


def _solved_question(output: Path, say: Callable[[str], None]) -> None:
    """One question that CODI solved, its thoughts decoded beside the reference steps."""
    from codi.evaluation.benchmarks import format_question, load_benchmark
    from codi.generation.latent_reasoner import LatentReasoner

    lines = (
        (output / "predictions" / "codi" / "in_domain.jsonl")
        .read_text(encoding="utf-8")
        .removesuffix("\n")
        .split("\n")
    )
    right = {row["id"] for row in map(json.loads, lines) if row["correct"]}
    examples, _, _ = load_benchmark(BENCHMARKS["in_domain"], count=len(lines))
    solved = [example for example in examples if example.id in right]
    if not solved:
        say("\nCODI solved none of the questions, so there is no solved one to show.")
        return
    example = next((e for e in solved if len(e.steps) == 3), solved[0])
    reasoner = LatentReasoner.from_pretrained(output / "codi")
    question = format_question(example.question)
    say(f"\n{question}\n  reference steps: {' '.join(example.steps)}")
    for number, tokens in enumerate(reasoner.decode_thoughts(question, top_k=4), start=1):
        say(
            f"  thought z{number} decodes to: " + "  ".join(f"{token} {share:.0%}" for token, share in tokens)
        )
    say(f"  CODI's answer: {reasoner.answer([question])[0].value} (right)")
