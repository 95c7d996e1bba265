"""A step that is recorded and played: a run gives what it gives without. On a machine without CUDA too.

There the recording is the computation run again (`StepRecorder`); inputs and gradients stay where they are,
as a CUDA graph needs them to. The graphs themselves: tests/test_graphs_on_gpu.py.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from codi.data.collation import collate, row_alone, sizes
from codi.errors import RecipeError, TrainingError
from codi.methods.coconut import Coconut
from codi.methods.codi import Codi
from codi.methods.cot_sft import CotSft
from codi.methods.icot import ICot
from codi.methods.method import Method
from codi.modeling.graphs import give_back
from codi.modeling.model import ThoughtModel
from codi.training import graphs
from codi.training.graphs import RecordedSteps
from codi.training.recipes import load_recipe
from codi.training.recorders import RECORDERS, StepRecorder
from codi.training.run import train
from codi.training.trainer import CodiTrainer
from codi.training.width_buckets import WidthBuckets
from test_no_waiting import SMALL, STAGED, built
from tiny_models import EXAMPLES, LORA, assert_same_gradients, tiny_model, word_encoder
from tiny_runs import Interrupt, configured, lora_over_saved_base, run, same_weights, tiny_settings, weights

GRAPHS = "CUDA graphs: the step of each shape is recorded"


class Counted(StepRecorder):
    """Says how often something was recorded."""

    recorded = 0

    def record(self, function: Any, *, set_up: bool = True) -> Any:
        Counted.recorded += 1
        return super().record(function, set_up=set_up)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> type[Counted]:
    """As if this machine's device could record."""
    monkeypatch.setitem(RECORDERS, "cpu", Counted)
    monkeypatch.setattr(Counted, "recorded", 0)
    return Counted


# --- shapes -------------------------------------------------------------------------------------------------


def rows_of(method: Method, examples: Any = EXAMPLES) -> list[dict[str, Any]]:
    text, draws = word_encoder(), random.Random(0)
    return [method.staged(method.encode(e, text), STAGED.get(method.name, 0), draws) for e in examples]


def batches_of(method: Method) -> tuple[list[dict[str, Tensor]], list[dict[str, Tensor]]]:
    """Two batches as they come, and of one shape."""
    rows, pad_id = rows_of(method), word_encoder().pad_id
    pairs = [rows[:2], rows[2:]]
    buckets = WidthBuckets.chosen(pairs, 1, {})
    shapes = [buckets.fitting(pair) for pair in pairs]
    assert all(whole for _, whole in shapes)
    return [collate(pair, pad_id) for pair in pairs], [
        collate(pair, pad_id, shape) for pair, (shape, _) in zip(pairs, shapes, strict=True)
    ]


def at_stage(method: Method) -> Method:
    return method.at_stage(STAGED[method.name]) if method.name in STAGED else method


@pytest.fixture(params=SMALL, ids=lambda kind: kind.name)
def method(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Method:
    """Every registered one, small."""
    teacher = tiny_model("llama", seed=5).requires_grad_(False).eval()
    monkeypatch.setattr("codi.methods.static_teacher.load_teacher", lambda *_: teacher)
    made: Method = request.param(**SMALL[request.param])
    return made


class Loss(nn.Module):
    """The wrapped loss, as the trainer wraps it."""

    def __init__(self, model: ThoughtModel, method: Method) -> None:
        super().__init__()
        self.model, self.method = model, method

    def forward(self, batch: Any, divisors: Any) -> Any:
        return self.method.loss(self.model, batch, divisors)


def trained_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def gradients_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: w.grad.clone() for name, w in trained_weights(model).items() if w.grad is not None}


def steps_over(model: nn.Module, said: list[str], rows: int = 2) -> RecordedSteps:
    return RecordedSteps(trained_weights(model), torch.device("cpu"), rows, 1e-4, said.append)


