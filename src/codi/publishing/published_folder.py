"""What is pushed to the hub: a checkpoint, a card from the run's own files, and a `generate` of its own.

codi.json ...                      loads with LatentReasoner.from_pretrained
config.json, model.safetensors     the same loads with AutoModelForCausalLM (adapters are merged in)
custom_generate/generate.py        its thoughts, without this package
README.md                          the model card
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path, PurePath
from typing import Any

import torch
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, StrictUndefined
from transformers import GenerationConfig

from codi.data.shards import is_data_path
from codi.errors import UsageError
from codi.generation.latent_reasoner import ROOM_TO_ANSWER, LatentReasoner
from codi.methods.codi_adaptive import CodiAdaptive
from codi.methods.lotus import Lotus
from codi.methods.method import Method
from codi.methods.pccot import Pccot
from codi.modeling.pretrained import OWN_BASES
from codi.storage import write_whole
from codi.version import installed_version


def write_folder(
    reasoner: LatentReasoner, run: Path, name: str, evaluations: Sequence[Path], output: Path
) -> None:
    """Write everything into `output`.

    run: the checkpoint's folder, for run.yaml and training.json where it has them; name: of the model, in the
    card; evaluations: files of `codi eval --output`. Raises UsageError for a model that does not think in
    latents, or an evaluation that is none or another model's.
    """
    if not reasoner.method.thinks:
        raise UsageError(
            f"This is a {reasoner.method.name} model, which has no continuous thoughts: share it as any "
            "transformers model. The folder that is published here is for models that think."
        )
    thinking = how_it_thinks(reasoner.method)
    card = model_card(reasoner, run, name, [read_evaluation(file, reasoner) for file in evaluations])
    alone = reasoner.without_adapters()
    model = copy.copy(alone.model)  # its weights are in the folder: a path of this machine says nothing there
    model.config = replace(model.config, base=public_name(model.config.base))
    LatentReasoner(model, alone.method, alone.tokenizer, alone.text_format).save_pretrained(output)
    # What is measured here is greedy; transformers' pipeline samples unless the model says otherwise.
    greedy = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False, eos_token_id=reasoner.text.eos_id, pad_token_id=reasoner.text.pad_id
    )
    greedy.save_pretrained(output)
    code = resources.files("codi.publishing") / "custom_generate.py"
    folder = output / "custom_generate"
    folder.mkdir(exist_ok=True)
    write_whole(folder / "generate.py", code.read_text(encoding="utf-8"))
    settings = {
        "latents": reasoner.method.thought_positions() - 2,
        **thinking,
        "prompt_ids": written_first(reasoner),
        "eos_id": reasoner.text.eos_id,
        "pad_id": reasoner.text.pad_id,
        "longest": reasoner.model.longest_sequence,
        "room_to_answer": ROOM_TO_ANSWER,
        "embedding": embedding_sample(model.causal),
    }
    write_whole(folder / "settings.json", json.dumps(settings, indent=2) + "\n")
    write_whole(output / "README.md", str(card))


def how_it_thinks(method: Method) -> dict[str, Any]:
    """What the published `generate` has to know beside the number of latents.

    Raises UsageError for a method whose thoughts are refined in a way that it does not know.
    """
    thinking: dict[str, Any] = {"refine": None, "stop": "never", "threshold": 0.0}
    if isinstance(method, CodiAdaptive):
        thinking |= {"stop": method.stop, "threshold": method.limit}
    elif isinstance(method, Pccot):
        thinking["refine"] = {"rounds": method.rounds, "shift": True, "add": False}
    elif isinstance(method, Lotus):
        thinking["refine"] = {
            "rounds": method.loops_of_stage, "shift": False, "add": method.feedback == "add"
        }  # fmt: skip
    elif method.refines:
        raise UsageError(
            f"A {method.name} model refines its thoughts in a way that the generate which is published here "
            "does not know: it would give other answers. Share the run's own folder, which this package "
            "loads, or export prompts (`codi export`)."
        )
    return thinking


def written_first(reasoner: LatentReasoner) -> list[int]:
    """What is read as the beginning of every answer: the prompt, or nothing where steps may be left."""
    with torch.no_grad():
        return reasoner.start([reasoner.text.question("1")]).written


def embedding_sample(causal: Any, size: int = 64) -> dict[str, Any]:
    """A few values of the input embedding, by which the published `generate` knows the model again."""
    weight = causal.get_input_embeddings().weight.detach()
    stride = max(1, weight.numel() // size)
    sample = weight.flatten()[::stride][:size].float().cpu()
    return {"shape": list(weight.shape), "stride": stride, "sample": [round(x, 6) for x in sample.tolist()]}


def public_name(name: str | None) -> str | None:
    """A hub id, or None for what is a path on somebody's machine."""
    if name is None or name in OWN_BASES or Path(name).expanduser().exists() or not _HUB_ID.fullmatch(name):
        return None
    return name


