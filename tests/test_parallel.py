"""Several processes give what one gives: gradients, weights, predictions; and stop together when one fails.

Two processes on CPU, over gloo, as torchrun starts them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from codi import processes
from codi.errors import TrainingError
from codi.methods.method import build_method
from codi.training.batches import LengthGroupedBatches
from codi.training.sharding import check_plugin
from codi.training.shares import Share
from parallel_worker import FSDP, KeepGradients
from tiny_runs import examples, run, tiny_settings, weights, write_rows

TESTS = Path(__file__).parent
METHODS: dict[str, dict[str, Any]] = {
    "codi": {"name": "codi", "latents": 2, "divide_by_std": False},
    "coconut": {"name": "coconut", "stage": 2, "mix": "uniform", "mix_share": 0.5},
    "cot-sft": {"name": "cot-sft"},
    "sim-cot": {"name": "sim-cot", "latents": 2, "divide_by_std": False},  # a part for training alone
    "kava": {
        "name": "kava", "latents": 3, "rounds": 2, "beta": 1, "kv": 0.1, "divide_by_std": False,
        "kv_std": False,
    },
}  # fmt: skip


def torchrun(*command: str, count: int = 2) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count),
            "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", *command,
        ],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(TESTS.parent / "src"), str(TESTS)]),
            "OMP_NUM_THREADS": "1",
        },
        text=True,
        capture_output=True,
        timeout=200,
    )  # fmt: skip


def together(folder: Path, *jobs: dict[str, Any], count: int = 2) -> subprocess.CompletedProcess[str]:
    """Run jobs of parallel_worker.py one after the other, in the same processes."""
    file = folder / "jobs.json"
    file.write_text(json.dumps(jobs))
    return torchrun(str(TESTS / "parallel_worker.py"), str(file), count=count)


def settings_of(folder: Path, method: str, **training: Any) -> dict[str, Any]:
    """22 rows, 4 a step: the epoch ends with a step of two rows, and one process has none of the last two."""
    settings = tiny_settings(
        folder, rows=22, **{"max_steps": 8, "save_steps": 8, "optim": "sgd", "learning_rate": 0.1} | training
    )
    settings["method"] = METHODS[method]
    settings["model"]["projection"] = method != "coconut"
    return settings


# --- gradients ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every method alone, with DDP and with FSDP2; CODI also with its micro-batches kept whole."""
    folder = tmp_path_factory.mktemp("parallel")
    jobs = []
    for method in METHODS:
        settings = settings_of(folder, method)
        run(settings, folder / method, callbacks=[KeepGradients(folder / f"{method}.gradients")])
        jobs += [
            {"settings": settings, "output": str(folder / f"{method}-{kind}"), "fsdp": kind == "fsdp2"}
            for kind in ("ddp", "fsdp2")
        ]
    whole = settings_of(folder, "codi", per_device_train_batch_size=2, gradient_accumulation_steps=2)
    whole["method"] = {"name": "codi", "latents": 2}  # divides by the micro-batch's standard deviation
    run(whole, folder / "whole", callbacks=[KeepGradients(folder / "whole.gradients")])
    jobs.append({"settings": whole, "output": str(folder / "whole-ddp")})
    done = together(folder, *jobs)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize(
    ("alone", "parallel"),
    [(method, f"{method}-{kind}") for method in METHODS for kind in ("ddp", "fsdp2")]
    + [("whole", "whole-ddp")],
)
def test_gradients_and_weights_are_those_of_one_process(trained: Path, alone: str, parallel: str) -> None:
    ours: dict[str, Tensor] = torch.load(trained / f"{parallel}.gradients")
    theirs: dict[str, Tensor] = torch.load(trained / f"{alone}.gradients")
    assert theirs.keys() <= ours.keys()
    assert max(gradient.abs().max() for gradient in theirs.values()) > 1e-3
    for name, gradient in ours.items():  # DDP gives zeros where one process gives none
        expected = theirs.get(name, torch.zeros_like(gradient))
        torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-6)
    after, expected_after = weights(trained / parallel), weights(trained / alone)
    assert after.keys() == expected_after.keys()
    for name, weight in after.items():  # eight steps on, over the end of an epoch
        torch.testing.assert_close(weight, expected_after[name], rtol=1e-5, atol=1e-5)


