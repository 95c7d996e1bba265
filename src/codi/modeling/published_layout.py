"""The published checkpoint's own computation, to hold a converted model against.

The modules stand under the published names, the weights are the file's as they are, and nothing of
`ThoughtModel` takes part: the base with three more rows (and its adapters, by peft) is called as the released
code calls it. One question, so no padding.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedConfig

from codi.errors import CheckpointError
from codi.modeling.configuration import LoraSettings
from codi.modeling.context import Tokens, empty_cache, given_to
from codi.modeling.model import ThoughtModel


class PublishedLayout(nn.Module):
    """`codi` and `prj`, as in the file."""

    def __init__(self, base: PreTrainedConfig, lora: LoraSettings, weights: dict[str, Tensor]) -> None:
        """base: the stock configuration; weights: the published file's, taken to float32."""
        super().__init__()
        longer = copy.deepcopy(base)
        self.vocabulary: int = longer.get_text_config().vocab_size
        longer.get_text_config().vocab_size = self.vocabulary + 3  # padding, <bot>, <eot>
        causal = AutoModelForCausalLM.from_config(longer, dtype=torch.float32)  # type: ignore[no-untyped-call]
        adapters = LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,  # type: ignore[arg-type]
            target_modules=lora.targets,
            task_type="CAUSAL_LM",
        )
        self.codi: Any = get_peft_model(causal, adapters)
        width, hidden_size = weights["prj.1.weight"].shape
        self.prj = nn.Sequential(
            nn.Dropout(0.0), nn.Linear(hidden_size, width), nn.GELU(), nn.Linear(width, hidden_size)
        )
        self.prj.add_module("ln", nn.LayerNorm(hidden_size))
        missing = set(self.load_state_dict(weights, strict=False).missing_keys)
        tied = {"codi.base_model.model.lm_head.weight"} if longer.tie_word_embeddings else set()
        if missing - tied:
            raise CheckpointError(f"The published weights lack {', '.join(sorted(missing - tied)[:3])}.")
        causal.tie_weights()
        self.eval()

    @torch.no_grad()
    def logits(self, question: list[int], latents: int, answer: list[int]) -> Tensor:
        """Read question and <bot>, think, read <eot> and answer: [1 + answer, vocabulary] over the base's."""
        causal = self.codi.get_base_model()
        embedding, cache = causal.get_input_embeddings(), given_to(causal, empty_cache(causal.config))
        inputs = embedding(torch.tensor([[*question, self.vocabulary + 1]]))
        for _ in range(latents + 1):
            output = self.codi(inputs_embeds=inputs, use_cache=True, output_hidden_states=True, **cache)
            inputs = self.prj(output.hidden_states[-1][:, -1:])
        inputs = embedding(torch.tensor([[self.vocabulary + 2, *answer]]))
        output = self.codi(inputs_embeds=inputs, use_cache=True, **cache)
        scores: Tensor = output.logits[0, :, : self.vocabulary]
        return scores


@torch.no_grad()
def thinking_logits(model: ThoughtModel, question: list[int], latents: int, answer: list[int]) -> Tensor:
    """The same of a thought model: [1 + answer, vocabulary]."""
    begun = model.read(Tokens.repeated([*question, model.bot_id], 1, model.device)).context
    thoughts = model.think(after=begun, steps=latents)
    reading = model.read(Tokens.repeated([model.eot_id, *answer], 1, model.device), after=thoughts)
    return model.logits(reading.final[0])
