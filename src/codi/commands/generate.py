"""`codi generate`: ask a checkpoint questions."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from codi.commands import options
from codi.commands.console import load_reasoner, note
from codi.errors import DataError, UsageError

if TYPE_CHECKING:
    from codi.generation.answer import Answer

TABLES = {".jsonl", ".json", ".csv", ".parquet"}
SHOWN_TOKENS = 3


def generate(
    checkpoint: Annotated[str, typer.Argument(help="Folder of a trained model, or a hub id.")],
    question: Annotated[
        str | None, typer.Argument(help="The question; without it, standard input, one question a line.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(help="Text with one question a line, or .jsonl .json .csv .parquet with a 'question'."),
    ] = None,
    mode: options.Mode = None,
    latents: options.Latents = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, with all counts.")] = False,
    show_thoughts: Annotated[
        bool, typer.Option("--show-thoughts", help="Show the tokens that each continuous thought decodes to.")
    ] = False,
    batch_size: options.BatchSize = 64,
    temperature: options.Temperature = 0.0,
    top_k: options.TopK = 0,
    top_p: options.TopP = 1.0,
    seed: options.SamplingSeed = 0,
    max_new_tokens: options.MaxNewTokens = 256,
    device: options.Device = None,
    base: options.Base = None,
) -> None:
    """Answer a question, a file of questions, or standard input."""
    questions = _questions(question, file)

    from codi.generation.decoding import Sampling

    sampling = Sampling(temperature, top_k, top_p, seed)
    reasoner = load_reasoner(checkpoint, device, base)
    written_out = reasoner.method.mode(mode) == "explicit"
    if show_thoughts:
        reasoner.method.mode("latent")  # refuses a model without latents before anything is answered
        if written_out or latents == 0:
            reason = "--mode explicit" if written_out else "--latents 0"
            raise UsageError(
                f"--show-thoughts was given with {reason}, which has no latents to decode. Leave one out."
            )
    for batch in reasoner.answer_batches(
        questions,
        mode=mode,
        latents=latents,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
    ):
        for _, answer in batch:
            thoughts = (
                reasoner.decode_thoughts(answer.question, SHOWN_TOKENS, latents) if show_thoughts else None
            )
            _print(answer, thoughts, as_json=as_json, written_out=written_out)


def _print(
    answer: Answer,
    thoughts: Sequence[Sequence[tuple[str, float]]] | None,
    *,
    as_json: bool,
    written_out: bool,
) -> None:
    if as_json:
        values: dict[str, Any] = asdict(answer)
        if thoughts is not None:
            values["decoded_thoughts"] = thoughts
        typer.echo(json.dumps(values, ensure_ascii=False))
        return
    for number, tokens in enumerate(thoughts or (), start=1):
        shown = "   ".join(f"{token.strip() or token!r} {100 * share:.0f} %" for token, share in tokens)
        typer.echo(f"thought {number}: {shown}")
    typer.echo(answer.text.strip() if written_out or answer.value is None else answer.value)


def _questions(question: str | None, file: Path | None) -> list[str]:
    """The questions asked. Raises UsageError or DataError when there is none, or one is empty."""
    if question is not None and file is not None:
        raise UsageError("A question and a --file were given. Give one of them.")
    if question is not None:
        if not question.strip():
            raise UsageError("The question is empty. Write it in quotes after the checkpoint.")
        return [question]
    if file is None:
        if sys.stdin.isatty():
            note("One question a line; end with Ctrl-D.")
        return _from_lines(sys.stdin.read(), "standard input")
    if file.suffix.lower() in TABLES:
        return _from_table(file)
    if not file.is_file():
        raise DataError(f"The file '{file}' does not exist. Check the path.")
    try:
        return _from_lines(file.read_text(encoding="utf-8-sig"), f"'{file}'")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The file '{file}' cannot be read as UTF-8 text: {error}.") from error


def _from_lines(text: str, where: str) -> list[str]:
    lines = [line.strip() for line in text.rstrip().splitlines()]
    if not lines:
        raise DataError(f"There is no question in {where}: it is empty. Write one question a line.")
    for number, line in enumerate(lines, start=1):
        if not line:
            raise DataError(f"The question in line {number} of {where} is empty. Write one question a line.")
    return lines


def _from_table(file: Path) -> list[str]:
    from codi.data.files import read_file

    rows = read_file(file)
    if "question" not in rows.columns:
        found = ", ".join(map(repr, rows.columns))
        raise DataError(f"'{file}' has no column 'question'. Columns found: {found}. Rename one.")
    questions = []
    for number, row in rows.rows:
        value = row.get("question")
        if not isinstance(value, str) or not value.strip():
            raise DataError(f"{file}, {rows.unit} {number}: empty question. Mend or remove it.")
        questions.append(value)
    return questions
