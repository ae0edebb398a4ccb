"""Checks of a command line's words, before anything heavy is imported.

What they cannot tell (lists, ranges, options that do not go together) is checked when the config is
composed.
"""

import os
import re
from pathlib import Path
from types import NoneType

from greatmeta_dist.config.checks import require_utf8
from greatmeta_dist.errors import require
from greatmeta_dist.options.hints import (
    option_hint,
    owners,
    preset_groups,
    preset_hint,
    renamed_option,
    word_hint,
)
from greatmeta_dist.options.names import (
    COMMANDS,
    MAPPINGS,
    VERBATIM,
    Option,
    all_options,
    options_of,
    presets,
)

OF_A_JOB, PACKAGES = "RAY_JOB_CONFIG_JSON_ENV_VAR", "working_dir_files"
"""What Ray sets in a job's environment, and the folder of what was uploaded with jobs."""
PLAIN = re.compile(r"[\w.+-]+")
"""Values that mean themselves; lists, quotes and references are left to Hydra."""
TRUTHS = ("true", "false", "yes", "no", "on", "off", "y", "n", "1", "0")
"""What Hydra takes for true or false."""
KINDS = {int: ("Integer", "a whole number"), float: ("Float", "a number")}
"""Numbers, as Hydra calls them and as we do."""


def check_words(command: str, words: list[str], *, is_sweep: bool = False) -> None:
    """Check every word's form, option or preset, and value; raises ``InputError``.

    With ``is_sweep`` a value may be a comma list.
    """
    for word in words:
        shown = word.encode("utf-8", "backslashreplace").decode()
        require(shown == word, f"{shown} is not valid UTF-8; type it again, or rename the file")
        if "=" not in word or word.startswith("-"):
            hint = word_hint(word, command) or f"see greatmeta {command} --help"
            require(False, f"'{word}' is no option; options read key=value: {hint}")
        key, value = word.split("=", 1)
        if key in presets():
            _check_presets(command, key, value)
        else:
            option = _known_option(command, key, value)
            if option.name not in (*VERBATIM, *MAPPINGS):
                for single in _single_values(value) if is_sweep else [value]:
                    _check_value(option, single, command)
    if not is_sweep:
        own = next((word for word in words if word.startswith("sweep.")), "")
        require(not own, f"{own} is an option of a sweep, which takes -m: greatmeta {command} -m …")


def check_folders(
    command: str, words: list[str], *, is_sweep: bool = False, is_elsewhere: bool = False
) -> None:
    """Check that the folders a command cannot do without are named; raises ``InputError``.

    With ``is_elsewhere`` the command will run on other machines, and nothing is looked up here.
    """
    values = dict(word.split("=", 1) for word in words)
    for name in ("run", "store", "out"):
        _require_lasting(name, _folder(values, name))
    run, store = (_folder(values, name) for name in ("run", "store"))
    if not COMMANDS[command].folders:
        return
    if command == "prepare":
        require(store is not None, "store=DIR is not set; name the folder to prepare into")
        return
    purpose = "the folder of the training" if command == "train" else "a folder that train made"
    require(run is not None, f"run=DIR is not set; name {purpose}")
    if command == "export":
        out = _folder(values, "out")
        require(out is not None, "out=DIR is not set; name the folder to write the export into")
    if command == "recommend":
        for name, what in (
            ("users", "the log of the users to recommend for"),
            ("out", "where to write"),
        ):
            require(_folder(values, name) is not None, f"{name}=FILE is not set; name {what}")
    if command == "train" and store is None and not is_elsewhere:
        known, kind = ("sweep.json", "sweep") if is_sweep else ("config.yaml", "run")
        require(
            "://" in (run or "") or Path(run or "", known).exists(),
            f"store=DIR is not set, and {run} is no {kind} to go on with; name the folder that "
            "prepare made",
        )


