"""Many questions at once have the answers that each has alone; threads get the same ones."""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
from small_training import prepare_store, small

from greatmeta_dist.display import Display
from greatmeta_dist.errors import InputError
from greatmeta_dist.predict import Predictor
from greatmeta_dist.recommend.questions import Question, answers, ask_best, ask_scores
from greatmeta_dist.recommend.ranker import Ranker
from greatmeta_dist.training.loop import train

NUM_USERS, NUM_THREADS = 24, 8


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("questions")
    train(small(prepare_store(folder)), folder / "run", Display())
    return folder / "run"


@pytest.fixture(scope="module")
def predictor(run) -> Predictor:
    return Predictor.load(run)


def user(number: int) -> dict[str, float]:
    return {f"i{(7 * number + 3 * k) % 50}": 1.0 + (number + k) % 5 for k in range(number % 9)}


def questions(predictor: Predictor) -> list[Question]:
    ranker, asked = predictor.ranker, []
    for number in range(NUM_USERS):
        known = user(number)
        if number % 4 == 3:
            asked.append(ask_scores(ranker, known, ["i1", f"i{number}", "i77"]))
        else:
            candidates = [f"i{k}" for k in range(number)] if number % 4 == 2 else None
            seen = number % 3 > 0
            asked.append(
                ask_best(ranker, known, 1 + number, exclude_seen=seen, candidates=candidates)
            )
    return asked


@pytest.mark.filterwarnings("ignore:.*of items that the catalogue does not have")
def test_answers_to_many_are_those_of_the_predictor(predictor):
    for number, answer in enumerate(answers(predictor.ranker, questions(predictor))):
        known = user(number)
        if number % 4 == 3:
            expected = predictor.score(known, ["i1", f"i{number}", "i77"])
            assert answer == pytest.approx(expected.tolist(), abs=1e-5)
            continue
        best = predictor.recommend(
            known,
            1 + number,
            exclude_seen=number % 3 > 0,
            candidates=[f"i{k}" for k in range(number)] if number % 4 == 2 else None,
        )
        assert [one.score for one in answer] == pytest.approx([s for _, s in best], abs=1e-5)
        assert {one.item for one in answer} == {item for item, _ in best}


def test_unknown_items_are_named_once(predictor):
    question = ask_best(predictor.ranker, {"new": 3, "i1": 4}, candidates=["i2", "new", "other"])
    assert question.unknown_items == ["new", "other"]
    assert ask_scores(predictor.ranker, None, ["i1"]).unknown_items == []


def test_a_question_without_items_has_no_scores(predictor):
    assert answers(predictor.ranker, [ask_scores(predictor.ranker, {"i1": 4.0}, [])]) == [[]]
    assert answers(predictor.ranker, []) == []


@pytest.mark.parametrize(
    "known, message",
    [
        ({"ann": {"i1": 4.0}}, "the interactions are of many users; ask about one at a time"),
        ({"i1": True}, "the rating of i1 is True; expected a finite number"),
        ({"i1": 10**400}, "the rating of i1 is too large; expected a number"),
        ({"i1": 9.0}, "the rating of i1 is 9; ratings of this run go from"),
    ],
)
def test_a_bad_question_is_one_line(predictor, known, message):
    with pytest.raises(InputError, match=re.escape(message)):
        ask_best(predictor.ranker, known)


def test_threads_that_come_together_look_at_the_catalogue_once(run, monkeypatch):
    predictor, looks, make = Predictor.load(run), [], Ranker.of
    together = Barrier(NUM_THREADS)

    def counted(*words, **options):
        looks.append(1)
        return make(*words, **options)

    def recommend(_):
        together.wait()
        return predictor.recommend({"i1": 5.0}, 5)

    monkeypatch.setattr(Ranker, "of", counted)
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        first, *others = pool.map(recommend, range(NUM_THREADS))
    assert len(looks) == 1
    assert others == [first] * (NUM_THREADS - 1)


def test_many_threads_get_the_bits_of_one(predictor):
    ranker, known = predictor.ranker, [user(number) for number in range(NUM_USERS)]
    alone = [
        (predictor.recommend(one, 9), predictor.score(one, ["i1", "i2", "i3"]).tolist())
        for one in known
    ]
    batch = questions(predictor)
    together = answers(ranker, batch)

    def work(thread: int) -> None:
        for number in np.random.default_rng(thread).permutation(NUM_USERS):
            best, scores = alone[number]
            assert predictor.recommend(known[number], 9) == best
            assert predictor.score(known[number], ["i1", "i2", "i3"]).tolist() == scores
        assert answers(ranker, batch) == together

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        list(pool.map(work, range(NUM_THREADS)))
