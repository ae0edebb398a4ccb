"""``greatmeta evaluate``: run → tables and ``evaluation.json``; two runs → ``comparison.json``."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from greatmeta_dist.config import Config, EvaluateConfig
from greatmeta_dist.data.other_store import OtherStore
from greatmeta_dist.data.split import SCENARIOS
from greatmeta_dist.data.store import Store
from greatmeta_dist.display import Display
from greatmeta_dist.errors import require
from greatmeta_dist.evaluation.baselines import Baselines
from greatmeta_dist.evaluation.evaluate import Evaluation, evaluate_users
from greatmeta_dist.evaluation.paired import compare
from greatmeta_dist.evaluation.scoring import Scorer
from greatmeta_dist.files import write_json_atomically
from greatmeta_dist.predict import Predictor
from greatmeta_dist.recommend.new_users import with_unknown_item
from greatmeta_dist.storage.local_copy import absolute, local_folder
from greatmeta_dist.training.run_copy import write_back

OTHER = "other"
"""What files are called that are of another store or log than the run's own."""


@dataclass(frozen=True)
class _Asked:
    """A run with the store that it is asked about."""

    predictor: Predictor
    scorer: Scorer
    store: Store

    @property
    def is_other(self) -> bool:
        """Whether the store is not the run's own."""
        return isinstance(self.store, OtherStore)

    @classmethod
    def of(
        cls, run: str, store: str | None, display: Display, *, may_be_other: bool, is_log: bool
    ) -> "_Asked":
        """Load a run and open its store, or another one.

        Raises ``InputError`` where either cannot be read, where the store is another one and may
        not be, or where it cannot be asked of the run.
        """
        predictor = Predictor.load(run, warn=display.say)
        if store is None:
            return cls(predictor, predictor.scorer, predictor.open_store())
        opened = Store(local_folder(store))
        opened.check()
        if opened.identity == predictor.store_identity:
            return cls(predictor, predictor.scorer, opened)
        require(
            may_be_other,
            f"{run} was trained on another store than {store} now is; prepare that data as before, "
            "or evaluate on this one all the same with evaluate.other_data=true",
        )
        other = OtherStore(opened, predictor.catalogue, has_one_split=is_log)
        scorer = with_unknown_item(predictor.scorer)
        num_items = predictor.catalogue.manifest.num_items
        grouping = replace(scorer.grouping, num_items=num_items)
        return cls(predictor, replace(scorer, grouping=grouping), other)

    def evaluate(self, options: EvaluateConfig, display: Display) -> Evaluation:
        """Score all users of the scenarios, with a bar."""
        splits = self.store.manifest.splits
        total = sum(splits.get(scenario, 0) for scenario in SCENARIOS)
        where = self.store.folder
        require(total > 0, f"{where} holds no scenario to evaluate, only training users")
        transform = self.scorer.collator.target_transform
        priors = self.predictor.model.priors
        with display.bar("evaluate", total, "users") as bar:
            by_split: dict[str, int] = {}

            def progress(split: str, num_scored: int) -> None:
                if split in splits:
                    by_split[split] = num_scored
                bar.update(sum(by_split.values()), split)

            return evaluate_users(
                self.scorer,
                self.store,
                others=Baselines.of(transform, priors["bayesian_mf"]),
                options=options,
                catalogue=self.predictor.catalogue,
                know_new_items=self.predictor.know_supports,
                progress=progress,
            )


def evaluate_run(
    run: str | Path,
    *,
    store: str | Path | None = None,
    against: str | Path | None = None,
    options: EvaluateConfig | None = None,
    display: Display | None = None,
) -> dict[str, Any]:
    """Score a run in every scenario of its store, or of ``store``: moved, or, where
    ``options.other_data`` allows it, of other data.

    ``against`` is another run, which is scored on the same users and compared with. Returns what
    ``evaluation.json`` holds. Raises ``InputError`` where a run or the store cannot be read, or
    where the store holds no scenario.
    """
    return _evaluate(
        str(run),
        store=str(store) if store is not None else None,
        against=str(against) if against is not None else None,
        options=options or EvaluateConfig(),
        display=display or Display(),
    )


