"""Every way in which a Torque build hands the job to its shell, with the static starter and with the script."""

import signal
import subprocess
from pathlib import Path

import pytest

from lab import place
from lab.mom import Job, Mom
from vmbatch import native
from vmbatch.installation import hookfile

from .conftest import Accept

INTERPRETER = f"{place.ENVIRONMENT}/bin/python3"
SCRIPT = "#!/bin/sh\necho \"$PBS_JOBID $1 $2\"\nexit 7\n"


@pytest.fixture(scope="module", params=["starter", "script"])
def program(request: pytest.FixtureRequest) -> str:
    if request.param == "starter":
        return ""
    path = place.MOM / "mom_priv/remoteshell-script"
    path.write_bytes(hookfile.hook("remoteshell", INTERPRETER))
    path.chmod(0o755)
    return str(path)


def output(process: "subprocess.Popen[bytes]") -> tuple[bytes, int]:
    assert process.stdout is not None
    return process.stdout.read(), process.wait()


@pytest.mark.parametrize("build", ["pipe", "argv", "stdin"])
@pytest.mark.parametrize("way", ["shell", "starter"])
def test_builds(mom: Mom, accept: Accept, program: str, way: str, build: str) -> None:
    job = accept(SCRIPT)
    arguments = "'a b' $((1+1))" if build == "pipe" else ""
    process = mom.start_shell(job, way=way, build=build, arguments=arguments, program=program, stdout=subprocess.PIPE)
    shown = f"{job.id} {'a b 2' if arguments else ' '}\n".encode()
    assert (output(process), job.errors) == ((shown, 7), b"")


def test_script_without_interpreter_line_on_standard_input(mom: Mom, accept: Accept, program: str) -> None:
    """It is the job's own, not a line of a path."""
    job = accept("echo $0 | sed s,.*/,,; exit 3\n")
    assert output(mom.start_shell(job, build="stdin", program=program, stdout=subprocess.PIPE)) == (b"script\n", 3)


def test_interpreter(mom: Mom, accept: Accept, program: str) -> None:
    job = accept(SCRIPT)
    process = mom.start_shell(job, way="interpreter", words=[str(job.script), "x y", "z"], stdin=subprocess.DEVNULL,
                              program=program, stdout=subprocess.PIPE)
    assert output(process) == (f"{job.id} x y z\n".encode(), 7)


