"""The figures of a table: our accuracies, and the validation curves of its runs."""

from __future__ import annotations

from math import nan
from pathlib import Path
from typing import TYPE_CHECKING

from codi.evaluation.statistics import mean_std
from codi.evaluation.system_colours import COLOURS, colours_of
from codi.reproduce.curves import mean_curve, start_of
from codi.reproduce.table_report import Results, accuracies, sets_of
from codi.reproduce.tables import VARIANTS, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

START_COLOUR = "#b8bec6"
Points = list[tuple[float, float]]


def draw(table: Table, found: Results, file: Path) -> None:
    """Accuracy against the number of latents, or bars for every set. Writes a PNG."""
    figure, axis = _begun(8, 3.8)
    if table.kind == "curve":
        against_latents(axis, table, found)
    else:
        bars(axis, table, found)
    axis.legend(frameon=False, fontsize=8, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    _written(figure, axis, file)


def against_latents(axis: Axes, table: Table, found: Results) -> None:
    """A line for CODI and one for Coconut; an error bar where there are several seeds."""
    [name] = sets_of(table, "small")
    for family, marker in (("CODI", "o"), ("Coconut", "s")):
        points = sorted(
            (x, *mean_std(values))
            for variant, x in table.x.items()
            if VARIANTS[variant].title.startswith(family)
            and (values := accuracies(table, found, variant, name))
        )
        if points:
            axis.errorbar(
                [x for x, _, _ in points], [100 * mean for _, mean, _ in points],
                yerr=[nan if deviation is None else 100 * deviation for _, _, deviation in points],
                marker=marker, capsize=2, label=family, color=COLOURS[family],
            )  # fmt: skip
    axis.set_xlabel("continuous thoughts")


def bars(axis: Axes, table: Table, found: Results) -> None:
    """Of each system that has been run a bar for every set; an error bar where it has several seeds."""
    names = sets_of(table, "small")
    systems = _shown(table, found)
    width = 0.8 / len(systems)
    for offset, (variant, (title, colour)) in enumerate(systems.items()):
        each = [mean_std(accuracies(table, found, variant, name)) for name in names]
        heights = [100 * mean for mean, _ in each]
        spread = [100 * deviation for _, deviation in each if deviation is not None] or None
        places = [i + (offset - len(systems) / 2 + 0.5) * width for i in range(len(names))]
        axis.bar(places, heights, width, yerr=spread, capsize=2, label=title, color=colour)
    axis.set_xticks(range(len(names)), [name.replace("_", " ") for name in names])


def _shown(table: Table, found: Results) -> dict[str, tuple[str, str]]:
    """Title and colour of the rows that have been run; what has not takes no colour from the others."""
    titles = [VARIANTS[variant].title_at("small") for variant in table.rows]
    rows = zip(table.rows, titles, colours_of(titles), strict=True)
    return {variant: (title, colour) for variant, title, colour in rows if found.get(variant)}


def draw_curves(table: Table, found: Results, file: Path) -> None:
    """Validation accuracy against updates: of each system every seed, and their mean, after its start.

    Writes a PNG.
    """
    figure, axis = _begun(9, 4.6)
    starts: dict[str, list[Points]] = {}
    for variant, (title, colour) in _shown(table, found).items():
        curves: list[Points] = []
        for seed, result in found[variant].items():
            start, begun = start_of(result)
            own = [(begun + one["step"], 100 * one["accuracy"]) for one in result.get("validation", [])]
            curves.append(own)
            if start and seed in found.get(start, {}):
                before = found[start][seed].get("validation", [])
                starts.setdefault(start, []).append([(one["step"], 100 * one["accuracy"]) for one in before])
        _seeds_and_mean(axis, curves, title, colour)
    for start, curves in starts.items():
        dashed = "--" if start != min(starts) else ":"
        _seeds_and_mean(axis, curves, VARIANTS[start].title, START_COLOUR, dashed)
    axis.set_xlabel("updates, those of the start included")
    axis.set_xlim(left=0)
    axis.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    _written(figure, axis, file, "validation accuracy (%)")


def _seeds_and_mean(axis: Axes, curves: list[Points], title: str, colour: str, dashes: str = "-") -> None:
    for points in curves:
        if points and len(curves) > 1:
            axis.plot(*zip(*points, strict=True), color=colour, linewidth=0.6, alpha=0.45, linestyle=dashes)
    mean = mean_curve(curves)
    if mean:
        axis.plot(*zip(*mean, strict=True), color=colour, linewidth=1.8, linestyle=dashes, label=title)


def _begun(width: float, height: float) -> tuple[Figure, Axes]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    return plt.subplots(figsize=(width, height), layout="constrained")


def _written(figure: Figure, axis: Axes, file: Path, what: str = "accuracy (%)") -> None:
    from matplotlib import pyplot as plt

    axis.set_ylabel(what)
    axis.set_ylim(0, 104)
    axis.set_yticks(range(0, 101, 20))
    axis.spines[["top", "right"]].set_visible(False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=150)
    plt.close(figure)
