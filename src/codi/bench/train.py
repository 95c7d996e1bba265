"""Speed and memory of a training step, measured and reported; nothing here asserts a time.

The step as its paper writes it (`paper_literal.py`, `coconut_literal.py`, `pccot_literal.py`,
`sft_literal.py`) and the library's own run in turn, on the same batches and the same weights in one process:
whatever else the machine does falls on both alike.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from codi.bench.batches import Lengths, lengths_of, of_one_shape, random_rows, sampled_lengths
from codi.bench.environment import environment
from codi.bench.gpu import operations, profiled, share_of_peak
from codi.bench.memory import Peak, measure_memory
from codi.bench.steps import (
    GRAPH,
    METHODS,
    SIZES,
    Step,
    Taken,
    Work,
    build_models,
    computed,
    played,
    step_of,
    timed_step,
    variants_on,
)
from codi.data.collation import collate
from codi.data.encoding import TextEncoder
from codi.data.sources import load_examples
from codi.data.text_format import TextFormat
from codi.errors import UsageError
from codi.generation.latent_reasoner import default_device
from codi.methods.codi import Codi
from codi.methods.pccot import Pccot
from codi.modeling.checkpoint import load_tokenizer
from codi.modeling.model import ThoughtModel

SEQUENTIAL = "one_after_the_other"
"""Beside PCCoT's step: the library's step of CODI with as many latents. ratios: its seconds by PCCoT's."""


