"""Instruct models: questions in the tokenizer's chat template, the same wherever a question is read."""

from __future__ import annotations

import queue
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import torch

from codi.data.encoding import TextEncoder
from codi.data.example import Example
from codi.data.text_format import TextFormat
from codi.errors import RecipeError
from codi.generation.answer import Answer
from codi.generation.latent_reasoner import LatentReasoner
from codi.methods.codi import Codi
from codi.modeling.configuration import ModelConfig
from codi.modeling.model import ThoughtModel
from codi.publishing.published_folder import write_folder
from codi.training.recipes import load_recipe
from tiny_models import EXAMPLES, FAMILIES, byte_level_tokenizer, llama3_tokenizer
from tiny_runs import configured, tiny_settings

LLAMA3 = (
    "{{- bos_token }}{% for message in messages %}{{- '<|head|>' + message['role'] + '<|tail|>\\n\\n' "
    "+ message['content'] | trim + '<|eot|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{- '<|head|>assistant<|tail|>\\n\\n' }}{% endif %}"
)
"""In LLaMA-3's form: it opens the text itself, and trims what it is given."""
QUESTIONS = [
    "Tom has 7 apples.",
    "Tom has 7 apples and buys 15 more, so he has 22 apples. How many?",
    " Each? ",
]


def chat_tokenizer(template: str = LLAMA3, *, opens: bool = True) -> Any:
    """LLaMA-3's kind of tokenizer with a chat template; it opens every plain text with <s> too."""
    from tokenizers import processors

    tokenizer = llama3_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|head|>", "<|tail|>", "<|eot|>"]})
    if opens:
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
        )
    tokenizer.chat_template = template
    return tokenizer


def instruct(**text: Any) -> LatentReasoner:
    """A tiny LLaMA that is asked in the template."""
    tokenizer = chat_tokenizer()
    torch.manual_seed(3)
    config = ModelConfig(
        base_config={
            "model_type": "llama", "vocab_size": len(tokenizer), "initializer_range": 0.2,
            **FAMILIES["llama"],
        }
    )  # fmt: skip
    form = TextFormat(chat_template=True, **text)
    return LatentReasoner(ThoughtModel(config).eval(), Codi(latents=2), tokenizer, form)


def test_a_question_is_what_the_template_writes_and_nothing_else() -> None:
    tokenizer = chat_tokenizer()
    text = TextEncoder(tokenizer, TextFormat(chat_template=True))
    for question in QUESTIONS:
        message = [{"role": "user", "content": question}]
        expected = tokenizer.apply_chat_template(
            message, add_generation_prompt=True, tokenize=True, return_dict=False
        )
        ids = text.question(question)
        assert ids == expected
        assert ids.count(tokenizer.bos_token_id) == 1  # the template's, none before it
        shown = f"<s><|head|>user<|tail|>\n\n{question.strip()}<|eot|><|head|>assistant<|tail|>\n\n"
        assert tokenizer.decode(ids) == shown
    plain = TextEncoder(tokenizer, TextFormat())
    assert tokenizer.decode(plain.question(QUESTIONS[0])) == f"<s>{QUESTIONS[0]}"
    assert text.answer("12") == plain.answer("12")
    assert text.rationale(EXAMPLES[0].steps) == plain.rationale(EXAMPLES[0].steps)


def test_a_system_prompt_comes_first() -> None:
    tokenizer = chat_tokenizer()
    text = TextEncoder(tokenizer, TextFormat(chat_template=True, system_prompt="Think."))
    assert tokenizer.decode(text.question("Tom?")).startswith(
        "<s><|head|>system<|tail|>\n\nThink.<|eot|><|head|>user<|tail|>\n\nTom?<|eot|>"
    )


