"""Figures of questions in any script, of any length, of models with one thought."""

from __future__ import annotations

import io
import warnings
from dataclasses import replace
from typing import Any

import pytest
from matplotlib import font_manager
from matplotlib.figure import Figure

from codi.interpretability import figure_text
from codi.interpretability.figure_text import LABEL_CELLS, lettering, shown, undrawable
from codi.interpretability.figures import (
    COLUMNS,
    MOST_POSITIONS,
    THOUGHTS,
    as_svg,
    attention_map,
    characters_without_a_font,
    lens_grid,
    patch_grids,
)
from codi.interpretability.patching import PatchCell, PatchTable
from codi.interpretability.question_report import QuestionReport, question_report
from codi.interpretability.report_page import report_page
from codi.methods.codi import Codi
from tiny_models import reasoner, tiny_model

SCRIPTS = {
    "mathtext": "$$ $x_1^2$ \\frac{1}{2} $5 and $7 a_b ^ \\ \\$",
    "chinese": "小明有三个苹果 又买了五个",
    "devanagari": "मिया के पास तीन सेब हैं",
    "arabic": "كم تفاحة لديها",
    "hebrew": "כמה תפוחים יש לה",
    "emoji": "😀 👨‍👩‍👧 🇩🇪 ❤️",
    "control": "a\x00b \x1b[31m \u202egnihton\u202c \ufeff \ud800 \n\t",
    "stacked": "Z" + "\u0301\u0316" * 30 + " e\u0301",
    "long": "x" * 400,
    "html": "<script>&amp; <!-- --> ]]>",
}


def made(question: str, latents: int = 2) -> QuestionReport:
    return question_report(reasoner(Codi(latents=latents), tiny_model("llama")), question)


@pytest.fixture(scope="module")
def plain() -> QuestionReport:
    return made("Mia has 3 apples. She finds 5 more.")


def drawn(figure: Figure) -> None:
    """As PNG, PDF and SVG, with every warning an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind in ("png", "pdf"):
            figure.savefig(io.BytesIO(), format=kind, dpi=40)
        assert as_svg(figure).startswith("<svg")


def in_words(report: QuestionReport, words: list[str]) -> QuestionReport:
    """The report with other words for the positions and for what the layers say."""
    keys = [words[i % len(words)] if i < len(report.keys) - 8 else key for i, key in enumerate(report.keys)]
    thoughts = [
        replace(thought, lens=[[(words[0], share) for _, share in layer] for layer in thought.lens])
        for thought in report.thoughts
    ]
    return replace(report, keys=keys, thoughts=thoughts)


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_is_drawn_without_a_warning(script: str, plain: QuestionReport) -> None:
    report = in_words(plain, SCRIPTS[script].split(" "))
    drawn(attention_map(report))
    drawn(lens_grid(report))
    page = report_page("title", report)
    page.encode("utf-8", errors="surrogatepass")
    assert "<script" not in page


def test_nothing_is_taken_for_mathematics(plain: QuestionReport) -> None:
    report = in_words(plain, ["$x^2$", "$$", "a_b"])
    figure = attention_map(report)
    figure.savefig(io.BytesIO(), format="png", dpi=40)
    labels = [label for axis in figure.axes for label in axis.get_xticklabels()]
    texts = {label.get_text() for label in labels}
    assert {"$x^2$", "$$", "a_b"} <= texts
    assert not any(label.get_parse_math() for label in labels if "$" in label.get_text())


def test_what_no_font_has_is_said(plain: QuestionReport, monkeypatch: pytest.MonkeyPatch) -> None:
    private = "\U000f1234"  # a private character: no font of anybody has it
    report = in_words(plain, [f"a{private}"])
    assert characters_without_a_font(report) == [private]
    figure = attention_map(report)
    assert figure.get_supxlabel() == "□: no font here has U+F1234"
    assert shown(f"a{private}") == "a□"
    assert attention_map(plain).get_supxlabel() == ""


def test_a_font_is_found_by_what_it_can_draw() -> None:
    own = figure_text._letters_of(font_manager.findfont(figure_text.OWN_FONT))
    other = next(
        (chr(code), family)
        for family, path in figure_text._other_fonts()
        for code in sorted(figure_text._letters_of(path) - own)
        if code > 0x2000 and chr(code).isprintable()
    )
    options = lettering([f"a{other[0]}"])
    assert options["fontfamily"][0] == figure_text.OWN_FONT
    assert len(options["fontfamily"]) == 2
    assert undrawable([other[0]]) == []
    figure = Figure()
    figure.text(0.5, 0.5, shown(other[0]), **options)
    drawn(figure)


def test_labels_are_cut_and_cleaned() -> None:
    assert shown("x" * 400) == "x" * (LABEL_CELLS - 1) + "…"
    assert shown("a\nb\tc\x00") == "a↵b⇥c\\x00"
    assert shown("\u202eabc\u202c\u200d") == "abc"
    assert shown("\ud800") == "\\ud800"
    assert len(shown("Z" + "\u0301" * 30)) == 5
    assert shown("") == ""


@pytest.mark.parametrize(("positions", "bands"), [(30, 1), (300, 7), (2000, 10)])
def test_long_questions_go_on_below(positions: int, bands: int, plain: QuestionReport) -> None:
    width = len(plain.keys)
    keys = [*(f"w{i}" for i in range(positions - width)), *plain.keys]
    attention = [[*[1e-4 * (i % 7) for i in range(positions - width)], *row] for row in plain.attention]
    figure = attention_map(replace(plain, keys=keys, attention=attention))
    maps = [axis for axis in figure.axes if axis.get_images() and axis.get_xticklabels()]
    maps = [axis for axis in maps if len(axis.get_xticks()) > 1 and axis.get_label() != "<colorbar>"]
    assert len(maps) == bands
    labels = [label.get_text() for axis in maps for label in axis.get_xticklabels()]
    assert len(labels) == min(positions - 1, MOST_POSITIONS)
    assert labels[-len(plain.rows) :] == [shown(key) for key in keys[-len(plain.rows) :]]
    assert all(len(axis.get_xticks()) <= COLUMNS for axis in maps)
    assert figure.get_figwidth() < 14
    said: Any = figure.get_suptitle()
    assert ("most attended" in said) is (positions - 1 > MOST_POSITIONS)
    figure.savefig(io.BytesIO(), format="png", dpi=20)


@pytest.mark.parametrize("latents", [1, THOUGHTS + 3])
def test_one_thought_and_many(latents: int) -> None:
    report = made("How many?", latents)
    drawn(attention_map(report))
    figure = lens_grid(report)
    drawn(figure)
    assert figure.get_figwidth() < 17


def test_patching_shows_of_how_many_pairs() -> None:
    cells = [PatchCell(step, 1, 7 * step, 0.0, (0.0, 0.5), 1.0, 2, 1.0) for step in (1, 3)]
    figure = patch_grids([PatchTable(4, "latent", 9, cells)])
    drawn(figure)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["s1 (n=7)", "s2", "s3 (n=21)"]
