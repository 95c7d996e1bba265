"""The quantities of a problem told in English: where its numbers stand, and which of them may be others.

    "Mia buys three pens at $1.50 each and pays with a 20-dollar note. How much is left in 2 weeks?"
              ^^^^^         ^^^^                       ^^                                  ^

A quantity may be another number where it counts or measures something. Years, times of day, fractions, the
sixty minutes of an hour and numbers that only name something ("day 3") stay as they are: they are fixed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

_UNITS = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_WORD_VALUES = {word: value for value, word in enumerate(_UNITS)} | {
    word: 10 * value for value, word in enumerate(_TENS, start=2)
}
LARGEST_WORD = 99
"""Numbers up to here are written as words where the problem writes them so."""

_LARGE = re.compile(
    rf"\b(?:(?:{'|'.join(_UNITS[1:] + _TENS)}|an?|and|hundred|thousand|million)[- ]+)*"
    r"(?:hundred|thousand|million)\b"
    rf"(?:[- ]+(?:and[- ]+)?(?:{'|'.join(_UNITS[1:] + _TENS)}|hundred|thousand)\b)*",
    re.IGNORECASE,
)
_ATTACHED_UNITS = r"(?:kg|g|mg|cm|mm|km|m|ml|l|L|ft|lbs?|oz|mph|MPH|hrs?|mins?|c|GB|MB|TB|[cmk]?m[²³])(?!\w)"
_DIGITS = re.compile(
    rf"(?<![\w.])(?<!\d[,/:])(?:\d{{1,3}}(?:,\d{{3}})+|\d+)?(?:(?<!\d)\.\d+|(?<=\d)\.\d+|(?<=\d))(?!\d)"
    rf"(?=(?:{_ATTACHED_UNITS})|(?!\w|,\d))"
)
_WORDS = re.compile(
    rf"\b(?:(?P<tens>{'|'.join(_TENS)})(?:[- ](?P<unit>{'|'.join(_UNITS[1:10])}))?"
    rf"|(?P<alone>{'|'.join(_UNITS[1:])}))\b",
    re.IGNORECASE,
)
_FRACTION = re.compile(r"\d+\s*/\s*\d+")
_WORD_FRACTION = re.compile(
    r"\b(?:one|two|three|four|five|six|seven|eight|nine|ten|an?)[- ]"
    r"(?:hal(?:f|ves)|(?:third|fourth|quarter|fifth|sixth|seventh|eighth|ninth|tenth|twelfth|twelveth)s?)\b",
    re.IGNORECASE,
)

# --- numbers that cannot be others

_CLOCK_AFTER = re.compile(r"\s*(?:[ap]\.?\s?m\b|o'?clock|:\d\d|noon)", re.IGNORECASE)
_CLOCK_BEFORE = re.compile(r"\d:$")
_YEAR_BEFORE = re.compile(
    r"\b(?:in|since|until|till|year|from|by|of|and|to|before|after|during)\s+$", re.IGNORECASE
)
_NAME_BEFORE = re.compile(
    r"(?:\b(?:day|week|month|year|grade|chapter|page|number|no\.?|level|room|size|step|round|game|class|part|"
    r"section|lesson|stage|phase|floor|apartment|route|highway|bus|group|team|box|test|quarter|"
    r"stop|question|table|book|volume|set|aged?)|#)\s*$",
    re.IGNORECASE,
)
_COUNTED_BEFORE = re.compile(
    r"\b(?:the|these|those|both|other|others|first|last|next|all|following|previous|past|every|remaining|of|"
    r"his|her|their|its|my|our|your|\w+'s|\w+s')\s+(?:other\s+|first\s+|last\s+|next\s+)?$",
    re.IGNORECASE,
)
_ALL_BEFORE = re.compile(r"\b(?:all|these|those|both)\s+(?:of\s+)?(?:the\s+)?$", re.IGNORECASE)
# "1 pound is equal to 453.6 grams": a fact of the world.
_DEFINED_BEFORE = re.compile(
    r"\b(?:one|1|an?|each|every|per)\s+(?:pound|ounce|kilo\w*|gram|mile|inch|foot|yard|gallon|quart|pint|cup|"
    r"lit(?:er|re)|hour|minute|day|week|month|year|dozen|meter|metre|acre|ton|dollar|euro|quarter|dime|nickel)\s+"
    r"(?:is|equals?|has|contains|holds|=)\s*(?:equal to|about|exactly|worth)?\s*\$?$",
    re.IGNORECASE,
)
_LISTED_AFTER = re.compile(r"^[^.?!;]{0,60}(?::|, namely|\bnamed\b|\bcalled\b|\bnames\b)", re.IGNORECASE)
_DENOMINATION_AFTER = re.compile(
    r"^[- ]?(?:dollars?|cents?)?[- ]?(?:bills?|notes?|coins?|stars?|point|pointers?)\b"
)
_NUMBERED_AFTER = re.compile(
    r"^(?:st|nd|rd|th)\b|^[- ](?:sided|legged|wheeled|wheeler|leaf|fold|way|story|bedroom|digit|headed)",
    re.IGNORECASE,
)
_FIXED_UNITS: dict[int, str] = {
    3: r"(?:feet|ft)\b(?=.{0,20}yard)|meals|trimesters",
    4: r"(?:weeks?)\b(?=.{0,20}month)|quarts|quarters|seasons|legs|wheels|sides|corners|tires",
    5: r"school days|weekdays|work(?:ing)? ?days|pennies|fingers|toes",
    7: r"days",
    8: r"(?:slices|legs|pints)\b(?!.{0,12}(?:of|each))",
    10: r"(?:dimes|fingers|toes)\b|(?:mm|millimeters)",
    12: r"months|inch(?:es)?|eggs in|noon",
    16: r"(?:ounces|oz)\b(?=.{0,20}pound)|cups",
    24: r"hours",
    30: r"days",
    31: r"days",
    28: r"days",
    36: r"inches",
    52: r"weeks|cards",
    60: r"minutes|seconds|mins|secs",
    100: r"%|percent|cents|pennies|centimeters|cm|years",
    365: r"days",
    366: r"days",
    1000: r"grams|g\b|meters|milliliters|ml|watts|millimeters",
    5280: r"feet|ft",
    3600: r"seconds",
}
_TIMES = frozenset(
    {
        "day", "week", "weekend", "month", "year", "hour", "minute", "half", "quarter", "time", "game",
        "round", "period", "place", "floor", "grade", "trip", "semester", "night", "season", "inning", "set",
        "session", "practice", "class", "lap",
    }
)  # fmt: skip
_ORDINALS = ["first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"]


@dataclass(frozen=True, slots=True)
class Mention:
    """One number as the question writes it.

    start, end: its place; spelled: by words; percent: a share of a hundred; cents: hundredths of a dollar;
    fixed: it must stay as it is; most: the largest number that makes sense there (7 days of a week), None
    where nothing bounds it.
    """

    start: int
    end: int
    text: str
    value: Fraction
    spelled: bool
    percent: bool
    cents: bool
    fixed: bool
    most: int | None

    def written(self, value: Fraction) -> str:
        """`value` in the style of this mention. Raises ValueError where it has no finite decimal form."""
        if self.spelled:
            words = spelled_out(int(value))
            return words.capitalize() if self.text[0].isupper() else words
        decimals = len(self.text.partition(".")[2])
        plain = decimal_text(value)
        if decimals == 2:  # money: $1.50, $12.00
            plain = f"{plain.partition('.')[0]}.{plain.partition('.')[2]:0<2}"
        whole, point, rest = plain.partition(".")
        if "," in self.text or (len(whole) > 4 and len(self.text) < len(whole)):
            whole = f"{int(whole):,}"
        return ("" if self.text.startswith(".") and whole == "0" else whole) + point + rest


def mentions(question: str) -> list[Mention]:
    """Every number of the question, in its order."""
    shares = [m.span() for pattern in (_FRACTION, _WORD_FRACTION) for m in pattern.finditer(question)]
    found: list[Mention] = []
    for match in _LARGE.finditer(question):
        shares.append(match.span())  # its parts are no numbers of their own
        found.append(
            Mention(*match.span(), match.group(), _large(match.group()), True, False, False, True, None)
        )
    for match in _DIGITS.finditer(question):
        if match.group():
            value = Fraction(match.group().replace(",", ""))
            found.append(_mention(question, match, value, spelled=False, shares=shares))
    for match in _WORDS.finditer(question):
        if any(m.start <= match.start() < m.end for m in found):
            continue
        tens, unit, alone = (match[name] for name in ("tens", "unit", "alone"))
        number = _WORD_VALUES[(alone or tens).lower()] + (_WORD_VALUES[unit.lower()] if unit else 0)
        found.append(_mention(question, match, Fraction(number), spelled=True, shares=shares))
    return sorted(found, key=lambda mention: mention.start)


def _mention(
    question: str, match: re.Match[str], value: Fraction, *, spelled: bool, shares: list[tuple[int, int]]
) -> Mention:
    start, end = match.span()
    before, after = question[:start], question[end:]
    percent = re.match(r"\s*(?:%|percent\b|per cent\b|percentage\b)", after) is not None
    cents = re.match(r"[\s-]*cents?\b", after) is not None
    unit = re.sub(r"^[\s-]+", "", after)
    fixed = (
        (value <= 1
        and value.denominator == 1)
        or any(start < stop and end > first for first, stop in shares)
        or _CLOCK_AFTER.match(after) is not None
        or _CLOCK_BEFORE.search(before) is not None
        or (1500 <= value <= 2100 and "," not in match.group() and not before.endswith("$")
            and _YEAR_BEFORE.search(before) is not None and not re.match(r"\s+[a-z]+s\b", after))
        or _NAME_BEFORE.search(before) is not None
        or _DENOMINATION_AFTER.match(after) is not None
        or _DEFINED_BEFORE.search(before) is not None
        or _NUMBERED_AFTER.match(after) is not None
        or re.match(_FIXED_UNITS.get(int(value) if value.denominator == 1 else -1, r"(?!)"), unit) is not None
        or (value <= 6 and _counts_what_is_listed(question, int(value), before, after, spelled))
    )  # fmt: skip
    return Mention(
        start, end, match.group(), value, spelled, percent, cents, bool(fixed),
        _most(question, value, unit, percent, spelled),
    )  # fmt: skip


def _counts_what_is_listed(question: str, value: int, before: str, after: str, spelled: bool) -> bool:
    """Whether a small number counts things that the problem then names one by one."""
    lower = question.lower()
    if (_COUNTED_BEFORE if spelled else _ALL_BEFORE).search(before):
        return True
    if value >= 2:
        ordinal = rf"\b(?:{_ORDINALS[value - 1]}|{value}(?:st|nd|rd|th))\b[ ]*(\w*)"
        thing = _first_word(after)
        for numbered in re.findall(ordinal, lower):
            if numbered.rstrip("s") == thing or numbered not in _TIMES:
                return True
    return _LISTED_AFTER.match(after) is not None


def _first_word(text: str) -> str:
    words = re.match(r"[\s-]*(\w+)", text)
    return words[1].lower().rstrip("s") if words else ""


def _most(question: str, value: Fraction, unit: str, percent: bool, spelled: bool) -> int | None:
    """The largest number that makes sense in the place of `value`."""
    lower = question.lower()
    bounds = [
        (percent and value <= 100, 99),
        (unit.startswith("day") and value <= 7 and "week" in lower, 7),
        (unit.startswith("hour") and value <= 24 and re.search(r"\bday|daily|night", lower) is not None,
         12 if value <= 12 else 24),
        (unit.startswith("month") and value <= 12, 12),
        (unit.startswith("week") and value <= 4 and "month" in lower, 4),
        (unit.startswith("week") and value <= 52 and "year" in lower, 52),
        (unit.startswith(("minute", "second")) and value < 60, 59),
        (re.match(r"(?:years?|months?)[ -]?olds?\b", unit) is not None, 95),
        (unit.startswith(("out of", "of the", "of them", "of his", "of her")), int(value)),
        (spelled, 20 if value <= 20 else LARGEST_WORD),
    ]  # fmt: skip
    limits = [most for holds, most in bounds if holds]
    return min(limits) if limits else None


# --- what a problem takes for granted


def _large(words: str) -> Fraction:
    """'two hundred and five' as 205."""
    total, part = 0, 0
    for word in re.split(r"[- ]+", words.lower()):
        if word == "hundred":
            part = max(part, 1) * 100
        elif word in ("thousand", "million"):
            total, part = total + max(part, 1) * (1000 if word == "thousand" else 1_000_000), 0
        else:
            part += _WORD_VALUES.get(word, 0)
    return Fraction(total + part)


def _words(listed: str) -> str:
    """A pattern for whole words and for beginnings, which end in `-`."""
    return "|".join(rf"\b{word[:-1]}" if word.endswith("-") else rf"\b{word}s?\b" for word in listed.split())


_CUES: tuple[tuple[str, str], ...] = (
    (_words("half halv- twice doubl- pair couple both twin round.?trip each.way second either average"),
     "2 0.5 1.5"),
    (_words("sibling brother- sister- husband wife parents friend boyfriend girlfriend each.other"), "2"),
    (_words("fence fencing rectang- perimeter between.them between.the.two wings bird chicken"), "2"),
    (_words("leg wheel chair horse cow sheep goat pig dog cat paw"), "4"),
    (_words("spider octopus tarantula"), "8"),
    (_words("insect ant bee beetle"), "6"),
    (_words("monday.to.friday monday.through.friday weekday work.?day working.day workweek"), "5"),
    (_words("third- tripl- thrice yard feet triangle meal average"), "3"),
    (_words("quarter fourth- quadrupl- square- rectang- month season gallon perimeter car"),
     "4 0.25 25 0.75 75"),
    (_words("fifth- nickel quintupl- weekday school"), "5 0.05"),
    (_words("sixth- half.dozen half.a.dozen"), "6"),
    (_words("week- daily seventh-"), "7"),
    (_words("eighth- gallon"), "8"),
    (_words("decade tenth- dime"), "10 0.1"),
    (_words("dozen year annual- month- inch- foot feet noon midnight"), "12"),
    (_words("pound ounce cup tablespoon teaspoon pint"), "16"),
    (_words("day daily hour"), "24"),
    (_words("month- april june september november"), "30"),
    (_words("month- january march may july august october december"), "31"),
    ("february", "28"),
    (_words("year- annual- weekly"), "52 365"),
    (_words("hour- minute second mph"), "60 3600"),
    (_words("percent- cent penny pennies centur- centimet- cm") + "|%", "100 0.01"),
    (_words("kilo- kg km gram meter liter litre thousand milli-"), "1000"),
    (_words("quart"), "32 4"),
    (_words("gallon"), "128 16"),
    (_words("mile"), "5280"),
    (_words("feet foot yard ton acre"), "9 27 36 2000"),
)  # fmt: skip
"""What a problem speaks of, and the numbers that go without saying then."""


def taken_for_granted(question: str) -> set[Fraction]:
    """Values that a solution may use though no number of the question is one: 'twice', minutes of an hour."""
    lower = question.lower()
    granted = {Fraction(1)}
    for cue, values in _CUES:
        if re.search(cue, lower):
            granted.update(map(Fraction, values.split()))
    for match in _FRACTION.finditer(question):
        granted.update(Fraction(part.strip()) for part in match.group().split("/"))
    return granted | fractions(question)


def fractions(question: str) -> set[Fraction]:
    """The values of fractions in digits, such as 3/5."""
    parts = ([int(part) for part in m.group().split("/")] for m in _FRACTION.finditer(question))
    return {Fraction(above, below) for above, below in parts if above and below}


def decimal_text(value: Fraction) -> str:
    """`value` with all its decimals. Raises ValueError where they do not end."""
    if value.denominator == 1:
        return str(value.numerator)
    for places in range(1, 7):
        scaled = value * 10**places
        if scaled.denominator == 1:
            digits = f"{abs(scaled.numerator):0{places + 1}d}"
            return f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}"
    raise ValueError(f"{value} has no short decimal form")


def spelled_out(number: int) -> str:
    """A whole number of 0 to 99 in words."""
    if number < 20:
        return _UNITS[number]
    tens, unit = divmod(number, 10)
    return _TENS[tens - 2] + (f"-{_UNITS[unit]}" if unit else "")
