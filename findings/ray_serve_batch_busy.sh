#!/usr/bin/env bash
# Ray Serve 2.60 does not batch requests that wait while the handler is busy.
#
# One would guess: with @serve.batch and a waiting time of 0, a request is handled at once where the
# handler is idle, and those that come while it is busy are its next batch. So work other batchers.
# What happens: a batch is closed as soon as its waiting time is over, also where it cannot start yet.
# With 0 every request is a batch of its own, and they stand in a line. A longer waiting time cuts the
# line into the requests of each such time, and an idle handler waits, too.
# Why it matters: 0 looks like the choice for short answers. Under load it gives no batches at all, so
# a service holds as many requests as without batching.
# Remedy: gather requests while the handler runs, as greatmeta_dist/launch/batcher.py does.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'ray[serve]==2.60.0' 2>/dev/null
RAY_USAGE_STATS_ENABLED=0 "$folder/venv/bin/python" - <<'PYTHON'
import asyncio
import logging
import time

import ray
from ray import serve

logging.getLogger("ray.serve").setLevel(logging.ERROR)


@serve.deployment(max_ongoing_requests=100)
class Service:
    def __init__(self, wait_s):
        self.sizes = []
        self.handle.set_batch_wait_timeout_s(wait_s)

    @serve.batch(max_batch_size=16)
    async def handle(self, numbers):
        self.sizes.append(len(numbers))
        await asyncio.sleep(2)
        return numbers

    async def __call__(self, number):
        return await self.handle(number)

    async def batches(self):
        return self.sizes


ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
for wait_s in (0, 1):
    service = serve.run(Service.bind(wait_s), route_prefix=None)
    asked = []
    for number in range(6):  # one every 0.3 s; the first one takes 2 s
        asked.append(service.remote(number))
        time.sleep(0.3)
    for one in asked:
        one.result()
    sizes = service.batches.remote().result()
    print(f"ray {ray.__version__}, waiting time {wait_s} s: batches of {sizes}")
    if wait_s == 0 and sizes != [1] * 6:
        raise SystemExit("the behaviour has changed")
serve.shutdown()
ray.shutdown()
PYTHON
