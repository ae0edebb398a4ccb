"""Who may write a batch recommendation, where it works, and how it ends.

The work itself is in ``recommend_users``. It works in a hidden folder beside ``out``, which stays
where the recommendation is stopped, and goes when it ends.
"""

import hashlib
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.fingerprint import files_in
from greatmeta_dist.data.phases import Phases, Progress, errors_in_our_words
from greatmeta_dist.data.recommendations import made_from
from greatmeta_dist.data.rejects import Rejects
from greatmeta_dist.data.units import RunUnits
from greatmeta_dist.errors import InputError, require
from greatmeta_dist.files import locked, publish_whole
from greatmeta_dist.recommend.batch_request import Request, Summary, TrainedModel
from greatmeta_dist.recommend.recommend_users import BatchRecommendation

SEEN_BY_ALL = "run=DIR, the users' files and the folder of out=FILE"
"""What workers on other machines must see."""
SHARE_BESIDE = 0.2
"""Of the progress, for a log beside that of the users."""


def recommend_to_files(
    request: Request,
    model: TrainedModel,
    config: DataConfig,
    *,
    typed: Collection[str] = (),
    progress: Progress = lambda phase, share: None,
    run_units: RunUnits | None = None,
    run_model_units: RunUnits | None = None,
) -> Summary:
    """Write the best items of every user of ``request.users`` to ``request.out``.

    ``config`` says how the users' files are read, where that is not as for the run's own log;
    ``typed`` are its options that were typed, and ``data`` where a preset was. ``run_units`` says
    who works: by default threads of this process; ``run_model_units`` who recommends. Raises
    ``InputError`` where the files cannot be read, where too many rows are rejected (which are then
    in ``rejects_path``), and where ``out`` is something else.
    """
    out = request.out
    _require_place(request)
    out.parent.mkdir(parents=True, exist_ok=True)
    root = out.with_name(f".{out.name}.recommending")
    with _held(root, out):
        work = root / _work_key(request, model, config)
        if not work.exists():
            _delete_content(root)
            work.mkdir()
        # The log beside is looked at first.
        share = SHARE_BESIDE if request.ratings is not None else 0.0
        phases, beside = (
            Phases(
                work / name,
                run_units=run_units,
                progress=_part_of(progress, first, last),
                seen_by_all=SEEN_BY_ALL,
            )
            for name, first, last in (("phases", share, 1.0), ("phases-beside", 0.0, share))
        )
        rejects = Rejects(rejects_path(out))
        batch = BatchRecommendation(request, model, work, phases, rejects)
        try:
            with errors_in_our_words():
                made, summary = batch.run(config, typed, run_model_units, beside)
        except InputError:  # the same command would end in the same way
            _delete_content(root)
            raise
        if made is not None:
            if not rejects.has_any:
                rejects.path.unlink(missing_ok=True)  # those of an earlier try
            publish_whole(made, out)
        _delete_content(root)
        phases.end("done")
        return summary


def _part_of(progress: Progress, first: float, last: float) -> Progress:
    """The progress of a part of the work; the whole never goes back."""

    def tell(phase: str, share: float) -> None:
        progress(phase, first + (last - first) * share)

    return tell


def rejects_path(out: Path) -> Path:
    """Where rejected rows of the users' files are written, if there are any."""
    return out.with_name(f"{out.name.removesuffix('.parquet')}.rejects.parquet")


def _require_place(request: Request) -> None:
    """Raise ``InputError`` where ``out`` is something else than recommendations."""
    out, users = request.out, Path(request.users)
    require(
        "://" in request.users or not out.resolve().is_relative_to(users.resolve()),
        f"out={out} is users={users}, or lies in it; choose another place",
    )
    is_empty = out.is_dir() and not any(out.iterdir())
    require(
        not out.exists() or is_empty or made_from(out) is not None,
        f"out={out} exists, and holds no recommendations; choose a new name",
    )
    require(
        not out.exists() or out.is_dir() != request.is_one_file,
        f"out={out} is a folder, and its name that of a file; delete it, or choose another name",
    )


def _work_key(request: Request, model: TrainedModel, config: DataConfig) -> str:
    """Names the work folder: another one of any other options, files or model.

    Files are told by their size and time of change, so that going on costs no reading of them.
    """
    names = (
        request.users,
        request.candidates,
        request.items,
        request.ratings,
        config.users_path,
    )
    files = [
        [str(path), path.stat().st_size, path.stat().st_mtime_ns]
        for name in names
        for path in files_in(name)
    ]
    content = [asdict(request), asdict(config), [*model.identity], files]
    return hashlib.sha256(repr(content).encode()).hexdigest()[:16]


@contextmanager
def _held(root: Path, out: Path) -> Iterator[None]:
    """Keep others from writing ``out``; the work folder is deleted if nothing is in it."""
    root.mkdir(exist_ok=True)
    lock = root / ".lock"
    with locked(lock, f"another recommend is writing {out}"):
        try:
            yield
        finally:
            if [path.name for path in root.iterdir()] == [lock.name]:
                lock.unlink()
                root.rmdir()


def _delete_content(root: Path) -> None:
    """Delete what is in the work folder, but for its lock."""
    for path in root.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
