"""The plans on paper in the README are the planner's, by the rates and prices of today."""

from support.local_aws import SCRIPTS
from support.sorting import plan_paper


def test_the_table_in_the_readme_is_what_the_planner_says() -> None:
    text = (SCRIPTS.parent / "README.md").read_text()
    shown = text[text.index(plan_paper.BEGIN) : text.index(plan_paper.END) + len(plan_paper.END)]
    assert shown == plan_paper.paper(), "run scripts/bench/plan.py --paper, and put what it prints there"
    assert shown.count("\n| 1") == 6
