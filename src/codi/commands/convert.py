"""`codi convert`: a published CODI checkpoint becomes one of this package."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from codi.commands import options
from codi.commands.console import check_output, load_reasoner, note
from codi.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from codi.generation.latent_reasoner import LatentReasoner

PROBE = "Mia has 3 apples and buys 4 more. How many apples does Mia have?"
TOLERANCE = 1e-5
"""Largest difference to the published layout's logits, as a share of the largest of these."""
PUBLISHED_BETA = {"openai-community/gpt2": 1.0, "meta-llama/Llama-3.2-1B-Instruct": 20.0}


def convert(
    source: Annotated[
        str, typer.Argument(help="Folder or file of the published weights, or a hub id (zen-E/CODI-gpt2).")
    ],
    output: Annotated[Path, typer.Option(help="Folder of the new checkpoint.")],
    base: Annotated[
        str | None,
        typer.Option(help="Folder or hub id of the base model; by default that of the published weights."),
    ] = None,
    latents: Annotated[
        int, typer.Option(help="Continuous thoughts it was trained with; the file does not say.", min=0)
    ] = 6,
    lora_alpha: Annotated[
        float, typer.Option(help="LoRA's alpha in training; the file does not say.")
    ] = 32.0,
    check: Annotated[
        bool, typer.Option(help="Compute with both layouts and compare: 8 bytes of memory a weight.")
    ] = True,
    chat_template: Annotated[
        bool,
        typer.Option("--chat-template", help="It was trained on questions in the base's chat template."),
    ] = False,
    overwrite: options.Overwrite = False,
) -> None:
    """Convert a published checkpoint of the authors' code, and check that it computes the same."""
    check_output(output, overwrite)
    _keep_apart(output, source, base)

    from codi.data.encoding import TextEncoder
    from codi.data.text_format import TextFormat
    from codi.generation.latent_reasoner import LatentReasoner
    from codi.methods.codi import Codi
    from codi.modeling import conversion
    from codi.modeling.published_files import find_weights, read_weights

    file = find_weights(source)
    weights = read_weights(file)
    known = base or conversion.default_base(weights, file)
    named = str(Path(known).resolve()) if Path(known).is_dir() else known
    converted = conversion.convert(weights, file, named, lora_alpha)
    lora = converted.model.config.lora
    assert lora is not None
    note(f"{file}: LoRA of rank {lora.rank} on {', '.join(lora.targets)}; alpha taken as {lora_alpha:g}.")
    tokenizer = _tokenizer_of(named)
    form = TextFormat(chat_template=chat_template)
    TextEncoder(tokenizer, form)  # refuses a tokenizer that cannot do it, before anything is written
    if converted.changed:
        conversion.store_base(converted, output / "base")
        note(
            f"{len(converted.changed)} weights of the base are not those of '{named}' (largest difference "
            f"{converted.largest_change:.2g}, in {converted.changed[0]} among others): the file's own base "
            f"was written to '{output / 'base'}' and is the one recorded."
        )
    elif converted.model.config.base_rounded_to:
        note(f"The base is that of '{named}', rounded to {converted.model.config.base_rounded_to}.")
    method = Codi(latents=latents, beta=PUBLISHED_BETA.get(conversion.known_base(weights) or "", 1.0))
    LatentReasoner(converted.model, method, tokenizer, form).save_pretrained(output)
    converted.rows.save(output)
    del converted
    if not check:
        typer.echo(f"{output}: written, not compared with the published layout's computation (--no-check).")
        return
    difference, scale = _compare(load_reasoner(str(output), "cpu"), weights, latents)
    if not difference <= TOLERANCE * scale:
        from codi.modeling.checkpoint import CONFIGURATION

        (output / CONFIGURATION).unlink()  # so that nobody takes it for a checkpoint
        raise CheckpointError(
            f"The converted model's logits differ from the published layout's by {difference:.2g} (of "
            f"{scale:.2g}). '{output}' was made unusable; please report this with the source's name."
        )
    typer.echo(
        f"{output}: largest difference to the published layout's logits {difference:.2g} "
        f"(the largest logit is {scale:.3g})."
    )


def _tokenizer_of(base: str) -> Any:
    from codi.modeling.checkpoint import load_tokenizer

    folder = Path(base)
    if folder.is_dir() and not any(folder.glob("tokenizer*")) and not any(folder.glob("vocab*")):
        # transformers would make an empty one, and say nothing
        raise CheckpointError(
            f"'{base}' has no tokenizer (tokenizer.json or vocab.json). "
            "Point at a whole copy of the base with --base FOLDER."
        )
    try:
        return load_tokenizer(base)
    except CheckpointError as error:
        raise CheckpointError(f"{error}\nPoint at a local copy of the base with --base FOLDER.") from error


def _compare(reasoner: LatentReasoner, weights: dict[str, Tensor], latents: int) -> tuple[float, float]:
    """The largest difference of logits on a probe, and the largest logit. reasoner: loaded again.

    In float64, one model at a time: thoughts are fed back, which makes float32's rounding larger at each.
    """
    from codi.modeling.published_layout import PublishedLayout, thinking_logits

    text, model = reasoner.text, reasoner.model
    question, answer = text.question(PROBE), text.answer("7").ids
    assert model.config.lora is not None
    layout = PublishedLayout(model.causal.config, model.config.lora, weights).double()
    theirs = layout.logits(question, latents, answer)
    del layout
    ours = thinking_logits(model.double(), question, latents, answer)
    return float((ours - theirs).abs().max()), float(theirs.abs().max())


def _keep_apart(output: Path, source: str, base: str | None) -> None:
    """Refuse to write over what is read."""
    for name, given in (("SOURCE", source), ("--base", base)):
        if given is None:
            continue
        path = Path(given).resolve()
        if output.resolve() in (path, path.parent if path.is_file() else path):
            raise UsageError(f"--output '{output}' is the folder of {name}. Choose another folder.")
