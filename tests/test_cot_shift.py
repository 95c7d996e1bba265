"""The CoT shift against plain forward passes of transformers' own model, and its arithmetic by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from codi.data.example import Example
from codi.data.polynomial_iteration import generate
from codi.errors import DataError, UsageError
from codi.generation.latent_reasoner import LatentReasoner
from codi.interpretability.cot_shift import Average, CotShift, compare_shifts, cot_shift
from codi.methods.codi import Codi
from codi.methods.cot_sft import CotSft
from codi.methods.method import Method
from codi.methods.no_cot_sft import NoCotSft
from codi.methods.pause_tokens import PauseTokens
from codi.methods.static_teacher import StaticTeacher, load_teacher
from codi.modeling.model import ThoughtModel
from tiny_models import EXAMPLES, reasoner, tiny_model

LATENTS = 3


def recomputed(asked: LatentReasoner, example: Example, *, keep_last_step: bool = False) -> Tensor:
    """Plain, teacher's and student's state at the distillation token, layers 1..M: [3, M, d].

    One sequence at a time: no cache, no padding, no code of ours but the projection and the two new rows.
    """
    model, text, causal = asked.model, asked.text, asked.model.causal
    steps = example.steps if keep_last_step else example.steps[:-1]
    question = text.question(example.question)
    answer = text.answer(example.answer)
    prompt = answer.ids[: answer.distillation + 1]  # up to the distillation token, which comes last
    table = causal.get_input_embeddings()

    def embedded(ids: list[int]) -> Tensor:
        return table(torch.tensor([ids]))  # type: ignore[no-any-return]

    def last_states(inputs: Tensor) -> list[Tensor]:
        output = causal(inputs_embeds=inputs, output_hidden_states=True, use_cache=False)
        return [state[0, -1] for state in output.hidden_states]

    bot, eot = model.thought_tokens[0], model.thought_tokens[1]
    thinking = torch.cat([embedded(question), bot.expand(1, 1, -1)], 1)
    for _ in range(LATENTS):
        latent = model.projection(last_states(thinking)[-1])
        thinking = torch.cat([thinking, latent.expand(1, 1, -1)], 1)
    student = torch.cat([thinking, eot.expand(1, 1, -1), embedded(prompt)], 1)
    states = [
        last_states(embedded(question + prompt)),
        last_states(embedded(question + text.rationale(steps) + prompt)),
        last_states(student),
    ]
    return torch.stack([torch.stack(layers[1:]) for layers in states])


def expected(asked: LatentReasoner, examples: list[Example], *, keep_last_step: bool = False) -> Tensor:
    """Cosine, ratio and distance from the definition, mean over examples: [3, M]."""
    rows = []
    with torch.no_grad():
        for example in examples:
            plain, teacher, student = recomputed(asked, example, keep_last_step=keep_last_step).double()
            r, z = teacher - plain, student - plain
            size = (r * r).sum(-1).sqrt()
            cosine = (r * z).sum(-1) / size / (z * z).sum(-1).sqrt()
            distance = ((student - teacher) ** 2).sum(-1).sqrt() / size
            rows.append(torch.stack([cosine, (z * z).sum(-1).sqrt() / size, distance]))
    return torch.stack(rows).mean(0)


def means(shift: CotShift) -> Tensor:
    """[3, M]"""
    return torch.tensor(
        [[layer.cosine.mean, layer.norm_ratio.mean, layer.distance.mean] for layer in shift.layers],
        dtype=torch.float64,
    ).T


def asked_of(family: str, method: Method | None = None) -> LatentReasoner:
    return reasoner(method or Codi(latents=LATENTS), tiny_model(family))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("keep_last_step", [False, True])
def test_it_is_what_plain_forward_passes_give(family: str, keep_last_step: bool) -> None:
    asked = asked_of(family, Codi(latents=LATENTS, keep_last_step=keep_last_step))
    with_rationale = [e for e in EXAMPLES if len(e.steps) > (0 if keep_last_step else 1)]
    shift = cot_shift(asked, EXAMPLES)
    assert (shift.examples, shift.without_rationale) == (len(with_rationale), 4 - len(with_rationale))
    assert [layer.layer for layer in shift.layers] == [1, 2]
    wanted = expected(asked, with_rationale, keep_last_step=keep_last_step)
    torch.testing.assert_close(means(shift), wanted, rtol=1e-4, atol=1e-5)
    assert (wanted[2] > 0.1).all(), "the states differ, so that a mistake would show"


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_batch_of_one_equals_a_batch_of_all(family: str) -> None:
    asked = asked_of(family)
    examples = [*EXAMPLES, *generate("test", 6)]
    done: list[tuple[int, int]] = []
    alone = cot_shift(asked, examples, batch_size=1)
    together = cot_shift(asked, examples, batch_size=4, on_progress=lambda *now: done.append(now))
    assert done == [(4, 9), (8, 9), (9, 9)]
    torch.testing.assert_close(means(alone), means(together), rtol=1e-4, atol=1e-5)


def test_the_model_is_left_as_it_was() -> None:
    asked = asked_of("gpt2")
    asked.model.train()
    cot_shift(asked, EXAMPLES)
    assert asked.model.training
    assert asked.model.watcher is None
    assert all(weight.grad is None for weight in asked.model.parameters())


def test_arithmetic_by_hand() -> None:
    plain = torch.tensor([1.0, 1.0], dtype=torch.float64)
    teacher = torch.tensor([4.0, 5.0], dtype=torch.float64)  # shift (3, 4), length 5
    students = {
        (4.0, 5.0): (1.0, 1.0, 0.0),  # the teacher's own state
        (7.0, 9.0): (1.0, 2.0, 1.0),  # its direction, twice as far
        (-2.0, -3.0): (-1.0, 1.0, 2.0),  # the other way
        (5.0, -2.0): (0.0, 1.0, 2**0.5),  # shift (4, -3): at a right angle
        (1.0, 1.0): (0.0, 0.0, 1.0),  # thoughts that move nothing
    }
    rows = torch.tensor(list(students), dtype=torch.float64)
    found = compare_shifts(plain.expand_as(rows), teacher.expand_as(rows), rows)
    wanted = torch.tensor(list(students.values()), dtype=torch.float64).T
    torch.testing.assert_close(found, wanted)


def test_a_student_with_the_teachers_states_has_cosine_1_and_distance_0() -> None:
    torch.manual_seed(0)
    plain, teacher = torch.randn(2, 3, 5, 8, dtype=torch.float64)
    cosine, ratio, distance = compare_shifts(plain, teacher, teacher.clone())
    torch.testing.assert_close(cosine, torch.ones(3, 5, dtype=torch.float64))
    torch.testing.assert_close(ratio, torch.ones(3, 5, dtype=torch.float64))
    assert (distance == 0).all()


def test_interval() -> None:
    average = Average.of([1.0, 2.0, 3.0, 4.0])
    assert average.mean == 2.5
    margin = 1.96 * (5 / 3) ** 0.5 / 2  # sample deviation over the square root of n
    assert average.low == pytest.approx(2.5 - margin, abs=1e-3)
    assert average.high == pytest.approx(2.5 + margin, abs=1e-3)
    assert Average.of([2.0]) == Average(2.0, None, None)


def test_result_is_json_ready() -> None:
    values = json.loads(json.dumps(cot_shift(asked_of("llama"), EXAMPLES).as_dict(), allow_nan=False))
    assert (values["examples"], values["without_rationale"]) == (3, 1)
    assert values["layers"][0].keys() == {"layer", "cosine", "norm_ratio", "distance"}
    assert values["layers"][0]["cosine"].keys() == {"mean", "low", "high"}


def test_a_static_teacher_is_read_in_its_own_model(tmp_path: Path) -> None:
    """With the student's own weights as teacher it is CODI; with others it is not."""
    student = tiny_model("llama")
    codi = means(cot_shift(reasoner(Codi(latents=LATENTS), student), EXAMPLES))
    for name, model in (("same", tiny_model("llama")), ("other", tiny_model("llama", seed=2))):
        reasoner(CotSft(), model).save_pretrained(tmp_path / name)
        load_teacher.cache_clear()
        method = StaticTeacher(latents=LATENTS, teacher=str(tmp_path / name))
        found = means(cot_shift(reasoner(method, student), EXAMPLES))
        if name == "same":
            torch.testing.assert_close(found, codi, rtol=1e-4, atol=1e-5)
        else:
            assert not torch.allclose(found, codi, rtol=0.05)