@pytest.mark.parametrize("packs", [True, False], ids=["packed", "padded"])
def test_batches_of_one_shape_give_what_they_give_as_they_come(method: Method, packs: bool) -> None:
    plain, fixed = batches_of(method)
    shapes = [{name: tensor.shape for name, tensor in batch.items()} for batch in fixed]
    assert shapes[0] == shapes[1]
    model, loss = built(method), at_stage(method).loss
    model.packs = packs
    for one, other in zip(plain, fixed, strict=True):
        found = []
        for batch in (one, other):
            model.zero_grad()
            terms = loss(model, batch, method.divisors(batch))
            terms["loss"].backward()
            found.append((terms, gradients_of(model)))
        for name, term in found[0][0].items():
            assert found[1][0][name].item() == pytest.approx(term.item(), rel=1e-6, abs=1e-7), name
        assert_same_gradients(found[1][1], found[0][1])


def test_a_batch_is_of_its_own_sizes(method: Method) -> None:
    rows, pad_id = rows_of(method), word_encoder().pad_id
    plain, same = collate(rows, pad_id), collate(rows, pad_id, sizes(rows))
    assert plain.keys() == same.keys()
    assert all(torch.equal(tensor, same[name]) for name, tensor in plain.items())


def test_places_that_are_all_there_are_left_out_and_a_row_alone_has_none() -> None:
    rows: list[Any] = [{"question": [5, 6], "student": [7]}, {"question": [5], "student": [8, 9]}]
    batch = collate(rows, 0, {"question": 3, "student": 2, "question_places": 5, "student_places": 4})
    assert batch["question_places"].tolist() == [0, 1, 2, 3, 5]
    assert "student_places" not in batch
    assert "question_places" not in row_alone(batch, 0)


# --- a step -------------------------------------------------------------------------------------------------


def test_a_played_step_is_a_computed_one(method: Method, recorder: type[Counted]) -> None:
    """First of its shape, played over another batch, and over the first again with the gradients kept."""
    _, batches = batches_of(method)
    model, said = built(method, **({"lora": LORA} if isinstance(method, Codi) else {})), list[str]()
    wrapped, steps = Loss(model, at_stage(method)), None
    order = [batches[0], batches[1], batches[0]]
    found = []
    for played in (False, True):
        model.zero_grad()
        steps = steps_over(model, said) if played else None
        for place, batch in enumerate(order):
            if place == 1:
                model.zero_grad()
            divisors = method.divisors(batch)
            if steps is None:
                terms = wrapped(batch, divisors)
                terms["loss"].backward()
            else:
                terms = steps.step(wrapped, batch, divisors, whole=True)
            found.append(({n: t.item() for n, t in terms.items()}, gradients_of(model)))
    assert (recorder.recorded, said) == (1, [])
    for (terms, grads), (ours, our_grads) in zip(found[:3], found[3:], strict=True):
        assert ours == pytest.approx(terms, rel=1e-5, abs=1e-7)
        assert_same_gradients(our_grads, grads)


def test_dropout_draws_what_it_would_have_drawn(recorder: type[Counted]) -> None:
    method = Codi(latents=2)
    _, batches = batches_of(method)
    found = []
    for played in (False, True):
        model = built(method, projection_dropout=0.3)
        wrapped, said = Loss(model, method), list[str]()
        steps = steps_over(model, said, rows=3)
        torch.manual_seed(4)
        for batch in (batches[0], batches[1], batches[0]):
            model.zero_grad()
            divisors = method.divisors(batch)
            steps.step(wrapped, batch, divisors, whole=played)
            found.append(gradients_of(model))
        assert not said
        found.append({"drawn": torch.rand(3)})
    for one, other in zip(found[:4], found[4:], strict=True):
        assert all(torch.equal(gradient, other[name]) for name, gradient in one.items())
    assert not torch.equal(found[0]["thought_tokens"], found[2]["thought_tokens"])


def test_gradients_stay_where_they_are_and_a_weight_without_one_gets_none(recorder: type[Counted]) -> None:
    method = CotSft()
    model = tiny_model("llama", projection=True)  # CoT-SFT never uses it
    wrapped, said = Loss(model, method), list[str]()
    steps, places = steps_over(model, said), set()
    for batch in batches_of(method)[1]:
        model.zero_grad()
        steps.step(wrapped, batch, method.divisors(batch), whole=True)
        places.add(model.thought_tokens.grad.data_ptr())  # type: ignore[union-attr]
    assert len(places) == 1
    assert all(weight.grad is None for weight in model.projection.parameters())


