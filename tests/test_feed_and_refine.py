"""What methods are written with beside `read` and `think`: parts, rounds, rows, keys, values, attention."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from codi.data.collation import Nested, collate
from codi.data.encoded_rows import EncodedRows
from codi.errors import CheckpointError, RecipeError, UsageError
from codi.generation.decoded_thoughts import token_text
from codi.generation.latent_reasoner import LatentReasoner
from codi.methods.codi import Codi
from codi.methods.pause_tokens import PAUSE, PauseTokens
from codi.modeling import checkpoint
from codi.modeling.context import Context, Tokens
from codi.modeling.model import ThoughtModel
from codi.training.recipes import load_recipe
from codi.training.starting import build_reasoner
from tiny_models import EXAMPLES, FAMILIES, encoded_batch, reasoner, tiny_model, word_encoder

QUESTION = Tokens(
    torch.tensor([[0, 0, 0, 31, 32, 33, 34, 35], [40, 41, 42, 43, 44, 45, 46, 47]]),
    torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1], [1] * 8]),
)
MIDDLE = Tokens(torch.tensor([[50, 51, 52], [53, 0, 0]]), torch.tensor([[1, 1, 1], [1, 0, 0]]))
END = Tokens(torch.tensor([[60, 61], [62, 63]]), torch.ones(2, 2, dtype=torch.long))


def assert_same_context(ours: Context, theirs: Context) -> None:
    assert torch.equal(ours.mask, theirs.mask)
    assert torch.equal(ours.next_position, theirs.next_position)
    torch.testing.assert_close(ours.last_hidden, theirs.last_hidden, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_parts_read_in_one_pass_equal_each_read_after_the_other(family: str) -> None:
    model = tiny_model(family)
    parts, after = model.read_parts([QUESTION, MIDDLE, END]), None
    for part, tokens in zip(parts, (QUESTION, MIDDLE, END), strict=True):
        alone = model.read(tokens, after)
        after = alone.context
        real = tokens.mask.bool()
        torch.testing.assert_close(part.final[real], alone.final[real], rtol=1e-4, atol=1e-5)
        assert_same_context(part.context, alone.context)
        next_ours, next_theirs = model.read(END, part.context), model.read(END, alone.context)
        torch.testing.assert_close(next_ours.final, next_theirs.final, rtol=1e-4, atol=1e-5)


def test_inputs_fed_are_what_tokens_read_are() -> None:
    model = tiny_model("llama")
    read, fed = model.read(END), model.feed(model.embed(END.ids))
    assert torch.equal(read.final, fed.final)
    assert read.attention is None


def test_a_context_is_not_cut_back_where_it_has_forgotten() -> None:
    context = tiny_model("mistral").read(QUESTION).context
    with pytest.raises(UsageError, match="sliding window"):
        context.cut(2, context.last_hidden)
    with pytest.raises(UsageError, match="sliding window"):
        context.keys_values(slice(0, 2))


def test_rounds_all_begin_after_the_same_context() -> None:
    """shift 0: each place's own state; shift 1: the one before it, the first what the context ends in."""
    model = tiny_model("llama")
    begun, places = model.read_parts([QUESTION, END])
    seen = list[Tensor]()

    def update(thoughts: Tensor) -> Tensor:
        seen.append(thoughts)
        return thoughts / 2

    for shift in (0, 1):
        seen.clear()
        rounds = model.refine(places, begun.context, 2, update, shift)
        assert [reading.context.width for reading in rounds] == [10, 10, 10]
        before = torch.cat([begun.context.last_hidden.unsqueeze(1), places.final], 1)
        torch.testing.assert_close(seen[0], before[:, 1 - shift : 3 - shift])
        by_hand = model.feed(seen[0] / 2, None, begun.context)
        assert torch.equal(rounds[1].final, by_hand.final)
        assert torch.equal(rounds[2].final, model.feed(seen[1] / 2, None, begun.context).final)
        thoughts, latents = rounds[2].context.thoughts, rounds[2].context.latents
        assert thoughts is seen[1]
        assert latents is not None
        assert torch.equal(latents, seen[1] / 2)
    assert model.refine(places, begun.context, 0, update) == [places]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_keys_and_values_of_chosen_places_have_their_gradient(family: str) -> None:
    model = tiny_model(family)
    z = model.think(model.read(QUESTION).context, 3)
    found = z.keys_values(slice(8, 11))
    assert len(found) == 2
    heads = 4 if family == "gpt2" else 2
    assert all(part.shape == (2, heads, 3, 8) for pair in found for part in pair)
    for layer, (keys, values) in enumerate(found):
        assert torch.equal(keys, z.cache.layers[layer].keys[:, :, 8:11])  # type: ignore[index]
        (again,) = z.keys_values(slice(8, 11), layers=[layer])
        assert torch.equal(again[1], values)
    found[1][0].square().sum().backward()
    gradients = [weight.grad for weight in model.projection.parameters()]
    assert all(gradient is not None and gradient.abs().max() > 0 for gradient in gradients)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("packs", [True, False])
