"""A published PCCoT folder's own computation, to hold a converted model against.

peft's model stands over the base with a longer vocabulary, as in its authors' code, and nothing of
`ThoughtModel` takes part; every pass reads all that came before it anew, without a cache. One question, so no
padding.
"""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from codi.modeling.context import Tokens
from codi.modeling.model import ThoughtModel
from codi.modeling.pccot_conversion import LATENT, PREFIX, PccotFolder
from codi.modeling.published_files import ADAPTERS, find_weights, read_weights


class PccotLayout(nn.Module):
    """The model as published: its own special tokens, adapters by peft, `prj`."""

    def __init__(self, published: PccotFolder, base: str) -> None:
        """base: folder or hub id, in float32."""
        super().__init__()
        causal: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        self.vocabulary: int = causal.get_input_embeddings().weight.shape[0]
        rows = max(*published.trained, *published.rows.values(), self.vocabulary - 1) + 1
        causal.resize_token_embeddings(rows, mean_resizing=False)
        self.model: Any = get_peft_model(causal, LoraConfig.from_pretrained(str(published.folder)))
        self.ids = published.rows
        weights = read_weights(find_weights(str(published.folder), ADAPTERS))  # peft itself reads no shards
        own = {name: weights.pop(name) for name in list(weights) if name.startswith(f"{PREFIX}prj.")}
        set_peft_model_state_dict(self.model, weights)
        self.prj: nn.Module = nn.Identity()
        if own:
            width = causal.config.hidden_size
            self.prj = nn.Sequential(
                nn.Linear(width, width), nn.GELU(), nn.Linear(width, width), nn.LayerNorm(width)
            )
            self.prj.load_state_dict({name.removeprefix(f"{PREFIX}prj."): w for name, w in own.items()})
        self.eval()

    @torch.no_grad()
    def logits(self, question: list[int], latents: int, rounds: int, answer: list[int]) -> Tensor:
        """Read the question and think; then <eot> and answer: [1 + answer, vocabulary] over the base's."""
        embed = self.model.get_input_embeddings()
        begun = embed(torch.tensor([[*question, self.ids["<bot>"]]]))
        inputs = embed(torch.tensor([[self.ids[LATENT]] * latents]))
        first = begun.shape[1]
        for _ in range(rounds + 1 if latents else 0):
            states = self._states(torch.cat([begun, inputs], 1))
            thought = inputs
            inputs = self.prj(states[:, first - 1 : first - 1 + latents])  # each from the place before it
        read = embed(torch.tensor([[self.ids["<eot>"], *answer]]))
        whole = torch.cat([begun, *([thought] if latents else []), read], 1)
        scores: Tensor = self.model(inputs_embeds=whole).logits[0, first + latents :, : self.vocabulary]
        return scores

    def _states(self, inputs: Tensor) -> Tensor:
        final: Tensor = self.model(inputs_embeds=inputs, output_hidden_states=True).hidden_states[-1]
        return final


@torch.no_grad()
def refining_logits(
    model: ThoughtModel, question: list[int], latents: int, rounds: int, answer: list[int]
) -> Tensor:
    """The same of a thought model: [1 + answer, vocabulary]."""
    parts = [Tokens.repeated(ids, 1, model.device) for ids in (
        [*question, model.bot_id], [model.row_id(LATENT)] * latents, [model.eot_id, *answer],
    )]  # fmt: skip
    if not latents:
        begun = model.read(parts[0]).context
        return model.logits(model.read(parts[2], after=begun).final[0])
    reading, places = model.read_parts(parts[:2])
    thoughts = model.refine(places, reading.context, rounds, update=model.projection)[-1].context
    return model.logits(model.read(parts[2], after=thoughts).final[0])
