"""The report as one HTML file to send to a colleague: no network, no script, every figure inside."""

from __future__ import annotations

from importlib.resources import files

from jinja2 import Environment

from codi.interpretability.benchmark_report import BenchmarkReport
from codi.interpretability.figures import all_figures, as_svg
from codi.interpretability.question_report import QuestionReport

TEMPLATE = "report.html.jinja"


def report_page(
    title: str,
    question: QuestionReport | None = None,
    benchmark: BenchmarkReport | None = None,
    notes: dict[str, str] | None = None,
) -> str:
    """The page. notes: what it was made from, shown at its foot (checkpoint, version, seed, ...)."""
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["percent"] = lambda share: f"{100 * share:.1f}"
    template = files("codi.interpretability").joinpath(TEMPLATE).read_text(encoding="utf-8")
    figures = {name: as_svg(figure) for name, figure in all_figures(question, benchmark)}
    return environment.from_string(template).render(
        title=title, question=question, benchmark=benchmark, figures=figures, notes=notes or {}
    )
