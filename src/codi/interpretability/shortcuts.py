"""Do the thoughts do anything, or is there a shortcut from the question to the answer?

Asked of latent reasoning by arXiv 2602.22441 and by readers of Coconut. Every row asks the same questions
with something else in the way, and is compared question by question with the undisturbed answers:

    k latents                       none, fewer, more: does it take thoughts, and how many?
    zeros, mean, <bot>'s input      one constant for all questions: is it the thoughts, or the passes alone?
    noise, noise of the same norm   nothing but their size is left
    another problem's thoughts      is it what they say?
    thoughts in another order       is it their order?
    numbers changed afterwards      the question in the cache is another once the thinking is over
    question, thoughts hidden       once the thinking is over: where does the answer read from?
    forced after <bot>              the answer prompt right there, without <eot>
    asked directly                  the answer prompt right after the question

Where the thoughts and the question that the answer can see are of two problems, `Followed` says whose answer
was given. Thoughts that change nothing are no proof that the model does not use them, and a fall is no proof
that it computes in them: an intervention is also something that the model has never seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from codi.data.example import Example
from codi.errors import UsageError
from codi.evaluation.statistics import accuracy_interval
from codi.generation.latent_reasoner import LatentReasoner
from codi.interpretability.after_thinking import (
    AfterThinking,
    Edit,
    HideQuestion,
    HideThoughts,
    SwapQuestion,
    with_other_numbers,
)
from codi.interpretability.disturbed_answers import Asker, Outcome
from codi.interpretability.interventions import (
    ask_replaced,
    asker_of,
    default_numbers,
    donor_shift,
)
from codi.interpretability.shortcut_table import (
    CHANGED,
    DIRECT,
    FORCED,
    NO_QUESTION,
    NO_THOUGHTS,
    REPLACED,
    Followed,
    ShortcutRow,
    ShortcutTable,
    verdict,
)
from codi.interpretability.usable_rows import Reasons
from codi.methods.method import Start, append
from codi.methods.pause_tokens import PauseTokens
from codi.modeling.context import Tokens, empty_cache, remembers_all

NO_OTHER_NUMBERS = "no number in the question that another of as many tokens could stand for"


def shortcut_table(
    reasoner: LatentReasoner,
    examples: Sequence[Example],
    *,
    scorer: str = "codi",
    latents: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
    asker: Asker | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> ShortcutTable:
    """Ask every row of a model of any method; a row that does not apply to it says why.

    latents: thought undisturbed, None for as many as trained; asker: one that asks these examples, whose
    outcomes are shared. A question whose numbers cannot be changed is left out of all rows, so that all are
    over the same questions; where that were more than half, the row of changed numbers is left out instead.

    Raises UsageError for a number of latents that the model cannot think, DataError for fewer than 2
    problems or a gold answer that cannot be scored.
    """
    if latents is not None and not reasoner.method.thinks:
        raise UsageError(f"{latents} latents were asked for, but a {reasoner.method.name} model has none.")
    asker = asker or asker_of(reasoner, examples, scorer, latents, batch_size)
    shortcuts = _Shortcuts(asker, seed)
    chosen, left_out = shortcuts.chosen_rows()
    plan = shortcuts.plan()
    rows: list[ShortcutRow] = []
    for name, reason, ask in plan:
        if reason is not None:
            rows.append(ShortcutRow(name, None, None, reason))
        else:
            outcomes, owners = ask()
            followed = None if owners is None else shortcuts.followed(outcomes, owners, chosen)
            rows.append(ShortcutRow(name, asker.compare(name, outcomes, chosen), followed))
        if on_progress is not None:
            on_progress(len(rows), len(plan))
    n, right = len(chosen), sum(asker.undisturbed()[row].right for row in chosen)
    return ShortcutTable(
        method=reasoner.method.name,
        latents=asker.trained,
        n=n,
        correct=right,
        accuracy=right / n,
        ci95=accuracy_interval(right, n),
        rows=rows,
        left_out=left_out,
        verdict=verdict(rows, right, n),
    )


Owners = tuple[Sequence[Outcome], Sequence[Outcome]]
"""The undisturbed answers of the problem thought about and of the problem that can be seen, row by row."""
Planned = tuple[str, str | None, Callable[[], tuple[list[Outcome], Owners | None]]]
"""A row's name, why it does not apply (None: it does), and how it is asked."""


