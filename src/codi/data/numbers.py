"""Numbers as people and models write them.

    plain_number     a text that is ONE number      $18   1,234,567   1 000   12%   3 km   −5   - 4   1.5×10^3
    last_number      the last number of a text      She has 3 + 4 = 7 apples.
    in_doubt         figures that nobody can read   (5)   3,5   ~5   12 34

What is not one number is never read as one: 1/2, \\frac{3}{8}, (2,3), 05/01/2021, 3:30, 12-15, 3,5, of
which nobody can say whether it is 3.5 or two numbers, and (5), which is five or an accountant's -5. Nor is a
number whose words change its value, such as '5 million', '5 below zero', '5th' or '5 pm'. Groups of three
digits after a space are thousands: 1 000 is one number.
"""

from __future__ import annotations

import math
import re
import unicodedata
from decimal import Decimal

_SPACES = "\u00a0\u2007\u2009\u202f"  # no-break, figure, thin, narrow no-break: they group digits
_SPACED = r"[1-9]\d{0,2}(?: \d{3})+(?!\d)"
_GROUPED = (
    r"[1-9]\d{0,2}(?:,\d{3})+"
    r"|[1-9]\d?(?:,\d{2})+,\d{3}"  # 1,00,000
    rf"|[1-9]\d{{0,2}}(?:[{_SPACES}]\d{{3}})+"
    r"|[1-9]\d{0,2}(?:['’]\d{3})+"
    rf"|{_SPACED}"
)
_SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻"
_TIMES_TEN = (
    r"\s*(?:[×xX*·⋅]|\\times|\\cdot)\s*10"
    rf"(?:\^\{{?(?P<power>[+-]?\d+)\}}?|(?P<raised>[{_SUPERSCRIPTS}]+))"
)
_CODES = "USD|EUR|GBP|INR|JPY|CNY|RMB|CHF|CAD|AUD|NZD|HKD|SGD|SEK|NOK|DKK|PLN|BRL|MXN|ZAR|KRW|TRY|Rs"
_CURRENCY = rf"(?:[A-Z]{{0,3}}[$€£¥₹₽₩₪₫₦₱฿₴₺₡₲₵₸₿¢]|(?:{_CODES})\.?)"
_PLAIN = re.compile(
    rf"(?:(?P<sign>[+-])\s*)?(?P<currency>{_CURRENCY}\s?)?(?P<inner>[+-])?"
    rf"(?P<digits>(?:{_GROUPED}|\d+)(?:\.\d+)?|\.\d+)"
    rf"(?:[eE](?P<exponent>[+-]?\d+)|{_TIMES_TEN})?"
    r"(?P<unit>.*?)\.?",
    re.DOTALL,
)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Glued to the number ('18cm'), a unit is one of these: '3x' and '2ab' are algebra, '5k' and '5M' are not 5.
_GLUED = _words(
    "km m dm cm mm nm mi ft in yd kg g mg lb lbs oz t s sec secs min mins h hr hrs ms days l L ml mL cl dl "
    "gal mph kph kmh km/h m/s m/h W kW kWh V N J Pa Hz kHz MHz GHz KB MB GB TB kB deg pct cents USD EUR GBP "
    "INR JPY CNY RMB CHF CAD AUD"
)
_LETTERS_ALONE = _words("m g s h l L t W V N J")  # units of one letter; '5 x' is algebra
_WORD = re.compile(
    r"(?P<word>[^\W\d_]+(?:['’.-][^\W\d_]+)*)(?P<power>\^?[23]|[²³])?"
    r"(?P<per>/(?:[^\W\d_]+)(?:\^?[23]|[²³])?)?\.?"
)
_RAISED = _words("m km cm mm dm ft in yd mi s")  # what may carry a 2 or 3: m2, ft^3
_SIGNS = re.compile(rf"\s*(?:°\s?[CFK]\b|[%‰°′″]|{_CURRENCY})")
_MOST_WORDS = 6
_EAST_ASIAN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")
_CHANGES_VALUE = _words(
    # powers of ten, and other numbers of things
    "hundred hundreds thousand thousands million millions billion billions trillion trillions quadrillion "
    "k bn mn mil mio mrd lakh lakhs crore crores dozen dozens gross tausend millionen milliarden millones "
    "mille "
    # parts of one
    "half halves third thirds fourth fourths fifth fifths sixth sixths seventh sevenths eighth eighths ninth "
    "ninths tenth tenths hundredth hundredths thousandth thousandths millionth millionths "
    # another number, or an operation on this one
    "zero one two three four five six seven eight nine ten eleven twelve and or to plus minus times divided "
    "over under below above less more fewer than between by squared cubed pi sqrt root sin cos tan log ln "
    "mod factorial remainder negative not is are was were out "
    # times of day, years
    "am pm a.m p.m o'clock o’clock noon midnight bc ad bce ce"
)
_SAME = {ord(c): "-" for c in "−﹣－–‒‑"} | {ord(c): None for c in "\u200b\u200e\u200f\u061c\ufeff\u00ad"}
_SAME |= {ord("＋"): "+", ord("．"): ".", ord("，"): ",", ord("％"): "%", ord("٪"): "%", ord("＄"): "$"}
_SAME |= {ord("￥"): "¥", ord("￡"): "£", ord("٫"): ".", ord("٬"): ",", ord("／"): "/", ord("⁄"): "/"}
_LATEX = (
    (re.compile(r"\\([$%])"), r"\1"),
    (re.compile(r"\{,\}|\\,(?=\d{3})|,\\!(?=\d{3})"), ","),
    (re.compile(r"\^\s*\{?\s*\\circ\s*\}?|\\degree\b"), "°"),
    (re.compile(r"\\(?:text|textrm|mathrm|mbox)\s*\{([^{}\\]*)\}"), r" \1"),
)


