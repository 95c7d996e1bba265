"""The systems after CODI in everything else: engine, probe, published folder, exported prompts, harness."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from codi.errors import UsageError
from codi.generation.decoding import Sampling
from codi.generation.latent_reasoner import LatentReasoner
from codi.generation.published_behaviour import PublishedBehaviour
from codi.interpretability.report import probe
from codi.methods.codi_adaptive import CodiAdaptive
from codi.methods.kava import Kava
from codi.methods.lotus import Lotus
from codi.methods.method import Method
from codi.methods.pccot import Pccot
from codi.methods.sim_cot import SimCot
from codi.methods.sim_cot_coconut import SimCotCoconut
from codi.publishing.prompt_embeddings import export, prompt_embeddings
from codi.publishing.published_folder import how_it_thinks, write_folder
from codi.serving.engine import Engine, Question
from codi.serving.thought_session import ThoughtSession
from test_engine import Asked
from tiny_models import EXAMPLES, reasoner, tiny_model

QUESTIONS = [example.question for example in EXAMPLES]


@dataclass
class System:
    """A method, and its model's settings."""

    method: Method
    model: dict[str, Any] = field(default_factory=dict)

    def reasoner(self, family: str = "llama") -> LatentReasoner:
        return reasoner(self.method, tiny_model(family, rows=list(self.method.rows), **self.model))


SYSTEMS = {
    "pccot": System(Pccot(latents=5, rounds=3), {"projection": False}),
    "kava": System(Kava(latents=4, rounds=2)),
    "lotus": System(Lotus(blocks=2, width=3), {"projection": False}),
    "lotus, replacing": System(Lotus(blocks=2, width=2, loops=3, feedback="replace"), {"projection": False}),
    "sim-cot": System(SimCot(latents=4)),
    "sim-cot-coconut": System(SimCotCoconut(max_stage=2), {"projection": False}),
    "codi-adaptive": System(CodiAdaptive(latents=6)),
    "codi-adaptive, confident": System(CodiAdaptive(latents=6, stop="confident", threshold=0.4)),
}
TOGETHER = [name for name, system in SYSTEMS.items() if system.method.refines]


@pytest.fixture(params=SYSTEMS)
def system(request: pytest.FixtureRequest) -> System:
    return SYSTEMS[request.param]


def test_the_engine_gives_the_reasoners_answers(system: System) -> None:
    """All at once, with other numbers of latents and sampling among them, as one at a time."""
    asked = system.reasoner()
    settings: list[dict[str, Any]] = [{}, {"temperature": 0.8, "seed": 4}]
    if system.method.name != "lotus":
        settings.append({"latents": 2})
    engine = Engine(asked, max_batch=8, max_waiting=40)
    try:
        waiting = []
        for own in settings:
            options = dict(own)
            drawn = {name: options.pop(name) for name in ("temperature", "seed") if name in options}
            for text in QUESTIONS:
                [expected] = asked.answer([text], max_new_tokens=6, **options, **drawn)
                question = Question(text, sampling=Sampling(**drawn), max_new_tokens=6, **options)
                waiting.append((expected, Asked(engine, question), options.get("latents")))
        for expected, one, latents in waiting:
            pieces, finished = one.finished()
            assert finished.answer == expected
            assert "".join(pieces) == expected.text
            ids = [asked.text.question(expected.question)]
            assert finished.latent_tokens == asked.start(ids, latents=latents).spent()[0][0]
    finally:
        engine.close()


def test_a_published_folder_answers_without_this_package(system: System, tmp_path: Path) -> None:
    asked = system.reasoner()
    asked.save_pretrained(tmp_path / "trained")
    write_folder(asked, tmp_path / "trained", "org/mine", [], tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out", padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", trust_remote_code=True).eval()
    batch = tokenizer(QUESTIONS, return_tensors="pt", padding=True)
    ids = model.generate(**batch, max_new_tokens=6)[:, batch["input_ids"].shape[1] :]
    said = tokenizer.batch_decode(ids, skip_special_tokens=True)
    assert said == [answer.text for answer in asked.answer(QUESTIONS, max_new_tokens=6)]


def test_the_published_generate_does_not_take_what_it_does_not_know() -> None:
    class Another(Lotus):
        pass

    assert how_it_thinks(Another())["refine"] == how_it_thinks(Lotus())["refine"]

    class Unknown(SimCot):
        refines = True

    with pytest.raises(UsageError, match="a way that the generate which is published here does not know"):
        how_it_thinks(Unknown())


