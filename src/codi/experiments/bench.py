"""Speed and memory, measured and reported; nothing here asserts a time.

`bench_train` runs the paper-literal training step (`paper_literal.py`) and the library's own in turn, on the
same batches and the same weights in one process, so that whatever else the machine does falls on both alike.
`bench_generate` asks a CODI checkpoint and a CoT-SFT checkpoint the same questions in turn.

Both return values that can be written as JSON.
"""

from __future__ import annotations

import copy
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers.activations import NewGELUActivation

from codi.data.encoding import TextEncoder
from codi.data.sources import load_examples
from codi.errors import UsageError
from codi.evaluation.statistics import percentile
from codi.experiments.bench_batches import Lengths, lengths_of, random_batch, sampled_lengths
from codi.experiments.bench_memory import measure_memory
from codi.experiments.paper_literal import literal_step
from codi.generation.answer import Answer
from codi.generation.latent_reasoner import LatentReasoner, default_device
from codi.methods.codi import Codi
from codi.modeling.checkpoint import load_tokenizer
from codi.modeling.configuration import LoraSettings, ModelConfig, TextFormat
from codi.modeling.model import ThoughtModel

SIZES: dict[str, dict[str, Any]] = {
    "gpt2": {},  # transformers' defaults are GPT-2's 124 M weights
    "tiny": {"n_embd": 64, "n_layer": 2, "n_head": 2, "vocab_size": 512},
}
VARIANTS = ("literal", "literal_fused", "codi")
"""literal: transformers' model as it stands; literal_fused: with our fused GELU; codi: the library's step."""

Step = Callable[[dict[str, Tensor]], dict[str, Tensor]]


