"""A job in two guests: what it finds there, and how it starts programs in the other one."""

import re
from collections.abc import Callable

import pytest

from .conftest import Pair

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("nothing_left")]

SCRIPT = b"""#!/bin/bash
echo "file: $(echo $(cat "$PBS_NODEFILE"))"
echo "variables: $PBS_NODENUM $PBS_NUM_NODES $PBS_NUM_PPN $PBS_NP"
other=$(getent hosts "$(tail -n 1 "$PBS_NODEFILE")" | cut -d ' ' -f 1)
echo "by address, and back: $(ssh "$other" "hostname; id -un; ssh $(hostname) hostname" | paste -s -d ' ')"
echo "own name: $(getent ahostsv4 "$(hostname)" | cut -d ' ' -f 1 | sort -u)"
echo "known: $(ls -A ~/.ssh)"
cd /tmp
pbsdsh -u sh -c 'echo "slot: $PBS_VNODENUM $PBS_JOBNAME $(pwd) $(hostname) $1"; exit $PBS_VNODENUM' "$0" 'a "b" $c' | sort
echo "status: ${PIPESTATUS[0]}"
mpiexec.hydra sh -c 'echo "rank: $PMI_RANK of $PMI_SIZE $(hostname)"' | sort
"""


def test_two_guests_that_find_each_other(pair: Callable[..., Pair]) -> None:
    job = pair(SCRIPT, queue="debian")
    try:
        assert job.start() == "run", job.errors
        number = job.first.id.partition(".")[0]
        one, two = f"vm-{number}", f"vm-{number}-n1"
        assert job.mom.start_shell(job.first).wait() == 0
        task = job.other.run_task(job.sister, ["/bin/sh", "-c", 'echo "$(hostname) $PBS_NODENUM $1"; exit 5', "x", "it's $mine"])
        assert (task.stdout.decode(), task.stderr, task.returncode) == (f"{two} 1 it's $mine\n", b"", 5)
        task = job.mom.run_task(job.first, ["/bin/hostname"], 2)
        assert (task.stdout.decode(), task.returncode) == (f"{one}\n", 0)
    finally:
        ends = job.end()
    assert ends == [0, 0]
    said = job.first.output.decode()
    address = re.search(r"^own name: (10\.77\.0\.[0-9]+)$", said, re.MULTILINE)
    assert address is not None, said
    assert said.splitlines() == [
        f"file: {one} {one} {two} {two}",
        "variables: 0 2 2 4",
        f"by address, and back: {two} alice {one}",
        f"own name: {address[1]}",
        "known: authorized_keys",
        *(f'slot: {slot} pair /tmp {host} a "b" $c' for slot, host in ((0, one), (2, two))),
        "status: 2",
        *(f"rank: {rank} of 4 {host}" for rank, host in enumerate((one, one, two, two))),
    ]
    assert job.errors == ""
