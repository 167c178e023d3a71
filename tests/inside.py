"""Python code run inside a namespace, each piece in a process of its own.

A fork costs milliseconds where starting the program costs a tenth of a second,
and a test can change the program from inside: let one step fail, or send a
signal in the middle of it.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import pickle
import pkgutil
import signal
import traceback
import warnings
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Self, TypeVar

import istio_init
from istio_init import cli
from istio_init.kernel import libiptc, netns

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.namespace import Namespace

T = TypeVar("T")

# Seconds after which a process that hangs is ended.
_LONGEST = 300

libiptc.load()


class Done(NamedTuple):
    """How a run of the program ended: its exit code and what it wrote."""

    code: int
    out: str
    err: str


class KilledError(AssertionError):
    """The process ended by a signal."""


class Process(Generic[T]):
    """A process inside a namespace that runs ``action``; killed at the end of the ``with`` block.

    ``action`` is called with a function that reports it as ready.
    """

    def __init__(
        self,
        pod: Namespace,
        action: Callable[[Callable[[], None]], T],
        *,
        uid: int = 0,
    ) -> None:
        self._ready, ready = os.pipe()
        self._answer, answer = os.pipe()
        with warnings.catch_warnings():
            # From Python 3.12 on; the other threads here are the test runner's.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if not self.pid:
            os.close(self._ready)
            os.close(self._answer)
            _work(pod, action, uid, ready, answer)
        os.close(ready)
        os.close(answer)
        self._ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._ended:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self._ready)
        os.close(self._answer)

    def wait_until_ready(self) -> None:
        """Return once the process has reported itself ready."""
        assert os.read(self._ready, 1), self.result()

    def result(self) -> T:
        """Wait for the end; return what the action returned.

        Raises:
            KilledError: a signal ended the process.
        """
        with os.fdopen(os.dup(self._answer), "rb") as answer:
            data = answer.read()
        _, status = os.waitpid(self.pid, 0)
        self._ended = True
        if not data:
            raise KilledError(f"ended with status {status}")
        worked, value = pickle.loads(data)
        assert worked, value
        result: T = value
        return result


def _work(
    pod: Namespace,
    action: Callable[[Callable[[], None]], Any],
    uid: int,
    ready: int,
    answer: int,
) -> None:
    """Run the action in a new process and end it."""
    code = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.alarm(_LONGEST)
        netns.enter(pod.path)
        os.environ.clear()
        os.environ.update(pod.environment())
        if uid:
            # Whom this process becomes may not be let into the checkout's folder.
            _import_everything()
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
        try:
            data = (True, action(lambda: _write(ready, b"+")))
        except BaseException:  # noqa: BLE001 - it goes to the process that asked
            data = (False, traceback.format_exc())
        _write(answer, pickle.dumps(data))
        code = 0
    finally:
        os._exit(code)


def _import_everything() -> None:
    """Import every module that the program could come to import later."""
    for module in pkgutil.walk_packages(istio_init.__path__, "istio_init."):
        if not module.name.startswith(("istio_init.inject", "istio_init.__main__")):
            with contextlib.suppress(ImportError):
                importlib.import_module(module.name)


def _write(handle: int, data: bytes) -> None:
    while data:
        data = data[os.write(handle, data) :]


def inside(pod: Namespace, action: Callable[[], T], *, uid: int = 0) -> T:
    """Return what ``action`` returns inside a namespace."""
    with Process(pod, lambda _ready: action(), uid=uid) as process:
        return process.result()


def run_program(*argv: str) -> Done:
    """Run the program in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main(argv)
    return Done(code, out.getvalue(), err.getvalue())


def init(pod: Namespace, *argv: str, code: int = 0) -> Done:
    """Run the program inside a namespace, without the cost of starting it."""
    done = inside(pod, lambda: run_program(*argv))
    assert done.code == code, done
    return done