def test_losses_are_means_over_the_processes(trained: Path) -> None:
    for method in METHODS:
        alone, ddp, fsdp2 = (
            json.loads((trained / name / "training.json").read_text())
            for name in (method, f"{method}-ddp", f"{method}-fsdp2")
        )
        assert (alone["processes"], ddp["processes"]) == (1, 2)
        for one, *others in zip(alone["history"], ddp["history"], fsdp2["history"], strict=True):
            for other in others:
                for term in {*build_method(METHODS[method]).terms, "loss", "grad_norm"} & one.keys():
                    assert other[term] == pytest.approx(one[term], rel=1e-4), (method, term)


def test_fsdp2_shards_and_its_checkpoint_is_whole(trained: Path) -> None:
    assert json.loads((trained / "codi-fsdp2.sharded").read_text()) == [True]
    assert json.loads((trained / "codi-ddp.sharded").read_text()) == [False]
    ours, theirs = weights(trained / "codi-fsdp2"), weights(trained / "codi")
    assert {name: weight.shape for name, weight in ours.items()} == {
        name: weight.shape for name, weight in theirs.items()
    }


# --- stopping and going on ----------------------------------------------------------------------------------


def test_a_killed_process_stops_the_others_and_the_run_goes_on_with_another_number(tmp_path: Path) -> None:
    settings = settings_of(
        tmp_path, "codi", save_steps=4, max_steps=8, optim="adamw_torch", learning_rate=3e-3
    )
    jobs = [
        {"settings": settings, "output": str(tmp_path / kind), "fsdp": kind == "fsdp2"}
        for kind in ("ddp", "fsdp2")
    ]
    run(settings, tmp_path / "whole")
    for job in jobs:
        killed = together(tmp_path, {**job, "kill": 6})
        output = Path(job["output"])
        assert killed.returncode != 0
        assert "local_rank: 1" in killed.stderr
        assert "SIGKILL" in killed.stderr
        assert not (output / "codi.json").exists()
        assert (output / "checkpoint-4" / "complete").exists()
    run(settings, tmp_path / "ddp", resume=True)  # two processes, now one
    resumed = together(tmp_path, {**jobs[1], "resume": True})  # sharded again
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    for kind in ("ddp", "fsdp2"):
        for name, weight in weights(tmp_path / kind).items():
            torch.testing.assert_close(weight, weights(tmp_path / "whole")[name], rtol=1e-4, atol=1e-5)


# --- bad input ----------------------------------------------------------------------------------------------


def test_processes_that_do_not_divide_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(
        TrainingError, match=r"3 processes cannot share a step of 64 rows.*Start 1, 2, 4 or 8 p"
    ):
        Share.of_this_process(16, 4)
    monkeypatch.setenv("WORLD_SIZE", "8")
    share = Share.of_this_process(16, 4)
    assert (share.groups, share.pieces, share.own_batch, share.own_accumulation) == (4, 2, 8, 1)


def test_processes_with_different_data_stop_with_one_message(tmp_path: Path) -> None:
    """Each process finds other rows where the file is named: two machines that share nothing."""
    recipe = tiny_settings(tmp_path, save_strategy="no")
    for rank, count in ((0, 20), (1, 24)):
        (tmp_path / f"machine-{rank}").mkdir()
        write_rows(tmp_path / f"machine-{rank}" / "train.jsonl", examples(count))
    recipe["data"]["train"] = "train.jsonl"
    recipe["training"]["num_train_epochs"] = 1
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    command = (
        f"cd {tmp_path}/machine-$RANK && exec {sys.executable} -m codi train ../recipe.yaml --output ../out"
    )
    done = torchrun("--no-python", "bash", "-c", command)
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if "error: " in line]
    assert len(said) == 1, done.stderr[-3000:]
    assert "Process 1 of 2 has other training data than process 0" in said[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"fsdp_version": 1, "reshard_after_forward": "FULL_SHARD"}, "only version 2"),
        ({"activation_checkpointing": True}, "lose their question"),
        ({"auto_wrap_policy": "transformer_based_wrap"}, "NO_WRAP"),
        ({"cpu_ram_efficient_loading": True}, "false"),
    ],
)
def test_fsdp_settings_that_cannot_work_are_refused(changed: dict[str, Any], message: str) -> None:
    from accelerate.utils import FullyShardedDataParallelPlugin

    good: dict[str, Any] = {
        "fsdp_version": 2, "auto_wrap_policy": "no_wrap", "reshard_after_forward": False,
        "cpu_ram_efficient_loading": False,
    }  # fmt: skip
    check_plugin(FullyShardedDataParallelPlugin(**good), None)
    with pytest.raises(TrainingError, match=message):
        check_plugin(FullyShardedDataParallelPlugin(**good | changed), None)
    with pytest.raises(TrainingError, match="Muon"):
        check_plugin(FullyShardedDataParallelPlugin(**good), object())


