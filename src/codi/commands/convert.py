"""`codi convert`: a published checkpoint becomes one of this package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from codi.commands import options
from codi.commands.console import check_output, load_reasoner, note
from codi.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from codi.data.text_format import TextFormat
    from codi.generation.latent_reasoner import LatentReasoner
    from codi.methods.method import Method
    from codi.methods.pccot import Pccot
    from codi.modeling.conversion import Conversion
    from codi.modeling.pccot_conversion import PccotFolder

Compared = Callable[[], tuple[float, float]]
"""Computes the largest difference of logits, and the largest logit."""
PROBE = "Mia has 3 apples and buys 4 more. How many apples does Mia have?"
TOLERANCE = 1e-5
"""Largest difference to the published layout's logits, as a share of the largest of these."""
PUBLISHED_BETA = {"openai-community/gpt2": 1.0, "meta-llama/Llama-3.2-1B-Instruct": 20.0}


def convert(
    source: Annotated[
        str,
        typer.Argument(
            help="Folder or file of the published weights, or a hub id (zen-E/CODI-gpt2): CODI, SIM-CoT on "
            "CODI, PCCoT."
        ),
    ],
    output: Annotated[Path, typer.Option(help="Folder of the new checkpoint.")],
    base: Annotated[
        str | None,
        typer.Option(help="Folder or hub id of the base model; by default that of the published weights."),
    ] = None,
    latents: Annotated[
        int | None,
        typer.Option(
            help="Continuous thoughts it was trained with; by default what PCCoT's folder says, and 6 for "
            "the others, whose files do not say.",
            min=0,
        ),
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(help="PCCoT: its rounds, where config.json does not say them.", min=0)
    ] = None,
    lora_alpha: Annotated[
        float | None,
        typer.Option(help="LoRA's alpha in training, which CODI's file does not say; by default 32."),
    ] = None,
    check: Annotated[
        bool, typer.Option(help="Compute with both layouts and compare: 8 bytes of memory a weight.")
    ] = True,
    chat_template: Annotated[
        bool,
        typer.Option("--chat-template", help="It was trained on questions in the base's chat template."),
    ] = False,
    overwrite: options.Overwrite = False,
) -> None:
    """Convert a published checkpoint of its authors' code, and check that it computes the same."""
    check_output(output, overwrite)
    _keep_apart(output, source, base)

    from codi.modeling.pccot_conversion import ARGUMENTS
    from codi.modeling.published_files import fetched

    folder = fetched(source)
    if (folder / ARGUMENTS).is_file():
        if lora_alpha is not None:
            raise UsageError("A PCCoT folder says LoRA's alpha itself. Leave --lora-alpha out.")
        compare = _convert_pccot(folder, output, base, latents, rounds, chat_template)
    else:
        if rounds is not None:
            raise UsageError(
                f"--rounds is for a PCCoT folder, and '{source}' has no {ARGUMENTS}. Leave it out."
            )
        steps = 6 if latents is None else latents
        compare = _convert_codi(
            folder, output, base, steps, 32.0 if lora_alpha is None else lora_alpha, chat_template
        )
    if not check:
        typer.echo(f"{output}: written, not compared with the published layout's computation (--no-check).")
        return
    difference, scale = compare()
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


def _convert_codi(
    folder: Path, output: Path, base: str | None, latents: int, lora_alpha: float, chat_template: bool
) -> Compared:
    """CODI's layout, and SIM-CoT's, which is that with a decoder beside it. Returns how to compare."""
    from codi.data.encoding import TextEncoder
    from codi.data.text_format import TextFormat
    from codi.methods.codi import Codi
    from codi.methods.sim_cot import SimCot
    from codi.modeling import conversion
    from codi.modeling.published_files import find_weights, read_weights

    file = find_weights(str(folder))
    weights, with_decoder = conversion.without_decoder(read_weights(file))
    named = _place(base or conversion.default_base(weights, file))
    converted = conversion.convert(weights, file, named, lora_alpha)
    lora = converted.model.config.lora
    assert lora is not None
    note(f"{file}: LoRA of rank {lora.rank} on {', '.join(lora.targets)}; alpha taken as {lora_alpha:g}.")
    if with_decoder:
        note("Its decoder, which only training needs, was left out: this is SIM-CoT on CODI.")
    tokenizer = _tokenizer_of(named)
    form = TextFormat(chat_template=chat_template)
    TextEncoder(tokenizer, form)  # refuses a tokenizer that cannot do it, before anything is written
    beta = PUBLISHED_BETA.get(conversion.known_base(weights) or "", 1.0)
    method = (SimCot if with_decoder else Codi)(latents=latents, beta=beta)
    _write(converted, method, tokenizer, form, output, named)
    del converted
    return lambda: _compare(output, weights, latents)


