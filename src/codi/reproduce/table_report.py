"""From finished runs to a table: our figures beside the paper's, and whether each direction agrees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from codi.evaluation.statistics import accuracy_interval, mcnemar_exact, mean_std, paired_difference
from codi.reproduce.plans import Plan
from codi.reproduce.scales import PAPER_SETS, SCALES
from codi.reproduce.sweep import read_result
from codi.reproduce.tables import VARIANTS, Claim, Table

Results = dict[str, dict[int, dict[str, Any]]]
"""Finished results by variant and seed."""


@dataclass(frozen=True)
class Direction:
    """A claim of the paper against our runs, on one set. agrees: None while runs are missing.

    on: the set, named where the table has several. difference: accuracy of `better` less that of `worse`
    (fraction), over all seeds' questions together, with its paired bootstrap interval and McNemar's exact p.
    """

    claim: Claim
    agrees: bool | None
    difference: float = 0.0
    ci95: tuple[float, float] = (0.0, 0.0)
    p: float = 1.0
    on: str = ""

    def describe(self) -> str:
        """One line: never softened where it disagrees."""
        text = f"{self.claim.text} ({self.on})" if self.on else self.claim.text
        if self.agrees is None:
            return f"{text}: not run yet"
        low, high = self.ci95
        verdict = "agrees" if self.agrees else "DISAGREES"
        sure = "" if self.p < 0.05 else ", not significant"
        p = f"= {self.p:.2g}" if self.p > 1e-300 else "< 1e-300"
        return (
            f"{text}: {verdict}{sure} ({100 * self.difference:+.1f} points "
            f"[{100 * low:+.1f}, {100 * high:+.1f}], McNemar p {p})"
        )


def collect(plans: Sequence[Plan]) -> Results:
    """The finished results among the plans. Raises ValueError where these are of more than one scale."""
    scales = sorted({one.scale for one in plans})
    if len(scales) > 1:
        raise ValueError(f"Runs of several scales stand in no table together: {', '.join(scales)}.")
    found: Results = {}
    for one in plans:
        result, _ = read_result(one)
        if result is not None:
            found.setdefault(one.variant.name, {})[one.seed] = result
    return found


def sets_of(table: Table, scale: str) -> tuple[str, ...]:
    """The sets that the table has columns for."""
    return SCALES[scale].sets[: table.sets]


def accuracies(table: Table, results: Results, variant: str, name: str) -> list[float]:
    """One accuracy per finished seed: of sampled systems the mean of their runs."""
    by_seed = results.get(variant, {})
    found = [by_seed[seed]["benchmarks"][name] for seed in sorted(by_seed)]
    return [one["sampled"]["mean"] if "sampled" in one else one["accuracy"] for one in found]


def cell(table: Table, results: Results, variant: str, name: str) -> str:
    """`93.8 ± 0.7 (3 seeds)`, or of one seed the 95 % interval: `93.8 [92.1, 95.1]`; `–` where not run."""
    values = accuracies(table, results, variant, name)
    if not values:
        return "–"
    mean, deviation = mean_std(values)
    if deviation is not None:
        return f"{100 * mean:.1f} ± {100 * deviation:.1f}"
    n = next(iter(results[variant].values()))["benchmarks"][name]["n"]
    low, high = accuracy_interval(round(mean * n), n)
    return f"{100 * mean:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def directions(table: Table, results: Results, scale: str) -> list[Direction]:
    """Every claim of the table, on each of its sets that stands for one of the paper's."""
    sets = sets_of(table, scale)[: len(PAPER_SETS)]
    return [_direction(claim, results, table, name) for claim in table.claims for name in sets]


def _direction(claim: Claim, results: Results, table: Table, name: str) -> Direction:
    worse, better = _outcomes(results, table, claim, name)
    on = name if table.sets > 1 else ""
    if not worse:
        return Direction(claim, None, on=on)
    difference, low, high = paired_difference(worse, better)
    p = mcnemar_exact(worse, better).p_value
    return Direction(claim, difference > 0, difference, (low, high), p, on)


def _outcomes(results: Results, table: Table, claim: Claim, name: str) -> tuple[list[bool], list[bool]]:
    """Right or wrong per question and seed, of the seeds that both have."""
    one, other = results.get(claim.worse, {}), results.get(claim.better, {})
    worse, better = list[bool](), list[bool]()
    for seed in sorted(one.keys() & other.keys()):
        worse += [mark == "1" for mark in one[seed]["benchmarks"][name]["outcomes"]]
        better += [mark == "1" for mark in other[seed]["benchmarks"][name]["outcomes"]]
    return worse, better


def within_two_deviations(table: Table, results: Results, scale: str) -> dict[str, str]:
    """Table A6's rule: whether each prompt lies within 2 standard deviations of the baseline's mean."""
    name = sets_of(table, scale)[0]
    baseline, *others = table.rows
    values = accuracies(table, results, baseline, name)
    if len(values) < 2:
        return {}
    mean, deviation = mean_std(values)
    assert deviation is not None
    found = {}
    for variant in others:
        own = accuracies(table, results, variant, name)
        if own:
            found[variant] = "yes" if abs(mean_std(own)[0] - mean) <= 2 * deviation else "no"
    return found


def rows(table: Table, results: Results, scale: str) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Headings and rows, ready to print: the paper's figure beside each of ours."""
    if table.kind == "cost":
        return _cost_rows(table, results, scale)
    sets = sets_of(table, scale)
    headings = ["", "seeds"]
    has_paper = any(figure is not None for figures in table.rows.values() for figure in figures)
    for index, name in enumerate(sets):
        headings.append(f"{name} %")
        if has_paper and index < len(PAPER_SETS):
            headings.append(f"paper, {PAPER_SETS[index]} %")
    rule = within_two_deviations(table, results, scale) if table.name == "a6" else {}
    if table.name == "a6":
        headings.append("within ± 2 std")
    headings += COSTS if table.costs else []
    made = []
    for variant, papers_figures in table.rows.items():
        title = VARIANTS[variant].title_at(scale)
        by_seed = results.get(variant, {})
        if any("sampled" in one["benchmarks"][sets[0]] for one in by_seed.values()):
            title += " (mean of ten sampled runs)"
        row = [title, str(len(by_seed))]
        for index, name in enumerate(sets):
            figure = papers_figures[index] if index < len(papers_figures) else None
            row.append(cell(table, results, variant, name))
            if has_paper and index < len(PAPER_SETS):
                row.append("–" if figure is None else f"{figure:.1f}")
        if table.name == "a6":
            row.append(rule.get(variant, "–"))
        row += _costs(by_seed) if table.costs else []
        made.append(tuple(row))
    return tuple(headings), made


COSTS = ["thought tokens", "sequential passes", "median latency, ms", "95th percentile, ms"]


def _costs(by_seed: dict[int, dict[str, Any]]) -> list[str]:
    """Of the first finished seed."""
    if not by_seed:
        return ["–"] * len(COSTS)
    result = by_seed[min(by_seed)]
    times = result.get("latency_ms", {})
    shown = (f"{times[key]:.1f}" if key in times else "–" for key in ("median", "p95"))
    return [f"{result['thought_tokens']:.1f}", f"{result['sequential_passes']:.1f}", *shown]


def _cost_rows(table: Table, results: Results, scale: str) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    made = [(VARIANTS[variant].title_at(scale), *_costs(results.get(variant, {}))) for variant in table.rows]
    return ("", *COSTS), made
