"""A model of this package inside EleutherAI's lm-evaluation-harness, and the paper's benchmarks as its tasks.

    import codi.evaluation.harness as harness                      registers the model `codi`
    lm_eval.simple_evaluate(
        model="codi", model_args="pretrained=runs/gpt2", tasks=["codi_gsm8k"], task_manager=harness.tasks())

What the model generates is what `codi generate` answers. A log-likelihood is that of a continuation *after
the thoughts and the answer prompt*: log p(continuation | question, thoughts, prompt).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from lm_eval.tasks import TaskManager

from codi.data.collation import collate
from codi.errors import UsageError
from codi.evaluation.scorers import AnswerReader
from codi.generation.latent_reasoner import LatentReasoner
from codi.generation.stop_texts import cut_at_stop
from codi.modeling.context import Tokens

TASKS = Path(__file__).parent / "harness_tasks"


def tasks(**metadata: Any) -> TaskManager:
    """The harness's tasks, and ours.

    file: a local copy of the benchmark in place of the hub; limit: its first so many questions.
    """
    return TaskManager(include_path=str(TASKS), metadata=metadata)


@dataclass(frozen=True)
class _Settings:
    """How a request is to be answered; requests that agree are answered together."""

    until: tuple[str, ...]
    max_new_tokens: int
    temperature: float
    top_p: float


@register_model("codi")
class CodiLM(LM):  # type: ignore[misc]
    """A `LatentReasoner` as the harness sees it.

    pretrained: checkpoint folder or hub id; reasoning: latent, explicit or direct, the method's own by
    default; latents: another number of thoughts than trained; seed: of sampled answers.
    """

    reader: ClassVar[AnswerReader | None] = None
    """How the model that answered last writes its answers: the harness hands the scoring the text alone."""

    def __init__(
        self,
        pretrained: str | LatentReasoner,
        *,
        batch_size: int | str = 64,
        device: str | None = None,
        base: str | None = None,
        dtype: str | None = None,
        reasoning: str | None = None,
        latents: int | None = None,
        seed: int = 0,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        if isinstance(pretrained, LatentReasoner):
            self.reasoner = pretrained
        else:
            self.reasoner = LatentReasoner.from_pretrained(pretrained, device=device, base=base, dtype=dtype)
        if not str(batch_size).isdigit() or int(batch_size) < 1:
            raise UsageError(f"batch_size is '{batch_size}'; give a number of 1 or more.")
        self.batch_size = min(int(batch_size), max_batch_size or int(batch_size))
        self.reasoner.model.eval()
        self.mode, self.latents, self.seed = self.reasoner.method.mode(reasoning), latents, seed

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """The engine's answers, each ended before the first `until` in it."""
        CodiLM.reader = self.reasoner.text
        alike: dict[_Settings, list[int]] = {}
        for number, request in enumerate(requests):
            alike.setdefault(_settings(request.args[1]), []).append(number)
        texts = [""] * len(requests)
        for settings, numbers in alike.items():
            answers = self.reasoner.answer(
                [requests[number].args[0] for number in numbers],
                mode=self.mode,
                latents=self.latents,
                batch_size=self.batch_size,
                temperature=settings.temperature,
                top_p=settings.top_p,
                seed=self.seed,
                max_new_tokens=settings.max_new_tokens,
            )
            for number, answer in zip(numbers, answers, strict=True):
                texts[number] = cut_at_stop(answer.text, settings.until)[0]
        return texts

    @torch.no_grad()
    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Summed log-probability of each continuation, and whether greedy decoding would write it.

        Raises UsageError in explicit mode: what the model would write before the continuation is its own.
        """
        if self.mode == "explicit":
            raise UsageError(
                "A log-likelihood needs a fixed text before the continuation, and in explicit mode the "
                "rationale is the model's own. Use reasoning=latent (or direct), or a task that generates."
            )
        found: list[tuple[float, bool]] = []
        for first in range(0, len(requests), self.batch_size):
            batch = requests[first : first + self.batch_size]
            found += self._scored([request.args for request in batch])
        return found

    def _scored(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        reasoner, text, model = self.reasoner, self.reasoner.text, self.reasoner.model
        questions = [
            reasoner.question_ids(question, "A question", self.mode, self.latents) for question, _ in pairs
        ]
        start = reasoner.start(questions, self.mode, self.latents)
        # The answer's ids less prompt and end of text: what is written after the prompt was read.
        wanted = [text.answer(ending.strip()).ids[len(start.written) : -1] for _, ending in pairs]
        answer, inputs = self._tokens(wanted), self._tokens([ids[:-1] for ids in wanted])
        hidden = [start.context.last_hidden.unsqueeze(1)]
        if answer.ids.shape[1] > 1:
            hidden.append(model.read(inputs, after=start.context).final)
        scores = model.logits(torch.cat(hidden, 1)).float().log_softmax(-1)
        each = scores.gather(-1, answer.ids.unsqueeze(-1)).squeeze(-1) * answer.mask
        greedy = (scores.argmax(-1) == answer.ids) | (answer.mask == 0)
        return list(zip(each.sum(1).tolist(), greedy.all(1).tolist(), strict=True))

    def _tokens(self, rows: Sequence[list[int]]) -> Tokens:
        padded = collate([{"answer": ids} for ids in rows], self.reasoner.text.pad_id)
        return Tokens.of({name: t.to(self.reasoner.model.device) for name, t in padded.items()}, "answer")

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Not defined: a model that thinks between question and answer gives no probability to plain text."""
        raise UsageError(
            "A rolling log-likelihood (perplexity of plain text) is not defined for a model that answers "
            "questions. Choose tasks that generate, or score a continuation."
        )


def _settings(asked: dict[str, Any]) -> _Settings:
    """The harness's generation settings. Raises UsageError for one that is not known."""
    left = dict(asked)
    until = left.pop("until", None) or []
    sampled = left.pop("do_sample", None)
    temperature = float(left.pop("temperature", 0.0) or 0.0)
    if sampled is False or (sampled is None and temperature == 0):
        temperature = 0.0
    elif sampled and temperature == 0:
        temperature = 1.0
    settings = _Settings(
        until=(until,) if isinstance(until, str) else tuple(until),
        max_new_tokens=int(left.pop("max_gen_toks", left.pop("max_new_tokens", 256))),
        temperature=temperature,
        top_p=float(left.pop("top_p", 1.0)),
    )
    if left:
        raise UsageError(f"Unknown generation settings: {', '.join(sorted(left))}.")
    return settings