def plain_number(text: str) -> Decimal | None:
    """The value of a text that is one plain number; None where it is anything else.

    Currency, percent (12% is 12), units, thousands separators, scientific notation, U+2212, a final full stop
    and the digits of other scripts are understood. Values stay within a float's range.
    """
    text = text.strip()
    if text.isascii() and text.isdigit():  # nearly every answer; the rest takes ten times as long
        return Decimal(text) if len(text) <= 308 else None
    if not text or len(text) > 400:
        return None
    text = _same_characters(text)
    if "\\" in text or "{" in text or text.startswith("$"):
        text = _without_latex(text)
    found = _PLAIN.fullmatch(text)
    if found is None or (found["sign"] and found["inner"]) or not _is_unit(found["unit"], found["currency"]):
        return None
    sign = found["sign"] or found["inner"] or ""
    digits = re.sub(rf"[,'’ {_SPACES}]", "", found["digits"])
    exponent = found["exponent"] or found["power"] or _lowered(found["raised"] or "") or "0"
    return _in_range(sign + digits, exponent)


def last_number(text: str) -> Decimal | None:
    """The last number of a text; None where there is none, or where it stands in something that is not one
    number (1/2, 3:30, 12-15, 3,5, \\sqrt{2}, 5 million)."""
    text = _same_characters(text)
    for pattern, replacement in _LATEX[:3]:
        text = pattern.sub(replacement, text)
    text = _UNIT_POWER.sub(r"\1", text)
    clusters = list(_CLUSTER.finditer(text))
    if not clusters:
        return None
    last = clusters[-1]
    if _COMMAND.search(text, 0, last.start("digits")) or _AND_MORE.match(text, last.end()):
        return None
    glued = _SHORT_WORD.match(text, last.end())
    if glued is not None and glued[0] not in _GLUED:  # 5th, 3x, 2ab, 5pm
        return None
    return plain_number(last.group().strip())


def in_doubt(text: str) -> bool:
    """Whether a text is figures and signs that may be one number, and are none that everybody reads alike.

    (5) and ($1,000) are negative to accountants alone; 3,5 and 12 34 are one number or two; ~5 is about 5.
    Dates, times, ranges and fractions are none of these.
    """
    text = _same_characters(text.strip())
    return (
        len(text) <= 60
        and _FIGURES.fullmatch(text) is not None
        and _DATE.fullmatch(text) is None
        and plain_number(text) is None
    )


