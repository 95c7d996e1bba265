"""The thought model and its two primitives: `read` tokens, `think` continuous thoughts.

    context  = model.read(question)                 tokens in, context out
    context  = model.think(after=context, steps=6)  each thought: projection(last hidden state), fed back
    logits   = model.logits(context.last_hidden)    the LM head, only where it is asked for

Every method of `codi.methods` is a few lines of these. Mask and position ids go with every call; without
them left padding changes answers (measured: logits off by 0.4 to 1.9).

`<bot>` and `<eot>` are two embedding rows of our own, with the two ids after the base's vocabulary. They are
only ever read, never predicted, so neither the base's embedding nor its (often tied) head is resized.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from codi.errors import RecipeError, TrainingError
from codi.modeling.adapters import check_once, multiplied_once
from codi.modeling.backbone import build_base, fingerprint
from codi.modeling.configuration import ModelConfig
from codi.modeling.context import Context, Tokens, empty_cache, remembers_all
from codi.modeling.packing import Packing, allow_packing, read_packed
from codi.modeling.projection import Projection


class ThoughtWatcher:
    """Sees every thought as it is fed back, and may change it. This one looks on; subclasses do the rest."""

    def feed(self, number: int, context: Context, latent: Tensor) -> Tensor:
        """Before thought `number` (from 0) is fed back. Returns what is fed: latent [b, d], or another.

        context: up to here; its last hidden state [b, d] is the thought before the projection.
        """
        return latent

    def fed(self, number: int, context: Context) -> Context:
        """After it was fed back: the context with it, or another."""
        return context


@dataclass(frozen=True, slots=True)
class Reading:
    """What reading t tokens gave.

    context: after the last of them; final: [b, t, d], states after the final norm (what the head sees);
    hidden_states: one [b, t, d] per layer, embeddings first, the last after the final norm; None unless
    asked for.
    """

    context: Context
    final: Tensor
    hidden_states: tuple[Tensor, ...] | None


class ThoughtModel(nn.Module):
    """A causal LM that can also think: base (with or without LoRA), projection, and thought tokens."""

    def __init__(self, config: ModelConfig, base: PreTrainedModel | None = None) -> None:
        super().__init__()
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
                check_once(config.lora.dropout)
            settings = LoraConfig(
                r=config.lora.rank,
                lora_alpha=config.lora.alpha,  # type: ignore[arg-type]
                lora_dropout=config.lora.dropout,
                target_modules=config.lora.targets,
                task_type="CAUSAL_LM",
            )
            try:
                self.backbone = get_peft_model(causal, settings)
            except ValueError as error:
                raise RecipeError(
                    f"model.lora.targets = {config.lora.targets!r} does not fit the base: {error}"
                ) from error
        self.projection: nn.Module = nn.Identity()
        if config.projection:
            self.projection = Projection(
                hidden_size, config.projection_width or hidden_size, config.projection_dropout
            )
            self.projection.to(embedding.dtype)
        self.thought_tokens = nn.Parameter(_new_rows(embedding), requires_grad=config.train_thought_tokens)

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
        """ids: [b, t]; `<bot>` and `<eot>` have the two ids after the vocabulary. Returns [b, t, d]."""
        is_thought_token = ids >= self.bot_id
        embedded: Tensor = self.causal.get_input_embeddings()(ids.masked_fill(is_thought_token, 0))
        rows = self.thought_tokens[(ids - self.bot_id).clamp(min=0)]
        return torch.where(is_thought_token.unsqueeze(-1), rows.to(embedded.dtype), embedded)

    @torch.no_grad()
    def copy_thought_tokens(self, token: int) -> None:
        """Let <bot> and <eot> start from the row of a token of the vocabulary."""
        row = self.causal.get_input_embeddings().weight[token]
        self.thought_tokens.copy_(row.expand_as(self.thought_tokens))

    def read(self, tokens: Tokens, after: Context | None = None, hidden_states: bool = False) -> Reading:
        """Run tokens through the body (not the head), after a context or from nothing."""
        return self._extend(self.embed(tokens.ids), tokens.mask, after, hidden_states)

    def read_two(self, first: Tokens, last: Tokens, after: Context | None = None) -> tuple[Context, Context]:
        """The contexts after `first` and after `first + last`, where `last` is one token [b, 1]: one pass.

        `first` must end in a real token in every row (left padding). Where the cache cannot step back
        (sliding windows) two passes are made.
        """
        if not remembers_all(empty_cache(self.causal.config)):
            context = self.read(first, after).context
            return context, self.read(last, context).context
        joined = Tokens(torch.cat([first.ids, last.ids], 1), torch.cat([first.mask, last.mask], 1))
        reading = self.read(joined, after)
        return reading.context.step_back(reading.final[:, -2]), reading.context

    def think(self, after: Context, steps: int | Tensor) -> Context:
        """`steps` continuous thoughts: z_i = projection(last hidden state), fed back as the next input.

        The hidden state of the last thought is what follows it; its own projection is never used.
        steps: one number, or one for each row [b]; a row that has done its own waits, masked, for the others.
        """
        each = torch.as_tensor(steps, device=self.device).expand(after.rows)
        context, thoughts = after, []
        for done in range(int(each.max())):
            thoughts.append(context.last_hidden)
            latent = self.projection(context.last_hidden)
            if self.watcher is not None:
                latent = self.watcher.feed(done, context, latent)
            waiting = (each > done).long().unsqueeze(1)
            context = self._extend(latent.unsqueeze(1), waiting, context, False).context
            if self.watcher is not None:
                context = self.watcher.fed(done, context)
        return replace(context, thoughts=torch.stack(thoughts, 1)) if thoughts else context

    def logits(self, hidden: Tensor) -> Tensor:
        """The LM head. hidden: [.., d] after the final norm. Returns [.., vocabulary]."""
        scores: Tensor = self.causal.get_output_embeddings()(hidden)
        return scores

    def cross_entropy(self, hidden: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
        """Summed -log P(target) where mask is 1; the head runs on those positions only.

        hidden: [b, t, d], the state *before* each target; targets, mask: [b, t]. Returns a scalar.
        """
        wanted = mask.bool()
        return F.cross_entropy(self.logits(hidden[wanted]).float(), targets[wanted], reduction="sum")

    def _extend(self, inputs: Tensor, mask: Tensor, after: Context | None, hidden_states: bool) -> Reading:
        """One pass of the body. inputs: [b, t, d]; mask: [b, t]."""
        body = self.causal.base_model
        if self.training and getattr(body, "gradient_checkpointing", False):
            raise TrainingError(CHECKPOINTING_REFUSED)
        start = 0 if after is None else after.next_position.unsqueeze(1)
        positions = (start + mask.cumsum(1) - 1).clamp(min=0)
        whole_mask = mask if after is None else torch.cat([after.mask, mask], dim=1)
        cache = empty_cache(self.causal.config) if after is None else after.forked_cache()
        states: tuple[Tensor, ...] | None
        if self.packs and mask.shape[1] > 1 and 0 < int(mask.sum()) < mask.numel():
            packing = Packing.of(mask, whole_mask, cache)
            final, states = read_packed(body, packing, inputs, positions, hidden_states)
        else:
            output = body(
                inputs_embeds=inputs,
                attention_mask=whole_mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                output_hidden_states=hidden_states,
            )
            final, states, cache = output.last_hidden_state, output.hidden_states, output.past_key_values
        context = Context(
            cache=cache,
            mask=whole_mask,
            next_position=(start if isinstance(start, int) else start.squeeze(1)) + mask.sum(1),
            last_hidden=_last_real(final, mask, after),
            thoughts=None if after is None else after.thoughts,
        )
        return Reading(context, final, states if hidden_states else None)


CHECKPOINTING_REFUSED = (
    "Activation checkpointing was asked for, but it cannot be used: in training it sets every layer's cache "
    "to None, so the continuous thoughts would lose their question (measured: loss 5.99 instead of 4.99, "
    "gradients off by more than 100 %). Turn it off; to save memory use a smaller batch with more "
    "accumulation."
)


def fingerprint_of(causal: Any, config: ModelConfig) -> str | None:
    """The base's fingerprint where it is needed for loading again: with LoRA, over a pretrained base."""
    is_real = causal.get_input_embeddings().weight.device.type != "meta"
    return fingerprint(causal) if config.lora is not None and is_real else config.base_fingerprint


def _last_real(final: Tensor, mask: Tensor, after: Context | None) -> Tensor:
    """The state of each row's last real token; a row with no real token keeps the one it had. [b, d]"""
    index = (mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)).max(1).values - 1
    last = final[torch.arange(final.shape[0], device=final.device), index.clamp(min=0)]
    return last if after is None else torch.where((index < 0).unsqueeze(1), after.last_hidden, last)


@torch.no_grad()
def _new_rows(embedding: Tensor) -> Tensor:
    """Two rows drawn like the base's own: per-dimension mean and spread of its embedding. [2, d]"""
    if embedding.device.type == "meta":
        return torch.empty(2, embedding.shape[1], device="meta", dtype=embedding.dtype)
    table = embedding.float()
    return (table.mean(0) + table.std(0) * torch.randn(2, table.shape[1], device=table.device)).to(
        embedding.dtype
    )
