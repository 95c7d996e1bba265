"""`docs/results.md`: every table of the paper from the result files, and what has not been run.

codi reproduce all --show --page docs/results.md
"""

from __future__ import annotations

from pathlib import Path

from codi.data.chains import SeenChains
from codi.evaluation.system_colours import COLOURS, colours_of
from codi.reproduce.plans import plan
from codi.reproduce.table_report import Results, accuracies, collect, directions, rows, sets_of
from codi.reproduce.tables import TABLES, VARIANTS, Table
from codi.storage import write_whole

HEAD = """# Results

Written by `codi reproduce all --show --page docs/results.md` from the files under `results/`; a test
fails when it is out of date. "paper" is the paper's own figure for the real data and model it names; ours
are of the [small scale](small-scale.md): generated problems of two branches, and a small pretrained base with
LoRA. The absolute numbers cannot agree; what can be compared is the direction. A direction is tested on all
questions of all seeds with McNemar's exact test; the interval of a difference is a paired bootstrap's. An
accuracy of several seeds is given as mean ± standard deviation, of one seed with its 95 % Wilson
interval. n = 1,000 questions a set and seed. In each table all systems have had as many updates, those of the
checkpoint that they start from included; Table A5 alone varies them, as the paper does.

No test problem's equations stand in training. Results of earlier scales stand apart:
[version 1](results-version-1.md) of the word problems, where most did.

The **paper scale** (GPT-2 and LLaMA-1B on GSM8k-Aug) has not been run here: it takes days on an A100 for
each system. The commands below each table would run it.
"""


def render_page(results: Path) -> str:
    """The page as Markdown."""
    parts = [HEAD]
    for table in TABLES.values():
        plans = plan([table.name], "small", results, Path("runs/reproduce"))
        found = collect(plans)
        finished = sum(len(by_seed) for by_seed in found.values())
        parts.append(f"## {table.title}\n")
        if finished:
            headings, made = rows(table, found, "small")
            parts.append(_markdown(headings, made))
            if _drawn(table):
                parts.append(f"![{table.title}]({_picture(table)})\n")
        if finished < len(plans):
            parts.append(f"{finished} of the {len(plans)} runs that this table stands on are finished.\n")
        if finished:
            parts.append(f"{_test_chains(found).capitalize()}.\n")
        lines = [f"- {one.describe()}" for one in directions(table, found, "small") if finished]
        if lines:
            parts.append("\n".join(lines) + "\n")
        if table.note:
            parts.append(f"{table.note}\n")
        parts.append(
            f"Small scale: `codi reproduce {table.name}`. "
            f"Paper scale, not run: `codi reproduce {table.name} --scale paper`.\n"
        )
    return "\n".join(parts)


def _test_chains(found: Results) -> str:
    """How many test chains stand in training, the runs' counts added: each seed and set has its own."""
    counts = [
        one
        for by_seed in found.values()
        for result in by_seed.values()
        for one in result.get("test_chains", {}).values()
    ]
    return SeenChains(sum(one["seen"] for one in counts), sum(one["chains"] for one in counts)).describe()


def write_page(page: Path, results: Path) -> None:
    """Write the page, and its figures beside it."""
    page.parent.mkdir(parents=True, exist_ok=True)
    for table in TABLES.values():
        found = collect(plan([table.name], "small", results, Path("runs/reproduce")))
        if found and _drawn(table):
            file = page.parent / _picture(table)
            file.parent.mkdir(parents=True, exist_ok=True)
            draw(table, found, file)
    write_whole(page, render_page(results))


def _picture(table: Table) -> str:
    return f"results/reproduce/{table.name}.png"


def _drawn(table: Table) -> bool:
    return table.kind == "curve" or table.sets > 1


def _markdown(headings: tuple[str, ...], made: list[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in made)]) + "\n"


def draw(table: Table, found: Results, file: Path) -> None:
    """A curve against the number of latents, or bars for every set. Writes a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    from codi.evaluation.statistics import mean_std

    names = sets_of(table, "small")
    figure, axis = plt.subplots(figsize=(8, 3.8), layout="constrained")
    if table.kind == "curve":
        for family, marker in (("CODI", "o"), ("Coconut", "s")):
            points = sorted(
                (x, 100 * mean_std(values)[0])
                for variant, x in table.x.items()
                if VARIANTS[variant].title.startswith(family)
                and (values := accuracies(table, found, variant, names[0]))
            )
            if points:
                axis.plot(*zip(*points, strict=True), marker=marker, label=family, color=COLOURS[family])
        axis.set_xlabel("continuous thoughts")
    else:
        width = 0.8 / len(table.rows)
        titles = [VARIANTS[variant].title_at("small") for variant in table.rows]
        for offset, (variant, title, colour) in enumerate(
            zip(table.rows, titles, colours_of(titles), strict=True)
        ):
            heights, spread = [], []
            for name in names:
                mean, deviation = mean_std(accuracies(table, found, variant, name) or [0.0])
                heights.append(100 * mean)
                spread.append(100 * (deviation or 0.0))
            places = [i + (offset - len(table.rows) / 2 + 0.5) * width for i in range(len(names))]
            axis.bar(places, heights, width, yerr=spread, capsize=2, label=title, color=colour)
        axis.set_xticks(range(len(names)), [name.replace("_", " ") for name in names])
    axis.set_ylabel("accuracy (%)")
    axis.set_ylim(0, 104)
    axis.set_yticks(range(0, 101, 20))
    axis.legend(frameon=False, fontsize=8, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=150)
    plt.close(figure)
