"""What a thought decodes to: read in one place, named alike wherever it is shown."""

from __future__ import annotations

import pytest
import torch

from codi.errors import UsageError
from codi.generation.decoded_thoughts import decoded_tokens, named_tokens, token_text, top_tokens
from codi.generation.latent_reasoner import LatentReasoner
from codi.generation.question_words import question_words
from codi.interpretability.attention import attended
from codi.interpretability.question_report import question_report
from codi.interpretability.thinking import think_through
from codi.methods.coconut import Coconut
from codi.methods.codi import Codi
from codi.modeling.configuration import TextFormat
from tiny_models import byte_level_tokenizer, reasoner, sentencepiece_tokenizer, tiny_model

QUESTION = "Mia has 3 apples. She finds 5 more."


def test_everyone_reads_the_same() -> None:
    for method in (Codi(), Coconut(max_stage=2)):
        mind = reasoner(method, tiny_model("llama", projection=isinstance(method, Codi)))
        expected = mind.decode_thoughts(QUESTION)
        thinking = think_through(mind, [QUESTION])
        assert named_tokens(mind.model, mind.text, thinking.thoughts[0]) == expected
        alone = decoded_tokens(mind.model, mind.text, thinking.thoughts)[0]
        assert [[t.token for t in thought] for thought in alone] == [[n for n, _ in row] for row in expected]
        assert all(token.whole == token.token for thought in alone for token in thought)
        shown = question_report(mind, QUESTION)
        assert [[t.token for t in thought.tokens] for thought in shown.thoughts] == [
            [name for name, _ in row] for row in expected
        ]
        likeliest = [key.partition("=")[2] for key in attended(mind, QUESTION)[1].keys if key.startswith("z")]
        assert likeliest == [row[0][0] for row in expected]


def test_shares_are_the_heads_own_at_any_temperature() -> None:
    mind = reasoner(Codi(latents=2), tiny_model())
    before = mind.decode_thoughts(QUESTION)
    mind.answer([QUESTION], temperature=5.0, top_k=1, seed=3, max_new_tokens=3)
    assert mind.decode_thoughts(QUESTION) == before
    everything = mind.decode_thoughts(QUESTION, top_k=mind.model.bot_id)
    for row in everything:
        assert sum(share for _, share in row) == pytest.approx(1, abs=1e-4)
        assert len(row) == mind.model.bot_id
        assert not {"<bot>", "<eot>"} & {name for name, _ in row}  # the head cannot give them


@pytest.mark.parametrize("top_k", [0, -1, 10_000])
def test_a_number_of_tokens_that_cannot_be(top_k: int) -> None:
    mind = reasoner(Codi(latents=1), tiny_model())
    with pytest.raises(UsageError, match=f"{top_k} tokens were asked for; the number must be 1 to 300"):
        mind.decode_thoughts(QUESTION, top_k=top_k)
    with pytest.raises(UsageError, match="1 to 300"):
        top_tokens(mind.model, torch.zeros(1, 32), top_k)


def test_names_of_tokens() -> None:
    mind = reasoner(Codi(), tiny_model())
    name = {token: token_text(mind.model, mind.text, token) for token in range(mind.model.eot_id + 1)}
    assert (name[mind.model.bot_id], name[mind.model.eot_id]) == ("<bot>", "<eot>")
    assert name[mind.text.eos_id] == mind.tokenizer.eos_token
    assert name[len(mind.tokenizer)] == f"<{len(mind.tokenizer)}>"  # a row of the base without a token
    assert all(name.values())


def test_names_of_bytes_and_white_space() -> None:
    tokenizer = byte_level_tokenizer()
    model = tiny_model("llama")
    model.bot_id, model.eot_id = 420, 421
    text = LatentReasoner(model, Codi(), tokenizer, TextFormat()).text

    def names(string: str) -> list[str]:
        return [token_text(model, text, token) for token in tokenizer(string)["input_ids"]]

    assert names("中")[-3:] == ["<0xE4>", "<0xB8>", "<0xAD>"]
    assert "␣" in names("a  ")
    assert names("\n")[-1] == "\\n"
    pieces = sentencepiece_tokenizer()
    pieces.add_special_tokens({"pad_token": "<unk>"})
    other = LatentReasoner(model, Codi(), pieces, TextFormat()).text
    assert token_text(model, other, pieces.convert_tokens_to_ids("▁")) == "▁"


def test_a_question_is_named_as_it_stands() -> None:
    """Bytes of one character share it; nothing of the question is lost or shown twice."""
    tokenizer = byte_level_tokenizer()
    model = tiny_model("llama")
    model.bot_id, model.eot_id = 420, 421
    mind = LatentReasoner(model, Codi(), tokenizer, TextFormat())
    question = "كتاب costs $5, 中文 😀?"
    words = question_words(model, mind.text, question, mind.text.question(question))
    shown = "".join(word.text for word in words if word.text not in ("·", "<s>"))
    assert shown == question.replace(" ", "")
    assert len(words) == len(mind.text.question(question))
