"""What a job sees of its guest through remoteshell: streams, exit status, environment, signals."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from lab.mom import Job, Mom, session_members

from .conftest import live_job

pytestmark = pytest.mark.guest


class Ran:
    """A script run through remoteshell as an interpreter, as the user, in the live guest."""

    def __init__(self, mom: Mom, job: Job, script: str | bytes, *, stdin: bytes | None = None, words: tuple[str, ...] = (),
                 name: str = "script", variables: dict[str, str] | None = None) -> None:
        path = Path(job.person.pw_dir) / name
        path.write_bytes(script if isinstance(script, bytes) else script.encode())
        os.chown(path, job.person.pw_uid, job.person.pw_gid)
        source = Path(job.person.pw_dir) / "input"
        source.write_bytes(stdin or b"")
        before = len(job.errors)
        job.variables = {"MINE": "yes", **(variables or {})}
        with source.open("rb") as file:
            process = mom.start_shell(job, way="interpreter", words=[str(path), *words], stdin=file.fileno(),
                                      stdout=subprocess.PIPE)
            assert process.stdout is not None
            self.output = process.stdout.read()
            self.status = process.wait()
        self.errors = job.errors[before:]


def test_the_jobs_own_script(mom: Mom, live: Job) -> None:
    process = mom.start_shell(live, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert (process.stdout.read(), process.wait()) == (b"the script of the job\n", 0)


def test_as_job_starter_with_arguments_for_the_shell(mom: Mom, live: Job) -> None:
    process = mom.start_shell(live, way="starter", arguments="'a b' $((1+1))", stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert (process.stdout.read(), process.wait()) == (b"the script of the job\n", 0)


@pytest.mark.parametrize(("script", "status"), [
    ("exit 0", 0), ("exit 3", 3), ("exit 255", 255), ("kill -9 $$", 137), ("kill -TERM $$", 143), ("kill -9 0", 137),
    ("exec /no/such/program", 127),
])
def test_exit_status(mom: Mom, live: Job, script: str, status: int) -> None:
    assert Ran(mom, live, f"#!/bin/sh\n{script}\n").status == status


def test_runs_in_the_guest_as_the_user_with_all_groups(mom: Mom, live: Job) -> None:
    ran = Ran(mom, live, "#!/bin/sh\nid; hostname; uname -r; test -e /dev/vda && echo disk; cat /proc/cmdline\n")
    assert b"uid=1500(alice) gid=1500(alice) groups=1500(alice),1600(physics)" in ran.output
    assert f"vm-{live.id.split('.')[0]}".encode() in ran.output
    assert os.uname().release.encode() not in ran.output


def test_ten_megabytes_of_every_byte_arrive_unchanged(mom: Mom, live: Job) -> None:
    data = bytes(range(256)) * 40_960
    ran = Ran(mom, live, "#!/bin/sh\ncat\n", stdin=data)
    assert ran.output == data
    assert ran.errors == b""


def test_stdout_and_stderr_are_two(mom: Mom, live: Job) -> None:
    ran = Ran(mom, live, "#!/bin/sh\necho out; echo err >&2; printf '\\000\\377' >&2\n")
    assert (ran.output, ran.errors) == (b"out\n", b"err\n\x00\xff")


def test_output_streams_while_the_job_runs(mom: Mom, live: Job) -> None:
    path = Path(live.person.pw_dir) / "stream"
    path.write_text("#!/bin/sh\necho first\nread answer\necho $answer\n")
    source, sink = os.pipe()
    process = mom.start_shell(live, way="interpreter", words=[str(path)], stdin=source, stdout=subprocess.PIPE)
    os.close(source)
    assert process.stdout is not None
    assert process.stdout.readline() == b"first\n"
    os.write(sink, b"second\n")
    os.close(sink)
    assert process.stdout.read() == b"second\n"
    assert process.wait() == 0


def test_arguments_and_names_with_blanks_and_quotes(mom: Mom, live: Job) -> None:
    words = ("a b", "it's", '"', "$HOME `id` *", "", "line\nbreak", "\\", "ü")
    ran = Ran(mom, live, "#!/bin/sh\nfor word; do printf '[%s]' \"$word\"; done\n", words=words, name="a 'quoted' \"name\"")
    assert ran.output.decode() == "".join(f"[{word}]" for word in words)


def test_twenty_variables_of_every_kind(mom: Mom, live: Job) -> None:
    values = {f"V{number}": f"{number}\n'single' \"double\" $HOME `id` \\n \\\\ {chr(number + 200)}\n" for number in range(20)}
    script = "#!/bin/sh\nfor n in " + " ".join(values) + "; do eval \"printf '%s\\0' \\\"\\$$n\\\"\"; done\n"
    ran = Ran(mom, live, script, variables=values)
    assert ran.output.decode().split("\0")[:-1] == list(values.values())


def test_the_batch_environment_arrives_and_the_nodes_does_not(mom: Mom, live: Job) -> None:
    ran = Ran(mom, live, "#!/bin/sh\nenv\ncat $PBS_NODEFILE\n")
    lines = ran.output.decode().splitlines()
    wanted = {f"PBS_JOBID={live.id}", "MINE=yes", "PBS_NP=1", "PBS_ENVIRONMENT=PBS_BATCH", "HOME=/home/alice", "node1"}
    assert wanted <= set(lines)
    assert not [line for line in lines if "MOM_SECRET" in line or "remoteshell" in line or line.startswith("PBS_JOBCOOKIE")]


def test_a_shell_variable_of_the_user_beats_the_nodes(mom: Mom, live: Job) -> None:
    assert Ran(mom, live, "#!/bin/sh\necho $LANG\n", variables={"LANG": "de_DE.UTF-8"}).output == b"de_DE.UTF-8\n"


@pytest.mark.parametrize("name", ["TERM", "INT", "USR1", "USR2", "HUP"])
def test_signals_reach_the_jobs_processes(mom: Mom, live: Job, name: str) -> None:
    path = Path(live.person.pw_dir) / "trap"
    path.write_text(f"#!/bin/sh\ntrap 'echo caught {name}; exit 9' {name}\necho armed\nwhile :; do sleep 0.1; done\n")
    process = mom.start_shell(live, way="interpreter", words=[str(path)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"armed\n"
    for member in session_members(process.pid):  # mom signals every process of the session
        os.kill(member, getattr(signal, f"SIG{name}"))
    assert process.stdout.read() == f"caught {name}\n".encode()
    assert process.wait() == 9


def test_a_job_without_handler_dies_of_the_signal(mom: Mom, live: Job) -> None:
    path = Path(live.person.pw_dir) / "sleeper"
    path.write_text("#!/bin/sh\necho armed\nsleep 1000\n")
    process = mom.start_shell(live, way="interpreter", words=[str(path)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"armed\n"
    process.terminate()
    assert process.wait() == 143


def test_working_directory_is_kept_where_it_exists(mom: Mom, live: Job) -> None:
    assert Ran(mom, live, "#!/bin/sh\npwd\n").output == b"/home/alice\n"


def test_script_without_interpreter_line(mom: Mom, live: Job) -> None:
    assert Ran(mom, live, "echo $0 | grep -c script\n").output == b"1\n"


def test_script_whose_interpreter_is_remoteshell(mom: Mom, live: Job) -> None:
    assert Ran(mom, live, "#!/var/spool/torque/mom_priv/remoteshell\nhostname\n").output.startswith(b"vm-")


def test_another_user_is_refused(mom: Mom, live: Job) -> None:
    other = Job(live.id, "bob", live.queue, live.name, "", live.resources, {}, live.files)
    process = mom.start_shell(other, way="interpreter", words=["/etc/hostname"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert process.wait() == 255
    assert b"belongs to another user" in live.errors
    handover = f"/run/vmbatch/handover/{live.file_id}"
    for name in ("id_ed25519", "control"):
        looked = subprocess.run(["setpriv", "--reuid=1501", "--regid=1501", "--clear-groups", "cat", f"{handover}/{name}"],
                                capture_output=True, check=False)
        assert b"Permission denied" in looked.stderr or b"Is a directory" in looked.stderr


def test_a_lost_connection_is_not_the_jobs_exit_status(mom: Mom) -> None:
    with live_job(mom, "busybox") as job:
        path = Path(job.person.pw_dir) / "waits"
        path.write_text("#!/bin/sh\necho armed\nsleep 1000\n")
        process = mom.start_shell(job, way="interpreter", words=[str(path)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"armed\n"
        for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
            os.kill(int(child), signal.SIGKILL)
        assert process.wait() == 255
        assert b"connection to the job's guest was lost" in job.errors


def test_an_interactive_job(mom: Mom) -> None:
    """From its prologue, run by mom's process at the terminal, to `exit`; there is no script, and the next start is another."""
    job = mom.accept(b"", queue="busybox")
    terminal = mom.open_terminal(job)
    try:
        assert terminal.start_prologue() == 0
        terminal.start_shell(("/bin/sh",), term="vt100")
        terminal.type(b"echo on $(hostname) $TERM; stty size; exit 3\r")
        assert f"on vm-{job.id.split('.')[0]} vt100\r\n24 80\r\n".encode() in terminal.wait_for(b"24 80\r\n")
        assert terminal.wait() == 3
        other = mom.open_terminal(job)
        other.start_shell(("/bin/sh",))
        other.wait_for(b"vmbatch: the job does not run: the guest was made for an earlier start of this job")
        assert other.wait() == 255
        other.close()
    finally:
        terminal.close()
        assert mom.start_epilogue(job).wait() == 0
        mom.forget(job)
