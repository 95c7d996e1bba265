"""The floors that CONTRIBUTING draws, held: imports run downwards only, and no modules import in a circle."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src/codi"
Imports = dict[str, dict[str, int]]
"""By module: the modules of the package that it imports, and in which line."""


def floors() -> dict[str, int]:
    """Each package's height, from the drawing in CONTRIBUTING; those on one line have the same."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    [drawing] = re.findall(r"^```floors\n(.*?)^```", text, flags=re.S | re.M)
    lines = [[name.strip() for name in line.split("|")] for line in drawing.splitlines()]
    return {name: height for height, names in enumerate(reversed(lines)) for name in names}


def floor_of(module: str) -> str:
    """`codi.data.files` stands in `data`; `codi` itself is a floor too."""
    return f"{module}.".split(".")[1] or "codi"


def modules(package: Path) -> dict[str, Path]:
    """Every module's file by its dotted name."""
    named = {file: file.relative_to(package.parent).with_suffix("").parts for file in package.rglob("*.py")}
    return {".".join(parts[:-1] if parts[-1] == "__init__" else parts): file for file, parts in named.items()}


def imports(package: Path) -> Imports:
    """What every module imports, wherever in it that stands."""
    known = modules(package)
    return {
        module: {name: line for name, line in _imported(file, module, known) if name != module}
        for module, file in known.items()
    }


def _imported(file: Path, module: str, known: dict[str, Path]) -> Iterator[tuple[str, int]]:
    within = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = list[str]()
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = within[: len(within) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            whole = [f"{source}.{alias.name}" for alias in node.names]
            names = [name if name in known else source for name in whole]
        yield from ((name, node.lineno) for name in names if name in known)


def upward(found: Imports, heights: dict[str, int]) -> list[str]:
    """Imports of another package that is not below: `data.files:3 imports methods`."""
    return [
        f"{module.removeprefix('codi.')}:{line} imports {name.removeprefix('codi.')}"
        for module, names in found.items()
        for name, line in names.items()
        if floor_of(name) != floor_of(module) and heights[floor_of(name)] >= heights[floor_of(module)]
    ]


def circle(found: Imports) -> list[str]:
    """The modules of one circle of imports, the first once more at its end; empty where there is none."""
    try:
        TopologicalSorter(found).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_every_package_has_a_floor_and_every_floor_a_package() -> None:
    assert {floor_of(module) for module in modules(PACKAGE)} == set(floors())


def test_imports_run_downwards_only() -> None:
    assert upward(imports(PACKAGE), floors()) == []


def test_no_modules_import_in_a_circle() -> None:
    assert circle(imports(PACKAGE)) == []


@pytest.mark.parametrize(
    "statement",
    [
        "from codi.methods.codi import Codi",
        "import codi.methods.codi",
        "from codi.methods import codi",
        "from ..methods import codi",
        "def load():\n    from codi.methods.codi import Codi",
        "if TYPE_CHECKING:\n    from codi.methods.codi import Codi",
    ],
)
def test_an_upward_import_is_seen_however_it_is_written(tmp_path: Path, statement: str) -> None:
    found = imports(house(tmp_path, {"data/files.py": statement, "methods/codi.py": ""}))
    [seen] = upward(found, floors())
    assert seen == f"data.files:{statement.count(chr(10)) + 1} imports methods.codi"


def test_packages_on_one_floor_do_not_import_each_other(tmp_path: Path) -> None:
    beside = "from codi.reproduce.plans import plan"
    found = imports(house(tmp_path, {"bench/data.py": beside, "reproduce/plans.py": ""}))
    assert upward(found, floors()) == ["bench.data:1 imports reproduce.plans"]


def test_a_circle_within_a_package_is_seen(tmp_path: Path) -> None:
    first, second = "from codi.data.rows import rows", "def later():\n    from codi.data.files import files"
    found = imports(house(tmp_path, {"data/files.py": first, "data/rows.py": second}))
    assert set(circle(found)) == {"codi.data.files", "codi.data.rows"}
    assert upward(found, floors()) == []


def house(folder: Path, files: dict[str, str]) -> Path:
    """A package of some modules."""
    package = folder / "codi"
    for name, text in files.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).parent.joinpath("__init__.py").touch()
        (package / name).write_text(text, encoding="utf-8")
    return package


def test_a_method_is_one_file_of_at_most_two_hundred_lines() -> None:
    methods = [file for file in (PACKAGE / "methods").glob("*.py") if file.stem not in ("__init__", "method")]
    assert len(methods) > 10
    lengths = {file.name: len(file.read_text(encoding="utf-8").splitlines()) for file in methods}
    assert {name: lines for name, lines in lengths.items() if lines > 200} == {}
