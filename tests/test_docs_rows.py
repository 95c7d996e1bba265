"""docs/rows.md: every row there becomes what the page says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from codi.data.sources import load_examples
from codi.errors import DataError

PAGE = (Path(__file__).parents[1] / "docs" / "rows.md").read_text(encoding="utf-8")
PAIRS = [
    tuple(map(json.loads, block.strip().split("\n")))
    for block in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
]


@pytest.mark.parametrize(("row", "shown"), PAIRS)
def test_rows_of_the_page(tmp_path: Path, row: dict[str, Any], shown: dict[str, Any] | str) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    if isinstance(shown, str):
        with pytest.raises(DataError, match=re.escape(shown)):
            load_examples(str(path))
        return
    [example], _ = load_examples(str(path))
    assert {"question": example.question, "steps": list(example.steps), "answer": example.answer} == shown


def test_the_page_shows_every_form() -> None:
    assert len(PAIRS) == PAGE.count("```json") >= 18
