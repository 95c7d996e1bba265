"""Answering, measured: a CODI checkpoint, its explicit mode and a CoT-SFT checkpoint, asked in turn.

Whatever else the machine does falls on all three alike. Nothing here asserts a time.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import torch

from codi.bench.environment import environment, synchronize
from codi.data.generators import familiar_generator
from codi.data.sources import load_examples
from codi.errors import UsageError
from codi.evaluation.statistics import percentile
from codi.generation.answer import Answer
from codi.generation.latent_reasoner import LatentReasoner
from codi.modeling.checkpoint import locate, read_configuration
from codi.modeling.graphs import graphs_wanted

WITH_GRAPHS = ", graphs"


def bench_generate(
    *,
    latent: Path,
    explicit: Path,
    questions: int = 100,
    device: str | None = None,
    base: str | None = None,
    seed: int = 1,
    batch_size: int = 64,
    bf16: bool = False,
) -> dict[str, Any]:
    """Latency at batch 1 and throughput of a CODI checkpoint, its explicit mode, and a CoT-SFT checkpoint.

    Every question is asked of the three in turn. On CUDA they are asked once more each with graphs, under
    `<name>, graphs`, with the share of answers that are the plain path's. `within_bound` says whether each
    answer took at most latents + 2 + answer tokens sequential passes (for written rationales: rationale,
    prompt and answer tokens + 2). base: where the base of those that hold adapters alone is now, if it has
    moved.

    Raises UsageError when `latent` has no latents or `questions` is below 1.
    """
    if questions < 1:
        raise UsageError(f"questions is {questions}; it must be 1 or more.")
    base_of_latent, base_of_explicit = _bases((latent, explicit), base)
    codi = LatentReasoner.from_pretrained(latent, device=device, base=base_of_latent, graphs="off")
    if not codi.method.thinks:
        raise UsageError(
            f"'{latent}' is a {codi.method.name} model, which has no latents. Give a CODI checkpoint."
        )
    cot = LatentReasoner.from_pretrained(explicit, device=device, base=base_of_explicit, graphs="off")
    systems: dict[str, tuple[LatentReasoner, str]] = {
        "latent": (codi, "latent"),
        "explicit": (codi, "explicit"),
        "cot-sft": (cot, cot.method.modes[0]),
    }
    familiar = familiar_generator(codi.text.reads)
    examples, _ = load_examples(f"{familiar}?seed={seed}&count={questions}", split="test")
    texts = [example.question for example in examples]
    for reasoner, mode in systems.values():
        reasoner.answer(texts[:2], mode=mode, batch_size=1)
    if graphs_wanted("auto", codi.model.device):
        systems |= {name + WITH_GRAPHS: (_with_graphs(one), mode) for name, (one, mode) in systems.items()}
        for name, (reasoner, mode) in systems.items():
            if name.endswith(WITH_GRAPHS):  # every shape is recorded before anything is timed
                for size in (1, batch_size):
                    _timed_answer(reasoner, texts, mode, size, bf16)

    answers: dict[str, list[Answer]] = {name: [] for name in systems}
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    for number, text in enumerate(texts):
        order = list(systems) if number % 2 == 0 else list(systems)[::-1]
        for name in order:
            reasoner, mode = systems[name]
            taken, found = _timed_answer(reasoner, [text], mode, 1, bf16)
            answers[name] += found
            seconds[name].append(taken)
    result: dict[str, Any] = {"bench": "generate", "environment": environment(codi.model.device, bf16)}
    result["settings"] = {"questions": questions, "seed": seed, "batch_size": batch_size}
    result["systems"] = {}
    for name, (reasoner, mode) in systems.items():
        batched, _ = _timed_answer(reasoner, texts, mode, batch_size, bf16)
        plain = answers[name.removesuffix(WITH_GRAPHS)]
        prompt = 0 if mode == "latent" else len(reasoner.text.prompt_ids)
        result["systems"][name] = {
            "latency_ms": {
                "median": 1e3 * statistics.median(seconds[name]),
                "p95": 1e3 * percentile(seconds[name], 95),
            },
            "mean_passes": statistics.mean(a.passes for a in answers[name]),
            "mean_thoughts": statistics.mean(a.thoughts for a in answers[name]),
            "mean_answer_tokens": statistics.mean(a.answer_tokens for a in answers[name]),
            "within_bound": all(within_bound(a, mode, prompt) for a in answers[name]),
            "questions_per_second": questions / batched,
        }
        if name.endswith(WITH_GRAPHS):
            same = sum(one == other for one, other in zip(answers[name], plain, strict=True))
            result["systems"][name]["same_answers"] = same / questions
    latency = {name: values["latency_ms"]["median"] for name, values in result["systems"].items()}
    result["latency_ratio"] = latency["cot-sft"] / latency["latent"]
    result["latency_ratio_own_explicit"] = latency["explicit"] / latency["latent"]
    if f"latent{WITH_GRAPHS}" in latency:
        with_graphs = latency[f"latent{WITH_GRAPHS}"]
        result["latency_ratio_with_graphs"] = latency[f"cot-sft{WITH_GRAPHS}"] / with_graphs
        result["latency_ratio_plain_to_graphs"] = latency["latent"] / with_graphs
    return result


def _with_graphs(reasoner: LatentReasoner) -> LatentReasoner:
    """The same model, which insists on them."""
    return LatentReasoner(
        reasoner.model, reasoner.method, reasoner.tokenizer, reasoner.text_format, graphs="on"
    )


def within_bound(answer: Answer, mode: str, prompt_tokens: int) -> bool:
    """Whether the passes are at most latents + 2 + answer tokens (`thoughts` has <bot> and <eot> counted)."""
    allowed = answer.thoughts + answer.answer_tokens
    return answer.passes <= (allowed if mode == "latent" else allowed + prompt_tokens + 2)


def _timed_answer(
    reasoner: LatentReasoner, texts: list[str], mode: str, batch_size: int, bf16: bool
) -> tuple[float, list[Answer]]:
    synchronize(reasoner.model.device)
    start = time.perf_counter()
    with torch.autocast(reasoner.model.device.type, torch.bfloat16, enabled=bf16):
        answers = reasoner.answer(texts, mode=mode, batch_size=batch_size)
    synchronize(reasoner.model.device)
    return time.perf_counter() - start, answers


def _bases(checkpoints: tuple[Path, Path], base: str | None) -> list[str | None]:
    """`base` for a checkpoint that holds adapters alone; where none does, for both, which refuse it."""
    if base is None:
        return [None, None]
    adapted = [read_configuration(locate(one))["model"].get("lora") is not None for one in checkpoints]
    return [base if own or not any(adapted) else None for own in adapted]
