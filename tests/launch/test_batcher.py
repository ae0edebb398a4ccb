"""Questions that come together are answered together; each gets its own answer."""

import asyncio
import threading

import pytest

from greatmeta_dist.launch.batcher import Batcher


class Squares:
    """Answers with squares, once it may; 13 is an error."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.may_answer = threading.Event()

    def __call__(self, numbers):
        self.may_answer.wait(10)
        self.batches.append(list(numbers))
        if 13 in numbers:
            raise ValueError("13 is no number")
        return [number * number for number in numbers]


async def ask_all(batcher: Batcher, numbers, squares: Squares) -> list:
    """The first question alone; all others while it is being answered."""
    first = asyncio.create_task(batcher.ask(numbers[0]))
    await asyncio.sleep(0.02)
    others = [asyncio.create_task(batcher.ask(number)) for number in numbers[1:]]
    await asyncio.sleep(0)
    squares.may_answer.set()
    return await asyncio.gather(first, *others, return_exceptions=True)


def test_questions_that_wait_are_answered_together_up_to_a_limit():
    squares = Squares()
    batcher = Batcher(squares, max_batch=4, wait_s=0)
    answers = asyncio.run(ask_all(batcher, range(8), squares))
    assert answers == [number * number for number in range(8)]
    assert squares.batches == [[0], [1, 2, 3, 4], [5, 6, 7]]


def test_a_waiting_time_gathers_those_that_come_soon():
    squares = Squares()
    squares.may_answer.set()
    batcher = Batcher(squares, max_batch=8, wait_s=0.2)
    assert asyncio.run(ask_all(batcher, [1, 2, 3], squares)) == [1, 4, 9]
    assert squares.batches == [[1, 2, 3]]


def test_an_error_is_that_of_its_batch_alone():
    squares = Squares()
    batcher = Batcher(squares, max_batch=2, wait_s=0)
    answers = asyncio.run(ask_all(batcher, [1, 13, 2, 3], squares))
    assert answers[0] == 1
    assert answers[3] == 9
    for error in answers[1:3]:
        with pytest.raises(ValueError, match="13 is no number"):
            raise error


def test_who_has_gone_away_is_not_answered():
    squares = Squares()
    batcher = Batcher(squares, max_batch=4, wait_s=0)

    async def leave() -> int:
        first = asyncio.create_task(batcher.ask(1))
        await asyncio.sleep(0.02)
        gone, stays = asyncio.create_task(batcher.ask(2)), asyncio.create_task(batcher.ask(3))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        squares.may_answer.set()
        await first
        return await stays

    assert asyncio.run(leave()) == 9
    assert squares.batches == [[1], [3]]
