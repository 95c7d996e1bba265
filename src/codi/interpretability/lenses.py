"""Lenses: what the model would say of a thought if it stopped at an earlier layer.

    logit lens     state of layer l ──────────────► final norm ──► LM head ──► tokens
    tuned lens     state of layer l ──► h + A_l h + b_l ──► final norm ──► LM head ──► tokens
    last layer     the thought (after the norm already) ─────────► LM head ──► tokens    = the decoded thought

The logit lens reads a layer as if it spoke the last one's language, which early layers do not. The tuned
lens (Belrose et al., 2023, arXiv 2303.08112) learns one affine translation per layer, so that the layer's
distribution comes near to the final one in KL divergence.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from codi.errors import CheckpointError, UsageError
from codi.generation.decoded_thoughts import TOP_TOKENS, token_text, top_tokens
from codi.generation.latent_reasoner import LatentReasoner
from codi.interpretability.layer_states import BATCH_SIZE, all_layer_states, final_norm
from codi.interpretability.lens_questions import question_hash
from codi.interpretability.thinking import in_batches
from codi.modeling.model import ThoughtModel

KIND = "codi tuned lens"


@dataclass(frozen=True)
class LensComparison:
    """KL divergence in nats from the final distribution to each layer's, mean over questions and thoughts.

    logit, tuned: one per layer, the embedding first and the last layer (always 0) left out.
    """

    questions: int
    thoughts: int
    logit: list[float]
    tuned: list[float]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


class TunedLens(nn.Module):
    """One affine translator per layer, the identity at first.

    fingerprint: of the model it belongs to; model: that model in words; settings: how it was trained, and on
    which questions (`question_hashes`); held_out: the comparison with the logit lens on others.
    """

    def __init__(self, layers: int, hidden_size: int, fingerprint: str, model: str) -> None:
        super().__init__()
        self.fingerprint, self.model = fingerprint, model
        self.settings: dict[str, Any] = {}
        self.held_out: LensComparison | None = None
        # The difference from the identity, so that weight decay pulls towards the logit lens.
        self.translators = nn.ModuleList(nn.Linear(hidden_size, hidden_size) for _ in range(layers))
        for weight in self.translators.parameters():
            nn.init.zeros_(weight)

    @classmethod
    def untrained(cls, model: ThoughtModel) -> TunedLens:
        """The lens of a model before training: it reads as the logit lens does."""
        lens = cls(model.layers, model.hidden_size, model_fingerprint(model), _in_words(model))
        return lens.to(model.device)

    def forward(self, state: Tensor, layer: int) -> Tensor:
        """state: [.., d] of a layer before the last. Returns [.., d], as the final norm would meet it."""
        whole = state.float()
        moved: Tensor = whole + self.translators[layer](whole)
        return moved.to(state.dtype)


def as_read(model: ThoughtModel, state: Tensor, layer: int, lens: TunedLens | None = None) -> Tensor:
    """state: [.., d] of one layer. Returns what the LM head reads through the lens, [.., d].

    lens: a tuned lens; without one the logit lens. Raises UsageError for a layer that is not there.
    """
    if not 0 <= layer <= model.layers:
        raise UsageError(f"There is no layer {layer}: this model has states of layers 0 to {model.layers}.")
    state = state.to(model.device)
    if layer == model.layers:
        return state  # after the final norm already
    read: Tensor = final_norm(model)(state if lens is None else lens(state, layer))
    return read


@torch.no_grad()
def lens_top(
    reasoner: LatentReasoner, states: Tensor, top_k: int = TOP_TOKENS, lens: TunedLens | None = None
) -> tuple[Tensor, Tensor]:
    """states: [.., layers + 1, d]. Probabilities and ids of each layer's top tokens, [.., layers + 1, k].

    At the last layer these are the decoded thought's. Raises UsageError where states or top_k do not fit.
    """
    _check_shape(reasoner.model, states)
    # Layer by layer: all layers' scores over a real vocabulary at once would fill the memory.
    layers = [
        top_tokens(reasoner.model, as_read(reasoner.model, states[..., layer, :], layer, lens), top_k)
        for layer in range(states.shape[-2])
    ]
    return torch.stack([top.values for top in layers], -2), torch.stack([top.indices for top in layers], -2)


def lens_tokens(
    reasoner: LatentReasoner, states: Tensor, top_k: int = TOP_TOKENS, lens: TunedLens | None = None
) -> list[list[list[list[tuple[str, float]]]]]:
    """states: [b, n, layers + 1, d]. By question, thought and layer the likeliest (token, probability)."""
    shares, ids = (top.tolist() for top in lens_top(reasoner, states, top_k, lens))
    model, text = reasoner.model, reasoner.text
    return [
        [
            [
                [(token_text(model, text, token), share) for token, share in zip(*layer, strict=True)]
                for layer in zip(*thought, strict=True)
            ]
            for thought in zip(*question, strict=True)
        ]
        for question in zip(ids, shares, strict=True)
    ]


@torch.no_grad()
def lens_divergence(
    reasoner: LatentReasoner, states: Tensor, lens: TunedLens | None = None, batch_size: int = BATCH_SIZE
) -> list[float]:
    """states: [b, n, layers + 1, d]. Mean KL(final || layer) in nats for every layer before the last."""
    _check_shape(reasoner.model, states)
    sums = torch.zeros(reasoner.model.layers, dtype=torch.float64)
    for rows in in_batches(states.shape[0], batch_size):
        batch = states[rows.start : rows.stop]
        final = _final_distribution(reasoner.model, batch)
        for layer in range(reasoner.model.layers):
            read = as_read(reasoner.model, batch[:, :, layer], layer, lens)
            sums[layer] += float(_divergence(reasoner.model, final, read).double().sum())
    means: list[float] = (sums / (states.shape[0] * states.shape[1])).tolist()
    return means


def compare_lenses(reasoner: LatentReasoner, states: Tensor, lens: TunedLens) -> LensComparison:
    """Both lenses on states [b, n, layers + 1, d] of questions that the tuned lens was not trained on."""
    return LensComparison(
        questions=states.shape[0],
        thoughts=states.shape[1],
        logit=lens_divergence(reasoner, states),
        tuned=lens_divergence(reasoner, states, lens),
    )


def train_tuned_lens(
    reasoner: LatentReasoner,
    questions: Sequence[str],
    held_out: Sequence[str],
    *,
    steps: int = 250,
    batch_size: int = 16,
    learning_rate: float = 1e-3,
    weight_decay: float = 1e-3,
    seed: int = 0,
    latents: int | None = None,
    source: str | None = None,
    on_progress: Callable[[int, int, float], None] | None = None,
) -> TunedLens:
    """Train a tuned lens on the thoughts of `questions`, and compare it with the logit lens on `held_out`.

    Every step draws `batch_size` questions (seed) and lowers KL(final || layer), summed over the layers, by
    AdamW, whose learning rate falls linearly to 0. The model itself is left as it is. source: where the
    questions are from, in words, to be remembered. on_progress: called with the step, all steps and the
    step's mean divergence in nats.

    Raises UsageError where there are no questions or steps, or where a question is in both lists.
    """
    if steps < 1 or batch_size < 1:
        raise UsageError(f"{steps} steps of {batch_size} questions were asked for; both must be 1 or more.")
    if shared := set(questions) & set(held_out):
        raise UsageError(
            f"{len(shared)} of the held-out questions are also trained on, the first: '{min(shared)}'. "
            "Leave them out of one of the two lists."
        )
    model = reasoner.model
    states = all_layer_states(reasoner, questions, latents=latents)
    unseen = all_layer_states(reasoner, held_out, latents=latents)
    lens = TunedLens.untrained(model)
    optimizer = torch.optim.AdamW(lens.parameters(), lr=learning_rate, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: 1 - done / steps)
    order = torch.Generator().manual_seed(seed)
    for step in range(steps):
        batch = states[torch.randperm(states.shape[0], generator=order)[:batch_size]]
        loss = _fill_gradients(model, lens, batch)
        optimizer.step()
        schedule.step()
        if on_progress is not None:
            on_progress(step + 1, steps, loss)
    lens.settings = {
        "questions": len(questions),
        "thoughts": states.shape[1],
        "steps": steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "seed": seed,
        "source": source,
        "question_hashes": sorted({question_hash(question) for question in questions}),
    }
    lens.held_out = compare_lenses(reasoner, unseen, lens)
    return lens.requires_grad_(False)


def _fill_gradients(model: ThoughtModel, lens: TunedLens, batch: Tensor) -> float:
    """Set every translator's gradient for states [b, n, layers + 1, d]. Returns the mean divergence."""
    with torch.no_grad():
        final = _final_distribution(model, batch)
    total = 0.0
    for layer, translator in enumerate(lens.translators):
        loss = _divergence(model, final, as_read(model, batch[:, :, layer], layer, lens)).mean()
        weights = list(translator.parameters())
        # Only these: backward() would also fill the gradients of the model's own norm and head.
        for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            weight.grad = gradient
        total += float(loss.detach())
    return total / len(lens.translators)


