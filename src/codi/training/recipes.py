"""Run configurations: YAML recipes, command line over YAML, and unknown keys as errors.

A recipe has five sections (`method`, `model`, `text`, `data`, `training`), a `tokenizer`, an `optimizer`, a
`scorer` and a `start`; with `like: NAME` it takes what it does not say itself from another recipe. An
override such as `training.learning_rate=1e-3` or `method.latents=3` replaces one value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, get_type_hints

from codi.data.columns import ANNOTATIONS
from codi.data.derived_rationales import FORMS
from codi.data.sources import Columns
from codi.data.text_format import TextFormat
from codi.errors import RecipeError, nearest
from codi.evaluation.scorers import AUTO, check_scorer_name
from codi.methods.method import build_method, method_kinds
from codi.modeling.configuration import ModelConfig, check_keys, check_values
from codi.training.settings import NOTHING, Typed, read_as, read_section, read_yaml

GRAPHS = ("auto", "on", "off")
"""Choices of `training.graphs`."""


@dataclass(frozen=True)
class DataConfig:
    """What to train and validate on."""

    train: str = "word-problems"
    """A hub short name, a file, or the generator (`word-problems?count=20000`)."""
    train_split: str = "train"
    """Split of `train` (no matter for a file that holds one)."""
    train_limit: int | None = None
    """Use the first rows only; None uses all."""
    validation: str | None = "word-problems"
    """Where validation questions come from; None trains without validation. Never a test split."""
    validation_split: str = "validation"
    """Split of `validation` (no matter for a file that holds one)."""
    validation_limit: int | None = 500
    """Validation questions asked at each evaluation."""
    columns: dict[str, str] = field(default_factory=dict)
    """Column names of a file of one's own: question, rationale, steps, answer."""
    steps_rule: str = "auto"
    """How a rationale is split: auto, equations, sentences, published-spaces, published-sentences."""
    annotations: str = "keep"
    """`remove` leaves GSM8K's calculator annotations out of sentences: "= <<48/2=24>>24" is "= 24"."""
    rationale_form: str = "whole"
    """`whole`, or shorter ones made from its equations (Table A3): results, operators-and-results."""
    max_tokens: int | None = None
    """Leave out (and count) training rows whose question, rationale and answer are longer together."""
    skip_bad_rows: bool = False
    """Leave out (and count) rows with an empty question or no answer instead of stopping at the first."""
    group_by_length: bool = True
    """Batches of similar length, which saves padding; False mixes all lengths in every batch."""
    width_buckets: int | None = None
    """Pad batches to at most so many shapes, chosen from the data's lengths: on a GPU a shape that was met
    before costs nothing new. None pads each batch to its own longest rows; where steps become CUDA graphs
    (training.graphs) it is 4."""
    exclude_validation_questions: bool = True
    """Remove from training the questions that validation asks."""


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run. Saved as `run.yaml` beside its results."""

    method: dict[str, Any]
    model: ModelConfig
    tokenizer: str | None = None
    """`word-problems`, a hub id or a directory; None takes the base's own."""
    start: str | None = None
    """A checkpoint (folder or hub id) whose weights training starts from; its method may be another."""
    text: TextFormat = field(default_factory=TextFormat)
    data: DataConfig = field(default_factory=DataConfig)
    training: dict[str, Any] = field(default_factory=dict)
    """Arguments of transformers' Trainer (`learning_rate`, `num_train_epochs`, `bf16`, `report_to`, ...), and
    `graphs`: whether steps become CUDA graphs, `auto` (where they can), `on` or `off`."""
    optimizer: str | None = None
    """`muon`: Muon for the layers' matrices, AdamW for the rest, both at training.learning_rate; None takes
    training.optim."""
    scorer: str = AUTO
    """Scorer of the validation accuracy that picks the best checkpoint; `auto` takes the one that fits the
    validation answers."""

    def as_dict(self) -> dict[str, Any]:
        """YAML-ready values."""
        return asdict(self)


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    folder = resources.files("codi.training") / "recipes"
    return sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml"))


