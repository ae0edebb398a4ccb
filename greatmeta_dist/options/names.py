"""What a command line may name: commands, options and presets. Imports nothing heavy."""

from collections.abc import Iterator
from dataclasses import Field, dataclass, fields, is_dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

from greatmeta_dist.config import ClusterConfig, ColumnsConfig, Config
from greatmeta_dist.config.checks import choices_of, typed_name

CONFIGS = "greatmeta_dist.configs"
"""The package of presets: one folder for each group, one YAML file for each preset."""
SECTIONS = tuple(f.name for f in fields(Config) if is_dataclass(f.default_factory))
EXPERIMENT = "experiment"
"""The group whose presets set several sections at once."""
VERBATIM = (
    "store",
    "run",
    "users",
    "out",
    "candidates",
    "items",
    "ratings",
    "against",
    "data.path",
    "data.split",
    "data.users_path",
    "data.items_path",
    "data.from",
    "data.separator",
    "data.list_separator",
    "train.from",
    "submit.wheel",
    "submit.python",
)
"""Options whose values are taken as they stand: paths may hold ``=``, commas and brackets."""
MAPPINGS = ("data.columns", "data.events", "data.user_features", "data.item_features")
"""Options that map names to names, in YAML. One entry: data.columns.user=uid."""


@dataclass(frozen=True)
class Command:
    """What a command does and reads."""

    purpose: str
    folders: tuple[str, ...]
    """Options that it cannot do without, or that name a folder."""
    sections: tuple[str, ...] = ()
    """Sections of the config, each of them also a group of presets."""
    not_read: tuple[str, ...] = ()
    """Options of its sections that it does not read."""
    options: tuple[str, ...] = ()
    """Its other options that are of no section."""

    @property
    def unsectioned(self) -> tuple[str, ...]:
        """All its options that are of no section."""
        return (*self.folders, *self.options)

    @property
    def groups(self) -> tuple[str, ...]:
        """Groups whose presets it takes."""
        groups = [
            name
            for name in self.sections
            if name in presets() and f"{name}.kind" not in self.not_read
        ]
        return (*groups, EXPERIMENT) if groups else ()


OF_TRAINING = ("reduction", "threads", "adaptation", "precision")
"""Options of ``cluster`` that only a training reads."""
OF_SPLITS = (
    "from", "keep_log", "split", "split_at", "split_last", "valid_fraction", "test_fraction",
    "warm_fraction", "cold_item_fraction", "items_path", "item_features",
)  # fmt: skip
"""Options of ``data`` that say what is for training, and what is known of items."""
OF_SYNTHETIC = ("users", "items", "mean_interactions")
"""Options of ``data`` that say how large a synthetic log is."""
OF_PREPARATION = (
    "path", "from", "keep_log", "split", "split_at", "split_last", "seed", "valid_fraction",
    "test_fraction", "warm_fraction", "cold_item_fraction", "min_interactions", "max_interactions",
    "query_items", "max_query_fraction", "query_fraction", "query_by", "max_support", "support_by",
    "label", "click_at", "negatives", "min_value_count", "items_path", "item_features", "users",
    "items", "mean_interactions",
)  # fmt: skip
"""Options of ``data`` that say how tasks for a training are made. What a run needs of them it
knows."""

OF_WORKERS = tuple(
    f"cluster.{f.name}" for f in fields(ClusterConfig) if f.name not in ("address", "wait_s")
)
"""Options of ``cluster`` that say nothing of how a cluster is reached."""