def test_attention_of_chosen_tokens_is_the_models_own(family: str, packs: bool) -> None:
    """Row by row against transformers' eager weights, from which the logits follow but for a constant."""
    model = tiny_model(family).eval()
    model.packs = packs and model.packs
    asked = model.read(QUESTION).context
    places = torch.tensor([[2, 1], [0, 0]])
    reading = model.read(MIDDLE, asked, attention_of=places)
    assert reading.attention is not None
    assert len(reading.attention) == 2
    groups = (4, 1) if family == "gpt2" else (2, 2)
    model.causal.config._attn_implementation = "eager"
    for row in range(2):
        ids = torch.cat([part.ids[row][part.mask[row].bool()] for part in (QUESTION, MIDDLE)])
        weights = model.causal(input_ids=ids.unsqueeze(0), output_attentions=True).attentions
        length = int(QUESTION.mask[row].sum())
        for layer, logits in enumerate(reading.attention):
            assert logits.shape == (2, *groups, 2, 3)
            for number, place in enumerate(places[row].tolist()):
                ours = logits[row, :, :, number, : place + 1].softmax(-1).flatten(0, 1)
                theirs = weights[layer][0, :, length + place, length : length + place + 1]
                theirs = theirs / theirs.sum(-1, keepdim=True)
                torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_attention_is_refused_where_the_base_does_not_give_it() -> None:
    with pytest.raises(UsageError, match="sliding windows, or another"):
        tiny_model("mistral").read(QUESTION, attention_of=torch.tensor([[1], [1]]))


# --- learned rows -------------------------------------------------------------------------------------------


def test_rows_have_ids_names_and_values_of_their_own() -> None:
    model = tiny_model(rows=["<latent>", PAUSE], train_thought_tokens=False)
    assert model.row_names == ("<bot>", "<eot>", "<latent>", PAUSE)
    ids = torch.tensor([[model.bot_id, 5, model.row_id(PAUSE), model.row_id("<latent>")]])
    embedded = model.embed(ids)[0]
    weight = model.causal.get_input_embeddings().weight
    expected = [model.thought_tokens[0], weight[5], model.rows[PAUSE], model.rows["<latent>"]]
    assert torch.equal(embedded, torch.stack(expected))
    assert (model.thought_tokens.requires_grad, model.rows[PAUSE].requires_grad) == (False, True)
    assert not tiny_model(rows=[PAUSE], train_rows=False).rows[PAUSE].requires_grad
    assert token_text(model, word_encoder(), model.row_id(PAUSE)) == PAUSE
    model.copy_row(PAUSE, 7)
    assert torch.equal(model.rows[PAUSE], weight[7])
    assert not torch.equal(model.rows["<latent>"], weight[7])
    with pytest.raises(CheckpointError, match=r"'<other>'.*<bot>, <eot>, <latent>, <pause>"):
        model.row_id("<other>")
    with pytest.raises(IndexError):  # neither the vocabulary's nor ours
        model.embed(torch.tensor([[5, model.bot_id + 4]]))


def test_pauses_have_a_row_that_learns_where_bot_is_frozen() -> None:
    model, method = tiny_model(rows=[PAUSE], train_thought_tokens=False), PauseTokens(pauses=3)
    method.loss(model, encoded_batch(method))["loss"].backward()
    assert model.rows[PAUSE].grad is not None
    assert model.rows[PAUSE].grad.abs().max() > 0
    assert model.thought_tokens.grad is None


def test_rows_are_saved_and_checkpoints_from_before_them_still_answer(tmp_path: Path) -> None:
    questions = [example.question for example in EXAMPLES]
    for name, model in (("old", tiny_model()), ("new", tiny_model(rows=[PAUSE]))):
        saved = reasoner(PauseTokens(pauses=2), model)
        saved.save_pretrained(tmp_path / name)
        file = tmp_path / name / "codi.json"
        contents = json.loads(file.read_text())
        assert list(contents["special_tokens"]) == list(model.row_names)
        if name == "old":  # as they were written: two rows, and no word of others
            for key in ("rows", "train_rows"):
                del contents["model"][key]
            file.write_text(json.dumps(contents))
            assert "rows.<pause>" not in load_file(tmp_path / name / "thoughts.safetensors")
        again = LatentReasoner.from_pretrained(tmp_path / name, device="cpu")
        assert again.model.row_names == model.row_names
        assert again.answer(questions, max_new_tokens=5) == saved.answer(questions, max_new_tokens=5)


