"""The statistics of a whole set: Table 3, interventions, shortcuts, patching, CoT shift, probes, lenses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from codi.data.example import Example
from codi.errors import DataError, UsageError, nearest
from codi.evaluation.benchmarks import format_question
from codi.generation.latent_reasoner import LatentReasoner
from codi.interpretability.cot_shift import CotShift, cot_shift, rows_that_fit_with_rationale
from codi.interpretability.disturbed_answers import Asker
from codi.interpretability.intermediate_results import Table3, check_results, table3
from codi.interpretability.interventions import (
    InterventionTable,
    asker_of,
    default_numbers,
    intervention_table,
)
from codi.interpretability.layer_states import all_layer_states
from codi.interpretability.lens_questions import not_trained_on
from codi.interpretability.lenses import LensComparison, TunedLens, compare_lenses
from codi.interpretability.patching import PatchTable, patch_tables, unusable
from codi.interpretability.probes import ProbeResult, probe_steps
from codi.interpretability.shortcut_table import ShortcutTable
from codi.interpretability.shortcuts import shortcut_table
from codi.interpretability.thinking import refuse_without_thoughts
from codi.interpretability.usable_rows import (
    TOO_LONG,
    Reasons,
    counted,
    in_words,
    intermediate_or_reason,
    rows_that_fit,
    without_results,
)
from codi.methods.pause_tokens import PauseTokens

PARTS = ("table3", "interventions", "shortcuts", "patching", "shift", "probes")
"""What can be measured; `lens` joins them where a tuned lens is given."""
WITHOUT_THOUGHTS = ("shortcuts",)
"""What can be measured of a model that has no continuous thoughts."""
MOST_PROBED = 3
"""Steps whose results are probed, from the first on."""

Progress = Callable[[str], Callable[[int, int], None]]
"""From the name of a part to what is called with (done, in all)."""


@dataclass(frozen=True)
class BenchmarkReport:
    """What was measured over one set; parts not asked for, or not possible (see `left_out`), are None.

    n: problems measured; latents: thought (0: the model has none); left_out: why a part is missing;
    rows_left_out: by part (`all`: every part) how many problems it could not use, by reason.
    """

    name: str
    n: int
    scorer: str
    latents: int
    table3: Table3 | None = None
    table3_whole: Table3 | None = None
    interventions: InterventionTable | None = None
    shortcuts: ShortcutTable | None = None
    patching: list[PatchTable] | None = None
    shift: CotShift | None = None
    probes: list[ProbeResult] | None = None
    lens: LensComparison | None = None
    left_out: dict[str, str] | None = None
    rows_left_out: dict[str, Reasons] | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def benchmark_report(
    reasoner: LatentReasoner,
    name: str,
    examples: Sequence[Example],
    *,
    scorer: str = "codi",
    parts: Sequence[str] = PARTS,
    what: str = "latent",
    pairs: int = 200,
    latents: int | None = None,
    lens: TunedLens | None = None,
    batch_size: int = 64,
    seed: int = 0,
    progress: Progress | None = None,
) -> BenchmarkReport:
    """Measure `parts` over the examples. A part that this set cannot give is left out with its reason.

    what, pairs: see `patch_tables`; latents: another number than trained, in every part. Problems that a part
    cannot use are passed over and counted. Raises UsageError for an unknown part, for parts that a model
    without thoughts cannot give and for a lens that has seen every problem; DataError where the one part
    asked for cannot be given, or no question fits the model.
    """
    check_parts(reasoner, parts, latents)
    fitting, too_long = _fitting(reasoner, examples, parts, latents)
    bar = progress or (lambda _: lambda _done, _all: None)
    measuring = _Measuring(reasoner, fitting, parts, scorer, latents, batch_size, seed, bar)
    measuring.note("all", too_long)
    unseen: list[Example] = []
    if lens is not None:  # said before anything is measured
        unseen, seen = not_trained_on(lens.settings, fitting)
        measuring.note("lens", seen)
    for part, work in (
        ("table3", measuring.table3),
        ("interventions", measuring.interventions),
        ("shortcuts", measuring.shortcuts),
        ("patching", lambda: measuring.patching(what, pairs)),
        ("shift", measuring.shift),
        ("probes", measuring.probes),
    ):
        measuring.measure(part, work)
    if lens is not None:
        questions = [format_question(example.question) for example in unseen]
        states = all_layer_states(reasoner, questions, latents=latents)
        measuring.found["lens"] = compare_lenses(reasoner, states, lens)
    return BenchmarkReport(
        name,
        len(fitting),
        scorer,
        _thought(reasoner, latents),
        left_out=measuring.left_out or None,
        rows_left_out=measuring.rows_left_out or None,
        **measuring.found,
    )


def check_parts(reasoner: LatentReasoner, parts: Sequence[str], latents: int | None = None) -> None:
    """Raise UsageError for an unknown part, or one that this model's kind cannot give."""
    for part in parts:
        if part not in PARTS:
            raise UsageError(f"Unknown part '{part}'.{nearest(part, PARTS)} Parts: {', '.join(PARTS)}.")
    if not set(parts) <= set(WITHOUT_THOUGHTS):
        refuse_without_thoughts(reasoner, latents)


def _thought(reasoner: LatentReasoner, latents: int | None) -> int:
    return reasoner.method.thought_positions(latents) - 2 if reasoner.method.thinks else 0


