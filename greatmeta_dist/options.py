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
from dataclasses import asdict, fields, is_dataclass, replace
from importlib.resources import files

import yaml
from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from greatmeta_dist import config as schemas
from greatmeta_dist.config import Config
from greatmeta_dist.errors import InputError, require

CONFIGS = "greatmeta_dist.configs"
EXAMPLES = {
    "prepare": """
        greatmeta prepare data=synthetic data.users=5000 store=stores/synthetic
        greatmeta prepare data=recbole data.path=ml-100k store=stores/ml-100k \\
            data.split=ml-100k/split.tsv
        greatmeta prepare data=movielens_1m data.path=ml-1m store=stores/ml-1m
        greatmeta prepare data=csv data.path=log.csv store=stores/mine \\
            data.columns='{user: uid, item: iid, rating: stars, timestamp: at}'""",
    "train": """
        greatmeta train store=stores/ml-100k run=runs/a experiment=ml-100k
        greatmeta train run=runs/a                      # resume it, or go on:
        greatmeta train run=runs/a train.steps=4000
        greatmeta train -m store=stores/ml-100k run=runs/sweep inner.learning_rate=0.02,0.05""",
    "evaluate": """
        greatmeta evaluate run=runs/a
        greatmeta evaluate run=runs/a store=elsewhere/ml-100k""",
}
PURPOSE = {
    "prepare": "logs → store: prepare data=<preset> data.path=<files> store=DIR",
    "train": "store → run: train store=DIR run=DIR [experiment=…]",
    "evaluate": "run → table and evaluation.json: evaluate run=DIR [store=DIR]",
}
VERBATIM = (
    "store",
    "run",
    "data.path",
    "data.split",
    "data.users_path",
    "data.items_path",
    "data.separator",
    "data.list_separator",
)
MAPPINGS = ("data.columns", "data.user_features", "data.item_features")
FOLDERS = {
    "prepare": ("experiment", "store"),
    "train": ("experiment", "store", "run"),
    "evaluate": ("store", "run"),
}
SECTIONS = {
    "prepare": ("data",),
    "train": ("model", "inner", "scheduler", "train", "cluster"),
    "evaluate": (),
}


@contextmanager
def opened() -> Iterator[None]:
    """Makes the presets of ``configs/`` known for the time of a command."""
    ConfigStore.instance().store(name="schema", node=Config)
    with initialize_config_module(CONFIGS, version_base="1.3"):
        yield


def with_changes(saved: Config, config: Config, overrides: list[str]) -> Config:
    """A run's config with what the command line sets; a preset sets all of its section, and an
    experiment everything."""
    named = [_key(o) for o in overrides]
    if "experiment" in named:
        return replace(config, store=config.store or saved.store)
    merged, given = OmegaConf.structured(saved), OmegaConf.structured(config)
    for name in named:
        OmegaConf.update(merged, name, OmegaConf.select(given, name))
    return OmegaConf.to_object(merged)  # type: ignore[return-value]


def compose_config(overrides: list[str]) -> Config:
    """The config that overrides give; raises ``InputError`` in one line.

    Paths, separators and column mappings are taken as they stand, outside Hydra's grammar: they
    may hold ``=``, commas, brackets and letters of any script.
    """
    plain = [o for o in overrides if not _is_verbatim(o)]
    try:
        composed = compose("config", plain)
        for override in overrides:
            key, value = override.split("=", 1)
            if key in VERBATIM:
                OmegaConf.update(composed, key, _verbatim(key, value))
            elif key in MAPPINGS:
                OmegaConf.update(composed, key, _mapping(key, value), force_add=True)
            elif _is_verbatim(override):
                name = key.split(".", 2)[2]
                only = _mapping(key.rpartition(".")[0], f"{{{name}: {value}}}")
                OmegaConf.update(composed, key, only[name], force_add=True)
        return OmegaConf.to_object(composed)  # type: ignore[return-value]
    except InputError:
        raise
    except (HydraException, OmegaConfBaseException) as error:
        cause = error.__cause__ or error
        said = " ".join(dict.fromkeys((_first_line(error), _first_line(cause))))
        raise InputError(said + _remedy(said, plain)) from error


def _remedy(said: str, overrides: list[str]) -> str:
    """What to do where Hydra only says what it does not like."""
    if "not a ListConfig" in said:
        return "; a list is written [64,64]"
    if said.startswith("Ambiguous value"):
        return "; a sweep over values takes -m"
    parser = OverridesParser.create()
    for word in overrides:
        try:
            parser.parse_override(word)
        except HydraException:
            return f" in {word}; check its brackets, quotes and commas"
    return ""


def _is_verbatim(override: str) -> bool:
    """Whether an override is taken as it stands."""
    key = _key(override)
    return key in VERBATIM or ".".join(key.split(".")[:2]) in MAPPINGS


