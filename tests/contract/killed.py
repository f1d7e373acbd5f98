"""A libvirt that is played, under a process that is killed before any call that changes the world."""

import os
import re
from collections.abc import Callable
from typing import Any

import pytest

from vmbatch import journal
from vmbatch.host import libvirtd, virt, virtend
from vmbatch.units import Deadline


class KilledError(BaseException):
    """The end of the process, at a place where no `finally` helps."""


class Killed:
    """`running` has each guest's token by its uuid, `calls` the names of what was done; number `at` is not done any more."""

    def __init__(self) -> None:
        self.running: dict[str, str] = {}
        self.at = 0
        self.calls: list[str] = []

    def play(self, monkeypatch: pytest.MonkeyPatch, kind: str, **more: Callable[..., object]) -> None:
        """Puts itself in libvirt's place; guests are called after the `kind` of their starts, which alone has `more`."""
        monkeypatch.setattr(libvirtd, "guest_group", lambda _uri: None)
        monkeypatch.setattr(virtend, "destroy", self.destroy)
        monkeypatch.setattr(virtend, "trouble", lambda *_: "")
        played: dict[str, Callable[..., object]] = {
            "create": self.create,
            "find": lambda _uri, uuid, _over=None: uuid if uuid in self.running else None,
            "owner": lambda uuid, _over=None: self.running.get(uuid),
            "ours": lambda _uri: [(f"vmbatch-1.{kind}-{token[:8]}", uuid, token) for uuid, token in self.running.items()]}
        for name, act in (played | more).items():
            monkeypatch.setattr(virt, name, act)
        monkeypatch.setattr("vmbatch.hypervisor.domain._IN_FLIGHT_SECONDS", 0.0)

    def watch(self, monkeypatch: pytest.MonkeyPatch, *more: str) -> None:
        """What changes the world, whoever calls it; `more` are of `virt`."""
        for name in ("mkdir", "rename", "link", "unlink", "rmdir", "symlink", "chmod"):
            monkeypatch.setattr(os, name, self._counted(name, getattr(os, name)))
        monkeypatch.setattr(journal, "_append", self._counted("journal", journal._append))
        monkeypatch.setattr(virtend, "destroy", self._counted("destroy", virtend.destroy))
        for name in ("create", *more):
            monkeypatch.setattr(virt, name, self._counted(name, getattr(virt, name)))

    def _counted(self, name: str, act: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*words: Any, **named: Any) -> Any:
            self.calls.append(name)
            if len(self.calls) == self.at:
                raise KilledError
            return act(*words, **named)

        return counting

    def create(self, _uri: str, xml: str, *, paused: bool = False) -> None:
        uuid, token = re.search("<uuid>(.*)</uuid>", xml), re.search('token="([0-9a-f]{32})"', xml)
        assert uuid is not None
        assert token is not None
        assert uuid[1] not in self.running
        self.running[uuid[1]] = token[1]

    def destroy(self, uuid: str, _uri: str, _over: Deadline) -> bool:
        self.running.pop(uuid, None)
        return False
