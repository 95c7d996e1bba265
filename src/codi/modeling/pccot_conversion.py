"""A published PCCoT folder (whyNLP/PCCoT's layout) becomes a thought model of this package.

    pccot_args.json            ids of <pcot.bot>, <pcot.eot>, <pcot.latent>; latents; the answer prompt
    config.json                rounds (num_iterations), use_projection, weights of the loss; may be empty, and
                               then the weights say whether there is a projection
    adapter_config.json        rank, alpha, target modules, and which token rows were trained
    adapter_model.safetensors  (or .bin, or shards with an index)
        base_model.model.<name>.lora_A.weight                                  and lora_B
        base_model.model.<embedding>.token_adapter.trainable_tokens_delta      the trained rows, in that order
        base_model.model.prj.0, prj.2, prj.3                                   linear, linear, layer norm

The base is not in the folder. Of the trained rows (a tied head has them again), end of text, and padding
where the base has it, are the base's own: they are changed there, and the base is then stored with the
checkpoint. A whole embedding or head, which peft stores where a vocabulary grew, must be the base's.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor

from codi.errors import CheckpointError, CodiError
from codi.modeling.backbone import fingerprint
from codi.modeling.configuration import LoraSettings, ModelConfig
from codi.modeling.conversion import Conversion
from codi.modeling.model import ThoughtModel
from codi.modeling.published_files import ADAPTERS, find_weights, read_weights

ARGUMENTS, ADAPTER_CONFIG, CONFIG = "pccot_args.json", "adapter_config.json", "config.json"
PREFIX = "base_model.model."
LATENT = "<latent>"
PROJECTION = {"prj.0": "layers.1", "prj.2": "layers.3", "prj.3": "layers.4"}
"""The published projection's parts, and ours."""
ROWS = {"bot_token_id": "<bot>", "eot_token_id": "<eot>", "latent_token_id": LATENT}
TRAINED_ROWS = ".token_adapter.trainable_tokens_delta"


@dataclass(frozen=True, slots=True)
class PccotFolder:
    """What a published folder says. rounds, projection: None where its configuration does not say."""

    folder: Path
    base: str | None
    latents: int
    rounds: int | None
    answer_prompt: str
    projection: bool | None
    loss: dict[str, Any]
    lora: LoraSettings
    trained: tuple[int, ...]
    rows: dict[str, int]

    @classmethod
    def read(cls, folder: Path) -> PccotFolder:
        """Raises CheckpointError where a file is missing, broken, of a run without adapters, or of adapters
        with a setting that is not known here."""
        said, adapter = _object(folder / ARGUMENTS), _object(folder / ADAPTER_CONFIG)
        config = _object(folder / CONFIG) if (folder / CONFIG).exists() else {}
        trained = adapter.get("trainable_token_indices")
        indices = list(trained.values()) if isinstance(trained, dict) else [trained or []]
        missing = [name for name in ROWS if not isinstance(said.get(name), int)]
        missing += [name for name in ("r", "lora_alpha", "target_modules") if name not in adapter]
        if missing or len(indices) != 1:
            raise CheckpointError(
                f"'{folder}' is no published PCCoT folder as it is known here: {ARGUMENTS} or "
                f"{ADAPTER_CONFIG} does not give {', '.join(missing) or 'trainable_token_indices'}."
            )
        _known_settings(folder / ADAPTER_CONFIG, adapter)
        targets = adapter["target_modules"]
        projection = config.get("use_projection")
        rounds = config.get("num_iterations")
        return cls(
            folder=folder,
            base=adapter.get("base_model_name_or_path"),
            latents=int(said.get("num_latent_tokens", 6)),
            rounds=None if rounds is None else int(rounds),
            answer_prompt=str(said.get("answer_prompt", "The answer is:")),
            projection=None if projection is None else bool(projection),
            loss={name: config[name] for name in LOSS if name in config},
            lora=LoraSettings(
                rank=int(adapter["r"]),
                alpha=float(adapter["lora_alpha"]),
                dropout=float(adapter.get("lora_dropout", 0.0)),
                targets=targets if isinstance(targets, str) else sorted(targets),
            ),
            trained=tuple(int(index) for index in indices[0]),
            rows={ours: int(said[theirs]) for theirs, ours in ROWS.items()},
        )

    def options(self, latents: int | None, rounds: int | None) -> dict[str, Any]:
        """Those of `method: pccot`, in its letters. Raises CheckpointError where nobody says the rounds."""
        rounds = self.rounds if rounds is None else rounds
        if rounds is None:
            raise CheckpointError(
                f"'{self.folder / CONFIG}' does not say num_iterations, the rounds that it was trained with. "
                "Say it with --rounds (the published runs: 3)."
            )
        given: dict[str, Any] = {
            ours: float(self.loss[theirs]) for theirs, ours in LOSS.items() if ours and theirs in self.loss
        }
        if "use_layerwise_std" in self.loss:
            given["std"] = "layer" if self.loss["use_layerwise_std"] else "all"
        return {**given, "latents": self.latents if latents is None else latents, "rounds": rounds}


