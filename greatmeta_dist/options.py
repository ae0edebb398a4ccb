"""Command-line words → a checked config; the help texts.

The only file that knows Hydra. A mistyped group, preset or option names the nearest right one.
"""

import ast
import difflib
import inspect
import itertools
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from importlib.resources import files

from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from greatmeta_dist import config as schemas
from greatmeta_dist.config import Config, InputError, require

CONFIGS = "greatmeta_dist.configs"
EXAMPLES = {
    "prepare": """
        greatmeta prepare data=synthetic data.users=5000 store=stores/synthetic
        greatmeta prepare data=recbole data.path=ml-100k data.split=split.tsv store=stores/ml-100k
        greatmeta prepare data=movielens_1m data.path=ml-1m store=stores/ml-1m
        greatmeta prepare data=csv data.path=log.csv store=stores/mine \\
            data.columns='{user: uid, item: iid, rating: stars, timestamp: at}'""",
    "train": """
        greatmeta train store=stores/ml-100k run=runs/a experiment=ml-100k
        greatmeta train run=runs/a                      # resume it, or go on:
        greatmeta train run=runs/a train.steps=4000
        greatmeta train -m store=stores/ml-100k run=runs/sweep inner.rate=0.02,0.05""",
    "evaluate": """
        greatmeta evaluate run=runs/a
        greatmeta evaluate run=runs/a store=elsewhere/ml-100k""",
}
PURPOSE = {
    "prepare": "logs → store: prepare data=<preset> data.path=<files> store=DIR",
    "train": "store → run: train store=DIR run=DIR [experiment=…]",
    "evaluate": "run → table and evaluation.json: evaluate run=DIR",
}
SECTIONS = {
    "prepare": ("data",),
    "train": ("model", "inner", "scheduler", "train", "cluster"),
    "evaluate": ("cluster",),
}


@contextmanager
def opened() -> Iterator[None]:
    """Makes the presets of ``configs/`` known for the time of a command."""
    ConfigStore.instance().store(name="schema", node=Config)
    with initialize_config_module(CONFIGS, version_base="1.3"):
        yield


def with_changes(saved: Config, config: Config, overrides: list[str]) -> Config:
    """A run's config with what the command line sets; presets, where named, count whole."""
    named = [o.split("=", 1)[0] for o in overrides]
    if any(name in groups() for name in named):
        return config
    merged, given = OmegaConf.structured(saved), OmegaConf.structured(config)
    for name in named:
        OmegaConf.update(merged, name, OmegaConf.select(given, name))
    return OmegaConf.to_object(merged)  # type: ignore[return-value]


def compose_config(overrides: list[str]) -> Config:
    """The config that overrides give; raises ``InputError`` in one line."""
    try:
        composed = compose("config", [_opened_dict(o) for o in overrides])
        return OmegaConf.to_object(composed)  # type: ignore[return-value]
    except InputError:
        raise
    except (HydraException, OmegaConfBaseException) as error:
        cause = error.__cause__ or error
        raise InputError(f"{_first_line(error)} {_first_line(cause)}".strip()) from error


def _opened_dict(override: str) -> str:
    """Hydra adds keys to a dict only if told to; ``data.user_features={a: token}`` just should."""
    is_dict = override.split("=", 1)[0] in ("data.user_features", "data.item_features")
    return f"+{override}" if is_dict else override


def value_of(overrides: list[str], key: str) -> str | None:
    """A top-level option that names a folder."""
    found = [o.split("=", 1)[1] for o in overrides if o.startswith(f"{key}=")]
    return found[-1] if found else None


def sweep(overrides: list[str]) -> list[list[str]]:
    """Every combination of comma lists; each job's run folder is numbered below ``run``."""
    choices = [
        [f"{o.get_key_element()}={value}" for value in o.sweep_string_iterator()]
        if o.is_sweep_override()
        else [str(o.input_line)]
        for o in OverridesParser.create().parse_overrides(overrides)
    ]
    jobs = [list(job) for job in itertools.product(*choices)]
    run = value_of(overrides, "run")
    if run is None:
        return jobs
    return [
        [f"run={run}/{k}" if o.startswith("run=") else o for o in job] for k, job in enumerate(jobs)
    ]


