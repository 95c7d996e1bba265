"""A tokenizer does what its tokenizer.json says, whatever class transformers takes for the model type."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import GPT2Tokenizer, LlamaTokenizer, PreTrainedTokenizerFast, Qwen2Tokenizer

from codi.data.encoding import TextEncoder
from codi.data.example import Example
from codi.data.text_format import TextFormat
from codi.data.word_tokenizer import build_word_tokenizer
from codi.errors import DataError
from codi.methods.cot_sft import CotSft
from codi.methods.no_cot_sft import NoCotSft
from codi.modeling.tokenizer_pipeline import TEXTS
from codi.modeling.tokenizers import load_tokenizer
from codi.training.lost_text import check_text
from tiny_models import SENTENCES, byte_level_tokenizer, llama3_tokenizer, sentencepiece_tokenizer

QUESTION = "Tom has 7 apples and buys 15 more."
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def wordpiece_tokenizer() -> PreTrainedTokenizerFast:
    """BERT's kind: lower case, no accents."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=200, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False
    )
    tokenizer.train_from_iterator([*SENTENCES, "abcdefghijklmnopqrstuvwxyz é"], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


KINDS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "words": build_word_tokenizer, "byte-level": byte_level_tokenizer, "llama3": llama3_tokenizer,
    "sentencepiece": sentencepiece_tokenizer, "wordpiece": wordpiece_tokenizer,
}  # fmt: skip


def save(folder: Path, tokenizer: Any, model_type: str, kind: str | None = None) -> str:
    """A tokenizer beside the configuration of a model type; kind: the class that its own file names."""
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    if kind is not None:
        file = folder / "tokenizer_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"tokenizer_class": kind}))
    return str(folder)


@pytest.mark.parametrize("model_type", ["qwen2", "llama", "gpt2", "gemma"])
@pytest.mark.parametrize("kind", KINDS)
def test_texts_are_coded_as_the_file_says(kind: str, model_type: str, tmp_path: Path) -> None:
    made = KINDS[kind]()
    made.chat_template = TEMPLATE
    for name in ("TokenizersBackend", "PreTrainedTokenizerFast", "Qwen2Tokenizer", "LlamaTokenizerFast"):
        loaded = load_tokenizer(save(tmp_path / name, made, model_type, name))
        said = Tokenizer.from_file(str(tmp_path / name / "tokenizer.json"))
        for text in (QUESTION, *TEXTS):
            ids = said.encode(text, add_special_tokens=False).ids
            assert loaded.backend_tokenizer.encode(text, add_special_tokens=False).ids == ids
            assert loaded.backend_tokenizer.decode(ids) == said.decode(ids)
        assert loaded.get_vocab() == said.get_vocab()
        for role in ("bos_token", "eos_token", "unk_token"):
            if getattr(made, role) is not None:
                assert getattr(loaded, role) == getattr(made, role)
        assert loaded.chat_template == TEMPLATE


def test_it_is_said_once_what_the_other_class_would_have_made(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = save(tmp_path / "base", build_word_tokenizer(), "qwen2")
    with caplog.at_level(logging.WARNING, "codi"):
        load_tokenizer(folder)
        load_tokenizer(folder)
    (line,) = [record.getMessage() for record in caplog.records if record.name == "codi"]
    assert "used as its tokenizer.json says" in line
    assert "Qwen2Tokenizer" in line


@pytest.mark.parametrize("kind", [Qwen2Tokenizer, GPT2Tokenizer, LlamaTokenizer])
def test_a_class_that_does_what_the_file_says_stays(
    kind: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = sentencepiece_tokenizer() if kind is LlamaTokenizer else byte_level_tokenizer()
    state = json.loads(own.backend_tokenizer.to_str())["model"]
    merges = [tuple(merge) for merge in state["merges"]]
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
    tokenizer = kind(vocab=state["vocab"], merges=merges, **special)
    model_type = {Qwen2Tokenizer: "qwen2", GPT2Tokenizer: "gpt2", LlamaTokenizer: "llama"}[kind]
    with caplog.at_level(logging.WARNING, "codi"):
        loaded = load_tokenizer(save(tmp_path / "base", tokenizer, model_type))
    assert type(loaded) is kind
    assert not [record for record in caplog.records if record.name == "codi"]


def test_gpt2s_two_files_are_its_tokenizer_and_others_are_not(
    shared_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bare = load_tokenizer(str(shared_data / "tokenizer_gpt2"))
    assert (bare.eos_token, len(bare)) == ("<|endoftext|>", 50_257)
    whole = load_tokenizer(save(tmp_path / "whole", bare, "gpt2"))
    assert whole(list(TEXTS)).input_ids == bare(list(TEXTS)).input_ids
    assert not [record for record in caplog.records if record.name == "codi"]
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((shared_data / "tokenizer_gpt2" / name).read_bytes())
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    assert type(load_tokenizer(str(tmp_path))) is Qwen2Tokenizer
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "!"}')
    assert load_tokenizer(str(tmp_path)).eos_token == "!"


# --- texts that do not come back


def problem(question: str) -> Example:
    return Example("a", question, ("<<7+15=22>>", "<<22-2=20>>"), "20")


def encoder(tokenizer: Any) -> TextEncoder:
    return TextEncoder(tokenizer, TextFormat())


@pytest.mark.parametrize("kind", ["byte-level", "llama3"])
def test_a_tokenizer_that_keeps_texts_is_not_complained_of(kind: str) -> None:
    rows = [problem(text) for text in (QUESTION, *TEXTS)]
    assert check_text(rows, CotSft(), encoder(KINDS[kind]()), "rows") == []


def test_a_tokenizer_that_loses_letters_is_refused() -> None:
    known = ["</s>", *"0123456789aoTh:e."]
    tokenizer = Tokenizer(models.BPE({mark: number for number, mark in enumerate(known)}, []))
    lossy = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")
    with pytest.raises(DataError, match=r"% of the characters of 'rows'.*'Tom has 7.*tokenizer=HUB_ID"):
        check_text([problem(QUESTION)], CotSft(), encoder(lossy), "rows")


def test_a_few_lost_characters_are_told_with_their_share() -> None:
    rows = [problem(QUESTION)] * 20 + [problem("Mia’s 7 apples 苹 and 15 more.")]
    (note,) = check_text(rows, NoCotSft(), encoder(sentencepiece_tokenizer()), "rows")
    assert note.startswith("WARNING: ")
    assert "苹" in note


def test_lower_case_and_accents_are_the_tokenizers_way() -> None:
    (note,) = check_text([problem("Tom has 7 Cafés")], NoCotSft(), encoder(wordpiece_tokenizer()), "rows")
    assert "changes letters" in note
    assert "tom has 7 cafes" in note
