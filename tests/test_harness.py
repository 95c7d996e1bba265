"""The harness's own runner gives what `codi eval` gives; log-likelihoods against a recomputation."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from codi.data.word_problems import generate
from codi.errors import UsageError
from codi.evaluation.benchmarks import load_benchmark
from codi.evaluation.runner import evaluate
from codi.evaluation.scorers import get_scorer
from codi.generation.latent_reasoner import LatentReasoner
from codi.modeling.configuration import TextFormat
from codi.modeling.context import Tokens
from tiny_checkpoints import tiny_reasoner

lm_eval = pytest.importorskip("lm_eval")
harness = pytest.importorskip("codi.evaluation.harness")
logging.getLogger("lm_eval").setLevel(logging.ERROR)

QUESTIONS = [
    "Mia has 3 apples and buys 4 more . How many apples does Mia have ?",
    "How many apples ?",
    "On Monday the price rises by 2 dollars . What does it cost now ?",
]


class Request:
    """As the harness hands it over."""

    def __init__(self, *args: Any) -> None:
        self.args = args


def fond_of(word: str, method: str, text: TextFormat | None = None) -> LatentReasoner:
    """An untrained model that often writes a word: others write it hardly ever."""
    reasoner = tiny_reasoner(method)
    if text is not None:
        reasoner = LatentReasoner(reasoner.model, reasoner.method, reasoner.tokenizer, text)
    reasoner.model.eval()
    with torch.no_grad():
        reasoner.model.causal.get_input_embeddings().weight[reasoner.text.single_token(word)] *= 6
    return reasoner


def fond_of_seven(method: str) -> LatentReasoner:
    """So that it writes numbers."""
    return fond_of("7", method)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("harness") / "codi"
    fond_of_seven("codi").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def reasoner(checkpoint: Path) -> LatentReasoner:
    return LatentReasoner.from_pretrained(checkpoint, device="cpu")


def run(task: str, file: Path, **options: Any) -> dict[str, Any]:
    found = lm_eval.simple_evaluate(
        tasks=[task],
        task_manager=harness.tasks(file=str(file), allow_partial=True),
        bootstrap_iters=0,
        **options,
    )
    assert found is not None
    return dict(found)


def test_the_harness_counts_what_codi_eval_counts(
    checkpoint: Path, reasoner: LatentReasoner, tmp_path: Path
) -> None:
    """Gold answers are the model's own wherever it wrote a number, so that some of them are right."""
    questions = [example.question for example in generate("test", 30)]
    read = [get_scorer("codi").parse(answer.text) for answer in reasoner.answer(questions)]
    assert any(read)
    file = tmp_path / "gsm8k.jsonl"
    rows = [
        {"question": question, "answer": gold if gold and number % 3 else "-1"}
        for number, (question, gold) in enumerate(zip(questions, read, strict=True))
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    examples, _, benchmark = load_benchmark("gsm8k", file=str(file), allow_partial=True)
    expected = evaluate(reasoner, examples, scorer=benchmark.scorer, latency_questions=0)
    found = run(
        "codi_gsm8k", file, model="codi", model_args=f"pretrained={checkpoint},device=cpu", batch_size=2
    )
    assert found["results"]["codi_gsm8k"]["acc,none"] == pytest.approx(expected.accuracy)
    assert 0 < expected.accuracy < 1
    answers = [row["resps"][0][0] for row in found["samples"]["codi_gsm8k"]]
    assert answers == [answer.text for answer in reasoner.answer(questions)]


def test_letters_are_scored_as_letters(tmp_path: Path) -> None:
    """Right where the model wrote the gold letter after its own prompt, which is not the usual one."""
    reasoner = fond_of("A", "codi", TextFormat(answer_prompt="We find the answer to be"))
    questions = [example.question for example in generate("test", 20)]
    read = [text.value for text in reasoner.answer(questions, max_new_tokens=1)]
    assert "A" in read
    assert set(read) != {"A"}
    file = tmp_path / "csqa.jsonl"
    rows = ({"question": q, "answer": "B" if i % 3 == 0 else "A"} for i, q in enumerate(questions))
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = run("codi_commonsenseqa", file, model=harness.CodiLM(reasoner), gen_kwargs={"max_gen_toks": 1})
    right = sum(letter == "A" for i, letter in enumerate(read) if i % 3)
    assert 0 < right < len(questions)
    assert found["results"]["codi_commonsenseqa"]["acc,none"] == pytest.approx(right / len(questions))


def test_every_benchmark_of_the_paper_is_a_task() -> None:
    names = set(harness.tasks().all_tasks)
    assert {f"codi_{name}" for name in ("gsm8k", "svamp", "gsm_hard", "multiarith", "commonsenseqa")} <= names


def test_settings_of_a_request_are_kept(reasoner: LatentReasoner) -> None:
    model = harness.CodiLM(reasoner, latents=3, seed=4)
    whole = reasoner.answer([QUESTIONS[0]], latents=3, max_new_tokens=9)[0].text
    sampled = reasoner.answer(
        [QUESTIONS[1]], latents=3, max_new_tokens=9, temperature=0.9, top_p=0.8, seed=4
    )[0]
    greedy = {"max_gen_toks": 9, "do_sample": False, "temperature": 0.5}
    assert model.generate_until(
        [
            Request(QUESTIONS[0], greedy),
            Request(QUESTIONS[1], {"max_gen_toks": 9, "do_sample": True, "temperature": 0.9, "top_p": 0.8}),
            Request(QUESTIONS[0], greedy | {"until": [whole[6:9]]}),
        ]
    ) == [whole, sampled.text, whole[: whole.index(whole[6:9])]]
    with pytest.raises(UsageError, match="Unknown generation settings: beams"):
        model.generate_until([Request(QUESTIONS[0], {"beams": 3})])


@pytest.mark.parametrize(("method", "mode"), [("codi", "latent"), ("no-cot-sft", "direct")])
def test_log_likelihoods_are_those_after_thoughts_and_prompt(method: str, mode: str) -> None:
    reasoner = fond_of_seven(method)
    pairs = [(QUESTIONS[0], " 7"), (QUESTIONS[1], " 7 apples now"), (QUESTIONS[2], "12 dollars")]
    model = harness.CodiLM(reasoner, batch_size=3)
    found = model.loglikelihood([Request(*pair) for pair in pairs])
    for (question, ending), (score, greedy) in zip(pairs, found, strict=True):
        ids = torch.tensor([reasoner.text.question(question)])
        start = reasoner.method.start(
            reasoner.model, reasoner.text, Tokens(ids, torch.ones_like(ids)), mode, None
        )
        context, expected, is_greedy = start.context, 0.0, True
        for token in reasoner.text.answer(ending.strip()).ids[len(start.written) : -1]:  # one at a time
            scores = reasoner.model.logits(context.last_hidden)[0].float().log_softmax(-1)
            expected += float(scores[token])
            is_greedy &= int(scores.argmax()) == token
            one = torch.tensor([[token]])
            context = reasoner.model.read(Tokens(one, torch.ones_like(one)), after=context).context
        assert score == pytest.approx(expected, abs=1e-4)
        assert greedy == is_greedy
    assert {greedy for _, greedy in found} == {True, False}


def test_padding_of_continuations_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    reasoner, seen = fond_of_seven("codi"), list[Tokens]()
    read = reasoner.model.read

    def watched(tokens: Tokens, **more: Any) -> Any:
        seen.append(tokens)
        return read(tokens, **more)

    monkeypatch.setattr(reasoner.model, "read", watched)
    endings = ("7 apples now", "7")
    harness.CodiLM(reasoner)._scored([(QUESTIONS[1], ending) for ending in endings])
    places, mask = seen[-1].places, seen[-1].mask
    assert places is not None
    assert places.tolist() == mask.flatten().nonzero().flatten().tolist()
    assert len(places) < mask.numel()


def test_what_is_not_defined_is_refused(reasoner: LatentReasoner) -> None:
    with pytest.raises(UsageError, match="in explicit mode the rationale is the model's own"):
        harness.CodiLM(reasoner, reasoning="explicit").loglikelihood([Request("Q ?", "7")])
    with pytest.raises(UsageError, match="perplexity"):
        harness.CodiLM(reasoner).loglikelihood_rolling([Request("text")])
    with pytest.raises(UsageError, match="batch_size is 'auto'"):
        harness.CodiLM(reasoner, batch_size="auto")
