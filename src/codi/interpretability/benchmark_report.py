"""The statistics of a whole set: Table 3, interventions, patching, the CoT shift, probes and lenses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from codi.data.example import Example
from codi.errors import DataError, UsageError, nearest
from codi.evaluation.benchmarks import format_question
from codi.generation.latent_reasoner import LatentReasoner
from codi.interpretability.cot_shift import CotShift, cot_shift
from codi.interpretability.intermediate_results import Table3, intermediate_results, table3
from codi.interpretability.interventions import InterventionTable, intervention_table
from codi.interpretability.layer_states import all_layer_states
from codi.interpretability.lenses import LensComparison, TunedLens, compare_lenses
from codi.interpretability.patching import PatchTable, patch_tables
from codi.interpretability.probes import ProbeResult, probe_steps
from codi.interpretability.thinking import refuse_without_thoughts

PARTS = ("table3", "interventions", "patching", "shift", "probes")
"""What can be measured; `lens` joins them where a tuned lens is given."""
MOST_PROBED = 3
"""Steps whose results are probed, from the first on."""

Progress = Callable[[str], Callable[[int, int], None]]
"""From the name of a part to what is called with (done, in all)."""


@dataclass(frozen=True)
class BenchmarkReport:
    """What was measured over one set; parts not asked for, or not possible (see `left_out`), are None."""

    name: str
    n: int
    scorer: str
    table3: Table3 | None = None
    table3_whole: Table3 | None = None
    interventions: InterventionTable | None = None
    patching: list[PatchTable] | None = None
    shift: CotShift | None = None
    probes: list[ProbeResult] | None = None
    lens: LensComparison | None = None
    left_out: dict[str, str] | None = None

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
    lens: TunedLens | None = None,
    batch_size: int = 64,
    seed: int = 0,
    progress: Progress | None = None,
) -> BenchmarkReport:
    """Measure `parts` over the examples. A part that this set cannot give is left out with its reason.

    what, pairs: see `patch_tables`. Raises UsageError for a model without thoughts or an unknown part, and
    DataError where Table 3 alone was asked for of a set without steps.
    """
    refuse_without_thoughts(reasoner)
    for part in parts:
        if part not in PARTS:
            raise UsageError(f"Unknown part '{part}'.{nearest(part, PARTS)} Parts: {', '.join(PARTS)}.")
    bar = progress or (lambda _: lambda _done, _all: None)
    found: dict[str, Any] = {}
    left_out: dict[str, str] = {}

    def measure(part: str, work: Callable[[], None]) -> None:
        if part not in parts:
            return
        try:
            work()
        except (DataError, UsageError) as error:
            if len(parts) == 1:  # nothing else was asked for
                raise
            left_out[part] = str(error)

    def read_table3() -> None:
        for key, whole in (("table3", False), ("table3_whole", True)):
            found[key] = table3(
                reasoner, examples, scorer=scorer, whole_numbers=whole, batch_size=batch_size, seed=seed,
                on_progress=bar("decoding thoughts"),
            )  # fmt: skip

    def intervene() -> None:
        found["interventions"] = intervention_table(
            reasoner, examples, scorer=scorer, batch_size=batch_size, seed=seed,
            on_progress=bar("intervening"),
        )  # fmt: skip

    def patch() -> None:
        found["patching"] = patch_tables(
            reasoner, examples, what=what, pairs=pairs, scorer=scorer, batch_size=batch_size, seed=seed,
            on_progress=bar("patching"),
        )  # fmt: skip

    def shift() -> None:
        found["shift"] = cot_shift(reasoner, examples, batch_size=batch_size, on_progress=bar("CoT shift"))

    def probe() -> None:
        steps = max((len(intermediate_results(example)) for example in examples), default=0)
        if not steps:
            raise DataError("No problem has an intermediate result to probe for.")
        found["probes"] = probe_steps(
            reasoner, examples, range(1, min(steps, MOST_PROBED) + 1), seed=seed, on_progress=bar("probing")
        )

    for part, work in zip(PARTS, (read_table3, intervene, patch, shift, probe), strict=True):
        measure(part, work)
    if lens is not None:
        states = all_layer_states(reasoner, [format_question(e.question) for e in examples])
        found["lens"] = compare_lenses(reasoner, states, lens)
    return BenchmarkReport(name, len(examples), scorer, left_out=left_out or None, **found)
