"""How a written answer is read and compared: named rules, the published ones among them.

    name      reads                                                    compares            gold answers
    number    last number after the answer prompt                      as decimals         one plain number
    text      all after the answer prompt                              as folded strings   any text
    letter    the label that stands after the answer prompt            as strings          one of the labels
    math      all after the answer prompt                              by math-verify      an expression
    codi      last number of the text, commas deleted                  as floats           one plain number
    coconut   text after the last '#', or the prompt; commas deleted   as strings          text
    icot      text after '####', or the prompt; commas deleted         as strings          text

The answer prompt is the model's own. The rules differ enough to move an accuracy, so every result names the
scorer it was made with; `auto` takes the one of the first four that fits the gold answers.
"""

from __future__ import annotations

from codi.data.answers import ANSWER_PROMPT
from codi.evaluation.scorers.choice import (
    AUTO,
    SCORERS,
    answer_kind,
    check_gold_answers,
    check_scorer_name,
    check_training_answers,
    choose_scorer,
    get_scorer,
    scorer_for,
)
from codi.evaluation.scorers.scorer import AnswerReader, Scorer

__all__ = [
    "ANSWER_PROMPT",
    "AUTO",
    "SCORERS",
    "AnswerReader",
    "Scorer",
    "answer_kind",
    "check_gold_answers",
    "check_scorer_name",
    "check_training_answers",
    "choose_scorer",
    "get_scorer",
    "scorer_for",
]
