"""Mathematical answers: what math-verify finds equal, from any thread, and never for ever."""

from __future__ import annotations

import threading
import time

import pytest

from codi.errors import UsageError
from codi.evaluation.scorers import SCORERS, get_scorer
from codi.evaluation.scorers import verifier as verifier_module
from codi.evaluation.scorers.mathematics import looks_mathematical
from codi.evaluation.scorers.verifier import Verifier

MATHEMATICAL = [
    r"\frac{3}{8}", "1/2", "-1/2", "3 1/2", "½", "1½", "(2,3)", "[0, 1)", "{1, 2}", "1, 2", r"\sqrt{2}",
    "√2", "2π", "2pi", "x = 5", "2x + 3", "3x", "x^2", "x²", r"\text{even}", "(−∞, 2)", r"\emptyset",
]  # fmt: skip
WORDS = [
    "proof", "Nora is a sterpus.", "yes", "05/01/2021", "2021-05-01", "3:30", "12-15", "5 and 6", "Room 12",
    "N/A", "C#", "3/4 cup", "(2, Paris)", "Jan 5, 2021", "5 million", "A", "",
]  # fmt: skip


@pytest.mark.parametrize("text", MATHEMATICAL)
def test_what_looks_mathematical(text: str) -> None:
    assert looks_mathematical(text)


@pytest.mark.parametrize("text", WORDS)
def test_words_and_dates_do_not(text: str) -> None:
    assert not looks_mathematical(text)


def test_without_math_verify_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifier_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'codi\[math\]'"):
        get_scorer("math")
    with pytest.raises(UsageError, match=r"pip install 'codi\[math\]'"):
        Verifier().ask("1/2")


math_verify = pytest.importorskip("math_verify")

SAME = [
    (r"\frac{3}{8}", "3/8"),
    (r"\frac{3}{8}", "0.375"),
    (r"\frac{3}{8}", r"$\dfrac{3}{8}$."),
    ("3 1/2", "3.5"),
    ("1½", r"\frac{3}{2}"),
    (r"\{1,2\}", r"\{2,1\}"),
    ("(2,3)", r"\{2,3\}"),  # math-verify's leniency
    ("[0,1)", "[0, 1)"),
    ("(2,3)", r"\left(2, 3\right)"),
    (r"(x+1)(x-1)", "x^2 - 1"),
    ("√2", r"\sqrt{2}"),
    ("x²", "x^2"),
    ("(−∞, 2)", r"(-\infty, 2)"),
    ("1,000", "1000"),
    ("1000", "1 000"),
    ("2.0107e-06", "0.0000020107"),
    ("50%", r"\frac{1}{2}"),
    (r"\frac{1}{2}", r"so \boxed{\frac{1}{2}}"),
    ("-5", "−5"),
]
OTHER = [
    (r"\frac{3}{8}", "8"),
    (r"\frac{3}{8}", "3"),
    ("1/2", "2"),
    ("(2,3)", "23"),
    ("(2,3)", "(3,2)"),
    ("[0,1)", "[0,1]"),
    ("3 1/2", "31/2"),
    ("1/3", "0.33"),
    ("0.0000001", "0.0000002"),
    ("x + 1", "x + 2"),
    ("1000", "1 00"),
    (r"\text{Monday}", r"\text{Tuesday}"),
    ("5", "}{"),
    ("5", r"\frac{"),
    ("5", ""),
    ("5", "\ud800"),
]


@pytest.mark.parametrize(("gold", "text"), SAME)
def test_equal(gold: str, text: str) -> None:
    assert get_scorer("math").correct(f"First 8. The answer is: {text}", gold)
    assert get_scorer("math").correct(gold, gold)


@pytest.mark.parametrize(("gold", "text"), OTHER)
def test_not_equal(gold: str, text: str) -> None:
    assert not get_scorer("math").correct(f"The answer is: {text}", gold)


@pytest.mark.parametrize("gold", ["proof", "Nora is a sterpus.", "05/01/2021", "1 00", r"\frac{", "}{", ""])
def test_golds_that_are_none_are_refused(gold: str) -> None:
    assert get_scorer("math").parse_gold(gold) is None


def test_unreadable_is_none() -> None:
    assert SCORERS["math"].parse("The answer is: }{") is None
    assert SCORERS["math"].parse("The answer is: 1/2.") == "1/2"


def test_it_works_in_any_thread() -> None:
    found: list[bool] = []

    def ask() -> None:
        found.append(get_scorer("math").correct(r"The answer is: \frac{14}{21}", "2/3"))
        found.append(get_scorer("math").correct(r"The answer is: \frac{14}{22}", "2/3"))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [False] * 3 + [True] * 3


def test_what_takes_for_ever_is_ended_and_the_next_question_answered(
    caplog: pytest.LogCaptureFixture,
) -> None:
    patient, hasty = Verifier(), Verifier(seconds=0.2)
    try:
        assert hasty.ask("1/2", "0.5") or hasty.ask("1/2", "0.5")  # a slow machine may need a second try
        began = time.monotonic()
        assert not hasty.ask("5", "10^{10^{10}}")
        assert time.monotonic() - began < patient._seconds
        assert "10^{10^{10}}" in caplog.text
        assert patient.ask("1/2", "0.5")
    finally:
        patient.end()
        hasty.end()
