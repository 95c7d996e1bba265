"""The released code's way of answering, faults included, against a recomputation without a cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from codi.cli import app
from codi.errors import UsageError
from codi.generation.answer import Answer
from codi.generation.decoding import Sampling
from codi.generation.latent_reasoner import LatentReasoner
from codi.generation.published_behaviour import PublishedBehaviour
from codi.modeling.conversion import PublishedRows
from published_checkpoints import published
from tiny_checkpoints import tiny_reasoner

QUESTIONS = [
    "Mia has 3 apples and buys 4 more . How many apples does Mia have ?",
    "How many apples ?",
    "On Monday the price rises by 2 dollars . What does it cost now ?",
]
LATENTS, TOKENS = 6, 5


@pytest.fixture(params=["gpt2", "llama"])
def converted(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[LatentReasoner, PublishedRows]:
    source, base = published(tmp_path, request.param)
    words = ["convert", str(source), "--output", str(tmp_path / "new"), "--base", str(base)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    rows = PublishedRows.load(tmp_path / "new")
    assert rows is not None
    return LatentReasoner.from_pretrained(tmp_path / "new", device="cpu"), rows


@torch.no_grad()
def literal(reasoner: LatentReasoner, rows: PublishedRows | None, questions: list[str]) -> list[list[int]]:
    """TOKENS greedy tokens per question (up to the end of text). Everything is read again at each pass."""
    model, text = reasoner.model, reasoner.text
    embedding: Tensor = model.causal.get_input_embeddings().weight
    vocabulary = len(embedding)
    own_padding = reasoner.tokenizer.pad_token_id is not None or rows is None
    padding = embedding[text.pad_id] if own_padding or rows is None else rows.padding
    table = torch.cat([embedding, padding[None], model.thought_tokens])  # then <bot>, <eot>
    ids = [text.question(question) for question in questions]
    width = max(map(len, ids))
    fill = [width - len(one) for one in ids]
    padded = [[vocabulary] * n + one + [vocabulary + 1] for n, one in zip(fill, ids, strict=True)]
    inputs = table[torch.tensor(padded)]

    def last(inputs: Tensor) -> Tensor:
        length = inputs.shape[1]
        allowed = torch.ones(length, length, dtype=torch.bool).tril().repeat(len(ids), 1, 1)
        for row, n in enumerate(fill):
            allowed[row, : width + 1, :n] = False  # the question and <bot> do not see padding ...
            allowed[row, :n, : width + 1] = True  # ... padding sees the whole question, also what comes later
        added = torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)
        positions = torch.arange(length)[None]
        hidden = model.causal.base_model(
            inputs_embeds=inputs, attention_mask=added[:, None], position_ids=positions, use_cache=False
        ).last_hidden_state
        return hidden[:, -1]  # type: ignore[no-any-return]

    for _ in range(LATENTS):
        inputs = torch.cat([inputs, model.projection(last(inputs))[:, None]], 1)
    inputs = torch.cat([inputs, table[-1].expand(len(ids), 1, -1)], 1)
    written: list[list[int]] = [[] for _ in ids]
    for _ in range(TOKENS):
        hidden = last(inputs)
        scores = model.logits(hidden)
        if rows is not None:
            scores = torch.cat([scores, hidden @ rows.head.T], -1)
        tokens = scores.argmax(-1)
        for row, token in enumerate(tokens.tolist()):
            written[row].append(token)
        inputs = torch.cat([inputs, table[tokens][:, None]], 1)
    return [one[: one.index(text.eos_id)] if text.eos_id in one else one for one in written]


def answers(behaviour: PublishedBehaviour, questions: list[str], **options: Any) -> list[Answer]:
    found = [pair for batch in behaviour.answer_batches(questions, **options) for pair in batch]
    assert [place for place, _ in found] == list(range(len(questions)))
    return [answer for _, answer in found]


def test_it_answers_as_the_released_code(converted: tuple[LatentReasoner, PublishedRows]) -> None:
    reasoner, rows = converted
    behaviour = PublishedBehaviour(reasoner, rows, "float32")
    vocabulary = behaviour.vocabulary
    for batch in (QUESTIONS, QUESTIONS[:1], QUESTIONS[::-1]):
        expected = [
            reasoner.text.decode([token for token in one if token < vocabulary])
            for one in literal(reasoner, rows, batch)
        ]
        found = answers(behaviour, batch, batch_size=3, max_new_tokens=TOKENS)
        assert [answer.text for answer in found] == expected
        assert {answer.thoughts for answer in found} == {LATENTS + 2}


def test_padding_reaches_the_answer_there_and_not_here() -> None:
    """The fault itself: what a short question thinks depends on the long one beside it."""
    reasoner = tiny_reasoner("codi")
    behaviour = PublishedBehaviour(reasoner, dtype="float32")
    seen: list[Tensor] = []
    usual = behaviour._scores
    behaviour._scores = lambda hidden: seen.append(hidden) or usual(hidden)  # type: ignore[method-assign,func-returns-value]
    answers(behaviour, QUESTIONS[1:2], max_new_tokens=1)
    answers(behaviour, QUESTIONS[:2], max_new_tokens=1)
    assert (seen[0][0] - seen[1][1]).abs().max() > 1e-3
    alone = reasoner.answer(QUESTIONS[1:2])[0]
    assert reasoner.answer(QUESTIONS[:2])[1] == alone


def test_what_it_is_not_for() -> None:
    with pytest.raises(UsageError, match="this is a cot-sft model"):
        PublishedBehaviour(tiny_reasoner("cot-sft"))
    with pytest.raises(UsageError, match="The type 'int4' is unknown"):
        PublishedBehaviour(tiny_reasoner("codi"), dtype="int4")
    behaviour = PublishedBehaviour(tiny_reasoner("codi"))
    for options in ({"mode": "explicit"}, {"sampling": Sampling(temperature=0.5)}):
        with pytest.raises(UsageError, match="greedy and latent"):
            answers(behaviour, QUESTIONS, **options)


def test_eval_prints_both(tmp_path: Path) -> None:
    tiny_reasoner("codi").save_pretrained(tmp_path / "codi")
    file = tmp_path / "mine.jsonl"
    rows = [{"question": question, "answer": "7"} for question in QUESTIONS]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [
        "eval", tmp_path / "codi", "--benchmark", file, "--batch-size", "3", "--latency-questions", "1",
        "--published-behaviour", "--published-dtype", "float32", "--device", "cpu",
        "--output", tmp_path / "eval.json", "--predictions", tmp_path / "predictions",
    ]  # fmt: skip
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    assert "as published" in " ".join(result.output.split())
    (found,) = json.loads((tmp_path / "eval.json").read_text())["benchmarks"].values()
    assert found["published_behaviour"]["n"] == found["n"] == 3
    assert len(list((tmp_path / "predictions").glob("*.published.jsonl"))) == 1
    for other in (("--temperature", "0.5"), ("--stop", "confident")):
        refused = CliRunner().invoke(app, [str(word) for word in [*words, "--overwrite", *other]])
        assert refused.exit_code == 2
        assert "greedy and latent" in " ".join(refused.output.split())
    refused = CliRunner().invoke(app, [str(word) for word in [*words, "--overwrite", "--dtype", "bfloat16"]])
    assert refused.exit_code == 2
    assert "round them once more" in " ".join(refused.output.split())