LOSS = {"loss_alpha": "gamma", "loss_beta": "alpha", "loss_gamma": "beta", "use_layerwise_std": ""}
"""Weights of the loss in config.json, and ours."""
READ = {"r", "lora_alpha", "lora_dropout", "target_modules", "trainable_token_indices"}
"""Settings of the adapters that are followed."""
WITHOUT_EFFECT = {
    "base_model_name_or_path", "revision", "task_type", "auto_mapping", "peft_version", "inference_mode",
    "megatron_core", "modules_to_save", "fan_in_fan_out",
}  # fmt: skip
"""Settings that say where the weights come from, or that the weights themselves show."""
NEUTRAL = {"peft_type": ("LORA",), "bias": ("none",), "init_lora_weights": (True, False, "gaussian")}
"""Values of others with which the adapters are B A alpha / r, as here; else what peft takes by itself."""


def _known_settings(file: Path, adapter: dict[str, Any]) -> None:
    """Refuse adapters that compute, or stand elsewhere, in a way that is not known here."""
    usual = vars(LoraConfig())
    strange = [
        f"{name} {json.dumps(value)}"
        for name, value in sorted(adapter.items())
        if name not in READ | WITHOUT_EFFECT
        and value not in NEUTRAL.get(name, (usual.get(name), None, False, {}, []))
    ]
    if strange:
        raise CheckpointError(
            f"{file} has settings that are not understood here: {', '.join(strange)}. Only plain LoRA "
            "adapters, alike in every layer, can be converted."
        )


@torch.no_grad()
def convert_pccot(published: PccotFolder, base: str) -> Conversion:
    """A thought model with the folder's weights, in float32 over `base`.

    Raises CheckpointError when they do not belong together.
    """
    file = find_weights(str(published.folder), ADAPTERS)
    weights = {name.removeprefix(PREFIX): weight for name, weight in read_weights(file).items()}
    projection = _has_projection(file, weights, published)
    config = ModelConfig(
        base=base, lora=published.lora, projection=projection, rows=[LATENT], train_rows=True
    )
    try:
        model = ThoughtModel(config)
    except CodiError as error:  # not to be had, or another family: then the adapters do not fit
        raise CheckpointError(f"{error}\nPoint at a local copy of the base with --base FOLDER.") from error
    adapters = {PREFIX + name: weights.pop(name) for name in list(weights) if ".lora_" in name}
    wanted = get_peft_model_state_dict(model.backbone, save_embedding_layers=False)
    _same_shapes(file, wanted, adapters, base)
    set_peft_model_state_dict(model.backbone, adapters)
    _take_projection(file, weights, model)
    changed, largest = _take_rows(file, weights, model, published)
    model.config = replace(model.config, base_fingerprint=fingerprint(model.causal))
    return Conversion(model.eval(), None, changed, largest, torch.float32)


def _has_projection(file: Path, weights: dict[str, Tensor], published: PccotFolder) -> bool:
    """As the configuration says, or else the weights."""
    held = any(name.startswith("prj.") for name in weights)
    if held and published.projection is False:
        raise CheckpointError(
            f"{file} holds a projection, but {published.folder / CONFIG} says use_projection false. Fetch "
            "both again, from one run."
        )
    return held or bool(published.projection)


