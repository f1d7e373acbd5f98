"""Failures as the user of a job sees them in its stderr: two lines, why and what becomes of the job; then the console, if any."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab.mom import Mom
from lab.process import run

from .conftest import CONFIG, Configure
from .disks import DOMAINS, image, queue, root_disk

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("nothing_left")]

SCRIPT = b"#!/bin/sh\necho ran\n"
BACK = "the job goes back into its queue"
PATIENCE = '[timeouts]\nboot = "30s"'
"""For guests that never get ready."""


def seen(mom: Mom, name: str, verdict: str = "requeue") -> list[str]:
    """The lines that the user reads before those of the console, without what stands before each, and the job's id as ID."""
    ended = mom.run(SCRIPT, queue=name)
    assert (ended.verdict, ended.output) == (verdict, b""), ended.errors.decode()
    lines = ended.errors.decode().splitlines()
    assert all(line.startswith("vmbatch: ") for line in lines)
    plain = [re.sub(r"^job \S+ could", "job ID could", line.removeprefix("vmbatch: ")) for line in lines]
    return plain[: plain.index("the guest's console ended with:")] if "the guest's console ended with:" in plain else plain


@contextmanager
def changed(name: str, old: str, new: str) -> Iterator[str]:
    """A queue whose template is the lab's small one with another text in one place."""
    text = (DOMAINS / "busybox.xml").read_text()
    assert old in text
    before = CONFIG.read_text()
    (DOMAINS / f"{name}.xml").write_text(text.replace(old, new, 1))
    CONFIG.write_text(before.replace("[queues]\n", f'[queues]\n{name} = "{name}.xml"\n'))
    try:
        yield name
    finally:
        CONFIG.write_text(before)
        (DOMAINS / f"{name}.xml").unlink()


def test_an_image_with_another_digest(mom: Mom) -> None:
    wrong = "0" * 64
    right = run(["sha256sum", image()]).split()[0]
    check = f"<vbcheckhash hashfunction='sha256' hashvalue='{wrong}'/>"
    with queue("wrong", root_disk(f"source='{image()}' copy_method='cow'", more=check)) as name:
        assert seen(mom, name) == [
            f"job ID could not start: the image {image()} has the sha256 {right}; the template wants {wrong} "
            "(the image was changed or damaged; if it is the right one, correct <vbcheckhash>)",
            f"{BACK} [VB301]"]


def test_an_image_that_is_not_there(mom: Mom) -> None:
    with queue("none", root_disk("source='/srv/none.raw' copy_method='cow'")) as name:
        assert seen(mom, name) == [
            "job ID could not start: the image /srv/none.raw: No such file or directory "
            "(put it there, or correct <vbdisksource>)",
            f"{BACK} [VB302]"]


def test_a_template_with_a_mistake(mom: Mom) -> None:
    with changed("typo", "<vcpu>", "<vbdisksourse/><vcpu>") as name:
        [first, second] = seen(mom, name)
        assert first.startswith(f"job ID could not start: {DOMAINS}/typo.xml:8: ")
        assert "vbdisksourse" in first
        assert second == f"{BACK} [VB103]"


def test_a_user_who_may_not(mom: Mom, configure: Configure) -> None:
    with configure('[users]\ndeny = ["alice"]'):
        assert seen(mom, "busybox", "abort") == [
            "job ID could not start: jobs of alice do not run in queue busybox (ask the site's admins)",
            "the job is aborted [VB206]"]


def test_a_guest_whose_kernel_dies(mom: Mom) -> None:
    assert seen(mom, "panic") == [
        "job ID could not start: the guest's kernel died before the guest was ready "
        "(phase boot: it has not announced its address on the share): "
        "Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100",
        f"{BACK} [VB705]"]


def test_a_guest_that_is_too_slow(mom: Mom, configure: Configure) -> None:
    with configure('[timeouts]\nboot = "3s"'):
        assert seen(mom, "silent") == [
            "job ID could not start: the guest was not ready within 3 s "
            "(phase boot: it has not announced its address on the share) "
            "(more time: [timeouts] boot, and $prologalarm in mom's config)",
            f"{BACK} [VB704]"]


