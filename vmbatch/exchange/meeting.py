"""The nodes of one job meeting: each learns of the others' guests, and of a failure of any of them.

1. Each node has its entry before its hook returns; so the first node, which is started last, finds those of all sisters.
2. *Introduction*, before the guests start: every node writes down the public key of its guest's user; the sisters say which
   start of the first node they join; the first node writes down the party. With that each guest gets all keys when it is made.
3. *Arrival*, when the guests are up: every node writes down its guest's address and host key, the first node the whole party.
4. The sisters' guests are ready: the first node says that all are, and lets its job run.

Whoever misses one of the others gives up, and says so in its own entry.
"""

import os
import time
from collections.abc import Callable
from typing import TypeVar

import msgspec

from ..errors import DeadlineError, EndedError, SisterError, VmBatchError
from ..host import file, ssh
from ..resource import Piece, Work
from .member import Entry, Guest, Member, of_failure, short

T = TypeVar("T")
_CHECK_SECONDS = 0.5
_POLL_SECONDS = 0.1
_ABSENT_SECONDS = 10.0
"""How long an entry may be missing before it counts as gone: an earlier start's is taken away before the new one is made."""


class Meeting:
    """One node's part in the meeting."""

    def __init__(self, member: Member) -> None:
        self.member = member
        self._next_check = 0.0
        self._missing: dict[str, float] = {}
        self._seen: set[str] = set()
        self._joined = ""
        """The first node's start whose party has this sister in it."""

    def check(self) -> None:
        """Whether the others are still there; asks at most twice a second. SisterError, NodeError, EndedError."""
        now = time.monotonic()
        if now < self._next_check:
            return
        self._next_check = now + _CHECK_SECONDS
        self._look()

    def _look(self) -> list[Entry | None]:
        """The others' entries, in order; None for one that is not there yet."""
        found = self.member.seen()
        for node, entry in zip(self.member.others, found, strict=True):
            if entry is None:
                self._miss(node)
            else:
                self._missing.pop(node, None)
                self._seen.add(node)
                if self.member.rank == 0 and entry.failed:
                    raise of_failure(entry)
                if self._joined and entry.guest.token != self._joined:
                    raise self._given_up(node)
                if self.member.rank:
                    self._party_of(entry)
        return found

    def _miss(self, node: str) -> None:
        """An entry is not there: at the sisters, the first node may only be about to begin."""
        if self._joined:
            raise self._given_up(node)
        since = self._missing.setdefault(node, time.monotonic())
        patience = _ABSENT_SECONDS if self.member.rank == 0 or node in self._seen else self.member.patience
        if time.monotonic() - since < patience:
            return
        if self.member.rank == 0 and node not in self._seen:
            raise SisterError(f"node {short(node)} has not begun to prepare a guest for the job",
                              "is VmBatch's prologue.parallel in mom_priv there, are queue and [nodes] directory the same in its "
                              "vmbatch.conf, and is that its host name?")
        raise self._given_up(node)

    def _given_up(self, node: str) -> VmBatchError:
        if self.member.rank == 0:
            return SisterError(f"node {short(node)} has given the job up", "see its log of the job")
        return EndedError(f"job {self.member.job} has ended, or was never started, at its first node {short(node)}")

    def introduce(self, key: str, work: Work) -> tuple[Guest, ...]:
        """All guests with their users' public keys; this node's is `key`. As `check`; DeadlineError."""
        self._say(guest=self._guest(key=key))
        return self._until(self._introduced, work, "the job's nodes have not met")

    def _introduced(self) -> tuple[Guest, ...] | None:
        entries = self._look()
        own = self.member.own()
        if self.member.rank:
            first = entries[0]
            if first is not None and first.guest.token != own.first:
                self._say(first=first.guest.token)
            return self._party_of(first)
        sisters = [entry.guest for entry in entries
                   if entry is not None and entry.first == self.member.token and entry.guest.key]
        if len(sisters) < len(entries):
            return None
        self._say(party=(own.guest, *sisters))
        return (own.guest, *sisters)

    def arrive(self, address: str, host_key: str) -> None:
        """This node's guest is up, and has an address."""
        self._say(guest=self._guest(address=address, host_key=host_key))

    def arrived(self) -> tuple[Guest, ...] | None:
        """All guests with their addresses; None as long as some have none. As `check`."""
        entries = self._look()
        if self.member.rank:
            party = self._party_of(entries[0])
            return party if party is not None and all(guest.address for guest in party) else None
        if not all(entry is not None and entry.guest.address for entry in entries):
            return None
        own = self.member.own()
        party = (own.guest, *(entry.guest for entry in entries if entry is not None))
        for before, after in zip(own.party, party, strict=True):
            if before.token != after.token:
                raise self._given_up(after.node)
        self._say(party=party)
        return party

    def ready(self) -> None:
        """Of a sister: its guest is ready. Of the first node: all are, and the job may run."""
        self._say(ready=True)

    def all_ready(self) -> bool | None:
        """Whether the job may run: at the first node, all sisters are ready; at a sister, the first node said so. As `check`."""
        return True if all(entry is not None and entry.ready for entry in self._look()) else None

    def wait_ready(self, work: Work) -> None:
        """Waits for `all_ready`. As `check`; DeadlineError."""
        self._until(self.all_ready, work, "the job's other nodes were not ready")

    def _party_of(self, first: Entry | None) -> tuple[Guest, ...] | None:
        """The party, once this sister is in it: from then on it lives and ends with that start of the first node."""
        if first is None or not any(guest.token == self.member.token for guest in first.party):
            return None
        self._joined = first.guest.token
        return first.party

    def _guest(self, **changes: str) -> Guest:
        return msgspec.structs.replace(self.member.own().guest, **changes)

    def _say(self, **changes: object) -> None:
        self.member.write(msgspec.structs.replace(self.member.own(), **changes))

    def _until(self, look: Callable[[], T | None], work: Work, what: str) -> T:
        while True:
            work.alive()
            found = look()
            if found is not None:
                return found
            if work.deadline.passed():
                raise DeadlineError(f"{what} in time", f"see the logs of the job at {', '.join(map(short, self.member.others))}",
                                    code="VB608")
            time.sleep(min(_POLL_SECONDS, work.deadline.left()))


