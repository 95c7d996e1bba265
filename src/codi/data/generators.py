"""Sources that are made here, in any number: `word-problems?seed=2&count=500`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import parse_qsl

from codi.data.columns import Columns
from codi.data.example import Example, LoadReport
from codi.errors import DataError, UsageError, nearest

_GENERATED_COUNTS = {"train": 20_000}
_GENERATED_COUNT = 1_000


class _Options:
    """What stands after the `?` of a generated source, by name. `known`: the names there are."""

    def __init__(self, source: str, text: str, known: tuple[str, ...]) -> None:
        self._source = source
        self._texts: dict[str, str] = {}
        for key, value in parse_qsl(text, keep_blank_values=True):
            if key not in known:
                raise DataError(
                    f"'{source}': unknown option '{key}'.{nearest(key, known)} Options: {', '.join(known)}."
                )
            self._texts[key] = value

    def number(self, key: str, default: int, least: int = 1) -> int:
        """A whole number of at least `least`; `default` where it is not given."""
        text = self._texts.get(key)
        return default if text is None else self._whole(key, text, least)

    def span(self, key: str, default: tuple[int, int]) -> tuple[int, int]:
        """The fewest and the most: `2-6`, or one number for both."""
        text = self._texts.get(key)
        if text is None:
            return default
        least, dash, most = text.partition("-")
        return self._whole(key, least, 1), self._whole(key, most if dash else least, 1)

    def _whole(self, key: str, text: str, least: int) -> int:
        if not (text.isascii() and text.isdigit()) or int(text) < least:
            raise DataError(
                f"'{self._source}': {key} must be a whole number of at least {least}, got '{text}'."
            )
        return int(text)


@dataclass(frozen=True, slots=True)
class Generator:
    """A source made here, in any number.

    options: what may stand after its `?`, beside count, seed and version; generate: (split, count, seed,
    options) to examples; note: what it is, for lists; version: of its problems, `?version=` asks for it.
    """

    options: tuple[str, ...]
    generate: Callable[[str, int, int, _Options], list[Example]]
    note: str
    version: int


def _word_problems(split: str, count: int, seed: int, options: _Options) -> list[Example]:
    from codi.data import word_problems

    steps = options.number("steps", 0)
    style = word_problems.style_up_to(steps) if steps else word_problems.DEFAULT_STYLE
    return word_problems.generate(split, count, seed, style)


def _polynomial_iteration(split: str, count: int, seed: int, options: _Options) -> list[Example]:
    from codi.data import polynomial_iteration

    usual = polynomial_iteration.DEFAULT_STYLE
    hops = options.span("hops", (usual.least_hops, usual.most_hops))
    style = polynomial_iteration.IterationStyle(*hops, options.number("modulus", usual.modulus))
    return polynomial_iteration.generate(split, count, seed, style)


def _two_branches(split: str, count: int, seed: int, options: _Options) -> list[Example]:
    from codi.data import two_branches

    usual = two_branches.DEFAULT_STYLE
    style = two_branches.BranchStyle(
        largest=options.number("largest", usual.largest), shorter=options.number("shorter", 0, least=0)
    )
    return two_branches.generate(split, count, seed, style)


GENERATORS = {
    "word-problems": Generator(
        ("steps",), _word_problems, "generated word problems, told in sentences", version=2
    ),
    "polynomial-iteration": Generator(
        ("hops", "modulus"),
        _polynomial_iteration,
        "train, validation, test · generated · score * card + b, modulo a prime, 2 to 6 hops",
        version=2,
    ),
    "two-branches": Generator(
        ("largest", "shorter"),
        _two_branches,
        "the small scale's: two people with a step each, then their sum or difference",
        version=1,
    ),
}
"""The generated sources by name. A new generator is one new entry.

Another version is other problems: recipes name it, so that what was made with one is not taken for another's.
In version 1 most chains of the test problems stood in training.
"""

_OPTIONS = ("seed", "count", "version")


def familiar_generator(readable: Callable[[str], bool]) -> str:
    """The first generator whose every test problem (of 20) is `readable`; that of word problems if none is.

    For whoever asks a model something that it can read, without being told what it was trained on.
    """
    for name, generator in GENERATORS.items():
        problems = generator.generate("test", 20, 1, _Options(name, "", ()))
        if all(readable(problem.question) for problem in problems):
            return name
    return next(iter(GENERATORS))


def generated_examples(
    source: str, name: str, text: str, split: str, columns: Columns | None
) -> tuple[list[Example], LoadReport]:
    """The examples of the generated source `name`, with the options in `text`.

    Raises:
        DataError: an unknown option, a value it cannot have, or another version than this package makes.
        UsageError: columns, which generated problems do not have.
    """
    if columns is not None and columns != Columns():
        raise UsageError(f"Columns were named, but '{name}' is generated and has none. Leave them out.")
    generator = GENERATORS[name]
    options = _Options(source, text, (*_OPTIONS, *generator.options))
    version = options.number("version", generator.version)
    if version != generator.version:
        raise DataError(
            f"'{source}' asks for version {version} of these problems, and this codi makes version "
            f"{generator.version}, which are others. Leave the version out to have them, or use the codi "
            f"that made version {version}."
        )
    seed, asked = options.number("seed", 1, least=0), options.number("count", 0)
    examples: list[Example] = []
    for part in split.split("+"):
        count = asked or _GENERATED_COUNTS.get(part, _GENERATED_COUNT)
        examples += generator.generate(part, count, seed, options)
    return examples, LoadReport(source, read=len(examples))
