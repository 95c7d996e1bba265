"""What is run for each table and figure of the paper, and what the paper found. Data, no logic.

A **variant** is a system with its settings; with a seed it is a run. Tables share the runs of a variant. A
**claim** is a direction that the paper reports; it is checked against our figures, and a disagreement is
printed like an agreement.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Variant:
    """One system. overrides: settings at both scales; small, paper: at one of them, after those.

    small_recipe, recipe: its recipes at the small and at the paper's scale. What it starts from, and its
    static teacher, are the variants of the recipes that the small one names; start: another, at small scale
    (at the paper's, every system starts from the pretrained base); teacher: at the paper's scale.
    from_teacher: it starts from its static teacher's weights, at both.
    sampled: answered ten times at temperature 0.1, as the paper does for CoT-SFT at its scale.
    updates_factor: updates at small scale after the start, as a multiple of the recipe's.
    small_title: what it is called at small scale, where that is something else.
    """

    name: str
    title: str
    small_recipe: str = "small-codi"
    overrides: tuple[str, ...] = ()
    small: tuple[str, ...] = ()
    paper: tuple[str, ...] = ()
    start: str | None = None
    teacher: str | None = None
    from_teacher: bool = False
    sampled: bool = False
    recipe: str = "gpt2-gsm8k-aug"
    updates_factor: float = 1.0
    small_title: str = ""

    def title_at(self, scale: str) -> str:
        """Its name in a table of this scale."""
        return self.small_title if scale == "small" and self.small_title else self.title


@dataclass(frozen=True)
class Claim:
    """The paper's direction: `better` is above `worse`.

    sets: the paper's sets on which it is tested; empty is every one that the table has.
    """

    text: str
    better: str
    worse: str
    sets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """One table or figure. rows: variant -> the paper's figures in % by paper set (None: not given).

    kind: `accuracy`, `cost` (latency and thought tokens), `curve` (accuracy against a number).
    seeds, paper_seeds: at the small and at the paper's scale. sets: how many of the scale's it has columns
    for; claims are tested on those that stand for the paper's.
    costs: passes and latency beside accuracy. also: what else the paper calls it.
    later: its directions are of papers after CODI's.
    """

    name: str
    title: str
    rows: dict[str, tuple[float | None, ...]]
    claims: tuple[Claim, ...] = ()
    sets: int = 1
    kind: str = "accuracy"
    seeds: tuple[int, ...] = (1, 2, 3)
    paper_seeds: tuple[int, ...] = (1, 2, 3)
    note: str = ""
    x: dict[str, float] = field(default_factory=dict)
    costs: bool = False
    also: tuple[str, ...] = ()
    later: bool = False


def _prompt(prompt: str, separator: str = " ", suffix: str = "") -> tuple[str, ...]:
    return (
        f'text.answer_prompt="{prompt}"',
        f'text.answer_separator="{separator}"',
        f'text.answer_suffix="{suffix}"',
        "text.distillation_token=prompt-end",
    )


_FIVE = (1, 2, 3, 4, 5)
_LATENTS = (0, 1, 2, 3, 4, 6, 8, 12)
_PROMPTS = (
    ("2", "Answer:", " ", ""),
    ("3", "Therefore, based on all previous calculations, we conclude that the final answer is:", " ", ""),
    ("4", "The answer is", " ", ""),
    ("5", "We give the answer as", " ", ""),
    ("6", "We find the answer to be", " ", ""),
    ("7", "The answer is boxed{", "", "}"),
)

VARIANTS: dict[str, Variant] = {
    variant.name: variant
    for variant in (
        Variant("start", "CoT-SFT without the last step, the warm start", "small-start",
                paper=("method.name=cot-sft", "method.keep_last_step=false")),
        Variant("cot-sft-start", "CoT-SFT, the warm start", "small-cot-sft-start",
                paper=("method.name=cot-sft",)),
        Variant("cot-sft", "CoT-SFT", "small-cot-sft", paper=("method.name=cot-sft",), sampled=True),
        Variant("no-cot-sft", "No-CoT-SFT", "small-no-cot-sft", paper=("method.name=no-cot-sft",)),
        Variant("codi", "CODI"),
        Variant("pause-tokens", "Pause tokens", "small-pause-tokens", paper=("method.name=pause-tokens",)),
        Variant("icot", "iCoT", "small-icot", recipe="gpt2-gsm8k-aug-icot"),
        Variant("coconut", "Coconut", "small-coconut", recipe="gpt2-gsm8k-aug-coconut"),
        Variant("pccot", "PCCoT", "small-pccot", recipe="gpt2-gsm8k-aug-pccot"),
        Variant("kava", "KaVa", "small-kava", recipe="gpt2-gsm8k-aug-kava"),
        Variant("lotus", "LOTUS", "small-lotus", recipe="gpt2-gsm8k-aug-lotus"),
        Variant("sim-cot", "SIM-CoT", "small-sim-cot", recipe="gpt2-gsm8k-aug-sim-cot"),
        Variant("sim-cot-coconut", "SIM-CoT over Coconut", "small-sim-cot-coconut",
                paper=("method.name=sim-cot-coconut",), recipe="gpt2-gsm8k-aug-coconut"),
        Variant("adaptive", "CODI with a learned stop", "small-codi-adaptive",
                paper=("method.name=codi-adaptive", "method.latents=10", "method.extra=5")),
        Variant("static", "separate static teacher", "small-static-teacher",
                paper=("method.name=codi-static-teacher",), teacher="start"),
        Variant("static-multitask", "separate static teacher, multitask student", "small-static-teacher",
                small=("method.multitask_student=true",),
                paper=("method.name=codi-static-teacher", "method.multitask_student=true"), teacher="start"),
        Variant("static-from-teacher", "separate static teacher, student started from it",
                "small-static-teacher", small=("training.max_steps=1400",),
                paper=("method.name=codi-static-teacher",), teacher="start", from_teacher=True),
        Variant("static-shorter", "separate static teacher, shorter", "small-static-teacher",
                small=("training.max_steps=1400",),
                paper=("method.name=codi-static-teacher", "training.num_train_epochs=25"), teacher="start"),
        Variant("static-multitask-shorter", "separate static teacher, multitask student, shorter",
                "small-static-teacher", small=("method.multitask_student=true", "training.max_steps=1400"),
                paper=("method.name=codi-static-teacher", "method.multitask_student=true",
                       "training.num_train_epochs=25"), teacher="start"),
        Variant("without-l1", "without the L1 term", "small-codi-without-l1", paper=("method.beta=0",)),
        Variant("keep-last-step", "with the last CoT step", "small-codi-with-last-step",
                paper=("method.keep_last_step=true",)),
        Variant("without-projection", "without the projection", "small-codi-without-projection",
                paper=("model.projection=false",)),
        *(Variant(f"latents-{n}", f"CODI, {n} latents", overrides=(f"method.latents={n}",))
          for n in _LATENTS if n != 6),
        *(Variant(f"coconut-{n}", f"Coconut, {n} latents", "small-coconut",
                  ("method.c_thought=1", f"method.max_stage={n}"), recipe="gpt2-gsm8k-aug-coconut")
          for n in (1, 2, 3, 4)),
        Variant("res", "Res", "small-cot-sft", ("data.rationale_form=results",),
                paper=("method.name=cot-sft",)),
        Variant("op-res", "Op-Res", "small-cot-sft", ("data.rationale_form=operators-and-results",),
                paper=("method.name=cot-sft",)),
        *(Variant(f"beta-{n}", f"beta {n}", overrides=(f"method.beta={n}",), recipe="llama1b-gsm8k-aug")
          for n in (1, 5, 10, 20, 30)),
        *(Variant(f"gamma-{g}-{epochs}", f"gamma {g}, {epochs} epochs", small=(f"method.gamma={small}",),
                  paper=(f"method.gamma={g}", f"training.num_train_epochs={epochs}"), updates_factor=factor,
                  small_title=f"gamma {small} (paper: {g}), {share} of the updates")
          for g, small in (("0.5", "5"), ("1", "10"), ("2", "20"), ("3", "30"))
          for epochs, share, factor in (("20", "half", 0.5), ("40", "all", 1.0))
          if (g, epochs) != ("3", "40")),
        Variant("prompt-1", "The answer is:", paper=("training.num_train_epochs=20",), updates_factor=0.5),
        *(Variant(f"prompt-{number}", prompt, overrides=_prompt(prompt, separator, suffix),
                  paper=("training.num_train_epochs=20",), updates_factor=0.5,
                  start=f"start-prompt-{number}")
          for number, prompt, separator, suffix in _PROMPTS),
        *(Variant(f"start-prompt-{number}", f"The warm start with: {prompt}", "small-start",
                  small=_prompt(prompt, separator, suffix),
                  paper=("method.name=cot-sft", "method.keep_last_step=false"))
          for number, prompt, separator, suffix in _PROMPTS),
    )
}  # fmt: skip

TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        Table(
            "figure3", "Figure 3 and Table 1: the systems, in domain and out of it (GPT-2)",
            {
                "no-cot-sft": (19.1, 16.4, 4.3, 41.1), "cot-sft": (44.1, 41.8, 9.8, 90.7),
                "icot": (30.1, 29.4, 5.7, 55.5), "coconut": (34.1, 36.4, 7.9, 82.2),
                "pause-tokens": (None, None, None, None), "codi": (43.7, 42.9, 9.9, 92.8),
            },
            (
                Claim("CODI is above Coconut", "codi", "coconut"),
                Claim("CODI is above iCoT", "codi", "icot"),
                Claim("CODI is above No-CoT-SFT", "codi", "no-cot-sft"),
                Claim("Coconut is above iCoT", "coconut", "icot"),
                Claim("iCoT is above No-CoT-SFT", "icot", "no-cot-sft"),
            ),
            sets=5,
            seeds=_FIVE,
            also=("table1",),
            note="The paper has no pause tokens; they are the control for more computation without thoughts. "
            "`longer_chains` (two steps in a branch) is not in the paper either, and no direction is tested "
            "on it.",
        ),
        Table(
            "figure4", "Figure 4: latency and thought tokens at batch 1",
            {"cot-sft": (), "codi": (), "no-cot-sft": ()},
            kind="cost", seeds=(3,), paper_seeds=(1,),  # any one will do
            note="The paper: 3.1 times fewer thought tokens, 2.7 times the speed on GSM8k-Aug (A100).",
        ),
        Table(
            "figure5", "Figure 5: accuracy against the number of latents",
            {**{"codi" if n == 6 else f"latents-{n}": (None,) for n in _LATENTS},
             **{f"coconut-{n}": (None,) for n in (1, 2, 3, 4)}, "coconut": (None,)},
            (Claim("six latents are above one", "codi", "latents-1"),
             Claim("six latents are above twelve", "codi", "latents-12")),
            kind="curve", paper_seeds=(1,),
            x={**{"codi" if n == 6 else f"latents-{n}": float(n) for n in _LATENTS},
               **{f"coconut-{n}": float(n) for n in (1, 2, 3, 4)}, "coconut": 6.0},
            note="The paper draws this figure without giving numbers; its peak is at six.",
        ),
        Table(
            "table2", "Table 2: ablations of CODI (GPT-2, GSM8K)",
            {"no-cot-sft": (19.1,), "codi": (43.7,), "static": (27.1,), "static-multitask": (42.2,),
             "static-shorter": (None,), "static-multitask-shorter": (None,), "static-from-teacher": (None,),
             "without-l1": (24.5,), "keep-last-step": (31.7,), "without-projection": (42.5,)},
            tuple(
                Claim(f"CODI is above CODI {VARIANTS[name].title}", "codi", name)
                for name in (
                    "static", "static-multitask", "without-l1", "keep-last-step", "without-projection"
                )
            ),
            seeds=_FIVE,
            note="Small scale: the student of a static teacher, which has been trained before, has as many "
            "updates as CODI and its start together. `shorter` (at the paper's scale 25 of the 40 epochs): "
            "as many as CODI after its start, so that the teacher's are counted too; the paper has no such "
            "row, and no direction is tested on it.",
        ),
        Table(
            "a3", "Table A3: trained on what the thoughts decode to (GPT-2)",
            {"no-cot-sft": (19.1,), "codi": (43.7,), "coconut": (34.1,), "res": (34.0,), "op-res": (35.7,)},
            (Claim("CODI is above Res", "codi", "res"), Claim("CODI is above Op-Res", "codi", "op-res"),
             Claim("Res is above No-CoT-SFT", "res", "no-cot-sft")),
            seeds=_FIVE,
        ),
        Table(
            "a4", "Table A4: the weight of the distillation, beta (LLaMA-1B)",
            {"beta-1": (46.5,), "beta-5": (50.2,), "beta-10": (49.1,), "beta-20": (51.9,),
             "beta-30": (51.4,)},
            (Claim("beta 20 is above beta 1", "beta-20", "beta-1"),), paper_seeds=(1,),
            note="gamma stays at CODI's own value; at small scale that is 10.",
        ),
        Table(
            "a5", "Table A5: the weight of the teacher's loss, gamma, and the length of training (GPT-2)",
            {"gamma-0.5-20": (36.3,), "gamma-0.5-40": (38.2,), "gamma-1-20": (38.4,), "gamma-1-40": (43.7,),
             "gamma-2-20": (41.6,), "gamma-2-40": (41.9,), "gamma-3-20": (40.8,)},
            (Claim("gamma 2 is above gamma 0.5 in short training", "gamma-2-20", "gamma-0.5-20"),
             Claim("gamma 1 is above gamma 2 at the end", "gamma-1-40", "gamma-2-40")),
            paper_seeds=(1,),
            note="Small scale: 20 and 40 epochs stand for half and all of the updates after the start. The "
            "teacher's loss is weighed against the distillation, whose weight there is 20 and not 1; CODI's "
            "gamma is 10 with it, so each of the paper's values is taken ten times.",
        ),
        Table(
            "a6", "Table A6: answer prompt and distillation token (GPT-2, 20 epochs)",
            {"prompt-1": (39.0,), "prompt-2": (38.4,), "prompt-3": (40.2,), "prompt-4": (38.1,),
             "prompt-5": (40.1,), "prompt-6": (39.0,), "prompt-7": (38.4,)},
            paper_seeds=(1,),
            note="A prompt differs when it lies more than 2 standard deviations of five runs of the baseline "
            "from its mean (the paper's rule; its deviation was 0.9). Small scale: half of the updates after "
            "the start, which is trained with the same prompt.",
        ),
        Table(
            "family", "The family: what came after CODI, in domain and out of it (GPT-2)",
            {
                "no-cot-sft": (19.1, 16.4, 4.3, 41.1), "cot-sft": (44.1, 41.8, 9.8, 90.7),
                "icot": (30.1, 29.4, 5.7, 55.5), "coconut": (34.1, 36.4, 7.9, 82.2),
                "pause-tokens": (None,) * 4, "codi": (43.7, 42.9, 9.9, 92.8),
                "adaptive": (None,) * 4, "pccot": (None,) * 4, "kava": (None,) * 4, "lotus": (None,) * 4,
                "sim-cot": (42.6, None, None, None), "sim-cot-coconut": (44.8, None, None, None),
            },
            tuple(
                Claim(f"{VARIANTS[better].title} is above {VARIANTS[worse].title}", better, worse, ("gsm8k",))
                for better, worse in (
                    ("sim-cot", "codi"), ("sim-cot-coconut", "coconut"), ("kava", "codi"), ("kava", "pccot"),
                    ("lotus", "kava"), ("lotus", "sim-cot"),
                )
            ),
            sets=5, costs=True, later=True,
            note="Figures of the CODI paper for figure 3's systems, of the SIM-CoT paper for its own (its "
            "authors': CODI 42.0, Coconut 36.6 there). PCCoT, KaVa and LOTUS give none in text for GPT-2; "
            "the directions are from LLaMA-1B (PCCoT 53.4, CODI 55.6, SIM-CoT on CODI 56.1, KaVa 56.5) and, "
            "for LOTUS, from 3B (LOTUS 70.0, KaVa 65.7, SIM-CoT on CODI 62.3). Sources: docs/methods.md. "
            "The later papers' figures are of GSM8k, so their directions are tested on the set that stands "
            "for it.",
        ),
    )
}  # fmt: skip