def test_batch_of_one_equals_batch_of_many_padded_or_alone() -> None:
    reasoner = instruct()
    together = reasoner.answer(QUESTIONS, max_new_tokens=12)
    alone = [reasoner.answer([question], max_new_tokens=12)[0] for question in QUESTIONS]
    assert [answer.text for answer in together] == [answer.text for answer in alone]
    explicit = reasoner.answer(QUESTIONS, mode="explicit", max_new_tokens=12)
    for question, answer in zip(QUESTIONS, explicit, strict=True):
        assert reasoner.answer([question], mode="explicit", max_new_tokens=12)[0].text == answer.text


def test_the_distilled_token_stands_before_the_answer() -> None:
    reasoner = instruct()
    for answer in ("12", "-5", "A"):
        row = reasoner.method.encode(Example("e", QUESTIONS[1], EXAMPLES[0].steps, answer), reasoner.text)
        teacher, at = row["teacher"], row["teacher_distillation"]
        assert reasoner.tokenizer.decode(teacher[at + 1 :]).strip().removesuffix("</s>") == answer
        student, at = row["student"], row["student_distillation"] - 1  # <eot> comes first
        assert student[at] == teacher[row["teacher_distillation"]]


def test_what_is_trained_is_what_is_asked_after_saving(tmp_path: Path) -> None:
    """In answering and in the engine behind the API, after a round through disk."""
    from codi.serving.engine import Engine, Finished, Question

    reasoner = instruct(system_prompt="Think.")
    trained = reasoner.method.encode(EXAMPLES[0], reasoner.text)["question"]
    reasoner.save_pretrained(tmp_path / "saved")
    loaded = LatentReasoner.from_pretrained(tmp_path / "saved", device="cpu")
    assert loaded.text_format == reasoner.text_format
    assert loaded.question_ids(EXAMPLES[0].question, "it") == trained
    asked = [answer.text for answer in reasoner.answer(QUESTIONS, max_new_tokens=8)]
    assert [answer.text for answer in loaded.answer(QUESTIONS, max_new_tokens=8)] == asked
    engine, events = Engine(loaded), queue.Queue[Any]()
    for question in QUESTIONS:
        engine.submit(Question(question, max_new_tokens=8), events.put)
    served = list[Answer]()
    while len(served) < len(QUESTIONS):
        event = events.get(timeout=60)
        if isinstance(event, Finished):
            served.append(event.answer)
    engine.close()
    assert {answer.question: answer.text for answer in served} == dict(zip(QUESTIONS, asked, strict=True))


def test_the_page_cuts_the_question_as_it_is_read() -> None:
    from codi.serving.thought_session import ThoughtSession

    reasoner = instruct()
    words = ThoughtSession(reasoner).ask(QUESTIONS[0]).words
    assert len(words) == len(reasoner.text.question(QUESTIONS[0]))


def test_training_with_a_template(tmp_path: Path) -> None:
    """A run from its settings to its checkpoint; the overview shows the template around each question."""
    from codi.training.run import train

    settings = tiny_settings(tmp_path, rows=8, max_steps=2, save_strategy="no")
    tokenizer = chat_tokenizer()
    tokenizer.save_pretrained(tmp_path / "chat")
    settings |= {"tokenizer": str(tmp_path / "chat"), "text": {"chat_template": True}}
    settings["model"]["base_config"]["n_positions"] = 160
    train(configured(settings), tmp_path / "out", say=lambda _: None)
    assert "<|head|>user<|tail|>⏎⏎Tom has 3 pens" in (tmp_path / "out" / "data.md").read_text("utf-8")
    loaded = LatentReasoner.from_pretrained(tmp_path / "out", device="cpu")
    assert loaded.text_format.chat_template
    assert loaded.text.question("Tom?") == TextEncoder(tokenizer, TextFormat(chat_template=True)).question(
        "Tom?"
    )


# --- today's date -------------------------------------------------------------------------------------------

DATED = (
    '{% if not date is defined %}{% set date = strftime_now("%d %b %Y") %}{% endif %}Today: {{ date }} '
    + LLAMA3
)


