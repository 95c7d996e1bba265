"""A tokenizer does what its tokenizer.json says, whatever class transformers takes for it.

transformers goes by the model type. Many of its classes keep the vocabulary of the file and put their own
pre-tokenizer, model and decoder over it: right for the models they were written for, but of another pipeline
nothing is left (Qwen2's class makes "a7aa15" of the words "Tom has 7 apples and buys 15"). Both are tried on
texts; where they differ, the file is used as it is.
"""

from __future__ import annotations

import json
import logging
from functools import cache
from itertools import islice
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from codi.modeling.bases import find_file

TEXTS = (
    "Tom has 7 apples and buys 15 more, so he has 22: <<7+15=22>>. The answer is: 22",
    "  two  spaces,\ttab\n\nbreaks \r\n and an end ",
    "1234567890 -3.5 1,200 ½ x² $4.50 12% (a+b)*c/d {k: [v]} \\frac{1}{2} _a_ #1 @me ~ ^ | & `q`",
    "I'm sure they'll say: \"it's MIA's, isn't it?\" http://a.bc/d-e?f=g",
    "Çà et là, naïve Größe, cafe\u0301 ﬁn Ⅳ １２ ﷺ",
    "小明有3个苹果，又买了4个。 日本語のテキスト 한국어 문장",
    "Сколько яблок? Πόσα μήλα; كم تفاحة؟ כמה תפוחים? कितने सेब? กี่ลูก",
    "😀👩‍👩‍👧 ∑∞≠≤→ “quoted” – — …",
)
"""Several scripts, numbers, spaces and line breaks."""
_OWN_WORDS = 2000


def as_in_file(loaded: Any, name: str, revision: str | None = None) -> Any:
    """`loaded`, or the tokenizer of tokenizer.json where that encodes or decodes otherwise, which is said.

    loaded: what AutoTokenizer made of `name`, a folder or hub id that may have no tokenizer.json. Special
    tokens and chat template stay; a special token that the file does not have is left out.
    """
    if type(loaded) is PreTrainedTokenizerFast or find_file(name, "tokenizer.json", revision) is None:
        return loaded
    saved: Any = PreTrainedTokenizerFast.from_pretrained(name, revision=revision or "main")
    if not loaded.is_fast:
        _say(name, type(loaded).__name__, "gives no character offsets")
    elif (other := difference(loaded.backend_tokenizer, saved.backend_tokenizer)) is not None:
        _say(name, type(loaded).__name__, other)
    else:
        return loaded
    named = {"unk_token": _unknown(saved), **loaded.special_tokens_map}
    for role, token in named.items():
        if isinstance(token, str) and getattr(saved, role, "") is None and token in saved.get_vocab():
            setattr(saved, role, token)
    if saved.chat_template is None:
        saved.chat_template = loaded.chat_template
    return saved


def difference(one: Tokenizer, other: Tokenizer) -> str | None:
    """What `one` does otherwise than `other`, in words; None where both give the same ids and text."""
    ours, theirs = one.get_vocab(), other.get_vocab()
    if ours != theirs:
        apart = sorted(set(ours.items()) ^ set(theirs.items()))[0][0]
        return f"has {ours.get(apart, 'no id')} for {apart!r} where the file has {theirs.get(apart, 'none')}"
    step = max(1, len(theirs) // _OWN_WORDS)
    words = other.decode_batch([[number] for number in islice(sorted(theirs.values()), 0, None, step)])
    own = map(" ".join, zip(*[iter(words)] * 20, strict=False))  # in all the scripts that it has
    texts = [*TEXTS, *own]
    for text in texts:
        found, wanted = (each.encode(text, add_special_tokens=False).ids for each in (one, other))
        back, meant = one.decode(wanted), other.decode(wanted)
        if found != wanted or back != meant:
            made = one.decode(found)
            shown = repr(text[:40])
            return f"cuts {shown} otherwise" if made == meant else f"makes {made[:40]!r} of {shown}"
    return None


def _unknown(saved: Any) -> str | None:
    """What the file itself has for words that it does not know."""
    token = json.loads(saved.backend_tokenizer.to_str())["model"].get("unk_token")
    return token if isinstance(token, str) else None


@cache
def _say(name: str, kind: str, other: str) -> None:
    """Once for each: a run loads its tokenizer several times."""
    logging.getLogger("codi").warning(
        "The tokenizer of '%s' is used as its tokenizer.json says; transformers' class for it, %s, %s.",
        name, kind, other,
    )  # fmt: skip
