"""What a mistyped word most likely meant: new names of old options, other systems' words, typos.

A hint names options of the command that was typed; where only another command has such an option,
it says which.
"""

import difflib
from collections.abc import Iterable, Sequence

from greatmeta_dist.options.names import COMMANDS, all_options, options_of, presets

RENAMED = {
    "data.category": "priors.user_groups.category",
    "data.num_groups": "priors.user_groups.num_groups",
    "data.max_support_items": "data.max_support",
    "model.is_list_mean": "model.list_pooling",
    "model.label": "model.target",
    "model.is_spectral": "model.item_init",
    "model.has_factorisation": "model.use_bayesian_mf",
    "inner.rate": "inner.learning_rate",
    "inner.prior_rows": "inner.support_damping",
    "scheduler.evenness": "scheduler.balance_strength",
    "scheduler.rate": "scheduler.learning_rate",
    "train.users_per_step": "train.users_per_batch",
    "train.rate": "train.learning_rate",
    "train.is_resplit": "train.resample_support",
    "train.short_share": "train.short_support_rate",
    "train.hidden_share": "train.feature_mask_rate",
    "train.averaging": "train.ema_decay",
    "train.max_poisoned_fraction": "train.max_nonfinite_fraction",
}
"""Options of earlier versions, and what they are called now."""
NEW_VALUES = {
    "model.is_list_mean": {"true": "mean", "false": "sum"},
    "model.is_spectral": {"true": "factors", "false": "random"},
}
"""Of those, the values that changed too."""
LEARNING_RATES = ("train.learning_rate", "inner.learning_rate", "scheduler.learning_rate")
SYNONYMS: dict[str, tuple[str, ...]] = {
    "alpha": ("inner.learning_rate",),
    "batch": ("train.users_per_batch",),
    "batch_size": ("train.users_per_batch",),
    "beta": ("train.learning_rate",),
    "bs": ("train.users_per_batch",),
    "checkpoint": ("train.checkpoint_every",),
    "delimiter": ("data.separator",),
    "device": ("cluster.gpus_per_worker",),
    "devices": ("cluster.workers",),
    "dim": ("model.embedding_dim",),
    "dtype": ("cluster.precision",),
    "ema": ("train.ema_decay",),
    "emb_dim": ("model.embedding_dim",),
    "embedding_size": ("model.embedding_dim",),
    "epoch": ("train.steps",),
    "epochs": ("train.steps",),
    "eval_every": ("train.valid_every",),
    "gpu": ("cluster.gpus_per_worker",),
    "gpus": ("cluster.gpus_per_worker",),
    "hidden_dim": ("model.hidden",),
    "hidden_size": ("model.hidden",),
    "inner_lr": ("inner.learning_rate",),
    "inner_steps": ("inner.steps",),
    "iterations": ("train.steps",),
    "layers": ("model.hidden",),
    "learning_rate": LEARNING_RATES,
    "lr": LEARNING_RATES,
    "max_epochs": ("train.steps",),
    "max_steps": ("train.steps",),
    "meta_lr": ("train.learning_rate",),
    "nproc": ("cluster.workers",),
    "num_epochs": ("train.steps",),
    "num_items": ("data.items",),
    "num_steps": ("train.steps",),
    "num_threads": ("cluster.threads",),
    "num_users": ("data.users",),
    "num_recommendations": ("k",),
    "num_workers": ("cluster.workers",),
    "out_path": ("out",),
    "output": ("out",),
    "outer_lr": ("train.learning_rate",),
    "random_seed": ("train.seed", "data.seed"),
    "rate": LEARNING_RATES,
    "seed": ("train.seed", "data.seed"),
    "steps": ("train.steps",),
    "test_ratio": ("data.test_fraction",),
    "test_size": ("data.test_fraction",),
    "top_k": ("k",),
    "topk": ("k",),
    "val_every": ("train.valid_every",),
    "val_fraction": ("data.valid_fraction",),
    "world_size": ("cluster.workers",),
}
"""Words of other systems, or without their section, and the options that they mean."""
EPOCHS = ("epoch", "epochs", "max_epochs", "num_epochs")
PRESET_SYNONYMS = {
    "bookx": "bookcrossing",
    "bx": "bookcrossing",
    "ml100k": "movielens_100k",
    "ml1m": "movielens_1m",
    "ml10m": "movielens_10m",
    "ml20m": "movielens_csv",
    "ml25m": "movielens_csv",
    "ml32m": "movielens_csv",
    "mllatest": "movielens_latest",
    "mllatestsmall": "movielens_latest",
    "tsv": "csv",
}
"""Other names of presets, in small letters and digits alone."""
COMMAND_SYNONYMS = {
    "fit": "train",
    "infer": "recommend",
    "predict": "recommend",
    "preprocess": "prepare",
    "rank": "recommend",
    "test": "evaluate",
}


