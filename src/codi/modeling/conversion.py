"""A published CODI checkpoint (zhenyi4/codi's layout) becomes a thought model of this package.

    codi.base_model.model.<name>                          the base, its embedding longer by three rows
    codi.base_model.model.<name>.base_layer.weight        the base where an adapter stands over it
    codi.base_model.model.<name>.lora_A.default.weight    [rank, in], and lora_B [out, rank]
    codi.base_model.model.lm_head.weight                  a tied head, a second time
    prj.1, prj.3, prj.ln                                  linear, linear, layer norm

The three rows are padding, <bot> and <eot>, in that order. LoRA's alpha is not in the file: the published
runs used 32. The base there is a bfloat16 copy of the original; rounding the original gives it exactly, so it
need not be stored again.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from codi.errors import CheckpointError, CodiError, nearest
from codi.modeling.backbone import base_weights, fingerprint
from codi.modeling.checkpoint import read_tensors
from codi.modeling.configuration import LoraSettings, ModelConfig
from codi.modeling.model import ThoughtModel
from codi.modeling.precision import DTYPES

PREFIX = "codi.base_model.model."
PROJECTION = {"prj.1": "layers.1", "prj.3": "layers.3", "prj.ln": "layers.4"}
"""The published projection's parts, and ours."""
ADDED_ROWS = 3
BASES = {
    ("transformer.wte.weight", (50_257 + ADDED_ROWS, 768)): "openai-community/gpt2",
    ("model.embed_tokens.weight", (128_256 + ADDED_ROWS, 2048)): "meta-llama/Llama-3.2-1B-Instruct",
}
"""The bases of the published checkpoints, by name and shape of the embedding."""
_BUFFERS = re.compile(r"\.attn\.(masked_)?bias$|\.rotary_emb\.inv_freq$")
"""What older libraries stored beside the weights: made anew from the configuration."""
ROWS_FILE = "published_rows.safetensors"
_TRAINING_ALONE = ("decoder.", "pj_in.", "pj_out.")
"""SIM-CoT's decoder and what stands around it: not part of the model that answers."""


@dataclass(frozen=True, slots=True)
class PublishedRows:
    """What the released code computes with and this package does not: kept for its behaviour alone.

    padding: [d], the embedding of a padded position; head: [2, d], the head's rows of padding and <bot>,
    which the released code may predict.
    """

    padding: Tensor
    head: Tensor

    def save(self, folder: Path) -> None:
        """Beside the checkpoint in `folder`."""
        tensors = {"padding": self.padding.clone(), "head": self.head.clone()}
        try:
            save_file(tensors, folder / ROWS_FILE)
        except OSError as error:
            raise CheckpointError(f"{folder / ROWS_FILE} could not be written: {error}") from error

    @classmethod
    def load(cls, folder: Path) -> PublishedRows | None:
        """The rows in `folder`; None for a checkpoint that was not converted."""
        if not (folder / ROWS_FILE).exists():
            return None
        tensors = read_tensors(folder / ROWS_FILE)
        if set(tensors) != {"padding", "head"}:
            raise CheckpointError(f"{folder / ROWS_FILE} is not what `codi convert` writes. Convert again.")
        return cls(tensors["padding"], tensors["head"])


@dataclass(frozen=True, slots=True)
class Conversion:
    """A converted model, and how it relates to its base.

    changed: weights of the base that the file holds other values for, even rounded; where there are any, the
    file's own base has to be stored. largest_change: over those. base_dtype: the type that the file has the
    base in; rows: None where the layout has no such behaviour to keep.
    """

    model: ThoughtModel
    rows: PublishedRows | None
    changed: list[str]
    largest_change: float
    base_dtype: torch.dtype


def without_decoder(weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], bool]:
    """The weights of the model that answers, and whether there were SIM-CoT's others."""
    kept = {name: weight for name, weight in weights.items() if not name.startswith(_TRAINING_ALONE)}
    return kept, len(kept) < len(weights)


def known_base(weights: dict[str, Tensor]) -> str | None:
    """The hub id of the base, where it is one of the two published."""
    return next((BASES[found] for found in _embeddings(weights) if found in BASES), None)


