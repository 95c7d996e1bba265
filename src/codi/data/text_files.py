"""Opening files of text: compression, encoding and line ends are found out, not asked for.

Lines end at `\\n`, `\\r\\n` or `\\r` (old Macs), and nowhere else: U+2028, U+0085, form feeds and the like
may stand inside a question, where `str.splitlines` would cut it in two.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from codi.errors import DataError

COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
"""Endings of compressed files. What a file is, its first bytes say; the ending is for looking files up."""

SHOWN = 80
"""Characters of a faulty row or line that a message shows."""

_ZSTANDARD = b"\x28\xb5\x2f\xfd"
# UTF-32's little-endian mark begins with UTF-16's, so it is looked for first.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_OTHER_THINGS = (
    (b"PAR1", "it is a Parquet file. Give it the ending .parquet"),
    (b"ARROW1", "it is an Arrow file. Give it the ending .arrow"),
    (
        b"PK\x03\x04",
        "it is a spreadsheet (.xlsx) or a zip archive. Save the sheet as 'CSV UTF-8', or unpack it",
    ),
    (b"\xd0\xcf\x11\xe0", "it is a spreadsheet (.xls). Save the sheet as 'CSV UTF-8'"),
    (
        b"version https://git-lfs",
        "it is a Git LFS pointer, which stands for the data. Run `git lfs pull` where it came from, or "
        "download the file itself",
    ),
    (b"<!doctype html", "it is a web page. Download the data itself (on the hub: 'resolve', not 'blob')"),
    (b"<html", "it is a web page. Download the data itself (on the hub: 'resolve', not 'blob')"),
)


@contextmanager
def open_text(path: Path, newline: str | None = None) -> Iterator[TextIO]:
    """The text of `path`, unpacked and decoded. With `newline=''` line ends are kept as they stand.

    UTF-8 with or without a byte order mark; UTF-16 and UTF-32 with one.

    Raises:
        DataError: the file cannot be opened, holds no text, is damaged, or is in another encoding.
    """
    with readable(path), path.open("rb") as packed, _unpacked(path, packed) as file:
        head = file.peek(64)[:64]
        what = other_thing(head)
        if what:
            raise DataError(f"The file '{path}' holds no text: {what}.")
        encoding = next((name for mark, name in _MARKS if head.startswith(mark)), "utf-8")
        if encoding == "utf-8" and b"\0" in head:
            raise DataError(
                f"The file '{path}' is not UTF-8 text: it holds zero bytes, so it is UTF-16 without a byte "
                "order mark, or no text at all. Convert it to UTF-8."
            )
        with io.TextIOWrapper(file, encoding=encoding, newline=newline) as text:
            yield text


def other_thing(head: bytes) -> str | None:
    """What a file is that begins with `head`, and what to do, where it is a thing often taken for text."""
    head = head.lstrip().lower()
    return next((what for mark, what in _OTHER_THINGS if head.startswith(mark.lower())), None)


def _unpacked(path: Path, file: io.BufferedReader) -> io.BufferedReader:
    head = file.peek(8)[:8]
    unpacked: Any
    if head.startswith(b"\x1f\x8b"):
        unpacked = gzip.GzipFile(fileobj=file)
    elif head.startswith(b"BZh") and head[4:] == b"1AY&":
        unpacked = bz2.BZ2File(file)
    elif head.startswith(b"\xfd7zXZ\0"):
        unpacked = lzma.LZMAFile(file)  # noqa: SIM115  # closed with what is made of it
    elif head.startswith(_ZSTANDARD):
        import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]

        if not pa.Codec.is_available("zstd"):
            raise DataError(
                f"The file '{path}' is packed with zstd, which is not built in here. Unpack it: `zstd -d`."
            )
        unpacked = pa.CompressedInputStream(pa.PythonFile(file), "zstd")
    else:
        return file
    return io.BufferedReader(unpacked)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn what the operating system, the decompressors and the decoder say of `path` into one message."""
    try:
        yield
    except UnicodeError as error:
        found = ""
        if isinstance(error, UnicodeDecodeError):
            found = f" (byte 0x{error.object[error.start]:02x}, {error.reason})"
        raise DataError(
            f"The file '{path}' is not UTF-8 text{found}. Convert it to UTF-8 "
            "(`iconv -f WINDOWS-1252 -t UTF-8`), or save it anew as 'CSV UTF-8'."
        ) from error
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise DataError(
            f"The compressed file '{path}' is damaged or was not copied whole: {error}. Copy it again."
        ) from error
    except OSError as error:
        raise DataError(f"The file '{path}' cannot be read: {error.strerror or error}.") from error


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of `path` that are not blank, numbered from 1, each with its line break."""
    with open_text(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.isspace():
                yield number, line


def split_lines(text: str) -> list[str]:
    """`text` cut at its line breaks alone, where `str.splitlines` cuts at ten other characters too."""
    return re.split(r"\r\n|\r|\n", text)


def excerpt(text: str) -> str:
    """The beginning of `text` for a message, on one line."""
    # Half a surrogate pair cannot be printed.
    shown = " ".join(text[: 4 * SHOWN].encode(errors="backslashreplace").decode().split())
    return shown if len(shown) <= SHOWN and len(text) <= 4 * SHOWN else f"{shown[:SHOWN]}…"