def test_four_micro_batches_are_one_batch(recorder: type[Counted]) -> None:
    """1 x 4 and 4 x 1, of two shapes; but for CODI's deviation, which is taken over a micro-batch."""
    method, pad_id = Codi(latents=2, divide_by_std=False), word_encoder().pad_id
    rows, model, said, found = rows_of(method), built(method), list[str](), []
    divisors = method.divisors(collate(rows, pad_id))
    for size in (4, 1):
        buckets = WidthBuckets.chosen([rows[i : i + size] for i in range(0, 4, size)], 2, {})
        steps = steps_over(model, said, rows=size)
        for _ in range(2):  # recorded, and played from the first to the last
            model.zero_grad()
            for first in range(0, 4, size):
                shape, whole = buckets.fitting(rows[first : first + size])
                batch = collate(rows[first : first + size], pad_id, shape)
                steps.step(Loss(model, method), batch, divisors, whole)
            found.append(gradients_of(model))
    assert (recorder.recorded, said) == (1 + 2, [])
    for other in found[1:]:
        assert_same_gradients(other, found[0])


def drifting(model: nn.Module) -> nn.Module:
    """A loss with a count of its own, which a recording would hold fast."""

    class Drifts(Loss):
        calls = 0

        def forward(self, batch: Any, divisors: Any) -> Any:
            Drifts.calls += 1
            terms = super().forward(batch, divisors)
            return {**terms, "loss": terms["loss"] * Drifts.calls}

    return Drifts(model, Codi(latents=2))


@contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    before = {name: gradient.clone() for name, gradient in gradients_of(model).items()}
    yield
    assert_same_gradients(gradients_of(model), {name: 2 * gradient for name, gradient in before.items()})


def test_a_step_that_cannot_be_repeated_is_found_and_the_run_goes_on(recorder: type[Counted]) -> None:
    method = Codi(latents=2)
    batch, model, said = batches_of(method)[1][0], built(method), list[str]()
    steps = steps_over(model, said)
    wrapped = Loss(model, method)
    wrapped(batch, method.divisors(batch))["loss"].backward()
    with _untouched(model):  # the computed gradient is added, what was played is not
        terms = steps.step(drifting(model), batch, method.divisors(batch), whole=True)
    assert terms["loss"].item() == pytest.approx(wrapped(batch, method.divisors(batch))["loss"].item())
    [line] = said
    assert line.startswith("CUDA graphs are given up for the rest of the run, which goes on without: the rec")
    assert "gives loss" in line
    assert steps.stopped


class Fails(Counted):
    """Raises where it should record."""

    error: BaseException = RuntimeError("operation not permitted when stream is capturing")

    def record(self, function: Any, *, set_up: bool = True) -> Any:
        function()  # what it has done by then counts nothing
        try:
            raise self.error
        except BaseException as error:
            raise RuntimeError("the recording was ended") from error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("not permitted"), r"a step could not be recorded \(not permitted\)"),
        (torch.OutOfMemoryError("CUDA out of memory"), r"lower training\.per_device_train_batch_size"),
    ],
    ids=["capture", "memory"],
)
def test_what_cannot_be_recorded_is_computed(
    error: BaseException, words: str, recorder: type[Counted], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RECORDERS, "cpu", Fails)
    monkeypatch.setattr(Fails, "error", error)
    method = Codi(latents=2)
    batch, model, said = batches_of(method)[1][0], built(method, projection_dropout=0.3), list[str]()
    wrapped, steps = Loss(model, method), steps_over(model, said)
    torch.manual_seed(4)
    wrapped(batch, method.divisors(batch))["loss"].backward()
    drawn = torch.rand(1)
    torch.manual_seed(4)
    with _untouched(model):
        steps.step(wrapped, batch, method.divisors(batch), whole=True)
    assert torch.equal(torch.rand(1), drawn)
    [line] = said
    assert re.search(words, line)


