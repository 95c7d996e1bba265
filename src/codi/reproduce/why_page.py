"""`docs/why.md`, from the files that `codi why` writes: every number in it stands in one of them.

codi why --show --page docs/why.md

The template says what is measured and what that does not show. What was found is said by numbers alone, so
the page stays right whichever way they come out.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from statistics import fmean
from typing import Any

from jinja2 import Environment, StrictUndefined

from codi.interpretability.distilled_token import ROLES
from codi.reproduce.why import (
    COCONUT,
    CODI,
    LAST_STEP,
    SOURCE,
    STARTS,
    WITHOUT_L1,
    WITHOUT_PROJECTION,
    read_measured,
)
from codi.reproduce.why_figures import RESULTS, TITLES, Measured
from codi.storage import write_whole

SECTIONS = {
    "gradients": "What the distance pulls towards", "distilled-token": "What the distilled token holds",
    "last-step": "The last step's shortcut", "forgetting": "Forgetting in a curriculum",
    "projection": "What the projection changes",
}  # fmt: skip
Rows = Iterable[Sequence[str]]


def render_page(output: Path, page: Path) -> str:
    """The page as Markdown. output: where the files are; page: where it will stand.

    Raises UsageError where a file is damaged.
    """
    measured = read_measured(output)
    words = {
        "gradients": _gradients, "distilled-token": _distilled_token, "last-step": _last_step,
        "forgetting": _forgetting, "projection": _projection,
    }  # fmt: skip
    text = (resources.files("codi.reproduce") / "why.md.jinja").read_text(encoding="utf-8")
    environment = Environment(
        undefined=StrictUndefined, autoescape=False, trim_blocks=True, lstrip_blocks=True
    )
    contents = _table(
        ("figure", "seeds", "measured in"),
        (
            (
                f"[{SECTIONS[name]}](#{_anchor(SECTIONS[name])})",
                ", ".join(map(str, found["seeds"])),
                f"{found['seconds']:.0f} s",
            )
            for name, found in measured.items()
        ),
    )
    sections = {
        name.replace("-", "_"): {"kept": _kept(measured[name]["runs"])} | say(measured)
        if name in measured
        else None
        for name, say in words.items()
    }
    rendered = environment.from_string(text).render(
        where=Path(os.path.relpath(output, page.parent)).as_posix(),
        problems=next((found["problems"] for found in measured.values()), SOURCE),
        contents=contents if measured else "",
        missing=[name for name in SECTIONS if name not in measured],
        titles={name.replace("-", "_"): title for name, title in SECTIONS.items()},
        **sections,
    )
    return rendered.rstrip() + "\n"


def write_page(page: Path, output: Path) -> None:
    """Write it. Raises UsageError where a file is damaged."""
    write_whole(page, render_page(output, page))


# --- numbers as text ----------------------------------------------------------------------------------------


def _anchor(title: str) -> str:
    return "".join(mark for mark in title.lower().replace(" ", "-") if mark.isalnum() or mark == "-")


def _seeds(seeds: Sequence[int]) -> str:
    """`seed 1`, `seeds 1, 2, 3`."""
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def _seeds_of(runs: Iterable[dict[str, Any]]) -> str:
    return _seeds([run["seed"] for run in runs])


def _mean(values: Iterable[float], form: str = "{:.2f}") -> str:
    """`0.31 [0.28, 0.35]`; a single value alone; a dash where there is none."""
    each = list(values)
    if not each:
        return "-"
    said, low, high = (form.format(value) for value in (fmean(each), min(each), max(each)))
    return said if len(each) == 1 else f"{said} [{low}, {high}]"


def _kept(runs: Sequence[dict[str, Any]]) -> str:
    """Which weights of runs were measured: `CODI after 800, 1,000 of 1,000 updates; ...`, seed by seed."""
    said = []
    for variant in dict.fromkeys(run["variant"] for run in runs):
        mine = _of(runs, variant=variant)
        kept = ", ".join(f"{run['kept_after']:,}" for run in mine)
        said.append(f"{TITLES[variant]} after {kept} of {_span(run['updates'] for run in mine)} updates")
    return "; ".join(said)


def _span(counts: Iterable[int]) -> str:
    """`1,000`, or `800 to 1,000`."""
    each = sorted(set(counts))
    return f"{each[0]:,}" if len(each) == 1 else f"{each[0]:,} to {each[-1]:,}"


def _percent(values: Iterable[float]) -> str:
    each = [100 * value for value in values]
    return f"{_mean(each, '{:.1f}')} %" if each else "-"


def _table(headings: Sequence[str], rows: Rows) -> str:
    lines = [f"| {' | '.join(headings)} |", "|---|" + "---:|" * (len(headings) - 1)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def _of(found: Iterable[dict[str, Any]], **wanted: Any) -> list[dict[str, Any]]:
    """The entries that have these values."""
    return [one for one in found if all(one[key] == value for key, value in wanted.items())]


# --- the sections -------------------------------------------------------------------------------------------


def _gradients(measured: Measured) -> dict[str, str]:
    found = measured["gradients"]
    warm, weights = found["warm"], found["weights"]
    marks = [one["updates"] for one in warm[0]["log"]]
    rows = []
    for start in STARTS:
        logs = [run["log"] for run in found[start]]
        for name, pair in (
            ("distance and answer loss", "student, distillation"),
            ("distance and teacher's loss", "distillation, teacher"),
            ("distance and unseen answer loss", "distillation, unseen"),
            ("answer loss and unseen answer loss", "student, unseen"),
        ):
            halves = ([_cosine(log[: len(log) // 2], pair) for log in logs],
                      [_cosine(log[len(log) // 2 :], pair) for log in logs])  # fmt: skip
            rows.append((f"{start}: {name}", *map(_mean, halves)))
    ends = [
        f"from the {'warm start' if start == 'warm' else 'bare base'} the distance is "
        f"{_mean((run['log'][-1]['losses']['distillation'] for run in found[start]), '{:.3f}')} and the "
        f"teacher's loss {_mean((run['log'][-1]['losses']['teacher'] for run in found[start]), '{:.3f}')}"
        for start in STARTS
    ]
    shares = [
        weights["distillation"] * one["norms"]["distillation"]
        / (weights["student"] * one["norms"]["student"])
        for run in warm for one in run["log"][1:]
    ]  # fmt: skip
    finished = []
    for variant in (CODI, WITHOUT_L1):
        runs = _of(found["end"], variant=variant)
        finished.append(
            (
                TITLES[variant],
                _mean((one["losses"]["distillation"] for one in runs), "{:.3f}"),
                *(_mean((one["losses"][term] for one in runs), "{:.3f}") for term in ("student", "unseen")),
                *(_mean(_cosine([one], pair) for one in runs)
                  for pair in ("distillation, unseen", "student, unseen")),
            )
        )  # fmt: skip
    return {
        "updates": str(marks[-1]),
        "every": str(marks[1] - marks[0]),
        "seeds": _seeds_of(warm),
        "all_seeds": _seeds(found["seeds"]),
        "n": str(found["n"]),
        "cosines": _table(("mean cosine", "first half", "second half"), rows),
        "ends": "; ".join(ends),
        "weight": f"{weights['distillation']:g}",
        "share": _mean(shares),
        "finished": _table(
            ("", "distance", "answer loss", "unseen answer loss", "cosine: distance, unseen",
             "cosine: answer loss, unseen"),
            finished,
        ),
    }  # fmt: skip


def _cosine(log: Sequence[dict[str, Any]], pair: str) -> float:
    """The mean over measurements; a term without a gradient pulls nowhere, which counts as 0."""
    return fmean(one["cosines"][pair] or 0.0 for one in log)


def _probe_table(probes: Sequence[dict[str, Any]], variants: Sequence[str]) -> str:
    rows = []
    for variant in variants:
        for role in ROLES:
            cells = []
            for step in range(1, 1 + len(RESULTS)):
                layer, shares = _best_layer(_of(probes, variant=variant, role=role, step=step), "accuracy")
                cells.append(f"{_percent(shares)}, layer {layer}")
            rows.append((f"{TITLES[variant]}: {role}", *cells))
    commonest, shuffled = [], []
    for step in range(1, 1 + len(RESULTS)):
        commonest.append(_percent([fmean(one["majority"] for one in _of(probes, step=step))]))
        controls = [  # each of the rows above, with its layer chosen in the same way
            fmean(_best_layer(_of(probes, variant=variant, role=role, step=step), "control_accuracy")[1])
            for variant in variants
            for role in ROLES
        ]
        shuffled.append(_percent([fmean(controls)]))
    rows += [("commonest result", *commonest), ("shuffled labels", *shuffled)]
    return _table(("the best layer's probe", *RESULTS), rows)


def _best_layer(probes: Sequence[dict[str, Any]], key: str) -> tuple[int, list[float]]:
    """The layer whose mean over seeds is highest, and its value for each seed."""
    by_layer = {
        layer: [one[key] for one in _of(probes, layer=layer)]
        for layer in sorted({one["layer"] for one in probes})
    }
    best = max(by_layer, key=lambda layer: fmean(by_layer[layer]))
    return best, by_layer[best]


def _accuracy(found: dict[str, Any], variant: str) -> str:
    return _percent(one["accuracy"] for one in _of(found["accuracies"], variant=variant))


def _distilled_token(measured: Measured) -> dict[str, str]:
    found = measured["distilled-token"]
    sizes = sorted({one["n_test"] for one in found["probes"]})
    return {
        "seeds": _seeds(found["seeds"]),
        "n": f"{found['n']:,}",
        "held_out": f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}",
        "probes": _probe_table(found["probes"], (CODI, WITHOUT_L1)),
        "codi": _accuracy(found, CODI),
        "without_l1": _accuracy(found, WITHOUT_L1),
    }


def _last_step(measured: Measured) -> dict[str, str]:
    found = measured["last-step"]
    changed, attended = [], []
    for variant in (CODI, LAST_STEP):
        mine = _of(found["changed"], variant=variant)
        shares = (
            _percent(one[key] for one in mine) for key in ("right", "followed", "copied", "kept")
        )  # fmt: skip
        changed.append((TITLES[variant], *shares))
        looked = (
            _mean(one["attention"][at] for one in mine) if at < mine[0]["written"] else "not written"
            for at in range(len(RESULTS))
        )
        attended.append((TITLES[variant], *looked, f"{fmean(one['uniform'] for one in mine):.3f}"))
    return {
        "seeds": _seeds(found["seeds"]),
        "n": f"{found['changed'][0]['n']:,}",
        "in_grey": " (in grey: CODI's, from the figure above)" if "distilled-token" in measured else "",
        "probes": _probe_table(found["probes"], (LAST_STEP,)),
        "changed": _table(
            ("the teacher's answer", "right, text as it is", "followed the change", "was the changed number",
             "stayed as before"),
            changed,
        ),
        "attended": _table(("attention of `:` to", *RESULTS, "a position, if all were alike"), attended),
        "student": _accuracy(found, LAST_STEP),
    }  # fmt: skip


def _forgetting(measured: Measured) -> dict[str, str]:
    found = measured["forgetting"]
    runs = found["coconut"]
    stages = list(zip(*(run["stages"] for run in runs), strict=True))
    forms = range(len(stages[0][0]["skills"]))
    names = ["the start", *(f"stage {at}" for at in range(1, len(stages) - 1)), "the run, as kept"]
    shares = [[_percent(one["skills"][form] for one in stage) for form in forms] for stage in stages]
    table = [
        (name, _span(one["updates"] for one in stage), *row)
        for name, stage, row in zip(names, stages, shares, strict=True)
    ]
    falls = [
        f"form {k} {shares[k][k]} after {names[k]} and {shares[k + 1][k]} after {names[k + 1]}"
        for k in forms[:-1]
    ]
    last = forms[-1]  # the last stage goes on with the form of the one before it
    known = [run for run in found["codi"] if run["written_before"] is not None]
    asked = {(COCONUT, run["seed"]) for run in runs} | {(CODI, run["seed"]) for run in found["codi"]}
    codi = (
        "CODI's teacher, writing its steps itself, answers "
        f"{_percent(run['written_before'] for run in known)} before and "
        f"{_percent(run['written_after'] for run in known)} after the run; the thoughts then "
        f"answer {_percent(run['latent'] for run in known)} ({_seeds_of(known)})."
    )
    return {
        "coconut_seeds": _seeds_of(runs),
        "kept": _kept([run for run in found["runs"] if (run["variant"], run["seed"]) in asked]),
        "n": str(found["n"]),
        "table": _table(
            ("Coconut after", "updates", "form 0, all written", *(f"form {form}" for form in forms[1:])),
            table,
        ),
        "falls": f"At the end of its own stage and of the next one: {'; '.join(falls)}. Form {last}, the "
        f"last: {shares[-2][last]} after {names[-2]}, {shares[-1][last]} after {names[-1]}.",
        "codi": codi if known else "",
    }


def _projection(measured: Measured) -> dict[str, str]:
    found = measured["projection"]
    rows, curves = [], []
    for variant in (CODI, WITHOUT_PROJECTION):
        mine = _of(found["geometry"], variant=variant)
        each = (
            _mean(fmean(one[key]) for one in mine if one[key])
            for key in ("norm", "nearest", "before", "other_question")
        )
        points = [dict(one["points"]) for one in _of(found["curves"], variant=variant)]
        shared = sorted(set.intersection(*map(set, points)))
        ends = [curve[shared[-1]] for curve in points] if shared else []
        rows.append((TITLES[variant], *each, _percent(ends)))
        said = [f"{_percent(curve[step] for curve in points)} after {step:,}" for step in shared]
        if said:
            curves.append(f"{TITLES[variant]} {', '.join(said)}")
    one = found["geometry"][0]
    return {
        "seeds": _seeds(found["seeds"]),
        "n": f"{found['n']:,}",
        "validation_n": str(found["validation_n"]),
        "table": _table(
            ("mean over thoughts", "norm", "nearest token", "thought before", "another question's",
             "validation, end"),
            rows,
        ),
        "tokens": f"{one['tokens_nearest']:.2f}",
        "random": f"{one['random_nearest']:.2f}",
        "curves": "; ".join(curves),
    }  # fmt: skip
