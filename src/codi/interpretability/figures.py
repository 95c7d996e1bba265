"""Pictures of thoughts: attention, lenses, interventions, shortcuts, patching, probes and the CoT shift."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from codi.interpretability.benchmark_report import BenchmarkReport
from codi.interpretability.cot_shift import CotShift
from codi.interpretability.figure_text import lettering, say_what_is_missing, shown, undrawable
from codi.interpretability.interventions import InterventionTable
from codi.interpretability.patching import PatchTable
from codi.interpretability.probes import ProbeResult
from codi.interpretability.question_report import QuestionReport
from codi.interpretability.shortcut_table import ShortcutTable

BLUE, ORANGE, GREY = "#1769aa", "#d08a35", "#7a8594"
FORMATS = ("png", "pdf")
COLUMNS, THOUGHTS = 48, 12
"""Most positions, and most thoughts, beside each other; the others go on below."""
MOST_POSITIONS = 10 * COLUMNS
NARROWEST = 6.0
"""Inches that a title needs."""


def attention_map(report: QuestionReport) -> Figure:
    """Which positions each pass attended to; the first token, where attention rests, is left out.

    A long question goes on in further bands; of a very long one the most attended positions are drawn.
    """
    keys, weights = report.keys[1:], [row[1:] for row in report.attention]
    places = _most_attended(weights, always_from=len(keys) - keys[::-1].index("<bot>") - 1)
    bands = _bands(places, COLUMNS)
    height = 0.3 * len(weights) + 1.25
    figure = Figure(figsize=(_width(bands, 0.23, 2.0), height * len(bands) + 0.7), layout="constrained")
    axes: Any = figure.subplots(len(bands), 1, squeeze=False)
    strongest = max(row[place] for row in weights for place in places)
    image = None
    for axis, band in zip(axes[:, 0], bands, strict=True):
        grid = [[row[place] for place in band] for row in weights]
        image = axis.imshow(grid, aspect="auto", cmap="Blues", vmin=0, vmax=strongest)
        names = [keys[place] for place in band]
        axis.set_xticks(
            range(len(band)), [shown(name) for name in names], rotation=90, fontsize=8, **lettering(names)
        )
        axis.set_xlim(-0.5, max(len(each) for each in bands) - 0.5)
        axis.set_yticks(range(len(weights)), report.rows, fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("what the pass made")
    title = "attention of the pass that made each thought"
    if len(places) < len(keys):
        title += f" (the {len(places)} most attended of {len(keys):,} positions)"
    figure.suptitle(title, fontsize=10)
    assert image is not None
    figure.colorbar(image, ax=list(axes[:, 0]), label="weight", pad=0.01, aspect=20 * len(bands))
    say_what_is_missing(figure, [keys[place] for place in places])
    return figure


def lens_grid(report: QuestionReport, tuned: bool = False) -> Figure:
    """What each layer of each thought would say through the LM head: the likeliest token, shaded by share."""
    grids = [thought.tuned if tuned else thought.lens for thought in report.thoughts]
    read = [grid for grid in grids if grid is not None]
    layers = len(read[0])
    bands = _bands(list(range(len(read))), THOUGHTS)
    figure = Figure(
        figsize=(_width(bands, 1.1, 1.8), (0.38 * layers + 0.7) * len(bands) + 0.6), layout="constrained"
    )
    axes: Any = figure.subplots(len(bands), 1, squeeze=False)
    image = None
    for axis, band in zip(axes[:, 0], bands, strict=True):
        shares = [[read[thought][layer][0][1] for thought in band] for layer in range(layers)]
        image = axis.imshow(shares, aspect="auto", cmap="Blues", vmin=0, vmax=1, origin="lower")
        for layer in range(layers):
            for place, thought in enumerate(band):
                token, share = read[thought][layer][0]
                axis.text(
                    place, layer, shown(token, 12), ha="center", va="center", fontsize=8,
                    color="white" if share > 0.6 else "black", **lettering([token]),
                )  # fmt: skip
        axis.set_xlim(-0.5, max(len(each) for each in bands) - 0.5)
        axis.set_xticks(range(len(band)), [report.thoughts[thought].name for thought in band])
        axis.set_yticks(range(layers), ["embedding", *map(str, range(1, layers))])
        axis.set_ylabel("layer")
    figure.suptitle(f"{'tuned' if tuned else 'logit'} lens: the likeliest token", fontsize=10)
    assert image is not None
    figure.colorbar(image, ax=list(axes[:, 0]), label="probability", pad=0.01)
    say_what_is_missing(figure, [layer[0][0] for grid in read for layer in grid])
    return figure


def round_grid(report: QuestionReport) -> Figure:
    """What each thought said before every round that refined them: the likeliest token, shaded by share."""
    rounds = len(report.thoughts[0].rounds)
    bands = _bands(list(range(len(report.thoughts))), THOUGHTS)
    figure = Figure(
        figsize=(_width(bands, 1.1, 1.8), (0.38 * rounds + 0.7) * len(bands) + 0.6), layout="constrained"
    )
    axes: Any = figure.subplots(len(bands), 1, squeeze=False)
    for axis, band in zip(axes[:, 0], bands, strict=True):
        best = [[report.thoughts[place].rounds[number][0] for place in band] for number in range(rounds)]
        shares = [[token.share for token in row] for row in best]
        axis.imshow(shares, aspect="auto", cmap="Blues", vmin=0, vmax=1)
        for number, row in enumerate(best):
            for place, token in enumerate(row):
                axis.text(
                    place, number, shown(token.token, 12), ha="center", va="center", fontsize=8,
                    color="white" if token.share > 0.6 else "black", **lettering([token.token]),
                )  # fmt: skip
        axis.set_xlim(-0.5, max(len(each) for each in bands) - 0.5)
        axis.set_xticks(range(len(band)), [report.thoughts[place].name for place in band], fontsize=8)
        axis.set_yticks(range(rounds), [f"round {number + 1}" for number in range(rounds)], fontsize=8)
    figure.suptitle("what goes into each round: the likeliest token", fontsize=10)
    say_what_is_missing(figure, [each[0].token for thought in report.thoughts for each in thought.rounds])
    return figure


def _most_attended(weights: Sequence[Sequence[float]], always_from: int) -> list[int]:
    """The places to draw, in their order: all, or of the question those that some pass attends to most."""
    strength = [max(row[place] for row in weights) for place in range(always_from)]
    room = max(1, MOST_POSITIONS - (len(weights[0]) - always_from))
    chosen = sorted(range(always_from), key=lambda place: -strength[place])[:room]
    return [*sorted(chosen), *range(always_from, len(weights[0]))]


def _bands(places: list[int], width: int) -> list[list[int]]:
    """The places in rows as even as can be, of at most `width`."""
    rows = -(-len(places) // width)
    even = -(-len(places) // rows)
    return [places[first : first + even] for first in range(0, len(places), even)]


def _width(bands: list[list[int]], each: float, margin: float) -> float:
    """Inches, never too narrow for the title."""
    return max(NARROWEST, each * max(len(band) for band in bands) + margin)


def intervention_bars(table: InterventionTable) -> Figure:
    """Accuracy under every intervention, with 95 % intervals, beside the undisturbed one."""
    names = ["undisturbed", *(row.name for row in table.rows)]
    heights = [100 * table.accuracy, *(100 * row.accuracy for row in table.rows)]
    bounds = [table.ci95, *(row.ci95 for row in table.rows)]
    spread = [
        [max(0.0, height - 100 * low) for height, (low, _) in zip(heights, bounds, strict=True)],
        [max(0.0, 100 * high - height) for height, (_, high) in zip(heights, bounds, strict=True)],
    ]
    figure = Figure(figsize=(7.2, 0.27 * len(names) + 1.1), layout="constrained")
    axis = figure.subplots()
    places = range(len(names))
    axis.barh(places, heights, xerr=spread, color=[ORANGE, *[BLUE] * len(table.rows)], error_kw={"lw": 0.8})
    for place, height, up in zip(places, heights, spread[1], strict=True):
        axis.text(height + up + 1, place, f"{height:.1f}", va="center", fontsize=8)
    axis.set_yticks(places, names, fontsize=8)
    axis.invert_yaxis()
    axis.set_xlim(0, 112)
    axis.set_xticks(range(0, 101, 20))
    axis.set_xlabel("accuracy (%), 95 % interval")
    axis.set_title(f"the same {table.n:,} questions with other thoughts", fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def shortcut_dots(table: ShortcutTable) -> Figure:
    """What everything put in the thoughts' way costs, in points, with paired 95 % intervals."""
    rows = [(row.name, row.found) for row in table.rows if row.found is not None]
    figure = Figure(figsize=(7.2, 0.25 * len(rows) + 1.2), layout="constrained")
    axis = figure.subplots()
    for place, (_, found) in enumerate(rows):
        low, high = (100 * bound for bound in found.difference_ci95)
        colour = GREY if low <= 0 <= high else BLUE
        axis.plot([low, high], [place, place], color=colour, lw=1.6, solid_capstyle="butt")
        axis.plot(100 * found.difference, place, "o", color=colour, ms=4.5)
        axis.annotate(
            f"{100 * found.accuracy:.1f} %", (1.01, place), xycoords=("axes fraction", "data"), va="center",
            fontsize=8, color="#1c2733",
        )  # fmt: skip
    axis.axvline(0, color="black", lw=0.8)
    axis.set_yticks(range(len(rows)), [name for name, _ in rows], fontsize=8, parse_math=False)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.margins(x=0.04)
    axis.set_xlabel("change of the accuracy, in points, 95 % interval (right: the accuracy)")
    axis.set_title(
        f"{table.n:,} questions, {100 * table.accuracy:.1f} % right undisturbed; grey: the interval holds 0",
        fontsize=10,
    )
    axis.grid(axis="x", lw=0.4, color="#d9e0e7")
    axis.set_axisbelow(True)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)
    return figure


