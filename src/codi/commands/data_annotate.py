"""`codi data annotate`: rationales for one's own questions, by a large model behind an endpoint."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from codi.commands import options
from codi.commands.console import note, progress
from codi.errors import UsageError

ANY_REASON = "all"


class RetryWithoutReason(TyperCommand):
    """`--retry-rejected` may stand alone: then it means all reasons."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        whole: list[str] = []
        for word, following in zip(args, [*args[1:], "-"], strict=True):
            whole.append(word)
            if word == "--retry-rejected" and following.startswith("-"):
                whole.append(ANY_REASON)
        return super().parse_args(ctx, whole)


def annotate(
    file: Annotated[str, typer.Argument(help="Questions with answers: any source.")],
    endpoint: Annotated[str, typer.Option(help="Address of an OpenAI-compatible API, with /v1.")],
    model: Annotated[str, typer.Option(help="Name of the model there.")],
    output: Annotated[Path, typer.Option(help="The .jsonl file; goes on where an earlier run stopped.")],
    scorer: Annotated[
        str, typer.Option(help="Rule that checks the answers; auto chooses it from them.")
    ] = "auto",
    split: Annotated[str, typer.Option(help="Split of a hub set or generator.")] = "train",
    count: Annotated[int | None, typer.Option(help="The first so many only.", min=1)] = None,
    concurrency: Annotated[int, typer.Option(help="Requests under way at a time.", min=1)] = 8,
    per_minute: Annotated[float | None, typer.Option(help="Most requests in a minute.")] = None,
    prompt: Annotated[
        Path | None, typer.Option(help="A text file with {question} in it, in place of the usual prompt.")
    ] = None,
    temperature: Annotated[float, typer.Option(help="Sampling temperature.", min=0)] = 0.0,
    max_tokens: Annotated[int, typer.Option(help="Most tokens of an answer, thinking too.", min=1)] = 512,
    extra: Annotated[
        str | None,
        typer.Option(help="""More fields of each request, as JSON: '{"top_p": 0.9}'; null removes one."""),
    ] = None,
    use_reasoning: Annotated[
        bool,
        typer.Option("--use-reasoning", help="Take the rationale from the reasoning field, not the content."),
    ] = False,
    retry_rejected: Annotated[
        list[str] | None,
        typer.Option(metavar="[REASON]", help="Ask those again that were set apart, all or for one reason."),
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds for one answer.", min=1)] = 300.0,
    tries: Annotated[int, typer.Option(help="Tries of one question.", min=1)] = 8,
    stop_after: Annotated[
        int, typer.Option(help="Refusals in a row, nothing answered before, that stop the run.", min=1)
    ] = 8,
    question_column: options.QuestionColumn = None,
    answer_column: options.AnswerColumn = None,
) -> None:
    """Have a large model write rationales, and keep those that lead to the right answer.

    The key, where one is needed, is taken from CODI_ENDPOINT_KEY.
    """
    from codi.data.sources import load_examples
    from codi.evaluation.annotation import PROMPT, Account, Endpoint, rejected_file
    from codi.evaluation.annotation import annotate as run
    from codi.evaluation.scorers import scorer_for

    if output.suffix != ".jsonl":
        raise UsageError(f"--output '{output}' must end in .jsonl.")
    columns = options.named_columns(question_column, answer_column, None, None)
    examples, report = load_examples(file, split=split, columns=columns, limit=count)
    note(report.describe())
    rule = scorer_for(scorer, examples)
    note(f"Answers are checked by scorer '{rule.name}'.")
    asked = Endpoint(
        endpoint, model, os.environ.get("CODI_ENDPOINT_KEY"), PROMPT if prompt is None else _text_of(prompt),
        temperature, max_tokens, _fields(extra), timeout, tries,
    )  # fmt: skip
    again = None if retry_rejected is None else [word for word in retry_rejected if word != ANY_REASON]
    account = Account()
    with progress("rationales") as bar:

        def show(done: int, total: int, account: Account) -> None:
            bar(done, total)

        try:
            run(
                examples, asked, rule, output, concurrency=concurrency, per_minute=per_minute,
                use_reasoning=use_reasoning, retry_rejected=again, stop_after=stop_after, account=account,
                on_progress=show, on_note=note,
            )  # fmt: skip
        except BaseException:  # told how far it came, whatever ended it
            if account.asked:
                note(account.describe())
            raise
    typer.echo(account.describe())
    typer.echo(f"Kept: {output}. Set apart: {rejected_file(output)}.")
    if account.rejected:
        reason, _ = account.rejected.most_common(1)[0]
        typer.echo(
            "Each row set apart says why, and what was answered. They are not asked again, unless with "
            f'--retry-rejected, all of them or for one reason: --retry-rejected "{reason}".'
        )


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The prompt '{file}' cannot be read: {error}") from error


def _fields(extra: str | None) -> dict[str, Any]:
    try:
        found = json.loads(extra or "{}")
    except json.JSONDecodeError as error:
        raise UsageError(f"--extra is not JSON: {error}.") from error
    if not isinstance(found, dict):
        raise UsageError('--extra must be a JSON object, such as \'{"reasoning": "explicit"}\'.')
    return found