def _final_distribution(model: ThoughtModel, states: Tensor) -> Tensor:
    """states: [b, n, layers + 1, d]. The log-probabilities of the decoded thought, [b, n, vocabulary]."""
    return model.logits(states[:, :, -1].to(model.device)).float().log_softmax(-1)


def _divergence(model: ThoughtModel, final: Tensor, read: Tensor) -> Tensor:
    """KL(final || what the head makes of `read` [b, n, d]), [b, n]."""
    scores = model.logits(read).float().log_softmax(-1)
    return F.kl_div(scores, final, reduction="none", log_target=True).sum(-1)


def _check_shape(model: ThoughtModel, states: Tensor) -> None:
    wanted = (model.layers + 1, model.hidden_size)
    if tuple(states.shape[-2:]) != wanted:
        raise UsageError(
            f"States of shape {list(states.shape)} were given, but this model's end in {list(wanted)} "
            "(layers, the embedding included, and width). Record them with this model."
        )


# --- on disk ------------------------------------------------------------------------------------------------


@torch.no_grad()
def model_fingerprint(model: ThoughtModel) -> str:
    """A short identity of all that thinks: names, shapes and 64 values of every weight.

    Adapters, projection and thought tokens count too: models trained on one base often share its LM head.
    """
    digest = hashlib.sha256(_in_words(model).encode())
    for name, weight in sorted(model.named_parameters()):
        stride = max(1, weight.numel() // 64)
        sample = weight.detach().flatten()[::stride][:64].to("cpu", torch.float32)
        digest.update(f"{name} {tuple(weight.shape)}".encode())
        digest.update(sample.numpy().tobytes())
    return digest.hexdigest()[:16]


def _in_words(model: ThoughtModel) -> str:
    return f"{model.causal.config.model_type}, {model.layers} layers of width {model.hidden_size}"


def save_lens(lens: TunedLens, path: Path) -> None:
    """Write the lens as one safetensors file whose header holds its account as JSON; whole or not at all.

    Raises CheckpointError when it cannot be written.
    """
    account = {
        "kind": KIND,
        "fingerprint": lens.fingerprint,
        "model": lens.model,
        "settings": lens.settings,
        "held_out": None if lens.held_out is None else lens.held_out.as_dict(),
    }
    scratch = path.with_name(f".{path.name}.saving")
    weights = {name: weight.contiguous() for name, weight in lens.state_dict().items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(weights, scratch, metadata={"codi": json.dumps(account)})
        scratch.replace(path)
    except (OSError, SafetensorError) as error:
        if path.parent.is_dir():
            scratch.unlink(missing_ok=True)
        raise CheckpointError(
            f"The lens could not be written to '{path}': {error}. Free some space, fix the folder's rights, "
            "or choose another place."
        ) from error


def load_lens(path: Path, model: ThoughtModel) -> TunedLens:
    """The lens saved at `path`, which must belong to `model`.

    Raises CheckpointError when the file is missing, damaged, no lens, or the lens of another model.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header: dict[str, str] = file.metadata() or {}
            weights = {name: cast(Tensor, file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
        account: dict[str, Any] = json.loads(header.get("codi", "{}"))
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise CheckpointError(f"The lens '{path}' is missing or damaged: {error}. Train it again.") from error
    if account.get("kind") != KIND:
        raise CheckpointError(f"'{path}' is no tuned lens. Give a file that `save_lens` wrote.")
    lens = TunedLens.untrained(model)
    if account["fingerprint"] != lens.fingerprint:
        raise CheckpointError(
            f"'{path}' is the lens of another model: it belongs to {account['model']}, weights "
            f"{account['fingerprint']}; this model is {lens.model}, weights {lens.fingerprint}. Give the "
            "model it was trained on, or train a lens for this one."
        )
    try:
        lens.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"The lens '{path}' is damaged: {error}. Train it again.") from error
    lens.settings = account["settings"]
    lens.held_out = None if account["held_out"] is None else LensComparison(**account["held_out"])
    return lens.requires_grad_(False)
