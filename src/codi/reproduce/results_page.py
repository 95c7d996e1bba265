"""`docs/results.md`: every table of the paper from the result files, and what has not been run.

codi reproduce all --show --page docs/results.md
"""

from __future__ import annotations

from pathlib import Path

from codi.data.chains import SeenChains
from codi.reproduce.plans import plan
from codi.reproduce.table_figures import draw, draw_curves
from codi.reproduce.table_report import (
    COMPARED,
    NOT_RUN,
    VERDICTS,
    Direction,
    Results,
    collect,
    costs_note,
    directions,
    distance_note,
    how_tested,
    kept_note,
    rising_note,
    rows,
)
from codi.reproduce.tables import TABLES, Table
from codi.storage import write_whole

HEAD = """# Results

Written by `codi reproduce all --show --page docs/results.md` from the files under `results/`; a test
fails when it is out of date. "paper" is the paper's own figure for the real data and model it names; ours
are of the [small scale](small-scale.md): generated problems of two branches, and a small pretrained base with
LoRA. The absolute numbers cannot agree; what can be compared is the direction.

A direction is tested **over seeds**: the same seeds and questions for both systems, and the question is
whether the next training would come out the same way. It agrees or disagrees where the 95 % interval of the
mean difference leaves out 0, and is undecided where it does not, or where there is one seed. McNemar's test
would only tell two checkpoints apart (`codi compare`).

An accuracy of several seeds is given as mean ± standard deviation, of one seed with its 95 % Wilson
interval; n = 1,000 questions a set and seed. "training" is the accuracy on 250 of the training problems. All
seeds share one base, one training set of 2,000 problems and one test set of each kind: a seed varies how what
is added to the base begins, the order of the problems, and what is drawn while training.

In each table all systems were *given* as many updates, those of the checkpoint that they start from
included, those of a static teacher not, but for Table 2's two shorter students; Table A5 alone varies them,
as the paper does. Each run keeps the checkpoint that was best on validation, of equals the first, and what
starts from a run starts from that one; a method that trains in stages, such as Coconut, chooses among those
of its last stage. Where that is not the run's last checkpoint, a line under the table says after how many
updates it was. [How the settings were chosen](small-scale.md#how-it-was-chosen): on seeds that stand in no
table and on validation problems, or in an earlier search on problems of its own. A grid of learning rates
for the systems of Figure 3 was run with one seed, after the first results (CoT-SFT at two of the three); no
setting was changed for it. The systems after CODI are not tuned.

Results of earlier scales stand apart: [version 1](results-version-1.md) of the word problems, where most
test chains stood in training. The **paper scale** (GPT-2 and LLaMA-1B on GSM8k-Aug) has not been run here: it
takes days on an A100 for each system (`--scale paper`).
"""


def render_page(results: Path) -> str:
    """The page as Markdown: what the directions came to, the tables with runs, and those without."""
    sections, waiting = list[str](), list[str]()
    papers, later = list[Direction](), list[Direction]()
    for table in TABLES.values():
        found = _results_of(table, results)
        tested = directions(table, found, "small")
        (later if table.later else papers).extend(tested)
        if any(variant in found for variant in table.rows):
            sections.append(_section(table, found, tested, results))
        else:
            waiting.append(f"- {table.title}: `codi reproduce {table.name}`")
    parts = [HEAD, _summary(papers, later), *sections]
    if waiting:
        parts.append("## Not run yet\n\n" + "\n".join(waiting) + "\n")
    return "\n".join(parts)


def _results_of(table: Table, results: Path) -> Results:
    return collect(plan([table.name], "small", results, Path("runs/reproduce")))


def _summary(papers: list[Direction], later: list[Direction]) -> str:
    """papers, later: the directions of the CODI paper's own tables, and of the papers after it."""
    return (
        f"Of the paper's {len(papers)} directions, each on each of its table's sets, {_came_to(papers)}\n\n"
        f"Of the later papers' {len(later)} directions, on the set that stands for GSM8k, {_came_to(later)}\n"
    )


