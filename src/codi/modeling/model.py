"""The thought model and its primitives: `read` tokens, `think` thoughts, `refine` them together.

    context  = model.read(question).context         tokens in, context out
    context  = model.think(after=context, steps=6)  each thought: projection(last hidden state), fed back
    rounds   = model.refine(places, context, 3, update)   all thoughts at once, again and again
    logits   = model.logits(context.last_hidden)    the LM head, only where it is asked for

Every method of `codi.methods` is a few lines of these, and these are written with `feed`, one pass of the
body over inputs [b, t, d]. Mask and position ids go with every call; without them left padding changes
answers (measured: logits off by 0.4 to 1.9).

`<bot>`, `<eot>` and what else a method declares are embedding rows of our own, with the ids after the base's
vocabulary. They are only ever read, never predicted, so neither the base's embedding nor its (often tied)
head is resized; a loss can count them all the same (`model.softmax`), as published code does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codi.errors import CheckpointError, RecipeError, TrainingError, UsageError
from codi.modeling.adapters import check_once, multiplied_once, without_advice
from codi.modeling.added_rows import added_scores, check_choices, start_at_mean
from codi.modeling.backbone import build_base, fingerprint
from codi.modeling.configuration import ModelConfig
from codi.modeling.context import Context, Tokens, empty_cache, laid_out, remembers_all
from codi.modeling.packing import ATTENTION, allow_packing, may_attend
from codi.modeling.passing import Pass, last_real, pays_to_pack, placed
from codi.modeling.precision import DTYPES
from codi.modeling.projection import Projection
from codi.modeling.watching import ThoughtWatcher

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["BOT", "EOT", "Reading", "ThoughtModel", "ThoughtWatcher"]

BOT, EOT = "<bot>", "<eot>"
"""The rows that every thought model has."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What reading t tokens gave.

    context: after the last of them; final: [b, t, d], states after the final norm (what the head sees);
    hidden_states: one [b, t, d] per layer, embeddings first, the last after the final norm; None unless
    asked for; attention: per layer [b, kv_heads, group, q, t], the logits of the asked queries to the keys of
    these tokens, not masked and without gradient; None unless asked for.
    """

    context: Context
    final: Tensor
    hidden_states: tuple[Tensor, ...] | None
    attention: tuple[Tensor, ...] | None = None


class ThoughtModel(nn.Module):
    """A causal LM that can also think: base (with or without LoRA), projection, and thought tokens."""

    def __init__(self, config: ModelConfig, base: PreTrainedModel | None = None) -> None:
        super().__init__()
        check_choices(config.new_rows, config.softmax)
        causal = build_base(config) if base is None else base
        if any(getattr(module, "gradient_checkpointing", False) for module in causal.modules()):
            raise TrainingError(CHECKPOINTING_REFUSED)
        embedding: Tensor = causal.get_input_embeddings().weight  # type: ignore[assignment]
        rows, hidden_size = embedding.shape
        self.config = replace(
            config, base_vocabulary_rows=rows, base_fingerprint=fingerprint_of(causal, config)
        )
        self.hidden_size: int = hidden_size
        self.bot_id, self.eot_id = rows, rows + 1
        self.row_names: tuple[str, ...] = (BOT, EOT, *config.rows)
        """Names of the rows of our own, in the order of their ids."""
        limit = getattr(causal.config.get_text_config(), "max_position_embeddings", None)
        self.longest_sequence: int | None = int(limit) if limit else None
        """Most positions the base can take in; None when it states no limit."""
        self.packs = allow_packing(causal)
        """Whether padding is left out of the computation; set to False to have it computed."""
        self.watcher: ThoughtWatcher | None = None
        """Who looks on while the model thinks; set for a while by `codi.interpretability`."""
        self.backbone: nn.Module = causal
        if config.lora is not None:
            if config.lora.multiply_once:
                check_once(config.lora.dropout, config.recompute)
            from peft import LoraConfig, get_peft_model  # slow to import, and not every command loads a model

            from codi.modeling.lora_layers import cast_once

            settings = LoraConfig(
                r=config.lora.rank,
                lora_alpha=config.lora.alpha,  # type: ignore[arg-type]
                lora_dropout=config.lora.dropout,
                target_modules=config.lora.targets,
                task_type="CAUSAL_LM",
            )
            try:
                with without_advice():
                    self.backbone = get_peft_model(causal, settings)
            except ValueError as error:
                raise RecipeError(
                    f"model.lora.targets = {config.lora.targets!r} does not fit the base: {error}"
                ) from error
            cast_once(self.backbone)
        own = embedding.dtype if config.base_dtype is None else DTYPES[config.dtype]
        self.projection: nn.Module = nn.Identity()
        if config.projection:
            self.projection = Projection(
                hidden_size, config.projection_width or hidden_size, config.projection_dropout
            )
            self.projection.to(own)
        self.thought_tokens = nn.Parameter(
            _new_rows(embedding, 2, own), requires_grad=config.train_thought_tokens
        )
        """[2, d], <bot> and <eot>."""
        self.rows = nn.ParameterDict(
            {
                name: nn.Parameter(_new_rows(embedding, 1, own)[0], requires_grad=config.train_rows)
                for name in config.rows
            }
        )
        """[d] each, what the method has declared beside them."""
        if config.new_rows == "mean":
            start_at_mean([self.thought_tokens, *self.rows.values()], embedding)
        self.training_parts = nn.ModuleDict()
        """What only training needs (`Method.training_parts`): optimised and kept for resuming, never saved
        with the model."""

    def whole_weights(self) -> AbstractContextManager[None]:
        """Inside, adapters are multiplied in once, where the configuration asks for it."""
        return multiplied_once(self, self.config.lora is not None and self.config.lora.multiply_once)

    @property
    def causal(self) -> Any:
        """The causal LM itself; LoRA layers, where used, stand inside it."""
        return self.backbone.get_base_model() if self.config.lora is not None else self.backbone  # type: ignore[operator]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.thought_tokens.device

    @property
    def layers(self) -> int:
        """Transformer layers of the base."""
        return int(self.causal.config.get_text_config().num_hidden_layers)

    def embed(self, ids: Tensor) -> Tensor:
        """ids: [b, t]; rows of our own have the ids after the vocabulary. Returns [b, t, d].

        Raises what the base's embedding raises for an id that neither has.
        """
        own = (ids >= self.bot_id) & (ids < self.bot_id + len(self.row_names))
        embedded: Tensor = self.causal.get_input_embeddings()(ids.masked_fill(own, 0))
        # Put in one by one: the gradient of a gather is added up place by place, all into these few rows.
        for number, row in enumerate((*self.thought_tokens, *self.rows.values())):
            here = (ids == self.bot_id + number).unsqueeze(-1)
            embedded = torch.where(here, row.to(embedded.dtype), embedded)
        return embedded

    @property
    def own_masks(self) -> bool:
        """Whether the base takes masks of four dimensions, which are made without a look at them."""
        return bool(self.causal.config._attn_implementation == ATTENTION)

    def row_id(self, name: str) -> int:
        """The id of a row of our own. Raises CheckpointError where the model has none of that name."""
        if name not in self.row_names:
            raise CheckpointError(
                f"The method reads a learned row '{name}', but this model has only "
                f"{', '.join(self.row_names)}. It was trained with another method: answer with that one, or "
                "train with this one (start=FOLDER begins from its weights)."
            )
        return self.bot_id + self.row_names.index(name)

    @torch.no_grad()
    def copy_row(self, name: str, token: int) -> None:
        """Let a row of our own start from that of a token of the vocabulary."""
        number = self.row_id(name) - self.bot_id
        own = self.thought_tokens[number] if number < 2 else self.rows[name]
        own.copy_(self.causal.get_input_embeddings().weight[token])

    def feed(
        self,
        inputs: Tensor,
        mask: Tensor | None = None,
        after: Context | None = None,
        hidden_states: bool = False,
        attention_of: Tensor | None = None,
        places: Tensor | None = None,
    ) -> Reading:
        """One pass of the body (not the head) over inputs [b, t, d], after a context or from nothing.

        mask: [b, t], 1 at what is real; None where all is. places: see `Tokens`. attention_of: [b, q], places
        among the t whose attention is wanted (`Reading.attention`). Raises UsageError where the base does not
        give it.
        """
        body = self.causal.base_model
        if self.training and getattr(body, "gradient_checkpointing", False):
            raise TrainingError(CHECKPOINTING_REFUSED)
        inputs = inputs.to(self.causal.get_input_embeddings().weight.dtype)  # what learns may be held wider
        positions, whole_mask, next_position = placed(inputs, mask, after)
        padded, width = mask is not None or (after is not None and after.padded), inputs.shape[1]
        seen: Tensor | None = whole_mask
        if self.own_masks:
            plain = not padded and (after is None or width == 1)
            seen = None if plain else may_attend(whole_mask, width)
        if attention_of is not None:
            self._check_attention_given()
        passed = Pass(
            body=body,
            start=partial(empty_cache, self.causal.config) if after is None else after.forked_cache,
            positions=positions,
            seen=seen,
            places=places if self.packs and pays_to_pack(places, inputs) else None,
            hidden_states=hidden_states,
            attention_of=attention_of,
        ).over(inputs, recompute=self.config.recompute and self.training and torch.is_grad_enabled())
        context = Context(
            cache=passed.cache,
            mask=whole_mask,
            next_position=next_position,
            last_hidden=last_real(passed.final, mask, after),
            thoughts=None if after is None else after.thoughts,
            latents=None if after is None else after.latents,
            thought=None if after is None else after.thought,
            padded=padded,
        )
        return Reading(context, passed.final, passed.states, passed.attention)

    def _check_attention_given(self) -> None:
        """Raises UsageError where the base does not attend through our function."""
        if not self.own_masks:
            raise UsageError(
                f"The attention of single tokens was asked for, but {type(self.causal).__name__} attends in "
                "a way of its own (sliding windows, or another implementation than sdpa), which does not "
                "give it. Take another base, or a method that needs no attention."
            )

    def read(
        self,
        tokens: Tokens,
        after: Context | None = None,
        hidden_states: bool = False,
        attention_of: Tensor | None = None,
    ) -> Reading:
        """Run tokens through the body (not the head), after a context or from nothing; see `feed`."""
        mask = tokens.mask if tokens.padded else None
        return self.feed(self.embed(tokens.ids), mask, after, hidden_states, attention_of, tokens.places)

    def read_parts(self, parts: Sequence[Tokens], after: Context | None = None) -> list[Reading]:
        """Several parts, each after the one before it, in one pass: the reading of each as if read alone.

        Where the cache cannot be cut back (sliding windows) each takes a pass.
        """
        readings = list[Reading]()
        if not remembers_all(empty_cache(self.causal.config)):
            for part in parts:
                readings.append(self.read(part, after))
                after = readings[-1].context
            return readings
        tokens = Tokens.joined(parts)
        whole, left = self.read(tokens, after), tokens.ids.shape[1]
        for part in parts:
            first, left = tokens.ids.shape[1] - left, left - part.ids.shape[1]
            final = whole.final[:, first : tokens.ids.shape[1] - left]
            last = last_real(final, part.mask if part.padded else None, after)
            context = whole.context.cut(left, last)
            readings.append(Reading(context, final, None))
            after = context
        return readings

    def read_two(self, first: Tokens, last: Tokens, after: Context | None = None) -> tuple[Context, Context]:
        """The contexts after `first` and after `first + last`: one pass, see `read_parts`."""
        one, two = self.read_parts([first, last], after)
        return one.context, two.context

    def think(
        self, after: Context, steps: int | Tensor, stop: Callable[[Context, Context], Tensor] | None = None
    ) -> Context:
        """`steps` continuous thoughts: z_i = projection(last hidden state), fed back as the next input.

        The hidden state of the last thought is what follows it; its own projection is never used.
        steps: one number, or [b, n] where rows differ, 1 at each row's own (`<name>_mask` of a collated
        number); a row that has done its own waits, masked, for the others.
        stop: told of the contexts before and after each thought; says which rows [b] need no further one.
        """
        number = steps if isinstance(steps, int) else steps.shape[1]
        each: Tensor | None = None if isinstance(steps, int) else steps.sum(1)  # [b], where rows differ
        if each is None and stop is not None:
            each = torch.full((after.rows,), number, dtype=torch.long, device=self.device)
        context, thoughts, latents = after.with_room(number), list[Tensor](), list[Tensor]()
        for done in range(number):
            thoughts.append(context.last_hidden)
            latent = self.projection(context.last_hidden)
            if self.watcher is not None:
                latent = self.watcher.feed(done, context, latent)
            latents.append(latent)
            going_on = None if each is None else (each > done).long().unsqueeze(1)
            before, context = context, self.feed(latent.unsqueeze(1), going_on, context).context
            if self.watcher is not None:
                context = self.watcher.fed(done, context)
            if stop is not None and each is not None:
                each = torch.where(stop(before, context), each.clamp(max=done + 1), each)
                if int(each.max()) == done + 1:
                    break
        if not thoughts:
            return context
        return replace(
            context, thoughts=torch.stack(thoughts, 1), latents=torch.stack(latents, 1), thought=each
        )

    def refine(
        self,
        places: Reading,
        after: Context,
        rounds: int,
        update: Callable[[Tensor], Tensor],
        shift: int = 1,
    ) -> list[Reading]:
        """`rounds` passes over the same m places, every one from `after`: thoughts are refined together.

        places: the first pass over them, after `after` (`read_parts`); update: from thoughts [b, m, d],
        states of the pass before, to the inputs of the next; shift: 1 where the thought of a place is the
        state just before it (as in `think`; the first is what `after` ends in), 0 where it is its own.

        Returns the reading of every pass, the first included. Of the last one, the thoughts and what was fed.
        Raises UsageError when a watcher would put something else in the place of what was fed.
        """
        readings, number = [places], places.final.shape[1]
        for done in range(rounds):
            states = torch.cat([after.last_hidden.unsqueeze(1), readings[-1].final], 1)
            thoughts = states[:, 1 - shift : 1 - shift + number]
            latents = update(thoughts)
            if self.watcher is not None:
                before = readings[-1].context
                contexts = [before.cut(number - 1 + shift - i, thoughts[:, i]) for i in range(number)]
                latents = self.watcher.refine(done, rounds, contexts, latents)
            reading = self.feed(latents, None, after)
            context = replace(reading.context, thoughts=thoughts, latents=latents)
            readings.append(replace(reading, context=context))
        if self.watcher is not None and rounds:
            whole, final = readings[-1].context, readings[-1].final
            for i in range(number):
                fed = whole.cut(number - 1 - i, final[:, i])
                if self.watcher.fed(i, fed) is not fed:
                    raise UsageError(
                        "The keys and values of a single thought cannot be replaced where thoughts are "
                        "refined together: the others were computed with it. Replace what is fed instead."
                    )
        return readings

    def logits(self, hidden: Tensor) -> Tensor:
        """The LM head. hidden: [.., d] after the final norm. Returns [.., vocabulary]."""
        scores: Tensor = self.causal.get_output_embeddings()(hidden)
        return scores

    def _scores(self, hidden: Tensor) -> Tensor:
        """What the softmax of a loss runs over, as `model.softmax` says: [.., vocabulary] or 3 more."""
        scores = self.logits(hidden)
        if self.config.softmax == "vocabulary":
            return scores
        added = added_scores(self.causal, self.thought_tokens, hidden)
        return torch.cat([scores, added.to(scores.dtype)], -1)

    def cross_entropy(self, hidden: Tensor, tokens: Tokens) -> Tensor:
        """Summed -log P(token) of the real ones; where their places are known, the head runs on those alone.

        hidden: [b, t or more, d], the state *before* each token in its column. Returns a scalar.
        """
        width, states = tokens.ids.shape[1], hidden.shape[1]
        ids, real = tokens.ids.flatten(), tokens.mask.flatten()
        if tokens.places is None:
            before = hidden[:, :width].flatten(0, 1)
        else:
            ids, real = ids.index_select(0, tokens.places), real.index_select(0, tokens.places)
            before = hidden.flatten(0, 1).index_select(0, laid_out(tokens.places, (width,), (states,)))
        targets = ids.masked_fill(real == 0, NOT_LEARNED)
        return F.cross_entropy(
            self._scores(before).float(), targets, ignore_index=NOT_LEARNED, reduction="sum"
        )


NOT_LEARNED = -100
CHECKPOINTING_REFUSED = (
    "Activation checkpointing was asked for, but it cannot be used: in training it sets every layer's cache "
    "to None, so the continuous thoughts would lose their question (measured: loss 5.99 instead of 4.99, "
    "gradients off by more than 100 %). Turn it off; to save memory set model.recompute=true, which computes "
    "passes again and keeps what they remember, or use a smaller batch with more accumulation."
)


def fingerprint_of(causal: Any, config: ModelConfig) -> str | None:
    """The base's fingerprint where it is needed for loading again: with LoRA, over a pretrained base."""
    is_real = causal.get_input_embeddings().weight.device.type != "meta"
    return fingerprint(causal) if config.lora is not None and is_real else config.base_fingerprint


@torch.no_grad()
def _new_rows(embedding: Tensor, number: int, dtype: torch.dtype) -> Tensor:
    """Rows drawn like the base's own: per-dimension mean and spread of its embedding. [number, d]"""
    if embedding.device.type == "meta":
        return torch.empty(number, embedding.shape[1], device="meta", dtype=dtype)
    table = embedding.float()
    drawn = torch.randn(number, table.shape[1], device=table.device)
    return (table.mean(0) + table.std(0) * drawn).to(dtype)
