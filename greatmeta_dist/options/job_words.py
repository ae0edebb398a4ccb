"""The words of ``submit`` and ``jobs``, which are no options alone. Imports nothing heavy."""

from greatmeta_dist.errors import require
from greatmeta_dist.options.checks import check_folders, check_words, require_whole_paths
from greatmeta_dist.options.hints import nearest
from greatmeta_dist.options.names import COMMANDS

WRITES = {
    "prepare": "store",
    "train": "run",
    "evaluate": "run",
    "recommend": "out",
    "export": "out",
}
"""The commands that may be submitted, and the option that names where each of them writes."""
ACTIONS = ("list", "follow", "stop")
"""What ``jobs`` does."""
DETACH = "--detach"
"""The same as ``submit.detach=true``."""


def submitted_words(words: list[str]) -> tuple[list[str], str, list[str]]:
    """The options of ``submit``, the command to submit, and that command's options, all checked.

    Workers run on Ray, on the job's own cluster, unless the command says otherwise. Raises
    ``InputError``.
    """
    require(
        "--" in words,
        "submit takes a command after --, as in: greatmeta submit cluster.address=URL -- train …",
    )
    place = words.index("--")
    own = ["submit.detach=true" if word == DETACH else word for word in words[:place]]
    check_words("submit", own)
    require(place + 1 < len(words), f"no command stands after --; there is {', '.join(WRITES)}")
    command, *inner = words[place + 1 :]
    require(command in WRITES, f"'{command}' cannot be submitted; {nearest(command, WRITES)}")
    require(
        not {"-m", "--multirun"} & set(inner),
        "a sweep cannot be submitted; submit each of its trainings with a run of its own",
    )
    check_words(command, inner)
    require_whole_paths(inner)
    check_folders(command, inner, is_elsewhere=True)
    return own, command, _on_the_cluster(command, inner)


def jobs_words(words: list[str]) -> tuple[str, str | None, list[str]]:
    """What ``jobs`` shall do, with which job, and its options; raises ``InputError``."""
    names = [word for word in words if "=" not in word and not word.startswith("-")]
    options = [word for word in words if word not in names]
    check_words("jobs", options)
    action, *ids = names or ["list"]
    require(action in ACTIONS, f"jobs cannot {action}; {nearest(action, ACTIONS)}")
    require(
        len(ids) == (action != "list"),
        f"jobs {action} takes {'no job' if action == 'list' else 'the id of one job'}; "
        "greatmeta jobs lists them",
    )
    return action, ids[0] if ids else None, options


def _on_the_cluster(command: str, words: list[str]) -> list[str]:
    keys = {word.partition("=")[0] for word in words}
    require(
        "cluster.address" not in keys,
        "cluster.address belongs before --; the job joins the cluster that it runs on",
    )
    if "cluster" not in COMMANDS[command].sections:
        return words
    is_said = bool({"cluster", "cluster.kind"} & keys)
    # One by one, so that a run that goes on keeps its other options of the section. Its address may
    # be that of an earlier cluster.
    return [*words, "cluster.address=null", *([] if is_said else ["cluster.kind=ray"])]
