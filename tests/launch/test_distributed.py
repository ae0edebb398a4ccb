"""Any number of workers, killed or not, gives the same bits."""

import dataclasses
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmarks.chaos import digest, disturb
from greatmeta_dist.batching.lanes import Lanes
from greatmeta_dist.config import ClusterConfig, Config, DataConfig
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.store import FeatureSpec, Store
from greatmeta_dist.display import Display
from greatmeta_dist.engine import checkpoint
from greatmeta_dist.engine.embeddings import block_size
from greatmeta_dist.engine.worker import Sizes, Worker
from greatmeta_dist.errors import InputError
from greatmeta_dist.launch.local import launch
from greatmeta_dist.meta.factors import VISITS_KEPT
from greatmeta_dist.options.compose import compose_config
from greatmeta_dist.training.run_folder import set_up

STEPS = 50
META = torch.device("meta")
SIDES = ("support_item", "query_item")


@pytest.fixture(scope="module")
def uneven(tmp_path_factory) -> Path:
    """Users of 2 to 60 rows, some without query rows, all of whom know item 0; 13 steps an epoch
    and a few users left over."""
    folder = tmp_path_factory.mktemp("uneven")
    lines, split = ["user,item,rating"], ["part\tuser_id\trole\titem_id"]
    for user in range(120):
        part = "train" if user < 110 else "valid"
        for k in range(2 + user * user % 59):
            item = 0 if k == 0 else 1 + (7 * user + 11 * k) % 97
            lines.append(f"u{user},i{item},{1 + (user + item * k) % 5}")
            is_query = k % 4 == 1 and not (part == "train" and user % 10 == 3)
            split.append(f"{part}\tu{user}\t{'query' if is_query else 'support'}\ti{item}")
    (folder / "log.csv").write_text("\n".join(lines) + "\n")
    (folder / "split.tsv").write_text("\n".join(split) + "\n")
    config = DataConfig(
        source="csv",
        path=str(folder / "log.csv"),
        split=str(folder / "split.tsv"),
        min_interactions=1,
    )
    prepare(config, folder / "store")
    return folder / "store"


def config_for(store: Path, workers: int, *options: str) -> Config:
    return compose_config(
        [
            f"store={store}",
            f"cluster.workers={workers}",
            f"train.steps={STEPS}",
            "train.log_every=1",
            "train.valid_every=25",
            *options,
        ]
    )


def scalars(run: Path) -> dict[str, list[float]]:
    events = EventAccumulator(str(run / "tensorboard"), {"scalars": 0})
    events.Reload()
    return {name: [e.value for e in events.Scalars(name)] for name in events.Tags()["scalars"]}


def same_at_every_size(store: Path, folder: Path, *options: str) -> None:
    found = {}
    for workers in (1, 2, 4, 8):
        run = folder / str(workers)
        metrics = launch(config_for(store, workers, *options), run, Display())
        found[workers] = digest(run), scalars(run)["train/loss"], metrics["valid"]
        assert len(json.loads((run / "workers.json").read_text())) == workers
    assert len(found[1][1]) == STEPS
    assert all(found[workers] == found[1] for workers in (2, 4, 8))


def test_same_bits_with_1_2_4_and_8_workers_on_uneven_users(uneven, tmp_path):
    store = Store(uneven)
    shards = [store.shard("train", k) for k in range(store.manifest.shards["train"])]
    sizes = {side: [len(v) for s in shards for v in s.column(side)] for side in SIDES}
    assert len(sizes["query_item"]) % 8
    assert min(sizes["query_item"]) == 0
    assert max(sizes["support_item"]) > 40 > 4 > min(sizes["support_item"])
    same_at_every_size(uneven, tmp_path, "train.users_per_batch=8", "train.resample_support=false")


def test_same_bits_with_1_2_4_and_8_workers_on_synthetic_data(tmp_path):
    prepare(DataConfig(users=500, items=300), tmp_path / "store")
    store = Store(tmp_path / "store")
    assert "item_id" in [field.name for field in store.fields("item", FeatureSpec(True, False))]
    target_weights = set_up(config_for(store.folder, 1), store).collator.balance
    assert (target_weights != 1).any()  # the scheduler has something to learn
    same_at_every_size(tmp_path / "store", tmp_path)


