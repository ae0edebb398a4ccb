"""Questions that come while others are being answered are answered together afterwards.

Ray Serve's own batches are formed as soon as requests come: without a waiting time each request is
a batch of its own, however long the batches wait for the replica (``findings/``).
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")


class Batcher(Generic[Q, A]):
    """Gives questions of one event loop to a function, as many at once as have gathered.

    The function runs in a thread of its own, so that the loop takes questions meanwhile. One
    thread, for more would only share the processors that one has.
    """

    def __init__(
        self, answer: Callable[[Sequence[Q]], Sequence[A]], *, max_batch: int, wait_s: float
    ):
        """``max_batch`` questions are answered at once at most. Where nothing is being answered, a
        question waits ``wait_s`` for others."""
        self._answer, self._max_batch, self._wait_s = answer, max_batch, wait_s
        self._waiting: list[tuple[Q, asyncio.Future[A]]] = []
        self._thread = ThreadPoolExecutor(1)
        self._task: asyncio.Task[None] | None = None

    async def ask(self, question: Q) -> A:
        """The answer to one question. Raises what the function raises."""
        future: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, future))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._answer_all())
        return await future

    async def _answer_all(self) -> None:
        """Answer until nothing waits."""
        await asyncio.sleep(self._wait_s)
        while self._waiting:
            batch, self._waiting = (
                self._waiting[: self._max_batch],
                self._waiting[self._max_batch :],
            )
            # Whoever has gone away meanwhile needs no answer.
            await self._answer_batch([one for one in batch if not one[1].done()])

    async def _answer_batch(self, batch: list[tuple[Q, "asyncio.Future[A]"]]) -> None:
        if not batch:
            return
        questions, futures = zip(*batch, strict=True)
        loop = asyncio.get_running_loop()
        try:
            answers = await loop.run_in_executor(self._thread, self._answer, questions)
        except Exception as error:
            for future in futures:
                if not future.done():
                    future.set_exception(error)
            return
        for future, answer in zip(futures, answers, strict=True):
            if not future.done():
                future.set_result(answer)
