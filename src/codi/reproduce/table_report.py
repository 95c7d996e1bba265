"""From finished runs to a table: our figures beside the paper's, and whether each direction agrees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from codi.evaluation.over_seeds import SeedComparison, compare_over_seeds, holm
from codi.evaluation.statistics import accuracy_interval, mean_std
from codi.reproduce.curves import converged, kept_update
from codi.reproduce.plans import Plan
from codi.reproduce.scales import PAPER_SETS, SCALES
from codi.reproduce.sweep import read_result
from codi.reproduce.tables import VARIANTS, Claim, Table

Results = dict[str, dict[int, dict[str, Any]]]
"""Finished results by variant and seed."""


VERDICTS = {"above": "agrees", "below": "disagrees", "undecided": "undecided"}
"""What a comparison of `better` with `worse` says of the claim."""
NOT_RUN = "not run yet"
COMPARED = ("ours", "points", "95 % interval", "seeds above", "sign p", "p", "Holm's p")
"""Headings of `Direction.cells`, after the claim and its set."""


@dataclass(frozen=True)
class Direction:
    """A claim of the paper against our runs, on one set.

    on: the set, named where the table has several. found: `better` against `worse` over the seeds that both
    have, None while there is none. holm_p: its p among all comparisons of the table.
    """

    claim: Claim
    found: SeedComparison | None = None
    on: str = ""
    holm_p: float | None = None

    @property
    def verdict(self) -> str:
        """`agrees`, `disagrees`, `undecided`: the interval over seeds holds 0, or one seed; `not run yet`."""
        return VERDICTS[self.found.verdict] if self.found else NOT_RUN

    def cells(self) -> tuple[str, ...]:
        """Claim, set where there are several, and what `COMPARED` names."""
        named = (self.claim.text, self.on) if self.on else (self.claim.text,)
        if self.found is None:
            return (*named, NOT_RUN, *["–"] * (len(COMPARED) - 1))
        one = self.found
        interval = "–" if one.ci95 is None else f"{100 * one.ci95[0]:+.1f} to {100 * one.ci95[1]:+.1f}"
        verdict = self.verdict if self.verdict == VERDICTS["undecided"] else f"**{self.verdict}**"
        above = f"{one.above} of {one.seeds}"
        points = f"{100 * one.difference:+.1f}"
        return (*named, verdict, points, interval, above, f"{one.sign_p:.2g}", _p(one.p), _p(self.holm_p))

    def describe(self) -> str:
        """One line: never softened where it disagrees."""
        text = f"{self.claim.text} ({self.on})" if self.on else self.claim.text
        if self.found is None:
            return f"{text}: {NOT_RUN}"
        one = self.found
        verdict = self.verdict.upper() if self.verdict == "disagrees" else self.verdict
        points = f"{100 * one.difference:+.1f} points"
        if one.ci95 is None:
            return f"{text}: {verdict}, one seed ({points})"
        low, high = one.ci95
        return (
            f"{text}: {verdict} ({points} [{100 * low:+.1f}, {100 * high:+.1f}], above in {one.above} of "
            f"{one.seeds} seeds, sign p {one.sign_p:.2g}; p {_p(one.p)}, Holm {_p(self.holm_p)})"
        )


def _p(p: float | None) -> str:
    return "–" if p is None else "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def how_tested(found: Sequence[Direction]) -> str:
    """What the directions of a table were tested by; empty where none was."""
    tested = [one.found for one in found if one.found and one.found.p is not None]
    if not tested:
        return ""
    least = {one.seeds: one.least_sign_p for one in tested}
    limits = ", ".join(f"{least[seeds]:.2g} with {seeds}" for seeds in sorted(least))
    return (
        "Tested over seeds, paired by seed and question: the mean difference, its 95 % interval and p by "
        f"Student's t over the seeds, with the questions' own spread; Holm's p counts the {len(tested)} "
        f"comparisons of this table. The sign test's p cannot be below {limits} seeds."
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
    """Every claim of the table, on each of the claim's sets, or else of the table's, that the paper has."""
    sets = list(zip(PAPER_SETS, sets_of(table, scale), strict=False))
    made = [
        Direction(claim, _compared(claim, results, name), name if table.sets > 1 else "")
        for claim in table.claims
        for papers, name in sets
        if papers in (claim.sets or PAPER_SETS)
    ]
    p_values = {at: one.found.p for at, one in enumerate(made) if one.found and one.found.p is not None}
    for at, p in zip(p_values, holm(list(p_values.values())), strict=True):
        made[at] = replace(made[at], holm_p=p)
    return made


def _compared(claim: Claim, results: Results, name: str) -> SeedComparison | None:
    """On the seeds that both have."""
    one, other = results.get(claim.worse, {}), results.get(claim.better, {})
    seeds = sorted(one.keys() & other.keys())
    if not seeds:
        return None
    return compare_over_seeds(
        [_outcomes(one[seed], name) for seed in seeds], [_outcomes(other[seed], name) for seed in seeds]
    )


def _outcomes(result: dict[str, Any], name: str) -> list[bool]:
    """Right or wrong per question."""
    return [mark == "1" for mark in result["benchmarks"][name]["outcomes"]]


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
    known = [one for by_seed in results.values() for one in by_seed.values() if "train_accuracy" in one]
    if known:
        headings.append("training %")
    distances = _distances(table, results)
    headings += ["distance"] if distances else []
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
        row = [title, _seeds(by_seed)]
        for index, name in enumerate(sets):
            figure = papers_figures[index] if index < len(papers_figures) else None
            row.append(cell(table, results, variant, name))
            if has_paper and index < len(PAPER_SETS):
                row.append("–" if figure is None else f"{figure:.1f}")
        if known:
            shown = [one["train_accuracy"]["accuracy"] for one in by_seed.values() if "train_accuracy" in one]
            row.append(f"{100 * mean_std(shown)[0]:.1f}" if shown else "–")
        if distances:
            row.append(f"{distances[variant]:.3f}" if variant in distances else "–")
        if table.name == "a6":
            row.append(rule.get(variant, "–"))
        row += _costs(by_seed) if table.costs else []
        made.append(tuple(row))
    return tuple(headings), made


def _distances(table: Table, results: Results) -> dict[str, float]:
    """The student's distance from its teacher in the last updates, mean over seeds, of rows that have one;
    empty where fewer than two have: there is nothing to compare."""
    found = {}
    for variant in table.rows:
        ends = [one["validation"][-1] for one in results.get(variant, {}).values() if one.get("validation")]
        shown = [end["distillation"] for end in ends if "distillation" in end]
        if shown:
            found[variant] = mean_std(shown)[0]
    return found if len(found) > 1 else {}


def distance_note(table: Table, results: Results) -> str:
    """What the column of distances is; empty where the table has none."""
    if table.kind == "cost" or not _distances(table, results):
        return ""
    return (
        "distance: between student and teacher at the distilled token, over the layers, in units of the "
        "teacher's spread, in training at the last updates (the term that beta weighs)."
    )


def _seeds(by_seed: dict[int, dict[str, Any]]) -> str:
    """How many runs there are, and how many of them had not come to a plateau: `5 (2†)`."""
    rising = sum(converged(one) is False for one in by_seed.values())
    return f"{len(by_seed)} ({rising}†)" if rising else str(len(by_seed))


def rising_note(table: Table, results: Results) -> str:
    """What the mark in the table means; empty where no run has it."""
    if table.kind == "cost":
        return ""
    runs = [one for variant in table.rows for one in results.get(variant, {}).values()]
    if not any(converged(one) is False for one in runs):
        return ""
    return (
        "† So many of them had not come to a plateau: the last fifth of the updates that they were given "
        "gained a point or more on validation. That is judged on the whole run, whichever checkpoint it kept."
    )


def kept_note(results: Results, scale: str) -> str:
    """Which runs, starts included, kept an earlier checkpoint than their last; empty where none did."""
    said = list[str]()
    for variant, by_seed in results.items():
        earlier: dict[str, list[int]] = {}
        for seed, result in sorted(by_seed.items()):
            kept, given = kept_update(result), int(result["steps"])
            if kept is not None and kept < given:
                earlier.setdefault(f"{kept:,} of {given:,}", []).append(seed)
        shown = (
            f"{updates} (seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))})"
            for updates, seeds in earlier.items()
        )
        if earlier:
            said.append(f"{VARIANTS[variant].title_at(scale)}: {', '.join(shown)}")
    return f"Updates kept, where not all of the run's own: {'; '.join(said)}." if said else ""


COSTS = ["thought tokens", "sequential passes", "median latency, ms", "95th percentile, ms"]


def _timed_seed(by_seed: dict[int, dict[str, Any]]) -> int:
    """The first finished seed whose latency was measured; where none was, the first."""
    return min([seed for seed, result in by_seed.items() if "latency_ms" in result] or by_seed)


def _costs(by_seed: dict[int, dict[str, Any]]) -> list[str]:
    """Of one seed: latencies of several would be of several occasions."""
    if not by_seed:
        return ["–"] * len(COSTS)
    result = by_seed[_timed_seed(by_seed)]
    times = result.get("latency_ms", {})
    shown = (f"{times[key]:.1f}" if key in times else "–" for key in ("median", "p95"))
    return [f"{result['thought_tokens']:.1f}", f"{result['sequential_passes']:.1f}", *shown]


def costs_note(table: Table, results: Results, scale: str) -> str:
    """Which seeds the columns of costs are of, and how latency was measured; nothing where none was."""
    timed = dict[int, list[str]]()
    for name in table.rows if table.kind == "cost" or table.costs else ():
        by_seed = results.get(name, {})
        if by_seed and "latency_ms" in by_seed[seed := _timed_seed(by_seed)]:
            timed.setdefault(seed, []).append(VARIANTS[name].title_at(scale))
    if not timed:
        return ""
    seeds = ", ".join(map(str, sorted(timed)))
    if len(timed) > 1:
        seeds = "; ".join(f"{seed} ({', '.join(titles)})" for seed, titles in sorted(timed.items()))
    return (
        f"Latency: at batch 1, 100 questions one after the other, the model already warm, seed {seeds}. "
        "Thought tokens and passes are the same seed's means over the whole first set."
    )


def _cost_rows(table: Table, results: Results, scale: str) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    made = [(VARIANTS[variant].title_at(scale), *_costs(results.get(variant, {}))) for variant in table.rows]
    return ("", *COSTS), made
