"""Properties over made examples: what is encoded joins back to the text, alone or in batches."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codi.data.encoded_rows import EncodedRows
from codi.data.encoding import TextEncoder
from codi.data.example import Example
from codi.data.text_format import TextFormat
from codi.methods.coconut import Coconut
from codi.methods.codi import Codi
from codi.methods.icot import ICot
from codi.training.tokenisation import tokenise
from tiny_models import byte_level_tokenizer, llama3_tokenizer

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
WORDS = TEXT.filter(lambda text: text.strip() != "")
ANSWERS = st.one_of(
    st.integers(-9999, 99999).map(str),
    st.sampled_from(["yes", "A", "3.5", "-5", r"\frac{3}{8}", "1,234", "New York", "(2,3)", "१२"]),
)
EXAMPLES = st.builds(
    lambda question, steps, answer: Example("e", question, tuple(steps), answer),
    WORDS, st.lists(WORDS, max_size=4), ANSWERS,
)  # fmt: skip
ENCODERS = {
    "byte-level": TextEncoder(byte_level_tokenizer(), TextFormat()),
    "llama-3": TextEncoder(llama3_tokenizer(), TextFormat()),
    "lines": TextEncoder(
        llama3_tokenizer(), TextFormat(step_separator="", step_suffix="\n", question_suffix="\n")
    ),
}
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def written(text: TextEncoder, ids: list[int]) -> str:
    decoded: str = text.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return decoded


@pytest.mark.parametrize("name", ENCODERS)
@QUICK
@given(example=EXAMPLES)
def test_segments_join_back_to_the_text(name: str, example: Example) -> None:
    text = ENCODERS[name]
    form, end = text.form, written(text, [text.eos_id])
    rationale = form.step_separator.join(step + form.step_suffix for step in example.steps[:-1])
    answer = f"The answer is: {example.answer}{end}"
    row = Codi().encode(example, text)
    assert written(text, row["question"]) == example.question + form.question_suffix
    assert written(text, row["teacher"]) == rationale + answer
    assert written(text, row["student"]) == answer
    assert row["teacher"][len(row["teacher"]) - len(row["student"]) :] == row["student"]
    assert written(text, row["teacher"][: row["teacher_distillation"] + 1]).rstrip() == (
        f"{rationale}The answer is:"
    )
    assert text.value(written(text, row["student"][:-1])) == example.answer


@pytest.mark.parametrize("name", ENCODERS)
@QUICK
@given(example=EXAMPLES)
def test_steps_end_where_they_end(name: str, example: Example) -> None:
    text = ENCODERS[name]
    ids, ends = text.steps(example.steps)
    assert len(ends) == len(example.steps)
    assert ends == sorted(ends)
    assert not ends or ends[-1] == len(ids)
    row = Coconut().encode(example, text)
    assert row["student"][: ends[-1] if ends else 0] == ids
    removed = ICot(stage=10**6).encode(example, text)
    assert removed["rationale"] == len(ids)


@QUICK
@given(examples=st.lists(EXAMPLES, min_size=1, max_size=5), name=st.sampled_from(sorted(ENCODERS)))
def test_batches_give_what_each_row_gives_alone(examples: list[Example], name: str) -> None:
    text = ENCODERS[name]
    for method in (Codi(), Coconut()):
        alone = [method.encode(example, text) for example in examples]
        assert list(tokenise(examples, method, text).encoded) == alone
        assert list(EncodedRows.gather(alone)) == alone