def _key(override: str) -> str:
    return override.split("=", 1)[0]


def _verbatim(key: str, value: str) -> str | None:
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        value = value[1:-1]
    if key.endswith("separator"):
        return value.replace("\\t", "\t").removeprefix("\\") or value
    require(bool(value), f"{key}= is empty; name a path")
    return None if value == "null" else value.removeprefix("file://")


def _mapping(key: str, value: str) -> dict[str, str | None]:
    """``{user: uid, item: iid}`` in YAML, its words as they are written."""
    try:
        found = yaml.load(value, yaml.BaseLoader)
    except yaml.YAMLError:
        found = None
    require(
        isinstance(found, dict) and all(isinstance(k, str) for k in found),
        f"{key}={value} is no mapping; expected '{key}={{name: value, name: value}}'",
    )
    assert isinstance(found, dict)
    if key == "data.columns":
        known = [f.name for f in fields(schemas.ColumnsConfig)]
        for name in found:
            require(name in known, f"{key} has no '{name}'; {nearest(name, known)}")
    return {k: None if v in ("", "null", "~") else str(v) for k, v in found.items()}


def value_of(overrides: list[str], key: str) -> str | None:
    """A top-level option that names a folder."""
    found = [_verbatim(key, o.split("=", 1)[1]) for o in overrides if _key(o) == key]
    return found[-1] if found else None


def sweep(overrides: list[str]) -> list[list[str]]:
    """Every combination of comma lists; each job's run folder is numbered below ``run``."""
    parser = OverridesParser.create()
    choices = []
    for word in overrides:
        o = None if _is_verbatim(word) else parser.parse_override(word)
        if o is None or not o.is_sweep_override():
            choices.append([word])
        else:
            values = o.sweep_string_iterator()
            choices.append([f"{o.get_key_element()}={value}" for value in values])
    jobs = [list(job) for job in itertools.product(*choices)]
    run = value_of(overrides, "run")
    if run is None:
        return jobs
    return [
        [f"run={run}/{k}" if _key(o) == "run" else o for o in job] for k, job in enumerate(jobs)
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


def check_names(command: str, overrides: list[str]) -> None:
    """Name the nearest right option or preset for a mistyped one, or one of another command."""
    presets, options = groups(), _option_names()
    for word in overrides:
        key, value = word.split("=", 1)
        if key in presets:
            for preset in value.split(","):
                require(
                    preset in presets[key],
                    f"no preset {key}={preset}; {nearest(preset, presets[key])}",
                )
        else:
            top = ".".join(key.split(".")[:2])
            require(top in options, f"no option '{key}'; {nearest(key, [*options, *presets])}")
        section = key.split(".")[0]
        known = (*SECTIONS[command], *FOLDERS[command])
        require(
            section in known,
            f"{key} is no option of {command}; it reads {', '.join(known)}",
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
        "greatmeta: meta-training for cold-start recommendation\n\n"
        "usage: greatmeta <command> [group=preset] [section.option=value] …\n\n"
        f"commands:\n{commands}\n\n"
        f"groups and their presets:\n{presets}\n\n"
        "examples:\n"
        "  greatmeta prepare data=synthetic store=stores/synthetic\n"
        "  greatmeta train store=stores/synthetic run=runs/first\n"
        "  greatmeta evaluate run=runs/first\n\n"
        "greatmeta <command> --help lists a command's options. train -m sweeps over comma lists."
    )


def command_help(command: str) -> str:
    presets = groups()
    out = [f"greatmeta {command}: {PURPOSE[command]}", "", "examples:"]
    out.append(textwrap.indent(textwrap.dedent(EXAMPLES[command]).strip("\n"), "  "))
    shown = [g for g in (*SECTIONS[command], *FOLDERS[command]) if g in presets]
    if shown:
        out += ["", "groups:", *(f"  {g}={'|'.join(presets[g])}" for g in shown), "", "options:"]
    by_name = {f.name: f for f in fields(Config)}
    for section in SECTIONS[command]:
        schema = by_name[section].default_factory
        docs = _field_docs(schema)  # type: ignore[arg-type]
        for f in fields(schema):  # type: ignore[arg-type]
            default = f.default if not callable(f.default_factory) else f.default_factory()
            out.append(f"  {section}.{f.name}={_shown(default)}")
            out.append(textwrap.indent(textwrap.fill(docs.get(f.name, ""), 88), "      "))
    return "\n".join(out)


def _shown(default: object) -> str:
    """A default as one would type it."""
    if is_dataclass(default) and not isinstance(default, type):
        return "{" + ", ".join(f"{k}: {_shown(v)}" for k, v in asdict(default).items()) + "}"
    return "null" if default is None else str(default)


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
