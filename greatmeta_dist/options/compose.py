"""Command-line words → a checked config, by way of Hydra, which ``sweep_words`` alone knows, too.

Words have passed ``checks`` before; what is wrong here is in their values.
"""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import cache
from typing import Any

import yaml
from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from greatmeta_dist.config import ColumnsConfig, Config
from greatmeta_dist.errors import InputError, require
from greatmeta_dist.options.checks import verbatim
from greatmeta_dist.options.hints import nearest
from greatmeta_dist.options.names import CONFIGS, EXPERIMENT, MAPPINGS, VERBATIM, all_options


def compose_config(words: list[str]) -> Config:
    """The config that ``key=value`` words give; raises ``InputError`` in one line.

    Paths, separators and column mappings are taken as they stand, outside Hydra's grammar: they
    may hold ``=``, commas, brackets and letters of any script.
    """
    plain = [word for word in words if not is_outside_grammar(word)]
    try:
        with _hydra_context():
            composed = compose("config", plain)
        for word in words:
            if is_outside_grammar(word):
                _update(composed, *word.split("=", 1))
        return OmegaConf.to_object(composed)  # type: ignore[return-value]
    except InputError:
        raise
    except (HydraException, OmegaConfBaseException) as error:
        cause = error.__cause__ or error
        # Both often say the same; repeated lines are dropped.
        message = " ".join(dict.fromkeys((first_line(error), first_line(cause))))
        raise InputError(message + remedy(message, plain)) from error


def with_changes(saved: Config, config: Config, words: list[str]) -> Config:
    """A run's config with the options that the command line names.

    A preset sets all of its section, and an experiment everything.
    """
    names = [_key(word) for word in words]
    if EXPERIMENT in names:
        return replace(config, store=config.store or saved.store)
    merged, new = OmegaConf.structured(saved), OmegaConf.structured(config)
    for path in map(_path, names):
        OmegaConf.update(merged, path, OmegaConf.select(new, path))
    return OmegaConf.to_object(merged)  # type: ignore[return-value]


def compose_job(words: list[str]) -> Config:
    """The config of one of many similar commands, as ``compose_config`` gives it.

    Hydra takes half a second for one. So it composes once for all that have the same presets and
    paths; single options are set in the sections that they belong to.
    """
    base = tuple(word for word in words if not _is_plain(word))
    return _with_words(_composed(base), [word for word in words if _is_plain(word)])


@cache
def _composed(words: tuple[str, ...]) -> Config:
    return compose_config(list(words))


def _is_plain(word: str) -> bool:
    """Whether a word sets one option of a section, and no preset."""
    return "." in _key(word) and not is_outside_grammar(word)


def _with_words(config: Config, words: list[str]) -> Config:
    """A config with single options of sections set; raises ``InputError`` in one line."""
    sections: dict[str, DictConfig] = {}
    try:
        for word in words:
            section, _, rest = _path(_key(word)).partition(".")
            if section not in sections:
                sections[section] = OmegaConf.structured(getattr(config, section))
            value = OverridesParser.create().parse_override(word).value()
            OmegaConf.update(sections[section], rest, value)
        changed: dict[str, Any] = {k: OmegaConf.to_object(v) for k, v in sections.items()}
        return replace(config, **changed)
    except (HydraException, OmegaConfBaseException):
        # Hydra's own message names the option.
        compose_config(words)
        raise


@contextmanager
def _hydra_context() -> Iterator[None]:
    """Lets Hydra find the schema and the presets of ``configs/``."""
    ConfigStore.instance().store(name="schema", node=Config)
    with initialize_config_module(CONFIGS, version_base="1.3"):
        yield


def is_outside_grammar(word: str) -> bool:
    """Whether a word's value is taken as it stands."""
    key = _key(word)
    return key in VERBATIM or ".".join(key.split(".")[:2]) in MAPPINGS


def _key(word: str) -> str:
    return word.split("=", 1)[0]


def _path(key: str) -> str:
    """Where an option stands in the config; a group's or an entry's name is its place."""
    option = all_options().get(key)
    return option.path if option else key


def _update(composed: DictConfig, key: str, value: str) -> None:
    """Set, in place, an option that is outside Hydra's grammar."""
    if key in VERBATIM:
        OmegaConf.update(composed, _path(key), _literal(verbatim(key, value)))
        return
    name = ".".join(key.split(".")[:2])
    is_whole = key in MAPPINGS
    typed = value if is_whole else f"{{{key.removeprefix(f'{name}.')}: {value}}}"
    mapping = _mapping(name, typed)
    for entry, text in mapping.items():
        # By a path, a name with a dot or a bracket would be one of several entries.
        node = OmegaConf.select(composed, name)
        with open_dict(node):
            node[entry] = _literal(text)


def _literal(text: str | None) -> str | None:
    """Text that OmegaConf takes as it stands: ``${`` would be a reference to another option."""
    if text is None:
        return None
    return re.sub(r"(\\*)\$\{", lambda found: f"{found[1] * 2}\\${{", text)


def _mapping(key: str, value: str) -> dict[str, str | None]:
    """``{user: uid, item: iid}`` in YAML, its words as they are written."""
    try:
        mapping = yaml.load(value, yaml.BaseLoader)
    except yaml.YAMLError:
        mapping = None
    require(
        isinstance(mapping, dict) and all(isinstance(k, str) for k in mapping),
        f"{key}={value} is no mapping; expected '{key}={{name: value, name: value}}'",
    )
    assert isinstance(mapping, dict)
    if key == "data.columns":
        known = [f.name for f in fields(ColumnsConfig)]
        for name in mapping:
            require(name in known, f"{key} has no '{name}'; {nearest(name, known)}")
    values = {k: None if v in ("", "null", "~") else str(v) for k, v in mapping.items()}
    if key == "data.events":
        wrong = [name for name, weight in values.items() if not _is_number(weight)]
        require(
            not wrong,
            f"{key}={value} gives {', '.join(wrong)} no weight; expected a number for each event, "
            f"as in {key}='{{view: 1, purchase: 4}}'",
        )
    return values


def _is_number(text: str | None) -> bool:
    try:
        return text is not None and math.isfinite(float(text))
    except ValueError:
        return False


def remedy(message: str, words: list[str]) -> str:
    """What to do where Hydra only says what it does not like."""
    if "not a ListConfig" in message:
        return "; a list is written [64,64]"
    if message.startswith("Ambiguous value"):
        return "; a sweep over values takes -m"
    parser = OverridesParser.create()
    for word in words:
        try:
            parser.parse_override(word)
        except HydraException:
            return f" in {word}; check its brackets, quotes and commas"
    return ""


def first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