@pytest.mark.parametrize(("words", "expected"), [
    (["/bin/echo", "a b", "$HOME", "it's"], (b"a b $HOME it's\n", 0)),
    (["false", "x"], (b"", 1)),
    (["/bin/sh", "-c", "exit 5"], (b"", 5)),
    (["/no/such"], (b"", 127)),
])
def test_tasks(mom: Mom, accept: Accept, words: list[str], expected: tuple[bytes, int]) -> None:
    """Each task of TM goes into the guest, and none of them takes a program for the job's shell."""
    job = accept(SCRIPT)
    process = mom.start_shell(job, way="task", words=words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert output(process) == expected


def test_native_queue_as_job_starter(mom: Mom, program: str) -> None:
    """The shell that mom wanted, with the very environment, and with SIGPIPE as mom has it."""
    variables = {"LD_LIBRARY_PATH": "/home/alice/lib", "job:X": "y", "A": "1\\t2", "PYTHONPATH": "/x"}
    job = mom.accept(b"", queue="native", variables=variables)

    def run(*words: str) -> bytes:
        process = mom.start_shell(job, way="interpreter", words=list(words), stdin=subprocess.DEVNULL, program=program,
                                  stdout=subprocess.PIPE)
        shown, status = output(process)
        assert (status, job.errors) == (0, b"")
        return shown

    assert run("/usr/bin/env").decode().splitlines() == [
        f"{name}={value}" for name, value in mom.shell_environment(job, "/bin/bash").items()]
    ignored = subprocess.run(["grep", "SigIgn", "/proc/self/status"], capture_output=True, check=True, restore_signals=False)
    as_from_mom = ignored.stdout if not program else ignored.stdout.replace(b"1001000", b"0001000")  # Python's own SIGXFSZ
    assert run("grep", "SigIgn", "/proc/self/status") == as_from_mom
    mom.forget(job)


CONFIGURATIONS = [
    (b"[queues]\nvm = 'busybox.xml'\n", "vm", True),
    (b"[queues]\n  # vm = 'busybox.xml'\n", "vm", False),
    (b"[queues]\n\t#vm\n\r\n\x0c#vm\nother = 'busybox.xml'\n", "vm", False),
    (b"[queues]\nothervm = 'busybox.xml'\n", "vm", True),
    (b"[queues]\n\"v\\u006d\" = 'busybox.xml'\n", "vm", True),
    (b"[queues]\nx = '''\n#vm'''\n", "vm", True),
    (b"[queues]\nx = \"\"\"\n#no\"\"\"\n", "vm", False),
    (b"[queues]\nvm", "vm", True),
    (b"[queues]\nvn = 'busybox.xml' # vm", "vm", True),
    (b"", "vm", False),
    (b"", "", True),
    (b"\0vm", "vm", True),
    (b"\0#vm", "vm", True),
    (None, "vm", False),
]


@pytest.mark.parametrize(("text", "queue", "ours"), CONFIGURATIONS)
def test_starter_knows_native_queues(mom: Mom, text: bytes | None, queue: str, ours: bool) -> None:
    """By the rule of native.py; a native job's shell is there without Python."""
    config = Path(native.CONFIG)
    before = config.read_bytes()
    job = mom.accept(b"", queue=queue)
    try:
        config.unlink() if text is None else config.write_bytes(text)
        if text is not None and b"\"\"\"" not in text:
            assert native.names_queue(text, queue) == ours
        process = subprocess.Popen(
            ["strace", "-f", "-e", "trace=execve", "-o", "/srv/trace", str(mom.home / "mom_priv/remoteshell"), "/bin/true"],
            env={"PBS_QUEUE": queue}, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        process.wait()
        assert ("python3" in Path("/srv/trace").read_text()) == (ours or text == CONFIGURATIONS[6][0])
    finally:
        config.write_bytes(before)
        mom.forget(job)


def test_job_starter_for_a_native_queue_reads_the_same_line(mom: Mom, program: str) -> None:
    job = mom.accept(b"#!/bin/sh\nhostname\nexit 4\n", queue="native")
    process = mom.start_shell(job, way="starter", program=program, stdout=subprocess.PIPE)
    assert output(process)[1] == 4
    mom.forget(job)


def refused(mom: Mom, job: Job, **how: str) -> str:
    process = mom.start_shell(job, **how)  # type: ignore[arg-type]
    assert process.wait() == 255
    assert job.output == b""
    return job.errors.decode()


@pytest.mark.parametrize("way", ["shell", "starter"])
def test_no_record(mom: Mom, program: str, way: str) -> None:
    """Neither where the prologue was killed nor where it never ran; the text says so to user and admin."""
    job = mom.accept(b"#!/bin/sh\ntouch /tmp/it-ran-on-the-node\n")
    said = refused(mom, job, way=way, program=program)
    assert said == (f"vmbatch: the job does not run: job {job.id} of queue busybox has no guest: its prologue has not handed one "
                    "over (admin: is VmBatch's prologue in mom_priv, and did it end by itself?) [VB801]\n")
    mom.forget(job)


def test_record_of_an_earlier_start(mom: Mom, accept: Accept, program: str) -> None:
    job = accept(SCRIPT)
    mom.accept(SCRIPT.encode(), job_id=job.id)  # a new start has a new script
    assert "earlier start of this job" in refused(mom, job, program=program)


FORGED = {
    "PBS_QUEUE": "native", "PBS_JOBID": "1.other", "PBS_ENVIRONMENT": "PBS_INTERACTIVE", "PATH": "/home/alice/evil",
    "PYTHONPATH": "/home/alice/evil", "PYTHONHOME": "/home/alice/evil", "PYTHONSTARTUP": "/home/alice/evil/x",
    "PBS_O_HOME": "/home/alice/evil", "TMPDIR": "/home/alice/evil", "HOME": "/home/alice/evil", "VMBATCH_SEEN": "job:yes",
    "LC_ALL": "C.UTF-8", "PYTHONPLATLIBDIR": "x", "job:PBS_QUEUE": "native", "SSH_AUTH_SOCK": "/home/alice/evil/agent",
    "SSH_ASKPASS": "/home/alice/evil/x", "KRB5CCNAME": "x", "GIT_SSH": "x",
}


@pytest.mark.parametrize("way", ["shell", "starter"])
def test_what_users_can_forge(mom: Mom, accept: Accept, program: str, way: str) -> None:
    """The job runs in its guest, whatever -v says, and finds its variables there."""
    evil = Path("/home/alice/evil")
    evil.mkdir(exist_ok=True)
    for name in ("ssh", "setpriv", "python3", "sitecustomize.py", "encodings.py", "x", "bash"):
        (evil / name).write_text("#!/bin/sh\ntouch /home/alice/evil/ran\n")
        (evil / name).chmod(0o755)
    job = accept("#!/bin/sh\necho \"$PBS_QUEUE $PBS_JOBID $PYTHONPATH $TMPDIR $VMBATCH_SEEN\"\n", variables=FORGED)
    process = mom.start_shell(job, way=way, program=program, stdout=subprocess.PIPE)
    assert output(process) == (f"busybox {job.id} /home/alice/evil /home/alice/evil job:yes\n".encode(), 0)
    assert not (evil / "ran").exists()


PRELOADED = """
#include <stdlib.h>
#include <fcntl.h>
#include <unistd.h>
__attribute__((constructor)) static void loaded(void) { close(open("/home/alice/loaded", O_CREAT | O_WRONLY, 0666)); }
"""


@pytest.fixture(scope="module")
def library() -> Path:
    """A library that says when it is loaded on the node."""
    source, made = Path("/home/alice/evil.c"), Path("/home/alice/evil.so")
    source.write_text(PRELOADED)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(made), str(source)], check=True)
    return made