def written(value: Decimal) -> str:
    """A number written out, the same for equal values: '18' for 18.00, '0.0000020107' for 2.0107e-06."""
    text = format(value, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if value == 0 else text


_FIGURES = re.compile(rf"(?:[^\w\\]|{_CURRENCY})*\d[\d\s,.'’_]*(?:[^\w\\]|{_CURRENCY})*")
_DATE = re.compile(r"\d{1,2}\.\s?\d{1,2}\.\s?(?:\d{2}|\d{4})")
_CLUSTER = re.compile(
    rf"(?:(?<=[=:(]\s)-\s|[+-])?(?:{_CURRENCY}[+-]?)?"  # "x = - 4", but "7 - 4" takes away
    rf"(?P<digits>(?<![\d.])\.\d+|(?<![\d.,/:'’^]){_SPACED}(?:\.\d+)?(?![.,/:'’^*×·+-]?\d)|[\d¼-¾⅐-⅞]"
    rf"(?:(?:[.,'’:^*×·+{_SPACES}-]|\s?/\s?|\}}\s?\{{)*[\d¼-¾⅐-⅞])*)"
    rf"(?:[eE][+-]?\d+|\s?[×x*·]\s?10(?:\^\{{?[+-]?\d+\}}?|[{_SUPERSCRIPTS}]+))?"
)
_UNIT_POWER = re.compile(r"(\d\s?(?:[kcdm]?m|ft|in|yd|mi))\^?[23]\b")
_AND_MORE = re.compile(  # what follows a number in a text, and makes it another
    rf"[{_SUPERSCRIPTS}]"
    r"|\s*-?(?:(?i:hundred|thousand|million|billion|trillion|lakh|crore|dozen)|(?:k|K|M|bn)\b)"
    r"|\s+(?i:[ap]\.?m\b|o['’]clock|(?:below|above)\s+zero)"
)
_SHORT_WORD = re.compile(r"[A-Za-z]{1,2}(?![A-Za-z])")
# '\frac38' and '\sqrt{2}' end in a number and are none; '\boxed{18}' holds one.
_COMMAND = re.compile(r"\\(?:[dtc]?frac|sqrt|d?binom|times|div|cdot|log|ln)\s*[{\[(]?\s*-?$")


def _same_characters(text: str) -> str:
    """Minus signs, full-width characters and digits of other scripts as ASCII has them."""
    if text.isascii():
        return text
    text = text.translate(_SAME)
    return "".join(
        str(unicodedata.decimal(c)) if not c.isascii() and unicodedata.decimal(c, None) is not None else c
        for c in text
    )


def _without_latex(text: str) -> str:
    if len(text) > 2 and text[0] == text[-1] == "$" and text.count("$") == 2:
        text = text[1:-1].strip()
    for pattern, replacement in _LATEX:
        text = pattern.sub(replacement, text)
    return text.strip()


def _is_unit(text: str, currency: str | None) -> bool:
    """Whether what follows a number leaves its value alone: nothing, a sign, or words that count things."""
    signs = _SIGNS.match(text)
    if signs is not None:
        text = text[signs.end() :]
    rest = text.strip()
    if not rest:
        return True
    if signs is None and not text[0].isspace():
        if _EAST_ASIAN.fullmatch(rest):
            return not set(rest) & set("百千万萬亿億兆十半分点點")
        return currency is None and re.sub(r"\^?[23]$|[²³]$", "", rest) in (
            _RAISED if re.search(r"[23²³]$", rest) else _GLUED
        )
    words = rest.split()
    return len(words) <= _MOST_WORDS and all(_counts_things(word, currency) for word in words)


def _counts_things(text: str, currency: str | None) -> bool:
    found = _WORD.fullmatch(text)
    if found is None or (found["power"] and found["word"] not in _RAISED):
        return False
    word = found["word"]
    if len(word) == 1 and word.isascii():
        return word in ("a", "A") or (currency is None and word in _LETTERS_ALONE)
    return word.casefold() not in _CHANGES_VALUE


def _lowered(raised: str) -> str:
    """Superscript digits as plain ones."""
    return unicodedata.normalize("NFKC", raised).replace("−", "-")


def _in_range(digits: str, exponent: str) -> Decimal | None:
    """The number, where a float can hold it: beyond, all would be equal."""
    if len(exponent) > 5:
        return None
    value = Decimal(f"{digits}e{exponent}")
    as_float = float(value)
    return value if math.isfinite(as_float) and bool(as_float) == bool(value) else None
