"""What is run for each table and figure of the paper, and what the paper found. Data, no logic.

A **variant** is a system with its settings; with a seed it is a run. Tables share the runs of a variant. A
**claim** is a direction that the paper reports; it is checked against our figures, and a disagreement is
printed like an agreement.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Variant:
    """One system. overrides: settings at both scales; small, paper: at one of them.

    start: name of the variant (same seed) whose checkpoint it starts from at small scale (at the paper's,
    Coconut and iCoT start from the pretrained base, without LoRA); teacher: of its static teacher.
    sampled: answered ten times at temperature 0.1, as the paper does for CoT-SFT at its scale.
    recipe: the paper-scale recipe. steps_factor: training steps at small scale, as a multiple of the usual.
    """

    name: str
    title: str
    overrides: tuple[str, ...] = ()
    small: tuple[str, ...] = ()
    paper: tuple[str, ...] = ()
    start: str | None = None
    teacher: str | None = None
    sampled: bool = False
    recipe: str = "gpt2-gsm8k-aug"
    steps_factor: float = 1.0


@dataclass(frozen=True)
class Claim:
    """The paper's direction: `better` is above `worse` on the first set of the table's scale."""

    text: str
    better: str
    worse: str


@dataclass(frozen=True)
class Table:
    """One table or figure. rows: variant -> the paper's figures in % by paper set (None: not given).

    kind: `accuracy`, `cost` (latency and thought tokens), `curve` (accuracy against a number).
    also: what else the paper calls it.
    """

    name: str
    title: str
    rows: dict[str, tuple[float | None, ...]]
    claims: tuple[Claim, ...] = ()
    sets: int = 1
    kind: str = "accuracy"
    seeds: tuple[int, ...] = (1, 2, 3)
    note: str = ""
    x: dict[str, float] = field(default_factory=dict)
    also: tuple[str, ...] = ()


def _prompt(prompt: str, separator: str = " ", suffix: str = "") -> tuple[str, ...]:
    return (
        f'text.answer_prompt="{prompt}"',
        f'text.answer_separator="{separator}"',
        f'text.answer_suffix="{suffix}"',
        "text.distillation_token=prompt-end",
    )


_COCONUT_SMALL = ("model.projection=false", "method.epochs_per_stage=1", 'model.thought_tokens_from="<<"')
_LATENTS = (0, 1, 2, 3, 4, 6, 8, 12)

VARIANTS: dict[str, Variant] = {
    variant.name: variant
    for variant in (
        Variant("cot-sft", "CoT-SFT", ("method.name=cot-sft",), sampled=True),
        Variant("no-cot-sft", "No-CoT-SFT", ("method.name=no-cot-sft",)),
        Variant("codi", "CODI"),
        Variant("pause-tokens", "Pause tokens", ("method.name=pause-tokens",)),
        Variant(
            "icot", "iCoT", ("method.name=icot",), start="cot-sft", recipe="gpt2-gsm8k-aug-icot",
            small=("method.remove_per_epoch=8", "method.remove_all_beyond=32"),
        ),
        Variant(
            "coconut", "Coconut", ("method.name=coconut", *_COCONUT_SMALL[:1]), start="cot-sft",
            recipe="gpt2-gsm8k-aug-coconut", small=_COCONUT_SMALL[1:],
        ),
        *(Variant(f"{name}-long", title, (f"method.name={name}",), sampled=name == "cot-sft",
                  steps_factor=2.0)
          for name, title in (("cot-sft", "CoT-SFT"), ("no-cot-sft", "No-CoT-SFT"),
                              ("pause-tokens", "Pause tokens"), ("codi", "CODI"))),
        Variant(
            "icot-long", "iCoT, slower removal", ("method.name=icot",), start="cot-sft",
            recipe="gpt2-gsm8k-aug-icot", steps_factor=2.0,
            small=("method.remove_per_epoch=4", "method.remove_all_beyond=32"),
        ),
        Variant("teacher", "CoT-SFT without the last step",
                ("method.name=cot-sft", "method.keep_last_step=false")),
        Variant("static", "separate static teacher", ("method.name=codi-static-teacher",), teacher="teacher"),
        Variant("static-multitask", "separate static teacher, multitask student",
                ("method.name=codi-static-teacher", "method.multitask_student=true"), teacher="teacher"),
        Variant("without-l1", "without the L1 term", ("method.beta=0",)),
        Variant("keep-last-step", "with the last CoT step", ("method.keep_last_step=true",)),
        Variant("without-projection", "without the projection", ("model.projection=false",)),
        *(Variant(f"latents-{n}", f"CODI, {n} latents", (f"method.latents={n}",))
          for n in _LATENTS if n != 6),
        *(Variant(f"coconut-{n}", f"Coconut, {n} latents",
                  ("method.name=coconut", *_COCONUT_SMALL[:1], "method.c_thought=1", f"method.max_stage={n}"),
                  start="cot-sft", recipe="gpt2-gsm8k-aug-coconut", small=_COCONUT_SMALL[1:])
          for n in (1, 2, 3, 4)),
        Variant("res", "Res", ("method.name=cot-sft", "data.rationale_form=results")),
        Variant("op-res", "Op-Res", ("method.name=cot-sft", "data.rationale_form=operators-and-results")),
        *(Variant(f"beta-{n}", f"beta {n}", (f"method.beta={n}",), recipe="llama1b-gsm8k-aug")
          for n in (1, 5, 10, 20, 30)),
        *(Variant(f"gamma-{g}-{label}", f"gamma {g}, {label} epochs", (f"method.gamma={g}",),
                  paper=(f"training.num_train_epochs={label}",), steps_factor=factor)
          for g in ("0.5", "1", "2", "3") for label, factor in (("20", 0.5), ("40", 1.0))
          if (g, label) != ("3", "40")),
        Variant("prompt-1", "The answer is:", paper=("training.num_train_epochs=20",), steps_factor=0.5),
        *(Variant(f"prompt-{number}", prompt, _prompt(prompt, separator, suffix),
                  paper=("training.num_train_epochs=20",), steps_factor=0.5)
          for number, prompt, separator, suffix in (
              (2, "Answer:", " ", ""),
              (3, "Therefore, based on all previous calculations, we conclude that the final answer is:",
               " ", ""),
              (4, "The answer is", " ", ""),
              (5, "We give the answer as", " ", ""),
              (6, "We find the answer to be", " ", ""),
              (7, "The answer is boxed{", "", "}"),
          )),
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
            sets=4,
            also=("table1",),
            note="The paper has no pause tokens; they are the control for more computation without thoughts.",
        ),
        Table(
            "equal-updates", "The systems after equally many updates (not in the paper)",
            dict.fromkeys(
                ("no-cot-sft-long", "cot-sft-long", "icot", "icot-long", "coconut", "pause-tokens-long",
                 "codi-long"),
                (None,) * 4,
            ),
            tuple(
                Claim(f"CODI is above {VARIANTS[name].title}", "codi-long", name)
                for name in ("coconut", "icot", "icot-long", "no-cot-sft-long", "pause-tokens-long")
            ),
            sets=4,
            note="Figure 3's Coconut and iCoT start from CoT-SFT's checkpoint, so they have had twice the "
            "updates of the others at small scale. Here every system has had as many, that start included; "
            "iCoT with slower removal (4 tokens an epoch instead of 8) half as many again.",
        ),
        Table(
            "figure4", "Figure 4: latency and thought tokens at batch 1",
            {"cot-sft": (), "codi": (), "no-cot-sft": ()}, kind="cost", seeds=(1,),
            note="The paper: 3.1 times fewer thought tokens, 2.7 times the speed on GSM8k-Aug (A100).",
        ),
        Table(
            "figure5", "Figure 5: accuracy against the number of latents",
            {**{"codi" if n == 6 else f"latents-{n}": (None,) for n in _LATENTS},
             **{f"coconut-{n}": (None,) for n in (1, 2, 3, 4)}},
            (Claim("six latents are above one", "codi", "latents-1"),
             Claim("six latents are above twelve", "codi", "latents-12")),
            kind="curve", seeds=(1,),
            x={**{"codi" if n == 6 else f"latents-{n}": float(n) for n in _LATENTS},
               **{f"coconut-{n}": float(n) for n in (1, 2, 3, 4)}},
            note="The paper draws this figure without giving numbers; its peak is at six.",
        ),
        Table(
            "table2", "Table 2: ablations of CODI (GPT-2, GSM8K)",
            {"no-cot-sft": (19.1,), "codi": (43.7,), "static": (27.1,), "static-multitask": (42.2,),
             "without-l1": (24.5,), "keep-last-step": (31.7,), "without-projection": (42.5,)},
            tuple(
                Claim(f"CODI is above CODI {VARIANTS[name].title}", "codi", name)
                for name in (
                    "static", "static-multitask", "without-l1", "keep-last-step", "without-projection"
                )
            ),
        ),
        Table(
            "a3", "Table A3: trained on what the thoughts decode to (GPT-2)",
            {"no-cot-sft": (19.1,), "codi": (43.7,), "coconut": (34.1,), "res": (34.0,), "op-res": (35.7,)},
            (Claim("CODI is above Res", "codi", "res"), Claim("CODI is above Op-Res", "codi", "op-res"),
             Claim("Res is above No-CoT-SFT", "res", "no-cot-sft")),
        ),
        Table(
            "a4", "Table A4: the weight of the distillation, beta (LLaMA-1B)",
            {"beta-1": (46.5,), "beta-5": (50.2,), "beta-10": (49.1,), "beta-20": (51.9,),
             "beta-30": (51.4,)},
            (Claim("beta 20 is above beta 1", "beta-20", "beta-1"),), seeds=(1,),
        ),
        Table(
            "a5", "Table A5: the weight of the teacher's loss, gamma, and the length of training (GPT-2)",
            {"gamma-0.5-20": (36.3,), "gamma-0.5-40": (38.2,), "gamma-1-20": (38.4,), "gamma-1-40": (43.7,),
             "gamma-2-20": (41.6,), "gamma-2-40": (41.9,), "gamma-3-20": (40.8,)},
            (Claim("a higher gamma helps short training", "gamma-2-20", "gamma-0.5-20"),
             Claim("gamma 1 is best at the end", "gamma-1-40", "gamma-2-40")),
            seeds=(1,), note="Small scale: 20 and 40 epochs stand for half and whole of the usual steps.",
        ),
        Table(
            "a6", "Table A6: answer prompt and distillation token (GPT-2, 20 epochs)",
            {"prompt-1": (39.0,), "prompt-2": (38.4,), "prompt-3": (40.2,), "prompt-4": (38.1,),
             "prompt-5": (40.1,), "prompt-6": (39.0,), "prompt-7": (38.4,)},
            seeds=(1,),
            note="A prompt differs when it lies more than 2 standard deviations of five runs of the baseline "
            "from its mean (the paper's rule; its deviation was 0.9).",
        ),
    )
}  # fmt: skip
