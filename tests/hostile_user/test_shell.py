"""By variables, and by remoteshell itself, which anybody can call as he likes."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from lab import place
from lab.process import run
from tests.torque.pool import Worker
from tests.torque.stage import Stage
from vmbatch.host.process import ENVIRONMENT

from .scene import FOOTPRINT, HOMES, as_user, own, prepare, started

pytestmark = pytest.mark.torque
SHELL = f"{place.MOM}/mom_priv/remoteshell"
TRAP = f"#!/bin/sh\ntouch {FOOTPRINT}\n".encode()
VARIABLES = {
    "the loader": {"LD_PRELOAD": "/home/alice/trap.so", "LD_LIBRARY_PATH": "/home/alice", "LD_AUDIT": "/home/alice/trap.so",
                   "GCONV_PATH": "/home/alice", "GLIBC_TUNABLES": "glibc.malloc.check=3"},
    "Python": {"PYTHONPATH": "/home/alice", "PYTHONHOME": "/home/alice", "PYTHONSTARTUP": "/home/alice/trap.py",
               "PYTHONINSPECT": "1", "PYTHONBREAKPOINT": "trap.main", "PYTHONWARNINGS": "error::trap.W"},
    "programs": {"PATH": "/home/alice", "SHELL": "/home/alice/trap", "SSH_ASKPASS": "/home/alice/trap",
                 "EDITOR": "/home/alice/trap", "SSH_AUTH_SOCK": "/home/alice/agent", "DISPLAY": ":0"},
    "shells' startup": {"BASH_ENV": "/home/alice/trap", "ENV": "/home/alice/trap", "IFS": "/", "PS4": f"$(touch {FOOTPRINT})",
                        "PROMPT_COMMAND": f"touch {FOOTPRINT}", "BASH_FUNC_ls%%": f"() {{ touch {FOOTPRINT}; }}"},
    "the job's identity": {"PBS_JOBID": "1.lab", "PBS_QUEUE": "native", "PBS_TASKNUM": "2", "PBS_ENVIRONMENT": "PBS_INTERACTIVE",
                           "VMBATCH_JOB_PBS_QUEUE": "native", "USER": "root", "LOGNAME": "root", "HOME": "/root"},
    "places": {"TMPDIR": "/root", "PBS_NODEFILE": "/etc/shadow", "PBS_O_WORKDIR": "/root", "OLDPWD": "/root",
               "PBS_JOBDIR": "/root"},
    "names that are none": {"a b": "x", "a\nb": "x", "a;touch": FOOTPRINT.as_posix(), "$(touch x)": "x", "": "x"},
    "values": {"A": f"'; touch {FOOTPRINT}; '", "B": f"$(touch {FOOTPRINT})", "C": "x\nrun\ncommand touch", "D": "\\0047" * 100},
}


def variables(stage: Stage, what: str) -> None:
    """Harmless: the job runs in its guest, and none of them works on the node."""
    prepare(stage)
    for name in ("trap", "trap.py", "trap.so", "ssh", "setpriv", "python3", "sitecustomize.py", "encodings.py"):
        own(Path("/home/alice", name), TRAP, HOMES["alice"], 0o755)
    with started(stage, variables=VARIABLES[what]) as job:
        assert stage.house.start_shell(job, way="starter").wait(60) == 0, job.errors.decode()
        assert re.fullmatch(rb"in guest [0-9a-f]{32}\n", job.output), job.output
        assert job.errors == b""


@pytest.mark.parametrize("what", VARIABLES)
def test_variables(nest: Worker, what: str) -> None:
    nest.play(variables, what=what)


def called(uid: int, **environ: str) -> tuple[int, str]:
    """remoteshell called by a user, not by mom's process that ran the prologue, which is this one."""
    words = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "sh", "-c", f"{SHELL} /bin/sh; exit $?"]
    done = subprocess.run(words, check=False, env={"PATH": "/usr/bin:/bin", **environ}, input=f"touch {FOOTPRINT}\n".encode(),
                          capture_output=True, cwd="/")
    assert done.stdout == b""
    return done.returncode, done.stderr.decode()