def test_a_network_that_is_not_there(mom: Mom) -> None:
    with changed("nonet", "network='lab'", "network='none'") as name:
        [first, second] = seen(mom, name)
        assert first.startswith("job ID could not start: libvirt at qemu:///system does not describe the network none: ")
        assert second == f"{BACK} [VB701]"


def test_a_guest_with_an_address_of_another_network(mom: Mom, configure: Configure) -> None:
    with configure(PATIENCE), changed("mute", "<interface type='network'>", "<interface type='network'>"
                                      "<vbnetwork method='static' addresses='10.99.0.5' netmask='255.255.255.0'/>") as name:
        [first, second] = seen(mom, name)
        assert first.startswith("job ID could not start: ")
        assert re.fullmatch(rf"{BACK} \[VB(604|707|704)\]", second)


def test_a_share_that_guests_cannot_mount(mom: Mom, configure: Configure) -> None:
    """The guest has no share to say it by, so its console says it; long before the start's time is over."""
    with configure('[timeouts]\nboot = "10min"'):
        CONFIG.write_text(CONFIG.read_text().replace('source = "10.77.0.1:/share"', 'source = "10.77.0.1:/nowhere"'))
        [first, second] = seen(mom, "busybox")
    assert first.startswith("job ID could not start: the guest could not prepare itself for the job: "
                            "failed while mounting 10.77.0.1:/nowhere/")
    assert second == f"{BACK} [VB707]"


def test_a_share_that_is_not_there(mom: Mom) -> None:
    before = CONFIG.read_text()
    CONFIG.write_text(f'{before}directory = "/srv/nowhere"\n')
    try:
        assert seen(mom, "busybox") == [
            "job ID could not start: the share /srv/nowhere: No such file or directory (mount it, or set [share] directory)",
            f"{BACK} [VB606]"]
    finally:
        CONFIG.write_text(before)


def test_a_node_without_room(mom: Mom, configure: Configure) -> None:
    with configure('[spool]\nkeep_free = "900T"'):
        [first, second] = seen(mom, "copy")
    assert re.fullmatch(r"job ID could not start: the spool /var/lib/vmbatch/spool has \d+ MiB free; "
                        r"the job's disks take \d+ MiB, and 943718400 MiB must remain", first)
    assert second == f"{BACK} [VB401]"


def test_two_mistakes_of_the_configuration(mom: Mom) -> None:
    """More than one: the first line counts them, and they follow."""
    before = CONFIG.read_text()
    CONFIG.write_text(f"{before}\n[spool]\nkeep_fre = 1\njob_limit = true\n")
    try:
        lines = seen(mom, "busybox")
    finally:
        CONFIG.write_text(before)
    assert lines[:2] == [f"job ID could not start: {CONFIG} has 2 mistakes", f"{BACK} [VB101]"]
    assert all(line.startswith(f"{CONFIG}:") for line in lines[2:]) and len(lines) == 4


def test_a_user_whom_the_guest_does_not_let_in(mom: Mom, scripts: Path, configure: Configure) -> None:
    """The image has a login of the same name that is locked out by its shell."""
    lock = scripts / "epilog.d/10-lock"
    lock.write_text("#!/bin/sh\nsed -i 's,^\\(alice:.*:\\)[^:]*$,\\1/bin/false,' /etc/passwd\n")
    lock.chmod(0o755)
    with configure('[timeouts]\nboot = "40s"\n'):
        [first, second] = seen(mom, "busybox")
    assert re.fullmatch(r"job ID could not start: the guest was not ready within 40 s "
                        r"\(phase login: alice cannot log in at \S+: .*\) "
                        r"\(more time: \[timeouts\] boot, and \$prologalarm in mom's config\)", first)
    assert second == f"{BACK} [VB704]"
