"""Which column of a source is the question, the rationale, the answer: by name, before any row is read.

Names are compared without case, spaces, hyphens and underscores ("Final Answer" is `final_answer`). An exact
`question` or `answer` goes before every other name. Where two names could be meant, nothing is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from codi.data.choice_columns import SCORED, find_choice_columns
from codi.data.choices import Keys
from codi.errors import DataError, nearest

QUESTIONS = (
    "question", "question_stem", "question_text", "problem", "problem_statement", "query", "prompt",
    "instruction", "input", "inputs", "ctx", "goal", "sentence",
)  # fmt: skip
# What a question stands on, put before it.
CONTEXTS = ("system", "body", "passage", "context", "article", "premise", "table")
FINAL_ANSWERS = (
    "final_answer", "final_ans", "expected_answer", "gold_answer", "correct_answer", "reference_answer",
    "ground_truth", "ground_truth_answer", "answer_number", "answer_only", "numeric_answer", "answer_key",
    "correct_option",
)  # fmt: skip
"""Names that say that the answer stands alone there, also beside an `answer` that is a worked solution."""
LABELS = ("target", "targets", "label", "gold", "correct", "cop", "answer_index", "answer_idx")
"""Names of an answer that name other things as well."""
SOLUTIONS = ("solution", "generated_solution", "response", "completion", "output", "generation")
"""Worked solutions: rationale and answer in one text; the rationale where the answer stands elsewhere."""
STEPS = ("steps", "reasoning_steps", "solution_steps")
RATIONALES = (
    "cot", "rationale", "chain_of_thought", "reasoning", "reasoning_content", "thinking", "explanation",
    "cot_content",
)  # fmt: skip
INNER_QUESTION, INNER_SOLUTIONS = "extra_info.question", ("extra_info.answer", "extra_info.solution")
INNER_ANSWERS = ("reward_model.ground_truth", "extra_info.ground_truth")
INNER = (INNER_QUESTION, *INNER_ANSWERS, *INNER_SOLUTIONS)
"""Inside the columns of rows for reinforcement learning (verl, DAPO): `prompt` holds the question with
instructions around it, `extra_info` the plain one."""
_HOLDERS = frozenset(name.partition(".")[0] for name in INNER)
CONVERSATIONS = ("messages", "conversations", "conversation", "dialogue", "dialog", "chat", "turns")


@dataclass(frozen=True)
class Columns:
    """Names of the columns to read; None leaves a column to be recognised.

    `a.b` is the `b` inside column `a`.

    Attributes:
        question: text of the question.
        rationale: the reasoning as one text, split into steps by the steps rule.
        steps: the reasoning as a list of steps, kept as it stands.
        answer: the final answer.
    """

    question: str | None = None
    rationale: str | None = None
    steps: str | None = None
    answer: str | None = None


@dataclass(frozen=True)
class Layout:
    """The columns of one source.

    Attributes:
        question: the question, or a conversation.
        answers: where the answer is, surest first; a row takes the first that it fills.
        rationales: where the reasoning is, likewise; none: beside the answer, in one text.
        before: texts put before the question, such as the story that it asks about.
        after: text put after it: the input of an instruction.
        choices: the answer options: one column with all, or one for each.
        id: the row's own name.
        keys: what a bare number means as the answer of a question with options; None: each row for itself.
        passed_over: columns that are named like options, and hold none.
    """

    question: str
    answers: tuple[str, ...]
    rationales: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    after: str | None = None
    choices: tuple[str, ...] = ()
    id: str | None = None
    keys: Keys | None = None
    passed_over: tuple[str, ...] = ()

    def reads(self, column: str) -> bool:
        """Whether `column` has a role, or holds one that has."""
        named = (
            self.question, self.after, self.id, *self.answers, *self.rationales, *self.before, *self.choices
        )  # fmt: skip
        return column in _HOLDERS or any(
            name is not None and (name == column or name.startswith(f"{column}.")) for name in named
        )


def resolve_layout(
    found: Sequence[str],
    asked: Columns | None,
    where: str,
    *,
    inside: Sequence[str] = (),
    needs_answer: bool = True,
) -> Layout:
    """Match the columns `found` in `where` with those asked for and those of the known layouts.

    inside: columns inside them that could be asked for, for the messages. needs_answer: whether rows without
    an answer are of no use; else the layout may have none.

    Raises:
        DataError: a column asked for is not there, none can be recognised, or several could be meant.
    """
    asked = asked or Columns()
    shown = (*found, *(name for name in inside if name not in found))
    _check_asked(found, asked, where, shown)
    names = _Names(found)
    question, before, after = (asked.question, (), None) if asked.question else _question(names)
    answers: tuple[str, ...] = (asked.answer,) if asked.answer else ()
    if not answers and needs_answer:
        answers = _answers(names, where)
    conversation = names.first(CONVERSATIONS)
    if (
        asked.question is None
        and conversation is not None
        and not (question and (answers or not needs_answer))
    ):
        sure = asked.answer or names.first(("answer", *FINAL_ANSWERS))
        question, after, answers = conversation, None, (sure,) if sure else (conversation,)
        before = names.every(("system",))
    elif asked.answer is None and not answers and asked.question in (*names.every(CONVERSATIONS),):
        answers = (asked.question,)  # the reply in the same conversation
    choices = find_choice_columns({fold(name): name for name in found if name not in (question, *answers)})
    if not answers and needs_answer and len(choices) == 1 and fold(choices[0]) in SCORED:
        answers = choices
    if question is None:
        several = names.every(QUESTIONS[1:])
        raise (
            _several("question", several, where)
            if several
            else _none(
                "question", ("question", "problem", "query", "prompt", "instruction", "input"), shown, where
            )
        )
    if not answers and needs_answer:
        raise _none("answer", ("answer", *FINAL_ANSWERS[:3], *LABELS[:2], *SOLUTIONS), shown, where)
    named = asked.rationale or asked.steps
    rationales = (named,) if named else names.every((*STEPS, *RATIONALES))
    solutions = names.every((*SOLUTIONS, *INNER_SOLUTIONS))
    if not named and not set(answers[:1]) & set(solutions):
        # Beside an answer of its own, a worked solution is the rationale.
        rationales += (*answers[1:], *solutions)
    taken = {question, *answers[:1], after, *before, *choices}
    return Layout(
        question=question,
        answers=answers,
        rationales=tuple(column for column in rationales if named or column not in taken),
        before=before,
        after=after,
        choices=choices,
        id=names.first(("id",)),
    )


def fold(name: str) -> str:
    """A column's name as it is compared."""
    return re.sub(r"[\s_\-./]+", "", name).casefold()


