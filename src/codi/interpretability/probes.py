"""Linear probes: can an intermediate result be read off the state of one layer at one thought?

    rationale <<4*2=8>> <<8+2=10>> <<10-1=9>>      step 1 -> "8", step 2 -> "10"; the last is the answer
    state of (thought i, layer l), [d]  ──► logistic regression ──► which result?

A classifier per (step, thought, layer) is trained on one part of the questions and measured on the rest.
Two figures stand beside its accuracy. `control_accuracy`: the same classifier trained on shuffled labels, so
what luck and the classifier's freedom give. `majority`: always saying the commonest result.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from codi.data.arithmetic import shown
from codi.data.equations import Equation, number_of
from codi.data.example import Example
from codi.errors import UsageError
from codi.evaluation.benchmarks import format_question
from codi.generation.latent_reasoner import LatentReasoner
from codi.interpretability.layer_states import BATCH_SIZE, all_layer_states
from codi.interpretability.thinking import refuse_without_thoughts
from codi.interpretability.usable_rows import intermediate_or_reason

LEAST_PER_CLASS = 8
"""Questions a result needs to be a class; rarer ones are left out, and counted."""
TEST_SHARE = 0.25
MOST_ITERATIONS = 1000

Floats = NDArray[np.float32]
Places = NDArray[np.int64]


@dataclass(frozen=True)
class ProbeResult:
    """One probe: the result of `step` from the state at `thought` (both from 1) and `layer` (0: embedding).

    accuracy, control_accuracy, majority: shares of the n_test held-out questions, 0..1 (see the module's
    docstring); classes: results told apart; left_out: questions that have the step, but a result too rare.
    """

    step: int
    thought: int
    layer: int
    accuracy: float
    control_accuracy: float
    majority: float
    n_train: int
    n_test: int
    classes: int
    left_out: int

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


@dataclass(frozen=True)
class Labelled:
    """Questions with the result of one step: `examples[i]` has `results[i]`. left_out: too rare to learn."""

    examples: list[Example]
    results: list[str]
    left_out: int


def with_result(examples: Sequence[Example], step: int, least_per_class: int = LEAST_PER_CLASS) -> Labelled:
    """The examples for which step `step` (from 1) has an intermediate result that is common enough.

    A step is an equation (see `codi.data.equations`); problems without such are passed over. Of a question
    that is there twice the first is taken: it must not stand on both sides of the split.
    Raises UsageError where fewer than two results are common enough.
    """
    if step < 1:
        raise UsageError(f"Step {step} was asked for; steps are counted from 1.")
    found: dict[str, tuple[Example, str]] = {}
    for example in examples:
        results, _ = intermediate_or_reason(example)
        if len(results) >= step:
            found.setdefault(example.question, (example, _label(results[step - 1])))
    counts = Counter(result for _, result in found.values())
    common = _common(counts, f"the result of step {step}", least_per_class)
    kept = [(example, result) for example, result in found.values() if result in common]
    return Labelled([pair[0] for pair in kept], [pair[1] for pair in kept], len(found) - len(kept))


def probe_states(
    states: Tensor,
    labels: Sequence[str],
    *,
    step: int = 1,
    seed: int = 0,
    test_share: float = TEST_SHARE,
    least_per_class: int = LEAST_PER_CLASS,
    left_out: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[ProbeResult]:
    """states: [b, n, layers + 1, d]; labels: one per row. A probe for every thought and layer, in that order.

    All of them share one split, in which every class has its share (seed). step and left_out are only noted.
    Raises UsageError for labels that do not fit, a class with too few rows, or without scikit-learn.
    """
    rows, thoughts, layers, _width = states.shape
    if len(labels) != rows:
        raise UsageError(f"{len(labels)} labels were given for states of {rows} questions. Give one each.")
    counts = Counter(labels)
    classes = sorted(_common(counts, "the labels given", least_per_class))
    if rare := sorted(set(counts) - set(classes)):
        raise UsageError(
            f"A probe needs {least_per_class} questions of each label, but '{rare[0]}' has {counts[rare[0]]} "
            f"({len(rare)} labels are too rare). Leave their questions out, or lower least_per_class."
        )
    targets = np.array([classes.index(label) for label in labels], dtype=np.int64)
    draw = np.random.default_rng(seed)
    train, test = _split(targets, len(classes), test_share, draw)
    shuffled = draw.permutation(targets[train])
    commonest = int(np.bincount(targets[train]).argmax())
    values: Floats = states.detach().float().cpu().numpy()
    found = []
    for thought in range(thoughts):
        for layer in range(layers):
            learn, held_out = _standardised(values[train, thought, layer], values[test, thought, layer])
            found.append(
                ProbeResult(
                    step=step,
                    thought=thought + 1,
                    layer=layer,
                    accuracy=_accuracy(learn, targets[train], held_out, targets[test]),
                    control_accuracy=_accuracy(learn, shuffled, held_out, targets[test]),
                    majority=float((targets[test] == commonest).mean()),
                    n_train=len(train),
                    n_test=len(test),
                    classes=len(classes),
                    left_out=left_out,
                )
            )
            if on_progress is not None:
                on_progress(len(found), thoughts * layers)
    return found


def probe_steps(
    reasoner: LatentReasoner,
    examples: Sequence[Example],
    steps: Sequence[int],
    *,
    latents: int | None = None,
    seed: int = 0,
    test_share: float = TEST_SHARE,
    least_per_class: int = LEAST_PER_CLASS,
    batch_size: int = BATCH_SIZE,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[ProbeResult]:
    """Probe the intermediate result of each of `steps` (from 1) at every thought and layer of the model.

    on_progress: called with the probes trained and all of them. Raises UsageError for a model without
    thoughts, a step with too few examples, or without scikit-learn.
    """
    refuse_without_thoughts(reasoner, latents)
    _logistic_regression()  # said before the model thinks over thousands of questions
    chosen = {step: with_result(examples, step, least_per_class) for step in steps}
    found: list[ProbeResult] = []
    for done, (step, labelled) in enumerate(chosen.items()):
        questions = [format_question(example.question) for example in labelled.examples]

        def report(probes: int, of: int, done: int = done) -> None:
            if on_progress is not None:
                on_progress(done * of + probes, len(chosen) * of)

        found += probe_states(
            all_layer_states(reasoner, questions, latents=latents, batch_size=batch_size),
            labelled.results,
            step=step,
            seed=seed,
            test_share=test_share,
            least_per_class=least_per_class,
            left_out=labelled.left_out,
            on_progress=report,
        )
    return found


def _label(equation: Equation) -> str:
    """The result as a class: `4.50` and `4.5` are one."""
    value = number_of(equation.said)
    return (None if value is None else shown(value)) or equation.said


def _common(counts: Counter[str], what: str, least: int) -> set[str]:
    """The values with at least `least` questions. Raises UsageError where there are fewer than two."""
    if least < 2:
        raise UsageError(f"{least} questions per class were asked for; a split needs 2 or more.")
    common = {value for value, count in counts.items() if count >= least}
    if len(common) < 2:
        seen = ", ".join(f"{count} of '{value}'" for value, count in counts.most_common(5)) or "none"
        raise UsageError(
            f"Too few examples to probe {what}: a probe tells at least two values apart and needs {least} "
            f"questions of each, but the {sum(counts.values())} questions that have one have {len(counts)} "
            f"values (commonest: {seen}). Give more examples, or lower least_per_class."
        )
    return common


def _split(
    targets: Places, classes: int, test_share: float, draw: np.random.Generator
) -> tuple[Places, Places]:
    """Row numbers for training and for testing; every class is in both."""
    if not 0 < test_share < 1:
        raise UsageError(f"A test share of {test_share} was asked for; it must lie between 0 and 1.")
    train, test = [], []
    for label in range(classes):
        rows = draw.permutation(np.flatnonzero(targets == label))
        held_out = min(max(1, round(test_share * len(rows))), len(rows) - 1)
        test.append(rows[:held_out])
        train.append(rows[held_out:])
    return np.concatenate(train), np.concatenate(test)


def _standardised(train: Floats, test: Floats) -> tuple[Floats, Floats]:
    """[rows, d] each: by the mean and spread of the training rows, so that every dimension counts alike."""
    mean, spread = train.mean(0), train.std(0)
    spread = np.where(spread > 0, spread, np.float32(1))  # a constant dimension says nothing; it becomes 0
    return (train - mean) / spread, (test - mean) / spread


def _accuracy(train: Floats, labels: Places, test: Floats, wanted: Places) -> float:
    probe = _logistic_regression()(max_iter=MOST_ITERATIONS)
    probe.fit(train, labels)
    return float(probe.score(test, wanted))


def _logistic_regression() -> Any:
    # Imported only here: it takes a second, and nothing else of codi needs it.
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise UsageError(
            f"Probes need scikit-learn, which could not be imported ({error}). Install it: "
            "pip install scikit-learn"
        ) from error
    return LogisticRegression
