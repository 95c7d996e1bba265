"""Jobs in processes of their own: needs, failures, and a process that the system kills."""

from __future__ import annotations

import os
import warnings

import pytest

from codi.training.side_by_side import Job, Reporter, run_side_by_side


def work(payload: str, report: Reporter) -> str:
    report(1, 1, "at work")
    if payload == "killed":
        os._exit(9)
    if payload == "warns":
        warnings.warn("of a library", FutureWarning, stacklevel=1)
    if payload == "wrong":
        raise ValueError("what was wrong")
    return payload.upper()


def test_one_that_dies_takes_no_other_with_it() -> None:
    done: dict[str, str] = {}
    jobs = [
        Job("a", "killed"),
        Job("b", "fine"),
        Job("c", "wrong"),
        Job("needs a", "fine", needs=("a",)),
        Job("needs b", "fine", needs=("b",)),
    ]
    errors = run_side_by_side(jobs, work, done.__setitem__, go_on=True)
    assert done == {"b": "FINE", "needs b": "FINE"}
    assert errors.keys() == {"a", "c", "needs a"}
    assert str(errors["c"]) == "what was wrong"
    assert "'a', which failed" in str(errors["needs a"])


def test_the_first_error_is_raised_unless_others_go_on() -> None:
    with pytest.raises(ValueError, match="what was wrong"):
        run_side_by_side([Job("c", "wrong")], work, lambda name, result: None)


@pytest.mark.parametrize(("action", "told"), [("ignore", 0), ("error", 1)])
def test_a_job_warns_as_the_process_that_started_it(action: str, told: int) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings(action, "of a library", FutureWarning)  # type: ignore[arg-type]
        errors = run_side_by_side([Job("w", "warns")], work, lambda name, result: None, go_on=True)
    assert len(errors) == told
