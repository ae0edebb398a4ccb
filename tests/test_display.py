"""People see progress and results, on a terminal and in a log."""

import copy
import io
import re
import subprocess
import sys

from rich.console import Console

from greatmeta_dist.display import Display, Silent

HEAVY = ("torch", "polars", "ray", "hydra", "numpy")

MODELS = {
    "bias": {"mae": 0.8, "rmse": 0.9, "ndcg@5": None},
    "adapted": {"mae": 0.7, "rmse": 1.0, "ndcg@5": 0.75},
}
EVALUATION = {
    "scenarios": {
        "user_cold": {
            "users": 99,
            "models": MODELS,
            "chance": {"ndcg@5": 0.5},
            "groups": {
                "minority": {"models": {"bias": {"rmse": 1.25}, "adapted": {"rmse": 0.75}}},
                "gap": {"bias": {"rmse": 0.25}, "adapted": {"rmse": -0.25}},
            },
            "catalogue": {"adapted": {"hr@1": 0.1, "ndcg@1": 0.2, "hr@3": 0.3, "ndcg@3": 0.4}},
        }
    },
    "notes": {"noise_floor": 0.5},
}


def printed(*, is_terminal: bool = False) -> str:
    out = io.StringIO()
    console = Console(file=out, width=120, force_terminal=is_terminal, _environ={"TERM": "xterm"})
    Display(console).results(EVALUATION)
    return out.getvalue()


def test_importing_the_display_loads_nothing_heavy():
    code = f"import sys, greatmeta_dist.display; print([m for m in {HEAVY} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_results_show_every_number_chance_and_the_gap():
    lines = [line.split() for line in printed().splitlines() if line.strip()]
    assert lines[0] == [
        "user_cold,", "99", "users", "mae", "rmse", "ndcg@5", "minority", "rmse", "gap",
    ]  # fmt: skip
    assert ["bias", "0.800", "0.900", "–", "1.250", "+0.250"] in lines
    assert ["adapted", "0.700", "1.000", "0.750", "0.750", "-0.250"] in lines
    assert ["chance", "0.500"] in lines
    assert ["user_cold,", "whole", "catalogue", "hr@1", "hr@3", "ndcg@1", "ndcg@3"] in lines
    assert ["adapted", "0.100", "0.300", "0.200", "0.400"] in lines
    assert ["noise", "floor:", "0.500"] in lines


def test_the_best_number_is_bold_on_a_terminal_by_each_metrics_direction():
    bold = re.findall(r"\x1b\[1m *([-+.0-9]+)\x1b\[0m", printed(is_terminal=True))
    assert bold == ["0.900", "0.700", "0.750", "0.750", "0.100", "0.300", "0.200", "0.400"]


def test_scenarios_of_new_items_say_what_is_known_of_these(capsys):
    known = {"items": 12, "ratings": 1340}
    scenario = {"users": 3, "models": {"adapted": {"rmse": 1.0}}, "chance": {}, "groups": {}}
    Display(Console(width=200)).results(
        {
            "scenarios": {
                "item_cold": scenario | {"known_of_new_items": known},
                "item_cold_rated": scenario | {"known_of_new_items": known},
                "both_cold": scenario | {"known_of_new_items": {"items": 0, "ratings": 0}},
            },
            "notes": {},
        }
    )
    shown = capsys.readouterr().out
    what = "1,340 ratings of 12 new items in the supports"
    assert f"new items by content alone; item_cold_rated has the {what}, too" in shown
    assert f"new items with the {what}" in shown
    assert "new items by content alone: no support has a rating of one" in shown


def test_a_log_gets_a_line_at_the_end_of_an_activity():
    out = io.StringIO()
    with Display(Console(file=out, width=100)).bar("train", 3, "steps", done=1) as bar:
        bar.update(2, "loss 1")
        bar.update(3, "loss 0")
    assert out.getvalue() == "train: 3/3 steps  loss 0  eta 0 s\n"


def test_a_terminal_gets_a_bar_that_starts_where_the_activity_does():
    out = io.StringIO()
    console = Console(file=out, width=100, force_terminal=True)
    with Display(console).bar("evaluate", 4, "users", done=2) as bar:
        bar.update(3, "valid")
    assert "2/4" in out.getvalue()
    assert "valid" in out.getvalue()


def test_the_silent_display_prints_nothing(capsys):
    display = Silent()
    display.say("hello")
    display.results(EVALUATION)
    with display.bar("train", 1, "steps") as bar:
        bar.update(1)
    assert capsys.readouterr().out == ""


def test_a_line_says_how_many_users_a_number_is_of_and_what_the_others_lack():
    evaluation = copy.deepcopy(EVALUATION)
    user_cold = evaluation["scenarios"]["user_cold"]
    user_cold["counted"] = {"mae": 99, "rmse": 99, "ndcg@3": 97, "ndcg@5": 97, "auc": 97}
    user_cold["catalogue_counted"] = 98
    evaluation["scenarios"]["warm"] = user_cold | {
        "counted": {"rmse": 99, "ndcg@5": 0},
        "catalogue_counted": 0,
    }
    out = io.StringIO()
    Display(Console(file=out, width=120)).results(evaluation)
    lines = out.getvalue().splitlines()
    assert "ndcg@3, 5 and auc of 97 of 99 users; 2 have nothing to rank" in lines
    assert "whole catalogue of 98 of 99 users; 1 has nothing to rank" in lines
    assert "ndcg@5 undefined: of 99 users each has nothing to rank" in lines
    assert "whole catalogue undefined: of 99 users each has nothing to rank" in lines
    assert " users; " not in printed()