def test_a_template_with_todays_date_asks_the_same_every_day(tmp_path: Path) -> None:
    tokenizer = chat_tokenizer(DATED)
    text = TextEncoder(tokenizer, TextFormat(chat_template=True))
    ids = text.question("Tom?")
    assert "Today: 26 Jul 2024" in tokenizer.decode(ids)
    assert date.today().strftime("%d %b %Y") not in tokenizer.decode(ids)
    tokenizer.save_pretrained(tmp_path)  # as a checkpoint does: others who load it ask the same
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(tmp_path)
    message = [{"role": "user", "content": "Tom?"}]
    assert theirs.apply_chat_template(message, add_generation_prompt=True, return_dict=False) == ids
    again = TextEncoder(theirs, TextFormat(chat_template=True))
    assert again.fingerprint() == text.fingerprint()


# --- refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "has no chat template"),
        ("", "has no chat template"),
        ("{{ raise_exception('roles must alternate') }}", r"fails on one user message: roles must alternate"),
        ("{% for", "fails on one user message"),
        ("{{ messages[3]['content'] }}", "fails on one user message"),
        ("Hello.", "does not write the user's message out"),
        ("{{ messages[0]['content'] }}{{ strftime_now(form) }}", "today's date in a form of its own"),
        ({"tool_use": LLAMA3}, "which of the tokenizer's templates is meant"),
    ],
)
def test_templates_that_cannot_be_used(template: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        TextEncoder(chat_tokenizer(template), TextFormat(chat_template=True))
    TextEncoder(chat_tokenizer(template), TextFormat())  # and without it nothing is asked of it


def test_a_system_message_that_the_template_refuses() -> None:
    template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + LLAMA3
    )
    TextEncoder(chat_tokenizer(template), TextFormat(chat_template=True))
    with pytest.raises(RecipeError, match=r"with a system message \(text.system_prompt\): no system role"):
        TextEncoder(chat_tokenizer(template), TextFormat(chat_template=True, system_prompt="Think."))


def test_settings_that_contradict_each_other() -> None:
    with pytest.raises(RecipeError, match=r"question_suffix asks for '\\n' after it"):
        load_recipe("gpt2-gsm8k-aug-coconut", ["text.chat_template=true"])
    with pytest.raises(RecipeError, match="system_prompt is a message of the chat template, which is off"):
        load_recipe("word-problems", ["text.system_prompt=Think"])
    with pytest.raises(RecipeError, match="chat_template"):
        load_recipe("word-problems", ["text.chat_template=7"])
    assert load_recipe("word-problems", ["text.chat_template=true"]).text.chat_template


def test_the_fingerprint_follows_template_and_system_prompt_and_else_is_as_it_was() -> None:
    plain = TextEncoder(byte_level_tokenizer(), TextFormat()).fingerprint()
    with_unused = byte_level_tokenizer()
    with_unused.chat_template = LLAMA3
    assert TextEncoder(with_unused, TextFormat()).fingerprint() == plain
    forms = [
        TextFormat(),
        TextFormat(chat_template=True),
        TextFormat(chat_template=True, system_prompt="Think."),
    ]
    found = {TextEncoder(chat_tokenizer(), form).fingerprint() for form in forms}
    found.add(TextEncoder(chat_tokenizer(LLAMA3 + " "), forms[1]).fingerprint())
    assert len(found) == 4


def test_who_follows_the_published_card_gets_the_same_answers(tmp_path: Path) -> None:
    """The card's own code is run, in the template, with transformers alone."""
    mind = instruct(system_prompt="Be brief.")
    write_folder(mind, tmp_path, str(tmp_path / "out"), [], tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    code = card.split("```python\n")[1].split("```")[0].replace("Your question", QUESTIONS[1])
    assert "apply_chat_template" in code
    *before, last = code.strip().splitlines()
    names: dict[str, Any] = {}
    exec("\n".join(before), names)
    said = eval(last, names)
    assert said == [mind.answer([QUESTIONS[1]])[0].text]