def bench_train(
    *,
    size: str = "gpt2",
    batch_size: int = 16,
    pairs: int = 3,
    lora_rank: int = 128,
    data: Path | None = None,
    tokenizer: str = "gpt2",
    device: str | None = None,
    bf16: bool = False,
    seed: int = 1,
    memory: bool = True,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Training steps per second against the paper-literal step, with the agreement of losses and gradients.

    Args:
        size: `gpt2` or `tiny`, with random weights and no dropout, so that both steps give the same loss.
        batch_size: examples in a batch; batches are random, not grouped by length.
        pairs: how often both are timed. The order alternates; one untimed round goes before.
        lora_rank: rank of the adapters (the paper's: 128); 0 trains every weight.
        data: a file of examples whose token lengths are used; None samples those of GSM8k-Aug.
        tokenizer: hub id or directory of the tokenizer for `data`.
        device: as torch names it; None takes the accelerator where there is one.
        bf16: autocast to bfloat16.
        seed: of weights, lengths and token ids.
        memory: whether to measure peaks too (on a CPU each needs a process of its own).
        on_progress: called with (steps timed, steps in all).

    Raises:
        UsageError: an unknown size, or a count below 1. DataError, CheckpointError: `data`, `tokenizer`.
    """
    _check_train_arguments(size, batch_size, pairs, lora_rank)
    where = torch.device(device) if device else default_device()
    lengths = (
        sampled_lengths(batch_size * (pairs + 1), seed) if data is None else _read_lengths(data, tokenizer)
    )
    method = Codi()
    models = build_models(size, lora_rank, seed, where)
    batches = [
        random_batch(lengths, batch_size, models["codi"].bot_id, seed + number, where)
        for number in range(pairs + 1)
    ]
    steps = {name: step_of(name, model, method) for name, model in models.items()}
    agreement = compare(models, steps, batches[0], where, bf16)
    optimizers = {name: _optimizer(model) for name, model in models.items()}

    seconds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for number, batch in enumerate(batches):
        order = VARIANTS if number % 2 == 0 else VARIANTS[::-1]
        for name in order:
            taken = timed_step(steps[name], optimizers[name], batch, where, bf16)
            if on_progress is not None:
                on_progress(number * len(order) + order.index(name) + 1, len(batches) * len(order))
            if number:  # the first round warms up caches, kernels and the optimiser's state
                seconds[name].append(taken)
    per_pair = [a / b for a, b in zip(seconds["literal"], seconds["codi"], strict=True)]
    per_pair_fused = [a / b for a, b in zip(seconds["literal_fused"], seconds["codi"], strict=True)]
    result: dict[str, Any] = {
        "bench": "train",
        "settings": {
            "size": size,
            "batch_size": batch_size,
            "pairs": pairs,
            "lora_rank": lora_rank,
            "latents": method.latents,
            "lengths": "GSM8k-Aug, sampled" if data is None else str(data),
            "mean_tokens": {
                name: float(statistics.mean(column)) for name, column in lengths.columns().items()
            },
            "seed": seed,
        },
        "environment": environment(where, bf16),
        "examples_per_second": {
            name: batch_size / statistics.median(taken) for name, taken in seconds.items()
        },
        "ratios": per_pair,
        "ratio_median": statistics.median(per_pair),
        "ratios_both_fused": per_pair_fused,
        "ratio_median_both_fused": statistics.median(per_pair_fused),
        "agreement": agreement,
    }
    if memory:
        del models, steps, optimizers
        result["peak_bytes"] = measure_memory(size, lora_rank, batches[1].copy(), where, bf16, seed)
    return result


def bench_generate(
    *,
    latent: Path,
    explicit: Path,
    questions: int = 100,
    device: str | None = None,
    seed: int = 1,
    batch_size: int = 64,
    bf16: bool = False,
) -> dict[str, Any]:
    """Latency at batch 1 and throughput of a CODI checkpoint, its explicit mode, and a CoT-SFT checkpoint.

    Every question is asked of the three in turn. `within_bound` says whether each answer took at most
    latents + 2 + answer tokens sequential passes (for written rationales: rationale, prompt and answer
    tokens + 2). Raises UsageError when `latent` has no latents or `questions` is below 1.
    """
    if questions < 1:
        raise UsageError(f"questions is {questions}; it must be 1 or more.")
    codi = LatentReasoner.from_pretrained(latent, device=device)
    if not codi.method.thinks:
        raise UsageError(
            f"'{latent}' is a {codi.method.name} model, which has no latents. Give a CODI checkpoint."
        )
    cot = LatentReasoner.from_pretrained(explicit, device=device)
    systems = {
        "latent": (codi, "latent"),
        "explicit": (codi, "explicit"),
        "cot-sft": (cot, cot.method.modes[0]),
    }
    examples, _ = load_examples(f"word-problems?seed={seed}&count={questions}", split="test")
    texts = [example.question for example in examples]
    for reasoner, mode in systems.values():
        reasoner.answer(texts[:2], mode=mode, batch_size=1)

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
    latency = {name: values["latency_ms"]["median"] for name, values in result["systems"].items()}
    result["latency_ratio"] = latency["cot-sft"] / latency["latent"]
    result["latency_ratio_own_explicit"] = latency["explicit"] / latency["latent"]
    return result


def within_bound(answer: Answer, mode: str, prompt_tokens: int) -> bool:
    """Whether the passes are at most latents + 2 + answer tokens (`thoughts` has <bot> and <eot> counted)."""
    allowed = answer.thoughts + answer.answer_tokens
    return answer.passes <= (allowed if mode == "latent" else allowed + prompt_tokens + 2)


def build_models(
    size: str, lora_rank: int, seed: int, device: torch.device, only: str | None = None
) -> dict[str, ThoughtModel]:
    """A model per variant (or for one), with the same weights. Adapters start off zero, so all learn."""
    torch.manual_seed(seed)
    no_dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    config = ModelConfig(
        base_config={"model_type": "gpt2", **SIZES[size], **no_dropout},
        lora=LoraSettings(rank=lora_rank, dropout=0.0) if lora_rank else None,
    )
    model = ThoughtModel(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".lora_B." in name:
                weight.normal_(std=0.01)
    names = VARIANTS if only is None else (only,)
    models = {name: model if name == names[-1] else copy.deepcopy(model) for name in names}
    if "literal" in models:
        _stock_activations(models["literal"])
    return {name: model.to(device).train() for name, model in models.items()}


def _stock_activations(model: nn.Module) -> None:
    """Undo `fuse_activations`: transformers' own GELU, as the published step runs it."""
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.GELU) and child.approximate == "tanh":
                setattr(module, name, NewGELUActivation())


def step_of(variant: str, model: ThoughtModel, method: Codi) -> Step:
    """The function from a batch to the losses, for one variant."""
    if variant == "codi":
        return lambda batch: method.loss(model, batch)
    return lambda batch: literal_step(model, method, batch)


def timed_step(
    step: Step, optimizer: torch.optim.Optimizer, batch: dict[str, Tensor], device: torch.device, bf16: bool
) -> float:
    """Seconds for forward, backward and the optimiser's step."""
    synchronize(device)
    start = time.perf_counter()
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        loss = step(batch)["loss"]
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    synchronize(device)
    return time.perf_counter() - start


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
        gradients[name] = {weight: p.grad.detach().clone() for weight, p in weights if p.grad is not None}
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


def environment(device: torch.device, bf16: bool) -> dict[str, Any]:
    """What a figure depends on."""
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{device.type} {platform.machine()}",
        "dtype": "bfloat16 autocast" if bf16 else "float32",
    }


def synchronize(device: torch.device) -> None:
    """Wait for what the accelerator still has to do."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _optimizer(model: ThoughtModel) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)


def _timed_answer(
    reasoner: LatentReasoner, texts: list[str], mode: str, batch_size: int, bf16: bool
) -> tuple[float, list[Answer]]:
    synchronize(reasoner.model.device)
    start = time.perf_counter()
    with torch.autocast(reasoner.model.device.type, torch.bfloat16, enabled=bf16):
        answers = reasoner.answer(texts, mode=mode, batch_size=batch_size)
    synchronize(reasoner.model.device)
    return time.perf_counter() - start, answers


def _read_lengths(data: Path, tokenizer: str) -> Lengths:
    form = TextFormat()
    text = TextEncoder(
        load_tokenizer(tokenizer),
        form.answer_prompt,
        form.answer_separator,
        form.answer_suffix,
        form.distillation_token,
    )
    examples, _ = load_examples(str(data))
    return lengths_of([Codi().encode(example, text) for example in examples])


def _check_train_arguments(size: str, batch_size: int, pairs: int, lora_rank: int) -> None:
    if size not in SIZES:
        raise UsageError(f"Unknown size '{size}'. Known sizes: {', '.join(SIZES)}.")
    if min(batch_size, pairs) < 1 or lora_rank < 0:
        raise UsageError(
            f"batch_size is {batch_size}, pairs is {pairs}, lora_rank is {lora_rank}; "
            "the first two must be 1 or more, the last 0 or more."
        )
