"""What is one plain number, what is none, and the last number of a text."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codi.data.numbers import in_doubt, last_number, plain_number, written

PLAIN = {
    "18": "18", "007": "7", "-5": "-5", "+5": "5", "−5": "-5", "–5": "-5", "-0": "0", "5.": "5", ".5": "0.5",
    "18.00": "18", "2.0107e-06": "0.0000020107", "1e6": "1000000", "1E+3": "1000", "1.5×10^3": "1500",
    "1.5 × 10³": "1500", "2 x 10^-2": "0.02", r"3 \times 10^{4}": "30000", "1,234,567": "1234567",
    "1,234.50": "1234.5", "1,00,000": "100000", "1'234": "1234", "1\u202f234": "1234",
    "1\u00a0234\u00a0567": "1234567", "$18": "18", "$ 18": "18", "-$5": "-5", "$-5": "-5", "€3.50": "3.5",
    "18 €": "18", "18€": "18", "US$5": "5", "Rs. 500": "500", "USD 5": "5", "5 USD": "5", "12%": "12",
    "12 %": "12", "12 percent": "12", "45°": "45", "20 °C": "20", "3 km": "3", "3km": "3", "60 km/h": "60",
    "5 m²": "5", "5 m2": "5", "9.8 m/s^2": "9.8", "5 apples": "5", "5 apples.": "5",
    "18 dollars per day": "18", "12 square meters": "12", "$5 a day": "5", "18元": "18", "5 個": "5",
    "1 000": "1000", "12 345 678.5": "12345678.5", "£1 000": "1000", "1 000 km": "1000", "1\u2007000": "1000",
    "- 4": "-4", "− 4": "-4", "+ 7": "7", "- $5": "-5", "- 1 000 %": "-1000", "５ ０００": "5000",
    "１８": "18", "－５": "-5", "٣": "3", "٣٫٥": "3.5", "$18$": "18", r"\$18": "18", r"12\%": "12",
    r"45^\circ": "45", r"5 \text{ cm}": "5", r"1{,}234": "1234", " 18 ": "18", "18\n": "18",
}  # fmt: skip
NOT_PLAIN = [
    "", " ", "hello", "-", "$", "%", ".", ",", "e5", "1/2", "2 1/2", "18 / 20", r"\frac{3}{8}", r"\sqrt{2}",
    "½", "1½", "5²", "10³", "(2,3)", "[0,1)", "1, 2", "3 4", "12 34", "1 000 00", "0 500",
    "1  000", "1000 000", "5 000 million", "5 and 6", "5 or 6", "3,5", "1,23",
    "0,500", "1,234,5", "12,345,67", "1.234.567", "05/01/2021", "2021-05-01", "3:30", "12-15", "5-3",
    "3+4=7", "x = 5", "= 5", "3x", "3 x", "2pi", "5!", "#5", "#### 5", "555-1234", "+1 555 123 4567", "inf",
    "-inf", "nan", "infinity", "1_000", "0x10", "--5", "+-5", "- -5", "5-", "(5)", "($5)",
    "(1,000)", "5e", "1e999", "1e-400",
    "1e99999999999999", "9" * 400, "5 million", "5k", "5M", "$5m", "5万", "2 dozen", "5 and a half",
    "3 fifths", "5th", "1st", "5 pm", "5 o'clock", "44 BC", "5 below zero", "about 5", "5. apples",
    "Room 12", "2B", "5 R 2", "5'6\"", "18\n19", "\ud800", "18 \ud800",
]  # fmt: skip


@pytest.mark.parametrize(("text", "value"), PLAIN.items())
def test_one_plain_number(text: str, value: str) -> None:
    found = plain_number(text)
    assert found == Decimal(value)
    assert written(found) == value


@pytest.mark.parametrize("text", NOT_PLAIN)
def test_not_one_plain_number(text: str) -> None:
    assert plain_number(text) is None


LAST = {
    "It is 18.": "18", "She has 3 + 4 = 7 apples.": "7", "<<16-3-4=9>> <<9*2=18>>": "18",
    "72, in total": "72", "from 5 to 2.0107e-06 m": "0.0000020107", "It fell to −6": "-6",
    "-$5 in all": "-5", "about $1,234.50.": "1234.5", "so 1.5 × 10^3 m": "1500", r"\boxed{18}": "18",
    r"it is \$70,000.": "70000", "an area of 25 m2": "25", "3, 5": "5", "5 apples and 3 pears": "3",
    "12% of it": "12", "= .5": "0.5", "It is 1 000.": "1000", "so 12 050 km": "12050", "x = - 4": "-4",
    "7 - 4": "4", "it is -1 000": "-1000", "in 2019 500": "500", "3 + 1 000 = 1 003": "1003",
}  # fmt: skip
NO_LAST = [
    "", "none", "1/2", "18 / 20", "3,5", "(2,3)", "3:30", "05/01/2021", "12-15", "5-3", r"\frac{3}{8}",
    r"\frac38", r"\sqrt{2}", "2 and ½", "10³", "it has 5 million", "5k", "9" * 400,
    "the 5th", "at 5 pm", "5pm", "3x", "so 2ab", "5 below zero", "5 o'clock",
]  # fmt: skip


@pytest.mark.parametrize(("text", "value"), LAST.items())
def test_last_number(text: str, value: str) -> None:
    assert last_number(text) == Decimal(value)


@pytest.mark.parametrize("text", NO_LAST)
def test_the_last_number_is_not_one(text: str) -> None:
    assert last_number(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "(5)",
        "($5)",
        "(1,000)",
        "3,5",
        "1,23",
        "~5",
        "≈ 5",
        "5,",
        "12 34",
        "1_000",
        "--5",
        "5-",
        "#5",
        "= 5",
        "(-5)",
        "5:",
    ],
)
def test_figures_that_may_be_one_number_and_may_not(text: str) -> None:
    assert in_doubt(text)


@pytest.mark.parametrize(
    "text",
    [
        "18",
        "1 000",
        "- 4",
        "five",
        "",
        "1/2",
        "05/01/2021",
        "24.12.1999",
        "3:30",
        "12-15",
        "5 million",
        "x = 5",
        "(a)",
    ],
)
def test_what_is_a_number_or_no_number_is_not_in_doubt(text: str) -> None:
    assert not in_doubt(text)


NUMBERS = st.decimals(min_value="-1e12", max_value="1e12", places=4) | st.integers(-(10**15), 10**15).map(
    Decimal
)


@settings(max_examples=200, deadline=None)
@given(NUMBERS, st.sampled_from(["", " km", "%", " €", " apples."]), st.sampled_from(["", "$", "€"]))
def test_a_number_is_read_back_however_it_is_written(value: Decimal, unit: str, currency: str) -> None:
    sign, size = "-" if value < 0 else "", abs(value)
    for form in (str(size), f"{size:,}", f"{size:.20e}", written(size), f"{size:,}".replace(",", "\u202f")):
        for minus in (sign, sign.replace("-", "−")):
            text = f"{minus}{currency}{form}{unit}"
            assert plain_number(text) == value, text
            assert last_number(f"It is {text}") == value, text
    assert written(value) == written(value * Decimal("1.000"))


@settings(max_examples=300, deadline=None)
@given(st.text())
def test_any_text_is_a_number_or_none(text: str) -> None:
    for value in (plain_number(text), last_number(text)):
        assert value is None or (value.is_finite() and plain_number(written(value)) == value)
