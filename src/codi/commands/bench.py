"""`codi bench`: measure the speed and memory of preparing data, of training and of answering."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from codi.commands import options
from codi.commands.console import check_output, find_device, note, print_table, progress, write_json

app = typer.Typer(
    no_args_is_help=True, help="Measure the speed of preparing data, of training and of answering."
)


@app.command("train")
def train(
    method: Annotated[str, typer.Option(help="Whose step: codi, coconut, icot or pccot.")] = "codi",
    size: Annotated[
        str, typer.Option(help="Size of the model with random weights: tiny, gpt2, smollm2 or llama1b.")
    ] = "gpt2",
    batch_size: Annotated[int, typer.Option(help="Examples per step.")] = 16,
    pairs: Annotated[int, typer.Option(help="Pairs of literal and fast steps; the median is reported.")] = 3,
    lora_rank: Annotated[int, typer.Option(help="LoRA rank; 0 trains every weight.")] = 128,
    data: Annotated[Path | None, typer.Option(help="A file whose token lengths to use.")] = None,
    tokenizer: Annotated[str, typer.Option(help="Hub id or folder of the tokenizer for --data.")] = "gpt2",
    device: options.Device = None,
    bf16: Annotated[bool, typer.Option("--bf16", help="Compute in bfloat16.")] = False,
    base_bf16: Annotated[
        bool, typer.Option("--base-bf16", help="Hold the frozen base in bfloat16 (with --bf16 and LoRA).")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of weights and data.")] = 1,
    memory: Annotated[bool, typer.Option(help="Also measure the peak memory of both steps.")] = True,
    output: options.JsonOutput = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Training step: ours against the step as the paper writes it."""
    check_output(output, overwrite)
    find_device(device)

    from codi.bench.train import bench_train

    with progress("steps") as on_progress:
        results = bench_train(
            name=method,
            size=size,
            batch_size=batch_size,
            pairs=pairs,
            lora_rank=lora_rank,
            data=data,
            tokenizer=tokenizer,
            device=device,
            bf16=bf16,
            base_bf16=base_bf16,
            seed=seed,
            memory=memory,
            on_progress=on_progress,
        )
    _report("Training step", results, output)


@app.command("data")
def data(
    rows: Annotated[int, typer.Option(help="Rows of the file that is made.")] = 385_620,
    form: Annotated[str, typer.Option("--format", help="Of that file: jsonl or parquet.")] = "jsonl",
    tokenizer: Annotated[
        str | None, typer.Option(help="Folder or hub id; by default a BPE learnt from the rows.")
    ] = None,
    rows_of: Annotated[
        Path | None, typer.Option(help="A file whose rows are drawn; by default generated word problems.")
    ] = None,
    method: Annotated[str, typer.Option(help="Whose reading.")] = "codi",
    seed: Annotated[int, typer.Option(help="Seed of the rows.")] = 1,
    output: options.JsonOutput = None,
    overwrite: options.Overwrite = False,
) -> None:
    """A training set read, checked and tokenised: the first time, and from what is kept of it."""
    check_output(output, overwrite)

    from codi.bench.data import bench_data

    results = bench_data(rows=rows, form=form, tokenizer=tokenizer, rows_of=rows_of, method=method, seed=seed)
    _report("Preparing a training set", results, output)