def _convert_pccot(
    folder: Path, output: Path, base: str | None, latents: int | None, rounds: int | None, chat_template: bool
) -> Compared:
    """PCCoT's layout, one folder of peft's. Returns how to compare."""
    from codi.data.encoding import TextEncoder
    from codi.data.text_format import TextFormat
    from codi.methods.pccot import Pccot
    from codi.modeling.pccot_conversion import ADAPTER_CONFIG, PccotFolder, convert_pccot

    published = PccotFolder.read(folder)
    if base is None and published.base is None:
        raise UsageError(f"'{folder / ADAPTER_CONFIG}' does not name its base. Give it with --base.")
    named = _place(base or str(published.base))
    method = Pccot(**published.options(latents, rounds))
    converted = convert_pccot(published, named)
    note(
        f"{folder}: PCCoT, {method.latents} latents in {method.rounds} rounds, LoRA of rank "
        f"{published.lora.rank}."
    )
    tokenizer = _tokenizer_of(named)
    form = TextFormat(
        answer_prompt=published.answer_prompt, answer_separator="", step_separator="",
        distillation_token="prompt-end", chat_template=chat_template,
    )  # fmt: skip
    TextEncoder(tokenizer, form)
    _write(converted, method, tokenizer, form, output, named)
    del converted
    return lambda: _compare_pccot(output, published, named, method)


def _write(
    converted: Conversion, method: Method, tokenizer: Any, form: TextFormat, output: Path, base: str
) -> None:
    """The checkpoint, with the base beside it where the file's own is another."""
    from codi.generation.latent_reasoner import LatentReasoner
    from codi.modeling.conversion import store_base

    if converted.changed:
        store_base(converted, output / "base")
        note(
            f"{len(converted.changed)} weights of the base are not those of '{base}' (largest difference "
            f"{converted.largest_change:.2g}, in {converted.changed[0]} among others): the file's own base "
            f"was written to '{output / 'base'}' and is the one recorded."
        )
    elif converted.model.config.base_rounded_to:
        note(f"The base is that of '{base}', rounded to {converted.model.config.base_rounded_to}.")
    LatentReasoner(converted.model, method, tokenizer, form).save_pretrained(output)
    if converted.rows is not None:
        converted.rows.save(output)


def _place(base: str) -> str:
    """A folder by its whole path: a checkpoint says where its base is."""
    return str(Path(base).resolve()) if Path(base).is_dir() else base


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


def _compare(output: Path, weights: dict[str, Tensor], latents: int) -> tuple[float, float]:
    """The largest difference of logits on a probe, and the largest logit, of a checkpoint that was written.

    In float64, one model at a time: thoughts are fed back, which makes float32's rounding larger at each.
    """
    from codi.modeling.published_layout import PublishedLayout, thinking_logits

    reasoner = load_reasoner(str(output), "cpu")
    model, (question, answer) = reasoner.model, _asked(reasoner)
    assert model.config.lora is not None
    layout = PublishedLayout(model.causal.config, model.config.lora, weights).double()
    theirs = layout.logits(question, latents, answer)
    del layout
    return _difference(thinking_logits(model.double(), question, latents, answer), theirs)


def _compare_pccot(output: Path, published: PccotFolder, base: str, method: Pccot) -> tuple[float, float]:
    """The same for PCCoT."""
    from codi.modeling.pccot_layout import PccotLayout, refining_logits

    reasoner = load_reasoner(str(output), "cpu")
    question, answer = _asked(reasoner)
    layout = PccotLayout(published, base).double()
    theirs = layout.logits(question, method.latents, method.rounds, answer)
    del layout
    ours = refining_logits(reasoner.model.double(), question, method.latents, method.rounds, answer)
    return _difference(ours, theirs)


def _asked(reasoner: LatentReasoner) -> tuple[list[int], list[int]]:
    return reasoner.text.question(PROBE), reasoner.text.answer("7").ids


def _difference(ours: Tensor, theirs: Tensor) -> tuple[float, float]:
    return float((ours - theirs).abs().max()), float(theirs.abs().max())


def _keep_apart(output: Path, source: str, base: str | None) -> None:
    """Refuse to write over what is read."""
    for name, given in (("SOURCE", source), ("--base", base)):
        if given is None:
            continue
        path = Path(given).resolve()
        if output.resolve() in (path, path.parent if path.is_file() else path):
            raise UsageError(f"--output '{output}' is the folder of {name}. Choose another folder.")
