"""Train on rows of your own: read them, see what the method will read, train, evaluate.

    python examples/own_data.py                                        # a few made-up rows, a tiny model
    python examples/own_data.py --train mine.csv --test test.csv --question exercise --answer result \\
        --recipe gpt2-gsm8k-aug --steps 2000                           # yours, on GPT-2 (from the hub)

Any form will do: JSONL, JSON, CSV, Parquet, a folder of them, a set on the hub (docs/own-data.md).
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

import codi
from codi.data.tokenizer_of_rows import word_tokenizer_of


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--train", help="rows to learn from; left out, some are made up")
    parser.add_argument("--test", help="rows to measure on, of the same form")
    parser.add_argument("--question", default="exercise", help="column of the question")
    parser.add_argument("--rationale", default="working", help="column of the reasoning")
    parser.add_argument("--answer", default="result", help="column of the answer")
    parser.add_argument("--recipe", default="word-problems", help="whose settings are taken")
    parser.add_argument("--steps", type=int, default=4, help="steps of training")
    parser.add_argument("--output", type=Path, default=Path("runs/own-data"), help="folder of the run")
    asked = parser.parse_args(arguments)
    train, test = asked.train, asked.test or asked.train
    if train is None:
        train, test = made_up(asked.output / "train.csv", 48), made_up(asked.output / "test.csv", 8, first=50)

    columns = {"question": asked.question, "rationale": asked.rationale, "answer": asked.answer}
    examples, report = codi.load_examples(train, columns=codi.Columns(**columns))
    print(report.describe())
    print("The first row is read as", examples[0])

    settings = {
        "data.train": train,
        "data.columns": columns,
        "data.validation": None,
        "training.max_steps": asked.steps,
        "training.eval_strategy": "no",
    }
    if asked.recipe == "word-problems":  # its tokenizer knows the generated problems only: one of these rows
        texts = [text for e in examples for text in (e.question, *e.steps, e.answer)]
        tokenizer = word_tokenizer_of([*texts, "The answer is:"])
        tokenizer.save_pretrained(asked.output / "tokenizer")
        settings |= {"tokenizer": asked.output / "tokenizer", "training.per_device_train_batch_size": 8}
    # Before it trains it prints what it reads: steps a row, lengths, rows as teacher and student read them.
    result = codi.train(asked.recipe, asked.output / "run", settings, overwrite=True)

    found = codi.evaluate(result.reasoner(), test, columns=codi.Columns(**columns), latency_questions=0)
    print(f"On {test}: {found.describe()}")


def made_up(path: Path, rows: int, first: int = 0) -> str:
    """A table as one exports it from a spreadsheet: names of its own, the reasoning as sentences."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["no", "exercise", "working", "result"])
        for number in range(first, first + rows):
            boxes, pens, lost = 2 + number % 5, 3 + number % 7, 1 + number % 4
            table.writerow(
                [
                    number,
                    f"Tom buys {boxes} boxes with {pens} pens each and loses {lost}. How many has he?",
                    f"He buys {boxes} * {pens} = {boxes * pens} pens. "
                    f"Then {boxes * pens} - {lost} = {boxes * pens - lost} are left.",
                    boxes * pens - lost,
                ]
            )
    return str(path)


if __name__ == "__main__":
    main()
