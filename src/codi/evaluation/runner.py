"""Ask a reasoner every question of a set, score the answers, and measure what they cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol

from codi.data.columns import Columns
from codi.data.example import Example
from codi.errors import DataError, UsageError
from codi.evaluation.benchmarks import LoadedBenchmark, format_question, load_benchmark
from codi.evaluation.predictions import Prediction, PredictionWriter
from codi.evaluation.scorers import AUTO, Scorer, check_gold_answers, scorer_for
from codi.evaluation.statistics import accuracy_interval, latency_summary
from codi.generation.answer import Answer
from codi.generation.decoding import Sampling
from codi.generation.latent_reasoner import LatentReasoner

WARM_UP_QUESTIONS = 2


class AnswerModes(Protocol):
    """The part of a method that evaluation asks: which mode it would answer in."""

    def mode(self, asked: str | None, /) -> str:
        """The mode used when `asked` is wanted; None is the method's own. Raises UsageError on another's."""


class Reasoner(Protocol):
    """Anything that answers questions batch by batch: `LatentReasoner`, or a scripted one in a test."""

    @property
    def method(self) -> AnswerModes:
        """What the reasoner was trained with."""

    def answer_batches(
        self,
        questions: Sequence[str],
        /,
        *,
        mode: str | None = ...,
        latents: int | None = ...,
        batch_size: int = ...,
        max_new_tokens: int = ...,
        sampling: Sampling | None = ...,
    ) -> Iterator[list[tuple[int, Answer]]]:
        """(question number, answer) of each finished batch; rows are sampled by seed and number alone."""


@dataclass(frozen=True)
class EvaluationResult:
    """What one evaluation found.

    Attributes:
        accuracy: right answers as a **fraction 0..1** (the paper's tables print percent).
        ci95: Wilson 95 % interval of the accuracy, fractions.
        correct: right answers.
        n: questions asked.
        scorer: name of the scorer used.
        mode: how the model answered: "latent", "explicit" (written reasoning) or "direct".
        thought_tokens: mean thought tokens per question.
        sequential_passes: mean sequential model passes per question.
        unreadable: answers the scorer could not read (all counted as wrong).
        cut_off: answers that max_new_tokens or the model's last position ended.
        latency_ms: `{"median", "p95", "n"}` in milliseconds per question at batch 1; None where not measured.
        outcomes: right or wrong for each question in order, for paired tests; not part of `as_dict`.
        predictions: what each question was answered, in order, for `compare`; not part of `as_dict`.
    """

    accuracy: float
    ci95: tuple[float, float]
    correct: int
    n: int
    scorer: str
    mode: str
    thought_tokens: float
    sequential_passes: float
    unreadable: int
    cut_off: int
    latency_ms: dict[str, float] | None
    outcomes: tuple[bool, ...] = field(default=(), repr=False)
    predictions: tuple[Prediction, ...] = field(default=(), repr=False)

    def as_dict(self) -> dict[str, Any]:
        """The result as JSON-ready values, without the outcome of each question."""
        return {
            "accuracy": self.accuracy,
            "ci95": list(self.ci95),
            "correct": self.correct,
            "n": self.n,
            "scorer": self.scorer,
            "mode": self.mode,
            "thought_tokens": self.thought_tokens,
            "sequential_passes": self.sequential_passes,
            "unreadable": self.unreadable,
            "cut_off": self.cut_off,
            "latency_ms": self.latency_ms,
        }

    def describe(self) -> str:
        """One line for the terminal, in percent as in the paper."""
        low, high = self.ci95
        line = (
            f"{100 * self.accuracy:.1f} % [{100 * low:.1f}, {100 * high:.1f}] ({self.correct}/{self.n}, "
            f"scorer {self.scorer}), {self.thought_tokens:.1f} thought tokens, "
            f"{self.sequential_passes:.1f} passes"
        )
        if self.latency_ms:
            line += f", {self.latency_ms['median']:.1f} ms median at batch 1"
        line += f", {self.unreadable} unreadable" if self.unreadable else ""
        return line + (f", {self.cut_off} cut off" if self.cut_off else "")


Questions = str | Path | LoadedBenchmark | Sequence[Example]
"""A benchmark's name, a source of one's own, what `load_benchmark` made of either, or examples."""


def evaluate(
    reasoner: Reasoner | str | Path,
    benchmark: Questions,
    *,
    scorer: str | Scorer | None = None,
    limit: int | None = None,
    columns: Columns | None = None,
    file: str | Path | None = None,
    mode: str | None = None,
    latents: int | None = None,
    batch_size: int = 64,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    max_new_tokens: int | None = None,
    latency_questions: int = 50,
    on_progress: Callable[[int, int], None] | None = None,
    predictions: str | Path | None = None,
    overwrite: bool = False,
) -> EvaluationResult:
    """Answer a benchmark's questions, score the answers and measure their cost: `codi eval`.

        evaluate("runs/mine", "in_domain").accuracy
        evaluate(reasoner, "mine.csv", columns=Columns(answer="label"), limit=100)

    Args:
        reasoner: what answers (see `Reasoner`), or the checkpoint to load, a folder or a hub id.
        benchmark: a name of `codi.evaluation.benchmarks.BENCHMARKS`, anything that `load_examples` reads,
            what `load_benchmark` returned, or examples.
        scorer: a scorer or its name (`codi.evaluation.scorers.SCORERS`); 'auto' chooses the one that fits the
            gold answers. None is a named benchmark's own, 'auto' for all else. It reads what stands after the
            reasoner's own answer prompt.
        limit: ask the first so many questions only.
        columns, file: of a source to be loaded, see `load_benchmark`.
        mode: "latent", "explicit" or "direct", as the method allows; None is the method's own.
        latents, max_new_tokens: handed to the reasoner where given; its own defaults otherwise.
        batch_size: questions answered at a time.
        temperature, top_k, top_p: sampling; temperature 0 is greedy.
        seed: question i is sampled from (seed, i) alone, so the batch size does not change its answer.
        latency_questions: the first so many questions are asked again one by one, after a warm-up, to time
            them; 0 skips the measurement.
        on_progress: called with (questions done, questions in all) after each batch.
        predictions: JSONL file for every question's `Prediction`, written batch by batch; see
            `PredictionWriter`.
        overwrite: replace predictions already at that path.

    Returns:
        The result; `accuracy` is a fraction 0..1.

    Raises:
        UsageError: an unknown benchmark or scorer, a scorer that cannot read the reasoner's answers, a size
            that makes no sense, or predictions already there.
        DataError: no examples, or a gold answer the scorer cannot compare (before anything is answered).
        CheckpointError: a checkpoint that cannot be loaded.
    """
    if isinstance(benchmark, str | Path):
        benchmark = load_benchmark(
            str(benchmark), file=None if file is None else str(file), columns=columns, limit=limit,
            scorer=scorer if isinstance(scorer, str) else None,
        )  # fmt: skip
    elif file is not None or columns is not None:
        raise UsageError("columns and file say how a source is read, and these examples have been read.")
    examples, own = (
        (benchmark.examples, benchmark.benchmark.scorer)
        if isinstance(benchmark, LoadedBenchmark)
        else (benchmark, AUTO)
    )
    examples = _first(examples, limit)
    _check_request(examples, batch_size, latency_questions)
    if isinstance(reasoner, str | Path):
        reasoner = LatentReasoner.from_pretrained(reasoner)
    rule = _rule(own if scorer is None else scorer, examples, reasoner)
    mode = reasoner.method.mode(mode)
    sampling = Sampling(temperature, top_k, top_p, seed)
    options: dict[str, Any] = {"mode": mode, "sampling": sampling, "latents": latents}
    if max_new_tokens is not None:
        options["max_new_tokens"] = max_new_tokens
    writer = PredictionWriter(Path(predictions), overwrite=overwrite) if predictions else None

    with writer or nullcontext():
        rows = _answer_all(reasoner, examples, rule, batch_size, options, writer, on_progress)

    latency_ms = None
    if latency_questions:
        timed = [format_question(example.question) for example in examples[:latency_questions]]
        latency_ms = latency_summary(measure_latency(reasoner, timed, **options))
    correct = sum(row["correct"] for row in rows)
    return EvaluationResult(
        accuracy=correct / len(rows),
        ci95=accuracy_interval(correct, len(rows)),
        correct=correct,
        n=len(rows),
        scorer=rule.name,
        mode=mode,
        thought_tokens=fmean(row["thoughts"] for row in rows),
        sequential_passes=fmean(row["passes"] for row in rows),
        unreadable=sum(row["value"] is None for row in rows),
        cut_off=sum(not row["finished"] for row in rows),
        latency_ms=latency_ms,
        outcomes=tuple(row["correct"] for row in rows),
        predictions=tuple(rows),
    )


def measure_latency(reasoner: Reasoner, questions: Sequence[str], **options: Any) -> list[float]:
    """Milliseconds from question to answer for each of `questions`, asked one at a time.

    `options` go to the reasoner. An answer is text on the host, so an accelerator has finished when the clock
    is read.
    """
    return measure_latencies({"": reasoner}, questions, **options)[""]


def measure_latencies(
    reasoners: Mapping[str, Reasoner], questions: Sequence[str], **options: Any
) -> dict[str, list[float]]:
    """The same of several reasoners, each question asked of all in turn: what else the machine does falls on
    all alike.

    The first `WARM_UP_QUESTIONS` are asked once beforehand and not timed: first calls pay for memory and
    kernels that later ones find ready. With CUDA graphs, which are recorded when a length comes again, all
    are asked twice beforehand.
    """
    milliseconds: dict[str, list[float]] = {name: [] for name in reasoners}
    beforehand = [*questions[:WARM_UP_QUESTIONS]]
    if any(isinstance(one, LatentReasoner) and one.fixed_answering() for one in reasoners.values()):
        beforehand = [*questions, *questions]
    for number, question in enumerate([*beforehand, *questions]):
        for name, reasoner in reasoners.items():
            start = time.perf_counter()
            list(reasoner.answer_batches([question], batch_size=1, **options))
            if number >= len(beforehand):
                milliseconds[name].append(1000 * (time.perf_counter() - start))
    return milliseconds


def _first(examples: Sequence[Example], limit: int | None) -> Sequence[Example]:
    if limit is not None and limit < 1:
        raise UsageError(f"The limit must be at least 1 question, got {limit}.")
    return examples[:limit]


def _rule(scorer: str | Scorer, examples: Sequence[Example], reasoner: Reasoner) -> Scorer:
    """The scorer for these examples and this reasoner's answers. Raises before anything is answered."""
    if isinstance(scorer, str):
        rule = scorer_for(scorer, examples)
    else:
        rule = scorer.fitted(examples)
        check_gold_answers(examples, rule)
    reader = getattr(reasoner, "text", None)  # a scripted reasoner says nothing of its answer prompt
    return rule if reader is None else rule.reading(reader)


def _check_request(examples: Sequence[Example], batch_size: int, latency_questions: int) -> None:
    if batch_size < 1:
        raise UsageError(f"The batch size must be at least 1, got {batch_size}.")
    if latency_questions < 0:
        raise UsageError(f"latency_questions must be 0 (skip) or more, got {latency_questions}.")
    if not examples:
        raise DataError("There is nothing to evaluate: the set has no examples.")


def _answer_all(
    reasoner: Reasoner,
    examples: Sequence[Example],
    scorer: Scorer,
    batch_size: int,
    options: dict[str, Any],
    writer: PredictionWriter | None,
    on_progress: Callable[[int, int], None] | None,
) -> list[Prediction]:
    """Answer `examples` batch by batch; one scored row each, in their order."""
    questions = [format_question(example.question) for example in examples]
    rows: dict[int, Prediction] = {}
    for batch in reasoner.answer_batches(questions, batch_size=batch_size, **options):
        scored = {
            number: _scored_row(examples[number], questions[number], answer, scorer)
            for number, answer in batch
        }
        rows.update(scored)
        if writer is not None:
            writer.write(list(scored.values()))
        if on_progress is not None:
            on_progress(len(rows), len(examples))
    if len(rows) != len(examples):
        raise ValueError(f"the reasoner answered {len(rows)} of {len(examples)} questions")
    return [rows[number] for number in range(len(examples))]


def _scored_row(example: Example, question: str, answer: Answer, scorer: Scorer) -> Prediction:
    return {
        "id": example.id,
        "question": question,
        "gold": example.answer,
        "text": answer.text,
        # Read by this scorer, not by the reasoner: it is the value the verdict rests on.
        "value": scorer.parse(answer.text),
        "correct": scorer.correct(answer.text, example.answer),
        "scorer": scorer.name,
        "thoughts": answer.thoughts,
        "passes": answer.passes,
        "answer_tokens": answer.answer_tokens,
        "finished": answer.finished,
    }
