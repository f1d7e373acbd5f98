"""A native queue's jobs, and a site's own hooks, as they are without VmBatch: compared, to the byte."""

import difflib
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab.mom import Job, Mom
from lab.openpbs import Mom as PbsMom

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("nothing_left", "as_mom")]

LOOK = """
echo "called $0"; for word; do printf '[%s]' "$word"; done; echo
env | sort; pwd; umask; ulimit -a
grep -E '^(Uid|Gid|Groups|SigQ|SigBlk|SigIgn|SigCgt|Cap.*|NoNewPrivs|Seccomp):' /proc/self/status
cat /proc/$$/oom_score_adj
for fd in /proc/$$/fd/*; do echo "$fd $(readlink "$fd")"; done
ls -A /var/lib/vmbatch/spool /run/vmbatch/handover 2>/dev/null | grep -c lab
cat
echo complains >&2
"""
SITE = f"#!/bin/sh\n{LOOK}\nexit ${{SITE_STATUS:-0}}\n"
NAMES = ("prologue.site", "epilogue.site")
NATIVE = "batch"


@pytest.fixture
def as_mom() -> Iterator[None]:
    """pbs_mom ignores SIGPIPE alone; Python ignores SIGXFSZ, too, and its children would inherit that."""
    before = signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGXFSZ, before)


def install(directory: Path, text: str = SITE) -> None:
    for name in NAMES:
        (directory / name).write_text(text)
        (directory / name).chmod(0o755)


@pytest.fixture
def sites(mom: Mom) -> Iterator[Path]:
    directory = mom.home / "mom_priv"
    install(directory)
    yield directory
    for name in NAMES:
        (directory / name).unlink()


def same(text: bytes) -> list[str]:
    """What may differ between two runs: process ids, the numbers of pipes, how many signals are pending, and whether signals 32
    and 33 are ignored, which glibc's posix_spawn() sets as it likes.
    """
    found = text.decode()
    for pattern, word in ((r"/proc/\d+/", "/proc/PID/"), (r"pipe:\[\d+\]", "PIPE"), (r"SigQ:\t\d+/", "SigQ:\tN/"),
                          (r"(SigIgn:\t0{7})[01]([08])", r"\1..")):
        found = re.sub(pattern, word, found)
    return found.splitlines()


def differences(one: list[str], other: list[str]) -> list[str]:
    return [line for line in difflib.unified_diff(one, other, "with", "without", n=0, lineterm="") if not line.startswith("@@")]


def twice(job: Job, *starts: Callable[[], "subprocess.Popen[bytes]"]) -> list[tuple[int, list[str], list[str]]]:
    """(status, output, errors) of one start after the other, each with the job's files empty."""
    found = []
    for start in starts:
        for path in (job.files / "spool" / f"{job.id}.OU", job.files / "spool" / f"{job.id}.ER"):
            os.truncate(path, 0)
        status = start().wait()
        found.append((status, same(job.output), same(job.errors)))
    return found


@pytest.mark.parametrize("status", [0, 1, 2, 77])
def test_a_native_prologue_and_epilogue(mom: Mom, sites: Path, status: int) -> None:
    install(sites, SITE.replace("${SITE_STATUS:-0}", str(status)))
    job = mom.accept(b"", queue=NATIVE, name="n;$(id)`x`", account="a'b\"c")
    with_us, without = twice(job, lambda: mom.start_prologue(job), lambda: mom.start_prologue(job, "prologue.site"))
    assert with_us == without
    assert with_us[0] == status
    assert any("PIPE" in line for line in with_us[1]), "mom's own descriptors are passed on, too"
    with_us, without = twice(job, lambda: mom.start_epilogue(job, 7), lambda: mom.start_epilogue(job, 7, "epilogue.site"))
    assert with_us == without
    mom.forget(job)


def test_a_native_hook_that_dies(mom: Mom, sites: Path) -> None:
    """Mom sees the signal itself: for Torque that is a success, with us as without us."""
    install(sites, "#!/bin/sh\nkill -9 $$\n")
    job = mom.accept(b"", queue=NATIVE)
    with_us, without = twice(job, lambda: mom.start_prologue(job), lambda: mom.start_prologue(job, "prologue.site"))
    assert with_us == without == (-9, [], [])
    mom.forget(job)


@pytest.mark.parametrize("words", ["", "a 'b c'"])
def test_a_native_jobs_shell(mom: Mom, words: str) -> None:
    """Through remoteshell as `$job_starter`, and as mom starts it where there is none: a login shell."""
    look = f"#!/bin/bash\n{LOOK}\ncat /proc/$PPID/cmdline | tr '\\0' ' '; shopt -p login_shell\nexit 9\n"
    job = mom.accept(look.encode(), queue=NATIVE, variables={"MINE": "a\nb", "PYTHONPATH": "/x", "LD_BIND_NOW": "1"})
    with_us, without = twice(job, lambda: mom.start_shell(job, way="starter", arguments=words),
                             lambda: mom.start_shell(job, way="plain", arguments=words))
    assert differences(with_us[1], without[1]) == []
    assert (with_us[0], with_us[2]) == (without[0], without[2]) == (9, ["complains"])
    assert any(line.startswith("-bash ") for line in with_us[1])
    mom.forget(job)