@pytest.mark.parametrize("variable", ["LD_PRELOAD", "LD_AUDIT", "LD_LIBRARY_PATH"])
@pytest.mark.parametrize("way", ["shell", "starter"])
def test_no_library_of_the_users_is_loaded(mom: Mom, accept: Accept, library: Path, way: str, variable: str) -> None:
    """Not into the starter, not into Python, not into ssh: only in the guest, where the job finds its variable again."""
    loaded = Path("/home/alice/loaded")
    loaded.unlink(missing_ok=True)
    value = str(library)
    if variable == "LD_LIBRARY_PATH":
        value = "/home/alice"
        for name in ("libz.so.1", "libm.so.6", "libexpat.so.1", "libcrypto.so.3"):
            Path(f"/home/alice/{name}").unlink(missing_ok=True)
            Path(f"/home/alice/{name}").symlink_to(library)
    job = accept(f"#!/bin/sh\necho \"${variable}\"\n", variables={variable: value})
    shown, status = output(mom.start_shell(job, way=way, stdout=subprocess.PIPE))
    assert (shown, status) == (f"{value}\n".encode(), 0)
    assert not loaded.exists()


def test_the_script_loads_what_the_user_names(mom: Mom, accept: Accept, library: Path) -> None:
    """Why there is a starter; and that the test above can fail."""
    path = place.MOM / "mom_priv/remoteshell-loaded"
    path.write_bytes(hookfile.hook("remoteshell", INTERPRETER))
    path.chmod(0o755)
    loaded = Path("/home/alice/loaded")
    loaded.unlink(missing_ok=True)
    job = accept("#!/bin/sh\n:\n", variables={"LD_PRELOAD": str(library)})
    mom.start_shell(job, program=str(path)).wait()
    assert loaded.exists()


def test_large_environment(mom: Mom, accept: Accept) -> None:
    """Larger than a pipe: it goes along while ssh reads."""
    values = {f"V{number}": chr(97 + number % 26) * 30_000 for number in range(30)}
    job = accept("#!/bin/sh\necho ${#V0} ${#V29} $V29 | cut -c1-20\n", variables=values)
    assert output(mom.start_shell(job, stdout=subprocess.PIPE)) == (b"30000 30000 dddddddd\n", 0)


def test_death_by_a_signal(mom: Mom, accept: Accept) -> None:
    job = accept("#!/bin/sh\nkill -9 $$\n")
    assert mom.start_shell(job).wait() == 128 + signal.SIGKILL
