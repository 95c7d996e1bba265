"""Continuous thoughts for `model.generate`, with torch, transformers and safetensors alone.

This file is copied into a published model's folder as `custom_generate/generate.py`:

    tokenizer = AutoTokenizer.from_pretrained(NAME, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(NAME, trust_remote_code=True)
    questions = tokenizer(["..."], return_tensors="pt", padding=True)
    answers = model.generate(**questions)[:, questions["input_ids"].shape[1]:]
    tokenizer.batch_decode(answers, skip_special_tokens=True)

    question  <bot>  z_1 ... z_n  <eot>  answer prompt  answer      z_i = projection(last hidden state)

or, for a model that refines its thoughts together, all of them in rounds after the question.

Honoured: latents, max_new_tokens, max_length, do_sample with temperature, top_k and top_p,
num_return_sequences, return_dict_in_generate. Whatever else would change the answer is refused by its name.
"""

from __future__ import annotations

import copy
import inspect
import json
import math
import operator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.generation.utils import GenerateDecoderOnlyOutput
from transformers.utils.hub import cached_file

DEFAULT_TOKENS = 256
"""Most tokens of an answer, where nobody says."""
GREEDY_BELOW = 1e-5
"""Temperatures below this are greedy, as in the package: logits divided by them overflow."""
# Options of transformers' generate that ask for nothing with these values, beside None.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "num_beams": (1,), "num_beam_groups": (1,), "early_stopping": (False,), "length_penalty": (1,),
    "diversity_penalty": (0,), "repetition_penalty": (1,), "encoder_repetition_penalty": (1,),
    "no_repeat_ngram_size": (0,), "encoder_no_repeat_ngram_size": (0,), "min_length": (0,),
    "min_new_tokens": (0,), "min_p": (0,), "typical_p": (1,), "epsilon_cutoff": (0,), "eta_cutoff": (0,),
    "guidance_scale": (1,),
    "renormalize_logits": (False,), "remove_invalid_values": (False,), "token_healing": (False,),
    "output_attentions": (False,), "output_hidden_states": (False,), "output_scores": (False,),
    "output_logits": (False,), "logits_processor": ([],), "stopping_criteria": ([],), "bad_words_ids": ([],),
    "stop_strings": ([],), "suppress_tokens": ([],), "is_assistant": (False,), "low_memory": (False,),
    "synced_gpus": (False,), "use_mtp": (False,),
}  # fmt: skip
# These change how an answer is computed, or name what the model knows by itself; not what it says.
_WITHOUT_EFFECT = (
    "use_cache", "cache_implementation", "cache_config", "max_cache_len", "compile_config", "disable_compile",
    "prefill_chunk_size", "continuous_batching_config", "token_type_ids", "position_ids", "tokenizer",
    "trust_remote_code", "bos_token_id", "pad_token_id", "decoder_start_token_id", "transformers_version",
    "num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold",
    "assistant_early_exit", "assistant_lookbehind", "target_lookbehind", "max_matching_ngram_size",
)  # fmt: skip


