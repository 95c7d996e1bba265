"""Which scorer a set gets from its answers, and what is refused before anything is answered."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from codi.cli import app
from codi.data.example import Example
from codi.errors import DataError, UsageError
from codi.evaluation.benchmarks import load_benchmark
from codi.evaluation.scorers import check_training_answers, choose_scorer, get_scorer, scorer_for
from tiny_checkpoints import tiny_reasoner


def examples(*answers: str, question: str = "Which?") -> list[Example]:
    return [Example(f"row-{i}", question, (), answer) for i, answer in enumerate(answers, start=1)]


def write(path: Path, *answers: str) -> Path:
    rows = ({"question": f"How many {i} ?", "answer": answer} for i, answer in enumerate(answers))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


CHOSEN = [
    (("18", "$3.50", "−5", "1e6", "12%", "3 km"), "number"),
    (("A", "B", "G"), "letter"),
    (("yes", "no"), "text"),
    (("True", "False"), "text"),
    (("Nora is a sterpus.", "Max is a rempus."), "text"),
    (("05/01/2021", "12/24/1999"), "text"),
    (("Paris", "A", "5 and 6"), "text"),
    (("x", "y"), "text"),
    ((r"\frac{3}{8}", "5", "(2,3)"), "math"),
    (("1/2", "3/4"), "math"),
    (("(2,3)", "(1, 4)"), "math"),
    (("1 000", "1\u2009000", "1\u00a0000", "- 4", "− 4", "+7", "1'000", ".5", "5."), "number"),
    (("true", "no", "Yes.", "TRUE", "n"), "text"),
    (("Y", "N", "Y"), "text"),
    (("Ann", "Bob", "Cy", "7", "1,000"), "text"),  # the numbers of a few among names
    ((r"\sqrt{2}", "1,2"), "math"),  # among mathematical answers a list
]


@pytest.mark.parametrize(("answers", "name"), CHOSEN)
def test_the_scorer_that_fits(answers: tuple[str, ...], name: str) -> None:
    if name == "math":
        pytest.importorskip("math_verify")
    found = examples(*answers)
    assert choose_scorer(found).name == name
    scorer = scorer_for("auto", found)
    for example in found:
        assert scorer.correct(f"The answer is: {example.answer}", example.answer)


def test_labels_of_listed_options_are_letters_whatever_they_are() -> None:
    listed = "Which?\nChoices:\n1: cow\n2: hen"
    assert choose_scorer(examples("1", "2", question=listed)).name == "letter"
    assert choose_scorer(examples("3", "2", question=listed)).name == "number"


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        (("3,5", "4"), "'3,5' (example 'row-1'); a number: '4' (example 'row-2')"),
        (("3,5", "1,5"), "a doubtful number: '3,5'"),
        (("(5)", "(1,000)"), "a doubtful number: '(5)'"),
        (("(5)", "4"), "-5, not (5)"),
        (("12 34", "~5"), "a doubtful number: '12 34'"),
        (("18", "plenty"), "a text: 'plenty' (example 'row-2')"),
        ((r"\frac{3}{8}", "proof"), "a text: 'proof'"),
        (("18", "B"), "a letter: 'B'"),
        (("So it goes. " * 20,), "a long text: 'So it goes."),
        (("line\nline",), "a long text"),
    ],
)
def test_answers_of_several_kinds_are_refused(answers: tuple[str, ...], said: str) -> None:
    with pytest.raises(DataError, match="No one scorer fits") as caught:
        choose_scorer(examples(*answers))
    assert said in str(caught.value)
    assert "--scorer NAME" in str(caught.value)


@pytest.mark.parametrize("odd", ["(5)", "plenty", "3,5", "~5", "5 million", "So it goes. " * 20])
def test_an_odd_row_among_numbers_is_refused_by_name(odd: str) -> None:
    found = examples(*["18"] * 12, odd)
    assert choose_scorer(found).name == "number"
    with pytest.raises(DataError, match=r"Scorer 'number' needs one plain number.*'row-13'") as caught:
        scorer_for("auto", found)
    assert odd[:20] in str(caught.value)


def test_an_odd_row_among_letters_is_refused_by_name() -> None:
    with pytest.raises(DataError, match=r"Scorer 'letter' needs .*'row-13' has the answer '7'"):
        scorer_for("auto", examples(*"ABCABCABCABC", "7"))


def test_yes_and_true_are_one_answer_in_a_set_of_such_words() -> None:
    scorer = scorer_for("auto", examples("true", "no", "Yes."))
    for right, gold in (("yes", "true"), ("True", "Yes."), ("N.", "no"), ("FALSE", "no")):
        assert scorer.correct(f"The answer is: {right}", gold)
        assert not scorer.correct(f"The answer is: {right}", "no" if gold != "no" else "true")
    assert not scorer.correct("The answer is: nobody", "no")
    names = scorer_for("auto", examples("no", "Yes, a band"))
    assert not names.correct("The answer is: false", "no")
    assert not scorer_for("auto", examples("n", "f")).correct("The answer is: n", "f")


def test_booleans_of_a_file_are_words(tmp_path: Path) -> None:
    path = tmp_path / "truth.jsonl"
    rows = ({"question": f"Is it {i}?", "answer": value} for i, value in enumerate((True, False, "no")))
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    found, _, benchmark = load_benchmark(str(path))
    assert [example.answer for example in found] == ["true", "false", "no"]
    assert (benchmark.scorer, benchmark.scorer_chosen) == ("text", True)
    assert scorer_for("auto", found).correct("The answer is: False", "no")


def test_a_refusal_names_the_scorer_that_fits() -> None:
    with pytest.raises(DataError, match=r"'row-1' \(and 1 more\).*Scorer 'text' fits these answers"):
        scorer_for("codi", examples("yes", "no"))
    with pytest.raises(DataError, match="Scorer 'number' fits these answers"):
        scorer_for("codi", examples("−5"))
    with pytest.raises(UsageError, match="'auto'"):
        scorer_for("authomatic", examples("5"))


def test_a_training_set_that_could_never_be_scored_is_refused() -> None:
    odd = examples(*["18"] * 9, "2/5")  # GSM8k-Aug has one such answer in some thousand
    check_training_answers(odd, get_scorer("codi"))
    with pytest.raises(
        DataError, match="3 of 4 training examples have none; the first is 'row-2' with '1/2'"
    ):
        check_training_answers(examples("18", "1/2", "2/5", "3/4"), get_scorer("codi"))
    with pytest.raises(DataError, match="Scorer 'text' fits"):
        check_training_answers(examples("yes", "no"), get_scorer("letter"))


def test_a_file_of_ones_own_names_the_scorer_that_was_chosen(tmp_path: Path) -> None:
    tiny_reasoner("codi").save_pretrained(tmp_path / "model")
    path = write(tmp_path / "mine.jsonl", "yes", "no")
    _, _, benchmark = load_benchmark(str(path))
    assert (benchmark.scorer, benchmark.scorer_chosen) == ("text", True)
    command = ["eval", str(tmp_path / "model"), "--benchmark", str(path), "--latency-questions", "0"]
    result = CliRunner().invoke(
        app, [*command, "--output", str(tmp_path / "r.json"), "--predictions", str(tmp_path / "p")]
    )
    assert result.exit_code == 0, result.output
    assert "mine: scorer text, chosen from the answers" in result.output
    found = json.loads((tmp_path / "r.json").read_text())["benchmarks"]["mine"]
    assert (found["scorer"], found["scorer_chosen"]) == ("text", True)
    rows = [json.loads(line) for line in (tmp_path / "p" / "mine.jsonl").read_text().splitlines()]
    assert [row["scorer"] for row in rows] == ["text", "text"]
    named = CliRunner().invoke(app, [*command, "--scorer", "letter"])
    assert named.exit_code == 2
    assert "Scorer 'text' fits these answers" in named.output
    chosen = CliRunner().invoke(app, [*command, "--scorer", "auto"])
    assert "scorer text, chosen" in chosen.output


def test_a_named_benchmark_keeps_its_scorer(tmp_path: Path) -> None:
    path = write(tmp_path / "gsm8k.jsonl", "18")
    _, _, benchmark = load_benchmark("gsm8k", file=str(path), allow_partial=True)
    assert (benchmark.scorer, benchmark.scorer_chosen) == ("codi", False)
    _, _, benchmark = load_benchmark("gsm8k", file=str(path), allow_partial=True, scorer="number")
    assert benchmark.scorer == "number"