class Introduction(Piece, frozen=True, tag="introduction"):
    """The key for the job's other guests, made in `keys` beside the others, and what this guest must know of them.

    `keys`/party has the names of all guests, a line each; `keys`/party_keys the public keys of their users. `node_file` is the
    batch system's, whose `hosts` become the guests' names in `keys`/nodefile; '' where there is none.
    """

    member: Member
    keys: str
    hosts: tuple[str, ...]
    node_file: str

    def make(self, work: Work) -> None:
        """Waits for the introduction. As `Meeting.check`; DeadlineError."""
        ssh.make_keys([ssh.party_key(self.keys)], self.member.name, work.deadline)
        key = f"{ssh.public_key(ssh.party_key(self.keys))} {self.member.name}"
        party = Meeting(self.member).introduce(key, work)
        self._write("party", "".join(f"{guest.name}\n" for guest in party))
        self._write("party_keys", "".join(f"{guest.key}\n" for guest in party))
        if self.node_file:
            self._write("nodefile", self._renamed(dict(zip(self.hosts, (guest.name for guest in party), strict=True))))

    def _renamed(self, names: dict[str, str]) -> str:
        with open(self.node_file, encoding="utf-8", errors="replace") as opened:
            return "".join(f"{names[line.strip()]}\n" for line in opened if line.strip())

    def _write(self, name: str, text: str) -> None:
        file.write_new(os.path.join(self.keys, name), text.encode(), 0o600)

    def __str__(self) -> str:
        return f"introduction to {', '.join(self.member.others)} in {self.member.directory}"
