"""The values in a JSON file, one after another: a list of a million rows is never in memory whole."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, TextIO

from codi.data.text_files import excerpt
from codi.errors import DataError

# Decimal keeps numbers as written; float would round the large ones. Made once: it costs more than a row.
DECODER = json.JSONDecoder(parse_float=Decimal)
FAULTS = (ValueError, ArithmeticError, RecursionError)
"""What decoding a broken text raises."""

_SPACE = re.compile(r"[ \t\n\r]*")
_CHUNK = 1 << 16
# A value that the end of a piece cuts off is found faulty at most so far before it: '-Infinit', '\\ud83d\\u'.
_CUT = 16


class JsonValues:
    """The JSON values of a file, one after another, with no more of it in memory than one value needs."""

    def __init__(self, path: Path, file: TextIO) -> None:
        self._path, self._file = path, file
        self._text, self._at, self._ended = "", 0, False
        self._lines_before, self._whole = 0, True  # of the text that was let go; whether none was

    def next_mark(self) -> str:
        """The next character that is no space, left where it is; '' at the end of the file."""
        self._at = self._past_space(self._at)
        return self._text[self._at : self._at + 1]

    def begins_rows(self) -> bool:
        """Whether a list comes that holds objects, or nothing."""
        if self.next_mark() != "[":
            return False
        inside = self._past_space(self._at + 1)
        return self._text[inside : inside + 1] in ("{", "]")

    def skip(self, mark: str) -> None:
        """Pass over `mark`. Raises DataError when something else comes."""
        if self.next_mark() != mark:
            raise self._broken(f"expected '{mark}'", self._at)
        self._at += 1

    def value(self) -> Any:
        """The next value, whole."""
        self._release()
        self.next_mark()
        while True:
            try:
                value, end = DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated") or error.pos >= len(self._text) - _CUT
                if not (cut and self._grow()):
                    raise self._broken(error.msg, error.pos) from error
            except FAULTS as error:
                raise self._broken(reason_of(error), self._at) from error
            else:
                # A number that ends where the text read so far ends may go on after it.
                if end < len(self._text) or isinstance(value, dict | list | str) or not self._grow():
                    self._at = end
                    return value

    def elements(self) -> Iterator[Any]:
        """The values of the list that comes."""
        yield from self._separated("[", "]", self.value)

    def names(self) -> Iterator[str]:
        """The keys of the object that comes; the value after each must be taken before the next."""

        def key() -> str:
            name = self.value()
            if not isinstance(name, str):
                raise self._broken("expected a key in double quotes", self._at)
            self.skip(":")
            return name

        yield from self._separated("{", "}", key)

    def _separated(self, opening: str, closing: str, item: Callable[[], Any]) -> Iterator[Any]:
        self.skip(opening)
        if self.next_mark() == closing:
            self._at += 1
            return
        while True:
            yield item()
            mark = self.next_mark()
            if mark not in {",", closing}:
                raise self._broken(f"expected ',' or '{closing}'", self._at)
            self._at += 1
            if mark == closing:
                return

    def finish(self) -> None:
        """Raises DataError when anything is left."""
        if self.next_mark():
            raise self._broken("more after its end", self._at)

    def _past_space(self, at: int) -> int:
        """The first place from `at` on that is no space; the text's length at the end of the file."""
        while True:
            at = _SPACE.match(self._text, at).end()  # type: ignore[union-attr]  # it matches nothing too
            if at < len(self._text) or not self._grow():
                return at

    def _grow(self) -> bool:
        """Read on: as much again as is held, so that long values stay cheap. False at the end of the file."""
        more = "" if self._ended else self._file.read(max(_CHUNK, len(self._text) - self._at))
        self._ended = not more
        self._text += more
        return bool(more)

    def _release(self) -> None:
        """Let go of the text that was taken."""
        if self._at >= _CHUNK:
            self._lines_before += self._text.count("\n", 0, self._at)
            self._text, self._at, self._whole = self._text[self._at :], 0, False

    def _broken(self, reason: str, at: int) -> DataError:
        line = self._lines_before + self._text.count("\n", 0, at) + 1
        start = self._text.rfind("\n", 0, at) + 1
        column = f" at column {at - start + 1}" if start or self._whole else ""
        text = self._text[max(start, at - 40) : at + 400]
        return DataError(
            f"{self._path}, line {line}: broken JSON ({reason}{column}). Mend the file there"
            f"{python_form(text)}: {excerpt(text)}"
        )


def python_form(text: str) -> str:
    """A hint where `text` begins as Python prints a dict."""
    return " (single quotes are Python's; `json.dumps` writes JSON)" if text.startswith("{'") else ""


def reason_of(error: Exception) -> str:
    """What is wrong with a JSON text, in few words."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return "a number out of all bounds" if isinstance(error, ArithmeticError) else str(error)