def test_a_plain_model_answers_after_the_exported_prompts(system: System, tmp_path: Path) -> None:
    asked = system.reasoner()
    export(asked, tmp_path / "out", QUESTIONS)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "model").eval()
    prompts = prompt_embeddings(asked, QUESTIONS)
    written = asked.start([asked.text.question(QUESTIONS[0])]).written
    for answer, prompt in zip(asked.answer(QUESTIONS, max_new_tokens=5), prompts, strict=True):
        ids = plain.generate(inputs_embeds=prompt[None], max_new_tokens=5, do_sample=False)[0].tolist()
        ids = [token for token in ids if token != asked.text.eos_id]
        assert asked.text.decode(written + ids) == answer.text


@pytest.mark.parametrize("name", TOGETHER)
def test_a_question_is_shown_round_by_round_and_place_by_place(name: str, tmp_path: Path) -> None:
    asked = SYSTEMS[name].reasoner()
    method, model = asked.method, asked.model
    found = probe(asked, QUESTIONS[0])
    report = found.question
    assert report is not None
    assert (report.attention, report.keys) == ([], [])
    thoughts = asked.start([asked.text.question(report.question)]).context.thoughts
    assert thoughts is not None
    rounds = how_it_thinks(method)["refine"]["rounds"]
    assert len(report.thoughts) == thoughts.shape[1]
    with torch.no_grad():
        for i, thought in enumerate(report.thoughts):
            assert len(thought.rounds) == rounds
            assert thought.rounds[-1][0].token == thought.tokens[0].token
            share = float(model.logits(thoughts[0, i]).softmax(-1).max())
            assert thought.tokens[0].share == pytest.approx(share, rel=1e-4)
            assert not thought.lens
    if isinstance(method, Pccot):  # what <bot> says goes into every round
        assert len({each[0].share for each in report.thoughts[0].rounds}) == 1
        assert len({each[0].share for each in report.thoughts[-1].rounds}) == rounds
    names = [thought.name for thought in report.thoughts]
    width = method.width if isinstance(method, Lotus) else 0
    assert names == ([f"z{i // width + 1}.{i % width + 1}" for i in range(len(names))] if width else
                     [f"z{i + 1}" for i in range(len(names))])  # fmt: skip
    found.save_page(tmp_path / "page.html")
    assert "what goes into each round" in (tmp_path / "page.html").read_text(encoding="utf-8")
    found.save_figures(tmp_path / "figures")
    assert {file.stem for file in (tmp_path / "figures").iterdir()} == {"rounds"}


def test_over_a_set_what_can_be_measured_is(system: System) -> None:
    asked = system.reasoner()
    if isinstance(system.method, CodiAdaptive):
        asked = asked.stopping("never")
    found = probe(asked, benchmark=EXAMPLES, parts=["table3", "interventions", "shortcuts"], batch_size=3)
    assert found.benchmark is not None
    assert found.benchmark.table3 is not None
    assert found.benchmark.interventions is not None
    assert found.benchmark.interventions.rows


@pytest.mark.parametrize("name", TOGETHER)
def test_the_page_says_that_it_shows_one_pass_a_thought(name: str) -> None:
    with pytest.raises(UsageError, match="the page shows one pass for each"):
        ThoughtSession(SYSTEMS[name].reasoner())


@pytest.mark.parametrize("name", ["pccot", "kava", "lotus", "codi-adaptive"])
def test_codis_published_behaviour_is_not_theirs(name: str) -> None:
    with pytest.raises(UsageError, match=rf"CODI's code, but this is a {name} model, which thinks otherwise"):
        PublishedBehaviour(SYSTEMS[name].reasoner())


def test_lm_eval_gets_the_same_texts(system: System) -> None:
    pytest.importorskip("lm_eval")
    from codi.evaluation.harness import CodiLM
    from test_harness import Request

    asked = system.reasoner()
    harness = CodiLM(asked, batch_size=3)
    until = {"until": ["\n\n"], "max_gen_toks": 5}
    said = harness.generate_until([Request(question, until) for question in QUESTIONS])
    assert said == [answer.text for answer in asked.answer(QUESTIONS, max_new_tokens=5)]
