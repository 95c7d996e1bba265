"""Does the teacher copy the last result that is written, or compute with it? (paper, 3.5: the last step)

    without the last step   Q <<15+4=19>> <<30-9=21>>              The answer is: 40
                            Q <<15+4=19>> <<30-9=25>>              The answer is: 44   followed: 19 + 25
    with it                 Q <<15+4=19>> <<30-9=21>> <<19+21=40>> The answer is: 40
                            Q <<15+4=19>> <<30-9=21>> <<19+21=37>> The answer is: 37   followed, and copied

One number of the teacher's text is another, and the teacher answers after it. Where the last step is written,
to follow it is to copy it; where it is not, the answer must still be computed from what is written. Beside it
stands the attention of the token before the answer to the tokens of each written result.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from codi.data.arithmetic import shown
from codi.data.collation import collate
from codi.data.equations import number_of
from codi.data.example import Example
from codi.errors import DataError
from codi.generation.latent_reasoner import LatentReasoner
from codi.interpretability.attention import recorded_attention
from codi.interpretability.counterfactuals import chain_or_reason
from codi.interpretability.distilled_token import own_teacher_of
from codi.interpretability.thinking import finish, in_batches, watching
from codi.methods.method import Start
from codi.modeling.context import Tokens
from codi.modeling.model import ThoughtWatcher

_DRAWS = 50
"""For a number that changes the answer."""


@dataclass(frozen=True)
class LastResult:
    """Over n problems of one number of steps; left_out others could not be changed so.

    written: steps in the teacher's text. right: share answered rightly with the text as it is. With its last
    result changed: followed, what follows from the changed number; copied, that number itself; kept, the
    answer before; one answer can be two of these. attention: of the token before the answer, to the result of
    each written step (mean over heads and layers), and by layer; uniform: what one position would have if
    all had the same.
    """

    n: int
    left_out: int
    written: int
    right: float
    followed: float
    copied: float
    kept: float
    attention: list[float]
    attention_by_layer: list[list[float]]
    uniform: float

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


@dataclass(frozen=True)
class _Changed:
    """A problem, its teacher's text and the one with another last result; ids end in the answer prompt."""

    example: Example
    value: Fraction
    answer: Fraction
    ids: list[int]
    changed_ids: list[int]
    places: list[list[int]]
    """By written step: the places of its result, counted from the end (-1 is the last)."""


def last_result(
    reasoner: LatentReasoner, examples: Sequence[Example], *, seed: int = 0, batch_size: int = 128
) -> LastResult:
    """Change the last written result of each problem's teacher text, and see what the teacher answers.

    The other number is the same step's result in another problem, drawn by seed, and gives another answer.
    Raises DataError where no problem can be changed, UsageError for a model that is not its own teacher.
    """
    keeps = own_teacher_of(reasoner, "The last written result").keep_last_step
    chosen = _chosen(reasoner, examples, keeps, random.Random(seed))
    if not chosen:
        raise DataError(
            f"In none of the {len(examples)} problems could the last written result be changed: it must "
            "stand as <<3*4=12>>, and the answer must follow from it. Give problems with such steps."
        )
    first, second = list[str](), list[str]()
    attended, widths = list[Tensor](), list[int]()
    for rows in in_batches(len(chosen), batch_size):
        batch = [chosen[row] for row in rows]
        texts, weights = _answers(reasoner, [one.ids for one in batch])
        first += texts
        second += _answers(reasoner, [one.changed_ids for one in batch])[0]
        for row, one in enumerate(batch):
            each = [weights[:, row, places].sum(-1) for places in one.places]
            attended.append(torch.stack(each, -1))  # [layers, written]
            widths.append(len(one.ids))
    attention = torch.stack(attended).mean(0)
    before, after = ([_value(reasoner, text) for text in texts] for texts in (first, second))
    n = len(chosen)
    gold = [number_of(one.example.answer) for one in chosen]

    def share(given: Sequence[Fraction | None], wanted: Sequence[Fraction | None]) -> float:
        return sum(a is not None and a == b for a, b in zip(given, wanted, strict=True)) / n

    return LastResult(
        n=n,
        left_out=len(examples) - n,
        written=attention.shape[1],
        right=share(before, gold),
        followed=share(after, [one.answer for one in chosen]),
        copied=share(after, [one.value for one in chosen]),
        kept=share(after, before),
        attention=attention.mean(0).tolist(),
        attention_by_layer=attention.tolist(),
        uniform=sum(1 / width for width in widths) / n,
    )


def _chosen(
    reasoner: LatentReasoner, examples: Sequence[Example], keeps: bool, draw: random.Random
) -> list[_Changed]:
    """Those that can be changed, all of the commonest number of written steps."""
    found = list[_Changed]()
    values = [_last_written(example, keeps) for example in examples]
    others = [value for value in values if value is not None]
    for example, value in zip(examples, values, strict=True):
        chain, _ = chain_or_reason(example)
        if value is None or chain is None or len(chain.equations) != len(example.steps):
            continue
        steps = example.steps if keeps else example.steps[:-1]
        for _ in range(_DRAWS):
            other = draw.choice(others)
            answer = chain.answer_if(len(steps), other)
            if other != value and answer not in (None, number_of(example.answer)):
                break
        else:
            continue
        assert answer is not None
        one = _with_ids(reasoner, example, steps, other, answer)
        if one is not None:
            found.append(one)
    sizes = [len(one.places) for one in found]
    return [one for one in found if len(one.places) == max(set(sizes), key=sizes.count)]


def _last_written(example: Example, keeps: bool) -> Fraction | None:
    """The result of the last step in the teacher's text; None where it is not written as `...=12>>`."""
    steps = example.steps if keeps else example.steps[:-1]
    if not steps or not all(step.endswith(">>") and "=" in step for step in steps):
        return None
    return number_of(steps[-1][steps[-1].rindex("=") + 1 : -2])


def _with_ids(
    reasoner: LatentReasoner, example: Example, steps: Sequence[str], value: Fraction, answer: Fraction
) -> _Changed | None:
    """None where the other number takes another number of tokens, so that its places cannot be told."""
    text = reasoner.text
    ids, places = [*text.question(example.question), *text.rationale(steps), *text.prompt_ids], []
    changed = ids
    for place, step in enumerate(steps):
        number = shown(value)
        if number is None or number == step[step.rindex("=") + 1 : -2]:
            number = shown(value + 1)
        another = [*steps[:place], f"{step[: step.rindex('=') + 1]}{number}>>", *steps[place + 1 :]]
        changed = [*text.question(example.question), *text.rationale(another), *text.prompt_ids]
        if len(changed) != len(ids):
            return None
        places.append([at - len(ids) for at, token in enumerate(ids) if token != changed[at]])
    return _Changed(example, value, answer, ids, changed, places)


def _answers(reasoner: LatentReasoner, encoded: Sequence[list[int]]) -> tuple[list[str], Tensor]:
    """The answers after these texts, and the last token's attention, mean over heads: [layers, b, t]."""
    model, text = reasoner.model, reasoner.text
    batch = collate([{"question": ids} for ids in encoded], text.pad_id)
    tokens = Tokens.of({name: each.to(model.device) for name, each in batch.items()}, "question")
    with watching(model, ThoughtWatcher()), recorded_attention(model) as passes:
        context = model.read(tokens).context
    start = Start(context, written=text.prompt_ids, thoughts=0, passes=1)
    return finish(reasoner, start), passes[0].mean(2).cpu()


def _value(reasoner: LatentReasoner, text: str) -> Fraction | None:
    value = reasoner.text.value(text)
    return None if value is None else number_of(value)
