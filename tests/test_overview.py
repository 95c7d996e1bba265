"""What the method will see: the table, the examples as they are read, and what is refused or said loudly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from codi.cli import app
from codi.data.example import Example
from codi.errors import DataError
from codi.methods.method import METHODS, Method, build_method
from codi.training.overview import Overview, check_rationales, overview
from codi.training.recipes import load_recipe
from codi.training.tokenisation import TokenisedSet, tokenise
from tiny_models import EXAMPLES, byte_level_tokenizer, llama3_tokenizer, word_encoder
from tiny_runs import run, tiny_settings, write_rows

STEPS = ("<<3+5=8>>", "<<8*2=16>>", "<<16-4=12>>")


def seen(method: Method, rows: tuple[Example, ...] = EXAMPLES, **options: Any) -> Overview:
    text = word_encoder()
    return overview(tokenise(rows, method, text), method, text, **options)


def rows(*steps: tuple[str, ...]) -> tuple[Example, ...]:
    return tuple(Example(f"r{n}", "Mia has 3 apples.", given, "12") for n, given in enumerate(steps, start=1))


def reading_of(method: dict[str, Any], example: Example = EXAMPLES[0]) -> dict[str, str]:
    found = seen(build_method(method), (example,))
    assert found.shown[0].id == example.id
    assert found.shown[0].steps == example.steps
    return found.shown[0].readings


QUESTION = "Mia has 3 apples. She finds 5 more."
RATIONALE = "<<3+5=8>> <<8*2=16>>"
ANSWER = "The answer is: 12 <eos>"


def test_codi_is_shown_with_its_thoughts_and_the_distilled_token() -> None:
    read = reading_of({"name": "codi"})
    assert read == {
        "teacher": f"{QUESTION} {RATIONALE} The answer is⟦:⟧ 12 <eos>",
        "student": f"{QUESTION}<bot> z1 z2 z3 z4 z5 z6 <eot>The answer is⟦:⟧ 12 <eos>",
    }
    assert reading_of({"name": "codi-static-teacher", "teacher": "x"}) == read
    kept = reading_of({"name": "codi", "keep_last_step": True, "latents": 0})
    assert kept["teacher"].startswith(f"{QUESTION} {' '.join(STEPS)} The answer is")
    assert "<bot> <eot>" in kept["student"]
    many = reading_of({"name": "codi", "latents": 24})["student"]
    assert "<bot> z1 z2 … z24 <eot>" in many


def test_the_other_methods_are_shown_as_they_read() -> None:
    assert reading_of({"name": "no-cot-sft"}) == {"no-cot-sft": f"{QUESTION} {ANSWER}"}
    assert reading_of({"name": "pause-tokens", "pauses": 2}) == {
        "pause-tokens": f"{QUESTION}<bot> p1 p2 <eot>{ANSWER}"
    }
    assert reading_of({"name": "cot-sft"}) == {"cot-sft": f"{QUESTION} {' '.join(STEPS)} {ANSWER}"}


def test_a_curriculum_is_shown_in_its_first_stage_and_its_last() -> None:
    assert reading_of({"name": "icot"}) == {
        "icot, first stage": f"{QUESTION} {' '.join(STEPS)} {ANSWER}",
        "icot, last stage": f"{QUESTION} {ANSWER}",
    }
    read = reading_of({"name": "coconut", "explicit_epochs": 1})
    assert read == {
        "coconut, first stage": f"{QUESTION}<bot> <eot>{' '.join(STEPS)} {ANSWER}",
        "coconut, last stage": f"{QUESTION}<bot> z1 z2 z3 z4 z5 z6 <eot>{ANSWER}",
    }
    fixed = reading_of({"name": "coconut", "stage": 1, "pad_latent_to_max": False})
    assert fixed == {"coconut": f"{QUESTION}<bot> z1 z2 <eot><<8*2=16>> <<16-4=12>> {ANSWER}"}


@pytest.mark.parametrize("tokenizer", [byte_level_tokenizer, llama3_tokenizer])
def test_what_is_shown_is_decoded_from_the_ids(tokenizer: Any) -> None:
    """Whatever the tokenizer cuts, the text shown is the text read; the lone space of LLaMA-3 is marked."""
    from codi.data.encoding import TextEncoder
    from codi.data.text_format import TextFormat

    text, method = TextEncoder(tokenizer(), TextFormat()), build_method({"name": "codi"})
    example = Example("é", "Tom’s 7 €?\nHow many 😀?", ("<<7+15=22>>", "<<22-10=12>>"), "12")
    [shown] = overview(tokenise([example], method, text), method, text).shown
    plain = shown.readings["teacher"].replace("⟦", "").replace("⟧", "")
    assert plain == "Tom’s 7 €?⏎How many 😀?<<7+15=22>>The answer is: 12</s>"
    marked = shown.readings["student"].partition("⟦")[2][0]
    assert marked == (" " if tokenizer is llama3_tokenizer else ":")


def test_terminal_codes_in_a_question_are_written_out() -> None:
    from codi.data.encoding import TextEncoder
    from codi.data.text_format import TextFormat

    text, method = TextEncoder(byte_level_tokenizer(), TextFormat()), build_method({"name": "no-cot-sft"})
    bad = Example("x\x1b[2J", "Red \x1b[31m?", (), "1")
    said = overview(tokenise([bad], method, text), method, text).describe()
    assert "\x1b" not in said
    assert r"Red \x1b[31m?" in said


def test_numbers_of_a_small_set() -> None:
    given = rows((), ("<<3+5=8>>",), STEPS, STEPS[:2])
    found = seen(build_method({"name": "codi"}), given)
    assert found.rows == 4
    assert found.steps == {0: 1, 1: 1, 2: 1, 3: 1}
    assert found.unread == 1  # one step, and CODI leaves it out
    one_step = 7  # << 3 + 5 = 8 >>
    spread = found.tokens["rationale, without its last step"]
    assert (spread.median, spread.p95, spread.longest) == (0, 2 * one_step, 2 * one_step)
    assert found.tokens["answer with its prompt"].longest == 6
    assert found.tokens["question"].median == 5
    numbers = found.as_dict()
    assert json.loads(json.dumps(numbers)) == numbers
    assert numbers["steps"] == {"0": 1, "1": 1, "2": 1, "3": 1}
    table = found.describe()
    assert "| rows | 1 | 1 | 1 | 1 | 0 | 0 | 0 |" in table
    assert "| question | 5 | 5 | 5 |" in table
    assert "Only the answer is read of 1 rows with one step (25.0 %)." in table
    assert seen(build_method({"name": "coconut"}), given).unread == 0


def test_blank_steps_are_left_out_and_counted() -> None:
    """A blank last step would leave the step that states the answer with CODI's teacher."""
    blank = rows((*STEPS, "  "), ("", *STEPS))
    found = seen(build_method({"name": "codi"}), blank)
    assert found.blank_steps == 2
    assert found.steps == {3: 2}
    assert all(shown.readings["teacher"].count("<<") == 2 for shown in found.shown)
    assert "Steps without a word, left out: 2." in found.describe()


