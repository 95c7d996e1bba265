"""`codi merge` and `codi publish`: a model for others to load."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from codi.commands import options
from codi.commands.console import check_output, load_reasoner, note
from codi.errors import CheckpointError, UsageError


def merge(
    checkpoint: Annotated[str, typer.Argument(help="Folder of a model trained with LoRA, or a hub id.")],
    output: Annotated[Path, typer.Option(help="Folder of the new checkpoint.")],
    device: options.Device = None,
    base: options.Base = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Multiply LoRA's adapters into the base: a checkpoint that needs neither."""
    check_output(output, overwrite)
    _keep_apart(checkpoint, output)

    from codi.generation.latent_reasoner import LatentReasoner
    from codi.modeling.merging import merged

    reasoner = load_reasoner(checkpoint, device, base)
    alone = merged(reasoner.model)
    LatentReasoner(alone, reasoner.method, reasoner.tokenizer, reasoner.text_format).save_pretrained(output)
    typer.echo(f"The merged checkpoint is in {output}.")


def publish(
    checkpoint: Annotated[str, typer.Argument(help="Folder of a trained model.")],
    output: Annotated[Path, typer.Option(help="Folder to write; it is what is pushed.")],
    to: Annotated[str | None, typer.Option(help="ORG/NAME on the hub to push it to.")] = None,
    name: Annotated[str | None, typer.Option(help="The model's name in its card; by default --to.")] = None,
    evaluation: Annotated[
        list[Path] | None, typer.Option("--eval", help="A file of `codi eval --output`; repeat it for more.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository a private one.")] = False,
    base: options.Base = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Write a folder that others can load with or without this package, and push it with --to."""
    check_output(output, overwrite)
    _keep_apart(checkpoint, output)
    if to is not None:
        _check_hub_id(to)

    from codi.modeling.checkpoint import locate
    from codi.publishing.published_folder import write_folder

    reasoner = load_reasoner(checkpoint, "cpu", base)
    write_folder(reasoner, locate(checkpoint), name or to or output.name, evaluation or [], output)
    typer.echo(f"Written to {output}: read its README.md before you share it.")
    if to is None:
        note("Nothing was pushed; --to ORG/NAME does.")
        return
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        api = HfApi()
        api.create_repo(to, private=private, exist_ok=True)
        commit = api.upload_folder(repo_id=to, folder_path=output)
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise CheckpointError(
            f"'{output}' could not be pushed to '{to}': {str(error).splitlines()[0]} "
            "Log in with `hf auth login`, and try again with --overwrite."
        ) from error
    typer.echo(f"Pushed: {commit.commit_url}")


def _keep_apart(checkpoint: str, output: Path) -> None:
    if Path(checkpoint).resolve() == output.resolve():
        raise UsageError(f"--output '{output}' is the checkpoint itself. Choose another folder.")


def _check_hub_id(name: str) -> None:
    """Raise UsageError for what the hub takes for no name, before anything is written."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UsageError(f"--to '{name}' is no ORG/NAME of the hub: {str(error).splitlines()[0]}") from error
