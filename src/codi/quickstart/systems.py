"""Which systems the quickstart compares, on which sets, and what each is called."""

from __future__ import annotations

METHODS = ("codi", "cot-sft", "no-cot-sft")
SETS = ("in_domain", "reworded", "larger_numbers", "longer_chains")
TITLES = {"codi": "CODI", "cot-sft": "CoT-SFT", "no-cot-sft": "No-CoT-SFT"}
SET_TITLES = {
    "in_domain": "in domain",
    "reworded": "reworded",
    "larger_numbers": "larger numbers",
    "longer_chains": "longer chains",
}