def _built(*settings: str) -> LatentReasoner:
    small = 'model.base_config={"model_type": "gpt2", "n_embd": 32, "n_layer": 1, "n_head": 2}'
    return build_reasoner(load_recipe("word-problems-small", ["model.lora=null", small, *settings]))


def test_rows_start_from_tokens_by_name_and_from_a_checkpoint(tmp_path: Path) -> None:
    paused = ["method.name=pause-tokens"]
    one = _built(*paused, 'model.thought_tokens_from={"<pause>": "The"}').model
    weight = one.causal.get_input_embeddings().weight
    copied = [bool((weight == row).all(1).any()) for row in (*one.thought_tokens, one.rows[PAUSE])]
    assert copied == [False, False, True]
    every = _built(*paused, "model.thought_tokens_from=The").model
    assert torch.equal(every.thought_tokens[0], every.rows[PAUSE])
    with pytest.raises(RecipeError, match=r"'<paus>'.*Did you mean '<pause>'"):
        _built(*paused, 'model.thought_tokens_from={"<paus>": "The"}')

    thinking = _built("method.name=codi")
    thinking.save_pretrained(tmp_path / "codi")
    begun = _built("method.name=codi", f"start={tmp_path / 'codi'}")
    assert torch.equal(begun.model.thought_tokens, thinking.model.thought_tokens)


# --- segments of segments, and what only training needs -----------------------------------------------------

ROWS: list[dict[str, Any]] = [
    {"question": [1, 2], "steps": Nested([[3, 4], [5]]), "thoughts": 2},
    {"question": [6], "steps": Nested(), "thoughts": 0},
    {"question": [], "steps": Nested([[], [7, 8, 9]]), "thoughts": 1},
]


def test_a_list_of_steps_is_padded_in_both_directions() -> None:
    batch = collate(ROWS, pad_id=0)
    assert batch["steps_ids"].tolist() == [
        [[3, 4, 0], [5, 0, 0]], [[0, 0, 0], [0, 0, 0]], [[0, 0, 0], [7, 8, 9]]
    ]  # fmt: skip
    assert batch["steps_mask"].sum((1, 2)).tolist() == [3, 0, 3]
    assert collate(ROWS[1:2], 0)["steps_mask"].shape == (1, 1, 1)


def test_lists_of_steps_are_kept_in_flat_arrays(tmp_path: Path) -> None:
    rows = EncodedRows.gather(ROWS)
    assert list(rows) == ROWS
    assert all(isinstance(row["steps"], Nested) for row in rows)
    assert rows.lists() == ["question"]
    assert rows.lengths("steps").tolist() == [3, 0, 3]
    rows.select([2, 0]).save(tmp_path)
    assert list(EncodedRows.load(tmp_path)) == [ROWS[2], ROWS[0]]


def test_parts_for_training_are_kept_for_resuming_and_no_part_of_the_model(tmp_path: Path) -> None:
    def with_parts(seed: int) -> ThoughtModel:
        model = tiny_model()
        torch.manual_seed(seed)
        head, table = nn.Linear(4, 6, bias=False), nn.Embedding(6, 4)
        head.weight = table.weight  # tied, as a language model's
        model.training_parts["decoder"] = nn.ModuleList([head, table])
        return model

    first, second = with_parts(1), with_parts(2)
    trained = {name for name, weight in first.named_parameters() if weight.requires_grad}
    assert "training_parts.decoder.0.weight" in trained
    checkpoint.save_training_parts(tmp_path, first)
    checkpoint.load_training_parts(tmp_path, second)
    kept = zip(second.training_parts.parameters(), first.training_parts.parameters(), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in kept)
    reasoner(Codi(latents=1), first).save_pretrained(tmp_path / "model")
    again = LatentReasoner.from_pretrained(tmp_path / "model", device="cpu")
    assert not len(again.model.training_parts)
    assert not (tmp_path / "model" / checkpoint.TRAINING_PARTS).exists()
    with pytest.raises(CheckpointError, match="missing or damaged"):
        checkpoint.load_training_parts(tmp_path / "model", second)
