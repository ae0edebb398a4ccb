"""Rules for a script for Slurm that starts Ray on its nodes."""

import re

from cluster.checks.problem import Problem, Problems

OPTIONS = {
    "account", "constraint", "cpus-per-task", "error", "exclude", "exclusive", "gpus-per-node",
    "gres", "job-name", "mail-type", "mail-user", "mem", "mem-per-cpu", "nodelist", "nodes",
    "ntasks-per-node", "open-mode", "output", "partition", "qos", "requeue", "reservation",
    "signal", "tasks-per-node", "time",
}  # fmt: skip
"""Options of sbatch that make sense here."""
SHORTEST_NOTICE_S = 60
FORBIDDEN = ("--head", "--node-ip-address", "--port", "--block")
"""What symmetric-run itself gives to ``ray start``, and refuses."""


def slurm_problems(text: str) -> Problems:
    """All rules."""
    yield from _option_problems(text)
    code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    if not text.startswith("#!"):
        yield Problem("line 1", "no #!: sbatch refuses a script without it")
    if not re.search(r"^set -\w*e", code, re.MULTILINE):
        yield Problem("", "no set -e: a step that fails would be passed over")
    yield from _ray_problems(code)
    yield from _ending_problems(code)


def _option_problems(text: str) -> Problems:
    options: dict[str, str] = {}
    is_over = False
    for number, line in enumerate(text.splitlines(), 1):
        match = re.match(r"#SBATCH +--([\w-]+)(?:[= ](\S+))?", line)
        if line.startswith("#SBATCH") and (match is None or match[1] not in OPTIONS):
            yield Problem(f"line {number}", f"{line} is no known option of sbatch")
        elif match and is_over:
            yield Problem(f"line {number}", f"{line} stands after the first command: it is ignored")
        elif match:
            options[match[1]] = match[2] or ""
        is_over = is_over or bool(line.strip() and not line.startswith("#"))
    if options.get("ntasks-per-node") != "1":
        yield Problem("#SBATCH --ntasks-per-node", "expected 1: one Ray for each node")
    for name, reason in (
        ("exclusive", "two Rays of one user on a node stop each other"),
        ("requeue", "a lost node would end the training"),
        ("time", "the queue's default may be an hour"),
    ):
        if name not in options:
            yield Problem(f"#SBATCH --{name}", f"missing: {reason}")
    notice = re.fullmatch(r"B:(?:SIG)?TERM@(\d+)", options.get("signal", ""))
    if notice is None or int(notice[1]) < SHORTEST_NOTICE_S:
        yield Problem(
            "#SBATCH --signal",
            f"{options.get('signal', 'missing')}; expected B:TERM@{SHORTEST_NOTICE_S} or more: a "
            "checkpoint takes time, and without B: Ray ends before it",
        )


def _ray_problems(code: str) -> Problems:
    command = re.search(r"ray symmetric-run(.*?)(?<=\s)--(?=\s)", code.replace("\\\n", " "))
    if command is None:
        yield Problem("", "no ray symmetric-run OPTIONS -- COMMAND")
        return
    words = command[1].split()
    for word in words:
        if word.partition("=")[0] in FORBIDDEN:
            yield Problem("ray symmetric-run", f"{word} is refused: symmetric-run gives it itself")
    for name in ("--address", "--min-nodes"):
        if name not in {word.partition("=")[0] for word in words}:
            yield Problem("ray symmetric-run", f"no {name}")
    if not re.search(r"export .*\bRAY_AUTH_MODE=token", code):
        yield Problem("", "no export RAY_AUTH_MODE=token: other users of the nodes could join")
    if re.search(r"RAY_AUTH_TOKEN=[\"']?\w", code):
        yield Problem("", "the token stands here for all to read; make one for each job")


def _ending_problems(code: str) -> Problems:
    if not re.search(r"^trap .*\bTERM\b", code, re.MULTILINE):
        yield Problem("", "no trap for TERM: the signal would end the script, and save nothing")
    if "scontrol requeue" not in code:
        yield Problem("", "no scontrol requeue: training would end with the time limit")
    if re.search(r"^trap ", code, re.MULTILINE) and not re.search(
        r"^\s*wait\b", code, re.MULTILINE
    ):
        yield Problem("", "no wait: a trap runs only between commands, and srun is one")
