"""The word-level tokenizers of what is generated here: every word of every wording, each number one token.

    She finds 5 more. <<7+5=12>>   ->   She | finds | 5 | more | . | << | 7 | + | 5 | = | 12 | >>

Words it does not know become `<unk>`, and so do numbers above the style's largest value (`tail_largest`):
it is made for the generated word problems and is no tokenizer for other text. The problems of two branches
have one of their own, smaller and made in the same way.
"""

from __future__ import annotations

import re
from string import Formatter

from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from codi.data import two_branches
from codi.data.word_problem_wording import DAYS, PEOPLE, SCENARIOS, Wording
from codi.data.word_problems import DEFAULT_STYLE, ProblemStyle

PAD, EOS, UNK = "<pad>", "<eos>", "<unk>"
SYMBOLS = ("<<", ">>", "+", "-", "*", "/", "=", ".", ",", ":", "?", "!", "{", "}", "#", "$", "%", "(", ")")

ANSWER_PROMPTS = (
    "The answer is:",
    "Answer:",
    "Therefore, based on all previous calculations, we conclude that the final answer is:",
    "We give the answer as",
    "We find the answer to be",
    "The answer is boxed{",
)
"""The English answer prompts of the paper's Table A6; all their words are in the vocabulary."""

_PIECE = r"<<|>>|[0-9]+|\p{L}+|[^\s]"
_WORD = re.compile(r"[A-Za-z]+")


def build_word_tokenizer(style: ProblemStyle = DEFAULT_STYLE) -> PreTrainedTokenizerFast:
    """The tokenizer for word problems of `style`: the same vocabulary, in the same order, every time."""
    return _word_level([*_shared(style.tail_largest), *sorted(vocabulary_words())])


def build_branches_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer for the problems of two branches: the same vocabulary, in the same order, every time."""
    words = {"starts", "ends", *two_branches.NAMES, *two_branches.ASKED.values()} | _words(*ANSWER_PROMPTS)
    for verbs in (two_branches.VERBS, two_branches.OTHER_VERBS):
        words |= {verb for both in verbs.values() for verb in both}
    return _word_level([*_shared(two_branches.MOST), *sorted(words)])


OWN_TOKENIZERS = {"word-problems": build_word_tokenizer, "two-branches": build_branches_tokenizer}
"""The tokenizers made here, by the name of what they read."""


def _shared(largest: int) -> list[str]:
    """Special tokens, signs, and the numbers up to `largest`."""
    return [PAD, EOS, UNK, *SYMBOLS, *(str(n) for n in range(largest + 1))]


def _word_level(pieces: list[str]) -> PreTrainedTokenizerFast:
    """A tokenizer with these pieces, whose ids are their places."""
    tokenizer = Tokenizer(WordLevel({piece: index for index, piece in enumerate(pieces)}, unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(_PIECE), behavior="isolated")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.WordPiece(prefix="##", cleanup=False),  # a space before each token but the first
            decoders.Fuse(),
            # No space before closing punctuation, around the signs of an equation, or after a minus sign:
            # '- 5' would be read as 5.
            decoders.Replace(Regex(r" (?=[.,:?!=+*/>{}])|(?<=[<=+*/{-]) |(?<=[0-9]) (?=-)"), ""),
        ]
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNK,
        clean_up_tokenization_spaces=False,
    )


def vocabulary_words() -> set[str]:
    """Every word that a generated question or an answer prompt can contain."""
    return _wording_words(reworded=False) | _wording_words(reworded=True) | _words(*ANSWER_PROMPTS)


def _wording_words(*, reworded: bool) -> set[str]:
    """The words of the trained or of the reworded phrases of all scenarios, with what fills their fields."""
    words: set[str] = set()
    for person in PEOPLE:
        words |= _words(
            person.name, person.subject, person.subject.capitalize(), person.object, person.possessive
        )
    for scenario in SCENARIOS:
        words |= _words(*scenario.things, *scenario.unit)
        wording: Wording = scenario.reworded if reworded else scenario.trained
        phrases = [*wording.openings, *wording.starts, *wording.endings, *wording.asides]
        for operation_phrases in wording.operations.values():
            phrases += operation_phrases
        for phrase in phrases:
            words |= _words(*(literal for literal, *_ in Formatter().parse(phrase)))
            words |= (
                _words(phrase[:1].lower() + phrase[1:].partition(" ")[0]) if phrase[0].isalpha() else set()
            )
    return words | _words("On on", *DAYS)


def _words(*texts: str) -> set[str]:
    return {word for text in texts for word in _WORD.findall(text)}