def command_hint(word: str) -> str:
    """What to type in place of an unknown command."""
    if "=" in word:
        return f"a command comes first: greatmeta {'|'.join(COMMANDS)} {word}"
    meant = COMMAND_SYNONYMS.get(word)
    return f"did you mean {meant}?" if meant else nearest(word, COMMANDS)


def renamed_option(key: str, value: str, command: str) -> str | None:
    """Where an option of an earlier version went; None where there was none of that name."""
    new = RENAMED.get(key)
    if new is None:
        return None
    if new not in options_of(command):
        return f"{key} is now {new}, an option of {' and '.join(owners(new)) or 'no command'}"
    value = NEW_VALUES.get(key, {}).get(value.lower(), value)
    return f"{key} is now {new}; write {new}={value}"


def option_hint(key: str, value: str, command: str) -> str:
    """What an unknown option of a command most likely meant."""
    own, others = list(options_of(command)), list(all_options())
    for find in (_same_meaning, _similar):
        for names in (own, others):
            candidates = find(key, names)
            if candidates:
                return _suggest(key, value, candidates, command)
    near = difflib.get_close_matches(key, presets(), n=1)
    if near:
        return f"did you mean {near[0]}={value}?"
    spec = COMMANDS[command]
    reads = (*spec.unsectioned, *(f"{section}.…" for section in spec.sections))
    return f"{command} reads {', '.join(reads)}: see greatmeta {command} --help"


def preset_hint(group: str, value: str, command: str) -> str:
    """What an unknown preset most likely meant."""
    known = presets()
    meant = PRESET_SYNONYMS.get("".join(c for c in value.lower() if c.isalnum()))
    if meant in known[group]:
        return f"did you mean {meant}?"
    elsewhere = preset_groups(value, command)
    if elsewhere:
        return f"did you mean {_either(f'{g}={value}' for g in elsewhere)}?"
    if group == "data" and ("/" in value or "." in value):
        return f"did you mean data.path={value}? data= takes {', '.join(known[group])}"
    return nearest(value, known[group])


def preset_groups(word: str, command: str) -> list[str]:
    """Groups of a command that have a preset of that name."""
    known = presets()
    return [g for g in COMMANDS[command].groups if word in known.get(g, ())]


def word_hint(word: str, command: str) -> str:
    """What a word that is no ``key=value`` most likely meant; empty where nothing is near."""
    key, _, value = word.lstrip("-").partition("=")
    groups = preset_groups(key, command)
    if groups:
        return f"did you mean {_either(f'{g}={key}' for g in groups)}?"
    own = list(options_of(command))
    candidates = [key] if key in own else _same_meaning(key, own)
    return _suggest(key, value or "…", candidates, command) if candidates else ""


def owners(option: str) -> list[str]:
    """The commands that read an option, or take a group's presets."""
    section = option.partition(".")[0]
    return [
        name
        for name, c in COMMANDS.items()
        if section in (*c.unsectioned, *c.sections, *c.groups) and option not in c.not_read
    ]


def nearest(word: str, known: Iterable[str]) -> str:
    """'did you mean …' or, if nothing is near, what there is."""
    names = list(known)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else f"there is {', '.join(names)}"


def _same_meaning(key: str, names: Sequence[str]) -> list[str]:
    """Options that a word means as it stands: as a synonym, or without its section."""
    section, word = key.partition(".")[0], key.rpartition(".")[2].replace("-", "_").lower()
    meant = SYNONYMS.get(word) or [n for n in names if n.rpartition(".")[2] == word]
    meant = meant or [new for old, new in RENAMED.items() if old.rpartition(".")[2] == word]
    known = [name for name in meant if name in names]
    sections = {name.partition(".")[0] for name in known}
    near = difflib.get_close_matches(section, sections, n=1, cutoff=0.7) if "." in key else []
    inside = [name for name in known if name.partition(".")[0] in near]
    return inside or known


def _similar(key: str, names: Sequence[str]) -> list[str]:
    """Options that a mistyped word is near to."""
    if "." in key:
        near = difflib.get_close_matches(key, names, n=1, cutoff=0.8)
        if near:
            return near
    words = {name.rpartition(".")[2] for name in names} | set(SYNONYMS)
    for word in difflib.get_close_matches(key.rpartition(".")[2], sorted(words), cutoff=0.7):
        meant = _same_meaning(f"{key.partition('.')[0]}.{word}", names)
        if meant:
            return meant
    return []


def _suggest(key: str, value: str, candidates: Sequence[str], command: str) -> str:
    meant = f"did you mean {_either(f'{name}={value}' for name in candidates)}?"
    others = owners(candidates[0])
    if command not in others:
        return f"{meant} That is for {' and '.join(others)}, not for {command}"
    if key.rpartition(".")[2].lower() in EPOCHS:
        return f"{meant} It counts outer steps, not epochs"
    return meant


def _either(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last
