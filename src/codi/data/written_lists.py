"""Lists and objects that came back from a table as text.

    ["4*9=36", "36-6=30"]                                   JSON
    ['4*9=36', "it's 30"]                                   Python's, as `DataFrame.to_csv` writes it
    ['4*9=36'                                               NumPy's, as `Dataset.to_csv` wrote it: no commas,
     '36-6=30']                                             a line for each
    {'label': array(['A', 'B'], dtype=object), 'text': …}   pandas' for nested ones
    [np.str_('4*9=36')]                                     NumPy 2's
    ('4*9=36', '36-6=30')                                   a tuple

Nothing in them is run.
"""

from __future__ import annotations

import ast
import json
import re
from decimal import Decimal
from typing import Any

_STRING = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
# One value's end and the next one's beginning with only space between: NumPy leaves the comma out.
_GAP = re.compile(rf"(?P<text>{_STRING})|(?P<end>[\]}})\w.])(?=\s+[\[{{\'\"\w-])", re.DOTALL)
_NEXT = re.compile(r"\s*[\[{\'\"]")
# What Python escapes when it writes a text; in "['\\sqrt{2}']" the backslash is the text's own.
_ESCAPE, _ESCAPED = re.compile(r"\\(.)", re.DOTALL), "\\'\"nrtxuU\n"
_NAMES = {"true": True, "false": False, "null": None, "nan": None, "NaN": None, "None": None}
_WRAPPERS = ("array", "np.array", "np.str_", "np.int64", "np.int32", "np.float64", "np.bool_")


def looks_like_list(text: str) -> bool:
    """Whether `text` begins as a list of texts or an object does, or is a tuple; "[5, 7] holds 6" is none."""
    return _BEGINS.match(text) is not None


def written_list(text: str) -> Any:
    """The list or object that `text` writes out.

    Raises ValueError where it is cut short or is none of these forms.
    """
    text = text.strip()
    try:
        return json.loads(text, parse_float=Decimal)
    except (ValueError, RecursionError):
        pass
    try:
        return _value(ast.parse(_with_commas(text), mode="eval").body)
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError("it is neither JSON, nor a list as Python or NumPy writes it") from error


_BEGINS = re.compile(
    r"\s*(?:\(\s*(?:'[^']*'|\"[^\"]*\")\s*,[^\n]*\)\s*$|\[\s*(?:['\"{\[]|\]\s*$|np\.|array\()|\{\s*['\"])"
)


def _with_commas(text: str) -> str:
    def comma(found: re.Match[str]) -> str:
        follows = _NEXT.match(text, found.end())
        value = _ESCAPE.sub(lambda escape: escape[0] if escape[1] in _ESCAPED else f"\\{escape[0]}", found[0])
        return value + ("," if follows else "")

    return _GAP.sub(comma, text).replace("\n", " ")


def _value(node: ast.expr) -> Any:
    """What a literal says; nothing is run."""
    match node:
        case ast.Constant(value=str() | int() | float() | bool() | None as value):
            return value
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_value(item) for item in items]
        case ast.Dict(keys=keys, values=values) if all(key is not None for key in keys):
            return {_value(key): _value(value) for key, value in zip(keys, values, strict=True) if key}
        case ast.Name(id=name) if name in _NAMES:
            return _NAMES[name]
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.Call(func=function, args=[inner, *_]) if ast.unparse(function) in _WRAPPERS:
            return _value(inner)
    raise ValueError(f"it holds '{ast.unparse(node)}', which is no text and no number")