def bench_train(
    *,
    name: str = "codi",
    size: str = "gpt2",
    batch_size: int = 16,
    pairs: int = 3,
    lora_rank: int = 128,
    data: Path | None = None,
    tokenizer: str = "gpt2",
    device: str | None = None,
    bf16: bool = False,
    base_bf16: bool = False,
    seed: int = 1,
    memory: bool = True,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Training steps per second against the paper-literal step, with the agreement of losses and gradients.

    Args:
        name: method whose step is measured: one of `METHODS`.
        size: one of `SIZES`, with random weights and no dropout, so that both steps give the same loss.
        batch_size: examples in a batch; batches are random, not grouped by length.
        pairs: how often both are timed. The order alternates; one untimed round goes before.
        lora_rank: rank of the adapters (the paper's: 128); 0 trains every weight.
        data: a file of examples whose token lengths are used; None samples those of GSM8k-Aug.
        tokenizer: hub id or directory of the tokenizer for `data`.
        device: as torch names it; None takes the accelerator where there is one.
        bf16: autocast to bfloat16.
        base_bf16: hold the frozen base in bfloat16, as the paper-scale recipes do.
        seed: of weights, lengths and token ids.
        memory: whether to measure peaks too (on a CPU each needs a process of its own).
        on_progress: called with (steps timed, steps in all).

    On CUDA the library's step is also measured as a graph, over the same rows padded to one shape, and what
    the GPU did in each step.

    Raises:
        UsageError: an unknown size, or a count below 1. DataError, CheckpointError: `data`, `tokenizer`.
    """
    _check_train_arguments(name, size, batch_size, pairs, lora_rank)
    if base_bf16 and not (bf16 and lora_rank):
        raise UsageError("base_bf16 holds a frozen base: it needs bf16, and a lora_rank above 0.")
    where = torch.device(device) if device else default_device()
    lengths = (
        sampled_lengths(batch_size * (pairs + 1), seed) if data is None else _read_lengths(data, tokenizer)
    )
    method = METHODS[name]
    base_dtype = "bfloat16" if base_bf16 else None
    models = build_models(method, size, lora_rank, seed, where, base_dtype=base_dtype)
    rows = [
        random_rows(method, lengths, batch_size, models["codi"].bot_id, seed + number)
        for number in range(pairs + 1)
    ]
    batches = [{n: t.to(where) for n, t in collate(each, pad_id=0).items()} for each in rows]
    steps = {variant: step_of(variant, model, method) for variant, model in models.items()}
    agreement = compare(models, steps, batches[0], where, bf16)
    if isinstance(method, Pccot):  # as many thoughts, one after the other, by the same model
        models[SEQUENTIAL], codi = models["codi"], Codi(latents=method.latents, layers=method.layers)
        steps[SEQUENTIAL] = step_of("codi", models[SEQUENTIAL], codi)
    works, given_up = {name: computed(step, where, bf16) for name, step in steps.items()}, list[str]()
    given = dict.fromkeys(works, batches)
    if GRAPH in works:
        works[GRAPH] = played(models[GRAPH], method, batch_size, where, bf16, given_up.append)
        given[GRAPH] = of_one_shape(rows, where)
    optimizers = {variant: _optimizer(model) for variant, model in models.items()}
    taken = _timed_in_turn(works, optimizers, given, where, on_progress)
    seconds = {variant: [each.whole for each in steps] for variant, steps in taken.items()}
    result: dict[str, Any] = {
        "bench": "train",
        "settings": {
            "method": name,
            "size": size,
            "batch_size": batch_size,
            "pairs": pairs,
            "lora_rank": lora_rank,
            "latents": max(0, method.thought_positions() - 2),
            "lengths": "GSM8k-Aug, sampled" if data is None else str(data),
            "mean_tokens": {
                segment: float(statistics.mean(column)) for segment, column in lengths.columns().items()
            },
            "seed": seed,
        },
        "environment": environment(where, bf16) | {"base": base_dtype or "float32"},
        **_speeds(seconds, batch_size, where),
        "agreement": agreement,
    }
    if GRAPH in works:
        against = {other: _ratios(seconds, other, GRAPH) for other in ("literal", "codi")}
        medians = {other: statistics.median(ratios) for other, ratios in against.items()}
        result[GRAPH] = {"given_up": given_up, "ratios": against, "ratio_medians": medians}
    if where.type == "cuda":
        result["gpu"] = _on_the_gpu(works, optimizers, given, taken, where, bf16)
    if memory:
        fixed = given[GRAPH][1].copy() if GRAPH in given else None
        del models, steps, optimizers, works
        result |= _peaks(
            measure_memory(method, size, lora_rank, batches[1].copy(), where, bf16, seed, base_dtype, fixed)
        )
    return result


def _ratios(seconds: dict[str, list[float]], slower: str, faster: str) -> list[float]:
    """How many times as long one variant took as another, pair by pair."""
    return [a / b for a, b in zip(seconds[slower], seconds[faster], strict=True)]


def _speeds(seconds: dict[str, list[float]], batch_size: int, device: torch.device) -> dict[str, Any]:
    """Examples a second, and the step of each paper against the library's."""
    per_second = {variant: batch_size / statistics.median(times) for variant, times in seconds.items()}
    against, fused = _ratios(seconds, "literal", "codi"), _ratios(seconds, "literal_fused", "codi")
    found: dict[str, Any] = {
        "examples_per_second": {variant: per_second[variant] for variant in variants_on(device)},
        "ratios": against,
        "ratio_median": statistics.median(against),
        "ratios_both_fused": fused,
        "ratio_median_both_fused": statistics.median(fused),
    }
    if SEQUENTIAL in seconds:
        slower = _ratios(seconds, SEQUENTIAL, "codi")
        found[SEQUENTIAL] = {
            "examples_per_second": per_second[SEQUENTIAL],
            "ratios": slower,
            "ratio_median": statistics.median(slower),
        }
    return found


def _on_the_gpu(
    works: dict[str, Work],
    optimizers: dict[str, torch.optim.Optimizer],
    given: dict[str, list[dict[str, Tensor]]],
    taken: dict[str, list[Taken]],
    device: torch.device,
    bf16: bool,
) -> dict[str, dict[str, Any]]:
    """What each variant asked of the GPU and of its host. There the library's step is a graph too."""
    needed = {variant: operations(works[variant], given[variant][1]) for variant in works if variant != GRAPH}
    needed[GRAPH] = operations(works["codi"], given[GRAPH][1])  # as the graph's, of the same shape
    found = {}
    for variant, work in works.items():
        seconds = statistics.median([each.whole for each in taken[variant]])
        found[variant] = {
            "seconds": seconds,
            "host_seconds": statistics.median([each.host for each in taken[variant]]),
            "operations": needed[variant],
            "share_of_peak": share_of_peak(needed[variant], seconds, device) if bf16 else None,
            **of_the_rows(variant, needed, seconds, device if bf16 else None),
            **profiled(work, optimizers[variant], given[variant][1], device),
        }
    return found


def _peaks(peaks: dict[str, Peak]) -> dict[str, dict[str, int]]:
    """Bytes held at most, and what the allocator had for it, where there is one."""
    reserved = {variant: peak.reserved for variant, peak in peaks.items() if peak.reserved is not None}
    held = {"peak_bytes": {variant: peak.held for variant, peak in peaks.items()}}
    return held | ({"peak_bytes_reserved": reserved} if reserved else {})


def of_the_rows(
    variant: str, needed: dict[str, int], seconds: float, device: torch.device | None
) -> dict[str, Any]:
    """A graph's operations without what pads its batch to the shape, to compare with the step as it comes.

    needed: operations by variant; device: None where there is no peak to compare with.
    """
    if variant != GRAPH:
        return {}
    share = None if device is None else share_of_peak(needed["codi"], seconds, device)
    return {"operations_without_padding": needed["codi"], "share_of_peak_without_padding": share}


def _timed_in_turn(
    works: dict[str, Work],
    optimizers: dict[str, torch.optim.Optimizer],
    given: dict[str, list[dict[str, Tensor]]],
    device: torch.device,
    on_progress: Callable[[int, int], None] | None,
) -> dict[str, list[Taken]]:
    """Every variant over its batches; of each pair the order is that of the one before, turned round."""
    variants, taken = list(works), {variant: list[Taken]() for variant in works}
    rounds = len(next(iter(given.values())))
    for number in range(rounds):
        order = variants if number % 2 == 0 else variants[::-1]
        for place, variant in enumerate(order, number * len(order) + 1):
            one = timed_step(works[variant], optimizers[variant], given[variant][number], device)
            if on_progress is not None:
                on_progress(place, rounds * len(order))
            if number:  # the first round warms up caches, kernels and the optimiser's state, and records
                taken[variant].append(one)
    return taken


def compare(
    models: dict[str, ThoughtModel],
    steps: dict[str, Step],
    batch: dict[str, Tensor],
    device: torch.device,
    bf16: bool,
) -> dict[str, Any]:
    """Largest relative difference from the literal step: of any loss, and of any weight's gradient (by norm).

    A thousandth of the whole gradient's norm is added to each: a key bias has none but for rounding.
    """
    losses: dict[str, dict[str, float]] = {}
    gradients: dict[str, dict[str, Tensor]] = {}
    for name in ("literal", "codi"):
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            found = steps[name](batch)
        found["loss"].backward()  # type: ignore[no-untyped-call]
        losses[name] = {term: float(value.detach()) for term, value in found.items()}
        weights = models[name].named_parameters()
        gradients[name] = {  # one of zeros, of a token that the batch has not, is none
            weight: p.grad.detach().clone() for weight, p in weights if p.grad is not None and p.grad.any()
        }
        models[name].zero_grad(set_to_none=True)
    literal, ours = losses["literal"], losses["codi"]
    shared = [term for term in literal if term in ours]
    only_one = sorted(set(gradients["literal"]) ^ set(gradients["codi"]))
    whole = torch.stack([gradient.norm() for gradient in gradients["literal"].values()]).norm()
    return {
        "losses": losses,
        "loss_relative_difference": max(
            abs(literal[t] - ours[t]) / max(abs(literal[t]), 1e-12) for t in shared
        ),
        "gradient_relative_difference": max(
            float((gradient - gradients["codi"][name]).norm() / (gradient.norm() + 1e-3 * whole))
            for name, gradient in gradients["literal"].items()
            if name in gradients["codi"]
        ),
        "weights_with_a_gradient_in_one_only": only_one,
    }


def _optimizer(model: ThoughtModel) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)


def _read_lengths(data: Path, tokenizer: str) -> Lengths:
    text = TextEncoder(load_tokenizer(tokenizer), TextFormat())
    examples, _ = load_examples(str(data))
    return lengths_of([Codi().encode(example, text) for example in examples])


def _check_train_arguments(name: str, size: str, batch_size: int, pairs: int, lora_rank: int) -> None:
    if name not in METHODS:
        raise UsageError(f"There is no literal step of '{name}'. Methods: {', '.join(METHODS)}.")
    if size not in SIZES:
        raise UsageError(f"Unknown size '{size}'. Known sizes: {', '.join(SIZES)}.")
    if min(batch_size, pairs) < 1 or lora_rank < 0:
        raise UsageError(
            f"batch_size is {batch_size}, pairs is {pairs}, lora_rank is {lora_rank}; "
            "the first two must be 1 or more, the last 0 or more."
        )