def label_columns(found: Iterable[str]) -> tuple[str, ...]:
    """Of the columns found those whose name may be that of an answer."""
    return _Names(tuple(found)).every(("answer", *FINAL_ANSWERS, *LABELS))


class _Names:
    """The columns of a source by their folded names; an exact name goes before one that folds to it."""

    def __init__(self, found: Iterable[str]) -> None:
        self.exact = frozenset(found)
        self.folded: dict[str, str] = {}
        for name in found:
            self.folded.setdefault(fold(name), name)

    def first(self, names: Iterable[str]) -> str | None:
        """The column of the first of `names` that there is."""
        return next(iter(self.every(names)), None)

    def every(self, names: Iterable[str]) -> tuple[str, ...]:
        """The columns of all `names` that there are, in their order."""
        columns = (name if name in self.exact else self.folded.get(fold(name)) for name in names)
        return tuple(dict.fromkeys(column for column in columns if column is not None))


def _question(names: _Names) -> tuple[str | None, tuple[str, ...], str | None]:
    """The question's column (None: none, or several could be it), those put before it, and the one after."""
    joined = names.first(("question_concat",))
    if joined is not None and names.first(("answer",)) is not None:  # SVAMP: body and question in one
        return joined, (), None
    exact, inner = names.first(QUESTIONS[:1]), names.first((INNER_QUESTION,))
    candidates = (exact,) if exact else names.every(QUESTIONS[1:])
    if inner is not None and exact is None and candidates in ((), names.every(("prompt",))):
        return inner, names.every(CONTEXTS), None
    instruction, given = names.first(("instruction",)), names.first(("input", "context"))
    if instruction is not None and candidates in ((instruction,), (instruction, names.first(("input",)))):
        system = names.every(("system",))
        return instruction, system, given
    if len(candidates) != 1:
        return None, (), None
    return candidates[0], names.every(CONTEXTS), None


def _answers(names: _Names, where: str) -> tuple[str, ...]:
    """The columns that may hold the answer, surest first; none where no name says so."""
    exact = names.first(("answer",))
    final = names.every(FINAL_ANSWERS) or names.every(INNER_ANSWERS)[:1]
    if len(final) > 1:
        raise _several("answer", final, where)
    if exact is not None or final:
        return (*final, *((exact,) if exact is not None else ()))
    labels, solutions = names.every(LABELS), names.every(SOLUTIONS)
    options = find_choice_columns(names.folded)
    candidates = labels if labels and options else labels + solutions
    if len(candidates) > 1:
        raise _several("answer", candidates, where)
    return candidates or names.every(INNER_SOLUTIONS)[:1]


def _check_asked(found: Sequence[str], asked: Columns, where: str, shown: Sequence[str]) -> None:
    for role in ("question", "rationale", "steps", "answer"):
        name = getattr(asked, role)
        if name is not None and name not in found:
            raise DataError(
                f"{where} has no column '{name}', asked for as the {role}.{nearest(name, shown)} "
                f"Columns found: {_listed(shown)}."
            )
    if asked.rationale is not None and asked.steps is not None:
        raise DataError(
            f"Both a rationale column ('{asked.rationale}') and a steps column ('{asked.steps}') were asked "
            f"for in {where}. Ask for one of them."
        )


def _several(role: str, columns: Sequence[str], where: str) -> DataError:
    return DataError(
        f"{where} has several columns that could be the {role}: {_listed(columns)}. "
        f"Name it: --{role}-column on the command line, data.columns.{role}=NAME in training."
    )


def _none(role: str, known: Sequence[str], found: Sequence[str], where: str) -> DataError:
    return DataError(
        f"{where} has no column recognised as the {role} (known: {_listed(known)}; conversations: "
        f"{_listed(CONVERSATIONS[:2])}). Columns found: {_listed(found)}. Name it: --{role}-column on the "
        f"command line, data.columns.{role}=NAME in training."
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "none"