@pytest.mark.parametrize("method", [CotSft(), NoCotSft(), PauseTokens()], ids=lambda method: method.name)
def test_methods_without_teacher_and_student_are_refused(method: Method) -> None:
    with pytest.raises(UsageError, match=rf"A {method.name} model has no teacher and student"):
        cot_shift(asked_of("gpt2", method), EXAMPLES)


def test_what_cannot_be_measured_is_refused() -> None:
    asked = asked_of("gpt2")
    with pytest.raises(UsageError, match="batch_size is 0"):
        cot_shift(asked, EXAMPLES, batch_size=0)
    with pytest.raises(DataError, match="None of the 1 examples has a rationale"):
        cot_shift(asked, EXAMPLES[1:2])
    with pytest.raises(DataError, match="None of the 0 examples"):
        cot_shift(asked, [])
    long = replace(EXAMPLES[0], id="long", steps=("<<3+5=8>>",) * 20)
    with pytest.raises(DataError, match="Example 'long' is longer than the 128 positions"):
        cot_shift(asked, [EXAMPLES[0], long])


def test_a_rationale_that_moves_nothing_is_named() -> None:
    model: ThoughtModel = tiny_model("llama")
    with torch.no_grad():
        for layer in model.causal.model.layers:
            layer.self_attn.o_proj.weight.zero_()  # no token learns of those before it,
            layer.mlp.down_proj.weight.zero_()  # and rounding has nothing to differ in
    with pytest.raises(DataError, match="In layer 1 the rationale of example 'a' does not move the state"):
        cot_shift(reasoner(Codi(latents=LATENTS), model), EXAMPLES)
