"""Benchmarks run, and report what they say; no time is asserted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from codi.bench.batches import random_batch, sampled_lengths
from codi.bench.data import bench_data
from codi.bench.generate import bench_generate, within_bound
from codi.bench.gpu import operations
from codi.bench.serve import PARTS, bench_serve
from codi.bench.steps import METHODS, SIZES, VARIANTS
from codi.bench.train import bench_train, of_the_rows
from codi.errors import CodiError, UsageError
from codi.generation.answer import Answer
from codi.methods.codi import Codi
from codi.training.recorders import RECORDERS, StepRecorder
from tiny_checkpoints import tiny_reasoner


@pytest.fixture(scope="module", params=METHODS)
def trained(request: pytest.FixtureRequest) -> dict[str, object]:
    """Memory is measured in a process for each step: of one method here."""
    return bench_train(
        name=request.param, size="tiny", batch_size=3, pairs=2, lora_rank=4, device="cpu",
        memory=request.param == "codi",
    )  # fmt: skip


def test_both_steps_give_the_same_loss_and_gradients(trained: dict[str, dict[str, float]]) -> None:
    agreement = trained["agreement"]
    assert agreement["loss_relative_difference"] < 1e-5
    assert agreement["gradient_relative_difference"] < 1e-5
    assert agreement["weights_with_a_gradient_in_one_only"] == []


def test_the_training_report_has_every_figure_and_is_json(trained: dict[str, dict[str, float]]) -> None:
    assert json.loads(json.dumps(trained)) == trained
    assert set(trained["examples_per_second"]) == set(VARIANTS)
    assert len(trained["ratios"]) == 2
    if trained["settings"]["method"] == "codi":
        assert set(trained["peak_bytes"]) == set(VARIANTS)
        assert all(bytes_ > 0 for bytes_ in trained["peak_bytes"].values())
    assert trained["environment"]["dtype"] == "float32"


def test_pccots_step_is_timed_beside_codis_with_as_many_latents(trained: dict[str, Any]) -> None:
    beside = trained.get("one_after_the_other")
    assert (beside is None) == (trained["settings"]["method"] != "pccot")
    if beside is not None:
        assert len(beside["ratios"]) == 2
        assert beside["examples_per_second"] > 0


def test_the_step_as_a_graph_is_timed_where_the_device_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECORDERS, "cpu", StepRecorder)
    result = bench_train(size="tiny", batch_size=3, pairs=2, lora_rank=4, device="cpu", memory=False)
    assert json.loads(json.dumps(result)) == result
    assert set(result["examples_per_second"]) == {*VARIANTS, "codi_graph"}
    assert result["codi_graph"]["given_up"] == []
    assert {name: len(ratios) for name, ratios in result["codi_graph"]["ratios"].items()} == {
        "literal": 2, "codi": 2
    }  # fmt: skip


def test_operations_are_those_of_matrix_products() -> None:
    weight = torch.ones(5, 7, requires_grad=True)

    def work(batch: dict[str, torch.Tensor]) -> None:
        (batch["it"] @ weight).sum().backward()

    # forward, and the weight's gradient
    assert operations(work, {"it": torch.ones(3, 5)}) == 2 * 2 * 3 * 5 * 7


def test_a_graphs_padding_is_told_apart() -> None:
    needed = {"codi": 80, "codi_graph": 100}
    assert of_the_rows("codi", needed, 2.0, None) == {}
    assert of_the_rows("codi_graph", needed, 2.0, None) == {
        "operations_without_padding": 80, "share_of_peak_without_padding": None
    }  # fmt: skip


@pytest.mark.parametrize("size", ["smollm2", "llama1b"])
def test_larger_sizes_have_the_weights_of_their_models(size: str) -> None:
    weights = {"smollm2": 134_515_008, "llama1b": 1_235_814_400}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**SIZES[size]))
    assert model.num_parameters() == weights[size]


def test_lengths_come_from_a_file(tmp_path: Path) -> None:
    rows = [{"question": "Mia has 3 apples .", "cot": ["<<3+1=4>>", "<<4+1=5>>"], "answer": "5"}] * 4
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = bench_train(
        size="tiny",
        batch_size=2,
        pairs=1,
        lora_rank=0,
        data=file,
        tokenizer="word-problems",
        memory=False,
        device="cpu",
    )
    assert result["settings"]["mean_tokens"]["question"] > 4
    assert result["agreement"]["loss_relative_difference"] < 1e-5
    assert result["agreement"]["gradient_relative_difference"] < 1e-5


def test_sampled_lengths_are_deterministic_and_those_of_gsm8k_aug() -> None:
    lengths = sampled_lengths(4000, seed=1)
    assert lengths == sampled_lengths(4000, seed=1)
    means = [sum(column) / 4000 for column in lengths.columns().values()]
    assert means == pytest.approx([42, 12, 6], rel=0.08)


def test_a_batch_needs_enough_examples() -> None:
    with pytest.raises(UsageError, match="only 2 examples"):
        random_batch(Codi(), sampled_lengths(2, 1), 3, 100, 1, torch.device("cpu"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "no-such-method"}, {"size": "huge"}, {"pairs": 0}, {"batch_size": 0}, {"lora_rank": -1},
        {"base_bf16": True},
    ],
)  # fmt: skip
def test_bad_arguments_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        bench_train(**wrong)


def test_answering_is_reported_for_all_three_systems(tmp_path: Path) -> None:
    for method in ("codi", "cot-sft"):
        tiny_reasoner(method).save_pretrained(tmp_path / method)
    result = bench_generate(
        latent=tmp_path / "codi", explicit=tmp_path / "cot-sft", questions=3, device="cpu", batch_size=2
    )
    assert json.loads(json.dumps(result)) == result
    assert set(result["systems"]) == {"latent", "explicit", "cot-sft"}
    assert all(system["within_bound"] for system in result["systems"].values())
    assert result["systems"]["latent"]["mean_thoughts"] == 8
    with pytest.raises(UsageError, match="has no latents"):
        bench_generate(latent=tmp_path / "cot-sft", explicit=tmp_path / "cot-sft", questions=1, device="cpu")


def test_answering_with_graphs_is_reported_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on CUDA, but that nothing is recorded: the functions are called again."""
    for module in ("codi.bench.generate", "codi.generation.latent_reasoner"):
        monkeypatch.setattr(f"{module}.graphs_wanted", lambda setting, device: setting != "off")
    for method in ("codi", "cot-sft"):
        tiny_reasoner(method).save_pretrained(tmp_path / method)
    result = bench_generate(
        latent=tmp_path / "codi", explicit=tmp_path / "cot-sft", questions=1, device="cpu", batch_size=1
    )
    assert json.loads(json.dumps(result)) == result
    plain = ("latent", "explicit", "cot-sft")
    assert list(result["systems"]) == [*plain, *(f"{name}, graphs" for name in plain)]
    for name in plain:
        ours, theirs = result["systems"][f"{name}, graphs"], result["systems"][name]
        assert ours["same_answers"] == 1
        assert ours["mean_passes"] == theirs["mean_passes"]
    assert result["latency_ratio_with_graphs"] > 0
    assert result["latency_ratio_plain_to_graphs"] > 0


