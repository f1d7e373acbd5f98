"""What jobs ask for, in real guests: cores and memory, a template, files before and after the job, disks after a failure."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import leftover
from lab.mom import Ended, Job, Mom

from .conftest import CONFIG
from .disks import DOMAINS

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("nothing_left")]

VMBATCH = "/srv/vmbatch/venv/bin/vmbatch"
SIZE = b"#!/bin/sh\ngrep -c ^processor /proc/cpuinfo; grep MemTotal /proc/meminfo\n"
TAGS = """<vbresources cores='job' maxcores='2' memory='job' minmemory='192M' maxmemory='400M' overhead='16M'/>
    <vbrequests>
      <vbrequest name='vbmemory' max='300M'/>
      <vbrequest name='vbkeep' max='2h'/>
      <vbrequest name='vbstagein' max='1M'/>
      <vbrequest name='vbstageout' max='1M'/>
    </vbrequests>
  </vbconfig>"""


@pytest.fixture
def queue() -> Iterator[str]:
    """A queue of two templates: one that follows the job, and the lab's small one."""
    template = DOMAINS / "asking.xml"
    template.write_text((DOMAINS / "disk.xml").read_text().replace("</vbconfig>", TAGS))
    before = CONFIG.read_text()
    CONFIG.write_text(before.replace("[queues]\n", '[queues]\nasking = ["asking.xml", "busybox.xml"]\n')
                      + "\n[requests]\nkeep = 1\n")
    try:
        yield "asking"
    finally:
        CONFIG.write_text(before)
        template.unlink()


def asking(mom: Mom, queue: str, script: bytes, other: str = "", memory: str = "", slots: int = 1) -> Job:
    job = mom.accept(script, queue=queue, other=other)
    if memory:
        job.resources = f"nodes=1:ppn=1,mem={memory}" + job.resources.removeprefix("nodes=1:ppn=1")
    (mom.home / "aux" / job.id).write_text("node1\n" * slots)
    return job


def seen(ended: Ended) -> tuple[int, int]:
    """(cores, MiB) that the guest saw; its kernel takes some for itself."""
    assert (ended.verdict, ended.status) == ("run", 0), ended.errors.decode()
    cores, memory = re.findall(r"\d+", ended.output.decode())
    return int(cores), int(memory) >> 10


def test_cores_and_memory_of_the_job(mom: Mom, queue: str) -> None:
    cores, memory = seen(mom.play(asking(mom, queue, SIZE, other="vbkeep=1h", memory="336mb", slots=2)))
    assert cores == 2
    assert (kept(), leftover.found()) == ("", []), "of a job that ended well"
    assert 250 < memory < 320, "336 MiB, less 16 for the hypervisor, less the kernel's"


def test_a_wish_and_the_templates_own(mom: Mom, queue: str) -> None:
    cores, memory = seen(mom.play(asking(mom, queue, SIZE, other="vbmemory=256M")))
    assert (cores, 190 < memory < 256) == (1, True)
    ended = mom.play(asking(mom, queue, b"#!/bin/sh\ngrep -c root= /proc/cmdline\n", other="vbtemplate=busybox"))
    assert (ended.status, ended.output) == (1, b"0\n"), ended.errors
    refused = mom.play(asking(mom, queue, SIZE, other="vbtemplate=debian"))
    assert refused.verdict == "abort"
    assert ("could not start: vbtemplate=debian: queue asking has no such template (it has asking, busybox)"
            in refused.errors.decode())
    refused = mom.play(asking(mom, queue, SIZE, memory="1gb"))
    assert "the job has 1G of memory on this node, and guests of this template have 400M at most" in refused.errors.decode()


@pytest.fixture
def files() -> Iterator[Path]:
    """A directory in alice's home on the node."""
    home = Path("/home/alice")
    made = home / "run"
    subprocess.run(["setpriv", "--reuid=1500", "--regid=1500", "--clear-groups", "/bin/sh", "-c",
                    "mkdir -p /home/alice/run/in && cd /home/alice/run && echo one >in/first && printf '#!/bin/sh\\necho two\\n' "
                    ">second && chmod 755 second && ln -s first in/link && ln -s /etc leads"], check=True)
    yield made
    subprocess.run(["rm", "-r", str(made)], check=True)