def test_every_method_can_be_looked_at() -> None:
    options = {"codi-static-teacher": {"teacher": "x"}}
    build_method({"name": "codi"})  # imports all
    for name in METHODS:
        found = seen(build_method({"name": name, **options.get(name, {})}))
        assert found.describe().startswith(f"## What {name} reads: 4 rows")


# --- refused, or said loudly --------------------------------------------------------------------------------


NEEDING = ["codi", "codi-static-teacher", "coconut", "icot", "cot-sft"]


@pytest.mark.parametrize("name", NEEDING)
def test_a_set_without_rationales_is_refused(name: str) -> None:
    method = build_method({"name": name, **({"teacher": "x"} if "static" in name else {})})
    without = rows(*[()] * 39, STEPS)
    with pytest.raises(DataError, match=r"39 of the 40 rows of 'mine\.csv' have none.*annotate.*no-cot-sft"):
        check_rationales(seen(method, without), method, "mine.csv")
    some = rows(*[()] * 18, STEPS, STEPS)  # 10 %
    [note] = check_rationales(seen(method, some), method, "mine.csv")
    assert "18 of 20 rows of 'mine.csv' have no rationale" in note


@pytest.mark.parametrize("name", ["no-cot-sft", "pause-tokens"])
def test_methods_that_read_answers_alone_take_any_set(name: str) -> None:
    method = build_method({"name": name})
    assert check_rationales(seen(method, rows((), ())), method, "mine.csv") == []


def test_one_step_in_nearly_all_rows_is_said_loudly_where_it_is_left_out() -> None:
    one = rows(*[STEPS[:1]] * 19, STEPS)
    codi = build_method({"name": "codi"})
    [note] = check_rationales(seen(codi, one), codi, "mine.csv")
    assert note.startswith("WARNING: in 19 of 20 rows of 'mine.csv' codi reads no step")
    assert "data.steps_rule" in note
    assert "keep_last_step=true" in note
    keeping = build_method({"name": "codi", "keep_last_step": True})
    assert check_rationales(seen(keeping, one), keeping, "mine.csv") == []
    coconut = build_method({"name": "coconut"})
    [note] = check_rationales(seen(coconut, one), coconut, "mine.csv")
    assert note.startswith("WARNING: 19 of 20 rows of 'mine.csv' have one step, so coconut replaces whole")
    for name in ("icot", "cot-sft"):  # to which it does not matter where a step ends
        assert (
            check_rationales(seen(build_method({"name": name}), one), build_method({"name": name}), "x") == []
        )
    some = rows(*[STEPS[:1]] * 3, STEPS)
    assert check_rationales(seen(codi, some), codi, "mine.csv") == []