@torch.no_grad()
def generate(
    inputs: Tensor | None = None,
    generation_config: Any = None,
    *,
    model: Any,
    input_ids: Tensor | None = None,
    attention_mask: Tensor | None = None,
    latents: int | None = None,
    **options: Any,
) -> Tensor | GenerateDecoderOnlyOutput:
    """inputs (or input_ids), attention_mask: [b, t]. Returns [b * n, t + m]: questions, prompt, answers.

    latents: another number of thoughts than trained. max_new_tokens counts the answer's own tokens,
    max_length all that is returned. Greedy unless do_sample; then n = num_return_sequences rows a question.
    Rows that have ended are filled with padding. Without attention_mask the padding at a row's ends is told
    by its id. Raises ValueError about what cannot be done, by name.
    """
    thoughts = _thoughts_of(model)
    settings = thoughts.settings
    ids = input_ids if input_ids is not None else inputs
    wanted = _wanted(generation_config, options, settings)
    ids, mask = _questions(ids, attention_mask, model, settings["pad_id"])
    steps = _whole("latents", settings["latents"] if latents is None else latents, 0)
    most = _room(ids, mask, steps, wanted, settings)
    ids, mask = (part.repeat_interleave(wanted.answers, 0) for part in (ids, mask))
    question, mask = _left_padded(ids, mask, settings["pad_id"])
    rows, device, longest = ids.shape[0], ids.device, settings["longest"]
    embed, one = model.get_input_embeddings(), mask.new_ones(rows, 1)
    bot, eot = (thoughts.rows[name].expand(rows, 1, -1) for name in ("<bot>", "<eot>"))
    text = _Text(model, mask[:, :0], DynamicCache(config=model.config))
    hidden = text.read(torch.cat([embed(question), bot], 1), torch.cat([mask, one], 1))[:, -1]
    if settings["refine"] is None:
        text, hidden = _one_after_the_other(thoughts, text, hidden, steps)
    elif steps:
        text = _together(thoughts, text, hidden, steps)
    prompt = torch.tensor(settings["prompt_ids"], device=device, dtype=ids.dtype).expand(rows, -1)
    hidden = text.read(torch.cat([eot, embed(prompt)], 1), one.expand(-1, 1 + prompt.shape[1]))[:, -1]

    written, ended = [prompt], torch.zeros(rows, dtype=torch.bool, device=device)
    for number in range(most):
        following = wanted.choose(model.get_output_embeddings()(hidden).float())
        following = following.masked_fill(ended, settings["pad_id"])
        written.append(following.unsqueeze(1))
        ended = ended | (following == settings["eos_id"])
        if longest is not None:  # no position is left to read the token at
            ended = ended | (text.mask.sum(1) >= longest)
        if ended.all() or number + 1 == most:
            break
        hidden = text.read(embed(following).unsqueeze(1), (~ended).to(mask.dtype).unsqueeze(1))[:, -1]
    sequences = torch.cat([ids, *written], 1)
    return GenerateDecoderOnlyOutput(sequences=sequences) if wanted.as_dict else sequences  # type: ignore[arg-type]


@dataclass
class _Text:
    """What was read so far. mask: [b, t], 0 where nothing is."""

    model: Any
    mask: Tensor
    cache: Any

    def read(self, embedded: Tensor, reading: Tensor) -> Tensor:
        """Read on. embedded: [b, s, d]; reading: [b, s], 0 where a row waits. Returns the last states."""
        self.mask = torch.cat([self.mask, reading], 1)
        positions = (self.mask.cumsum(1) - 1).clamp(min=0)[:, -embedded.shape[1] :]
        known = inspect.signature(type(self.model.base_model).forward).parameters
        name = "cache" if "cache" in known else "past_key_values"  # renamed in transformers 5.24
        output = self.model.base_model(
            inputs_embeds=embedded, attention_mask=self.mask, position_ids=positions, use_cache=True,
            **{name: self.cache},
        )  # fmt: skip
        states: Tensor = output.last_hidden_state
        return states

    def fork(self) -> _Text:
        """The same text, to be read on without changing this one."""
        return _Text(self.model, self.mask, copy.deepcopy(self.cache))


@dataclass(frozen=True)
class _Thoughts:
    """What thoughts are made with. rows: [d] by name, <bot> and <eot> among them."""

    settings: dict[str, Any]
    rows: dict[str, Tensor]
    projection: nn.Module


def _one_after_the_other(
    thoughts: _Thoughts, text: _Text, hidden: Tensor, steps: int
) -> tuple[_Text, Tensor]:
    """Each thought is the projected state of the one before; a row whose rule says so thinks no further."""
    going = text.mask.new_ones(hidden.shape[0], 1)
    for _ in range(steps):
        states = text.read(thoughts.projection(hidden).unsqueeze(1), going)[:, -1]
        before, hidden = hidden, torch.where(going.bool(), states, hidden)
        going = going * (~_stops(thoughts, text.model, before, hidden)).to(going.dtype).unsqueeze(1)
        if not going.any():
            break
    return text, hidden


