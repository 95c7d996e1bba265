"""The distillation token (right before the answer) in tokenizers of three families, and reading answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from codi.data.encoding import TextEncoder
from codi.data.example import Example
from codi.data.word_tokenizer import build_word_tokenizer
from codi.errors import DataError, RecipeError
from codi.methods.codi import Codi
from codi.modeling.checkpoint import load_tokenizer
from codi.modeling.configuration import TextFormat
from tiny_models import byte_level_tokenizer, llama3_tokenizer, sentencepiece_tokenizer

ANSWERS = ["12", "5", "-5", "-128", "A", "E", "3.5", "98765432", "1,234"]
TOKENIZERS: dict[str, Callable[[], Any]] = {
    "byte-level": byte_level_tokenizer,
    "llama-3": llama3_tokenizer,
    "sentencepiece": sentencepiece_tokenizer,
    "sentencepiece, digits apart": lambda: sentencepiece_tokenizer(digits_apart=True),
}


def encoder(tokenizer: Any, **changes: str) -> TextEncoder:
    return TextEncoder(tokenizer, TextFormat(**changes))  # type: ignore[arg-type]


@pytest.fixture(params=[*TOKENIZERS, "gpt2"])
def text(request: pytest.FixtureRequest) -> TextEncoder:
    if request.param == "gpt2":
        shared: Path = request.getfixturevalue("shared_data")
        return encoder(load_tokenizer(str(shared / "tokenizer_gpt2")))
    return encoder(TOKENIZERS[request.param]())


@pytest.mark.parametrize("answer", ANSWERS)
def test_it_is_the_last_token_before_the_answer(text: TextEncoder, answer: str) -> None:
    """What is read up to it holds no part of the answer; the next token begins it."""
    encoded = text.answer(answer)
    before, after = encoded.ids[: encoded.distillation + 1], encoded.ids[: encoded.distillation + 2]
    assert text.decode(before).strip() == "The answer is:"
    assert text.decode(after).strip() != "The answer is:"
    assert answer.startswith(text.decode(after).strip().removeprefix("The answer is:").strip())
    assert encoded.ids[-1] == text.eos_id
    assert text.decode(encoded.ids).strip() == f"The answer is: {answer}"
    # What is read at serving time is a prefix of what was trained.
    assert encoded.ids[: len(text.prompt_ids)] == text.prompt_ids
    assert encoded.distillation >= len(text.prompt_ids) - 1


def token(text: TextEncoder, answer: str) -> str:
    encoded = text.answer(answer)
    return str(text.tokenizer.convert_ids_to_tokens(encoded.ids)[encoded.distillation])


def test_where_each_family_has_it(shared_data: Path) -> None:
    gpt2 = encoder(load_tokenizer(str(shared_data / "tokenizer_gpt2")))
    assert {token(gpt2, answer) for answer in ANSWERS} == {":"}


def test_where_each_built_family_has_it() -> None:
    byte_level = encoder(byte_level_tokenizer())  # trained on few sentences: it has no " 5" or " 9"
    assert {token(byte_level, answer) for answer in ("12", "-5", "-128", "A")} == {":"}
    assert token(byte_level, "98765432") == "Ġ"
    llama3 = encoder(llama3_tokenizer())
    assert [token(llama3, answer) for answer in ("12", "5", "98765432", "3.5")] == ["Ġ"] * 4  # the lone space
    assert [token(llama3, answer) for answer in ("A", "-5", "-128")] == [":"] * 3  # the space goes with it
    llama2 = encoder(sentencepiece_tokenizer(digits_apart=True))
    assert [token(llama2, answer) for answer in ("12", "98765432")] == ["▁"] * 2
    assert not {token(llama2, answer)[-1:] for answer in ("A", "-5")} - {":", "▁"}
    word = encoder(build_word_tokenizer())
    assert {token(word, answer) for answer in ("12", "-5", "3")} == {":"}


def test_prompt_end_whatever_follows() -> None:
    """`prompt-end` stays on the prompt's last token, with a lone space after it or not."""
    text = encoder(llama3_tokenizer(), distillation_token="prompt-end")
    assert {token(text, answer) for answer in ANSWERS} == {":"}
    with pytest.raises(RecipeError, match="'before-answer' or 'prompt-end'"):
        TextFormat(distillation_token="colon")


def test_a_prompt_that_ends_in_a_brace() -> None:
    form = {"answer_prompt": "The answer is: {", "answer_separator": "", "answer_suffix": "}"}
    text = encoder(byte_level_tokenizer(), **form)
    encoded = text.answer("12")
    assert text.decode(encoded.ids[: encoded.distillation + 1]) == "The answer is: {"
    assert text.decode(encoded.ids).strip() == "The answer is: {12}"
    assert text.value("The answer is: {12}") == "12"


