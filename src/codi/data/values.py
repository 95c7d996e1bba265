"""Single values of a row as text: what JSON, CSV and Parquet hold, exactly."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from numbers import Integral, Real
from typing import Any

from codi.data.example import RowDefect


def value_text(value: Any, role: str = "value") -> str:
    """A scalar as text: nothing for null and NaN, '18' for 18 and 18.0, '3.5' for 3.5, 'true' for true.

    Raises:
        RowDefect: it is a list or an object. `role` names it there.
    """
    if isinstance(value, str):
        return value
    if is_missing(value):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"  # as JSON writes them
    if isinstance(value, Integral):
        return str(int(value))
    if isinstance(value, Decimal):
        return _decimal_text(value)
    if isinstance(value, Real):
        # repr is the shortest decimal that reads back as the same float.
        return _decimal_text(Decimal(repr(float(value))))
    raise RowDefect(f"the {role} is neither text nor a number but {type(value).__name__}", str(value))


def is_missing(value: Any) -> bool:
    """Whether a table holds nothing there: null or NaN."""
    if value is None:
        return True
    return (isinstance(value, float) and math.isnan(value)) or (isinstance(value, Decimal) and value.is_nan())


NOTHING = frozenset(
    ("nan", "NaN", "NAN", "null", "NULL", "None", "N/A", "n/a", "#N/A", "<NA>", "NaT", "undefined")
)
"""Words that programs write into a table where there is no value. 'none' is a word that people write."""


def is_blank(value: Any) -> bool:
    """Whether a value says nothing: missing, white space, an empty list, or a word of `NOTHING`."""
    if isinstance(value, str):
        return not value or value.isspace() or (len(value) < 16 and value.strip() in NOTHING)
    return is_missing(value) or (isinstance(value, list | tuple | dict) and not value)


def first_given(row: Mapping[str, Any], columns: tuple[str, ...]) -> Any:
    """The first value that is not blank; None without one."""
    for column in columns:
        value = row.get(column)
        if value is not None and not is_blank(value):
            return value
    return None


def _decimal_text(value: Decimal) -> str:
    if not value.is_finite() or abs(value.adjusted()) > 400:  # written out, it would fill pages
        return str(value)
    if value == value.to_integral_value():
        return str(int(value))
    return format(value, "f").rstrip("0")