def _stops(thoughts: _Thoughts, model: Any, before: Tensor, hidden: Tensor) -> Tensor:
    """Which rows [b] answer after this thought, by the final states before and after it, [b, d]."""
    rule, threshold = thoughts.settings["stop"], thoughts.settings["threshold"]
    if rule == "learned":
        ends = torch.stack([thoughts.rows[name] for name in ("<continue>", "<stop>")])
        sure: Tensor = (hidden @ ends.T).float().softmax(-1)[:, 1] >= threshold
        return sure
    if rule == "confident":
        head = model.get_output_embeddings()
        said, says = (head(states).float().softmax(-1) for states in (before, hidden))
        small: Tensor = (says - said).abs().sum(-1) / 2 < threshold
        return small
    return torch.zeros(hidden.shape[0], dtype=torch.bool, device=hidden.device)


def _together(thoughts: _Thoughts, begun: _Text, hidden: Tensor, steps: int) -> _Text:
    """All thoughts at once, in rounds, each anew after the question: [b, steps, d] of the row <latent>."""
    rows, refine = hidden.shape[0], thoughts.settings["refine"]
    places = thoughts.rows["<latent>"].expand(rows, steps, -1)
    reading = begun.mask.new_ones(rows, steps)
    text = begun.fork()
    states = text.read(places, reading)
    for _ in range(refine["rounds"]):
        if refine["shift"]:  # a thought is the state just before its place
            states = torch.cat([hidden.unsqueeze(1), states[:, :-1]], 1)
        inputs = thoughts.projection(states)
        text = begun.fork()
        states = text.read(inputs + places if refine["add"] else inputs, reading)
    return text


@dataclass(frozen=True)
class _Wanted:
    """What was asked for, of what can be had. temperature 0 is greedy; answers: rows of each question."""

    max_new_tokens: int | None
    max_length: int | None
    temperature: float
    top_k: int
    top_p: float
    answers: int
    as_dict: bool

    def choose(self, logits: Tensor) -> Tensor:
        """logits: [b, vocabulary]. Returns [b] ids, drawn from torch's own random numbers where sampled."""
        best, likeliest = logits.max(-1)
        if not best.isfinite().all():
            raise ValueError("The model's numbers are not finite, so no token can be chosen.")
        if self.temperature < GREEDY_BELOW:
            return likeliest
        logits = (logits - best[:, None]) / self.temperature
        if self.top_k:
            least = logits.topk(min(self.top_k, logits.shape[-1])).values[:, -1:]
            logits = logits.masked_fill(logits < least, -torch.inf)
        if self.top_p < 1:
            ordered, order = logits.sort(descending=True)
            before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
            kept = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before < self.top_p)
            logits = logits.masked_fill(~kept.scatter(-1, order[:, :1], True), -torch.inf)
        return torch.multinomial(logits.softmax(-1), 1).squeeze(1)


