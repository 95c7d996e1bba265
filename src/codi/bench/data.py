"""Reading, checking and tokenising a training set of GSM8k-Aug's form: the first time, and as it is kept.

A file is made, then prepared twice as `codi train` does it, each time in a fresh process: seconds, and the
most memory that process ever held (torch and the tokenizer with it). Nothing here asserts a time.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from pyarrow import parquet

from codi.bench.environment import environment
from codi.bench.memory import peak_bytes
from codi.data.sources import load_examples
from codi.data.tokenizer_of_rows import bpe_tokenizer_of
from codi.errors import UsageError
from codi.modeling.checkpoint import load_tokenizer
from codi.training.preparation import CACHE_ROWS, prepare
from codi.training.recipes import build_run_config
from codi.training.run import build_reasoner

FORMATS = ("jsonl", "parquet")
ROWS = 385_620
"""As many as GSM8k-Aug has."""
BPE_SIZE = 8_000
BPE_ROWS = 20_000
"""Rows that a tokenizer is learnt from where none is named."""


def bench_data(
    *,
    rows: int = ROWS,
    form: str = "jsonl",
    tokenizer: str | None = None,
    rows_of: Path | None = None,
    method: str = "codi",
    seed: int = 1,
) -> dict[str, Any]:
    """The report. Raises UsageError on settings that cannot be measured.

    tokenizer: a folder or hub id; None learns a BPE from the rows. rows_of: a file whose rows are drawn from,
    each made another question by a number; None takes generated word problems of about GSM8k-Aug's lengths.
    Fewer rows than CACHE_ROWS are not kept, and measured once.
    """
    if form not in FORMATS:
        raise UsageError(f"--format is '{form}'; it must be one of {', '.join(FORMATS)}.")
    if rows < 1:
        raise UsageError(f"--rows must be at least 1, got {rows}.")
    if tokenizer is not None:
        load_tokenizer(tokenizer)  # says now what is wrong with it
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"train.{form}"
        _write(file, _rows(rows, rows_of, seed))
        if tokenizer is None:
            learnt = bpe_tokenizer_of(_texts(file), BPE_SIZE)
            learnt.save_pretrained(Path(folder) / "tokenizer")
        asked = {
            "file": str(file),
            "tokenizer": str(Path(folder) / "tokenizer") if tokenizer is None else tokenizer,
            "method": method,
        }
        first = _in_fresh_process(asked, Path(folder) / "cache")
        again = _in_fresh_process(asked, Path(folder) / "cache") if rows >= CACHE_ROWS else None
        size = file.stat().st_size
    named = tokenizer and (Path(tokenizer).name if Path(tokenizer).exists() else tokenizer)
    return {
        "bench": "data",
        "environment": environment(torch.device("cpu"), bf16=False) | {"cores": os.cpu_count()},
        "settings": {
            "rows": rows, "format": form, "file_bytes": size, "seed": seed, "method": method,
            "tokenizer": named or f"BPE of at most {BPE_SIZE} tokens, learnt from the rows",
            "rows_of": None if rows_of is None else rows_of.name,
        },
        "tokens": first.pop("tokens"),
        "first_time": first,
        "from_the_cache": again and {name: again[name] for name in first},
    }  # fmt: skip


def _rows(count: int, rows_of: Path | None, seed: int) -> Iterator[dict[str, str]]:
    if rows_of is None:
        drawn = load_examples(f"word-problems?count={count}&steps=4&seed={seed}")[0]
    else:
        some, rng = load_examples(str(rows_of))[0], random.Random(seed)
        drawn = [rng.choice(some) for _ in range(count)]
    for number, example in enumerate(drawn):
        question = example.question if rows_of is None else f"{number}. {example.question}"
        yield {"question": question, "cot": " ".join(example.steps), "answer": example.answer}


def _write(file: Path, rows: Iterator[dict[str, str]]) -> None:
    if file.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(list(rows)), file)
        return
    with file.open("w", encoding="utf-8") as opened:
        opened.writelines(json.dumps(row) + "\n" for row in rows)


def _texts(file: Path) -> Iterator[str]:
    for example in load_examples(str(file), limit=BPE_ROWS)[0]:
        yield f"{example.question} {' '.join(example.steps)} The answer is: {example.answer}"


def _in_fresh_process(asked: dict[str, str], cache: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "codi.bench.data", json.dumps(asked)],
        capture_output=True,
        text=True,
        env=os.environ | {"CODI_CACHE": str(cache)},
    )
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        raise UsageError(f"The data could not be prepared: {reason[0]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _main() -> None:
    asked = json.loads(sys.argv[1])
    config = build_run_config(
        {
            "method": {"name": asked["method"]},
            "model": {"base_config": {"model_type": "gpt2", "n_embd": 8, "n_layer": 1, "n_head": 1}},
            "tokenizer": asked["tokenizer"],
            "data": {"train": asked["file"], "validation": None},
        }
    )
    reasoner = build_reasoner(config)
    begun = time.perf_counter()
    data = prepare(config.data, reasoner, config.scorer)
    seconds = time.perf_counter() - begun
    found = {
        "seconds": seconds,
        "rows_per_second": len(data.ids) / seconds,
        "peak_bytes": peak_bytes(),
        "tokens": data.overview.as_dict()["tokens"],
    }
    print(json.dumps(found))


if __name__ == "__main__":
    _main()
