"""Tokenizers made from the rows themselves, for where none is named: nothing is fetched, nothing is unknown.

    words    Mia | ␣has | ␣3 | ␣apples | .        each piece that GPT-2 would begin with, whole
    bpe      Mi | a | ␣has | ␣3 | ␣app | les | .  the same pieces, cut by what is frequent in the rows

Neither is a model's: lengths in words are a little below a pretrained tokenizer's.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

EOS = "<eos>"


def word_tokenizer_of(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Every word, number and mark of the texts is one token."""
    tokenizer = Tokenizer(models.WordLevel({EOS: 0}, unk_token=EOS))
    trainer = trainers.WordLevelTrainer(vocab_size=2**31, special_tokens=[EOS], show_progress=False)
    return _trained(tokenizer, trainer, texts)


def bpe_tokenizer_of(texts: Iterable[str], size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE of at most `size` tokens, learnt from the texts."""
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    return _trained(Tokenizer(models.BPE()), trainer, texts)


def _trained(
    tokenizer: Tokenizer, trainer: trainers.Trainer, texts: Iterable[str]
) -> PreTrainedTokenizerFast:
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, eos_token=EOS, clean_up_tokenization_spaces=False
    )