STAGED = b"""#!/bin/sh
cd "$PBS_O_WORKDIR" && pwd && cat in/first in/link && ./second
mkdir -p out/deep && echo result >out/deep/file && chmod 4755 out/deep/file
ln -s deep/file out/link && ln -s /etc/passwd out/bad
mkfifo out/pipe
"""


def test_files_before_and_after(mom: Mom, queue: str, files: Path) -> None:
    os.chown(files / "second", 1500, 1500)
    job = asking(mom, queue, STAGED, other="vbstagein=in:second;vbstageout=out:none")
    job.variables["PBS_O_WORKDIR"] = str(files)
    ended = mom.play(job)
    said = ended.errors.decode()
    assert ended.output == b"/home/alice/run\none\none\ntwo\n", said
    assert (ended.verdict, ended.status) == ("run", 74)
    made = files / "out/deep/file"
    assert (made.read_text(), made.stat().st_mode & 0o7777, made.stat().st_uid) == ("result\n", 0o700, 1500)
    assert os.readlink(files / "out/link") == "deep/file"
    assert sorted(path.name for path in (files / "out").iterdir()) == ["deep", "link"]
    first, *left_out, last = said.splitlines()
    assert first == "vmbatch: none is not in the guest, in /home/alice/run", said
    assert sorted(left_out) == [  # in the order in which the guest's file system has them
        "vmbatch: vbstageout: ./out/bad: a link that leads elsewhere",
        "vmbatch: vbstageout: ./out/pipe: only files, directories and links are fetched",
    ], said
    assert last == "vmbatch: not all results have come back: vbstageout: 2 of the guest's files were left out [VB804]", said


def kept() -> str:
    return subprocess.run([VMBATCH, "kept"], capture_output=True, text=True, check=True).stdout


def released(job: Job) -> str:
    return subprocess.run([VMBATCH, "sweep", "--release", job.id], capture_output=True, text=True, check=True).stdout


def test_the_disks_of_a_failed_job_are_kept(mom: Mom, queue: str) -> None:
    script = b"#!/bin/sh\necho evidence >~/left; sync; exit 7\n"
    ended = mom.play(asking(mom, queue, script, other="vbkeep=90min"))
    assert (ended.status, ended.epilogue) == (7, 0)
    assert re.search(r"the guest's disks and console are kept until .*; ask the admins for /var/lib/vmbatch/spool/",
                     ended.errors.decode()), ended.errors
    match = re.fullmatch(rf"{ended.job.id} of alice until .* in (\S+): it ended with status 7\n  disk vda from /\S+: \S.*\n",
                         kept())
    assert match
    spool = Path(match[1])
    assert {path.name for path in spool.iterdir()} >= {"vda.qcow2", "console.log", "domain.xml"}
    assert not (spool / "keys").exists()
    assert not Path("/run/vmbatch/handover", ended.job.file_id).exists()
    assert subprocess.run(["virsh", "-c", "qemu:///system", "list", "--all", "--name"], capture_output=True, text=True,
                          check=True).stdout.strip() == ""
    again = mom.play(mom.accept(b"#!/bin/sh\nexit 8\n", queue=queue, job_id=ended.job.id, other="vbkeep=1h"))
    assert again.status == 8
    assert "vbkeep: nothing is kept: 1 other jobs' disks are kept on this node, and no more may be" in again.errors.decode()
    assert spool.exists()
    assert subprocess.run([VMBATCH, "sweep"], capture_output=True, text=True, check=True).stdout == ""
    assert released(ended.job) == f"released what was kept of job {ended.job.id} of alice\n"
    assert (kept(), spool.exists()) == ("", False)
    assert "nothing is kept of job" in released(ended.job)


def test_a_start_that_failed_is_kept_until_its_time(mom: Mom, queue: str) -> None:
    (DOMAINS / "asking.xml").write_text((DOMAINS / "poweroff.xml").read_text().replace("</vbconfig>", TAGS))
    ended = mom.play(asking(mom, queue, SIZE, other="vbkeep=1500ms"))
    assert ended.verdict == "requeue"
    assert "are kept until" in ended.errors.decode(), ended.errors
    assert ": it could not start: the guest " in kept()
    subprocess.run(["sleep", "1.6"], check=True)
    assert "dead, and kept until now" in subprocess.run([VMBATCH, "sweep"], capture_output=True, text=True, check=True).stdout
