"""The tables by name, as the paper writes them and as people type them: `Table A3`, `fig. 3`, `table-a3`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from codi.errors import UsageError, nearest
from codi.reproduce.tables import TABLES, Table

KINDS = {"fig": "figure", "figs": "figure", "figures": "figure", "tab": "table", "tables": "table"}

ELSEWHERE = {
    "table3": " It looks into one model's thoughts: codi probe CHECKPOINT --benchmark SET --part table3."
}
"""The paper's tables that are no runs, and how they are had."""


def tables_named(names: Sequence[str]) -> list[Table]:
    """The tables of some names, each once; `all` is every one.

    A kind and its number may be two words, as a shell hands over `Table A3` without quotes. Raises
    UsageError, with what is near and the list, on an unknown name.
    """
    known = _spellings()
    found: dict[str, Table] = {}
    for name in _joined(names):
        spelt = _spelt(name)
        if spelt == "all":
            return list(TABLES.values())
        if spelt not in known:
            near = ELSEWHERE.get(spelt) or nearest(spelt, known)
            raise UsageError(f"There is no table '{name}'.{near} Tables: {', '.join(TABLES)}, all.")
        found[known[spelt].name] = known[spelt]
    return list(found.values())


def _spellings() -> dict[str, Table]:
    """By every spelling that means it, bare of spaces and signs: its name here, and those in the paper."""
    known: dict[str, Table] = {}
    for table in TABLES.values():
        numbered = re.fullmatch(r"a\d+", table.name)
        for name in (table.name, *table.also, *((f"table {table.name}",) if numbered else ())):
            known[_spelt(name)] = table
    return known


def _spelt(name: str) -> str:
    """`Fig. 3` and `figure-3` are `figure3`; `Table A.3` is `tablea3`."""
    bare = re.sub(r"[^a-z0-9]", "", name.casefold())
    word = re.match(r"(figures|figs|fig|tables|tab)(?=a?\d)", bare)
    return KINDS[word[0]] + bare[word.end() :] if word else bare


def _joined(names: Sequence[str]) -> list[str]:
    """`table`, `2` as one name."""
    joined = list[str]()
    for name in names:
        if joined and _spelt(joined[-1]) in {*KINDS, *KINDS.values()}:
            joined[-1] += f" {name}"
        else:
            joined.append(name)
    return joined
