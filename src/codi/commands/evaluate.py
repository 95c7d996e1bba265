"""`codi eval`: measure a checkpoint on benchmarks and files."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import codi
from codi import processes
from codi.commands import options
from codi.commands.console import (
    check_output,
    load_reasoner,
    note,
    print_table,
    progress,
    write_json,
)
from codi.errors import UsageError

if TYPE_CHECKING:
    from codi.data.sources import Columns
    from codi.evaluation.benchmarks import LoadedBenchmark
    from codi.evaluation.runner import EvaluationResult, Reasoner
    from codi.generation.latent_reasoner import LatentReasoner
    from codi.generation.published_behaviour import PublishedBehaviour

AS_PUBLISHED = -1
"""Stands for the number of a run: not a sampled one, but that of `--published-behaviour`."""


@dataclass
class Found:
    """What has been measured so far: every set's runs, and what `--published-behaviour` found of it."""

    results: dict[str, list[EvaluationResult]] = field(default_factory=dict)
    published: dict[str, EvaluationResult] = field(default_factory=dict)

    def add(self, name: str, run: int, result: EvaluationResult) -> None:
        """Keep the result of a set's run."""
        if run == AS_PUBLISHED:
            self.published[name] = result
        else:
            self.results.setdefault(name, []).append(result)


def evaluate(
    checkpoint: Annotated[str | None, typer.Argument(help="Folder of a trained model, or a hub id.")] = None,
    benchmark: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME|SOURCE", help="What to evaluate on; repeatable. 'list' shows the names."),
    ] = None,
    file: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE|NAME=FILE", help="Local copy of a named benchmark; repeatable."),
    ] = None,
    scorer: Annotated[
        str | None,
        typer.Option(
            help="number, text, letter, math, codi, coconut or icot. Your own: auto, which fits the answers."
        ),
    ] = None,
    mode: options.Mode = None,
    latents: options.Latents = None,
    stop: options.Stop = None,
    batch_size: options.BatchSize = 64,
    limit: Annotated[int | None, typer.Option(help="Only the first so many questions of each set.")] = None,
    temperature: options.Temperature = 0.0,
    top_k: options.TopK = 0,
    top_p: options.TopP = 1.0,
    seed: options.SamplingSeed = 0,
    runs: Annotated[
        int, typer.Option(help="Sampled runs, one seed each; the paper samples CoT-SFT 10 times at 0.1.")
    ] = 1,
    max_new_tokens: options.MaxNewTokens = 256,
    latency_questions: Annotated[int, typer.Option(help="Questions timed at batch 1; 0 skips it.")] = 50,
    predictions: Annotated[
        Path | None, typer.Option(help="Folder for every prediction, one .jsonl per set.")
    ] = None,
    output: options.JsonOutput = None,
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Accept a copy that lacks rows of the benchmark.")
    ] = False,
    question_column: options.QuestionColumn = None,
    answer_column: options.AnswerColumn = None,
    published_behaviour: Annotated[
        bool,
        typer.Option(
            "--published-behaviour",
            help="Answer also as the authors' code does, faults included; they used --batch-size 128.",
        ),
    ] = False,
    published_dtype: Annotated[
        str, typer.Option(help="What --published-behaviour computes in; the authors' code: bfloat16.")
    ] = "bfloat16",
    device: options.Device = None,
    base: options.Base = None,
    dtype: options.Dtype = None,
    graphs: options.Graphs = "auto",
    overwrite: options.Overwrite = False,
    show_list: Annotated[bool, typer.Option("--list", help="List the known benchmarks.")] = False,
) -> None:
    """Measure accuracy and cost on benchmarks or files."""
    if show_list or benchmark == ["list"] or (checkpoint == "list" and not benchmark):
        _print_benchmarks()
        return
    if checkpoint is None or not benchmark:
        raise UsageError("Name a checkpoint and a --benchmark; `codi eval --list` shows the names.")
    check_output(output, overwrite)
    options.check_stop(stop, mode, latents)
    _check_how(runs, temperature, mode, stop, published_behaviour, dtype)
    columns = options.named_columns(question_column, answer_column, None, None)
    loaded = _load(benchmark, file or [], scorer, columns, limit, allow_partial)
    asked = [(name, run) for name in loaded for run in range(runs)]
    if published_behaviour:
        asked = [*asked, *((name, AS_PUBLISHED) for name in loaded)]
    paths = {key: _predictions_file(predictions, *key, runs) for key in asked}
    for path in paths.values():
        check_output(path, overwrite)

    processes.join()
    with processes.together():
        reasoner = load_reasoner(checkpoint, device, base, dtype, stop, graphs)
    if processes.count() > 1:
        from codi.evaluation.spread import require_same

        require_same(reasoner, {name: found[0] for name, found in loaded.items()})
    settings: dict[str, Any] = {
        "mode": mode,
        "latents": latents,
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "batch_size": batch_size,
        "latency_questions": latency_questions,
        "seed": seed,
    }
    found = Found()
    kept = {**settings, **({} if dtype is None else {"dtype": dtype})}
    kept |= {} if graphs == "auto" else {"graphs": graphs}
    asking: dict[int, Reasoner] = dict.fromkeys(range(runs), reasoner)
    if published_behaviour:
        asking[AS_PUBLISHED] = _as_published(reasoner, checkpoint, published_dtype)
        kept = {**kept, "published_dtype": published_dtype}
    try:
        for name, run in asked:
            measured = _measure(
                asking[run], name, loaded[name], paths[name, run], overwrite, _of_run(settings, run)
            )
            found.add(name, run, measured)
            if output is not None and processes.is_first():  # after every run: a failure loses nothing
                write_json(output, _as_dict(checkpoint, reasoner, kept, loaded, found))
    finally:  # also after an interrupt or a full disk: what was measured is shown
        if found.results and processes.is_first():
            _print_results(f"{checkpoint} ({reasoner.method.name})", found)
    processes.leave()


