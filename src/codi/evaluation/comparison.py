"""Two systems on the same questions: paired bootstrap of the difference, McNemar's exact test.

The questions must be the same in both files, by id, text and gold answer; anything else is an error, because
the difference of two accuracies over different questions says nothing about the systems.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from codi.errors import DataError
from codi.evaluation.predictions import Prediction, by_id, read_predictions
from codi.evaluation.runner import EvaluationResult
from codi.evaluation.statistics import accuracy_interval, mcnemar_exact, paired_difference


@dataclass(frozen=True)
class Comparison:
    """The second system against the first. Accuracies and the difference are fractions."""

    first: str
    second: str
    n: int
    accuracy: tuple[float, float]
    ci95: tuple[tuple[float, float], tuple[float, float]]
    difference: float
    """Accuracy of the second less that of the first."""
    difference_ci95: tuple[float, float]
    """Paired bootstrap."""
    only_first: int
    only_second: int
    mcnemar_p: float
    scorers: tuple[str | None, str | None] = (None, None)
    """What each was scored with; None where a file, made by an earlier version, does not say."""


def compare(
    first: str | Path | EvaluationResult, second: str | Path | EvaluationResult, seed: int = 0
) -> Comparison:
    """Whether the second system differs from the first on the same questions: `codi compare`.

    first, second: what `evaluate` returned, or the file that it wrote; seed: of the bootstrap. Raises
    DataError for a file that cannot be read, a row without the fields that predictions have, or different
    questions.
    """
    one, two = _rows(first, "the first result"), _rows(second, "the second result")
    first, second = _name(first, "the first"), _name(second, "the second")
    if one.keys() != two.keys():
        lacking = sorted(one.keys() ^ two.keys())
        holder = first if lacking[0] in one else second
        raise DataError(
            f"'{first}' and '{second}' are not of the same questions: {len(lacking)} ids stand in one of "
            f"them only, e.g. '{lacking[0]}' in '{holder}'. Evaluate both systems on the same set with the "
            "same --limit."
        )
    for key, row in one.items():
        for field in ("question", "gold"):
            if row[field] != two[key][field]:
                raise DataError(
                    f"'{first}' and '{second}' have another {field} under the id '{key}': {row[field]!r} and "
                    f"{two[key][field]!r}. They were made from different sets."
                )
    first_right, second_right = ([bool(rows[key]["correct"]) for key in one] for rows in (one, two))
    n, paired = len(one), mcnemar_exact(first_right, second_right)
    difference, low, high = paired_difference(first_right, second_right, seed)
    accuracy = (sum(first_right) / n, sum(second_right) / n)
    return Comparison(
        first=first,
        second=second,
        n=n,
        accuracy=accuracy,
        ci95=(accuracy_interval(sum(first_right), n), accuracy_interval(sum(second_right), n)),
        difference=difference,
        difference_ci95=(low, high),
        only_first=paired.only_first,
        only_second=paired.only_second,
        mcnemar_p=paired.p_value,
        scorers=(_scorer(one), _scorer(two)),
    )


def _scorer(rows: dict[str, Prediction]) -> str | None:
    """The scorer of a file's rows; where there were several, all."""
    return ", ".join(sorted({row["scorer"] for row in rows.values() if row.get("scorer")})) or None


def _rows(of: str | Path | EvaluationResult, name: str) -> dict[str, Prediction]:
    if isinstance(of, EvaluationResult):
        return by_id(of.predictions, f"{name}, question")
    return read_predictions(Path(of))


def _name(of: str | Path | EvaluationResult, name: str) -> str:
    return name if isinstance(of, EvaluationResult) else str(of)
