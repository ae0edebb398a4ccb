"""A trained model that processes load when they need it, each of them once."""

from collections.abc import Callable, Hashable
from threading import RLock
from typing import Any, Protocol

from greatmeta_dist.recommend.new_item_evidence import NewItemEvidence
from greatmeta_dist.recommend.ranker import Ranker

MAX_KEPT = 4


class LoadsModel(Hashable, Protocol):
    """Loads a run's model. It can be hashed, and sent to other machines."""

    def ranker(self) -> Ranker:
        """What the model recommends with."""

    def new_item_evidence(self) -> NewItemEvidence:
        """No ratings of new items yet."""

    def with_new_items(self, evidence: str, items: str) -> "LoadsModel":
        """The same model with new items, which these files hold."""


_lock = RLock()
_kept: dict[Hashable, Any] = {}


def made_once(key: Hashable, make: Callable[[], Any]) -> Any:
    """What ``make`` makes, made once in a process: threads wait for the first of them."""
    with _lock:
        if key not in _kept:
            made = make()
            keep(key, made)
        return _kept[key]


def keep(key: Hashable, made: Any) -> None:
    """Let ``made_once`` return what is there already; of many, the last ones are kept."""
    with _lock:
        while len(_kept) >= MAX_KEPT:
            _kept.pop(next(iter(_kept)))
        _kept[key] = made