def _check_how(
    runs: int,
    temperature: float,
    mode: str | None,
    stop: str | None,
    published_behaviour: bool,
    dtype: str | None,
) -> None:
    if runs < 1 or (runs > 1 and temperature == 0):
        raise UsageError(
            f"{runs} runs at temperature {temperature} were asked for. Several differ only when they are "
            "sampled: give --temperature 0.1, as the paper does for CoT-SFT, or leave --runs out."
        )
    if published_behaviour and (temperature or stop or mode not in (None, "latent")):
        raise UsageError(
            "--published-behaviour is greedy and latent, and thinks all thoughts. Leave out the temperature, "
            "the mode and --stop, or it."
        )
    if published_behaviour and dtype is not None:
        raise UsageError(
            f"--dtype {dtype} rounds the weights, and --published-behaviour would round them once more, to "
            "what the authors' code computes in. Leave --dtype out (--published-dtype says what the latter "
            "is), or evaluate twice."
        )


def _of_run(settings: dict[str, Any], run: int) -> dict[str, Any]:
    """The settings of one run: a seed of its own; the authors' behaviour is not timed."""
    if run == AS_PUBLISHED:
        return {**settings, "latency_questions": 0}
    return {**settings, "seed": settings["seed"] + run}


def _as_published(reasoner: LatentReasoner, checkpoint: str, dtype: str) -> PublishedBehaviour:
    from codi.generation.published_behaviour import PublishedBehaviour
    from codi.modeling.checkpoint import locate

    return PublishedBehaviour.beside(reasoner, locate(checkpoint), dtype)


def _predictions_file(folder: Path | None, name: str, run: int, runs: int) -> Path | None:
    """Where predictions go: `NAME.jsonl`, or `NAME.run-3.jsonl` of several, or `NAME.published.jsonl`."""
    if folder is None:
        return None
    if run == AS_PUBLISHED:
        return folder / f"{name}.published.jsonl"
    return folder / (f"{name}.jsonl" if runs == 1 else f"{name}.run-{run + 1}.jsonl")


def _measure(
    reasoner: Reasoner,
    name: str,
    loaded: LoadedBenchmark,
    predictions: Path | None,
    overwrite: bool,
    settings: dict[str, Any],
) -> EvaluationResult:
    _, report, benchmark = loaded
    if not processes.is_first():  # it answers its share; process 0 shows, writes and times for all
        predictions, settings = None, {**settings, "latency_questions": 0}
    else:
        note(report.describe())
        if benchmark.scorer_chosen:
            note(f"{name}: scorer {benchmark.scorer}, chosen from the answers (--scorer names another)")
    if processes.count() > 1:
        from codi.evaluation.spread import spread

        reasoner = spread(reasoner)
    with progress(name) as on_progress, processes.speaking_for_itself():
        return codi.evaluate(
            reasoner,
            loaded,
            on_progress=on_progress if processes.is_first() else None,
            predictions=predictions,
            overwrite=overwrite,
            **settings,
        )