@pytest.mark.data
@pytest.mark.parametrize("scheduler", ["balanced", "mlp"])
def test_same_bits_with_1_2_4_and_8_workers_on_ml_100k(ml100k, tmp_path, scheduler):
    config = compose_config(
        ["data=recbole", f"data.path={ml100k}", f"data.split={ml100k}/split.tsv"]
    )
    prepare(config.data, tmp_path / "store")
    same_at_every_size(tmp_path / "store", tmp_path, f"scheduler={scheduler}")


@pytest.mark.parametrize("scheduler", ["mlp", "uniform"])
def test_same_bits_with_look_ahead_and_without_scheduler(uneven, tmp_path, scheduler):
    given = (
        "train.users_per_batch=8",
        f"scheduler={scheduler}",
        "train.row_update=dense",
        "model.embedding_dim=10",  # rows that are no multiple of a cache line
    )
    for workers in (1, 2):
        launch(config_for(uneven, workers, *given), tmp_path / str(workers), Display())
    assert digest(tmp_path / "1") == digest(tmp_path / "2")


@pytest.mark.parametrize("workers", [2, 4])
def test_bytes_are_those_of_the_rows_the_slices_of_a_and_the_users(uneven, tmp_path, workers):
    steps = 6
    config = config_for(
        uneven, workers, "train.users_per_batch=8", f"train.steps={steps}", "train.valid_every=1000"
    )
    launch(config, tmp_path / "run", Display())
    found = scalars(tmp_path / "run")
    store = Store(uneven)
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, lanes=8))
    setup = set_up(config, store)
    parts = [
        Lanes.of(store, setup.collator, setup.choice, config.train, rank=rank, size=workers)
        for rank in range(workers)
    ]
    block = block_size(store.manifest.num_rows, workers)

    def away(number: int) -> int:
        """Rows that workers touch and others hold."""
        if number == steps:
            return 0
        rows = [lanes.step(number).batch.rows for lanes in parts]
        return sum(int((own // block != rank).sum()) for rank, own in enumerate(rows))

    in_a = sum(p.numel() for p in setup.worker.layers.values())
    of_a, others = 4 * -(-in_a // workers), workers * (workers - 1)
    width = 4 * config.model.embedding_dim
    columns = 3 + setup.worker.sizes.total
    users_away = 8 * (workers - 1) // workers
    # Sums of A: slices to all, then to the first; or, of two, all from the second to the first.
    moved = of_a * workers if workers == 2 else of_a * (others + workers - 1)
    for number in range(steps):
        now, following = away(number), away(number + 1)
        expected = {
            "fetch_rows": now * width + 8 * others,
            "sum": 2 * now * width + 2 * of_a * others,
            "statistics": users_away * columns * 4,
            "weights": users_away * 4,
            "outer_update": now * width + following * 4 + moved + in_a * 4,
        }
        assert {k: found[f"perf/bytes/{k}"][number] for k in expected} == expected
        assert all(found[f"perf/seconds/{k}"][number] > 0 for k in expected)


def test_run_goes_on_with_another_number_of_workers(uneven, tmp_path):
    launch(config_for(uneven, 1, "train.users_per_batch=8"), tmp_path / "whole", Display())
    for workers, steps in ((4, 20), (1, 35), (2, STEPS)):
        config = config_for(uneven, workers, "train.users_per_batch=8")
        config = dataclasses.replace(config, train=dataclasses.replace(config.train, steps=steps))
        launch(config, tmp_path / "parts", Display())
    assert digest(tmp_path / "parts") == digest(tmp_path / "whole")
    assert torch.equal(remembered_visits(tmp_path / "parts"), visits(uneven, config))


def remembered_visits(run: Path) -> torch.Tensor:
    found, _ = checkpoint.load_latest(run / "checkpoints", wanted={"users": None})
    assert found is not None
    return found.tables["users"]["visits"].long()


def visits(store: Path, config: Config) -> torch.Tensor:
    """How often each training user was met, up to as many as are told apart."""
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, lanes=8))
    setup = set_up(config, Store(store))
    lanes = Lanes.of(setup.store, setup.collator, setup.choice, config.train)
    met = [part.user_index for step in range(STEPS) for part in lanes.step(step).batch.buckets]
    return torch.bincount(torch.cat(met), minlength=lanes.num_users).clamp(max=VISITS_KEPT)


def test_fast_reduction_learns_the_same_but_for_rounding(uneven, tmp_path):
    for reduction in ("tree", "fast"):
        options = ("train.users_per_batch=8", f"cluster.reduction={reduction}", "train.steps=10")
        launch(config_for(uneven, 4, *options), tmp_path / reduction, Display())
    tree, fast = (
        checkpoint.load_latest(tmp_path / name / "checkpoints")[0].dense
        for name in ("tree", "fast")
    )
    for name in tree:
        if name.startswith("theta."):
            torch.testing.assert_close(fast[name], tree[name], rtol=1e-3, atol=1e-4)


def test_more_workers_than_lanes_are_refused(uneven, tmp_path):
    config = config_for(uneven, 4, "train.users_per_batch=8", "train.lanes=2")
    with pytest.raises(InputError, match="4 workers do not divide the users' 2 lanes"):
        launch(config, tmp_path / "run", Display())
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_torchrun_s_processes_give_the_same_bits(uneven, tmp_path):
    options = ("train.users_per_batch=8", "train.steps=12")
    launch(config_for(uneven, 1, *options), tmp_path / "alone", Display())
    words = [f"store={uneven}", f"run={tmp_path / 'run'}", "train.log_every=1", *options]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    for steps in (["train.steps=6"], ["train.steps=12"]):  # the second one resumes
        command = ["--nproc-per-node=2", "-m", "greatmeta_dist", "train", *words, *steps]
        subprocess.run([*torchrun, *command], check=True, timeout=240)
    assert len(json.loads((tmp_path / "run" / "workers.json").read_text())) == 2
    assert digest(tmp_path / "run") == digest(tmp_path / "alone")


def test_more_workers_than_gpus_are_refused(uneven, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match=r"cluster.workers=2, and this machine has 1 GPUs"):
        launch(config_for(uneven, 2), tmp_path / "run", Display())
    with pytest.raises(InputError, match="workers cannot share a GPU"):
        ClusterConfig(gpus_per_worker=0.5)


def test_optimizer_state_is_loaded_to_where_its_parameters_are():
    config = compose_config([])
    sizes = Sizes(2, 3, 50)
    here, there = Worker(config, sizes, torch.device("cpu")), Worker(config, sizes, META)
    here.coordinator.step(torch.ones_like(here.layers.flat))
    here.coordinator.weigh(torch.ones(4, here.sizes.total + 3))
    there.load(here.dense_state(), {k: v.tensors for k, v in here.blocks().items()})
    for optimizer in (there.coordinator.optimizer, there.coordinator.scheduler_optimizer):
        for state in optimizer.state.values():
            assert {name: value.device for name, value in state.items()} == dict.fromkeys(
                ("step", "exp_avg", "exp_avg_sq"), META
            )
        assert len(optimizer.state) == len(optimizer.param_groups[0]["params"])


def test_processes_that_are_no_power_of_two_are_refused(uneven, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(InputError, match=r"torchrun started 3 processes; .* take 2"):
        launch(config_for(uneven, 1), tmp_path / "run", Display())


@pytest.mark.parametrize("workers", [3, [1, 2], [4, 2], 0, "two"])
def test_impossible_workers_are_refused(workers):
    with pytest.raises(InputError, match=r"cluster.workers is"):
        ClusterConfig(workers=workers)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_processes_change_nothing(tmp_path):
    kinds = ["worker", "coordinator", "driver"]
    results = disturb(tmp_path, kinds, seed=1, tell=print)
    assert [r.kind for r in results if r.is_same] == kinds


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_ray_coordinator_or_raylet_changes_nothing(tmp_path):
    kinds = ["ray coordinator", "raylet"]
    results = disturb(tmp_path, kinds, seed=2, tell=print)
    assert [r.kind for r in results if r.is_same] == kinds
    assert [r.workers for r in results] == [2, 1]


@pytest.mark.slow
def test_ray_trains_with_two_workers_where_it_has_room_for_three(uneven, tmp_path):
    plain = ("train.users_per_batch=8", "train.steps=12")
    launch(config_for(uneven, 1, *plain), tmp_path / "alone", Display())
    words = ("cluster=ray", "cluster.workers=[1,4]", *plain)
    program = f"""
import ray
from greatmeta_dist.launch import ray as on_ray
from greatmeta_dist.cli import main
ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False)
main(["train", "store={uneven}", "run={tmp_path / "run"}", *{words!r}])
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=240)
    assert len(json.loads((tmp_path / "run" / "workers.json").read_text())) == 2
    assert digest(tmp_path / "run") == digest(tmp_path / "alone")


def test_without_ray_all_but_cluster_ray_works_and_that_says_what_to_do(uneven, tmp_path):
    words = ["train", f"store={uneven}", "train.users_per_batch=8", "train.steps=3"]
    # Importing a module that is None there fails as one that is not installed.
    program = (
        "import sys; sys.modules['ray'] = None\n"
        "from greatmeta_dist import cli; sys.exit(cli.main())"
    )

    def run(*more: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-c", program, *words, *more], capture_output=True, text=True
        )

    found = run(f"run={tmp_path / 'a'}", "cluster=ray", "cluster.workers=2")
    assert found.returncode == 2
    assert "pip install 'ray[train]', or take cluster=local" in found.stderr
    assert run(f"run={tmp_path / 'b'}", "cluster.workers=2").returncode == 0


def test_poisoned_user_counts_nothing_is_named_and_too_many_stop(tmp_path):
    lines = ["user,item,rating"]
    for user in range(60):
        for k in range(14):
            item = (user + 3 * k) % 40
            rating = 9 * 10**14 if user == 7 else 1 + (user + item) % 5
            lines.append(f"u{user},i{item},{rating}")
    (tmp_path / "log.csv").write_text("\n".join(lines) + "\n")
    given = DataConfig(
        source="csv",
        path=str(tmp_path / "log.csv"),
        valid_fraction=0.0,
        test_fraction=0.0,
        query_items=5,
    )
    prepare(given, tmp_path / "store")
    plain = ["train.users_per_batch=16", "model.target=rating", "train.steps=12"]
    found = {}
    for workers in (1, 2):
        options = [*plain, "train.max_nonfinite_fraction=0.1"]
        run = tmp_path / str(workers)
        said = Told()
        launch(config_for(tmp_path / "store", workers, *options), run, said)
        found[workers] = digest(run)
        if workers == 1:
            assert "users u7" in " ".join(said.lines)
    assert found[1] == found[2]
    state = checkpoint.load_latest(tmp_path / "1" / "checkpoints")[0]
    for tensors in (state.dense, *state.tables.values()):
        assert all(t.double().isfinite().all() for t in tensors.values())
    for workers in (1, 2):
        with pytest.raises(RuntimeError, match=r"% of the users is not finite"):
            launch(config_for(tmp_path / "store", workers, *plain), tmp_path / "stop", Told())


class Told(Display):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.mark.parametrize("workers", [1, 2])
def test_full_disk_fails_with_a_message_and_leaves_the_last_checkpoint(uneven, tmp_path, workers):
    run = tmp_path / "run"
    words = [
        sys.executable, "-m", "greatmeta_dist", "train", f"store={uneven}", f"run={run}",
        "train.users_per_batch=8", f"cluster.workers={workers}", "train.valid_every=1000",
    ]  # fmt: skip
    subprocess.run([*words, "train.steps=6"], check=True, capture_output=True)
    before = digest(run)

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))

    found = subprocess.run(
        [*words, "train.steps=12", "train.log_every=1000"],
        capture_output=True, text=True, preexec_fn=small_files, env={**os.environ}, timeout=120,
    )  # fmt: skip
    assert found.returncode == 1
    assert "cannot write the checkpoint" in found.stderr
    assert len(found.stderr.strip().splitlines()) == 1
    assert digest(run) == before
    subprocess.run([*words, "train.steps=12"], check=True, capture_output=True)
    assert checkpoint.steps(run / "checkpoints")[-1] == 12