@app.command("generate")
def generate(
    latent: Annotated[Path, typer.Option(help="Checkpoint that thinks (CODI).")],
    explicit: Annotated[Path, typer.Option(help="Checkpoint that writes its reasoning (CoT-SFT).")],
    questions: Annotated[int, typer.Option(help="Questions asked of each, one at a time.")] = 100,
    batch_size: Annotated[int, typer.Option(help="Batch of the throughput measurement.")] = 64,
    device: options.Device = None,
    base: options.Base = None,
    bf16: Annotated[bool, typer.Option("--bf16", help="Compute in bfloat16.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of the questions.")] = 1,
    output: options.JsonOutput = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Answering at batch 1: continuous thoughts against written ones."""
    check_output(output, overwrite)
    find_device(device)

    from codi.bench.generate import bench_generate

    results = bench_generate(
        latent=latent,
        explicit=explicit,
        base=base,
        questions=questions,
        device=device,
        seed=seed,
        batch_size=batch_size,
        bf16=bf16,
    )
    _report("Answering at batch 1", results, output)


@app.command("probe")
def probe(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint that thinks.")],
    questions: Annotated[int, typer.Option(help="Questions looked at, one at a time.")] = 50,
    problems: Annotated[int, typer.Option(help="Problems whose thoughts are decoded, in batches.")] = 1000,
    device: options.Device = None,
    base: options.Base = None,
    seed: Annotated[int, typer.Option(help="Seed of the questions.")] = 1,
    output: options.JsonOutput = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Looking at thoughts, against answering alone."""
    check_output(output, overwrite)
    find_device(device)

    from codi.bench.probe import bench_probe

    results = bench_probe(
        checkpoint=checkpoint, base=base, questions=questions, problems=problems, device=device, seed=seed
    )
    _report("Looking at thoughts", results, output)


@app.command("page")
def page(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint that thinks.")],
    tabs: Annotated[int, typer.Option(help="Tabs opened, one after the other.")] = 10,
    device: options.Device = None,
    base: options.Base = None,
    output: options.JsonOutput = None,
    overwrite: options.Overwrite = False,
) -> None:
    """The web page in a browser: loading, first answer, answer after a change."""
    check_output(output, overwrite)
    find_device(device)

    from codi.bench.page import bench_page

    results = bench_page(checkpoint=checkpoint, base=base, tabs=tabs, device=device)
    _report("The page in Chromium", results, output)


@app.command("serve")
def serve(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint to serve.")],
    clients: Annotated[int, typer.Option(help="Clients that ask at the same time.")] = 32,
    requests: Annotated[int, typer.Option(help="Requests they send in all.")] = 2000,
    sequential: Annotated[int, typer.Option(help="Requests sent one at a time, to compare.")] = 200,
    overload_seconds: Annotated[float, typer.Option(help="How long it gets ten times too much.")] = 60,
    faulty: Annotated[int, typer.Option(help="Requests of which every tenth fails somewhere.")] = 1000,
    repeats: Annotated[int, typer.Option(help="Repeats of what is compared in turn.")] = 5,
    part: Annotated[
        list[str] | None,
        typer.Option(
            help="Measure this part alone; once for each: throughput, staggered, mixed, health, "
            "overload, faults."
        ),
    ] = None,
    max_waiting: Annotated[int, typer.Option(help="Questions that may wait.")] = 256,
    device: options.Device = None,
    base: options.Base = None,
    seed: Annotated[int, typer.Option(help="Seed of the questions.")] = 1,
    output: options.JsonOutput = None,
    overwrite: options.Overwrite = False,
) -> None:
    """The API under load: throughput, questions that come one by one, overload, and faults."""
    check_output(output, overwrite)
    find_device(device)

    from codi.bench.serve import PARTS, bench_serve

    results = bench_serve(
        checkpoint=checkpoint,
        base=base,
        parts=part or PARTS,
        clients=clients,
        requests=requests,
        sequential=sequential,
        overload_seconds=overload_seconds,
        faulty=faulty,
        repeats=repeats,
        max_waiting=max_waiting,
        device=device,
        seed=seed,
        say=note,
    )
    _report("The server under load", results, output)


def _report(title: str, results: dict[str, Any], output: Path | None) -> None:
    print_table(title, ("measure", "value"), list(_flat(results)), numbers=True)
    if output is not None:
        write_json(output, results)


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested results as one row per value, named by its path."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", f"{value:.4g}" if isinstance(value, float) else str(value)
