"""What a template and a site bring into a real guest: archives, scripts, and a share that is elsewhere."""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.mom import Mom

from .conftest import CONFIG, Configure

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("nothing_left")]

DOMAINS = Path("/etc/vmbatch/domains")


@pytest.fixture
def archive() -> Iterator[Path]:
    path = DOMAINS / "site.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, data in (("top/context.sh", b"# CernVM's\n"), ("top/sub/a file", bytes(range(256)))):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    yield path
    path.unlink()


@pytest.fixture
def queue(configure: Configure) -> Iterator[str]:
    """A queue whose template has archives both ways."""
    template = DOMAINS / "archives.xml"
    template.write_text((DOMAINS / "busybox.xml").read_text().replace("</vbconfig>", """
      <vbtarfiles>
        <vbtarfile tarfile='site.tar.gz' path='.' strip='1' option='cdrom'/>
        <vbtarfile tarfile='site.tar.gz' path='/opt/site' strip='1'/>
      </vbtarfiles>
      <vbjobpath>/var/spool/torque/mom_priv/jobs</vbjobpath>
    </vbconfig>"""))
    before = CONFIG.read_text()
    CONFIG.write_text(before.replace("[queues]\n", '[queues]\narchives = "archives.xml"\n'))
    yield "archives"
    CONFIG.write_text(before)
    template.unlink()


def test_archives_both_ways(mom: Mom, archive: Path, queue: str) -> None:
    script = b"#!/bin/sh\nmd5sum < '/opt/site/sub/a file'; md5sum < '/var/lib/vmbatch/medium/sub/a file'\n" \
             b"cat /opt/site/context.sh /var/lib/vmbatch/medium/context.sh\n"
    ended = mom.run(script, queue=queue)
    digest = "e2c865db4162bed963bfaa9ef6ac18f0  -"
    assert ended.output.decode().splitlines() == [digest, digest, "# CernVM's", "# CernVM's"], ended.errors.decode()


def test_an_archive_that_would_replace_the_kit_is_refused(mom: Mom, archive: Path, queue: str) -> None:
    with tarfile.open(archive, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("top/kit/job.sh"))
    ended = mom.run(b"#!/bin/sh\n", queue=queue)
    assert ended.verdict == "requeue"
    assert "which on the medium would take the place of VmBatch's kit/job.sh" in ended.errors.decode()


def test_the_sites_scripts_run_in_the_guest(mom: Mom, scripts: Path) -> None:
    (scripts / "prolog.d/10-first").write_text("echo \"early $VMBATCH_USER\" > /run/site\n")
    (scripts / "epilog.d/20-second").write_text("#!/bin/sh\necho \"late $(id -u)\" >> /run/site\n")
    ended = mom.run(b"#!/bin/sh\ncat /run/site\n")
    assert ended.output == b"early alice\nlate 0\n", ended.errors.decode()


@pytest.mark.parametrize("stage", ["prolog.d", "epilog.d"])
def test_a_script_that_fails_is_named(mom: Mom, scripts: Path, stage: str) -> None:
    (scripts / stage / "10-bad").write_text("echo 'no licence server' >&2\nexit 7\n")
    ended = mom.run(b"#!/bin/sh\n")
    assert ended.verdict == "requeue"
    said = ended.errors.decode()
    assert "the guest could not prepare itself for the job" in said
    assert f"site/{stage}/10-bad: no licence server" in said


def test_a_share_whose_server_is_elsewhere_is_polled(mom: Mom) -> None:
    before = CONFIG.read_text()
    CONFIG.write_text(before.replace("[share]\n", "[share]\nlocal = false\n"))
    try:
        ended = mom.run(b"#!/bin/sh\necho ran\n")
    finally:
        CONFIG.write_text(before)
    assert ended.output == b"ran\n", ended.errors.decode()
