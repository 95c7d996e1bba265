"""The question sets a model is measured on: one entry per set. A new benchmark is one new entry.

A named set has a fixed number of rows, and a copy with another number is refused: an accuracy over part of a
benchmark, or over another split of it, is not that benchmark's accuracy.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from codi.data.example import Example, LoadReport
from codi.errors import DataError, UsageError, nearest
from codi.evaluation.scorers import AUTO, check_scorer_name, scorer_for

if TYPE_CHECKING:
    from codi.data.sources import Columns

WORD_PROBLEMS = "word-problems"
TWO_BRANCHES = "two-branches?shorter=20"
"""The generators, with the options of the problems that the recipes train on."""
DATA_ENDINGS = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt", ".gz")
"""Of files that may hold questions; `codi.data.files` says which it reads."""


@dataclass(frozen=True)
class Benchmark:
    """One set of questions and how it is scored.

    Attributes:
        name: the name results are published under.
        source: what `codi.data.sources.load_examples` is asked for: a short name, the generator or a file.
        split: the split of the source; 'a+b' joins two.
        rows: questions in the whole set; for generated sets, how many are generated unless asked otherwise;
            None for a user's own file.
        scorer: name of its scorer; 'auto' until the answers of a user's own set have been seen.
        scorer_chosen: whether the scorer was chosen from the answers.
        hub_id: the set on the hub; empty for generated sets and files.
        note: what it measures, and what to know before comparing with published numbers.
        columns: columns of the source where they cannot be recognised.
    """

    name: str
    source: str
    split: str
    rows: int | None
    scorer: str = "codi"
    hub_id: str = ""
    note: str = ""
    columns: Columns | None = None
    scorer_chosen: bool = False

    @property
    def generated(self) -> bool:
        """Whether the questions are generated here, in any number."""
        return self.source in (WORD_PROBLEMS, TWO_BRANCHES)


class LoadedBenchmark(NamedTuple):
    """The examples of a set, the account of what was read and left out, and the set as evaluated."""

    examples: list[Example]
    report: LoadReport
    benchmark: Benchmark


BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark(
            "in_domain", WORD_PROBLEMS, "test", 1000,
            note="Generated word problems as in training, with chains that do not stand in it.",
        ),
        Benchmark(
            "reworded", WORD_PROBLEMS, "reworded", 1000,
            note="Generated problems in wordings never trained on; stands for SVAMP.",
        ),
        Benchmark(
            "larger_numbers", WORD_PROBLEMS, "larger_numbers", 1000,
            note="Generated problems with larger numbers than trained on; stands for GSM-Hard.",
        ),
        Benchmark(
            "shorter_chains", WORD_PROBLEMS, "shorter_chains", 1000,
            note="Generated problems of 2 or 3 steps, partly in other wordings; stands for MultiArith.",
        ),
        Benchmark(
            "longer_chains", WORD_PROBLEMS, "longer_chains", 1000,
            note="Generated problems with more steps than trained on.",
        ),
        Benchmark(
            "two-branches", TWO_BRANCHES, "test", 1000, scorer="number",
            note="Generated problems of two chains that meet, as in the quickstart's and the small scale's "
            "training, with chains that do not stand in it.",
        ),
        Benchmark(
            "two-branches-reworded", TWO_BRANCHES, "reworded", 1000, scorer="number",
            note="The same in words that only the texts of the small base use; stands for SVAMP.",
        ),
        Benchmark(
            "two-branches-larger-numbers", TWO_BRANCHES, "larger_numbers", 1000, scorer="number",
            note="The same with numbers so large only in the texts of the small base; stands for GSM-Hard.",
        ),
        Benchmark(
            "two-branches-shorter-chains", TWO_BRANCHES, "shorter_chains", 1000, scorer="number",
            note="The same with a step less; stands for MultiArith.",
        ),
        Benchmark(
            "two-branches-longer-chains", TWO_BRANCHES, "longer_chains", 1000, scorer="number",
            note="The same with more steps than trained on.",
        ),
        Benchmark(
            "gsm8k", "gsm8k", "test", 1319, hub_id="openai/gsm8k",
            note="GSM8K test split: the paper's in-domain set, also for models trained on GSM8k-Aug-NL.",
        ),
        Benchmark(
            "svamp", "svamp", "train+test", 1000, hub_id="ChilleD/SVAMP",
            note="Out of domain. The paper evaluates all 1,000 questions: train and test joined.",
        ),
        Benchmark(
            "gsm-hard", "gsm-hard", "train", 1319, hub_id="juyoung-trl/gsm-hard",
            note="Out of domain: GSM8K test with larger numbers; 11 % of the answers are negative. All rows "
            "stand in the split 'train'.",
        ),
        Benchmark(
            "multiarith", "multiarith", "test", 180, hub_id="ChilleD/MultiArith",
            note="Out of domain. The paper's Appendix C gives 500 questions, a size no public split has; the "
            "published code evaluates this test split of 180, so its accuracies are compared with these.",
        ),
        Benchmark(
            "multiarith-600", "multiarith", "train+test", 600, hub_id="ChilleD/MultiArith",
            note="All of MultiArith (580 distinct questions): narrower interval, but not the published set.",
        ),
        Benchmark(
            "commonsenseqa", "commonsenseqa-cot", "validation", 1221, scorer="letter",
            hub_id="zen-E/CommonsenseQA-GPT4omini",
            note="Five choices. The published code counts an unreadable letter as 'C'; here it is wrong.",
        ),
        Benchmark(
            "gsm8k-aug-validation", "gsm8k-aug", "validation", 500, hub_id="whynlp/gsm8k-aug",
            note="For choosing checkpoints, never for reporting. All 500 questions stand in GSM8K train.",
        ),
    )
}  # fmt: skip


def format_question(question: str) -> str:
    """`question` as it is asked at test time: stripped, runs of spaces folded to one, line breaks kept."""
    return re.sub(r" {2,}", " ", question.strip())


def find_benchmark(
    name_or_path: str, *, scorer: str | None = None, split: str | None = None, columns: Columns | None = None
) -> Benchmark:
    """The named benchmark, or one made for a file, a folder, a pattern or a set on the hub.

    `scorer`, `split` and `columns` replace its own. Of several splits of a source its test split is read, and
    its scorer is chosen from its answers when it is loaded, unless `split` and `scorer` say otherwise.

    Raises:
        UsageError: neither a benchmark nor a source, an unknown scorer, or another split of a named set.
        DataError: a path without a file.
    """
    chosen = check_scorer_name(scorer) if scorer else None
    if name_or_path in BENCHMARKS:
        benchmark = BENCHMARKS[name_or_path]
        if split is not None and split != benchmark.split:
            raise UsageError(
                f"Benchmark '{benchmark.name}' is the split '{benchmark.split}' of its source; '{split}' "
                "would be another set under its name. Leave the split out, or evaluate a file of your own."
            )
        return replace(benchmark, scorer=chosen or benchmark.scorer, columns=columns or benchmark.columns)
    from codi.data.shards import exists
    from codi.data.sources import is_data_path, is_source, source_name

    if is_data_path(name_or_path) and not exists(name_or_path):
        named, _, file = name_or_path.partition("=")
        advice = "Give the path of an existing file or folder."
        if named in BENCHMARKS:
            advice = f"A local copy of '{named}' is given as --benchmark {named} --file {named}={file}."
        raise DataError(f"The evaluation file '{name_or_path}' does not exist. {advice}")
    if is_source(name_or_path):
        return Benchmark(
            source_name(name_or_path), name_or_path, split or "test", None, chosen or AUTO,
            note="A file, a folder or a set on the hub.", columns=columns,
        )  # fmt: skip
    raise UsageError(
        f"Unknown benchmark '{name_or_path}'.{nearest(name_or_path, BENCHMARKS)} Give the path of a file or "
        f"folder, a hub id, or one of: {', '.join(BENCHMARKS)}."
    )


def load_benchmark(
    name_or_path: str,
    *,
    file: str | None = None,
    scorer: str | None = None,
    split: str | None = None,
    columns: Columns | None = None,
    limit: int | None = None,
    allow_partial: bool = False,
    count: int | None = None,
    seed: int | None = None,
) -> LoadedBenchmark:
    """The questions of a named benchmark or of a file.

    Args:
        name_or_path: a name of `BENCHMARKS`, or a file in any format `load_examples` reads.
        file: a local copy of the named benchmark, read in place of the hub.
        scorer, split, columns: see `find_benchmark`.
        limit: keep only the first so many questions; the report counts the others as left out.
        allow_partial: accept a named set whose number of rows is not the expected one.
        count, seed: for generated sets, how many questions and from which seed (1 by default).

    Returns:
        The examples, the account of what was read and left out, and the benchmark as evaluated, with the name
        of its scorer.

    Raises:
        UsageError: an unknown name, or an option that does not apply.
        DataError: a missing file, another number of rows than expected, or a gold answer that the scorer
            cannot compare.
    """
    from codi.data.sources import load_examples

    benchmark = find_benchmark(name_or_path, scorer=scorer, split=split, columns=columns)
    if limit is not None and limit < 1:
        raise UsageError(f"The limit must be at least 1 question, got {limit}.")
    source, source_split, expected = _where(benchmark, file, count, seed)
    # A named set is read whole, for its number of rows says whether it is the set.
    examples, report = load_examples(
        source, split=source_split, columns=benchmark.columns, limit=limit if benchmark.rows is None else None
    )
    if expected is not None and len(examples) != expected and not allow_partial:
        left_out = f" ({report.describe()})" if report.dropped else ""
        raise DataError(
            f"Benchmark '{benchmark.name}' has {expected:,} questions, but '{source}' gave "
            f"{len(examples):,}{left_out}. Its accuracy would not be the benchmark's. Give the whole set, or "
            "allow a partial one (--allow-partial)."
        )
    rule = scorer_for(benchmark.scorer, examples)
    benchmark = replace(benchmark, scorer=rule.name, scorer_chosen=benchmark.scorer == AUTO)
    if limit is not None and limit < len(examples):
        reason = f"beyond the limit of {limit}"
        report.dropped[reason] = len(examples) - limit
        report.kept = limit
        examples = examples[:limit]
    return LoadedBenchmark(examples, report, benchmark)


def _where(
    benchmark: Benchmark, file: str | None, count: int | None, seed: int | None
) -> tuple[str, str, int | None]:
    """Source, split and expected number of rows for `load_examples`."""
    if file is not None:
        if benchmark.name not in BENCHMARKS or benchmark.rows is None:
            raise UsageError(f"'{benchmark.source}' is a file already; a second file ('{file}') has no use.")
        from codi.data.shards import exists

        if not exists(file):
            raise DataError(
                f"The local copy '{file}' of benchmark '{benchmark.name}' does not exist. "
                "Give the path of an existing file, or leave it out to load the set from the hub."
            )
    if not benchmark.generated or file is not None:
        if count is not None or seed is not None:
            raise UsageError(
                f"A count or seed applies to generated sets only, and '{file or benchmark.name}' is not one. "
                "To evaluate fewer questions, use a limit."
            )
        if file is not None:
            # Generated sets have no fixed size to check a copy by.
            return file, benchmark.split, None if benchmark.generated else benchmark.rows
        return benchmark.source, benchmark.split, benchmark.rows
    expected = benchmark.rows if count is None else count
    if expected is None or expected < 1:
        raise UsageError(f"The count of generated questions must be at least 1, got {count}.")
    options = f"seed={1 if seed is None else seed}&count={expected}"
    joined = "&" if "?" in benchmark.source else "?"
    return f"{benchmark.source}{joined}{options}", benchmark.split, expected