def _take_projection(file: Path, weights: dict[str, Tensor], model: ThoughtModel) -> None:
    if not model.config.projection:
        return
    theirs = {name: weights.pop(name).float() for name in list(weights) if name.startswith("prj.")}
    named = {f"{ours}.{kind}": f"{name}.{kind}" for name, ours in PROJECTION.items() for kind in _KINDS}
    wanted = {named[name]: weight for name, weight in model.projection.state_dict().items()}
    _same_shapes(file, wanted, theirs, "the projection (use_projection)")
    model.projection.load_state_dict({ours: theirs[name] for ours, name in named.items()})


_KINDS = ("weight", "bias")


def _take_rows(
    file: Path, weights: dict[str, Tensor], model: ThoughtModel, published: PccotFolder
) -> tuple[list[str], float]:
    """Our rows, and what of the base's own has changed: names, and the largest difference."""
    again = weights.pop(f"lm_head{TRAINED_ROWS}", None)  # a tied head's are the embedding's
    trained = [name for name in weights if name.endswith(TRAINED_ROWS)]
    embedding = model.causal.get_input_embeddings().weight
    if len(trained) != 1 or weights[trained[0]].shape != (len(published.trained), model.hidden_size):
        raise CheckpointError(
            f"{file} does not hold the {len(published.trained)} trained rows of width {model.hidden_size} "
            f"that {ADAPTER_CONFIG} names ('...{TRAINED_ROWS}'). Fetch it again, or give its base (--base)."
        )
    if again is not None and not torch.equal(again, weights[trained[0]]):
        raise CheckpointError(f"{file} holds a tied head's rows with other values. Fetch it again.")
    rows = dict(zip(published.trained, weights.pop(trained[0]).float(), strict=True))
    absent = [name for name, token in published.rows.items() if token not in rows]
    if absent:
        raise CheckpointError(f"{file} has no trained row for {', '.join(absent)}, of {ARGUMENTS}.")
    for name, token in published.rows.items():
        number = model.row_id(name) - model.bot_id
        own = model.rows[name] if name in model.rows else model.thought_tokens[number]
        own.copy_(rows.pop(token))
    _same_whole(file, weights, embedding, model.causal.get_output_embeddings().weight)
    own_rows = {token: row for token, row in rows.items() if token < embedding.shape[0]}
    differences = [float((embedding[token] - row).abs().max()) for token, row in own_rows.items()]
    for token, row in own_rows.items():  # end of text, and padding where the base has it
        embedding[token] = row
    largest = max(differences, default=0.0)
    name = trained[0].removesuffix(TRAINED_ROWS)
    return ([f"{name}.weight"] if largest else []), largest


def _same_whole(file: Path, weights: dict[str, Tensor], embedding: Tensor, head: Tensor) -> None:
    """Refuse whole matrices that are not the base's, and anything else that is left."""
    for name, weight in weights.items():
        is_head = name.startswith("lm_head.")
        ours = head if is_head else embedding
        is_whole = name.endswith("weight") and weight.dim() == 2 and weight.shape[1] == ours.shape[1]
        if not is_whole or weight.shape[0] < ours.shape[0]:
            raise CheckpointError(
                f"{file} has the unknown weight '{name}' {list(weight.shape)}; beside adapters, trained "
                "rows, a projection and the base's embedding nothing is known of this layout."
            )
        if not torch.equal(weight[: ours.shape[0]].to(torch.bfloat16), ours.to(torch.bfloat16)):
            raise CheckpointError(
                f"{file}: '{name}' is not the base's. Point at the base it was trained over with --base."
            )


def _same_shapes(file: Path, wanted: dict[str, Tensor], given: dict[str, Tensor], against: str) -> None:
    for name in sorted(set(wanted) | set(given)):
        shapes = [list(each[name].shape) if name in each else "nothing" for each in (given, wanted)]
        if shapes[0] != shapes[1]:
            raise CheckpointError(
                f"{file}: '{name}' is {shapes[0]}, but {against} takes {shapes[1]}. Is it its base (--base)?"
            )


def _object(file: Path) -> dict[str, Any]:
    """A JSON object; an empty file is an empty one."""
    try:
        text = file.read_text(encoding="utf-8")
        found = json.loads(text) if text.strip() else {}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} could not be read: {error}. Fetch it again.") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{file} holds no JSON object. Fetch it again.")
    return found