def recipe_text(name_or_path: str) -> str:
    """The YAML of a recipe by name or path. Raises RecipeError when there is none."""
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except OSError as error:
            raise RecipeError(f"The recipe file '{path}' cannot be read: {error.strerror}.") from error
    names = recipe_names()
    if name_or_path not in names:
        raise RecipeError(
            f"Unknown recipe '{name_or_path}'.{nearest(name_or_path, names)} "
            f"Known recipes: {', '.join(names)}; or give the path of a YAML file."
        )
    return (resources.files("codi.training") / "recipes" / f"{name_or_path}.yaml").read_text(encoding="utf-8")


Recipe = str | Path | Mapping[str, Any] | RunConfig
"""A recipe's name, the path of a YAML file, its values by section, or what those have become."""
Settings = Sequence[str] | Mapping[str, Any]
"""What goes over a recipe's values: texts as on the command line, `["method.latents=3"]`, or values by their
dotted keys, `{"method.latents": 3}`."""


def load_recipe(recipe: Recipe, settings: Settings | None = None) -> RunConfig:
    """A run configuration from a recipe and the settings over it. Raises RecipeError.

    A setting of `method.name` drops the options that the recipe sets for its own method, so that a baseline
    is one setting away; options given as settings are kept.
    """
    if isinstance(recipe, RunConfig) and not settings:
        return recipe
    values, where = _values_of(recipe)
    given = _split(settings or ())
    named = [value for path, value in given if path == "method.name"]
    if named:
        name = str(named[-1]).strip()
        recipe_method = values.get("method")
        if isinstance(recipe_method, dict) and recipe_method.get("name") != name:
            values["method"] = {"name": name}
    for path, value in given:
        _apply(values, path, value)
    return build_run_config(values, where)


def _values_of(recipe: Recipe) -> tuple[dict[str, Any], str]:
    """A recipe's values, free to be changed, and what errors call it."""
    if isinstance(recipe, RunConfig):
        return recipe.as_dict(), "the configuration"
    if isinstance(recipe, Mapping):
        return deepcopy(dict(recipe)), "the recipe"
    return _read_recipe(str(recipe), seen=()), str(recipe)


def _read_recipe(recipe: str, seen: tuple[str, ...]) -> dict[str, Any]:
    """A recipe's values, over those of the recipe that it is `like`. Its method stands whole."""
    values = read_yaml(recipe_text(recipe), f"The recipe '{recipe}'")
    if not isinstance(values, dict):
        raise RecipeError(f"The recipe '{recipe}' holds no settings; it needs at least 'method' and 'model'.")
    like = values.pop("like", None)
    if like is None:
        return values
    if like in (*seen, recipe):
        raise RecipeError(f"The recipe '{recipe}' is like '{like}', which is like itself.")
    below = _read_recipe(str(like), (*seen, recipe))
    for key, value in values.items():
        inner = below.get(key)
        if key != "method" and isinstance(value, dict) and isinstance(inner, dict):
            value = {**inner, **value}
        below[key] = value
    return below