def require_whole_paths(words: list[str]) -> None:
    """Check that every path is a whole one: a job starts in a folder that nobody knows.

    Raises ``InputError``.
    """
    for word in words:
        key, _, value = word.partition("=")
        if key not in VERBATIM or key.endswith("separator"):
            continue
        path = verbatim(key, value)
        require(
            path is None or "://" in path or os.path.isabs(path),
            f"{key}={path} is a relative path, and a job starts elsewhere; name its whole path, in "
            f"a folder that all nodes of the cluster see, such as {key}=/shared/{path}",
        )


def _require_lasting(name: str, path: str | None) -> None:
    """Raise ``InputError`` where a folder would be deleted with the job that this command is.

    Ray unpacks what was uploaded with a job into a folder of its own, in which the job starts.
    """
    is_lost = (
        path is not None
        and OF_A_JOB in os.environ
        and "://" not in path
        and not os.path.isabs(path)
        and PACKAGES in Path.cwd().parts
    )
    require(
        not is_lost,
        f"{name}={path} is a relative path, and this job starts in a folder that Ray deletes; name "
        f"its whole path, in a folder that all nodes see, such as {name}=/shared/{path}",
    )


def verbatim(key: str, value: str) -> str | None:
    """The value of an option that is taken as it stands, without its quotes; ``null`` is None.

    Raises ``InputError`` where a path is empty.
    """
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        value = value[1:-1]
    if key.endswith("separator"):
        return value.replace("\\t", "\t").removeprefix("\\") or value
    require(bool(value), f"{key}= is empty; name a path")
    require_utf8(key, value)
    # Shells leave a ~ as it is after key=.
    return None if value == "null" else os.path.expanduser(value.removeprefix("file://"))


def _single_values(text: str) -> list[str]:
    """The values of a comma list; commas in brackets are inside of a value."""
    values, depth = [""], 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            values.append("")
        else:
            values[-1] += character
    return values


def _folder(values: dict[str, str], name: str) -> str | None:
    return verbatim(name, values[name]) if name in values else None


def _check_presets(command: str, group: str, value: str) -> None:
    require(
        group in COMMANDS[command].groups,
        f"{group} is no option of {command}; it is an option of {' and '.join(owners(group))}",
    )
    for preset in value.split(","):
        require(
            preset in presets()[group],
            f"no preset {group}={preset}; {preset_hint(group, preset, command)}",
        )


def _known_option(command: str, key: str, value: str) -> Option:
    """The option that a key names; raises ``InputError`` unless the command reads it."""
    mapping = next((name for name in MAPPINGS if key.startswith(f"{name}.")), None)
    name, options = mapping or key, all_options()
    if name not in options:
        moved = renamed_option(key, value, command)
        require(False, moved or f"no option '{key}'; {option_hint(key, value, command)}")
    require(
        name in options_of(command),
        f"{key} is no option of {command}; it is an option of {' and '.join(owners(name))}",
    )
    return options[name]


def _check_value(option: Option, value: str, command: str) -> None:
    """Check a plain word against the option's type and choices."""
    if not PLAIN.fullmatch(value) or (value == "null" and NoneType in option.types):
        return
    if option.is_list:
        message, is_right = f"{option.name} is {value}; a list is written [{value},{value}]", False
    elif option.choices:
        message = f"{option.name} is '{value}'; expected one of {', '.join(option.choices)}"
        is_right = value in option.choices
    elif bool in option.types:
        message = f"{option.name} is '{value}'; expected true or false"
        is_right = value.lower() in TRUTHS
    else:
        kind = next((k for k in KINDS if k in option.types), None)
        if kind is None:
            return
        name, words = KINDS[kind]
        message = f"{option.name} is '{value}', which could not be converted to {name}; expected "
        message += words + (" or null" if NoneType in option.types else "")
        is_right = _converts(value, kind)
    groups = [g for g in preset_groups(value, command) if g == option.section]
    require(is_right, message + "".join(f"; did you mean {g}={value}?" for g in groups))


def _converts(value: str, kind: type) -> bool:
    try:
        kind(value)
    except ValueError:
        return False
    return True