COMMANDS = {
    "inspect": Command(
        "first rows of logs → columns and rejects: inspect data=<preset> data.path=<files>",
        (),
        ("data",),
        not_read=("data.from", "data.keep_log"),
    ),
    "prepare": Command(
        "logs → store: prepare data=<preset> data.path=<files> store=DIR [cluster=ray]",
        ("store",),
        ("data", "cluster"),
        not_read=tuple(f"cluster.{name}" for name in ("gpus_per_worker", *OF_TRAINING)),
    ),
    "train": Command(
        "store → run: train store=DIR run=DIR [experiment=…]",
        ("store", "run"),
        tuple(name for name in SECTIONS if name not in ("data", "evaluate", "serve", "submit")),
    ),
    "evaluate": Command(
        "run → table and evaluation.json: evaluate run=DIR [against=RUN]",
        ("store", "run"),
        ("evaluate", "data"),
        not_read=tuple(f"data.{name}" for name in ("path", *OF_SPLITS, *OF_SYNTHETIC)),
        options=("users", "against"),
    ),
    "export": Command(
        "run → folder that predicts without this package: export run=DIR out=DIR", ("run", "out")
    ),
    "recommend": Command(
        "run and users → their best items: recommend run=DIR users=FILE out=FILE [k=10]",
        ("run", "users", "out"),
        ("data", "cluster"),
        not_read=(
            *(f"data.{name}" for name in OF_PREPARATION),
            *(f"cluster.{name}" for name in OF_TRAINING),
        ),
        options=("k", "exclude_seen", "candidates", "new_items", "items", "ratings", "explain"),
    ),
    "serve": Command(
        "run → recommendations over HTTP: serve run=DIR [serve.port=8000]", ("run",), ("serve",)
    ),
    "submit": Command(
        "command → job of a cluster, followed: submit cluster.address=URL -- train …",
        (),
        ("submit", "cluster"),
        not_read=OF_WORKERS,
    ),
    "jobs": Command(
        "jobs of a cluster: jobs [list|follow ID|stop ID] cluster.address=URL",
        (),
        ("cluster",),
        not_read=OF_WORKERS,
    ),
}


@dataclass(frozen=True)
class Option:
    """One ``section.option`` of the command line."""

    name: str
    """As it is typed: ``data.from``."""
    path: str
    """Where it stands in the config: ``data.from_store``. It differs from the name where that is a
    word of Python's own."""
    field: Field[Any]
    schema: type
    """The dataclass that holds the field."""

    @property
    def section(self) -> str:
        """The section it stands in; for a folder, its own name."""
        return self.name.partition(".")[0]

    @property
    def default(self) -> Any:
        factory = self.field.default_factory
        return factory() if callable(factory) else self.field.default

    @property
    def types(self) -> tuple[Any, ...]:
        """The types it accepts: (int, NoneType) for ``int | None``."""
        kind = self.field.type
        return get_args(kind) if isinstance(kind, UnionType) else (kind,)

    @property
    def is_list(self) -> bool:
        return any(get_origin(kind) is list for kind in self.types)

    @property
    def choices(self) -> tuple[str, ...]:
        """The words it accepts; empty where it is no choice."""
        return choices_of(self.field)


@cache
def all_options() -> dict[str, Option]:
    """Every option of every command, by name, in the order of the config."""
    return {option.name: option for option in _leaves(Config, "")}


def options_of(command: str) -> dict[str, Option]:
    """The options that a command reads, folders first."""
    spec = COMMANDS[command]
    reads = (*spec.unsectioned, *spec.sections)
    options = [o for o in all_options().values() if o.name not in spec.not_read]
    return {o.name: o for section in reads for o in options if o.section == section}


def _leaves(schema: type, prefix: str) -> Iterator[Option]:
    for f in fields(schema):
        nested = f.default_factory
        if isinstance(nested, type) and is_dataclass(nested) and nested is not ColumnsConfig:
            yield from _leaves(nested, f"{prefix}{f.name}.")
        else:
            name = typed_name(schema, f.name)
            yield Option(prefix + name, prefix + f.name, f, schema)


@cache
def presets() -> dict[str, list[str]]:
    """Groups of ``configs/``, and the presets of each."""
    folder = Path(str(import_module(CONFIGS).__file__)).parent
    groups = {path.parent.name for path in folder.glob("*/*.yaml")}
    return {g: sorted(p.stem for p in (folder / g).glob("*.yaml")) for g in sorted(groups)}