def build_run_config(values: dict[str, Any], where: str = "the recipe") -> RunConfig:
    """Check every key and build the typed configuration. Raises RecipeError."""
    check_keys(values, RunConfig, where, kinds={})
    values = {
        key: read_yaml(value, f"The value of '{key}', {value!r},") if isinstance(value, Typed) else value
        for key, value in values.items()
    }
    for section in ("method", "model"):
        if not isinstance(values.get(section), dict):
            raise RecipeError(f"{where} has no section '{section}'.")
    kinds = get_type_hints(RunConfig)
    method = values.pop("method")
    values["method"] = read_section(method, method_kinds(method.get("name")), "method")
    build_method(values["method"])  # says now, not after the data is loaded, what is wrong with it
    values["model"] = ModelConfig.from_dict(read_as(values["model"], ModelConfig, "model"))
    for section, target in (("text", TextFormat), ("data", DataConfig)):
        given = read_as(values.get(section) or {}, target, section)
        check_values({section: given}, {section: target}, where)
        if section == "text":  # `text.answer_separator=` means none
            given = {key: "" if value is None else value for key, value in given.items()}
        check_keys(given, target, section)
        values[section] = target(**given)
    check_keys(values["data"].columns or {}, Columns, "data.columns")
    if values["data"].rationale_form not in FORMS:
        raise RecipeError(
            f"data.rationale_form is '{values['data'].rationale_form}'; it must be one of {', '.join(FORMS)}."
        )
    if values["data"].annotations not in ANNOTATIONS:
        raise RecipeError(
            f"data.annotations is '{values['data'].annotations}'; it must be one of {', '.join(ANNOTATIONS)}."
        )
    if values["data"].width_buckets is not None and values["data"].width_buckets < 1:
        raise RecipeError(f"data.width_buckets is {values['data'].width_buckets}; it must be 1 or more.")
    for key in ("tokenizer", "start", "optimizer", "scorer"):
        if key in values:
            values[key] = read_as(values[key], kinds[key], key)
    check_values(values, {key: kinds[key] for key in ("tokenizer", "start", "optimizer", "scorer")}, where)
    check_scorer_name(values.get("scorer", AUTO))
    if values.get("optimizer") not in (None, "muon"):
        raise RecipeError(
            f"optimizer is '{values['optimizer']}'; it must be muon, or left out to take training.optim."
        )
    values["training"] = _training(values.get("training") or {}, where)
    if values.get("optimizer") and "optim" in values["training"]:
        raise RecipeError(
            "Both optimizer=muon and training.optim are set, and only one can be used. "
            "Leave training.optim out, or turn Muon off with optimizer=null."
        )
    return RunConfig(**values)


def _training(values: Any, where: str) -> dict[str, Any]:
    """The section of the Trainer's own settings, each by the kind that TrainingArguments gives it."""
    check_values({"training": values}, {"training": dict[str, Any]}, where)
    kinds = _training_kinds()
    for key in values:
        if key not in kinds:
            raise RecipeError(
                f"Unknown key '{key}' in training.{nearest(key, sorted(kinds))} "
                "It takes transformers' TrainingArguments, and graphs."
            )
    read = read_section(values, kinds, "training")
    check_values(read, kinds, "training")
    if read.get("graphs", "auto") not in GRAPHS:
        raise RecipeError(
            f"training.graphs is '{read['graphs']}'; it must be one of {', '.join(GRAPHS)}."
        )
    return read


@cache
def _training_kinds() -> dict[str, Any]:
    from transformers import TrainingArguments

    hints = get_type_hints(TrainingArguments)
    return {f.name: hints[f.name] for f in fields(TrainingArguments) if f.init} | {"graphs": str}


def _split(settings: Settings) -> list[tuple[str, Any]]:
    """Settings as (dotted key, value): a value that was typed is read by the kind of its key later on."""
    if isinstance(settings, Mapping):
        return list(deepcopy(dict(settings)).items())
    given: list[tuple[str, Any]] = []
    for setting in [settings] if isinstance(settings, str) else settings:
        path, separator, text = setting.partition("=")
        if not separator or not path:
            raise RecipeError(
                f"'{setting}' is not a setting. Write KEY=VALUE, for example training.learning_rate=1e-3."
            )
        quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
        given.append((path, read_yaml(text, f"The value of '{path}', {text!r},") if quoted else Typed(text)))
    return given


def _apply(values: dict[str, Any], path: str, value: Any) -> None:
    *sections, key = path.split(".")
    target = values
    for section in sections:
        inner = target.get(section)
        if isinstance(inner, Typed):  # given whole by an override before this one
            inner = read_yaml(inner, f"The value of '{section}', {str(inner)!r},")
        if inner is None or (isinstance(inner, Typed) and inner.lower() in NOTHING):
            inner = {}
        if not isinstance(inner, dict):
            raise RecipeError(f"'{path}': '{section}' is a single value, not a section.")
        target[section] = inner
        target = inner
    target[key] = str(value) if isinstance(value, Path) else value
