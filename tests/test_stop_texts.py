"""An answer ends before the first of its stops; what may still become one is held back."""

from __future__ import annotations

import pytest

from codi.generation.stop_texts import cut_at_stop, settled


@pytest.mark.parametrize(
    ("text", "stops", "left"),
    [
        ("one two three", ("three", "two"), "one "),
        ("one two three", (), "one two three"),
        ("one", ("four",), "one"),
        ("one\n\nQ: two", ("\n\n", "Q:"), "one"),
        ("one", ("one",), ""),
        ("one", ("",), "one"),  # an empty stop stands everywhere, and ends nothing
        ("aab", ("ab", "b"), "a"),
    ],
)
def test_the_text_before_the_first_stop(text: str, stops: tuple[str, ...], left: str) -> None:
    assert cut_at_stop(text, stops) == (left, left != text)


@pytest.mark.parametrize(
    ("text", "stops", "left"),
    [
        ("ab", ("bc",), "a"),
        ("ab", ("c",), "ab"),
        ("abab", ("ababx",), ""),
        ("xabab", ("abx",), "xab"),
        ("12 �", (), "12 "),
        ("12 a��", ("abc",), "12 "),
        ("ab", ("b" * 10_000,), "a"),
        ("", ("a",), ""),
    ],
)
def test_what_may_become_a_stop_is_held_back(text: str, stops: tuple[str, ...], left: str) -> None:
    assert settled(text, stops) == left


def test_what_was_let_out_is_never_taken_back() -> None:
    """Letter by letter, the text let out is always a beginning of what stands at the end."""
    stops = ("abba", "bab", "aaa")
    for number in range(3**7):
        text = "".join("abc"[number // 3**place % 3] for place in range(7))
        end, _ = cut_at_stop(text, stops)
        for n in range(len(text) + 1):
            so_far, stopped = cut_at_stop(text[:n], stops)
            assert end.startswith(so_far if stopped else settled(so_far, stops))
