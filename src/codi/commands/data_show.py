"""`codi data SOURCE --show N`: what a method will read of a set, before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from codi.commands.console import note
from codi.errors import CheckpointError, DataError, UsageError

if TYPE_CHECKING:
    from codi.data.example import Example
    from codi.data.text_format import TextFormat
    from codi.training.recipes import RunConfig

METHOD = "codi"
"""Whose reading is shown where none is named."""


def recipe_of(recipe: str | None, method: str | None) -> RunConfig:
    """The recipe whose method, text and data settings count; without one, the method's defaults.

    Raises RecipeError for an unknown recipe or method.
    """
    from codi.training.recipes import build_run_config, load_recipe

    if recipe is not None:
        return load_recipe(recipe, [f"method.name={method}"] if method else [])
    return build_run_config({"method": {"name": method or METHOD}, "model": {}})


def reading(source: str, config: RunConfig) -> dict[str, Any]:
    """How the recipe reads rows, as arguments of `load_examples`."""
    from codi.data.sources import GENERATORS, Columns

    data = config.data
    own = source.partition("?")[0] in GENERATORS
    return {
        "columns": Columns(**data.columns) if data.columns and not own else None,
        "steps_rule": data.steps_rule,
        "annotations": data.annotations,
        "skip_bad_rows": data.skip_bad_rows,
    }


def shown(source: str, examples: list[Example], config: RunConfig, tokenizer: str | None, rows: int) -> str:
    """The overview of `examples` with `rows` of them written out, and what is to be said of them.

    tokenizer: a name for `load_tokenizer`; None takes the recipe's, else counts words. No model is loaded.
    """
    from codi.data.encoding import TextEncoder
    from codi.methods.method import build_method
    from codi.training.lost_text import check_text
    from codi.training.overview import check_rationales, overview
    from codi.training.tokenisation import tokenise

    if rows < 0:
        raise UsageError(f"--show must be 0 or more, got {rows}.")
    method = build_method(config.method)
    made, unit = _tokenizer(source, examples, config, tokenizer)
    tokens = tokenise(
        examples,
        method,
        TextEncoder(made, config.text),
        form=config.data.rationale_form,
        skip_bad_rows=config.data.skip_bad_rows,
        source=source,
    )
    for report in tokens.reports:
        note(report.describe())
    if not len(tokens):
        raise DataError(f"No example of '{source}' is left to show.")
    seen = overview(tokens, method, TextEncoder(made, config.text), shown=rows, unit=unit)
    try:
        notes = check_rationales(seen, method, source)
        notes += check_text(tokens.sample, method, TextEncoder(made, config.text), source)
    except DataError as refusal:
        notes = [f"Training would refuse this: {refusal}"]
    return "\n\n".join([seen.describe(), *notes])


def _tokenizer(source: str, examples: list[Example], config: RunConfig, named: str | None) -> tuple[Any, str]:
    """The tokenizer, and what its pieces are called."""
    from codi.data.tokenizer_of_rows import word_tokenizer_of
    from codi.modeling.checkpoint import load_tokenizer

    if named is not None:
        return load_tokenizer(named), "tokens"
    if source.partition("?")[0] == "word-problems":
        return load_tokenizer("word-problems"), "tokens"
    usual = config.tokenizer or config.model.base
    if usual is not None and usual != "word-problems":  # which knows the generated problems only
        try:
            return load_tokenizer(usual), "tokens"
        except CheckpointError as error:
            note(f"{error} Lengths are in words until then.")
    else:
        note("No tokenizer was named (--tokenizer HUB_ID_OR_FOLDER): lengths are in words and marks.")
    return word_tokenizer_of(_texts(examples, config.text)), "words"


def _texts(examples: list[Example], form: TextFormat) -> Iterator[str]:
    for example in examples:
        yield example.question + form.question_suffix
        yield form.step_separator.join(step + form.step_suffix for step in example.steps)
        yield form.answer_prompt + form.answer_separator + example.answer + form.answer_suffix
    yield form.answer_prompt