def _as_dict(
    checkpoint: str,
    reasoner: LatentReasoner,
    settings: dict[str, Any],
    loaded: dict[str, LoadedBenchmark],
    measured: Found,
) -> dict[str, Any]:
    """What `--output` holds: a set's first run, and where there are several all, their mean and deviation.

    With `--published-behaviour` also what that found, under `published_behaviour`.
    """
    from codi.training.run import versions

    return {
        "checkpoint": checkpoint,
        "method": reasoner.method.as_dict(),
        "device": str(reasoner.model.device),
        "versions": versions(),
        "settings": settings,
        "benchmarks": {
            name: {
                **found[0].as_dict(),
                "scorer_chosen": loaded[name][2].scorer_chosen,
                "data": loaded[name][1].as_dict(),
                **_over_runs(found),
                **(
                    {"published_behaviour": measured.published[name].as_dict()}
                    if name in measured.published
                    else {}
                ),
            }
            for name, found in measured.results.items()
        },
    }


def _over_runs(found: list[EvaluationResult]) -> dict[str, Any]:
    """Accuracy over sampled runs; nothing where there is one run."""
    from codi.evaluation.statistics import mean_std

    if len(found) == 1:
        return {}
    mean, deviation = mean_std([result.accuracy for result in found])
    return {"accuracy_mean": mean, "accuracy_std": deviation, "runs": [result.as_dict() for result in found]}


def _load(
    names: list[str],
    files: list[str],
    scorer: str | None,
    columns: Columns | None,
    limit: int | None,
    allow_partial: bool,
) -> dict[str, LoadedBenchmark]:
    """Every set by name, loaded before any model: a mistyped name must not cost a minute of answering."""
    from codi.evaluation.benchmarks import find_benchmark, load_benchmark

    chosen = {name: find_benchmark(name, scorer=scorer, columns=columns) for name in names}
    copies = _copies(names, files)
    loaded: dict[str, LoadedBenchmark] = {}
    for name, benchmark in chosen.items():
        if benchmark.name in loaded:
            raise UsageError(
                f"Two of the sets are called '{benchmark.name}', and results are kept by name. Rename a file."
            )
        loaded[benchmark.name] = load_benchmark(
            name,
            file=copies.get(name),
            scorer=scorer,
            columns=columns,
            limit=limit,
            allow_partial=allow_partial,
        )
    return loaded


def _copies(names: list[str], files: list[str]) -> dict[str, str]:
    """Benchmark to local copy, from `FILE` (with one benchmark) or `NAME=FILE`."""
    copies: dict[str, str] = {}
    for given in files:
        name, equals, path = given.partition("=")
        if equals and name in names:
            copies[name] = path
        elif len(names) == 1 and len(files) == 1:
            copies[names[0]] = given
        else:
            raise UsageError(
                f"--file '{given}' does not say which benchmark it is a copy of. With several, write "
                f"NAME=FILE, e.g. --file {names[0]}={given}."
            )
    return copies


def _print_results(title: str, measured: Found) -> None:
    results, published = measured.results, measured.published
    headings = ("benchmark", "accuracy %", "95 % interval", "n", "scorer", "mode", "unreadable",
                "thought tokens", "passes", "latency ms (median / p95)")  # fmt: skip
    shown = []
    for name, found in results.items():
        shown.append((name, found[0]))
        shown += [(f"{name}, as published", published[name])] if name in published else []
    rows = []
    for name, result in shown:
        times: dict[str, Any] = result.latency_ms or {}
        low, high = result.ci95
        rows.append(
            (
                name,
                f"{100 * result.accuracy:.1f}",
                f"{100 * low:.1f} – {100 * high:.1f}",
                str(result.n),
                result.scorer,
                result.mode,
                str(result.unreadable),
                f"{result.thought_tokens:.1f}",
                f"{result.sequential_passes:.1f}",
                f"{times['median']:.1f} / {times['p95']:.1f}" if times else "–",
            )
        )
    print_table(title, headings, rows, numbers=True)
    sampled = [(name, _over_runs(found)) for name, found in results.items() if len(found) > 1]
    if sampled:
        print_table(
            f"Over {len(results[sampled[0][0]])} sampled runs (the table above is the first)",
            ("benchmark", "mean accuracy %", "standard deviation"),
            [(n, f"{100 * o['accuracy_mean']:.1f}", f"{100 * o['accuracy_std']:.1f}") for n, o in sampled],
            numbers=True,
        )


def _print_benchmarks() -> None:
    from codi.evaluation.benchmarks import BENCHMARKS

    rows = [
        (b.name, f"{b.rows:,}" if b.rows else "–", b.scorer, b.hub_id or "generated", b.note)
        for b in BENCHMARKS.values()
    ]
    print_table("Benchmarks", ("name", "questions", "scorer", "source", "note"), rows)
