"""What an answer is."""

from __future__ import annotations

ANSWER_PROMPT = "The answer is:"
"""What stands before an answer, in the paper and wherever a text format says nothing else."""
