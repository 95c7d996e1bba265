"""The tables of docs/thoughts.md are those of the two reports beside it, which `codi probe` wrote."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"
REPORTS = ("report.json", "beta-1.json")
WITH_SHORTCUTS = ("report.json",)


def benchmark(name: str) -> dict[str, Any]:
    """The statistics of a report."""
    found: dict[str, Any] = json.loads((DOCS / "thoughts" / name).read_text(encoding="utf-8"))["benchmark"]
    return found


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


def between(low: float, high: float) -> str:
    return f"[{percent(low)}, {percent(high)}]"


def table(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(headings)]
    lines += [["---"] * len(lines[0]), *map(list, rows)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def table3(report: dict[str, Any]) -> str:
    return table(
        ("intermediate results", "n", "all among the top 5, %", "95 % interval", "by chance, %"),
        (
            (str(row["results"]), str(row["n"]), percent(row["share"]), between(*row["ci95"]),
             percent(row["by_chance"]))
            for row in report["table3"]["rows"]
        ),
    )  # fmt: skip


def interventions(report: dict[str, Any]) -> str:
    found = report["interventions"]
    own = ("none", percent(found["accuracy"]), "", "", "")
    rows = (
        (row["name"], percent(row["accuracy"]), f"{100 * row['difference']:+.1f}",
         between(*row["difference_ci95"]), percent(row["changed"]))
        for row in found["rows"]
    )  # fmt: skip
    headings = ("intervention", "accuracy, %", "difference", "95 % interval", "answers that became others, %")
    return table(headings, (own, *rows))


def shortcuts(report: dict[str, Any]) -> str:
    rows = []
    for row in report["shortcuts"]["rows"]:
        found, followed = row["found"], row["followed"]
        owners = (
            ("", "") if followed is None else (percent(followed["thoughts"]), percent(followed["question"]))
        )
        name = row["name"].replace("<bot>", "`<bot>`")  # or Markdown takes it for a tag
        rows.append((name, percent(found["accuracy"]), f"{100 * found['difference']:+.1f}",
                     between(*found["difference_ci95"]), percent(found["changed"]), *owners))  # fmt: skip
    headings = ("in the way", "accuracy, %", "difference", "95 % interval", "answers that became others, %",
                "the thoughts' answer, %", "the question's answer, %")  # fmt: skip
    return table(headings, rows)


def patching(report: dict[str, Any]) -> str:
    """For each number of steps the place where the answer follows the arithmetic most often."""
    rows = []
    for one in report["patching"]:
        best = max(one["cells"], key=lambda cell: cell["followed"])
        rows.append((str(one["steps"]), str(one["problems"]), f"z{best['latent']} for step {best['step']}",
                     percent(best["followed"]), between(*best["ci95"]), str(best["n"]), percent(best["kept"]),
                     str(best["n_same"])))  # fmt: skip
    headings = ("steps", "problems", "best place", "followed, %", "95 % interval", "pairs",
                "kept, same value, %", "pairs")  # fmt: skip
    return table(headings, rows)


def shift(report: dict[str, Any]) -> str:
    return table(
        ("layer", "cosine", "relative norm", "relative distance"),
        (
            (str(row["layer"]), *(f"{row[key]['mean']:.3f}" for key in ("cosine", "norm_ratio", "distance")))
            for row in report["shift"]["layers"]
        ),
    )


def probes(report: dict[str, Any]) -> str:
    """For each step the place where a probe reads its result best."""
    best: dict[int, dict[str, Any]] = {}
    for row in report["probes"]:
        if row["accuracy"] > best.get(row["step"], {"accuracy": -1})["accuracy"]:
            best[row["step"]] = row
    return table(
        ("step", "best place", "read, %", "labels shuffled, %", "most frequent value, %", "held out"),
        (
            (str(step), f"layer {row['layer']} at z{row['thought']}", percent(row["accuracy"]),
             percent(row["control_accuracy"]), percent(row["majority"]), str(row["n_test"]))
            for step, row in best.items()
        ),
    )  # fmt: skip


def test_tables_are_those_of_the_reports() -> None:
    page = (DOCS / "thoughts.md").read_text(encoding="utf-8")
    for name in REPORTS:
        report = benchmark(name)
        tables = [table3(report), interventions(report), patching(report), shift(report), probes(report)]
        if name in WITH_SHORTCUTS:
            tables.append(shortcuts(report))
        for expected in tables:
            assert expected in page, f"{name}:\n{expected}"


def test_what_is_said_of_shortcuts_is_what_the_figures_say() -> None:
    lines = (DOCS / "thoughts.md").read_text(encoding="utf-8").splitlines()
    page = " ".join(" ".join(line.removeprefix(">") for line in lines).split())
    for name in WITH_SHORTCUTS:
        for sentence in benchmark(name)["shortcuts"]["verdict"]:
            assert sentence in page, f"{name}: {sentence}"