def _wanted(config: Any, options: dict[str, Any], settings: dict[str, Any]) -> _Wanted:
    """The options of a call over those of its generation_config. Raises ValueError for what cannot be had."""
    given = {} if config is None else {k: v for k, v in config.to_dict().items() if not k.startswith("_")}
    asked = {name: value for name, value in (given | options).items() if value is not None}
    sampled = _yes_or_no("do_sample", asked.pop("do_sample", False))
    as_dict = _yes_or_no("return_dict_in_generate", asked.pop("return_dict_in_generate", False))
    temperature = _number("temperature", asked.pop("temperature", 1.0))
    top_k, top_p = _whole("top_k", asked.pop("top_k", 0), 0), _number("top_p", asked.pop("top_p", 1.0))
    answers = _whole("num_return_sequences", asked.pop("num_return_sequences", 1), 1)
    lengths = {
        name: _whole(name, asked.pop(name), 1) if name in asked else None
        for name in ("max_new_tokens", "max_length")
    }
    ends = asked.pop("eos_token_id", settings["eos_id"])
    if settings["eos_id"] not in (ends if isinstance(ends, list | tuple) else [ends]):
        raise ValueError(f"eos_token_id is {ends}; this model's answers end with {settings['eos_id']}.")
    for name, value in asked.items():
        if name in _WITHOUT_EFFECT or any(_same(value, neutral) for neutral in _NEUTRAL.get(name, ())):
            continue
        raise ValueError(
            f"This model's generate does not take {name}={value!r}: it thinks before it answers, and honours "
            "latents, max_new_tokens, max_length, do_sample (with temperature, top_k, top_p), "
            "num_return_sequences and return_dict_in_generate."
        )
    if answers > 1 and not sampled:
        raise ValueError(
            f"num_return_sequences is {answers}; a greedy answer is always the same: give do_sample=True, "
            "or leave it out."
        )
    if sampled and not (0 < temperature < math.inf and 0 < top_p <= 1):
        raise ValueError(
            f"temperature={temperature}, top_p={top_p}: they must be above 0 and finite, and above 0 up to "
            "1. For a greedy answer give do_sample=False."
        )
    if not sampled:
        temperature = 0.0
    return _Wanted(
        **lengths, temperature=temperature, top_k=top_k, top_p=top_p, answers=answers, as_dict=as_dict
    )


def _whole(name: str, value: Any, least: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if isinstance(value, bool) or number < least:
        raise ValueError(f"{name} is {value!r}; it must be a whole number of {least} or more.")
    return number


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool | str) or not hasattr(value, "__float__"):
        raise ValueError(f"{name} is {value!r}; it must be a number.")
    return float(value)