@pytest.mark.parametrize(
    ("form", "written", "value"),
    [
        (("so \\boxed{", "", "}"), "Well, so \\boxed{12}.", "12"),
        (("so \\boxed{", "", "}"), "so \\boxed{\\frac{1}{2}}. All 3 of {them}.", "\\frac{1}{2}"),
        (("so \\boxed{", "", "}"), "so \\boxed{3} or, so \\boxed{4} .", "4"),
        (("so \\boxed{", "", "}"), "so \\boxed{12", "12"),  # cut off
        (("so $\\boxed{", "", "}$"), "so $\\boxed{12}$!", "12"),
        (("It is (", "", ")"), "It is (f(x)).", "f(x)"),
        (("The answer is:", " ", " units"), "The answer is: 3.5 units.", "3.5"),
        (("The answer is:", " ", "."), "The answer is: 3.5.", "3.5"),
        (("The answer is:", " ", ""), "The answer is: New York", "New York"),
        (("The answer is:", " ", ""), "The answer is : New York", "New York"),
    ],
)
def test_what_follows_the_suffix_is_no_part_of_the_value(
    form: tuple[str, str, str], written: str, value: str
) -> None:
    prompt, separator, suffix = form
    text = encoder(
        byte_level_tokenizer(), answer_prompt=prompt, answer_separator=separator, answer_suffix=suffix
    )
    assert text.value(written) == value


def test_a_tokenizer_left_cutting_texts_short_does_not_cut_ours() -> None:
    tokenizer = byte_level_tokenizer()
    text = encoder(tokenizer)
    plain = text.question("Tom has 7 apples."), text.answer("12")
    tokenizer.backend_tokenizer.enable_truncation(3)
    tokenizer.backend_tokenizer.enable_padding(length=20)
    assert (text.question("Tom has 7 apples."), text.answer("12")) == plain


def test_half_of_a_character_is_named() -> None:
    with pytest.raises(DataError, match=r"half of a surrogate pair.*Tom \\ud83d has"):
        encoder(byte_level_tokenizer()).question("Tom \ud83d has 7 apples.")


def test_a_prompt_that_melts_into_the_answer_is_refused() -> None:
    text = encoder(llama3_tokenizer(), answer_prompt="The answer is 1", answer_separator="")
    with pytest.raises(RecipeError, match="'The answer is 1' with the answer '2'"):
        text.answer("2")


def test_teacher_and_student_point_at_the_same_token(text: TextEncoder) -> None:
    bot_and_eot_apart = 1  # the student's segment begins with <eot>
    for steps in (("<<7+15=22>>", "<<22+1=23>>"), ("<<7+15=22>>",)):
        encoded = Codi().encode(Example("e", "Tom has 7 apples.", steps, "23"), text)
        teacher, student = encoded["teacher"], encoded["student"]
        at_teacher, at_student = encoded["teacher_distillation"], encoded["student_distillation"]
        assert teacher[at_teacher] == student[at_student - bot_and_eot_apart]
        assert teacher[at_teacher + 1 :] == student[at_student - bot_and_eot_apart + 1 :]
        assert (len(teacher) == len(student)) is (len(steps) == 1)  # the last step is left out


@pytest.mark.parametrize("name", TOKENIZERS)
def test_value_is_what_follows_the_last_prompt(name: str) -> None:
    text = encoder(TOKENIZERS[name]())
    for answer in ANSWERS:
        assert text.value(text.decode(text.answer(answer).ids)) == answer
    assert text.value("<<1+2=3>> The answer is: 3 The answer is: 4") == "4"
    assert text.value("The answer is: ") is None
    assert text.value("no prompt at all, but 12") is None
    assert text.value("Theansweris: 7") == "7"  # as a decoder without spaces writes it


def test_value_from_the_word_tokenizer() -> None:
    text = encoder(build_word_tokenizer())
    for answer in ("12", "3"):
        written = text.decode(text.rationale(["<<3+5=8>>", "<<8+4=12>>"]) + text.answer(answer).ids)
        assert text.value(written) == answer
    negative = text.value(text.decode(text.answer("-5").ids))
    assert negative is not None
    assert negative.replace(" ", "") == "-5"


def test_questions_open_with_bos_where_the_tokenizer_has_one() -> None:
    from tokenizers import processors

    tokenizer = llama3_tokenizer()
    text = encoder(tokenizer)
    plain = text.question("Tom has 7 apples.")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A $B </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    assert text.question("Tom has 7 apples.") == [1, *plain]  # and no eos
    assert text.rationale(("<<7+1=8>>",))[0] != 1
    assert text.answer("8").ids[0] != 1
    with pytest.raises(DataError, match="at least one word"):
        text.question(" \n")


def test_fingerprint_follows_everything_that_decides_ids() -> None:
    one = encoder(byte_level_tokenizer())
    assert one.fingerprint() == encoder(byte_level_tokenizer()).fingerprint()
    assert one.fingerprint() != encoder(llama3_tokenizer()).fingerprint()
    assert one.fingerprint() != encoder(byte_level_tokenizer(), answer_prompt="Answer:").fingerprint()


def test_tokenizers_that_cannot_be_used() -> None:
    tokenizer = byte_level_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(RecipeError, match="end-of-sequence"):
        encoder(tokenizer)
    with pytest.raises(RecipeError, match="fast tokenizer"):
        encoder(object())