def _came_to(every: list[Direction]) -> str:
    verdicts = [one.verdict for one in every]
    agree, disagree, undecided = (verdicts.count(verdict) for verdict in VERDICTS.values())
    decided = [one for one in every if one.verdict in (VERDICTS["above"], VERDICTS["below"])]
    sure = sum(one.holm_p is not None and one.holm_p < 0.05 for one in decided)
    return (
        f"**{agree} agree, {disagree} disagree, {undecided} are undecided** and {verdicts.count(NOT_RUN)} "
        f"have not been run. Of the {len(decided)} decided ones {sure} stay below p = 0.05 when all "
        "comparisons of their table are counted (Holm)."
    )


def _section(table: Table, found: Results, tested: list[Direction], results: Path) -> str:
    parts = [f"## {table.title}\n", _markdown(*rows(table, found, "small"))]
    plans = plan([table.name], "small", results, Path("runs/reproduce"))
    finished = sum(len(by_seed) for by_seed in found.values())
    if finished < len(plans):
        parts.append(f"{finished} of the {len(plans)} runs that this table stands on are finished.\n")
    about_runs = (
        rising_note(table, found),
        kept_note(found, "small"),
        distance_note(table, found),
        costs_note(table, found, "small"),
    )
    parts += [f"{note}\n" for note in about_runs if note]
    pictures = [(_picture(table), table.title)] if _drawn(table, found) else []
    if _has_curves(table, found):
        pictures.append((_picture(table, "-curves"), "Validation accuracy against updates"))
    parts += [f"![{title}]({file})\n" for file, title in pictures]
    if tested:
        whose = "a later paper's direction" if table.later else "the paper's direction"
        headings = (whose, *(("set",) if table.sets > 1 else ()), *COMPARED)
        parts.append(_markdown(headings, [one.cells() for one in tested]))
    notes = (how_tested(tested), table.note, f"{_test_chains(found).capitalize()}.")
    parts += [f"{note}\n" for note in notes if note]
    parts.append(f"`codi reproduce {table.name}`\n")
    return "\n".join(parts)


def _test_chains(found: Results) -> str:
    """How many chains of the test sets stand in training: each set's once, as the runs all have the same.

    Where runs were trained on other problems, those that show most of a set count for it.
    """
    worst: dict[str, SeenChains] = {}
    for by_seed in found.values():
        for result in by_seed.values():
            for name, counted in result.get("test_chains", {}).items():
                one = SeenChains(**counted)
                worst[name] = max(worst.get(name, one), one, key=lambda known: known.seen)
    counts = worst.values()
    return SeenChains(sum(one.seen for one in counts), sum(one.chains for one in counts)).describe()


def write_page(page: Path, results: Path) -> None:
    """Write the page, and its figures beside it."""
    page.parent.mkdir(parents=True, exist_ok=True)
    for table in TABLES.values():
        found = _results_of(table, results)
        if _drawn(table, found):
            draw(table, found, page.parent / _picture(table))
        if _has_curves(table, found):
            draw_curves(table, found, page.parent / _picture(table, "-curves"))
    write_whole(page, render_page(results))


def _picture(table: Table, which: str = "") -> str:
    return f"results/reproduce/{table.name}{which}.png"


def _drawn(table: Table, found: Results) -> bool:
    """Whether there is something to draw: a curve takes two places at least."""
    finished = [variant for variant in table.rows if found.get(variant)]
    if table.kind == "curve":
        return len({table.x[variant] for variant in finished}) > 1
    return table.sets > 1 and bool(finished)


def _has_curves(table: Table, found: Results) -> bool:
    return table.kind != "cost" and any(
        one.get("validation") for variant in table.rows for one in found.get(variant, {}).values()
    )


def _markdown(headings: tuple[str, ...], made: list[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in made)]) + "\n"