class _Shortcuts:
    """What can be asked of one model."""

    def __init__(self, asker: Asker, seed: int) -> None:
        self.asker, self.seed, self.reasoner = asker, seed, asker.reasoner
        self.method, self.model = asker.reasoner.method, asker.reasoner.model
        self.pauses = self.method.pauses if isinstance(self.method, PauseTokens) else 0
        self.positions = asker.trained or self.pauses
        self.changed = [self._changed(question) for question in asker.questions]

    def _changed(self, question: str) -> str | None:
        if self._cannot_edit() is not None or not remembers_all(empty_cache(self.model.causal.config)):
            return None
        return with_other_numbers(self.reasoner.text, question, self.seed)

    def chosen_rows(self) -> tuple[list[int], Reasons]:
        """The questions that every row is over, and why not the others."""
        all_rows = list(range(len(self.changed)))
        if not self._exchanges():
            return all_rows, {}
        rows = [row for row in all_rows if self.changed[row] is not None]
        left_out = len(all_rows) - len(rows)
        return rows, {NO_OTHER_NUMBERS: left_out} if left_out else {}

    def _exchanges(self) -> bool:
        """Whether the numbers of enough questions can be changed."""
        return sum(one is not None for one in self.changed) >= max(2, len(self.changed) / 2)

    def plan(self) -> list[Planned]:
        """All rows, in the order of the table."""
        return [
            *self._numbers(),
            *(
                (shown, self._cannot_replace(name), lambda name=name: self._replaced(name))
                for name, shown in REPLACED.items()
            ),
            (CHANGED, self._cannot_exchange(), self._exchanged),
            (NO_QUESTION, self._cannot_edit(), lambda: self._edited(NO_QUESTION, HideQuestion)),
            (NO_THOUGHTS, self._cannot_edit(), lambda: self._edited(NO_THOUGHTS, HideThoughts)),
            (FORCED, self._no_bot(), lambda: self._forced(FORCED, [self.model.bot_id])),
            (DIRECT, self._is_direct(), lambda: self._forced(DIRECT, [])),
        ]

    # --- why a row does not apply -------------------------------------------------------------------------

    def _no_bot(self) -> str | None:
        if self.method.thought_positions(self.asker.latents) > 0:
            return None
        return f"a {self.method.name} model puts nothing between question and answer"

    def _cannot_replace(self, name: str) -> str | None:
        if self.asker.trained:
            return "there is one thought" if name == "permuted" and self.asker.trained == 1 else None
        if self.pauses:
            return "its pauses are one constant, the same for every question"
        return self._no_bot() or "it thinks 0 latents"

    def _cannot_edit(self) -> str | None:
        return None if self.positions else self._no_bot() or "it thinks 0 latents"

    def _cannot_exchange(self) -> str | None:
        if self._cannot_edit() is not None or self._exchanges():
            return self._cannot_edit()
        if not remembers_all(empty_cache(self.model.causal.config)):
            return "the base forgets old positions (a sliding window), so no question can be exchanged"
        return "too few questions have a number that another of as many tokens could stand for"

    def _is_direct(self) -> str | None:
        return "that is how it answers" if self._no_bot() and self.method.modes[0] == "direct" else None

    # --- how a row is asked -------------------------------------------------------------------------------

    def _numbers(self) -> list[Planned]:
        if self.method.thinks:
            return [
                (f"{number} latents", None, lambda number=number: (self.asker.ask_thinking(number), None))  # type: ignore[misc]
                for number in default_numbers(self.asker.trained)
            ]
        if not isinstance(self.method, PauseTokens):
            return [("0 latents", self._no_bot(), lambda: ([], None))]
        return [
            (f"{number} pauses", None, lambda number=number: (self._pausing(number), None))  # type: ignore[misc]
            for number in default_numbers(self.pauses)
        ]

    def _pausing(self, number: int) -> list[Outcome]:
        method = replace(self.method, pauses=number)  # type: ignore[call-arg]
        return self.asker.ask(
            f"{number} pauses",
            lambda rows: method.start(self.model, self.reasoner.text, self.asker.tokens(rows), "direct"),
        )

    def _replaced(self, name: str) -> tuple[list[Outcome], Owners | None]:
        outcomes = ask_replaced(self.asker, name, self.seed)
        if name != "other":
            return outcomes, None
        mine = self.asker.undisturbed()
        shift = donor_shift(len(mine), self.seed)
        return outcomes, (mine[-shift:] + mine[:-shift], mine)

    def _exchanged(self) -> tuple[list[Outcome], Owners | None]:
        """The thoughts of the question as it was, the question as it is now."""
        questions = [
            example if changed is None else replace(example, question=changed)
            for example, changed in zip(self.asker.examples, self.changed, strict=True)
        ]
        now = Asker(
            self.reasoner, questions, self.asker.rule, latents=self.asker.latents,
            batch_size=len(self.asker.batches[0]),
        )  # fmt: skip

        def begin(rows: range) -> Start:
            other = self.model.read(now.tokens(rows, self.asker.latents)).context
            return self._start(rows, lambda _question: SwapQuestion(other))

        return self.asker.ask(CHANGED, begin), (self.asker.undisturbed(), now.undisturbed())

    def _edited(self, name: str, edit: Callable[[Tokens], Edit]) -> tuple[list[Outcome], Owners | None]:
        return self.asker.ask(name, lambda rows: self._start(rows, edit)), None

    def _start(self, rows: range, edit: Callable[[Tokens], Edit]) -> Start:
        """As the method starts, with the context edited once the thinking (or pausing) is over."""
        question = self.asker.tokens(rows, self.asker.latents)
        if self.asker.trained:
            return self.asker.watched(rows, AfterThinking(self.asker.trained, edit(question)))
        model, prompt = self.model, self.reasoner.text.prompt_ids
        paused = model.read(append(question, [model.bot_id] * (1 + self.pauses))).context
        after = Tokens.repeated([model.eot_id, *prompt], paused.rows, model.device)
        context = model.read(after, after=edit(question)(paused)).context
        return Start(context, written=prompt, thoughts=self.pauses + 2, passes=2)

    def _forced(self, name: str, before: list[int]) -> tuple[list[Outcome], Owners | None]:
        """The answer prompt right after the question, or after it and <bot>."""
        prompt = self.reasoner.text.prompt_ids

        def begin(rows: range) -> Start:
            context = self.model.read(append(self.asker.tokens(rows), [*before, *prompt])).context
            return Start(context, written=prompt, thoughts=len(before), passes=1)

        return self.asker.ask(name, begin), None

    def followed(self, given: Sequence[Outcome], owners: Owners, rows: Sequence[int]) -> Followed | None:
        """Whose answers were given; None where the two problems' own never differ."""
        thoughts, question = owners
        told_apart = [
            row
            for row in rows
            if None not in (thoughts[row].value, question[row].value)
            and not self.asker.same(thoughts[row], question[row])
        ]
        n = len(told_apart)
        if n == 0:
            return None
        of_thoughts = sum(self.asker.same(given[row], thoughts[row]) for row in told_apart)
        of_question = sum(self.asker.same(given[row], question[row]) for row in told_apart)
        return Followed(
            n=n,
            thoughts=of_thoughts / n,
            thoughts_ci95=accuracy_interval(of_thoughts, n),
            question=of_question / n,
            question_ci95=accuracy_interval(of_question, n),
        )