def _yes_or_no(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{name} is {value!r}; it must be True or False.")
    return value


def _same(value: Any, neutral: Any) -> bool:
    if isinstance(neutral, list):
        return hasattr(value, "__len__") and len(value) == 0
    return isinstance(value, int | float) and bool(value == neutral)


def _questions(ids: Any, mask: Any, model: Any, pad_id: int) -> tuple[Tensor, Tensor]:
    """The questions and their mask, checked. Raises ValueError."""
    if not isinstance(ids, Tensor) or ids.dim() != 2 or ids.numel() == 0 or ids.is_floating_point():
        raise ValueError(
            "generate needs input_ids [b, t], a tensor of ids: the questions, tokenized, a token or more "
            "each."
        )
    if mask is None:
        mask = _mask_by_padding(ids, pad_id, getattr(model.config, "bos_token_id", None))
    if not isinstance(mask, Tensor) or mask.shape != ids.shape:
        found = list(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(f"attention_mask is {found}, but input_ids is {list(ids.shape)}.")
    mask = mask.to(ids.dtype)
    if not mask.any(1).all():
        row = int((~mask.any(1)).nonzero()[0])
        raise ValueError(f"Question {row + 1} is empty: all of it is padding, by its attention_mask.")
    rows = model.get_input_embeddings().weight.shape[0]
    if int(ids.min()) < 0 or int(ids.max()) >= rows:
        raise ValueError(f"input_ids has {int(ids.max())} or below 0, but the model knows 0 to {rows - 1}.")
    return ids, mask


def _mask_by_padding(ids: Tensor, pad_id: int, bos_id: int | None) -> Tensor:
    """0 for the padding at either end of each row. Raises ValueError where it could be the question's own."""
    word = (ids != pad_id).to(ids.dtype)
    from_left, from_right = word.cummax(1).values, word.flip(1).cummax(1).values.flip(1)
    if pad_id == bos_id and not from_left.all():
        raise ValueError(
            f"input_ids has rows that begin with {pad_id}, which is padding or the beginning of a text. Give "
            "attention_mask, as the tokenizer returns it, to say which."
        )
    return from_left * from_right


def _room(ids: Tensor, mask: Tensor, latents: int, wanted: _Wanted, settings: dict[str, Any]) -> int:
    """Most tokens that may be written. Raises ValueError where a question leaves no room to answer."""
    prompt, longest = len(settings["prompt_ids"]), settings["longest"]
    for row, length in enumerate(mask.sum(1).tolist()):
        needed = length + latents + 2 + prompt + settings["room_to_answer"]
        if longest is not None and needed > longest:
            raise ValueError(
                f"Question {row + 1} has {length} tokens; with room for thoughts and an answer it needs "
                f"{needed}, but the model takes at most {longest}. Shorten the question, or think fewer "
                "latents."
            )
    if wanted.max_new_tokens is not None:
        return wanted.max_new_tokens
    if wanted.max_length is None:
        return DEFAULT_TOKENS
    left = wanted.max_length - ids.shape[1] - prompt
    if left < 1:
        raise ValueError(
            f"max_length is {wanted.max_length}, but questions and answer prompt take "
            f"{ids.shape[1] + prompt} of what is returned. Give a larger one, or max_new_tokens."
        )
    return left


def _thoughts_of(model: Any) -> _Thoughts:
    """What this model thinks with; read once."""
    kept: _Thoughts | None = getattr(model, "_codi_thoughts", None)
    if kept is None:
        name, revision = model.config.name_or_path, getattr(model.config, "_commit_hash", None)
        settings = json.loads(
            Path(_file(name, "custom_generate/settings.json", revision)).read_text(encoding="utf-8")
        )
        weights = load_file(_file(name, "thoughts.safetensors", revision))
        bot, eot = weights.pop("thought_tokens")
        own = {key: weights.pop(key) for key in list(weights) if key.startswith("rows.")}
        rows = {"<bot>": bot, "<eot>": eot, **{key.removeprefix("rows."): row for key, row in own.items()}}
        _check_base(model, settings["embedding"], name)
        kept = model._codi_thoughts = _Thoughts(
            {"refine": None, "stop": "never", "threshold": 0.0, **settings},  # older folders lack these
            {key: row.to(model.device, model.dtype) for key, row in rows.items()},
            _projection(weights, model),
        )
    return kept


def _check_base(model: Any, recorded: dict[str, Any], name: str) -> None:
    """Refuse thoughts over another model's weights: they would be noise to it."""
    weight = model.get_input_embeddings().weight
    shape, sample = list(weight.shape), torch.tensor(recorded["sample"])
    found = weight.detach().flatten()[:: recorded["stride"]][: len(sample)].float().cpu()
    scale = sample.abs().max().clamp(min=1e-6)
    if shape != recorded["shape"] or not torch.allclose(found, sample, atol=0.02 * float(scale)):
        raise ValueError(
            f"The weights in '{name}' are not those that these thoughts were trained over (an embedding of "
            f"{recorded['shape']}, found {shape}). Download the published folder again, whole."
        )


def _projection(weights: dict[str, Tensor], model: Any) -> nn.Module:
    if not weights:
        return nn.Identity()
    width, size = weights["projection.layers.1.weight"].shape
    layers = nn.Sequential(
        nn.Dropout(0.0), nn.Linear(size, width), nn.GELU(), nn.Linear(width, size), nn.LayerNorm(size)
    )
    layers.load_state_dict({name.removeprefix("projection.layers."): w for name, w in weights.items()})
    return layers.to(model.device, model.dtype).eval()


def _left_padded(ids: Tensor, mask: Tensor, pad_id: int) -> tuple[Tensor, Tensor]:
    """Padding moved to the left of each row, so that every question ends where <bot> follows."""
    order = mask.argsort(dim=1, stable=True)
    ids, mask = ids.gather(1, order), mask.gather(1, order)
    return ids.masked_fill(mask == 0, pad_id), mask


def _file(name: str, file: str, revision: str | None) -> str:
    found = cached_file(name, file, _commit_hash=revision)
    if found is None:
        raise OSError(f"'{name}' has no {file}: it is not a published CODI model.")
    return str(found)
