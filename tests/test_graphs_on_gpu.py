"""CUDA graphs themselves, on a GPU: `pytest -m gpu`. What holds without one: tests/test_graphs.py."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from codi.methods.codi import Codi
from codi.methods.method import Method
from codi.modeling.graphs import Recorder, give_back
from codi.training.graphs import RecordedSteps
from test_graphs import Loss, at_stage, batches_of, drifting, gradients_of, said_by, trained_weights
from test_no_waiting import SMALL, built
from tiny_models import LORA, assert_same_gradients, tiny_model
from tiny_runs import Interrupt, lora_over_saved_base, tiny_settings, weights

pytestmark = pytest.mark.gpu
SMALL_BYTES = 2**22
"""That may be held for good: a generator's own tensors."""
RELATIVE = {torch.float32: 1e-4, torch.bfloat16: 1e-2}


class Cast(Loss):
    """The wrapped loss under mixed precision, as accelerate wraps it."""

    dtype = torch.bfloat16

    def forward(self, batch: Any, divisors: Any) -> Any:
        with torch.autocast("cuda", self.dtype, enabled=self.dtype != torch.float32):
            terms = super().forward(batch, divisors)
        return {name: term.float() for name, term in terms.items()}


@pytest.fixture(params=SMALL, ids=lambda kind: kind.name)
def method(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Method:
    teacher = tiny_model("llama", seed=5).requires_grad_(False).eval().to("cuda")
    monkeypatch.setattr("codi.methods.static_teacher.load_teacher", lambda *_: teacher)
    made: Method = request.param(**SMALL[request.param])
    return made


def on_gpu(batches: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    return [{name: tensor.cuda() for name, tensor in batch.items()} for batch in batches]


def recorded_over(model: Any, said: list[str], tolerance: float) -> RecordedSteps:
    return RecordedSteps(trained_weights(model), torch.device("cuda:0"), 2, tolerance, said.append)


@pytest.mark.parametrize("dtype", RELATIVE, ids=str)
def test_a_graph_gives_what_the_step_gives(method: Method, dtype: torch.dtype) -> None:
    batches = on_gpu(batches_of(method)[1])
    model, said = built(method, **({"lora": LORA} if isinstance(method, Codi) else {})).cuda(), list[str]()
    wrapped, found = Cast(model, at_stage(method)), []
    wrapped.dtype = dtype
    for played in (False, True):
        steps = recorded_over(model, said, RELATIVE[dtype])
        for batch in (batches[0], batches[1], batches[0]):
            model.zero_grad()
            divisors = method.divisors(batch)
            if played:
                terms = steps.step(wrapped, batch, divisors, whole=True)
            else:
                terms = wrapped(batch, divisors)
                terms["loss"].backward()
            found.append(({name: term.item() for name, term in terms.items()}, gradients_of(model)))
    assert not said
    for (terms, grads), (ours, our_grads) in zip(found[:3], found[3:], strict=True):
        assert ours == pytest.approx(terms, rel=RELATIVE[dtype], abs=1e-6)
        assert_same_gradients(our_grads, grads, RELATIVE[dtype])


def test_dropout_in_a_graph_draws_what_the_step_draws() -> None:
    method, found = Codi(latents=2), []
    batches = on_gpu(batches_of(method)[1])
    for whole in (False, True):
        model = built(method, projection_dropout=0.3).cuda()
        steps = RecordedSteps(trained_weights(model), torch.device("cuda:0"), 3, 1e-4, print)
        torch.manual_seed(4)
        for batch in (batches[0], batches[1], batches[0]):
            model.zero_grad()
            steps.step(Loss(model, method), batch, method.divisors(batch), whole)
            found.append(gradients_of(model))
        assert not steps.stopped
        found.append({"drawn": torch.rand(3, device="cuda")})
    for ours, theirs in zip(found[:3], found[4:7], strict=True):
        assert_same_gradients(ours, theirs, 1e-4)
    assert torch.equal(found[3]["drawn"], found[7]["drawn"])


def test_playing_waits_for_nothing_and_recording_takes_seconds() -> None:
    method, said = Codi(latents=2), list[str]()
    batches, model = on_gpu(batches_of(method)[1]), built(method).cuda()
    steps, wrapped = recorded_over(model, said, 1e-2), Cast(model, method)
    divisors = [method.divisors(batch) for batch in batches]
    torch.cuda.synchronize()
    begun = time.perf_counter()
    steps.step(wrapped, batches[0], divisors[0], whole=True)
    torch.cuda.synchronize()
    print(f"recording one shape: {time.perf_counter() - begun:.2f} s")
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch, divisor in zip(batches, divisors, strict=True):
            model.zero_grad()
            steps.step(wrapped, batch, divisor, whole=True)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert not said


def test_a_step_that_cannot_be_recorded_is_computed_and_the_gpu_goes_on() -> None:
    method = Codi(latents=2)
    batch, model = on_gpu(batches_of(method)[1])[0], built(method, projection_dropout=0.3).cuda()
    divisors = method.divisors(batch)

    class Looks(Loss):
        def forward(self, batch: Any, divisors: Any) -> Any:
            terms = super().forward(batch, divisors)
            return {**terms, "loss": terms["loss"] * (1 if terms["loss"].item() > 0 else 2)}

    for wrapped in (Looks(model, method), drifting(model)):
        said: list[str] = []
        steps = recorded_over(model, said, 1e-4)
        model.zero_grad()
        terms = steps.step(wrapped, batch, divisors, whole=True)
        [line] = said
        assert "given up for the rest of the run" in line
        assert torch.isfinite(terms["loss"])
        assert gradients_of(model)
        again = Loss(model, method)(batch, divisors)["loss"]  # drawing has not been left in between
        again.backward()
        assert torch.isfinite(again)


def test_memory_of_a_recording_that_fails_is_given_back_and_draws_go_on() -> None:
    """Cut off by a look at a value, and by an error of the function's own, as lack of memory is."""
    device, weight = torch.device("cuda:0"), torch.ones(2048, 2048, device="cuda:0")

    def whole() -> Tensor:
        return (weight @ weight).relu()

    def looks() -> Tensor:
        found = [weight @ weight for _ in range(8)]
        assert float(found[-1].sum()) != 0
        return found[0] + torch.rand_like(weight)

    def lacks() -> Tensor:
        found = [torch.rand_like(weight) @ weight for _ in range(8)]
        raise torch.OutOfMemoryError(f"after {len(found)}")

    Recorder(device).record(whole)()  # what cuBLAS keeps for the stream
    for fails in (looks, lacks):
        give_back(device)
        before = torch.cuda.memory_reserved(device)
        recorder = Recorder(device)
        replay: Any = recorder.record(whole)
        with pytest.raises((RuntimeError, torch.OutOfMemoryError)):
            recorder.record(fails, set_up=False)
        torch.manual_seed(3)
        drawn = torch.rand(4, device=device)
        torch.manual_seed(3)
        assert torch.equal(torch.rand(4, device=device), drawn)
        assert torch.equal(replay(), whole())  # the others' memory is not touched
        again: Any = recorder.record(whole)
        assert torch.equal(again(), whole())
        del replay, again, recorder, drawn
        give_back(device)
        torch.cuda.empty_cache()  # nothing is left under way, so it does not raise
        assert torch.cuda.memory_reserved(device) <= before + SMALL_BYTES
    assert torch.cuda.current_stream(device) == torch.cuda.default_stream(device)


def test_memory_that_lacks_while_recording_is_there_for_the_computed_step() -> None:
    method, said = Codi(latents=2), list[str]()
    batches, model = on_gpu(batches_of(method)[1]), built(method).cuda()
    steps, wrapped = recorded_over(model, said, 1e-2), Loss(model, method)
    computing = {"times": 0}

    class Full(Loss):
        def forward(self, batch: Any, divisors: Any) -> Any:
            computing["times"] += 1
            held = torch.empty(2**26, device="cuda")  # 256 MiB
            if computing["times"] == 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            del held
            return super().forward(batch, divisors)

    steps.step(wrapped, batches[0], method.divisors(batches[0]), whole=True)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    other = {name: tensor.clone() for name, tensor in batches[1].items()}
    steps.step(Full(model, method), other, method.divisors(other), whole=True, computation="another")
    assert "memory does not hold" in steps.stopped
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() <= before + SMALL_BYTES


def close(one: Path, other: Path, most: float) -> bool:
    ours, theirs = weights(one), weights(other)
    return ours.keys() == theirs.keys() and all((ours[n] - theirs[n]).abs().max() < most for n in ours)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_gives_the_same_weights_and_goes_on_after_a_stop(tmp_path: Path, workers: int) -> None:
    settings = tiny_settings(
        tmp_path, rows=22, dropout=0.1, learning_rate=0.05, optim="sgd", gradient_accumulation_steps=2,
        use_cpu=False, dataloader_pin_memory=True, dataloader_num_workers=workers,
    )  # fmt: skip
    settings = lora_over_saved_base(tmp_path, settings)
    settings["data"]["width_buckets"] = 2  # without graphs too: dropout is drawn for what is padded
    said_by(settings, tmp_path / "plain", "off")
    said = said_by(settings, tmp_path / "played", "on")
    assert any("CUDA graphs: the step of each shape is recorded" in line for line in said)
    with pytest.raises(KeyboardInterrupt):
        said_by(settings, tmp_path / "cut", "auto", callbacks=[Interrupt(7)])
    said += said_by(settings, tmp_path / "cut", "auto", resume=True)
    assert not any("given up" in line for line in said)
    assert close(tmp_path / "plain", tmp_path / "played", 1e-3)
    assert close(tmp_path / "cut", tmp_path / "played", 1e-4)
