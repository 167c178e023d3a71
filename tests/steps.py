"""Every step by which the program reads or changes the kernel, watched from inside."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, Literal

from istio_init.apply import iptables_nft, legacy, nftables, routes
from istio_init.errors import ApplyError
from istio_init.formats import nft_script
from istio_init.formats.iptables import rule_line
from istio_init.formats.nf_tables import messages
from istio_init.formats.nf_tables.own_tables import Line
from istio_init.kernel import libiptc, nfnetlink

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from istio_init.formats.nf_tables.messages import Message

    Kind = Literal["read", "table", "route"]
    Moment = Literal["before", "after"]
    Watch = Callable[[Kind, Moment], None]

_READERS: tuple[type, ...] = (legacy.Legacy, iptables_nft.IptablesNft, nftables.Nftables)
WHY = "injected failure"


class Injected(Exception):  # noqa: N818 - it stands for whatever failure the step can have
    """Raised by a watch: the step at hand fails in the way in which such steps fail."""


class Steps:
    """The steps of this process, from now on; at one of them an event can be made to happen.

    ``taken`` lists the steps since ``arm``, up to the one of the event.
    """

    def __init__(self) -> None:
        self.taken: list[Kind] = []
        self.reached = True
        self._number, self._moment, self._event = 0, "before", _nothing
        self._kind: Kind | None = None
        _watch_libiptc(self._watch)
        _watch_batches(self._watch)
        _watch_routes(self._watch)
        for reader in _READERS:
            _watch_reads(reader, self._watch)

    def arm(
        self, number: int, moment: Moment, event: Callable[[], None], kind: Kind | None = None
    ) -> None:
        """Let ``event`` happen once, before or after the step of that number (of that kind)."""
        self.taken, self.reached = [], False
        self._number, self._moment, self._event = number, moment, event
        self._kind = kind

    def _watch(self, kind: Kind, moment: Moment) -> None:
        if self.reached or self._kind not in (None, kind):
            return
        if moment == "before":
            self.taken.append(kind)
        elif kind == "read":
            # It changed nothing: after it is before the next.
            return
        if len(self.taken) == self._number and moment == self._moment:
            self.reached = True
            self._event()


def _nothing() -> None:
    return


def fail() -> None:
    """Let the step fail."""
    raise Injected


def _watch_libiptc(watch: Watch) -> None:
    iptc = libiptc.load()
    commit = iptc.Table.commit

    def watched(table: Any) -> None:
        try:
            watch("table", "before")
            commit(table)
            watch("table", "after")
        except Injected:
            iptc._get_errno_loc()[0] = errno.EIO
            raise iptc.IPTCError(WHY) from None

    iptc.Table.commit = watched


def _watch_batches(watch: Watch) -> None:
    commit = nfnetlink.commit

    def watched(batch: Sequence[Message], made_for: int | None = None) -> None:
        if not batch:
            return
        try:
            watch("table", "before")
            commit(batch, made_for)
            watch("table", "after")
        except Injected:
            raise nfnetlink.RefusedError(errno.EIO, None) from None

    nfnetlink.commit = watched


def _watch_routes(watch: Watch) -> None:
    take = routes._apply_step

    def watched(step: routes.RouteStep) -> None:
        try:
            watch("route", "before")
            take(step)
            watch("route", "after")
        except Injected:
            raise OSError(errno.EIO, WHY) from None

    routes._apply_step = watched


def _watch_reads(reader: Any, watch: Watch) -> None:
    read = reader.read

    def watched(self: Any, *arguments: Any) -> Any:
        try:
            watch("read", "before")
            found = read(self, *arguments)
            watch("read", "after")
        except Injected:
            raise ApplyError("cannot read", where="here", why=WHY) from None
        return found

    reader.read = watched


def refuse_lines(refused: Callable[[str], bool]) -> None:
    """Let nf_tables refuse_lines what is written for such lines, of iptables or of nft's script."""
    commit = nfnetlink.commit

    def without(batch: Sequence[Message], made_for: int | None = None) -> None:
        for message in batch:
            if any(map(refused, _lines(message))):
                raise nfnetlink.RefusedError(errno.ENOENT, message)
        commit(batch, made_for)

    nfnetlink.commit = without


def _lines(message: Message) -> list[str]:
    """Return the lines that a message stands for."""
    about = message.about
    if isinstance(about, iptables_nft.Write):
        step = about.step
        if message.kind != messages.NEW_RULE or step is None or step.rule is None:
            return []
        return [rule_line(step.chain, step.rule, about.change.family)]
    part = about.part if isinstance(about, nftables.About) else None
    if isinstance(part, Line):
        return list(nft_script.rule_lines(part))
    if isinstance(part, messages.Hooked):
        return [nft_script.hook_line(part)]
    return list(nft_script.socket_lines("x")) if part == nftables.SOCKET else []
