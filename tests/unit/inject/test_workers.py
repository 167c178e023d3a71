"""The processes that inject: exchanged while they work, and replaced when they are killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from istio_init.inject.problems import InjectionError, error
from istio_init.inject.webhook import Admission, AdmissionRequest, Outcome
from istio_init.inject.workers import WorkerPool

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

REQUEST: dict[str, Any] = {
    "apiVersion": "admission.k8s.io/v1",
    "kind": "AdmissionReview",
    "request": {"uid": "1", "object": {"metadata": {}, "spec": {}}},
}
BODY = json.dumps(REQUEST).encode()


def load(reason: str) -> Callable[[AdmissionRequest], Admission]:
    if reason == "bad":
        raise InjectionError([error("it is bad")])
    if reason == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    return partial(admit, reason)


def admit(reason: str, request: AdmissionRequest) -> Admission:
    if request.pod["metadata"].get("name") == "fatal":
        os.kill(os.getpid(), signal.SIGKILL)
    return Admission(Outcome.SKIPPED, reason, str(os.getpid()))


def run(test: Callable[[WorkerPool], Awaitable[None]]) -> None:
    async def with_pool() -> None:
        pool = WorkerPool(2)
        try:
            await test(pool)
        finally:
            pool.close()

    asyncio.run(with_pool())


def test_a_configuration_takes_the_place_of_another() -> None:
    async def test(pool: WorkerPool) -> None:
        ready = [pool.is_ready]
        with pytest.raises(InjectionError, match="no configuration"):
            await pool.reply(BODY, "/inject")
        await pool.load(partial(load, "first"))
        assert [*ready, pool.is_ready] == [False, True]
        replies = await asyncio.gather(*(pool.reply(BODY, "/inject") for _ in range(20)))
        assert {reply.reason for reply in replies} == {"first"}
        assert os.getpid() not in {int(reply.message) for reply in replies}
        # What was begun before is answered as it was begun.
        begun = asyncio.gather(*(pool.reply(BODY, "/inject") for _ in range(20)))
        await asyncio.sleep(0)
        await pool.load(partial(load, "second"))
        assert {reply.reason for reply in await begun} == {"first"}
        assert (await pool.reply(BODY, "/inject")).reason == "second"

    run(test)


@pytest.mark.parametrize(("what", "why"), [("bad", "it is bad"), ("dies", "cannot load")])
def test_a_configuration_that_is_no_good(what: str, why: str) -> None:
    async def test(pool: WorkerPool) -> None:
        await pool.load(partial(load, "good"))
        with pytest.raises(InjectionError, match=why):
            await pool.load(partial(load, what))
        assert (await pool.reply(BODY, "/inject")).reason == "good"

    run(test)


def test_a_worker_that_is_killed_is_replaced() -> None:
    fatal = json.dumps(REQUEST).replace('"metadata": {}', '"metadata": {"name": "fatal"}')

    async def test(pool: WorkerPool) -> None:
        await pool.load(partial(load, "good"))
        with pytest.raises(InjectionError, match="a worker was killed"):
            await pool.reply(fatal.encode(), "/inject")
        assert (await pool.reply(BODY, "/inject")).reason == "good"

    run(test)


ORPHANS = """
import asyncio, sys
from functools import partial
from istio_init.inject.workers import WorkerPool
from tests.unit.inject.test_workers import BODY, load

async def main():
    pool = WorkerPool(1)
    await pool.load(partial(load, "good"))
    print((await pool.reply(BODY, "/inject")).message, flush=True)
    await asyncio.sleep(60)

if __name__ == "__main__":
    asyncio.run(main())
"""


def test_workers_end_with_whoever_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "orphans.py"
    script.write_text(ORPHANS, encoding="utf-8")
    command = [sys.executable, str(script)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        worker = Path("/proc", process.stdout.readline().strip())
        assert worker.exists()
        process.kill()
    end = time.monotonic() + 10
    while worker.exists():
        assert time.monotonic() < end
        time.sleep(0.05)
