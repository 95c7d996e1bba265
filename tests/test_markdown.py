"""Markdown of chat models as plain lines."""

from __future__ import annotations

import pytest

from codi.data.markdown import plain_text


@pytest.mark.parametrize(
    ("written", "plain"),
    [
        (
            "There are **6** *large* trays, `8` rolls ~~or~~ each.",
            "There are 6 large trays, 8 rolls or each.",
        ),
        ("***All*** __of__ _them_.", "All of them."),
        ("**6 * 8 = 48**", "6 * 8 = 48"),
        # No marks.
        (
            "2*3*4 = 24, 2**3 = 8, 3**2 = 9, 2 ** 3 = 8, 5 * 4 * 1",
            "2*3*4 = 24, 2**3 = 8, 3**2 = 9, 2 ** 3 = 8, 5 * 4 * 1",
        ),
        ("f(x)*g(x)*h(x) and 5*(3+4)*2", "f(x)*g(x)*h(x) and 5*(3+4)*2"),
        ("my_long_name, a____b and ____", "my_long_name, a____b and ____"),
        ("|x - 3| = |5|", "|x - 3| = |5|"),
        ("$a_1 * b_2$ and $x_1*y_2*z$", "$a_1 * b_2$ and $x_1*y_2*z$"),
        ("48\n- 30 = 18", "48\n- 30 = 18"),
        ("It costs $5 and $6.", "It costs $5 and $6."),
        # A pair without its other half.
        ("18 are left. **", "18 are left."),
        ("**18 are left.", "18 are left."),
        # Lines that only lay out.
        (
            "### Step 1: the rolls\n\n6 * 8 = 48\n\n---\n\n## Step 2\n48 - 30 = 18",
            "6 * 8 = 48\n\n\n48 - 30 = 18",
        ),
        ("**Step 1: the rolls**\n6 * 8 = 48\n**Then:**\n48 - 30 = 18", "6 * 8 = 48\n48 - 30 = 18"),
        ("### 6 * 8 = 48\n### 48 - 30 = 18", "6 * 8 = 48\n48 - 30 = 18"),
        ("# Eighteen are left", "Eighteen are left"),
        ("Here is the reasoning:\n\n6 * 8 = 48", "6 * 8 = 48"),
        ("Let's think step by step.\n6 * 8 = 48", "6 * 8 = 48"),
        ("**Reasoning:** She bakes 48.", "She bakes 48."),
        ("The solution is 48.\nSteps take time: 3 hours.", "The solution is 48.\nSteps take time: 3 hours."),
        # Blocks.
        ("```python\nrolls = 6 * 8\n```\nThen 18.", "rolls = 6 * 8\nThen 18."),
        ("> 6 * 8 = 48\n> 48 - 30 = 18", "6 * 8 = 48\n48 - 30 = 18"),
        ("- 6 trays of 8 are 48.\n* 18 are left.", "6 trays of 8 are 48.\n18 are left."),
        ("- 6 * 8 = 48\n- 48 - 30 = 18", "6 * 8 = 48\n48 - 30 = 18"),
        (
            "| Step | What | Count |\n|:--|---|--:|\n| 1 | baked | 6 * 8 = 48 |\n| 2 | left | 18 |\n\nSo 18.",
            "baked, 6 * 8 = 48\nleft, 18\n\nSo 18.",
        ),
        ("What | How many\n--- | ---\nleft | 18", "left, 18"),
        # Links, tags, entities.
        (
            "See [the rule](https://example.org/a) of <b>it</b> &times; 2 &lt; 5.",
            "See the rule of it × 2 < 5.",
        ),
        ("5 \\* 4 = 20", "5 * 4 = 20"),
        ("", ""),
    ],
)
def test_marks_go_and_the_rest_stays(written: str, plain: str) -> None:
    assert plain_text(written) == plain
    assert plain_text(plain) == plain
