"""The texts of ``greatmeta --help`` and ``greatmeta <command> --help``.

An option's text is the string below its field in ``config/``.
"""

import ast
import inspect
import itertools
import re
import textwrap
from dataclasses import asdict, is_dataclass
from functools import cache
from types import NoneType
from typing import Any

from greatmeta_dist.options.names import COMMANDS, VERBATIM, Option, options_of, presets

EXAMPLES = {
    "inspect": """
        greatmeta inspect data=csv data.path=log.csv
        greatmeta inspect data=movielens_1m data.path=ml-1m""",
    "prepare": r"""
        greatmeta prepare data=synthetic data.users=5000 store=stores/synthetic
        greatmeta prepare data=recbole data.path=ml-100k store=stores/ml-100k \
            data.split=ml-100k/split.tsv
        greatmeta prepare data=movielens_1m data.path=ml-1m store=stores/ml-1m
        greatmeta prepare data=csv data.path=log.csv store=stores/mine \
            data.columns='{user: uid, item: iid, rating: stars, timestamp: at}'""",
    "train": """
        greatmeta train store=stores/ml-100k run=runs/a experiment=ml-100k
        greatmeta train run=runs/a                      # resume it, or go on:
        greatmeta train run=runs/a train.steps=4000
        greatmeta train -m store=stores/ml-100k run=runs/sweep inner.learning_rate=0.02,0.05
        greatmeta train -m run=runs/sweep train.seed=1,2  # the same with more values""",
    "evaluate": """
        greatmeta evaluate run=runs/a
        greatmeta evaluate run=runs/a store=elsewhere/ml-100k
        greatmeta evaluate run=runs/a users=new.csv data=csv
        greatmeta evaluate run=runs/a against=runs/b
        greatmeta evaluate run=runs/sweep               # every run of a sweep""",
    "export": """
        greatmeta export run=runs/a out=exported/a""",
    "recommend": r"""
        greatmeta recommend run=runs/a users=new-users.csv out=lists.parquet k=20
        greatmeta recommend run=runs/a users=logs/ out=lists data=parquet \
            data.columns='{user: uid, item: iid, rating: stars}'
        greatmeta recommend run=runs/a users=/shared/log.parquet out=/shared/lists cluster=ray""",
    "serve": """
        greatmeta serve run=runs/a
        greatmeta serve run=runs/a serve.port=9000 serve.replicas=4""",
    "submit": r"""
        greatmeta submit cluster.address=http://127.0.0.1:8265 -- \
            train store=/shared/stores/a run=/shared/runs/a cluster.workers=2
        greatmeta submit cluster.address=http://127.0.0.1:8265 --detach -- \
            evaluate run=/shared/runs/a""",
    "jobs": """
        greatmeta jobs cluster.address=http://127.0.0.1:8265
        greatmeta jobs follow train-a-1f2e3d4c-1 cluster.address=http://127.0.0.1:8265
        greatmeta jobs stop train-a-1f2e3d4c-1 cluster.address=http://127.0.0.1:8265""",
}
TYPES: dict[Any, str] = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "text",
    list[int]: "list of whole numbers",
    list[float]: "list of numbers",
    list[str]: "list",
    dict[str, str]: "mapping",
    dict[str, float]: "mapping of numbers",
    NoneType: "null",
}
SPECIAL = set("{}|*?&;<>()'\"\\ ")
"""Characters that a shell would take for its own."""


def help_text() -> str:
    """What the program is, its commands, and the groups of presets."""
    commands = "\n".join(f"  {name:<10}{command.purpose}" for name, command in COMMANDS.items())
    groups = "\n".join(f"  {group}={'|'.join(names)}" for group, names in presets().items())
    return (
        "greatmeta: meta-training for cold-start recommendation\n\n"
        "usage: greatmeta <command> [group=preset] [section.option=value] …\n\n"
        f"commands:\n{commands}\n\n"
        f"groups and their presets:\n{groups}\n\n"
        "examples:\n"
        "  greatmeta prepare data=synthetic store=stores/synthetic\n"
        "  greatmeta train store=stores/synthetic run=runs/first\n"
        "  greatmeta evaluate run=runs/first\n"
        "  greatmeta recommend run=runs/first users=new-users.csv out=lists.parquet\n\n"
        "greatmeta <command> --help lists a command's options. train -m sweeps over comma lists."
    )


def command_help(command: str) -> str:
    """A command's examples, presets, and all of its options."""
    known, examples = presets(), textwrap.dedent(EXAMPLES[command]).strip("\n")
    lines = [f"greatmeta {command}: {COMMANDS[command].purpose}", ""]
    lines += ["examples:", textwrap.indent(examples, "  ")]
    groups = [g for g in COMMANDS[command].groups if g in known]
    if groups:
        lines += ["", "groups:", *(f"  {g}={'|'.join(known[g])}" for g in groups)]
    lines += ["", "options:"]
    for option in options_of(command).values():
        lines += [f"  {option.name}={_typed(option.default)}{_allowed(option)}"]
        lines += [textwrap.indent(textwrap.fill(option_text(option), 88), "      ")]
    return "\n".join(lines)


def option_text(option: Option) -> str:
    """What an option means: the string below its field, without markup."""
    return _field_docs(option.schema)[option.field.name].replace("``", "")


def _allowed(option: Option) -> str:
    """What may be typed, in brackets; empty where the option's text says it."""
    words = [TYPES[kind] for kind in option.types if kind in TYPES]
    if option.choices:
        words = [("list of " if option.is_list else "") + "|".join(option.choices)]
    elif option.name in VERBATIM and option.default is None:
        words = ["path"]
    return f"  ({', or '.join(words)})" if words else ""


def _typed(value: object) -> str:
    """A default as one would type it."""
    text = _plain(value)
    return f"'{text}'" if SPECIAL & set(text) else text


def _plain(value: object) -> str:
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {_plain(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_quoted(v) for v in value) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)


def _quoted(value: object) -> str:
    """A list's element; text that would be read as something else stands in quotes."""
    text = _plain(value)
    is_safe = not isinstance(value, str) or re.fullmatch(r"[A-Za-z_][\w.-]*", text)
    return (
        text if is_safe and (value is None or text.lower() not in ("null", "nan")) else f'"{text}"'
    )


@cache
def _field_docs(schema: type) -> dict[str, str]:
    """The string in the line below each field."""
    tree = ast.parse(inspect.getsource(inspect.getmodule(schema)))  # type: ignore[arg-type]
    body = next(
        n.body for n in tree.body if isinstance(n, ast.ClassDef) and n.name == schema.__name__
    )
    docs = {}
    for node, after in itertools.pairwise(body):
        match node, after:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=doc)):
                docs[name] = " ".join(str(doc).split())
    return docs
