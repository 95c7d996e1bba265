"""Shorter rationales made from equations: the derived training sets of the paper's Appendix D (Table A3).

    whole                  <<10*2=20>> <<1*7=7>> <<20+7=27>> <<36-27=9>>     answer 9
    results                20          7         27
    operators-and-results  * 20        * 7       + 27

The last step's result is the answer, so it is left out of both, and once only: a method that leaves the last
step out by itself (CODI's teacher) is given it as it stands. The question the table asks: is a model that
thinks continuously the same as one fine-tuned on what its thoughts decode to?
"""

from __future__ import annotations

import re
from dataclasses import replace

from codi.data.example import Example
from codi.errors import DataError

FORMS = ("whole", "results", "operators-and-results")
"""Values of `data.rationale_form`."""

# GSM8k-Aug has some with a rounding between: <<35*1/3=11.67=11.67>>
_EQUATION = re.compile(r"<<(?P<left>[^=<>]+)=(?:[^<>]*=)?(?P<result>[^=<>]+)>>")
# A sign at the start, or after another operator or a bracket, belongs to its number.
_OPERATOR = re.compile(r"(?<=[\d)%.])\s*(//|\*\*|[-+*/^])")


class NotAnEquation(DataError):
    """A step that is not one equation, so that it has no intermediate result."""


def derive(example: Example, form: str, *, with_last_step: bool = False) -> Example:
    """The example with its rationale in another form: n steps give n - 1 results.

    with_last_step: keep the last step, as it is, for a method that reads rationales without it.

    Raises:
        NotAnEquation: a step that is not one equation `<<left=result>>`.
        DataError: an unknown form.
    """
    if form not in FORMS:
        raise DataError(f"data.rationale_form is '{form}'; it must be one of {', '.join(FORMS)}.")
    if form == "whole":
        return example
    results = tuple(_short(step, form, example.id) for step in example.steps[:-1])
    return replace(example, steps=results + (example.steps[-1:] if with_last_step else ()))


def _short(step: str, form: str, where: str) -> str:
    found = _EQUATION.fullmatch(step.strip())
    if found is None:
        raise NotAnEquation(
            f"'{where}': the step '{step}' is not one equation <<left=result>>, so it has no intermediate "
            f"result. The form '{form}' needs rationales of equations, as GSM8k-Aug has them."
        )
    result = found["result"].strip()
    if form == "results":
        return result
    return " ".join([*_OPERATOR.findall(found["left"]), result])