def _fitting(
    reasoner: LatentReasoner, examples: Sequence[Example], parts: Sequence[str], latents: int | None
) -> tuple[list[Example], Reasons]:
    """The examples whose questions fit the model with the most thoughts that any part asks for."""
    asker, most = reasoner, latents
    if {"interventions", "shortcuts"} & set(parts):
        if reasoner.method.thinks:
            most = max(default_numbers(_thought(reasoner, latents)))
        elif isinstance(reasoner.method, PauseTokens):
            pauses = max(default_numbers(reasoner.method.pauses))
            asker = LatentReasoner(
                reasoner.model, replace(reasoner.method, pauses=pauses), reasoner.tokenizer,
                reasoner.text_format, graphs=reasoner.graphs,
            )  # fmt: skip
    fitting, left_out = rows_that_fit(asker, examples, most)
    if not fitting:
        raise DataError(
            f"No question of this set can be asked ({in_words(left_out) or 'it is empty'}). Give shorter "
            "questions, or think fewer latents."
        )
    return fitting, left_out


class _Measuring:
    """One part after the other, over the same examples; what was found, and what was not."""

    def __init__(
        self, reasoner: LatentReasoner, examples: list[Example], parts: Sequence[str], scorer: str,
        latents: int | None, batch_size: int, seed: int, bar: Progress,
    ) -> None:  # fmt: skip
        self.reasoner, self.examples, self.parts, self.scorer = reasoner, examples, parts, scorer
        self.latents, self.batch_size, self.seed, self.bar = latents, batch_size, seed, bar
        self.found: dict[str, Any] = {}
        self.left_out: dict[str, str] = {}
        self.rows_left_out: dict[str, Reasons] = {}
        self._asker: Asker | None = None

    def measure(self, part: str, work: Callable[[], None]) -> None:
        """Do the work of a part that was asked for; where it cannot be done, the reason is kept."""
        if part not in self.parts:
            return
        try:
            work()
        except (DataError, UsageError) as error:
            if len(self.parts) == 1:  # nothing else was asked for
                raise
            self.left_out[part] = str(error)

    def note(self, part: str, reasons: Reasons) -> None:
        """Keep why rows were left out of a part."""
        if reasons:
            self.rows_left_out[part] = reasons

    def asker(self) -> Asker:
        """One for all parts that disturb answers: what two of them ask is asked once."""
        if self._asker is None:
            self._asker = asker_of(self.reasoner, self.examples, self.scorer, self.latents, self.batch_size)
        return self._asker

    def table3(self) -> None:
        """Both readings."""
        for key, whole in (("table3", False), ("table3_whole", True)):
            self.found[key] = table3(
                self.reasoner, self.examples, scorer=self.scorer, whole_numbers=whole, latents=self.latents,
                batch_size=self.batch_size, seed=self.seed, on_progress=self.bar("decoding thoughts"),
            )  # fmt: skip
        self.note("table3", self.found["table3"].left_out)

    def interventions(self) -> None:
        """Every intervention."""
        self.found["interventions"] = intervention_table(
            self.reasoner, self.examples, scorer=self.scorer, latents=self.latents, seed=self.seed,
            asker=self.asker(), on_progress=self.bar("intervening"),
        )  # fmt: skip

    def shortcuts(self) -> None:
        """Every row of the table of shortcuts."""
        table = shortcut_table(
            self.reasoner, self.examples, scorer=self.scorer, latents=self.latents, seed=self.seed,
            asker=self.asker(), on_progress=self.bar("looking for shortcuts"),
        )  # fmt: skip
        self.found["shortcuts"] = table
        self.note("shortcuts", table.left_out)

    def patching(self, what: str, pairs: int) -> None:
        """A table for every number of steps."""
        self.found["patching"] = patch_tables(
            self.reasoner, self.examples, what=what, pairs=pairs, scorer=self.scorer, latents=self.latents,
            batch_size=self.batch_size, seed=self.seed, on_progress=self.bar("patching"),
        )  # fmt: skip
        self.note("patching", unusable(self.examples))

    def shift(self) -> None:
        """Layer by layer."""
        fitting = rows_that_fit_with_rationale(self.reasoner, self.examples, self.latents)
        self.found["shift"] = cot_shift(
            self.reasoner, fitting, latents=self.latents, batch_size=self.batch_size,
            on_progress=self.bar("CoT shift"),
        )  # fmt: skip
        self.note("shift", counted([TOO_LONG] * (len(self.examples) - len(fitting))))

    def probes(self) -> None:
        """The steps with enough examples; the others are left out by themselves."""
        check_results(self.examples, "Probing")
        steps = max(len(intermediate_or_reason(example)[0]) for example in self.examples)
        found: list[ProbeResult] = []
        refused: dict[int, UsageError] = {}
        for step in range(1, min(steps, MOST_PROBED) + 1):
            try:
                found += probe_steps(
                    self.reasoner, self.examples, [step], latents=self.latents, seed=self.seed,
                    on_progress=self.bar(f"probing step {step}"),
                )  # fmt: skip
            except UsageError as error:
                refused[step] = error
        if not found:
            raise refused[1]
        for step, reason in refused.items():
            self.left_out[f"probes of step {step}"] = str(reason)
        self.found["probes"] = found
        self.note("probes", without_results(self.examples))