def default_base(weights: dict[str, Tensor], file: Path) -> str:
    """The same. Raises CheckpointError when it is another, or the file is no published checkpoint at all."""
    known, found = known_base(weights), _embeddings(weights)
    if known is not None:
        return known
    if not found:
        raise CheckpointError(
            f"{file} is not a published CODI checkpoint: it has no embedding under '{PREFIX}'. "
            f"It has {', '.join(sorted(weights)[:3]) or 'nothing'}."
        )
    described = ", ".join(f"{name} {list(shape)}" for name, shape in found)
    raise CheckpointError(
        f"{file} ({described}) is neither of the published models, so its base is not known. "
        "Point at the base with --base FOLDER (or a hub id)."
    )


@torch.no_grad()
def convert(weights: dict[str, Tensor], file: Path, base: str, alpha: float = 32.0) -> Conversion:
    """A thought model with the published weights, in float32 over `base`.

    weights: the published file's tensors by name; file: where they are from, for messages; base: folder or
    hub id of the model they were trained over. Raises CheckpointError when they do not belong together.
    """
    lora = _adapters(weights, file, alpha)
    if "prj.1.weight" not in weights or weights["prj.1.weight"].dim() != 2:
        raise CheckpointError(f"{file} has no matrix 'prj.1.weight', the projection. Fetch it again.")
    config = ModelConfig(
        base=base,
        lora=lora,
        projection_width=weights["prj.1.weight"].shape[0],
        train_thought_tokens=False,
    )
    try:
        model = ThoughtModel(config)
    except CodiError as error:  # not to be had, or another family: then the adapters do not fit
        raise CheckpointError(f"{error}\nPoint at a local copy of the base with --base FOLDER.") from error
    weights = {name: weight for name, weight in weights.items() if not _BUFFERS.search(name)}
    _check_names(weights, file, model, base)
    # Padding, <bot>, <eot>. A head that is not tied has rows of its own for them.
    head_name = PREFIX + _name_of(model, model.causal.get_output_embeddings())
    embedding = weights[PREFIX + _name_of(model, model.causal.get_input_embeddings())]
    head = weights.get(head_name, embedding)
    if _is_tied(model) and not torch.equal(head, embedding):
        raise CheckpointError(
            f"{file} holds the tied head twice, with different values ({head_name}). Fetch it again."
        )
    rounded_to, changed, largest = _compare_with_base(weights, model)
    for name, parameter in _published_names(model):
        parameter.copy_(weights[name][: parameter.shape[0]])
    model.thought_tokens.copy_(embedding[model.bot_id + 1 :])
    model.config = replace(
        model.config, base_rounded_to=rounded_to, base_fingerprint=fingerprint(model.causal)
    )
    rows = PublishedRows(embedding[model.bot_id].float(), head[model.bot_id : model.bot_id + 2].float())
    kinds = {weights[name].dtype for name, _ in _base_names(model)}
    kind = kinds.pop() if len(kinds) == 1 else torch.float32
    return Conversion(model.eval(), rows, changed, largest, kind)