def patch_grids(tables: Sequence[PatchTable]) -> Figure:
    """Per number of steps: for how many pairs the answer followed the arithmetic, by step and latent."""
    latents = max(cell.latent for table in tables for cell in table.cells)
    heights = [max(cell.step for cell in table.cells) for table in tables]
    figure = Figure(
        figsize=(max(NARROWEST, 0.62 * latents + 3.0), 0.36 * sum(heights) + 0.85 * len(tables) + 0.5),
        layout="constrained",
    )
    axes: Any = figure.subplots(len(tables), 1, squeeze=False, height_ratios=[h + 0.6 for h in heights])
    for axis, table, height in zip(axes[:, 0], tables, heights, strict=True):
        grid = [[float("nan")] * latents for _ in range(height)]
        for cell in table.cells:
            grid[cell.step - 1][cell.latent - 1] = cell.followed
        axis.imshow(grid, aspect="auto", cmap="Blues", vmin=0, vmax=1)
        for cell in table.cells:
            axis.text(
                cell.latent - 1, cell.step - 1, f"{100 * cell.followed:.0f}", ha="center", va="center",
                fontsize=8, color="white" if cell.followed > 0.6 else "black",
            )  # fmt: skip
        axis.set_xticks(range(latents), [f"z{i + 1}" for i in range(latents)], fontsize=8)
        pairs = {cell.step: cell.n for cell in table.cells}
        axis.set_yticks(
            range(height), [f"s{i} (n={pairs[i]})" if i in pairs else f"s{i}" for i in range(1, height + 1)],
            fontsize=8,
        )  # fmt: skip
        axis.set_title(f"{table.steps} steps ({table.problems} problems)", fontsize=9)
    figure.suptitle("answers that followed another problem's value, in % of n pairs", fontsize=10)
    return figure


