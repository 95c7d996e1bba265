"""All there is to see: of a question, of a set, and both as a page, figures or values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from codi.data.example import Example
from codi.errors import UsageError
from codi.evaluation.benchmarks import LoadedBenchmark, load_benchmark
from codi.evaluation.scorers import AUTO, scorer_for
from codi.generation.latent_reasoner import LatentReasoner
from codi.interpretability.benchmark_report import (
    PARTS,
    BenchmarkReport,
    Progress,
    benchmark_report,
    check_parts,
)
from codi.interpretability.lenses import TunedLens
from codi.interpretability.question_report import QuestionReport, question_report
from codi.interpretability.thinking import refuse_without_thoughts
from codi.storage import write_whole
from codi.version import installed_version


@dataclass(frozen=True)
class Report:
    """What `probe` found. question, benchmark: None where not asked for; made_from: how it was made."""

    question: QuestionReport | None
    benchmark: BenchmarkReport | None
    made_from: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready: `made_from`, and `question` and `benchmark` where they were asked for."""
        values: dict[str, Any] = {"made_from": self.made_from}
        if self.question is not None:
            values["question"] = self.question.as_dict()
        if self.benchmark is not None:
            values["benchmark"] = self.benchmark.as_dict()
        return values

    def save_page(self, path: str | Path, title: str = "What the model thinks") -> None:
        """Write one HTML file that needs nothing else."""
        from codi.interpretability.report_page import report_page

        write_whole(Path(path), report_page(title, self.question, self.benchmark, self.made_from))

    def save_figures(self, folder: str | Path) -> None:
        """Write the figures as PNG and PDF."""
        from codi.interpretability.figures import save_figures

        save_figures(Path(folder), self.question, self.benchmark)


def probe(
    reasoner: LatentReasoner | str | Path,
    question: str | None = None,
    *,
    benchmark: str | Path | LoadedBenchmark | Sequence[Example] | None = None,
    parts: Sequence[str] = PARTS,
    limit: int | None = None,
    latents: int | None = None,
    layer: int | None = None,
    head: int | None = None,
    patch: str = "latent",
    pairs: int = 200,
    lens: TunedLens | None = None,
    batch_size: int = 64,
    seed: int = 0,
    progress: Progress | None = None,
) -> Report:
    """Look at what a model thinks, about one question or over a set: `codi probe`.

        probe(reasoner, "Tom has 3 pens and buys 4 more. How many has he?").question.thoughts[0].tokens
        probe(reasoner, benchmark="in_domain", parts=["table3", "interventions"], limit=200).benchmark.table3

    Args:
        reasoner: a model, or its checkpoint, a folder or a hub id.
        question: one question: what each thought decodes to, attends to, and changes in the answer.
        benchmark: what the parts are measured over: a benchmark's name, anything that `load_examples` reads,
            what `load_benchmark` returned, or examples.
        parts: of the report on the benchmark (`codi.interpretability.benchmark_report.PARTS`).
        limit: measure over the first so many problems.
        latents: another number of continuous thoughts than trained.
        layer, head: whose attention is shown (from 0); None is the mean over all.
        patch, pairs: what patching puts in, and pairs of problems for each step and latent.
        lens: a tuned lens for this model.
        seed: of pairs, noise and splits.
        progress: called with the name of what is being measured; gives what is called with (done, in all).

    Raises:
        UsageError: nothing to look at, an unknown part, or a model without thoughts where they are needed.
        DataError: a set that cannot be read, or the one part asked for cannot be given.
        CheckpointError: a checkpoint that cannot be loaded.
    """
    if question is None and benchmark is None:
        raise UsageError("There is nothing to look at. Give a question, a benchmark, or both.")
    loaded = _loaded(benchmark, limit)
    if isinstance(reasoner, str | Path):
        reasoner = LatentReasoner.from_pretrained(reasoner)
    if loaded is not None:  # what cannot be measured is said before anything is
        check_parts(reasoner, parts, latents)
    if question is not None or lens is not None:
        refuse_without_thoughts(reasoner, latents)
    asked = measured = None
    if question is not None:
        asked = question_report(reasoner, question, latents=latents, layer=layer, head=head, lens=lens)
    if loaded is not None:
        name, examples, scorer = loaded
        measured = benchmark_report(
            reasoner, name, examples, scorer=scorer, parts=parts, what=patch, pairs=pairs, latents=latents,
            lens=lens, batch_size=batch_size, seed=seed, progress=progress,
        )  # fmt: skip
    made_from = {
        "method": reasoner.method.name,
        "latents": _latents_in_words(reasoner, latents),
        "attention": _attention_in_words(layer, head),
        "seed": str(seed),
        "codi": installed_version(),
    }
    return Report(asked, measured, made_from)


def _loaded(
    benchmark: str | Path | LoadedBenchmark | Sequence[Example] | None, limit: int | None
) -> tuple[str, Sequence[Example], str] | None:
    """Name, examples and scorer of a set."""
    if benchmark is None:
        return None
    if isinstance(benchmark, str | Path):
        name, (examples, _, found) = str(benchmark), load_benchmark(str(benchmark), limit=limit)
        return name, examples, found.scorer
    if limit is not None and limit < 1:
        raise UsageError(f"The limit must be at least 1 question, got {limit}.")
    if isinstance(benchmark, LoadedBenchmark):
        return benchmark.benchmark.name, benchmark.examples[:limit], benchmark.benchmark.scorer
    given = benchmark[:limit]
    return "examples", given, scorer_for(AUTO, given).name


def _latents_in_words(reasoner: LatentReasoner, latents: int | None) -> str:
    if not reasoner.method.thinks:
        return "none"
    trained = reasoner.method.thought_positions() - 2
    return f"{trained}, as trained" if latents in (None, trained) else f"{latents}; trained: {trained}"


def _attention_in_words(layer: int | None, head: int | None) -> str:
    parts = (("layer", layer), ("head", head))
    chosen = [f"{name} {number}" for name, number in parts if number is not None]
    return ", ".join(chosen) or "mean over layers and heads"