def anothers_guest(stage: Stage) -> None:
    prepare(stage)
    with started(stage) as job:
        assert called(HOMES["bob"], PBS_QUEUE="crash", PBS_JOBID=job.id) == (
            255, f"vmbatch: the job does not run: the guest of job {job.id} belongs to another user [VB801]\n")


def test_anothers_guest(nest: Worker) -> None:
    nest.play(anothers_guest)


def ones_own_guest_from_elsewhere(stage: Stage) -> None:
    """Not even the job's user gets in before, or beside, the job's own shell."""
    prepare(stage)
    with started(stage) as job:
        assert called(HOMES["alice"], PBS_QUEUE="crash", PBS_JOBID=job.id) == (
            255, "vmbatch: the job does not run: the guest was made for another start of this job, "
                 "and only that start's shell may use it [VB801]\n")


def test_ones_own_guest_from_elsewhere(nest: Worker) -> None:
    nest.play(ones_own_guest_from_elsewhere)


def a_hand_over_of_ones_own(stage: Stage, job_id: str) -> None:
    """A record that its user has written himself is never looked at."""
    prepare(stage)
    fake = Path("/home/alice/1.lab")
    fake.mkdir()
    own(fake / "record", b"vmbatch hand-over 1\n", HOMES["alice"], 0o644)
    status, said = called(HOMES["alice"], PBS_QUEUE="crash", PBS_JOBID=job_id)
    why = ("has no guest: its prologue has not handed one over "
           "(admin: is VmBatch's prologue in mom_priv, and did it end by itself?)")
    assert (status, said) == (255, f"vmbatch: the job does not run: job {job_id} of queue crash {why} [VB801]\n")
    assert not FOOTPRINT.exists()


@pytest.mark.parametrize("job_id", ["../../../home/alice/1.lab", "/home/alice/1.lab", "[../]1", "..", ".", "1.lab/", "x" * 5000])
def test_a_hand_over_of_ones_own(nest: Worker, job_id: str) -> None:
    nest.play(a_hand_over_of_ones_own, job_id=job_id)


def a_changed_script(stage: Stage) -> None:
    """The file is the user's: what is written there after the start is not run, neither here nor in the guest."""
    prepare(stage)
    with started(stage) as job:
        assert as_user(HOMES["alice"], lambda: [str(job.script.write_bytes(TRAP))]) == [str(len(TRAP))]
        assert stage.house.start_shell(job, way="starter").wait(60) == 255
        assert job.errors.decode() == ("vmbatch: the job does not run: the guest was made for an earlier start of this job: "
                                       "the prologue of this start did not end by itself [VB801]\n")


def test_a_changed_script(nest: Worker) -> None:
    nest.play(a_changed_script)


def the_environment_of_the_hooks(stage: Stage) -> None:
    """The site's own has all of mom's; what root starts for the job has none of it."""
    prepare(stage)
    seen, helpers = FOOTPRINT.with_name("seen"), FOOTPRINT.with_name("helpers")
    helpers.mkdir(exist_ok=True)
    stage.hook("prologue.site", f"#!/bin/sh\nenv > {seen}\n")
    fake = FOOTPRINT.with_name("ssh-keygen")
    fake.write_text(f"#!/bin/sh\nenv > {helpers}/$$\nexec {fake}.real \"$@\"\n")
    fake.chmod(0o755)
    shutil.copy2("/usr/bin/ssh-keygen", f"{fake}.real")
    run(["mount", "--bind", fake, "/usr/bin/ssh-keygen"])
    try:
        with started(stage) as job:
            expected = {f"{name}={value}" for name, value in stage.house.environment(job).items()}
            assert expected <= set(seen.read_text().splitlines())
    finally:
        run(["umount", "/usr/bin/ssh-keygen"])
    assert {frozenset(path.read_text().splitlines()) for path in helpers.iterdir()} == {
        frozenset((*(f"{name}={value}" for name, value in ENVIRONMENT.items()), "PWD=/"))}


def test_the_environment_of_the_hooks(nest: Worker) -> None:
    nest.play(the_environment_of_the_hooks)