def shift_lines(shift: CotShift) -> Figure:
    """Per layer, how near the thoughts' shift comes to the rationale's."""
    layers = [layer.layer for layer in shift.layers]
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axis = figure.subplots()
    for name, colour in (("cosine", BLUE), ("norm_ratio", ORANGE), ("distance", GREY)):
        averages = [getattr(layer, name) for layer in shift.layers]
        axis.plot(layers, [a.mean for a in averages], "o-", color=colour, label=name.replace("_", " "))
        if all(a.low is not None for a in averages):
            axis.fill_between(
                layers, [a.low for a in averages], [a.high for a in averages], color=colour, alpha=0.2
            )
    axis.axhline(1, color="black", lw=0.6, ls=":")
    axis.set_xticks(layers)
    axis.set_xlabel("layer")
    axis.set_title(f"the CoT shift and the thoughts' ({shift.examples:,} problems)", fontsize=10)
    axis.legend(frameon=False, fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def probe_grid(probes: Sequence[ProbeResult]) -> Figure:
    """Per step: accuracy of a linear probe for its result at every thought and layer, less its control's."""
    steps = sorted({probe.step for probe in probes})
    thoughts = max(probe.thought for probe in probes)
    layers = max(probe.layer for probe in probes) + 1
    figure = Figure(
        figsize=(max(NARROWEST, 0.62 * thoughts * len(steps) + 2.6), 0.4 * layers + 1.5), layout="constrained"
    )
    axes: Any = figure.subplots(1, len(steps), squeeze=False, sharey=True)
    image = None
    for axis, step in zip(axes[0], steps, strict=True):
        grid = [[float("nan")] * thoughts for _ in range(layers)]
        for probe in probes:
            if probe.step == step:
                grid[probe.layer][probe.thought - 1] = 100 * (probe.accuracy - probe.control_accuracy)
        image = axis.imshow(grid, aspect="auto", cmap="Blues", vmin=0, vmax=100, origin="lower")
        for layer, row in enumerate(grid):
            for place, gain in enumerate(row):
                axis.text(
                    place, layer, f"{gain:.0f}", ha="center", va="center", fontsize=7,
                    color="white" if gain > 60 else "black",
                )  # fmt: skip
        axis.set_xticks(range(thoughts), [f"z{i + 1}" for i in range(thoughts)], fontsize=8)
        held_out = next(probe.n_test for probe in probes if probe.step == step)
        axis.set_title(f"result of step {step} (n={held_out})", fontsize=9)
    axes[0][0].set_yticks(range(layers), ["emb.", *map(str, range(1, layers))], fontsize=8)
    axes[0][0].set_ylabel("layer")
    figure.suptitle("linear probes: accuracy on n problems above the control's, in points", fontsize=10)
    if image is not None:
        figure.colorbar(image, ax=list(axes[0]), label="points", pad=0.01)
    return figure


def all_figures(
    question: QuestionReport | None, benchmark: BenchmarkReport | None
) -> Iterator[tuple[str, Figure]]:
    """Every figure that these reports give: (name, figure)."""
    if question is not None:
        if question.attention:
            yield "attention", attention_map(question)
        if question.thoughts[0].lens:
            yield "logit-lens", lens_grid(question)
        if question.thoughts[0].rounds:
            yield "rounds", round_grid(question)
        if question.thoughts[0].tuned is not None:
            yield "tuned-lens", lens_grid(question, tuned=True)
    if benchmark is not None:
        if benchmark.interventions is not None:
            yield "interventions", intervention_bars(benchmark.interventions)
        if benchmark.shortcuts is not None and any(row.found for row in benchmark.shortcuts.rows):
            yield "shortcuts", shortcut_dots(benchmark.shortcuts)
        if benchmark.patching:
            yield "patching", patch_grids(benchmark.patching)
        if benchmark.shift is not None:
            yield "cot-shift", shift_lines(benchmark.shift)
        if benchmark.probes:
            yield "probes", probe_grid(benchmark.probes)


def characters_without_a_font(question: QuestionReport | None) -> list[str]:
    """Those that the figures of this report have to draw as □."""
    if question is None:
        return []
    grids = [grid for thought in question.thoughts for grid in (thought.lens, thought.tuned or [])]
    rounds = [each[0].token for thought in question.thoughts for each in thought.rounds]
    return undrawable([*question.keys, *rounds, *(layer[0][0] for grid in grids for layer in grid)])


def as_svg(figure: Figure) -> str:
    """The figure as an <svg> element to stand in an HTML page; the same bytes for the same figure."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "codi"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def save_figures(
    folder: Path, question: QuestionReport | None, benchmark: BenchmarkReport | None
) -> list[Path]:
    """Write every figure as PNG and PDF. Returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, figure in all_figures(question, benchmark):
        for kind in FORMATS:
            metadata: dict[str, Any] = {"CreationDate": None} if kind == "pdf" else {}
            figure.savefig(folder / f"{name}.{kind}", dpi=160, metadata=metadata)
            written.append(folder / f"{name}.{kind}")
    return written