def test_the_packages_own_problems_are_neither_refused_nor_complained_of() -> None:
    from codi.data.sources import load_examples

    method = build_method(load_recipe("word-problems").method)
    some, _ = load_examples("word-problems?count=200")
    assert check_rationales(seen(method, tuple(some)), method, "word-problems") == []


def test_training_prints_it_saves_it_and_refuses(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, rows=12, max_steps=1, save_strategy="no")
    said: list[str] = []
    from codi.training.run import train
    from tiny_runs import configured

    train(configured(settings), tmp_path / "out", say=said.append)
    saved = (tmp_path / "out" / "data.md").read_text(encoding="utf-8")
    assert any(line + "\n" == saved for line in said)
    assert saved.count("    teacher ") == saved.count("    student ") == 3
    numbers = json.loads((tmp_path / "out" / "data.json").read_text(encoding="utf-8"))
    assert numbers["overview"]["rows"] == 12
    assert numbers["overview"]["steps"] == {"1": 4, "2": 4, "3": 4}
    assert numbers["reports"][0]["kept"] == 12

    bare = [Example(f"b{n}", "Tom has 3 pens .", (), "3") for n in range(5)]
    settings["data"]["train"] = write_rows(tmp_path / "bare.jsonl", bare)
    with pytest.raises(DataError, match="codi learns from rationales, but 5 of the 5 rows"):
        run(settings, tmp_path / "refused")
    assert not (tmp_path / "refused").exists()


# --- codi data SOURCE --show --------------------------------------------------------------------------------


def invoke(*words: str) -> str:
    result = CliRunner().invoke(app, ["data", *words])
    assert result.exit_code == 0, result.output
    return result.output


def test_show_prints_the_same_as_training(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, rows=12, max_steps=1, save_strategy="no")
    run(settings, tmp_path / "out")
    shown = invoke(
        settings["data"]["train"], "--show", "3", "--tokenizer", settings["tokenizer"],
        "--recipe", str(tmp_path / "out" / "run.yaml"),
    )  # fmt: skip
    assert (tmp_path / "out" / "data.md").read_text(encoding="utf-8") in shown


def test_show_reads_as_the_recipe_does(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, rows=4)
    file = tmp_path / "frage.jsonl"
    row = {"Frage": "Tom?", "cot": "<<1+1=2>> dann <<2+1=3>>", "answer": "3", "question": "How many?"}
    file.write_text(json.dumps(row) + "\n", encoding="utf-8")
    recipe = {
        **settings,
        "data": {"train": str(file), "columns": {"question": "Frage"}, "steps_rule": "equations"},
    }
    (tmp_path / "mine.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    shown = invoke(str(file), "--show", "1", "--recipe", str(tmp_path / "mine.yaml"))
    assert "steps     <<1+1=2>> | <<2+1=3>>" in shown
    assert "teacher   Tom ? " in shown
    other = invoke(
        str(file), "--show", "1", "--recipe", str(tmp_path / "mine.yaml"), "--question-column", "question"
    )
    assert "teacher   How many ? " in other


def test_show_without_a_tokenizer_counts_words_and_needs_no_network(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "mine.jsonl", list(rows(STEPS, STEPS[:2])))
    shown = invoke(file, "--show", "1")
    assert "| words | median | 95 % | longest |" in shown
    assert "teacher   Mia has 3 apples.<<3+5=8>> <<8*2=16>>The answer is⟦:⟧ 12<eos>" in shown
    assert "Example r2" not in shown
    assert "lengths are in words" in shown
    coconut = invoke(file, "--show", "1", "--method", "coconut")
    assert "coconut, last stage" in coconut
    assert "| tokens |" in invoke("test", "--count", "4", "--show", "1")  # whose tokenizer is known


def test_show_says_what_training_would_refuse(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "bare.jsonl", list(rows((), ())))
    assert "Training would refuse this: codi learns from rationales" in invoke(file, "--show", "1")
    assert "refuse" not in invoke(file, "--show", "1", "--method", "no-cot-sft")


def test_options_of_show_that_make_no_sense(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "mine.jsonl", list(rows(STEPS)))
    for words in (
        [file],
        [file, "--output", str(tmp_path / "x.jsonl"), "--method", "codi"],
        [file, "--show", "-1"],
        [file, "--show", "1", "--method", "kodi"],
        [file, "--show", "1", "--tokenizer", str(tmp_path / "none")],
    ):
        result = CliRunner().invoke(app, ["data", *words])
        assert result.exit_code == 2, words
    assert not (tmp_path / "x.jsonl").exists()


def test_the_first_steps_come_back_from_a_selection() -> None:
    method, text = build_method({"name": "codi"}), word_encoder()
    tokens: TokenisedSet = tokenise(EXAMPLES, method, text)
    found = overview(tokens.select([2, 0]), method, text)
    assert [(shown.id, shown.steps) for shown in found.shown] == [
        ("c", EXAMPLES[2].steps), ("a", EXAMPLES[0].steps),
    ]  # fmt: skip