def test_memory_that_lacks_later_lets_the_recordings_go(recorder: type[Counted]) -> None:
    method = Codi(latents=2)
    batches, model, said = batches_of(method)[1], built(method), list[str]()

    class Full(Loss):
        full = False

        def forward(self, batch: Any, divisors: Any) -> Any:
            if Full.full:
                Full.full = False
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(batch, divisors)

    wrapped, steps = Full(model, method), steps_over(model, said)
    divisors = method.divisors(batches[0])
    steps.step(wrapped, batches[0], divisors, whole=True)
    with _untouched(model):
        Full.full = True
        steps.step(wrapped, batches[0], divisors, whole=False)
    assert steps.stopped
    assert len(said) == 2  # of the batch that has no shape, and of the memory
    Full.full = True
    with pytest.raises(torch.OutOfMemoryError):  # nothing is left to let go
        steps.step(wrapped, batches[0], divisors, whole=False)


def test_a_first_gradient_that_memory_does_not_hold_twice_is_kept(
    recorder: type[Counted], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory runs out between computing and recording: in the copies of earlier micro-batches' gradients, or
    in the buffers."""
    method = Codi(latents=2)
    batch, model = batches_of(method)[1][0], built(method)
    wrapped, said = Loss(model, method), list[str]()

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    for what, name in ((Tensor, "clone"), (torch, "zeros_like")):
        steps, divisors = steps_over(model, said), method.divisors(batch)
        inputs = [tensor.clone() for tensor in (*batch.values(), *divisors.values())]
        own = dict(zip(batch, inputs, strict=False)), dict(zip(divisors, inputs[len(batch) :], strict=True))
        model.zero_grad()
        wrapped(*own)["loss"].backward()
        with _untouched(model):
            compute = partial(graphs._loss_and_gradients, wrapped, *own)
            computed = steps._apart

            def then_full(*given: Any, what: Any = what, name: str = name, computed: Any = computed) -> Any:
                found = computed(*given)
                monkeypatch.setattr(what, name, full)
                return found

            monkeypatch.setattr(steps, "_apart", then_full)
            steps._first("shape", inputs, compute)
            monkeypatch.undo()
            monkeypatch.setitem(RECORDERS, "cpu", Counted)
        assert "memory does not hold" in steps.stopped
    assert recorder.recorded == 0


def test_while_the_optimizer_is_fresh_nothing_is_recorded(recorder: type[Counted]) -> None:
    method = Codi(latents=2)
    batch, model, said = batches_of(method)[1][0], built(method), list[str]()
    wrapped, steps = Loss(model, method), steps_over(model, said)
    wrapped(batch, method.divisors(batch))["loss"].backward()
    with _untouched(model):
        steps.step(wrapped, batch, method.divisors(batch), whole=True, fresh=True)
    assert recorder.recorded == 0
    steps.step(wrapped, batch, method.divisors(batch), whole=True)
    assert (recorder.recorded, said) == (1, [])


def test_a_gradient_that_is_not_finite_is_no_fault_of_a_recording(recorder: type[Counted]) -> None:
    """A finite loss can have one; what is said of it is the run's (`check_weights`)."""
    method = Codi(latents=2)
    batch, model, said = batches_of(method)[1][0], built(method), list[str]()

    class Infinite(Loss):
        def forward(self, batch: Any, divisors: Any) -> Any:
            terms = super().forward(batch, divisors)
            at_zero = (0 * self.model.thought_tokens).abs().sum().sqrt()  # 0, and steep there
            return {**terms, "loss": terms["loss"] + at_zero}

    steps = steps_over(model, said)
    terms = steps.step(Infinite(model, method), batch, method.divisors(batch), whole=True)
    assert torch.isfinite(terms["loss"])
    assert not torch.isfinite(model.thought_tokens.grad).all()  # type: ignore[arg-type]
    assert (recorder.recorded, said) == (0, [])


def test_a_batch_that_no_shape_takes_is_computed_and_said_once(recorder: type[Counted]) -> None:
    method = Codi(latents=2)
    (batch, _), model, said = batches_of(method)[0], built(method), list[str]()
    steps = steps_over(model, said)
    for _ in range(2):
        steps.step(Loss(model, method), batch, method.divisors(batch), whole=False)
    [line] = said
    assert line.startswith("A batch fits none of the shapes (data.width_buckets)")
    steps_over(model, said, rows=5).step(Loss(model, method), batch, method.divisors(batch), whole=False)
    assert len(said) == 1  # the last of an epoch is smaller, and nothing to speak of
    assert recorder.recorded == 0


# --- a recording that fails ---------------------------------------------------------------------------------


@pytest.mark.parametrize("end_raises", [False, True], ids=["left open", "ended by torch"])
def test_a_cut_off_recording_lets_its_pool_go_once(end_raises: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of torch's calls; what they do: tests/test_graphs_on_gpu.py."""
    calls: list[str] = []

    class Graph:
        def pool(self) -> None:
            raise RuntimeError("Called CUDAGraph::pool() without a preceding successful capture.")

        def reset(self) -> None:
            calls.append("reset")

        def __del__(self) -> None:
            calls.append("gone")

    def ended(*_: Any) -> None:
        calls.append("end")
        if end_raises:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")

    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", ended, raising=False)
    monkeypatch.setattr(torch._C, "_cuda_releasePool", lambda *_: calls.append("release"), raising=False)
    monkeypatch.setattr(StepRecorder, "_draw_anew", lambda _: calls.append("draws"))
    recorder: Any = StepRecorder(torch.device("cpu"))
    recorder._index, recorder._pool = 0, (0, 1)
    recorder._undo(Graph())
    assert calls == ["end", "release", "draws"]


def test_a_recording_that_came_to_its_end_gives_back_what_it_holds() -> None:
    calls: list[str] = []
    recorder: Any = StepRecorder(torch.device("cpu"))
    recorder._undo(SimpleNamespace(pool=lambda: (0, 1), reset=lambda: calls.append("reset")))
    assert calls == ["reset"]


def test_memory_that_cannot_be_given_back_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def raises() -> None:
        raise RuntimeError("captures_underway.empty() INTERNAL ASSERT FAILED")

    monkeypatch.setattr(torch.accelerator, "empty_cache", raises)
    with caplog.at_level("DEBUG", "codi"):
        give_back(torch.device("cuda"))
    assert "INTERNAL ASSERT" in caplog.text


# --- runs ---------------------------------------------------------------------------------------------------


def said_by(settings: dict[str, Any], output: Path, graphs: str, **options: Any) -> list[str]:
    said: list[str] = []
    given = settings | {"training": settings["training"] | {"graphs": graphs}}
    train(configured(given), output, say=said.append, **options)
    return said


def close(one: Path, other: Path, most: float = 1e-5) -> bool:
    ours, theirs = weights(one), weights(other)
    return ours.keys() == theirs.keys() and all((ours[n] - theirs[n]).abs().max() < most for n in ours)


def static_teacher(folder: Path) -> dict[str, Any]:
    settings = tiny_settings(folder, max_steps=2, save_strategy="no")
    run(settings | {"method": {"name": "cot-sft", "keep_last_step": False}}, folder / "teacher")
    return {"name": "codi-static-teacher", "latents": 2, "teacher": str(folder / "teacher")}


COCONUT = {"name": "coconut", "explicit_epochs": 0.5, "epochs_per_stage": 0.5, "max_stage": 2}
SETTINGS: dict[str, dict[str, Any]] = {
    "codi": {},
    "accumulated": {"training": {"gradient_accumulation_steps": 2}},
    "muon": {"optimizer": "muon"},
    "validated": {
        "training": {"eval_strategy": "steps", "eval_steps": 5, "save_strategy": "steps", "save_steps": 5}
    },
    "static-teacher": {},
    "coconut": {"method": COCONUT},
    "icot": {
        "method": {"name": "icot", "explicit_epochs": 0.5, "remove_per_epoch": 12, "remove_all_beyond": 3}
    },
    "lotus": {"method": {"name": "lotus", "blocks": 2, "width": 6, "epochs_per_stage": 0.5}},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_run_gives_the_same_weights(name: str, tmp_path: Path, recorder: type[Counted]) -> None:
    changes = SETTINGS[name]
    training = {"max_steps": 8, "save_strategy": "no"} | changes.get("training", {})
    settings = tiny_settings(tmp_path, rows=14, learning_rate=1e-3, **training)
    settings |= {key: value for key, value in changes.items() if key != "training"}
    if name in ("coconut", "lotus"):
        settings["model"]["projection"] = False
    if name == "static-teacher":
        settings["method"] = static_teacher(tmp_path)
    if name == "validated":
        settings["data"] |= {"validation": settings["data"]["train"], "validation_limit": 4,
                             "exclude_validation_questions": False}  # fmt: skip
    settings["data"]["width_buckets"] = 2
    plain = said_by(settings, tmp_path / "plain", "off")
    assert not any(GRAPHS in line for line in plain)
    said = said_by(settings, tmp_path / "played", "auto")
    assert sum(GRAPHS in line for line in said) == 1
    assert not any("given up" in line for line in said)
    assert recorder.recorded
    assert close(tmp_path / "plain", tmp_path / "played")


@pytest.mark.parametrize("curriculum", [False, True], ids=["codi-lora", "coconut"])
def test_killed_and_resumed_is_never_killed(
    curriculum: bool, tmp_path: Path, recorder: type[Counted]
) -> None:
    settings = tiny_settings(tmp_path, rows=14, max_steps=6, dropout=0.1, gradient_accumulation_steps=2)
    if curriculum:
        settings |= {"method": COCONUT}
        settings["model"]["projection"] = False
    else:
        settings = lora_over_saved_base(tmp_path, settings)
    said_by(settings, tmp_path / "whole", "auto")
    with pytest.raises(KeyboardInterrupt):
        said_by(settings, tmp_path / "cut", "auto", callbacks=[Interrupt(5)])
    said_by(settings, tmp_path / "cut", "on", resume=True)  # how steps are launched may be changed
    assert same_weights(tmp_path / "whole", tmp_path / "cut")


def test_validation_that_memory_does_not_hold_is_tried_without_recordings(
    tmp_path: Path, recorder: type[Counted], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tiny_settings(tmp_path, rows=14, max_steps=8, eval_strategy="steps", eval_steps=4)
    settings["data"] |= {"validation": settings["data"]["train"], "validation_limit": 4,
                         "exclude_validation_questions": False, "width_buckets": 2}  # fmt: skip
    said_by(settings, tmp_path / "plain", "off")
    validated, calls = CodiTrainer._validated, list[bool]()

    def full(self: CodiTrainer) -> float:
        assert self.recorded is not None
        calls.append(bool(self.recorded._recordings))
        if calls[-1]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return validated(self)

    monkeypatch.setattr(CodiTrainer, "_validated", full)
    said = said_by(settings, tmp_path / "played", "auto")
    assert calls == [True, False, False]  # the second validation: nothing is recorded any more
    assert sum("given up" in line for line in said) == 1
    assert close(tmp_path / "plain", tmp_path / "played")


def test_the_first_update_of_a_fresh_optimizer_is_computed(tmp_path: Path, recorder: type[Counted]) -> None:
    """What it will hold is there before recordings take the rest: in the first, and where a stage begins."""
    settings = tiny_settings(tmp_path, rows=12, max_steps=1, save_strategy="no")
    said_by(settings, tmp_path / "one", "auto")
    assert recorder.recorded == 0
    settings["training"]["max_steps"] = 2
    said_by(settings, tmp_path / "two", "auto")
    assert recorder.recorded == 1
    # A stage an epoch, of one update each, and each with a fresh optimiser.
    settings["training"] |= {"max_steps": 4, "per_device_train_batch_size": 12}
    settings["model"]["projection"] = False
    coconut = {"name": "coconut", "explicit_epochs": 1, "epochs_per_stage": 1, "max_stage": 2}
    said_by(settings | {"method": coconut}, tmp_path / "coconut", "auto")
    assert recorder.recorded == 1


def test_shapes_are_fixed_by_stage_and_icots_serve_them_all(tmp_path: Path, recorder: type[Counted]) -> None:
    assert ICot(explicit_epochs=1).computed_at(7) == 0
    assert Coconut().computed_at(2) == 2
    settings = tiny_settings(tmp_path, rows=12, max_steps=12, save_strategy="no")
    settings["data"]["width_buckets"] = 1
    icot = {"name": "icot", "explicit_epochs": 1, "remove_per_epoch": 8, "remove_all_beyond": 6}
    said_by(settings | {"method": icot}, tmp_path / "icot", "auto")
    assert recorder.recorded == 1
    coconut = {"name": "coconut", "explicit_epochs": 1, "epochs_per_stage": 1, "max_stage": 2}
    settings["model"]["projection"] = False
    said_by(settings | {"method": coconut}, tmp_path / "coconut", "auto")
    assert recorder.recorded == 1 + 4


# --- what cannot be had -------------------------------------------------------------------------------------


def test_on_without_cuda_says_what_to_do(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path)
    settings["data"]["train"] = "never-read.jsonl"
    with pytest.raises(TrainingError, match=r"training\.graphs=on .* need a CUDA GPU.* Leave it at auto"):
        said_by(settings, tmp_path / "run", "on")
    assert not (tmp_path / "run").exists()


def test_an_unknown_choice_is_named_and_words_stay_words() -> None:
    with pytest.raises(RecipeError, match=r"training\.graphs is 'always'; it must be one of auto, on, off"):
        load_recipe("word-problems", {"training.graphs": "always"})
    for word in ("on", "off", "auto"):
        assert load_recipe("word-problems", [f"training.graphs={word}"]).training["graphs"] == word
    assert "graphs" not in load_recipe("word-problems").training  # so an older run's settings are the same


@pytest.mark.parametrize(
    ("training", "model", "words"),
    [
        ({"fp16": True}, {}, "training.fp16"),
        ({}, {"recompute": True}, "model.recompute"),
        ({"auto_find_batch_size": True}, {}, "auto_find_batch_size"),
        ({"torch_compile": True}, {}, "torch_compile"),
        ({"optim": "lomo"}, {}, "training.optim="),
    ],
    ids=["fp16", "recompute", "batch-size", "compile", "lomo"],
)
def test_a_run_that_cannot_be_recorded_says_why(
    training: dict[str, Any], model: dict[str, Any], words: str, recorder: type[Counted]
) -> None:
    plain = {"fp16": False, "torch_compile": False, "auto_find_batch_size": False, "optim": "adamw_torch"}
    args: Any = SimpleNamespace(device=torch.device("cpu"), **(plain | training))
    config: Any = SimpleNamespace(**({"recompute": False} | model))
    why = graphs.why_not(args, config)
    assert words in why
    [line] = graphs.notes(False, why, torch.device("cuda"))
    assert line == f"CUDA graphs are not used: {why} (training.graphs)."
    with pytest.raises(TrainingError, match="steps cannot be recorded"):
        graphs.check("on", why)
    graphs.check("auto", why)


def test_several_processes_and_masks_of_another_are_not_recorded(
    recorder: type[Counted], monkeypatch: pytest.MonkeyPatch
) -> None:
    args: Any = SimpleNamespace(
        device=torch.device("cpu"), fp16=False, torch_compile=False, auto_find_batch_size=False, optim="adamw"
    )
    config: Any = SimpleNamespace(recompute=False)
    assert graphs.why_not(args, config) == ""
    assert "masks are made by transformers" in graphs.why_not(args, config, own_masks=False)
    monkeypatch.setattr("codi.processes.count", lambda: 2)
    assert graphs.why_not(args, config) == "2 processes share a step"