def test_fsdp_without_an_accelerator_is_refused_not_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(TrainingError, match="on accelerators only"):
        check_plugin(None, None)


def test_shipped_launch_files_are_what_is_tested() -> None:
    folder = resources.files("codi.training") / "launch"
    fsdp2 = yaml.safe_load((folder / "fsdp2.yaml").read_text(encoding="utf-8"))
    assert fsdp2["distributed_type"] == "FSDP"
    for name, value in FSDP.items():
        if name != "ACCELERATE_USE_FSDP":
            assert str(fsdp2["fsdp_config"][name.lower()]).lower() == value.lower()
    assert (
        yaml.safe_load((folder / "ddp.yaml").read_text(encoding="utf-8"))["distributed_type"] == "MULTI_GPU"
    )


# --- shares -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch", "accumulation"), [(4, 1), (2, 2), (4, 4), (4, 3), (12, 1)])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_every_step_has_the_rows_it_has_on_one_process(batch: int, accumulation: int, count: int) -> None:
    lengths = [i % 11 for i in range(67)]

    def steps(share: Share) -> list[list[tuple[int, int]]]:
        batches = list(LengthGroupedBatches(lengths, batch, 1, share=share))
        assert len(batches) == len(LengthGroupedBatches(lengths, batch, 1, share=share))
        every = share.own_accumulation
        return [[key for b in batches[at : at + every] for key in b] for at in range(0, len(batches), every)]

    alone = steps(Share(batch, accumulation))
    parts = [steps(Share(batch, accumulation, count, number)) for number in range(count)]
    assert {len(part) for part in parts} == {len(alone)}
    for rows, *shared in zip(alone, *parts, strict=True):
        assert sorted(key for part in shared for key in part if key[0] >= 0) == sorted(rows)


# --- codi eval ----------------------------------------------------------------------------------------------


def test_eval_over_processes_writes_what_one_process_writes(trained: Path, tmp_path: Path) -> None:
    questions = write_rows(tmp_path / "questions.jsonl", examples(11))
    command = [
        "-m", "codi", "eval", str(trained / "codi"), "--benchmark", questions, "--batch-size", "2",
        "--temperature", "1.5", "--max-new-tokens", "8", "--seed", "3", "--latency-questions", "2",
        "--device", "cpu",
    ]  # fmt: skip
    files = []
    for name in ("alone", "parallel"):
        output = ["--predictions", str(tmp_path / name), "--output", str(tmp_path / f"{name}.json")]
        if name == "alone":
            environment = {**os.environ, "PYTHONPATH": str(TESTS.parent / "src"), "OMP_NUM_THREADS": "1"}
            done = subprocess.run(
                [sys.executable, *command, *output], env=environment, text=True, capture_output=True
            )
        else:
            done = torchrun(*command, *output)
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count("accuracy") == 1  # one table, of process 0
        [file] = (tmp_path / name).iterdir()
        files.append((file.read_bytes(), json.loads((tmp_path / f"{name}.json").read_text())))
    assert files[0][0] == files[1][0]
    for _, result in files:
        assert result["benchmarks"]["questions"].pop("latency_ms")["n"] == 2
    assert files[0][1] == files[1][1]


def test_a_process_alone_meets_no_others() -> None:
    assert (processes.count(), processes.number(), processes.everyones(3)) == (1, 0, [3])
    assert processes.first_alone(lambda: 5) == 5