def groups() -> dict[str, list[str]]:
    """Groups of ``configs/`` and their presets."""
    folder = files(CONFIGS)
    return {
        group.name: sorted(
            p.name.removesuffix(".yaml") for p in group.iterdir() if p.name.endswith(".yaml")
        )
        for group in sorted(folder.iterdir(), key=lambda p: p.name)
        if group.is_dir() and not group.name.startswith("_")
    }


def _option_names() -> list[str]:
    names = []
    for f in fields(Config):
        section = f.default_factory if callable(f.default_factory) else None
        if section is not None and is_dataclass(section):
            names += [f"{f.name}.{sub.name}" for sub in fields(section)]
        else:
            names.append(f.name)
    return names


def check_names(overrides: list[str]) -> None:
    """Name the nearest right option or preset for a mistyped one."""
    presets, options = groups(), _option_names()
    for word in overrides:
        key, value = word.lstrip("+~").split("=", 1)
        if key in presets:
            for preset in value.split(","):
                require(
                    preset in presets[key] or preset == "null",
                    f"no preset {key}={preset}; {nearest(preset, presets[key])}",
                )
        else:
            top = ".".join(key.split(".")[:2])
            require(
                top in options,
                f"no option '{key}'; {nearest(key, [*options, *presets])}",
            )


def nearest(word: str, known: Iterable[str]) -> str:
    """'did you mean …' or, if nothing is near, what there is."""
    names = list(known)
    last = {n.split(".")[-1]: n for n in reversed(names)}
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.8)
    near += [last[m] for m in difflib.get_close_matches(word.split(".")[-1], last, 1, 0.6)]
    near += difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    if near:
        return f"did you mean {near[0]}?"
    shown = ", ".join(names[:12])
    return f"there is {shown}{', …' if len(names) > 12 else ''}"


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def help_text() -> str:
    commands = "\n".join(f"  {name:<10}{PURPOSE[name]}" for name in PURPOSE)
    presets = "\n".join(f"  {name}={'|'.join(found)}" for name, found in groups().items())
    return (
        "greatmeta: distributed meta-training for cold-start recommendation\n\n"
        "usage: greatmeta <command> [group=preset] [section.option=value] …\n\n"
        f"commands:\n{commands}\n\n"
        f"groups and their presets:\n{presets}\n\n"
        "examples:\n"
        "  greatmeta prepare data=synthetic store=stores/synthetic\n"
        "  greatmeta train store=stores/synthetic run=runs/first\n"
        "  greatmeta evaluate run=runs/first\n\n"
        "greatmeta <command> --help lists a command's options. -m sweeps over comma lists."
    )


def command_help(command: str) -> str:
    presets = groups()
    out = [f"greatmeta {command}: {PURPOSE[command]}", "", "examples:"]
    out += [textwrap.indent(textwrap.dedent(EXAMPLES[command]).strip("\n"), "  "), ""]
    shown = [g for g in (*SECTIONS[command], "experiment") if g in presets]
    out += ["groups:", *(f"  {g}={'|'.join(presets[g])}" for g in shown), "", "options:"]
    by_name = {f.name: f for f in fields(Config)}
    for section in SECTIONS[command]:
        schema = by_name[section].default_factory
        docs = _field_docs(schema)  # type: ignore[arg-type]
        for f in fields(schema):  # type: ignore[arg-type]
            default = f.default if not callable(f.default_factory) else f.default_factory()
            default = "(required)" if default == "???" else default
            out.append(f"  {section}.{f.name}={default}")
            out.append(textwrap.indent(textwrap.fill(docs.get(f.name, ""), 88), "      "))
    return "\n".join(out)


def _field_docs(schema: type) -> dict[str, str]:
    """The string in the line below each field."""
    tree = ast.parse(inspect.getsource(schemas))
    body = next(
        n.body for n in tree.body if isinstance(n, ast.ClassDef) and n.name == schema.__name__
    )
    docs = {}
    for node, after in itertools.pairwise(body):
        match node, after:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=doc)):
                docs[name] = " ".join(str(doc).split())
    return docs