_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?")


def _system_turn(prompt: str) -> str:
    return f'{{"role": "system", "content": {json.dumps(prompt, ensure_ascii=False)}}}, ' if prompt else ""


def public_source(source: str) -> str:
    """A data source without the folders it lies in here: what a stranger may read of it."""
    if not is_data_path(source):
        return source
    return f"a file of its author's, {PurePath(source.partition('?')[0].replace(chr(92), '/')).name}"


def model_card(
    reasoner: LatentReasoner, run: Path, name: str, evaluations: Sequence[dict[str, Any]]
) -> ModelCard:
    """The card, from what the run left behind. Nothing in it is made up: what is not known is left out."""
    recipe = _read(run / "run.yaml")
    trained = _read(run / "training.json")
    results = [
        {
            "name": benchmark, "accuracy": found["accuracy"],
            "low": found["ci95"][0], "high": found["ci95"][1], "n": found["n"], "scorer": found["scorer"],
            "thought_tokens": found["thought_tokens"], "passes": found["sequential_passes"],
        }
        for evaluation in evaluations
        for benchmark, found in evaluation["benchmarks"].items()
    ]  # fmt: skip
    config, latents = reasoner.model.config, reasoner.method.thought_positions() - 2
    form = reasoner.text_format
    data, training = recipe.get("data", {}), recipe.get("training", {})
    base = public_name(config.base) or "not recorded"
    if config.base is None and config.base_config is not None:
        base = f"none: a {config.base_config['model_type']} from random weights"
    elif config.base is not None and public_name(config.base) is None:
        base = f"a {reasoner.model.causal.config.model_type} of its author's own"
    metadata = ModelCardData(
        library_name="codi",
        base_model=public_name(config.base),
        datasets=None,
        tags=["codi", "latent-reasoning", reasoner.method.name],
        model_name=name,
        eval_results=[
            EvalResult("text-generation", row["name"], row["name"], "accuracy", row["accuracy"])
            for row in results
        ] or None,
    )  # fmt: skip
    text = (resources.files("codi.publishing") / "model_card.md.jinja").read_text(encoding="utf-8")
    body = (
        Environment(undefined=StrictUndefined, autoescape=False)
        .from_string(text)
        .render(
            name=name,
            codi_version=installed_version(),
            latents=latents,
            thought_tokens=latents + 2,
            method=", ".join(f"{key} {value}" for key, value in reasoner.method.as_dict().items()).replace(
                "name ", "", 1
            ),
            base=base,
            data=public_source(data["train"]) if data.get("train") else "not recorded",
            steps=trained.get("steps"),
            seed=training.get("seed", "not recorded"),
            recipe_line=", ".join(
                f"{key} {training[key]}"
                for key in ("learning_rate", "per_device_train_batch_size", "num_train_epochs", "max_steps")
                if key in training
            ),
            validation=trained.get("validation_accuracy"),
            results=results,
            example=json.dumps("Your question" + form.question_suffix, ensure_ascii=False),
            chat_template=form.chat_template,
            system=_system_turn(form.system_prompt),
            question_suffix=repr(form.question_suffix) if form.question_suffix else "",
        )
    )
    return ModelCard(f"---\n{metadata.to_yaml()}\n---\n\n{body}")


def read_evaluation(file: Path, reasoner: LatentReasoner) -> dict[str, Any]:
    """A file of `codi eval --output`. Raises UsageError when it is none, or of another method."""
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        benchmarks, method = found["benchmarks"], found["method"]
        for one in benchmarks.values():
            one["accuracy"], one["ci95"][1], one["n"], one["scorer"], one["thought_tokens"]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UsageError(
            f"'{file}' is no file of `codi eval --output` ({type(error).__name__}: {error})."
        ) from error
    measured = method.get("name") if isinstance(method, dict) else method
    if measured != reasoner.method.name:
        raise UsageError(
            f"'{file}' measured a {measured} model, but the one to publish is {reasoner.method.name}."
        )
    return found


def _read(file: Path) -> dict[str, Any]:
    """A YAML or JSON file of the run; empty where there is none."""
    if not file.exists():
        return {}
    found = yaml.safe_load(file.read_text(encoding="utf-8"))
    return found if isinstance(found, dict) else {}
