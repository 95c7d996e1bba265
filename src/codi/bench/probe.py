"""Looking at thoughts, measured: one question against answering it, and a thousand problems decoded.

Answering and probing take turns: whatever else the machine does falls on both. Nothing here asserts a time.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

from codi.bench.environment import environment
from codi.data.generators import familiar_generator
from codi.data.sources import load_examples
from codi.errors import UsageError
from codi.evaluation.benchmarks import format_question
from codi.generation.decoded_thoughts import decoded_tokens
from codi.generation.latent_reasoner import LatentReasoner
from codi.interpretability.attention import attended
from codi.interpretability.thinking import Thinking, finish, in_batches, think_through


def bench_probe(
    *,
    checkpoint: Path,
    base: str | None = None,
    questions: int = 50,
    problems: int = 1000,
    batch_size: int = 64,
    device: str | None = None,
    seed: int = 1,
) -> dict[str, Any]:
    """Milliseconds at batch 1 of answering, of probing (thoughts decoded, answer written), of probing with
    attention maps; seconds to decode the thoughts of `problems` problems in batches.

    Raises UsageError for a model without thoughts, or a count below 1.
    """
    if min(questions, problems, batch_size) < 1:
        raise UsageError(f"questions is {questions}, problems is {problems}; both must be 1 or more.")
    reasoner = LatentReasoner.from_pretrained(checkpoint, device=device, base=base)
    familiar = familiar_generator(reasoner.text.reads)
    examples, _ = load_examples(f"{familiar}?seed={seed}&count={max(questions, problems)}", split="test")
    texts = [format_question(example.question) for example in examples]

    def read(thinking: Thinking) -> None:
        decoded_tokens(reasoner.model, reasoner.text, thinking.thoughts, thinking.contexts)

    def answer(question: str) -> None:
        reasoner.answer([question], mode="latent")

    def probe(question: str) -> None:
        thinking = think_through(reasoner, [question])
        finish(reasoner, thinking.start)
        read(thinking)

    def probe_with_attention(question: str) -> None:
        thinking, attention = attended(reasoner, question)
        finish(reasoner, thinking.start)
        read(thinking)
        for row in range(len(attention.rows)):
            attention.top(row)

    ways = {"answer": answer, "probe": probe, "probe_with_attention": probe_with_attention}
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number, text in enumerate([texts[0], *texts[:questions]]):
        order = list(ways) if number % 2 == 0 else list(ways)[::-1]
        for name in order:
            begun = time.perf_counter()
            ways[name](text)
            if number:  # the first warms up
                taken[name].append(1e3 * (time.perf_counter() - begun))
    begun = time.perf_counter()
    for batch in in_batches(problems, batch_size):
        read(think_through(reasoner, [texts[i] for i in batch]))
    decoding = time.perf_counter() - begun
    medians = {name: statistics.median(values) for name, values in taken.items()}
    return {
        "bench": "probe",
        "environment": environment(reasoner.model.device, bf16=False),
        "settings": {
            "questions": questions, "problems": problems, "batch_size": batch_size, "seed": seed,
        },
        "median_ms": medians,
        "probe_to_answer": medians["probe"] / medians["answer"],
        "probe_with_attention_to_answer": medians["probe_with_attention"] / medians["answer"],
        "seconds_to_decode": decoding,
    }  # fmt: skip
