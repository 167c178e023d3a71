"""Processes that answer reviews: the interpreter runs one thread at a time, a machine more.

Each process holds a configuration of its own. Another configuration is given to new processes,
which take over once each of them has shown that it can answer.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import TYPE_CHECKING

from istio_init.inject.problems import InjectionError, error
from istio_init.inject.webhook import Reply, reply_to

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from istio_init.inject.problems import Problem
    from istio_init.inject.webhook import Admission, AdmissionRequest

    Admit = Callable[[AdmissionRequest], Admission]
    # Reads a configuration, in another process; raises InjectionError where it is no good.
    Load = Callable[[], Admit]


@dataclass(slots=True)
class _Worker:
    """The state of a process of the pool."""

    admit: Admit | None = None
    problems: tuple[Problem, ...] = ()


_worker = _Worker()


def _load(load: Load) -> None:
    """Begin the life of a process; a failure is kept for whoever looks."""
    # What ends the webhook is said to a group of processes at times; these still have work then.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        _worker.admit = load()
    except InjectionError as failure:
        _worker.problems = failure.problems
    gc.freeze()


def _end_with_parent() -> None:
    """End the process when the webhook was killed: nobody else would end it then."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _check() -> tuple[Problem, ...]:
    return _worker.problems


def _reply(body: bytes, path: str, namespace: dict[str, Any] | None) -> Reply:
    if _worker.admit is None:
        # A pool whose configuration is no good is given no request.
        raise RuntimeError("no configuration")
    return reply_to(body, path, _worker.admit, namespace)


class WorkerPool:
    """A number of processes with the last configuration that was good."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._context = multiprocessing.get_context("forkserver")
        # Whatever is imported before the processes are forked they share.
        self._context.set_forkserver_preload([__name__, "istio_init.inject.admission"])
        self._executor: ProcessPoolExecutor | None = None
        self._load: Load | None = None

    @property
    def is_ready(self) -> bool:
        """Whether a configuration was loaded."""
        return self._executor is not None

    async def load(self, load: Load) -> None:
        """Start processes with another configuration, and let the ones before them finish.

        Raises:
            InjectionError: The configuration is no good; the one before stays.
        """
        executor = ProcessPoolExecutor(
            self._workers, mp_context=self._context, initializer=_load, initargs=(load,)
        )
        loop = asyncio.get_running_loop()
        # A process starts when there is work for it: there is some for each.
        checks = [loop.run_in_executor(executor, _check) for _ in range(self._workers)]
        try:
            problems = (await asyncio.gather(*checks))[0]
        except BrokenProcessPool as failure:
            problems = (error("the workers cannot load the configuration", why=str(failure)),)
        if problems:
            executor.shutdown(wait=False)
            raise InjectionError(problems)
        before, self._executor, self._load = self._executor, executor, load
        if before is not None:
            before.shutdown(wait=False)

    async def reply(self, body: bytes, path: str, namespace: dict[str, Any] | None = None) -> Reply:
        """Return the reply to a body that was posted to a path.

        Raises:
            InjectionError: A worker was killed, for want of memory most probably.
        """
        executor, load = self._executor, self._load
        if executor is None or load is None:
            raise InjectionError([error("no configuration is loaded yet")])
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(executor, _reply, body, path, namespace)
        except BrokenProcessPool as failure:
            # The first of those who notice starts new processes.
            if executor is self._executor:
                self._executor = None
                await self.load(load)
            raise InjectionError([error("a worker was killed", why=str(failure))]) from failure

    def close(self) -> None:
        """End all processes, once they have answered."""
        if self._executor is not None:
            self._executor.shutdown()
            self._executor = None
