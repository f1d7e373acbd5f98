"""Starts and resources to write into journals."""

import msgspec

from vmbatch.host import clock
from vmbatch.hypervisor.domain import Domain
from vmbatch.job import Script
from vmbatch.record import HandedOver, Start
from vmbatch.resource import Resource
from vmbatch.spool.directory import Directory
from vmbatch.units import Deadline

from .tokens import new_token

TOKEN = new_token()
ME = clock.this_process()
START = Start("42[1].vm", TOKEN, "alice", "vm", Script("/jobs/42-1.vm.SC", 1, 2, 3), ME, 1.5)
RESOURCES: list[Resource] = [
    Directory(f"/spool/42-1.vm.{TOKEN}", TOKEN, 0o711),
    Directory("/run/vmbatch/handover/42-1.vm", TOKEN, 0o711),
    Domain("test:///default", "vmbatch-42", "01234567-89ab-4def-8123-456789abcdef", TOKEN, "/spool/x/domain.xml"),
]
LINES = [msgspec.json.encode(record) + b"\n" for record in (START, *RESOURCES, HandedOver(2.5))]


class Probe(Resource, frozen=True, tag="probe"):
    """Keeps a list of what was done with it."""

    name: str
    log: list[str]
    fails: bool = False

    def acquire(self) -> None:
        self.log.append(f"acquire {self.name}")

    def release(self, deadline: Deadline, *, last: bool) -> None:
        self.log.append(f"release {self.name}" + (" last" if last else ""))
        if self.fails:
            raise OSError(self.name)