def evaluate_config(config: Config, typed: Collection[str]) -> dict[str, Any]:
    """The same by a command's options; ``typed`` are those of ``data`` that were typed."""
    display = Display()
    with _store_of(config, typed, display) as store:
        return _evaluate(
            config.run or "",
            store=store,
            against=config.against or None,
            options=config.evaluate,
            display=display,
            is_log=config.users is not None,
        )


@contextmanager
def _store_of(config: Config, typed: Collection[str], display: Display) -> Iterator[str | None]:
    """The store to evaluate on, None for the run's own; a log is prepared, for the block alone."""
    if config.users is None:
        require(not typed, f"data.{min(typed, default='')} is set without users=LOG; name the log")
        yield config.store or None
        return
    require(not config.store, "store=DIR and users=LOG are both set; evaluate on one of the two")
    # It is imported where it is needed: all forms of logs come with it.
    from greatmeta_dist.commands.log_to_evaluate import prepare_log

    catalogue = Predictor.load(config.run or "", warn=display.say).catalogue
    with TemporaryDirectory(prefix="greatmeta-evaluate-") as folder:
        store, recipe = Path(folder) / "store", catalogue.manifest.recipe
        prepare_log(config.users, store, config.data, typed, recipe, display)
        yield str(store)


def _evaluate(
    run: str,
    *,
    store: str | None,
    against: str | None,
    options: EvaluateConfig,
    display: Display,
    is_log: bool = False,
) -> dict[str, Any]:
    may_be_other = is_log or options.other_data
    asked = _Asked.of(run, store, display, may_be_other=may_be_other, is_log=is_log)
    other = None
    if against is not None:
        require(absolute(against) != absolute(run), f"against={against} is the run itself")
        other = _Asked.of(against, store, display, may_be_other=may_be_other, is_log=is_log)
        require(
            store is not None or other.store.identity == asked.store.identity,
            f"{run} and {against} were trained on different stores, so that their users are not "
            "the same; name one with store=DIR evaluate.other_data=true to evaluate both on it",
        )
    found = asked.evaluate(options, display)
    evaluation = _header(asked) | found.summary
    prefix = f"{OTHER}-" if asked.is_other else ""
    path = _write(asked.predictor.run, f"{prefix}evaluation.json", evaluation)
    display.results(evaluation)
    for line in _unknown_lines(evaluation):
        display.say(line)
    weight = asked.predictor.blend_weight
    if weight is not None:
        display.say(f"{weight:.0%} of a prediction is the priors', where they know the item")
    display.say(f"parameters of step {asked.predictor.step}; written to {path}")
    if other is not None:
        comparison = {
            "run": str(run),
            "against": str(against),
            "steps": [asked.predictor.step, other.predictor.step],
            "scenarios": compare(found, other.evaluate(options, display)),
        }
        path = _write(asked.predictor.run, f"{prefix}comparison.json", comparison)
        display.comparison(comparison)
        display.say(f"written to {path}")
    return evaluation


def _write(run: Path, name: str, content: dict[str, Any]) -> Path:
    """Write a file of a run; where it is."""
    write_json_atomically(run / name, content)
    write_back(run, name)
    return run / name


def _header(asked: _Asked) -> dict[str, Any]:
    """What stands before the scenarios: of which parameters, and of what data if not the run's."""
    header: dict[str, Any] = {"step": asked.predictor.step}
    if asked.predictor.blend_weight is not None:
        header["factorisation_share"] = asked.predictor.blend_weight
    if isinstance(asked.store, OtherStore):
        recipe = asked.store.manifest.recipe
        unknown = {
            split: asdict(asked.store.unknown(split, asked.predictor.feature_spec))
            for split in SCENARIOS
            if asked.store.manifest.splits.get(split)
        }
        header["other"] = {"path": recipe["path"], "unknown": unknown}
    return header


def _unknown_lines(evaluation: dict[str, Any]) -> list[str]:
    """How much of another store or log the run does not know."""
    return [
        f"{split}: {u['query_rows']:,} of {u['num_query_rows']:,} rows that are asked for, and "
        f"{u['support_rows']:,} of {u['num_support_rows']:,} that are known, are of items that the "
        "run does not have; they count as unknown"
        for split, u in evaluation.get("other", {}).get("unknown", {}).items()
    ]
