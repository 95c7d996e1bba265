"""The rows that published code adds: where they start, and their share in a loss, by hand and as resized."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from codi.errors import RecipeError
from codi.methods.no_cot_sft import NoCotSft
from codi.modeling.added_rows import added_scores, start_at_mean
from codi.modeling.model import ThoughtModel
from tiny_models import VOCABULARY, encoded_batch, tiny_config, tiny_model


class Head(nn.Module):
    """A causal LM as far as it is asked here: an embedding, and a head tied to it or its own."""

    def __init__(self, embedding: list[list[float]], head: list[list[float]] | None = None) -> None:
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(torch.tensor(embedding))
        self.head = nn.Linear(2, 2, bias=False)
        self.head.weight = self.embedding.weight if head is None else nn.Parameter(torch.tensor(head))

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding

    def get_output_embeddings(self) -> nn.Module:
        return self.head


def test_scores_of_the_added_rows_by_hand() -> None:
    """Embedding (1, 0), (3, 4), so padding is (2, 2); <bot> (1, 1), <eot> (0, 2)."""
    bot_eot, hidden = torch.tensor([[1.0, 1.0], [0.0, 2.0]]), torch.tensor([[1.0, 2.0], [-1.0, 0.5]])
    tied = added_scores(Head([[1.0, 0.0], [3.0, 4.0]]), bot_eot, hidden)
    assert tied.tolist() == [[6.0, 3.0, 4.0], [-1.0, -0.5, 1.0]]
    apart = added_scores(Head([[1.0, 0.0], [3.0, 4.0]], [[0.0, 2.0], [4.0, 0.0]]), bot_eot, hidden)
    assert apart.tolist() == [[4.0, 4.0, 4.0], [-1.5, -1.5, -1.5]]  # a head of its own, mean (2, 1)


@pytest.mark.parametrize(("family", "tied"), [("gpt2", True), ("llama", True), ("llama", False)])
def test_loss_is_that_of_a_model_whose_vocabulary_was_made_longer(family: str, tied: bool) -> None:
    """transformers' own loss after `resize_token_embeddings`, each row without padding."""
    model = tiny_model(family, tied=tied, softmax="added-rows").eval()
    longer = copy.deepcopy(model.causal)
    table, head = (longer.get_input_embeddings().weight, longer.get_output_embeddings().weight)
    padding = head.detach().mean(0)
    longer.resize_token_embeddings(VOCABULARY + 3)
    new = longer.get_output_embeddings().weight
    with torch.no_grad():
        new[VOCABULARY:] = torch.stack([padding, *(model.thought_tokens if tied else [padding] * 2)])
    assert (table is head) is tied
    batch = encoded_batch(NoCotSft())
    total = torch.zeros(())
    for row in range(len(batch["question_ids"])):
        question, answer = (
            batch[f"{name}_ids"][row][batch[f"{name}_mask"][row].bool()] for name in ("question", "student")
        )
        ids = torch.cat([question, answer]).unsqueeze(0)
        labels = torch.cat([torch.full_like(question, -100), answer]).unsqueeze(0)
        total = total + longer(input_ids=ids, labels=labels).loss * len(answer)
    ours = NoCotSft().loss(model, batch)["loss"]
    torch.testing.assert_close(ours, total / batch["student_mask"].sum(), rtol=1e-5, atol=0)

    plain = tiny_model(family, tied=tied).eval()
    assert NoCotSft().loss(plain, batch)["loss"] < ours  # fewer to choose from


def test_new_rows_lie_at_the_vocabulary_s_mean_within_its_covariance() -> None:
    """(1, 0), (3, 4), (2, -1): mean (2, 1), covariance 1/3 [[2, 4], [4, 14]], of which 1e-9."""
    torch.manual_seed(0)
    rows = torch.zeros(20_000, 2, dtype=torch.float64)
    start_at_mean([rows], torch.tensor([[1.0, 0.0], [3.0, 4.0], [2.0, -1.0]]))
    beside = rows - torch.tensor([2.0, 1.0])
    assert beside.abs().max() < 5 * math.sqrt(14 / 3 * 1e-9)
    wanted = torch.tensor([[2.0, 4.0], [4.0, 14.0]], dtype=torch.float64) / 3
    torch.testing.assert_close(beside.T @ beside / len(rows) / 1e-9, wanted, rtol=0.05, atol=0)


def test_new_rows_of_a_model() -> None:
    model = tiny_model(new_rows="mean", rows=["<latent>"])
    table = model.causal.get_input_embeddings().weight
    for row in (*model.thought_tokens, model.rows["<latent>"]):
        distance = (row - table.mean(0)) / table.std(0)
        assert 0 < distance.abs().max() < 2e-4
    assert not torch.equal(*model.thought_tokens)
    drawn = tiny_model().thought_tokens
    assert ((drawn - table.mean(0)) / table.std(0)).abs().mean() > 0.5  # like other tokens


@pytest.mark.parametrize("option", [{"new_rows": "zero"}, {"softmax": "all"}])
def test_unknown_choices_are_refused(option: dict[str, str]) -> None:
    with pytest.raises(RecipeError, match=f"model.{next(iter(option))} is .*; it must be"):
        ThoughtModel(tiny_config(**option))
