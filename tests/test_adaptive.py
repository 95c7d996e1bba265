"""Thinking that ends by itself: its loss against the equation, what is counted, and batches of any size."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from typer.testing import CliRunner

from codi.cli import app
from codi.errors import RecipeError, UsageError
from codi.evaluation.runner import evaluate
from codi.evaluation.stop_curve import FIXED, draw, stop_curve
from codi.generation.latent_reasoner import LatentReasoner
from codi.interpretability.thinking import think_through
from codi.methods.coconut import Coconut
from codi.methods.codi import Codi
from codi.methods.codi_adaptive import HEAD, CodiAdaptive, stop_logits
from codi.modeling.context import Tokens
from codi.modeling.model import ThoughtModel
from codi.publishing.prompt_embeddings import prompt_embeddings
from codi.serving.engine import Engine, Question
from codi.training.run import train
from family_literal import embedded, whole_pass
from test_engine import Asked
from tiny_models import (
    EXAMPLES,
    LORA,
    assert_same_gradients,
    encoded_batch,
    gradients,
    reasoner,
    tiny_model,
    word_encoder,
)

QUESTIONS = [example.question for example in EXAMPLES]


def model_of(family: str = "llama", **settings: Any) -> ThoughtModel:
    return tiny_model(family, rows=list(HEAD), **settings)


def stopping(rule: str, threshold: float, **options: Any) -> LatentReasoner:
    return reasoner(CodiAdaptive(**options), model_of()).stopping(rule, threshold)


RULES = [("learned", 0.5), ("confident", 0.4)]
"""With thresholds at which these questions stop after different numbers of thoughts."""


def test_of_the_four_examples_two_have_fewer_steps_than_thoughts() -> None:
    thoughts = encoded_batch(CodiAdaptive(latents=2))["thoughts"]
    assert thoughts.tolist() == [2, 1, 2, 2]  # of 3, 1, 2 and 2 steps
    assert encoded_batch(CodiAdaptive(latents=6, extra=1))["thoughts"].tolist() == [4, 2, 3, 3]


@pytest.mark.parametrize("settings", [{}, {"family": "gpt2"}, {"lora": LORA}], ids=["llama", "gpt2", "lora"])
def test_the_loss_is_codis_and_the_heads(settings: dict[str, Any]) -> None:
    """Row by row, without padding or cache: every row thinks its own number, and each thought is judged."""
    method = CodiAdaptive(latents=3, stop_weight=0.7, divide_by_std=False)
    model, text = model_of(**settings), word_encoder()
    head = torch.stack([model.rows[name] for name in HEAD])
    codi, judged, number = torch.zeros(()), torch.zeros(()), 0
    batch = encoded_batch(method)
    n = method.divisors(batch)
    for example in EXAMPLES:
        row = method.encode(example, text)
        z = [model.thought_tokens[:1]]
        question = embedded(model, row["question"])
        for k in range(row["thoughts"]):
            h = whole_pass(model, question, *z).states[-1][-1:]
            if k:
                judged = judged + F.cross_entropy(h @ head.T, torch.tensor([0]), reduction="sum")
            z.append(model.projection(h))
        h = whole_pass(model, question, *z).states[-1][-1:]
        judged = judged + F.cross_entropy(h @ head.T, torch.tensor([1]), reduction="sum")
        number += row["thoughts"]
        alone = Codi(latents=row["thoughts"], divide_by_std=False)
        codi = codi + alone.loss(model, encoded_batch(alone, (example,)), n)["loss"]
    ours = method.loss(model, batch)
    torch.testing.assert_close(ours["stop"], judged / number, rtol=1e-5, atol=0)
    theirs = codi + 0.7 * judged / number
    torch.testing.assert_close(ours["loss"], theirs, rtol=1e-5, atol=0)
    assert_same_gradients(gradients(model, ours["loss"]), gradients(model, theirs))


def test_without_its_weight_and_with_thoughts_enough_it_is_codi() -> None:
    model = model_of()
    method, codi = CodiAdaptive(latents=2, extra=2, stop_weight=0.0), Codi(latents=2)
    ours, theirs = (one.loss(model, encoded_batch(one)) for one in (method, codi))
    assert torch.equal(ours["loss"], theirs["loss"])


@pytest.mark.parametrize(("rule", "threshold"), RULES)
@torch.no_grad()
def test_what_is_thought_follows_the_rule(rule: str, threshold: float) -> None:
    """Thought by thought by hand: the first at which the rule holds is the last."""
    one = stopping(rule, threshold, latents=6)
    model = one.model
    for question in QUESTIONS:
        ids = one.text.question(question)
        context = model.read(Tokens.repeated([*ids, model.bot_id], 1, model.device)).context
        number, ends = 0, False
        while number < 6 and not ends:
            before, context, number = context, model.think(context, 1), number + 1
            if rule == "learned":
                stop, go_on = (float(context.last_hidden[0] @ model.rows[name]) for name in reversed(HEAD))
                ends = stop >= go_on
            else:
                p, q = (model.logits(c.last_hidden[0]).softmax(-1) for c in (before, context))
                ends = float((p - q).clamp(min=0).sum()) < threshold
        answer = one.answer([question], max_new_tokens=5)[0]
        assert answer.thoughts == number + 2
        assert answer.passes == number + 2 + answer.answer_tokens - (not answer.finished)


@pytest.mark.parametrize(("rule", "threshold"), RULES)
def test_a_batch_of_any_size_and_the_engine_give_the_same(rule: str, threshold: float) -> None:
    one = stopping(rule, threshold, latents=6)
    alone = [one.answer([question], max_new_tokens=6)[0] for question in QUESTIONS]
    assert len({answer.thoughts for answer in alone}) > 1
    assert one.answer(QUESTIONS, max_new_tokens=6) == alone
    engine = Engine(one)
    try:
        asked = [
            Asked(engine, Question(q, max_new_tokens=6, in_pieces=False, decoded_thoughts=True))
            for q in QUESTIONS
        ]
        for expected, question in zip(alone, asked, strict=True):
            _, finished = question.finished()
            assert finished.answer == expected
            assert finished.latent_tokens == expected.thoughts
            assert finished.decoded is not None
            assert len(finished.decoded) == expected.thoughts - 2
            assert [len(tokens) for tokens in finished.decoded] == [5] * (expected.thoughts - 2)
            theirs = one.decode_thoughts(expected.question)
            assert [t[0][0] for t in finished.decoded] == [t[0][0] for t in theirs]
    finally:
        engine.close()


def test_evaluation_counts_what_was_thought_and_draws_the_curve(tmp_path: Path) -> None:
    one = stopping("learned", 0.5, latents=6)
    result = evaluate(one, EXAMPLES, scorer="number", latency_questions=0, max_new_tokens=6)
    alone = [one.answer([question], max_new_tokens=6)[0] for question in QUESTIONS]
    assert result.thought_tokens == sum(answer.thoughts for answer in alone) / 4
    assert result.sequential_passes == sum(answer.passes for answer in alone) / 4

    points = stop_curve(
        one, EXAMPLES, ["learned", "confident"], [0.0, 0.5, 1.0], scorer="number", max_new_tokens=6
    )
    assert [point.thoughts for point in points if point.rule == FIXED] == [0, 1, 2, 3, 4, 5, 6]
    learned = [point.thoughts for point in points if point.rule == "learned"]
    assert learned == [1.0, result.thought_tokens - 2, 6.0]  # a higher threshold thinks longer
    confident = [point.thoughts for point in points if point.rule == "confident"]
    assert confident[0] == 6.0
    assert confident == sorted(confident, reverse=True)
    draw(points, tmp_path / "curves" / "curve.png")
    assert (tmp_path / "curves" / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_measures_draws_and_writes(tmp_path: Path) -> None:
    reasoner(CodiAdaptive(latents=2), model_of()).save_pretrained(tmp_path / "model")
    rows = [{"question": e.question, "answer": e.answer} for e in EXAMPLES]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = [
        "stop-curve", tmp_path / "model", "--benchmark", tmp_path / "mine.jsonl", "--rule", "learned",
        "--threshold", "0.5", "--max-new-tokens", "4", "--output", tmp_path / "curve.json",
        "--figure", tmp_path / "curve.svg", "--device", "cpu",
    ]  # fmt: skip
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    points = json.loads((tmp_path / "curve.json").read_text())["points"]
    assert [(point["rule"], point["at"]) for point in points] == [
        (FIXED, 0.0), (FIXED, 1.0), (FIXED, 2.0), ("learned", 0.5),
    ]  # fmt: skip
    assert "<svg" in (tmp_path / "curve.svg").read_text()

    for rule, said in (
        ("learned:0.7", "Write --rule learned --threshold 0.7"),
        ("never", "The rule 'never' ends no thinking"),
    ):
        again = CliRunner().invoke(app, ["stop-curve", *map(str, arguments[1:4]), "--rule", rule])
        assert again.exit_code == 2
        assert said in " ".join(again.output.split())

    asked = ["generate", str(tmp_path / "model"), QUESTIONS[0], "--device", "cpu", "--stop"]
    shown = CliRunner().invoke(app, [*asked, "confident:1", "--json"])
    assert json.loads(shown.stdout)["thoughts"] == 3  # one thought: no two differ by more than 1
    refused = CliRunner().invoke(app, [*asked, "learned:much"])
    assert "The threshold 'much' of the rule 'learned' is no number" in refused.output


@pytest.mark.parametrize("command", ["eval", "generate", "export"])
def test_a_rule_is_refused_where_nothing_is_thought(command: str, tmp_path: Path) -> None:
    model, file, out = tmp_path / "model", tmp_path / "mine.jsonl", tmp_path / "out"
    reasoner(CodiAdaptive(latents=2), model_of()).save_pretrained(model)
    file.write_text(json.dumps({"question": EXAMPLES[0].question, "answer": EXAMPLES[0].answer}) + "\n")
    given = {
        "eval": ["--benchmark", file, "--output", out, "--max-new-tokens", 4],
        "generate": ["--file", file, "--max-new-tokens", 4],
        "export": ["--prompt-embeds", file, "--output", out],
    }  # fmt: skip
    words = [command, model, *given[command], "--device", "cpu", "--stop", "confident:1"]
    modes = [] if command == "export" else [["--mode", "explicit"]]
    for more in (["--latents", 0], *modes):
        refused = CliRunner().invoke(app, list(map(str, [*words, *more])))
        assert refused.exit_code == 2
        assert f"--stop confident:1 was given with {more[0]} {more[1]}" in " ".join(refused.output.split())
        assert not out.exists()
    done = CliRunner().invoke(app, list(map(str, words)))
    assert done.exit_code == 0, done.output
    if command == "export":
        bare = [word for word in words if word not in ("--prompt-embeds", file)]
        refused = CliRunner().invoke(app, list(map(str, [*bare, "--overwrite"])))
        assert "no questions were given" in " ".join(refused.output.split())


def test_saved_and_loaded_it_stops_as_before(tmp_path: Path) -> None:
    one = stopping("learned", 0.4, latents=6)
    one.save_pretrained(tmp_path / "model")
    loaded = LatentReasoner.from_pretrained(tmp_path / "model", device="cpu")
    assert loaded.method == one.method
    assert loaded.answer(QUESTIONS, max_new_tokens=4) == one.answer(QUESTIONS, max_new_tokens=4)


def test_it_goes_on_from_a_codi_checkpoint_and_learns_its_head(tmp_path: Path) -> None:
    short = {
        "training.max_steps": 2, "data.train": "two-branches?count=64", "data.validation_limit": 2,
        "training.eval_steps": 2, "training.disable_tqdm": True,
    }  # fmt: skip
    train("small-codi", tmp_path / "codi", {**short, "start": None}, say=lambda _: None)
    went_on = {**short, "start": str(tmp_path / "codi"), "training.learning_rate": 1e-6}
    train("small-codi-adaptive", tmp_path / "adaptive", went_on, say=lambda _: None)
    before, after = (LatentReasoner.from_pretrained(tmp_path / name) for name in ("codi", "adaptive"))
    for name, weight in before.model.projection.state_dict().items():
        torch.testing.assert_close(after.model.projection.state_dict()[name], weight, atol=1e-4, rtol=0)
    assert set(HEAD) <= set(after.model.row_names)
    assert after.stopping("learned:0").answer(["Ben gets 4."], max_new_tokens=2)[0].thoughts == 3


def test_a_trained_codi_stops_when_it_is_confident() -> None:
    plain = reasoner(Codi(latents=4, beta=3.0), tiny_model("llama"))
    one = plain.stopping("confident:1")
    assert isinstance(one.method, CodiAdaptive)
    assert one.method.beta == 3.0
    assert [answer.thoughts for answer in one.answer(QUESTIONS, max_new_tokens=2)] == [3] * 4
    never = plain.stopping("never").answer(QUESTIONS, max_new_tokens=4)
    assert never == plain.answer(QUESTIONS, max_new_tokens=4)


def test_latents_asked_for_are_the_most() -> None:
    one = stopping("learned", 1.0, latents=6)
    assert [answer.thoughts for answer in one.answer(QUESTIONS, latents=2, max_new_tokens=2)] == [4] * 4
    assert [answer.thoughts for answer in one.answer(QUESTIONS, latents=0, max_new_tokens=2)] == [2] * 4
    with pytest.raises(UsageError, match="-1 latents were asked for"):
        one.answer(QUESTIONS, latents=-1)


def test_prompts_hold_the_thoughts_that_were_thought() -> None:
    one = stopping("learned", 0.5, latents=6)
    answers, prompts = one.answer(QUESTIONS, max_new_tokens=2), prompt_embeddings(one, QUESTIONS)
    for answer, prompt in zip(answers, prompts, strict=True):
        read = len(one.text.question(answer.question)) + answer.thoughts + len(one.text.prompt_ids)
        assert prompt.shape[0] == read


def test_the_head_says_two_things() -> None:
    model = model_of()
    h = torch.randn(3, 2, model.hidden_size)
    logits = stop_logits(model, h)
    assert logits.shape == (3, 2, 2)
    torch.testing.assert_close(logits[1, 0, 1], h[1, 0] @ model.rows["<stop>"])


def test_what_cannot_be_is_refused() -> None:
    plain = reasoner(Codi(), tiny_model("llama"))
    with pytest.raises(UsageError, match="this model has no stop head"):
        plain.stopping("learned")
    with pytest.raises(UsageError, match="'stop' was asked of a coconut model"):
        reasoner(Coconut(), tiny_model("llama", projection=False)).stopping("confident")
    with pytest.raises(UsageError, match="stop is 'surely'"):
        plain.stopping("surely")
    with pytest.raises(UsageError, match="threshold is 2; it must lie between 0 and 1"):
        plain.stopping("confident", 2.0)
    with pytest.raises(UsageError, match=r"'learned:0.7' says its threshold itself, and 0.2 was given"):
        plain.stopping("learned:0.7", 0.2)
    for rule, threshold in (("never:0.3", None), ("never", 0.3)):
        with pytest.raises(UsageError, match="'never' thinks all thoughts and has no threshold"):
            plain.stopping(rule, threshold)
    with pytest.raises(UsageError, match="mode 'explicit' has none"):
        stop_curve(plain, EXAMPLES, ["confident"], mode="explicit")
    with pytest.raises(RecipeError, match=r"method.latents is 0"):
        CodiAdaptive(latents=0)
    without = reasoner(CodiAdaptive(), tiny_model("llama"))
    with pytest.raises(UsageError, match="this model has no stop head"):
        without.answer(QUESTIONS)
    with pytest.raises(UsageError, match="ends its thinking by itself"):
        think_through(stopping("learned", 0.5), QUESTIONS)
    assert think_through(stopping("learned", 0.5).stopping("never"), QUESTIONS).number == 6
    assert asdict(replace(CodiAdaptive(), stop="never"))["stop"] == "never"
