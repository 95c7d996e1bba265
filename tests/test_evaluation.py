"""The runner with a scripted reasoner, and the benchmark table with its row counts."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from codi.data.example import Example
from codi.data.numbers import plain_number, written
from codi.errors import DataError, UsageError
from codi.evaluation.benchmarks import BENCHMARKS, find_benchmark, format_question, load_benchmark
from codi.evaluation.runner import Reasoner, evaluate
from codi.evaluation.scorers import get_scorer
from codi.evaluation.statistics import accuracy_interval
from codi.generation.answer import Answer
from codi.generation.decoding import Sampling

SHARED = Path(os.environ.get("CODI_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


class AnyMode:
    """A method that answers in any mode."""

    def mode(self, asked: str | None, /) -> str:
        return asked or "latent"


class Scripted:
    """Answers each question with the text it was given for it, and remembers how it was asked."""

    method = AnyMode()

    def __init__(self, texts: dict[str, str], fail_at_batch: int | None = None) -> None:
        self.texts = texts
        self.fail_at_batch = fail_at_batch
        self.calls: list[tuple[list[str], dict[str, Any]]] = []

    def answer_batches(
        self, questions: Sequence[str], /, **options: Any
    ) -> Iterator[list[tuple[int, Answer]]]:
        self.calls.append((list(questions), options))
        size = options["batch_size"]
        for batch, first in enumerate(range(0, len(questions), size), start=1):
            if batch == self.fail_at_batch:
                raise KeyboardInterrupt
            yield [
                (number, self.answer(questions[number], number - first))
                for number in range(first, min(first + size, len(questions)))
            ]

    def answer(self, question: str, position: int) -> Answer:
        return Answer(
            question=question,
            text=self.texts[question],
            value=None,
            thoughts=8,
            passes=9 + position,
            answer_tokens=1,
        )


def examples(count: int = 5) -> list[Example]:
    return [Example(f"e{i}", f" What is  {i} + {i}? ", (), str(2 * i)) for i in range(count)]


def scripted(**kwargs: Any) -> Scripted:
    texts = {f"What is {i} + {i}?": f"The answer is: {2 * i}" for i in range(5)}
    texts["What is 3 + 3?"] = "The answer is: 7"
    texts["What is 4 + 4?"] = "I cannot say"
    return Scripted(texts, **kwargs)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_result_counts_scores_and_costs(tmp_path: Path) -> None:
    reasoner: Reasoner = scripted()
    seen: list[tuple[int, int]] = []
    path = tmp_path / "run" / "predictions.jsonl"
    result = evaluate(
        reasoner,
        examples(),
        batch_size=2,
        latency_questions=3,
        on_progress=lambda done, total: seen.append((done, total)),
        predictions=path,
    )
    assert (result.correct, result.n, result.unreadable) == (3, 5, 1)
    assert result.accuracy == 0.6
    assert result.ci95 == accuracy_interval(3, 5)
    assert result.thought_tokens == 8.0
    assert result.sequential_passes == pytest.approx((9 + 10 + 9 + 10 + 9) / 5)
    assert result.latency_ms is not None
    assert result.latency_ms["n"] == 3
    assert 0 < result.latency_ms["median"] <= result.latency_ms["p95"]
    assert result.outcomes == (True, True, True, False, False)
    assert seen == [(2, 5), (4, 5), (5, 5)]
    saved = json.loads(json.dumps(result.as_dict()))
    assert saved["scorer"] == "number"  # chosen from the answers
    assert saved["ci95"] == list(result.ci95)
    assert "60.0 %" in result.describe()
    assert "1 unreadable" in result.describe()

    rows = read_jsonl(path)
    assert [row["id"] for row in rows] == ["e0", "e1", "e2", "e3", "e4"]
    assert rows[3] == {
        "id": "e3",
        "question": "What is 3 + 3?",
        "gold": "6",
        "text": "The answer is: 7",
        "value": "7",
        "correct": False,
        "scorer": "number",
        "thoughts": 8,
        "passes": 10,
        "answer_tokens": 1,
        "finished": True,
    }
    assert rows[4]["value"] is None
    assert list(path.parent.iterdir()) == [path]


def test_latency_is_measured_at_batch_1_after_a_warm_up() -> None:
    reasoner = scripted()
    result = evaluate(reasoner, examples(), batch_size=64, latency_questions=3)
    assert [len(questions) for questions, _ in reasoner.calls] == [5, 1, 1, 1, 1, 1]
    assert all(options["batch_size"] == 1 for _, options in reasoner.calls[1:])
    assert result.latency_ms is not None
    reasoner = scripted()
    assert evaluate(reasoner, examples(), latency_questions=0).latency_ms is None
    assert len(reasoner.calls) == 1


def test_sampling_reaches_the_reasoner_in_one_call() -> None:
    reasoner = scripted()
    result = evaluate(
        reasoner,
        examples(),
        batch_size=2,
        mode="explicit",
        temperature=0.1,
        top_k=5,
        top_p=0.9,
        seed=7,
        max_new_tokens=12,
        latents=3,
        latency_questions=0,
    )
    # One call for all questions: each is then sampled by its own number, whatever the batch size.
    assert len(reasoner.calls) == 1
    assert reasoner.calls[0][1] == {
        "mode": "explicit",
        "batch_size": 2,
        "sampling": Sampling(0.1, 5, 0.9, 7),
        "max_new_tokens": 12,
        "latents": 3,
    }
    assert result.mode == "explicit"
    evaluate(plain := scripted(), examples(), latency_questions=0)
    assert "max_new_tokens" not in plain.calls[0][1]
    with pytest.raises(UsageError, match="top_p"):
        evaluate(scripted(), examples(), top_p=0.0)


def test_a_run_that_fails_before_its_first_row_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    with pytest.raises(KeyboardInterrupt):
        evaluate(scripted(fail_at_batch=1), examples(), predictions=path)
    assert list(tmp_path.iterdir()) == []


def test_interrupted_run_keeps_its_finished_rows_and_later_runs_do_not_lose_them(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    with pytest.raises(KeyboardInterrupt):
        evaluate(scripted(fail_at_batch=3), examples(), batch_size=2, predictions=path)
    assert not path.exists()
    partial = tmp_path / "predictions.jsonl.partial"
    assert [row["id"] for row in read_jsonl(partial)] == ["e0", "e1", "e2", "e3"]
    untouched = scripted()
    with pytest.raises(UsageError, match="already exists"):
        evaluate(untouched, examples(), predictions=path)
    assert untouched.calls == []
    assert len(read_jsonl(partial)) == 4
    evaluate(scripted(), examples(), predictions=path, latency_questions=0, overwrite=True)
    assert len(read_jsonl(path)) == 5
    with pytest.raises(UsageError, match="already exists"):
        evaluate(scripted(), examples(), predictions=path)


def test_predictions_that_cannot_be_written_say_so(tmp_path: Path) -> None:
    (tmp_path / "blocked").write_text("a file where a folder is needed")
    with pytest.raises(DataError, match="could not be written"):
        evaluate(scripted(), examples(), predictions=tmp_path / "blocked" / "predictions.jsonl")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full to stand for a full disk")
def test_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "predictions.jsonl.partial").symlink_to("/dev/full")
    with pytest.raises(DataError, match="No space left"):
        evaluate(scripted(), examples(), predictions=tmp_path / "predictions.jsonl", overwrite=True)


def test_bad_requests_are_refused_before_anything_is_answered() -> None:
    reasoner = scripted()
    with pytest.raises(DataError, match=r"'e9'.*'plenty'"):
        evaluate(reasoner, [*examples(), Example("e9", "How many?", (), "plenty")], scorer="codi")
    with pytest.raises(DataError, match=r"No one scorer fits.*'plenty' \(example 'e9'\)"):
        evaluate(reasoner, [*examples(), Example("e9", "How many?", (), "plenty")])
    with pytest.raises(DataError, match="no examples"):
        evaluate(reasoner, [])
    with pytest.raises(UsageError, match="batch size"):
        evaluate(reasoner, examples(), batch_size=0)
    with pytest.raises(UsageError, match="latency_questions"):
        evaluate(reasoner, examples(), latency_questions=-1)
    with pytest.raises(UsageError, match="Unknown scorer"):
        evaluate(reasoner, examples(), scorer="codie")
    assert reasoner.calls == []


def test_a_reasoner_that_loses_an_answer_is_caught() -> None:
    class Short(Scripted):
        def answer_batches(
            self, questions: Sequence[str], /, **options: Any
        ) -> Iterator[list[tuple[int, Answer]]]:
            return super().answer_batches(questions[:-1], **options)

    with pytest.raises(ValueError, match="4 of 5"):
        evaluate(Short(scripted().texts), examples(), latency_questions=0)


def test_letters_are_scored_and_unreadable_ones_counted() -> None:
    letters = [Example(str(i), f"q{i}", (), "C") for i in range(3)]
    reasoner = Scripted({"q0": "The answer is: C", "q1": "The answer is: 9", "q2": "The answer is: B"})
    result = evaluate(reasoner, letters, scorer=get_scorer("letter"), latency_questions=0)
    assert (result.correct, result.unreadable, result.scorer) == (1, 1, "letter")


def test_question_format() -> None:
    assert format_question("  It grew.  How  much?\nA: 1 ") == "It grew. How much?\nA: 1"


def write_questions(path: Path, count: int, answer: str = "3") -> Path:
    rows = (json.dumps({"question": f"Question {i}?", "answer": answer}) for i in range(count))
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def test_every_benchmark_is_complete() -> None:
    for name, benchmark in BENCHMARKS.items():
        assert benchmark.name == name
        assert get_scorer(benchmark.scorer)
        assert benchmark.note
        assert benchmark.rows
        assert benchmark.generated or "/" in benchmark.hub_id
    assert "500" in BENCHMARKS["multiarith"].note


def test_local_copy_with_another_row_count_is_refused(tmp_path: Path) -> None:
    copy = write_questions(tmp_path / "half.jsonl", 90)
    with pytest.raises(DataError, match=r"'multiarith' has 180 questions, but .* gave 90"):
        load_benchmark("multiarith", file=str(copy))
    loaded, report, benchmark = load_benchmark("multiarith", file=str(copy), allow_partial=True)
    assert (len(loaded), report.kept, benchmark.name) == (90, 90, "multiarith")
    loaded, _, _ = load_benchmark("multiarith", file=str(write_questions(tmp_path / "whole.jsonl", 180)))
    assert len(loaded) == 180


def test_limit_is_accounted_for(tmp_path: Path) -> None:
    copy = write_questions(tmp_path / "whole.jsonl", 180)
    loaded, report, _ = load_benchmark("multiarith", file=str(copy), limit=20)
    assert len(loaded) == report.kept == 20
    assert report.dropped == {"beyond the limit of 20": 160}
    with pytest.raises(UsageError, match="limit"):
        load_benchmark("multiarith", file=str(copy), limit=0)


def test_any_file_is_a_benchmark(tmp_path: Path) -> None:
    path = write_questions(tmp_path / "mine.jsonl", 3, answer="B")
    loaded, _, benchmark = load_benchmark(str(path), scorer="letter")
    assert (benchmark.name, benchmark.scorer, len(loaded)) == ("mine", "letter", 3)
    _, _, benchmark = load_benchmark(str(path))
    assert (benchmark.scorer, benchmark.scorer_chosen) == ("letter", True)
    with pytest.raises(DataError, match="number in every gold answer"):
        load_benchmark(str(path), scorer="codi")
    with pytest.raises(UsageError, match="second file"):
        load_benchmark(str(path), file=str(path))


@pytest.mark.parametrize("name", [name for name, one in BENCHMARKS.items() if one.generated])
def test_generated_sets_load_in_any_size(name: str) -> None:
    loaded, _, benchmark = load_benchmark(name, count=12, seed=3)
    assert len(loaded) == 12
    assert benchmark.generated
    again, _, _ = load_benchmark(name, count=12, seed=3)
    assert loaded == again


def test_names_and_options_that_do_not_apply(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean 'gsm-hard'"):
        find_benchmark("gsmhard")
    with pytest.raises(DataError, match="does not exist"):
        find_benchmark(str(tmp_path / "absent.jsonl"))
    with pytest.raises(DataError, match="folder"):
        load_benchmark(str(tmp_path))
    write_questions(tmp_path / "shards-1.jsonl", 1)
    assert find_benchmark(str(tmp_path)).scorer == "auto"
    with pytest.raises(DataError, match="local copy"):
        load_benchmark("svamp", file=str(tmp_path / "absent.jsonl"))
    with pytest.raises(UsageError, match="Unknown scorer"):
        find_benchmark("svamp", scorer="codex")
    with pytest.raises(UsageError, match="'train' would be another set"):
        find_benchmark("gsm8k", split="train")
    with pytest.raises(UsageError, match="generated sets only"):
        load_benchmark("svamp", count=10)
    with pytest.raises(UsageError, match="at least 1"):
        load_benchmark("in_domain", count=0)


REAL_FILES = {
    "gsm8k": "gsm8k_test.jsonl",
    "svamp": "svamp.jsonl",
    "gsm-hard": "gsmhard.jsonl",
    "multiarith": "multiarith_test180.jsonl",
    "multiarith-600": "multiarith_600.jsonl",
    "commonsenseqa": "commonsenseqa_dev.jsonl",
    "gsm8k-aug-validation": "gsm8k_aug_valid.jsonl",
}


@pytest.mark.parametrize("name", REAL_FILES)
def test_real_files_are_the_benchmarks(name: str) -> None:
    path = SHARED / REAL_FILES[name]
    if not path.exists():
        pytest.skip(f"{path.name} is not on this machine")
    loaded, _, benchmark = load_benchmark(name, file=str(path))
    assert len(loaded) == BENCHMARKS[name].rows
    # A reasoner that writes each gold answer out must score 100 %, and one that is always wrong 0 %.
    # GSM-Hard's 2.0107e-06 is written out: the published rule reads no scientific notation.
    golds: dict[str, list[str]] = {}
    for example in loaded:
        number = plain_number(example.answer)
        answer = example.answer if number is None else written(number)
        golds.setdefault(format_question(example.question), []).append(answer)
    repeated = [question for question, found in golds.items() if len(set(found)) > 1]
    assert len(repeated) <= 1  # one question of SVAMP has two answers
    asked = [example for example in loaded if format_question(example.question) not in repeated]
    right = {question: f"The answer is: {found[0]}" for question, found in golds.items()}
    result = evaluate(Scripted(right), asked, scorer=benchmark.scorer, latency_questions=0)
    assert (result.accuracy, result.unreadable, result.n) == (1.0, 0, len(asked))
    wrong = {q: "The answer is: " + ("0.5" if f[0] != "0.5" else "1") for q, f in golds.items()}
    if benchmark.scorer == "letter":
        wrong = {q: "The answer is: " + ("B" if f[0] == "A" else "A") for q, f in golds.items()}
    assert evaluate(Scripted(wrong), asked, scorer=benchmark.scorer, latency_questions=0).accuracy == 0.0
    _, _, chosen = load_benchmark(str(path))  # the same file as one of one's own
    assert chosen.scorer == ("letter" if benchmark.scorer == "letter" else "number")
    assert evaluate(Scripted(right), asked, scorer=chosen.scorer, latency_questions=0).accuracy == 1.0


def test_a_lone_surrogate_does_not_stop_the_run(tmp_path: Path) -> None:
    odd = [Example("e\ud800", "q", (), "3")]
    path = tmp_path / "predictions.jsonl"
    evaluate(Scripted({"q": "3"}), odd, latency_questions=0, predictions=path)
    assert read_jsonl(path)[0]["id"] == "e\ud800"
