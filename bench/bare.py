"""The guest of a job as it is without VmBatch: the same domain, medium, disks and share, by virsh and ssh alone."""

import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from xml.etree import ElementTree

from lab import place
from lab.mom import Mom
from lab.process import run
from vmbatch import journal, sshargs
from vmbatch.hypervisor.domain import Domain
from vmbatch.request import login_command

_LOOK_SECONDS = 0.002
_PATIENCE_SECONDS = 120.0
_SPOOL = Path("/var/lib/vmbatch/spool")


PARTS = ("start", "boot", "login", "ready")


class Bare:
    """Taken from one job of the queue, which has ended: its guest can then be started and destroyed again and again."""

    def __init__(self, mom: Mom, queue: str) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="vmbatch-bench-", dir="/srv/vmbatch"))
        self._directory.chmod(0o755)
        self._disks: list[tuple[Path, str, str]] = []
        job = mom.accept(b"#!/bin/sh\nexit 0\n", queue=queue)
        self._person = job.person
        self._user = job.user
        if mom.finish_prologue(mom.start_prologue(job)) != "run":
            raise RuntimeError(job.errors.decode())
        try:
            known = journal.peek(journal.path_of(job.id))
            if known is None:
                raise RuntimeError("the job has no journal")
            start, resources, _ = known
            self._share = next(place.SHARE.glob(f"{job.file_id}@*.{start.token}"))
            self._mode = (self._share / "guest").stat().st_mode & 0o7777
            self._owner = (self._share / "guest").stat().st_uid
            shutil.copytree(f"{sshargs.HANDOVER}/{job.file_id}", self._directory / "keys")
            os.chown(self._directory / "keys/id_ed25519", job.person.pw_uid, job.person.pw_gid)
            domain = next(owned for owned in resources if isinstance(owned, Domain))
            self._xml = self._directory / "domain.xml"
            self._adapt(ElementTree.fromstring(run(["virsh", "dumpxml", "--inactive", domain.name])))  # noqa: S314 (libvirt's)
            self._alias = (self._directory / "keys/known_hosts").read_text().split()[0]
        finally:
            mom.start_epilogue(job).wait()
            mom.forget(job)

    def _adapt(self, root: ElementTree.Element) -> None:
        """The domain without our mark and filter, and with files of its own."""
        found = root.find("name")
        assert found is not None
        found.text = "bench-bare"
        for above, tag in ((root, "metadata"), *((interface, "target") for interface in root.iter("interface"))):
            for element in above.findall(tag):
                above.remove(element)
        for source in (element for element in root.iter() if element.tag in ("source", "log")):
            for key in ("file", "path"):
                old = Path(source.get(key, "/"))
                if old.is_relative_to(_SPOOL):
                    source.set(key, str(self._own(old)))
        for disk in root.iter("disk"):
            for chain in disk.findall("backingStore"):
                disk.remove(chain)
        self._xml.write_bytes(ElementTree.tostring(root))

    def _own(self, old: Path) -> Path:
        """A copy of a medium; an overlay is made anew for each start, and a console's log by libvirt."""
        new = self._directory / old.name
        with old.open("rb") as opened:
            layered = opened.read(4) == b"QFI\xfb"
        if layered:
            about = json.loads(run(["qemu-img", "info", "-U", "--output=json", old]))
            self._disks.append((new, about["full-backing-filename"], about["backing-filename-format"]))
        elif old.suffix != ".log":
            shutil.copy(old, new)
        return new

    def prepare(self) -> None:
        """What a start needs beforehand: fresh overlays, and the guest's directory on the share."""
        for path, base, form in self._disks:
            path.unlink(missing_ok=True)
            run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", form, "-b", base, path])
        shutil.rmtree(self._share, ignore_errors=True)
        guest = self._share / "guest"
        self._share.mkdir(mode=0o711)
        guest.mkdir()
        os.chown(guest, self._owner, -1)
        guest.chmod(self._mode)

    def start(self) -> dict[str, float]:
        """`virsh create`, then the login on which the guest's ready file waits, by ssh alone; returns at the ready file.

        The seconds of each part, by the name of the prologue's phase that has it.
        """
        moments = [time.monotonic()]
        run(["virsh", "create", self._xml])
        moments.append(time.monotonic())
        address = self._message("announce").split()[-1]
        moments.append(time.monotonic())
        subprocess.run(
            ["setpriv", f"--reuid={self._person.pw_uid}", f"--regid={self._person.pw_gid}", "--clear-groups", "--",
             *sshargs.client(str(self._directory / "keys"), self._alias), "-n", *sshargs.target(self._user, address),
             login_command()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
        moments.append(time.monotonic())
        self._message("ready")
        moments.append(time.monotonic())
        return {name: after - before for name, before, after in zip(PARTS, moments, moments[1:], strict=False)}

    def _message(self, name: str) -> str:
        path, over = self._share / "guest" / name, time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < over:
            try:
                text = path.read_text()
            except FileNotFoundError:
                text = ""
            if text.endswith("\n"):
                return text
            time.sleep(_LOOK_SECONDS)
        raise RuntimeError(f"the bare guest wrote no {name} file")

    def destroy(self) -> None:
        """`virsh destroy`."""
        run(["virsh", "destroy", "bench-bare"])

    def close(self) -> None:
        """Nothing is left."""
        if "bench-bare" in run(["virsh", "list", "--all", "--name"]).split():
            self.destroy()
        shutil.rmtree(self._share, ignore_errors=True)
        shutil.rmtree(self._directory)
