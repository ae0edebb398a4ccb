"""A predictor on a GPU recommends what one on the CPU does."""

from pathlib import Path

import pytest
import torch
from small_training import prepare_store, small

from greatmeta_dist.display import Display
from greatmeta_dist.predict import Predictor
from greatmeta_dist.recommend.questions import answers, ask_best
from greatmeta_dist.training import build
from greatmeta_dist.training.loop import train

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
USERS = {
    f"u{n}": {f"i{(7 * n + 3 * k) % 50}": 1.0 + (n + k) % 5 for k in range(n)} for n in range(9)
}
NEW_RATINGS = {f"u{n}": [("new", 1.0 + n % 2), ("i3", 4.0)] for n in range(5)}


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:.*of items that the catalogue does not have")
@needs_gpu
def test_a_gpu_gives_the_scores_of_the_cpu(tmp_path, monkeypatch):
    train(small(prepare_store(tmp_path)), tmp_path / "run", Display())
    on_cpu = predictor(tmp_path / "run", "cpu", monkeypatch)
    on_gpu = predictor(tmp_path / "run", "cuda", monkeypatch)
    assert on_gpu.scorer.worker.device.type == "cuda"
    for one, other in (
        (on_cpu, on_gpu),
        (on_cpu.with_items(["new"], NEW_RATINGS), on_gpu.with_items(["new"], NEW_RATINGS)),
    ):
        best, same = one.recommend(USERS, 7), other.recommend(USERS, 7)
        for user in USERS:
            scores = [score for _, score in best[user]]
            assert [score for _, score in same[user]] == pytest.approx(scores, abs=1e-4)
        expected = one.score(USERS, ["i1", "i2", "new"])
        assert other.score(USERS, ["i1", "i2", "new"]) == pytest.approx(expected, abs=1e-4)
        some = [ask_best(other.ranker, USERS["u5"], 3, candidates=["i1", "i2", "i9"])]
        (few,) = answers(other.ranker, some)
        assert {item for item, _ in few} == {"i1", "i2", "i9"} - USERS["u5"].keys()


def predictor(run: Path, device: str, monkeypatch) -> Predictor:
    monkeypatch.setattr(build, "local_device", lambda: torch.device(device))
    return Predictor.load(run)
