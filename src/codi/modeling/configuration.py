"""What a thought model is made of. Saved whole with every checkpoint, enough to load it again."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, is_dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from codi.data.text_format import TextFormat
from codi.errors import RecipeError, nearest

__all__ = ["LoraSettings", "ModelConfig", "TextFormat", "check_keys", "check_values"]


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank adapters (peft). Defaults are the paper's (Appendix A)."""

    rank: int = 128
    alpha: float = 32.0
    dropout: float = 0.1
    targets: str | list[str] = "all-linear"
    """Module names, or `all-linear`: every linear layer except the LM head."""
    multiply_once: bool = False
    """Multiply adapters into the weights once a training step (see `codi.modeling.adapters`): quicker for
    small bases; needs dropout 0."""


@dataclass(frozen=True)
class ModelConfig:
    """Base model, adapters, projection and thought tokens.

    Exactly one of `base` and `base_config` says what to start from.
    """

    base: str | None = None
    """Hub id or directory of a pretrained causal LM, or a .gguf file."""
    base_revision: str | None = None
    """Hub revision (branch, tag or commit) of `base`."""
    gguf_file: str | None = None
    """Name of a GGUF file in `base` (a directory or hub id); it is held dequantised."""
    merge_adapter: bool | None = None
    """`base` is a PEFT adapter, to be multiplied into the base that it names; otherwise one is refused."""
    base_config: dict[str, Any] | None = None
    """A transformers configuration (with `model_type`) for a model that starts from random weights."""
    dtype: str = "float32"
    """Type the weights are held in: float32, bfloat16 or float16. Mixed precision is the trainer's `bf16`;
    what is trained is held in float32."""
    base_dtype: str | None = None
    """Type that a frozen base (under LoRA) is held in: float32, or bfloat16, which takes half the memory and
    spares mixed precision a cast of every weight in every pass. None: as `dtype`."""
    attention: str | None = None
    """sdpa, eager or flash_attention_2; None lets transformers choose (sdpa, where the base has it)."""
    base_rounded_to: str | None = None
    """A narrower type (bfloat16) that the base's weights are rounded to before they are held in `dtype`: what
    a model was trained over, where that was a rounded copy of the published base."""
    recompute: bool = False
    """Keep no activations of a pass, but its inputs, keys and values, and compute it again in backward: far
    less memory, about a third more computation (activation checkpointing that keeps the thoughts)."""
    lora: LoraSettings | None = None
    """Adapters; None trains every weight of the base."""
    projection: bool = True
    """Whether a projection stands between a thought and the next input (Table 2, "w/o Projection")."""
    projection_width: int | None = None
    """Hidden units of the projection; None takes the base's hidden size."""
    projection_dropout: float = 0.0
    """Share of projection inputs dropped in training."""
    train_thought_tokens: bool = True
    """Whether the <bot> and <eot> rows learn (as the paper says) or stay frozen (its code, under LoRA)."""
    thought_tokens_from: str | dict[str, str] | None = None
    """A token (`<<`) whose row <bot>, <eot> and the method's own rows start from, or one for each by name
    (`{"<latent>": "<<"}`); what is not named is drawn like the vocabulary's own."""
    train_rows: bool = True
    """Whether the rows that a method has beside <bot> and <eot> (<latent>, <pause>) learn."""
    rows: list[str] = field(default_factory=list)
    """Filled in from the method: names of its rows, which have the ids after <bot> and <eot>."""
    base_fingerprint: str | None = None
    """Filled in on saving: identifies the base's weights, so that another base is refused on loading."""
    base_vocabulary_rows: int | None = None
    """Filled in on saving: rows of the base's embedding. Our own take the ids after them."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """The reverse of `as_dict`. Raises RecipeError on a key that does not exist."""
        check_keys(values, cls, "model")
        values = dict(values)
        if isinstance(values.get("lora"), dict):
            check_keys(values["lora"], LoraSettings, "model.lora")
            values["lora"] = LoraSettings(**values["lora"])
        return cls(**values)


def check_keys(values: dict[str, Any], target: type, where: str, kinds: dict[str, Any] | None = None) -> None:
    """Raise RecipeError when `values` has a key or a kind of value that the dataclass does not take.

    kinds: of the values to check, where not all those of the dataclass are wanted.
    """
    known = [f.name for f in fields(target)]
    for key in values:
        if key not in known:
            raise RecipeError(
                f"Unknown key '{key}' in {where}.{nearest(key, known)} Known keys: {', '.join(known)}."
            )
    check_values(values, get_type_hints(target) if kinds is None else kinds, where)


def check_values(values: dict[str, Any], kinds: dict[str, Any], where: str) -> None:
    """Raise RecipeError when a value is not of the kind (a type annotation) given for its key."""
    for key, value in values.items():
        if key in kinds and not _is_a(value, kinds[key]):
            number = kinds[key] is str and isinstance(value, int | float)
            quoted = f""" Put it in quotes: '"{value}"'.""" if number else ""
            raise RecipeError(f"{where}: '{key}' is {value!r}; it must be {_described(kinds[key])}.{quoted}")


_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}


def _is_a(value: Any, kind: Any) -> bool:
    if get_origin(kind) in (Union, UnionType):
        return any(_is_a(value, one) for one in get_args(kind))
    if kind is bool or isinstance(value, bool):
        return kind is bool and isinstance(value, bool)
    if kind in (int, float):
        return isinstance(value, int) or (isinstance(value, float) and (kind is float or value.is_integer()))
    if kind in (str, type(None)):
        return isinstance(value, kind)
    if get_origin(kind) is dict or is_dataclass(kind):  # an empty section is None
        return value is None or isinstance(value, dict) or value.__class__ is kind
    return get_origin(kind) is not list or isinstance(value, list)


def _described(kind: Any) -> str:
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(_described(one) for one in get_args(kind))
    if get_origin(kind) is list:
        return "a list"
    return _NAMES.get(kind, "a section of its own keys")
