"""The figures of docs/why.md, drawn from the files of `codi why`. Thin lines are seeds, thick ones means."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.figure import Figure

from codi.interpretability.distilled_token import ROLES
from codi.reproduce.why import COCONUT, CODI, LAST_STEP, STARTS, WITHOUT_L1, WITHOUT_PROJECTION

Measured = dict[str, dict[str, Any]]
BLUE, ORANGE, GREY, GREEN = "#1769aa", "#d08a35", "#7a8594", "#2f8f6b"
COLOURS = {CODI: BLUE, WITHOUT_L1: ORANGE, LAST_STEP: GREEN, WITHOUT_PROJECTION: ORANGE}
TITLES = {
    CODI: "CODI", WITHOUT_L1: "without the L1 term", LAST_STEP: "with the last step",
    WITHOUT_PROJECTION: "without the projection", COCONUT: "Coconut",
}  # fmt: skip
RESULTS = ("first branch's result", "second branch's result", "the answer, their join")
DASHES = {"teacher": "-", "student": "--", "warm": "-", "cold": "--"}


def lines(
    axis: Any, series: Iterable[Sequence[tuple[float, float]]], label: str, colour: str, style: str = "-"
) -> None:
    """One thin line for each seed, and the mean where all have the same places."""
    each = [list(one) for one in series]
    for one in each:
        axis.plot(*zip(*one, strict=True), style, color=colour, lw=0.7, alpha=0.45)
    places = [place for place, _ in each[0]]
    means = [fmean(one[at][1] for one in each) for at in range(len(places))]
    axis.plot(places, means, style, marker="o", ms=3, color=colour, lw=1.8, label=label)


def _panels(number: int, height: float = 3.3, rows: int = 1) -> tuple[Figure, Any]:
    figure = Figure(figsize=(11.5, height * rows), layout="constrained")
    axes: Any = figure.subplots(rows, number, squeeze=False)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(lw=0.4, color="#d9e0e7")
        axis.set_axisbelow(True)
    return figure, axes


def _said(axis: Any, title: str, across: str, up: str = "") -> None:
    axis.set_title(title, fontsize=10)
    axis.set_xlabel(across)
    axis.set_ylabel(up)


def draw_gradients(measured: Measured) -> Figure:
    """Cosines with the student's loss, with the unseen problems', and the distance itself."""
    found = measured["gradients"]
    figure, axes = _panels(3)
    pairs = (
        ("student, distillation", "distance", BLUE), ("student, teacher", "teacher's loss", GREY),
    )  # fmt: skip
    unseen = (
        ("distillation, unseen", "distance", BLUE), ("student, unseen", "student's loss", ORANGE),
    )  # fmt: skip
    for axis, chosen in ((axes[0][0], pairs), (axes[0][1], unseen)):
        for pair, name, colour in chosen:
            for start in STARTS:
                series = [
                    [(one["updates"], one["cosines"][pair] or 0.0) for one in run["log"]]
                    for run in found[start]
                ]
                lines(axis, series, f"{name}, {start}", colour, DASHES[start])
        axis.axhline(0, color="black", lw=0.8)
        axis.set_ylim(-1, 1)
        axis.legend(fontsize=7, frameon=False)
    _said(axes[0][0], "with the student's answer loss", "updates", "cosine of the gradients")
    _said(axes[0][1], "with that loss on unseen problems", "updates")
    for term, name, colour in (("distillation", "distance", BLUE), ("teacher", "teacher's loss", GREY)):
        for start in STARTS:
            series = [[(one["updates"], one["losses"][term]) for one in run["log"]] for run in found[start]]
            lines(axes[0][2], series, f"{name}, {start}", colour, DASHES[start])
    axes[0][2].set_yscale("log")
    axes[0][2].legend(fontsize=7, frameon=False)
    _said(axes[0][2], "distance, and the teacher's loss", "updates", "nats, or mean distance")
    return figure


def _probe_panels(axes: Sequence[Any], probes: Sequence[dict[str, Any]], quiet: bool = False) -> None:
    """Accuracy by layer, a panel for each result. quiet: as a background."""
    for step, axis in enumerate(axes, 1):
        of_step = [one for one in probes if one["step"] == step]
        for variant in dict.fromkeys(one["variant"] for one in of_step):
            for role in ROLES:
                mine = [one for one in of_step if (one["variant"], one["role"]) == (variant, role)]
                seeds = sorted({one["seed"] for one in mine})
                series = [
                    [(one["layer"], 100 * one["accuracy"]) for one in mine if one["seed"] == s] for s in seeds
                ]
                colour = GREY if quiet else COLOURS[variant]
                lines(axis, series, f"{TITLES[variant]}: {role}", colour, DASHES[role])
        if not quiet:
            axis.axhline(100 * fmean(one["majority"] for one in of_step), color="black", lw=0.8, ls=":")
            _said(axis, RESULTS[step - 1], "layer (0: embedding)")
            axis.set_xticks(sorted({one["layer"] for one in of_step}))
            axis.set_ylim(0, 103)


def draw_distilled_token(measured: Measured) -> Figure:
    """Probes of the three results, layer by layer, with and without the distance."""
    figure, axes = _panels(3)
    _probe_panels(axes[0], measured["distilled-token"]["probes"])
    axes[0][0].set_ylabel("probe's accuracy (%)")
    axes[0][0].legend(fontsize=7, frameon=False, loc="upper left")
    return figure


def draw_last_step(measured: Measured) -> Figure:
    """The same where the last step is written; the answers after a changed result; where `:` attends."""
    found = measured["last-step"]
    figure, axes = _panels(3, rows=2, height=3.1)
    if "distilled-token" in measured:
        codi = [one for one in measured["distilled-token"]["probes"] if one["variant"] == CODI]
        _probe_panels(axes[0], codi, quiet=True)
    _probe_panels(axes[0], found["probes"])
    axes[0][0].set_ylabel("probe's accuracy (%)")
    axes[0][0].legend(fontsize=7, frameon=False, loc="upper left")
    kinds = (("followed", "followed it"), ("copied", "was it"), ("kept", "as before"))
    for place, variant in enumerate((CODI, LAST_STEP)):
        mine = [one for one in found["changed"] if one["variant"] == variant]
        offset = 0.4 * place - 0.2
        for axis, values in (
            (axes[1][0], [[100 * one[kind] for one in mine] for kind, _ in kinds]),
            (axes[1][1], [[one["attention"][at] for one in mine] for at in range(mine[0]["written"])]),
        ):
            places = [at + offset for at in range(len(values))]
            axis.bar(places, [fmean(v) for v in values], 0.38, color=COLOURS[variant], label=TITLES[variant])
            for at, each in zip(places, values, strict=True):
                axis.plot([at] * len(each), each, "_", color="black", ms=9)
        layers = [list(zip(*one["attention_by_layer"], strict=True))[-1] for one in mine]
        series = [[(at + 1, share) for at, share in enumerate(one)] for one in layers]
        lines(axes[1][2], series, TITLES[variant], COLOURS[variant])
    axes[1][0].set_xticks(range(3), [f"the answer\n{name}" for _, name in kinds], fontsize=8)
    axes[1][0].set_ylim(0, 103)
    axes[1][0].set_ylabel("% of problems")
    axes[1][0].set_title("last result changed: the teacher's answer", fontsize=10)
    axes[1][1].set_xticks(range(3), ["first branch's\nresult", "second\nbranch's", "the answer"], fontsize=8)
    axes[1][1].axhline(fmean(one["uniform"] for one in found["changed"]), color="black", lw=0.8, ls=":")
    axes[1][1].set_ylabel("attention, mean")
    axes[1][1].set_title("teacher's `:` to each written result", fontsize=10)
    _said(axes[1][2], "to the last written result, by layer", "layer", "attention, mean of heads")
    axes[1][2].set_xticks(range(1, 1 + len(found["changed"][0]["attention_by_layer"])))
    axes[1][0].legend(fontsize=7, frameon=False, loc="center right")
    return figure


def draw_forgetting(measured: Measured) -> Figure:
    """Accuracy in every form after every stage; beside it CODI's writing before and after."""
    found = measured["forgetting"]
    figure, axes = _panels(2)
    runs = found["coconut"]
    forms = len(runs[0]["stages"][0]["skills"])
    for form, colour in zip(range(forms), (GREY, BLUE, ORANGE, GREEN, "#b0578d", "#8c6d4f"), strict=False):
        series = [
            [(at, 100 * stage["skills"][form]) for at, stage in enumerate(run["stages"])] for run in runs
        ]
        name = "all steps written" if not form else f"{form} of {forms - 1} steps replaced by thoughts"
        lines(axes[0][0], series, f"form {form}: {name}", colour)
    stages = len(runs[0]["stages"])
    names = ["start", *(f"stage {at}" for at in range(1, stages - 1)), "kept"]
    axes[0][0].set_xticks(range(stages), names)
    _said(axes[0][0], "Coconut, after each stage", "", "accuracy (%)")
    pairs = [
        [(0.0, 100 * run["written_before"]), (1.0, 100 * run["written_after"])]
        for run in found["codi"]
        if run["written_before"] is not None
    ]
    if pairs:
        lines(axes[0][1], pairs, "its teacher: steps written", GREY)
    latent = [100 * run["latent"] for run in found["codi"]]
    axes[0][1].plot([1.0] * len(latent), latent, "o", color=BLUE, ms=5, label="CODI: six thoughts")
    axes[0][1].set_xticks((0, 1), ("start", "end"))
    axes[0][1].set_xlim(-0.3, 1.3)
    _said(axes[0][1], "CODI, which keeps writing while it learns to think", "")
    for axis in axes[0]:
        axis.set_ylim(0, 103)
    # Below: whichever form is learned in whichever stage, a line goes through every corner of the panel.
    axes[0][0].legend(fontsize=7, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    axes[0][1].legend(fontsize=7, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    return figure


def draw_projection(measured: Measured) -> Figure:
    """Curves of learning; norm, nearest token, and likeness of what is fed back."""
    found = measured["projection"]
    figure, axes = _panels(4, height=3.0)
    for variant in (CODI, WITHOUT_PROJECTION):
        curves = [one["points"] for one in found["curves"] if one["variant"] == variant]
        if all(curves):
            points = [[(step, 100 * share) for step, share in curve] for curve in curves]
            lines(axes[0][0], points, TITLES[variant], COLOURS[variant])
        mine = [one for one in found["geometry"] if one["variant"] == variant]
        for axis, key, first in ((axes[0][1], "norm", 1), (axes[0][2], "nearest", 1)):
            series = [[(first + at, v) for at, v in enumerate(one[key])] for one in mine]
            lines(axis, series, TITLES[variant], COLOURS[variant])
        for key, first, style, name in (
            ("before", 2, "-", "the thought before"), ("other_question", 1, "--", "another question's"),
        ):  # fmt: skip
            series = [[(first + at, v) for at, v in enumerate(one[key])] for one in mine if one[key]]
            if series:
                label = f"{TITLES[variant]}: {name}"
                lines(axes[0][3], series, label, COLOURS[variant], style)
    axes[0][0].set_ylim(0, 103)
    _said(axes[0][0], "learning", "updates", "accuracy, validation (%)")
    axes[0][1].axhline(1, color="black", lw=0.8, ls=":")
    axes[0][1].set_ylim(bottom=0)
    _said(axes[0][1], "norm (a token: 1)", "thought")
    for key, style in (("tokens_nearest", ":"), ("random_nearest", "-.")):
        level = fmean(one[key] for one in found["geometry"])
        axes[0][2].axhline(level, color="black", lw=0.8, ls=style)
    axes[0][2].set_ylim(0, 1)
    _said(axes[0][2], "cosine to the nearest token", "thought")
    axes[0][3].set_ylim(-1, 1.03)
    _said(axes[0][3], "cosine to other thoughts", "thought")
    for axis in (axes[0][0], axes[0][3]):
        axis.legend(fontsize=6.5, frameon=False)
    return figure


DRAWN: dict[str, Callable[[Measured], Figure]] = {
    "gradients": draw_gradients, "distilled-token": draw_distilled_token, "last-step": draw_last_step,
    "forgetting": draw_forgetting, "projection": draw_projection,
}  # fmt: skip


def save_figures(measured: Measured, output: Path) -> None:
    """Draw what was measured, as PNG beside the files."""
    for name in measured:
        DRAWN[name](measured).savefig(output / f"{name}.png", dpi=130, metadata={"Software": None})