def store_base(converted: Conversion, folder: Path) -> None:
    """Write the file's own base, where it is not the original's, and let the model's configuration name it.

    Raises CheckpointError when it cannot be written.
    """
    causal = converted.model.causal
    tensors = {
        name: weight.detach().to(converted.base_dtype) for name, weight in base_weights(causal).items()
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        causal.config.save_pretrained(folder)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    except OSError as error:
        raise CheckpointError(f"The base could not be written to '{folder}': {error}") from error
    converted.model.config = replace(
        converted.model.config, base=str(folder.resolve()), base_revision=None, base_rounded_to=None
    )


def _embeddings(weights: dict[str, Tensor]) -> list[tuple[str, tuple[int, ...]]]:
    """Name and shape of what looks like the embedding of a base."""
    return [
        (name.removeprefix(PREFIX), tuple(weight.shape))
        for name, weight in weights.items()
        if name.startswith(PREFIX) and name.endswith(("wte.weight", "embed_tokens.weight"))
    ]


def _adapters(weights: dict[str, Tensor], file: Path, alpha: float) -> LoraSettings:
    """Rank and target modules, from names and shapes."""
    first = {name: weight for name, weight in weights.items() if ".lora_A." in name and weight.dim() == 2}
    if not first:
        known = ", ".join(sorted(weights)[:3]) or "nothing"
        raise CheckpointError(
            f"{file} is not a published CODI checkpoint: it has no adapters (names with '.lora_A.'). "
            f"It has {known}."
        )
    rank = Counter(weight.shape[0] for weight in first.values()).most_common(1)[0][0]
    targets = sorted({name.partition(".lora_A.")[0].rpartition(".")[2] for name in first})
    return LoraSettings(rank=rank, alpha=alpha, targets=targets)


def _published_names(model: ThoughtModel) -> Iterator[tuple[str, Tensor]]:
    """Our parameters under the names that the published file has for them; a tied head is left out."""
    for name, parameter in model.causal.named_parameters():
        yield PREFIX + name, parameter
    for theirs, ours in PROJECTION.items():
        for kind in ("weight", "bias"):
            yield f"{theirs}.{kind}", model.projection.get_parameter(f"{ours}.{kind}")


def _base_names(model: ThoughtModel) -> Iterator[tuple[str, Tensor]]:
    """Those of `_published_names` that are the base's."""
    for name, parameter in _published_names(model):
        if name.startswith(PREFIX) and ".lora_" not in name:
            yield name, parameter


def _check_names(weights: dict[str, Tensor], file: Path, model: ThoughtModel, base: str) -> None:
    """Refuse what is missing, unknown or of another shape, with the first few names."""
    expected = {name: tuple(parameter.shape) for name, parameter in _published_names(model)}
    longer = [model.causal.get_input_embeddings(), model.causal.get_output_embeddings()]
    for name in {PREFIX + _name_of(model, module) for module in longer} & set(expected):
        rows, width = expected[name]
        expected[name] = (rows + ADDED_ROWS, width)
    optional = {PREFIX + _name_of(model, model.causal.get_output_embeddings())} if _is_tied(model) else set()
    unknown = sorted(set(weights) - set(expected) - optional)
    missing = sorted(set(expected) - set(weights))
    against = f"It was read as a CODI checkpoint over the base '{base}'; is that its base (--base)?"
    if unknown:
        hint = nearest(unknown[0], missing or expected)
        raise CheckpointError(
            f"{file} has {len(unknown)} unknown weight(s): {', '.join(unknown[:3])}.{hint} {against}"
        )
    if missing:
        raise CheckpointError(f"{file} lacks {len(missing)} weight(s): {', '.join(missing[:3])}. {against}")
    for name, shape in expected.items():
        if tuple(weights[name].shape) != shape:
            raise CheckpointError(
                f"{file}: {name} has shape {list(weights[name].shape)}, expected {list(shape)}. {against}"
            )
        if not weights[name].is_floating_point():
            raise CheckpointError(
                f"{file}: {name} holds {weights[name].dtype} values, expected floating-point ones."
            )


def _compare_with_base(
    weights: dict[str, Tensor], model: ThoughtModel
) -> tuple[str | None, list[str], float]:
    """What the base is to be rounded to to be the file's; what differs all the same, and by how much."""
    pairs = {name: (parameter, weights[name][: parameter.shape[0]]) for name, parameter in _base_names(model)}

    def differing(rounded_to: str | None) -> list[str]:
        kind = torch.float32 if rounded_to is None else DTYPES[rounded_to]
        return [
            name
            for name, (ours, theirs) in pairs.items()
            if not torch.equal(ours.to(kind).float(), theirs.float())
        ]

    found = {rounded_to: differing(rounded_to) for rounded_to in (None, "bfloat16", "float16")}
    best = min(found, key=lambda rounded_to: len(found[rounded_to]))
    differences = [float((pairs[n][0] - pairs[n][1].float()).abs().max()) for n in found[best]]
    return best, [name.removeprefix(PREFIX) for name in found[best]], max(differences, default=0.0)


def _name_of(model: ThoughtModel, wanted: Any) -> str:
    """The name of a module's weight within the base, e.g. `transformer.wte.weight`."""
    return next(f"{name}.weight" for name, module in model.causal.named_modules() if module is wanted)


def _is_tied(model: ThoughtModel) -> bool:
    tied: bool = model.causal.get_input_embeddings().weight is model.causal.get_output_embeddings().weight
    return tied