def test_the_bound_on_passes() -> None:
    answer = Answer("q", "text", "7", thoughts=8, passes=9, answer_tokens=1)
    assert within_bound(answer, "latent", prompt_tokens=0)
    assert not within_bound(Answer("q", "text", "7", 8, 10, 1), "latent", prompt_tokens=0)


def test_preparing_a_set_is_measured_in_a_process_of_its_own() -> None:
    result = bench_data(rows=120)
    assert json.loads(json.dumps(result)) == result
    assert result["first_time"]["seconds"] > 0
    assert result["first_time"]["rows_per_second"] == pytest.approx(120 / result["first_time"]["seconds"])
    assert result["first_time"]["peak_bytes"] > 50 * 2**20  # torch is in it
    assert result["from_the_cache"] is None  # so few rows are not kept
    assert 30 < result["tokens"]["question"]["median"] < 70


def test_rows_of_ones_own_and_settings_that_cannot_be_measured(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text(
        json.dumps({"question": "Mia has 3 apples.", "cot": "<<3+1=4>> <<4+1=5>>", "answer": "5"})
    )
    result = bench_data(rows=7, form="parquet", rows_of=file, method="coconut")
    assert result["settings"]["rows_of"] == "mine.jsonl"
    assert result["tokens"]["rationale"]["longest"] > 0
    for wrong in ({"rows": 0}, {"form": "csv"}, {"rows": 3, "tokenizer": str(tmp_path / "none")}):
        with pytest.raises(CodiError):
            bench_data(**wrong)


def test_the_server_is_measured_in_all_its_parts(tmp_path: Path) -> None:
    """Small, but the real thing: a server in a process of its own, clients, and faults in the engine."""
    tiny_reasoner("codi", latents=2).save_pretrained(tmp_path / "codi")
    result = bench_serve(
        checkpoint=tmp_path / "codi", requests=24, sequential=4, clients=8, faulty=90, repeats=1,
        overload_seconds=2.5, max_waiting=24, device="cpu",
    )  # fmt: skip
    assert json.loads(json.dumps(result)) == result
    assert {"sequential", "concurrent", "throughput_ratio", *PARTS[1:]} <= set(result)
    assert result["concurrent"]["answers_unlike_generate"] == 0
    assert set(result["concurrent"]["statuses"]) == set(result["mixed"]["statuses"]) == {"200"}
    assert set(result["overload"]["statuses"]) == {"200", "429"}
    assert result["overload"]["retry_after"]["refused_and_answered"] > 0
    assert result["health"]["questions_far_too_long"]["statuses"] == [400]
    faults = result["faults"]
    assert faults["others_right"] == faults["requests"] - faults["meant_to_fail"] == 81
    assert sum(faults["failed"].values()) == faults["meant_to_fail"]
    assert (faults["others_wrong"], faults["without_an_end"], faults["engine_alive"]) == (0, 0, True)
    assert (faults["contexts_left"], faults["threads_left"]) == (0, 0)
    assert set(result["environment"]) >= {"torch", "processor", "cores", "commit"}


def test_parts_of_the_servers_measurement(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no part 'mix'\. Did you mean 'mixed'"):
        bench_serve(checkpoint=tmp_path, parts=["mix"])
    with pytest.raises(UsageError, match="1 or more"):
        bench_serve(checkpoint=tmp_path, clients=0)