@pytest.mark.parametrize("way", ["shell", "starter"])
def test_no_variable_makes_a_job_native(mom: Mom, way: str) -> None:
    """Whatever names the user's variables have: only mom's own PBS_QUEUE counts, and without a guest nothing runs."""
    forged = {f"{prefix}{name}": value for prefix in ("VMBATCH_JOB_", "job:") for name, value in (
        ("PBS_QUEUE", NATIVE), ("PBS_JOBID", "1.lab"), ("PBS_TASKNUM", "2"))}
    job = mom.accept(b"#!/bin/sh\necho ran on $(hostname)\n", variables=forged)
    assert mom.start_shell(job, way=way).wait() == 255
    assert (job.output, f"job {job.id} of queue busybox has no guest" in job.errors.decode()) == (b"", True)
    mom.forget(job)


def test_a_native_tasks_words(mom: Mom) -> None:
    """A task of TM's is executed as it is."""
    job = mom.accept(b"", queue=NATIVE)
    environ = {"PBS_JOBID": job.id, "PBS_QUEUE": NATIVE, "PBS_TASKNUM": "2", "PATH": "/usr/bin:/bin"}
    shell = str(mom.home / "mom_priv/remoteshell")
    for words in (["printf", "%s|", "a b", ""], ["/usr/bin/env"]):
        runs = [subprocess.run([*before, *words], env=environ, capture_output=True, check=False) for before in ([shell], [])]
        assert (runs[0].returncode, runs[0].stdout, runs[0].stderr) == (runs[1].returncode, runs[1].stdout, runs[1].stderr)
    mom.forget(job)


def test_the_sites_hooks_around_ours(mom: Mom, sites: Path) -> None:
    """The site's prologue comes first, its epilogue last, when nothing of the job's is there; what mom gives them is what they
    get, but for mom's own descriptors.
    """
    job = mom.accept(b"")
    direct = twice(job, lambda: mom.start_prologue(job, "prologue.site"), lambda: mom.start_epilogue(job, 3, "epilogue.site"))
    chained = twice(job, lambda: mom.start_prologue(job), lambda: mom.start_epilogue(job, 3))
    for with_us, without in zip(chained, direct, strict=True):
        ours, theirs = ([line for line in found[1] if not re.search(r"/fd/\d+ PIPE$", line)] for found in (with_us, without))
        assert differences(ours, theirs) == []
        assert (with_us[0], with_us[2]) == (0, without[2])
    log = Path(f"/var/log/vmbatch/{job.file_id}.log").read_text()
    assert log.index("phase site hook") < log.index("phase images")
    mom.forget(job)


@pytest.mark.parametrize("status", [1, 2, 99])
def test_the_sites_prologue_refuses(mom: Mom, sites: Path, status: int) -> None:
    install(sites, f"#!/bin/sh\necho no >&2; exit {status}\n")
    job = mom.accept(b"")
    assert mom.start_prologue(job).wait() == status
    assert job.errors == b"no\n"
    assert mom.start_epilogue(job).wait() == status
    mom.forget(job)


@pytest.fixture
def pbs() -> Iterator[PbsMom]:
    made = PbsMom(events=("execjob_begin", "execjob_launch", "execjob_end"))
    (made.home / "mom_priv/config").write_text("$prologalarm 120\n")
    install(made.home / "mom_priv")
    yield made
    for name in NAMES:
        (made.home / "mom_priv" / name).unlink()


def test_openpbs_classic_scripts(pbs: PbsMom) -> None:
    """A native job's site scripts, run by our scripts and run by mom; and so for a job of ours."""
    for queue in (NATIVE, "busybox"):
        job = pbs.accept(queue=queue)
        assert pbs.run_hook(job, "execjob_begin").verdict == "accept"
        found = []
        for suffix in (".site", ""):
            for path in job.files:
                os.truncate(path, 0)
            words = [job.id, job.user, job.group]
            status = pbs.finish_classic(pbs.start_classic(job, f"prologue{suffix}", words))
            more = [job.name, "4711", "ncpus=1", "walltime=1", queue, "null", "0"]
            ended = pbs.finish_classic(pbs.start_classic(job, f"epilogue{suffix}", words + more, 0o022))
            found.append((status, ended, same(job.output), same(job.errors)))
        assert found[0] == found[1]
        assert found[0][:2] == (0, 0)
        assert pbs.run_hook(job, "execjob_end").verdict == "accept"
        pbs.forget(job)


@pytest.mark.parametrize(("status", "verdict"), [(0, "accept"), (1, "delete"), (2, "rerun"), (77, "rerun")])
def test_openpbs_hook_for_a_native_job(pbs: PbsMom, status: int, verdict: str) -> None:
    """With a hook for execjob_prologue OpenPBS runs no classic script: the hook runs the site's, with the same effect."""
    install(pbs.home / "mom_priv", SITE.replace("${SITE_STATUS:-0}", str(status)))
    job = pbs.accept(queue=NATIVE)
    classic = pbs.start_classic(job, "prologue.site", [job.id, job.user, job.group])
    assert pbs.finish_classic(classic) == status
    expected = same(job.output), same(job.errors)
    for path in job.files:
        os.truncate(path, 0)
    pbs.events = (*pbs.events, "execjob_prologue", "execjob_epilogue")
    answer = pbs.prologue(job)
    assert answer.verdict == verdict
    assert (same(job.output), same(job.errors)) == expected
    assert pbs.end(job) == [0, 0]
