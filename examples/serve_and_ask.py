"""Serve a model behind OpenAI's API, ask it with OpenAI's client, stop. Needs codi[serve] and `openai`.

    python examples/serve_and_ask.py                           # a tiny model, trained for a few steps
    python examples/serve_and_ask.py runs/quickstart/codi

`codi serve CHECKPOINT` does the serving part from a terminal (docs/serving.md).
"""

from __future__ import annotations

import argparse
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import openai

import codi
from codi.serving.api import build_app
from codi.serving.engine import Engine
from codi.serving.server import address, server, take_port

QUESTION = "Tom gets 2. starts 25. Ana completes 20. starts 7. difference?"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", help="a trained model; left out, one is trained")
    parser.add_argument("--question", default=QUESTION)
    parser.add_argument("--output", type=Path, default=Path("runs/served"), help="folder of a trained one")
    asked = parser.parse_args(arguments)
    reasoner = codi.LatentReasoner.from_pretrained(asked.checkpoint or quickly_trained(asked.output))

    with served(reasoner, "thinker") as url, openai.OpenAI(base_url=f"{url}v1", api_key="none") as client:
        messages = [{"role": "user", "content": asked.question}]
        whole = client.chat.completions.create(model="thinker", messages=messages, max_tokens=32)
        print(f"{asked.question}\n{whole.choices[0].message.content}")
        print(f"what OpenAI's API has no word for: {whole.choices[0].codi}")

        print("streamed:", end=" ")
        for piece in client.chat.completions.create(
            model="thinker", messages=messages, max_tokens=32, stream=True
        ):
            print(piece.choices[0].delta.content or "", end="", flush=True)
        print()
    print("stopped")


@contextmanager
def served(reasoner: codi.LatentReasoner, name: str) -> Iterator[str]:
    """The model on a free port while the block runs; yields the address."""
    taken = take_port("127.0.0.1", 0)
    running = server(build_app(Engine(reasoner), name))  # its engine is closed with it
    thread = threading.Thread(target=running.run, kwargs={"sockets": [taken]})
    thread.start()
    try:
        yield address(taken)
    finally:
        running.should_exit = True
        thread.join()


def quickly_trained(folder: Path) -> Path:
    """A tiny CODI model after four steps: enough to be asked, not to be right."""
    settings = {
        "start": None,  # the recipe's is a longer training of the teacher
        "data.train": "two-branches?count=64&shorter=20",
        "data.validation": None,
        "training.max_steps": 4,
        "training.eval_strategy": "no",
    }
    return codi.train("quickstart", folder, settings, overwrite=True, say=lambda _: None).output


if __name__ == "__main__":
    main()
