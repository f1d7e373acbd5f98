"""Asking Torque's server about a job: by a program of its own, within its time, and only if the site wants it."""

from pathlib import Path

import pytest

from tests.pure.sample import job, settings
from vmbatch.batch.server import ask
from vmbatch.batch.system import Call
from vmbatch.errors import DeadlineError, JobError, NodeError, SiteError
from vmbatch.job import Job

CALL = Call(["prologue"], {"PBS_NUM_PPN": "1", "PBS_NP": "2"}, "/")
ANSWER = ("<Data><Job><Job_Id>42.vm</Job_Id><Resource_List><mem>512mb</mem><other>vbmemory=8G</other></Resource_List>"
          "<Variable_List>{}</Variable_List></Job></Data>")
KNOWN = job(node_file=None, wishes={"vbfake": "1"}, memory=1 << 40)


def asked(tmp_path: Path, script: str, patience: float = 30.0) -> Job:
    qstat = tmp_path / "qstat"
    qstat.write_text(f"#!/bin/sh\n{script}\n")
    qstat.chmod(0o755)
    return ask(CALL, KNOWN, settings(requests_qstat=str(qstat), requests_patience=patience))


def test_only_if_the_site_wants_it() -> None:
    assert ask(CALL, KNOWN, settings()) is KNOWN


def test_the_server_knows_better(tmp_path: Path) -> None:
    """What the resource list seemed to say counts no more; a slot of two is here."""
    check = "[ \"$*\" = '-x 42.vm' ] || exit 9\necho warning >&2"
    found = asked(tmp_path, f"{check}\ncat <<'END'\n{ANSWER.format('A=1,VB_KEEP=1h')}\nEND")
    assert (found.memory, found.wishes) == (256 << 20, {"vbmemory": "8G", "vbkeep": "1h"})


def test_asked_for_in_both_ways(tmp_path: Path) -> None:
    same = asked(tmp_path, f"cat <<'END'\n{ANSWER.format('VB_MEMORY=8G')}\nEND")
    assert same.wishes == {"vbmemory": "8G"}
    with pytest.raises(JobError, match="vbmemory is asked for twice: by -l other= and by -v"):
        asked(tmp_path, f"cat <<'END'\n{ANSWER.format('VB_MEMORY=9G')}\nEND")


def test_no_right_to_ask(tmp_path: Path) -> None:
    with pytest.raises(SiteError) as caught:
        asked(tmp_path, "echo 'qstat: Unauthorized Request  42.vm' >&2; exit 159")
    assert caught.value.lines() == ["the batch system's server tells this node nothing about its jobs (qmgr -c 'set server "
                                    "query_other_jobs = True', or leave [requests] qstat empty)"]


def test_other_failures(tmp_path: Path) -> None:
    with pytest.raises(NodeError, match="failed with exit status 153: qstat: Unknown Job Id"):
        asked(tmp_path, "echo 'qstat: Unknown Job Id 42.vm' >&2; exit 153")
    with pytest.raises(NodeError, match="cannot be understood"):
        asked(tmp_path, "echo '<Data>'")
    with pytest.raises(NodeError, match=r"asked about job 42\.vm, the server tells about job '43.vm'"):
        asked(tmp_path, f"cat <<'END'\n{ANSWER.replace('42', '43')}\nEND")
    with pytest.raises(DeadlineError, match="qstat did not end in time"):
        asked(tmp_path, "exec sleep 60", 0.3)
    with pytest.raises(SiteError, match="none: No such file or directory"):
        ask(CALL, KNOWN, settings(requests_qstat=str(tmp_path / "none")))


def test_a_program_that_others_can_change(tmp_path: Path) -> None:
    (tmp_path / "qstat").touch()
    tmp_path.chmod(0o777)
    with pytest.raises(SiteError, match=rf"^{tmp_path} can be changed by others than root"):
        asked(tmp_path, "exit 0")


@pytest.mark.error("VB210")
def test_more_variables_than_can_be_read(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="the job has more variables than its prologue can read"):
        asked(tmp_path, f"cat <<'END'\n{ANSWER.format('A=' + 'x' * 100_000)}\nEND")
