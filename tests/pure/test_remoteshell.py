"""The job's shell: what is to be run, with which environment, and the proof that it may."""

import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from vmbatch import digest, native, remoteshell
from vmbatch import request as requests
from vmbatch.handover import VERSION, Handover, Mark, ScriptMark, decode
from vmbatch.request import Request
from vmbatch.shell import RefusedError, proof
from vmbatch.shell import call as calls
from vmbatch.shell import environment as environ_module

from .sample import TOKEN

Run = Callable[..., Request]


class ExitError(Exception):
    """os._exit was called."""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "42.vm.SC"
    path.write_bytes(b"#!/bin/sh\necho\n")
    return path


@pytest.fixture
def handover(script: Path) -> Handover:
    status = script.stat()
    return Handover(
        console="",
        job="42.vm",
        token=TOKEN,
        user="alice",
        uid=os.getuid(),
        address="10.77.0.5",
        alias="vmbatch-0123",
        template="t.xml",
        script=ScriptMark(str(script), status.st_dev, status.st_ino, status.st_mtime_ns),
        node_file=True,
        environment={
            name: digest.of_text(value) for name, value in {"PATH": "/bin:/usr/bin", "LANG": "C.UTF-8", "TZ": "UTC"}.items()
        },
    )


def changed(handover: Handover, **changes: object) -> Handover:
    """The record with other fields."""
    return Handover(**{name: getattr(handover, name) for name in Handover.__slots__} | changes)


@pytest.fixture
def run(handover: Handover, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The request for these arguments, standard input and environment."""

    def call(
        *words: str,
        stdin: bytes | None = None,
        environment: dict[str, str] | None = None,
        known: dict[str, str] | None = None,
        terminal: bool = False,
        **changes: object,
    ) -> Request:
        if known is not None:
            changes["environment"] = {name: digest.of_text(value) for name, value in known.items()}
        monkeypatch.setattr(os, "getcwd", lambda: "/home/alice/work dir")
        chunks = [b"unread"] if stdin is None else [stdin[at : at + 7] for at in range(0, len(stdin), 7)]

        def read(fd: int, _size: int) -> bytes:
            assert fd == 0
            assert stdin is not None, "this input is the job's own"
            return chunks.pop(0) if chunks else b""

        made_requests: list[Request] = []

        def keep(request: Request) -> bytes:
            made_requests.append(request)
            return b""

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "read", read)
            patch.setattr(calls, "is_null", lambda _fd: False)
            patch.setattr(requests.Request, "encode", keep)
            made = calls.Call(changed(handover, **changes), list(words), environment or {}, terminal=terminal)
            made.request()
        assert made.uses_input == (stdin is None), "what was read here is not passed on, and the reverse"
        assert made_requests[0].lifeline == (stdin is not None)
        return made_requests[0]

    return call


def what(request: Request) -> tuple[bytes, bytes | None, bytes, bytes | None]:
    return request.shell, request.script, request.arguments, request.command


ARGUMENTS = ["", "a", 'a1 "b c" $HOME `id` *;x', "  two  blanks ", "'", "\\", "ä", "\x1b[31m", "-n", "\t", "$(id)"]


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=ascii)
@pytest.mark.parametrize("end", ["\n", ""])
def test_qsub_shell(run: Run, script: Path, arguments: str, end: str) -> None:
    """qsub -S: the script's path on a line, with what -F gave behind it, for a shell to expand."""
    line = f"{script} {arguments}{end}" if arguments else f"{script}{end}"
    assert what(run(stdin=line.encode())) == (b"", None, arguments.encode(), None)


@pytest.mark.parametrize("shell", ["/bin/bash", "/usr/bin/zsh", "/bin/sh", "-bash", "/usr/local/bin/tcsh"])
def test_job_starter(run: Run, script: Path, shell: str) -> None:
    """$job_starter: the shell that mom would have started, and the same line."""
    assert what(run(shell, stdin=f"{script} x\n".encode())) == (shell.lstrip("-").encode(), None, b"x", None)


def test_job_starter_for_a_job_with_remoteshell(run: Run, script: Path) -> None:
    """Both ways at once: not the file /usr/local/bin/remoteshell as a script."""
    assert what(run("/usr/local/bin/remoteshell", stdin=f"{script} x\n".encode())) == (b"", None, b"x", None)
    assert what(run("-remoteshell", stdin=f"{script}\n".encode())) == (b"", None, b"", None)


@pytest.mark.parametrize("words", [["-c"], ["-l", "-c"], ["-l", "-i", "-c"], ["/bin/bash", "-c"], ["/bin/bash", "-l", "-c"]])
def test_command(run: Run, words: list[str]) -> None:
    shell = b"/bin/bash" if words[0] == "/bin/bash" else b""
    assert what(run(*words, 'echo "$HOME"; exit 3')) == (shell, None, b"", b'echo "$HOME"; exit 3')


@pytest.mark.parametrize("words", [("-c",), ("/bin/bash", "-lc"), ("-c", "echo", "a")])
def test_not_one_command(run: Run, words: tuple[str, ...]) -> None:
    with pytest.raises(RefusedError, match="-c takes one command line"):
        run(*words)


def test_shell_that_no_list_knows(run: Run) -> None:
    assert what(run("/usr/bin/python3", "-lc", "pass")) == (b"/usr/bin/python3", None, b"", b"pass")


def test_interpreter_of_the_jobs_script(run: Run, script: Path) -> None:
    """`#!`: the kernel puts the script's path first; its arguments are words already."""
    assert what(run(str(script), "a b", "it's", "$HOME", "")) == (b"", None, b"'a b' 'it'\\''s' '$HOME' ''", None)


def test_script_called_like_a_shell(run: Run, handover: Handover, script: Path) -> None:
    """The job's own script is that, whatever it is called."""
    path = script.rename(script.with_name("bash"))
    named = ScriptMark(str(path), 1, 1, 1)
    assert what(run(str(path), "x", script=named)) == (b"", None, b"'x'", None)


def test_another_script(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "other script"
    path.write_bytes(b"#!/opt/remoteshell\n\x00\xff")
    assert what(run(str(path), "x")) == (b"", b"#!/opt/remoteshell\n\x00\xff", b"'x'", None)


@pytest.mark.error("VB803")
def test_a_script_that_is_not_there(run: Run, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(RefusedError, match=str(path)):
            run(str(path))


@pytest.mark.parametrize(
    "text",
    [
        b"echo hello\n",
        b"echo\necho\n",
        b"\n",
        b"/etc/passwd\n",
        b"\x00\xff" * 100,
        b"#!/bin/sh\nexit 3\n",
        b" /var/spool/x.SC\n",
        b"x" * 300_000,
    ],
    ids=lambda text: ascii(text[:20]),
)
def test_script_on_standard_input(run: Run, text: bytes) -> None:
    """Some builds give the script itself."""
    assert what(run(stdin=text)) == (b"", text, b"", None)


@pytest.mark.parametrize(
    "line", ["{0}x\n", "{0}\nrm -rf /\n", " {0}\n", "{0}\tx\n", "{0}/../x\n", "x {0}\n", "{0}\n{0}\n", "{0}\x00\n"], ids=ascii
)
def test_lines_that_only_look_like_the_scripts(run: Run, script: Path, line: str) -> None:
    """Nothing is guessed: they are text for the shell in the guest."""
    text = line.format(script).encode()
    assert what(run(stdin=text)) == (b"", text, b"", None)


def test_empty_input(run: Run) -> None:
    assert what(run(stdin=b"")) == (b"", None, b"", None)


def test_line_without_a_known_script(run: Run, script: Path) -> None:
    text = f"{script}\n".encode()
    assert what(run(stdin=text, script=None)) == (b"", text, b"", None)


def test_interactive(run: Run) -> None:
    """There is no script, and what is typed is the job's: a login shell, the user's own or the one that was asked for."""
    for words, shell in ((), b""), (("/bin/zsh",), b"/bin/zsh"), (("remoteshell",), b""):
        found = run(*words, terminal=True, script=None)
        assert (*what(found), found.login, found.lifeline) == (shell, None, b"", None, True, False)


@pytest.mark.parametrize(("words", "shell"), [(("-c",), b""), (("/bin/bash", "-c"), b"/bin/bash")])
def test_interactive_with_a_command(run: Run, words: tuple[str, ...], shell: bytes) -> None:
    """qsub -I -x."""
    found = run(*words, "top -n 1", terminal=True, script=None)
    assert (*what(found), found.login) == (shell, None, b"", b"top -n 1", False)


def test_environment_of_a_terminal(run: Run) -> None:
    """TERM goes with ssh; DISPLAY, too, where the site lets it, and stays a variable as any other where not."""
    given = {"TERM": "xterm", "DISPLAY": "localhost:10.0", "XAUTHORITY": "/home/alice/.Xauthority", "MINE": "x"}
    rest = {os.fsencode(name): os.fsencode(value) for name, value in given.items() if name != "TERM"}
    assert run(terminal=True, script=None, environment=given).environment == rest
    assert run(terminal=True, script=None, environment=given, x11=True).environment == {b"MINE": b"x"}
    assert run("-c", "x", environment=given, x11=True).environment == rest | {b"TERM": b"xterm"}


TASKS = [
    (["/bin/hostname"], b"exec '/bin/hostname'"),
    (["hostname", "-f"], b"exec 'hostname' '-f'"),
    (["/bin/bash", "-c", "echo $HOME; it's"], b"exec '/bin/bash' '-c' 'echo $HOME; it'\\''s'"),
    (["remoteshell"], b"exec 'remoteshell'"),
]


@pytest.mark.parametrize(("words", "command"), TASKS, ids=lambda value: ascii(value)[:30])
def test_tasks(run: Run, words: list[str], command: bytes) -> None:
    """pbsdsh and the like: a task's words come behind $job_starter; the first task is the job's shell."""
    assert what(run(*words, environment={"PBS_TASKNUM": "2"})) == (b"", None, b"", command)
    sister = {"PBS_NODENUM": "1", "PBS_TASKNUM": "1"}
    assert what(run(*words, environment=sister)) == (b"", None, b"", command), "mom counts a sister's tasks from 1, too"


def test_first_task(run: Run, script: Path) -> None:
    found = run("/bin/bash", stdin=f"{script}\n".encode(), environment={"PBS_TASKNUM": "1"})
    assert what(found) == (b"/bin/bash", None, b"", None)


def test_a_shell_that_is_a_script(run: Run, script: Path, tmp_path: Path) -> None:
    """qsub -S my-shell, with $job_starter: mom says in SHELL which it is."""
    mine = tmp_path / "mine"
    mine.write_bytes(b"#!/bin/sh\n")
    found = run(str(mine), stdin=f"{script}\n".encode(), environment={"SHELL": str(mine)})
    assert what(found) == (os.fsencode(mine), None, b"", None)


@pytest.mark.parametrize("words", [[], ["/bin/bash"], ["-bash"]])
def test_path_as_argument(run: Run, script: Path, words: list[str]) -> None:
    """Torque built with --enable-shell-use-argv."""
    assert what(run(*words, str(script))) == (b"".join(word.lstrip("-").encode() for word in words), None, b"", None)


def test_null_input(tmp_path: Path) -> None:
    for path, null in (("/dev/null", True), ("/dev/zero", False), (str(tmp_path), False)):
        descriptor = os.open(path, os.O_RDONLY)
        assert calls.is_null(descriptor) == null
        os.close(descriptor)
    assert calls.is_null(descriptor), "a closed one"


ENVIRONMENT = {
    "PBS_JOBID": "42.vm",
    "PBS_O_PATH": "/home/alice/bin",
    "MINE": "a\nb'c",
    "PATH": "/home/alice/bin",
    "EMPTY": "",
    "_ODD_1": "x",
    "BYTES": os.fsdecode(b"\xff\xfe"),
    "LD_PRELOAD": "/home/alice/lp.so",
}


def test_environment(run: Run) -> None:
    """The submitter's and Torque's variables go with the job, as they are."""
    found = run("-c", "x", environment=ENVIRONMENT)
    assert found.environment == {os.fsencode(name): os.fsencode(value) for name, value in ENVIRONMENT.items()}
    assert found.directory == b"/home/alice/work dir"


def test_environment_of_the_node_stays(run: Run) -> None:
    of_mom = {"PATH": "/bin:/usr/bin", "LANG": "C.UTF-8", "TZ": "UTC"}
    of_node = dict.fromkeys(
        ["HOME", "SHELL", "USER", "LOGNAME", "HOSTNAME", "PBS_JOBCOOKIE", "PBS_MOMPORT", "PBS_GPUFILE", "MAIL", "PWD", "_"], "x"
    )
    assert run("-c", "x", environment=of_mom | of_node).environment == {}


def test_a_changed_variable_of_mom_goes_along(run: Run) -> None:
    assert run("-c", "x", environment={"PATH": "/bin:/usr/bin", "LANG": "de_DE.UTF-8"}).environment == {b"LANG": b"de_DE.UTF-8"}


def test_variables_of_torque_go_along_even_unchanged(run: Run) -> None:
    """The handed-over digests are given to the call as `known`, being of mom's own environment at the prologue."""
    found = run("-c", "x", environment={"PBS_NP": "2", "TMPDIR": "/t"}, known={"PBS_NP": "2", "TMPDIR": "/t"})
    assert found.environment == {b"PBS_NP": b"2"}


@pytest.mark.parametrize("name", ["BASH_FUNC_x%%", "BASH_FUNC_x()", "A B", "A-B", "1A", "", "Ä", "A\nB", "A;id", "٣"])
def test_names_that_no_shell_can_have(run: Run, name: str) -> None:
    assert run("-c", "x", environment={name: "() { id; }"}).environment == {}


def test_node_file(run: Run) -> None:
    given = {"PBS_NODEFILE": "/aux//42.vm"}
    assert run("-c", "x", environment=given).environment == {b"PBS_NODEFILE": b"/aux//42.vm"}
    assert run("-c", "x", environment=given, node_file=False).environment == {}


def check(handover: Handover, job_id: str = "42.vm") -> None:
    proof.check(handover, job_id)


def test_proof(handover: Handover) -> None:
    check(handover)


@pytest.mark.error("VB801")
def test_proof_of_another_user(handover: Handover) -> None:
    with pytest.raises(RefusedError, match="belongs to another user"):
        check(changed(handover, uid=os.getuid() + 1))


@pytest.mark.parametrize("job_id", ["43.vm", "42[1].vm", "", "42.vm\n"])
def test_proof_of_another_job(handover: Handover, job_id: str) -> None:
    with pytest.raises(RefusedError, match="belongs to another user"):
        check(handover, job_id)


def test_proof_without_the_script(handover: Handover, script: Path) -> None:
    script.unlink()
    with pytest.raises(RefusedError, match="is not there any more"):
        check(handover)


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("who", ["process", "session", "parent", "none"])
def test_proof_by_the_leader(handover: Handover, monkeypatch: pytest.MonkeyPatch, who: str, shift: int) -> None:
    """Where there is no script: this process, its session's leader or its parent must be that of the prologue."""
    own, other = os.getpid(), 1
    monkeypatch.setattr(os, "getsid", lambda _: other if who == "session" else own)
    monkeypatch.setattr(os, "getppid", lambda: other if who == "parent" else own)
    pid = own if who == "process" else other
    started = int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19])
    proven = changed(handover, script=None, leader=Mark(pid, started + shift))
    if who != "none" and not shift:
        check(proven)
    else:
        with pytest.raises(RefusedError, match="earlier start of this job"):
            check(proven)


def test_record_read_back(handover: Handover) -> None:
    mark = ScriptMark(os.fsdecode(b"/a b\n\xff"), 1, 2, 3)
    strange = changed(handover, script=mark, leader=Mark(4, 5), x11=True, console="/dev/pts/3",
                      environment={"A": "0" * 32, "B\n": "1" * 32, "": "2"})
    for record in (handover, strange, changed(handover, script=None)):
        found = decode(record.encode())
        for name in Handover.__slots__:
            one, other = getattr(found, name), getattr(record, name)
            if isinstance(other, ScriptMark | Mark):
                one, other = ({field: getattr(mark, field) for field in type(other).__slots__} for mark in (one, other))
            assert one == other, name


@pytest.mark.parametrize("data", [b"", b"{}", b"vmbatch hand-over 2\n", VERSION, VERSION + b"uid x\n"])
def test_what_is_no_record(data: bytes) -> None:
    with pytest.raises(ValueError):
        decode(data)


@pytest.mark.parametrize(
    "change",
    [
        lambda path: os.utime(path, ns=(1, 1)),
        lambda path: (path.rename(path.with_name("old")), path.write_bytes(b"#!/bin/sh\necho\n")),
        lambda path: (path.rename(path.with_name("old")), path.symlink_to("old")),
        lambda path: (path.unlink(), path.mkdir()),
    ],
    ids=["written", "replaced", "linked", "directory"],
)
def test_proof_with_another_starts_script(handover: Handover, script: Path, change: Callable[[Path], object]) -> None:
    change(script)
    with pytest.raises(RefusedError, match="earlier start of this job"):
        check(handover)


def test_record_must_be_roots(tmp_path: Path) -> None:
    record = tmp_path / "record"
    record.write_bytes(b"{}")
    record.chmod(0o444)
    assert proof.trusted(str(record)) == b"{}"
    record.chmod(0o466)
    with pytest.raises(RefusedError, match="is not root's"):
        proof.trusted(str(record))
    record.chmod(0o444)
    os.chown(record, 1500, 1500)
    with pytest.raises(RefusedError, match="is not root's"):
        proof.trusted(str(record))


@pytest.fixture
def main(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    """Exit status and message of remoteshell in an environment, with a queue `vm` that has a template."""
    config = tmp_path / "vmbatch.conf"
    config.write_text("[queues]\nvm = 'debian.xml'\n")
    monkeypatch.setattr(native, "CONFIG", str(config))
    said: list[str] = []
    codes: list[int] = []

    def leave(code: int) -> NoReturn:
        codes.append(code)
        raise ExitError

    def call(*words: str, isolated: int = 1, **environment: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["-remoteshell", *words])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "flags", types.SimpleNamespace(isolated=isolated, verbose=0, optimize=0))
            patch.setattr(environ_module, "read", lambda started: environment)
            patch.setattr(os, "_exit", leave)
            patch.setattr(os, "write", lambda fd, data: said.append(data.decode()) if fd == 2 else None)
            with pytest.raises(ExitError):
                remoteshell.main()
        return codes[0], "".join(said)

    return call


@pytest.mark.parametrize("job_id", ["42.vm", "", "../../etc", "42.vm/../43.vm", "/etc", "42\n"])
def test_no_record_no_run(main: Callable[..., tuple[int, str]], job_id: str) -> None:
    status, said = main(PBS_QUEUE="vm", PBS_JOBID=job_id)
    assert status == 255
    assert said.startswith("vmbatch: the job does not run: ")
    assert "has no guest" in said


@pytest.mark.parametrize("queue", ["batch", ""])
def test_no_shell_for_the_node(main: Callable[..., tuple[int, str]], queue: str) -> None:
    status, said = main(PBS_QUEUE=queue, PBS_JOBID="42.vm")
    assert status == 255
    assert "remoteshell is no shell for the node" in said


def test_unreadable_configuration(main: Callable[..., tuple[int, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails closed."""
    (tmp_path / "vmbatch.conf").unlink()
    (tmp_path / "vmbatch.conf").mkdir()
    status, said = main(PBS_QUEUE="vm", PBS_JOBID="42.vm")
    assert status == 255
    assert "vmbatch.conf" in said


def test_only_isolated(main: Callable[..., tuple[int, str]]) -> None:
    """PYTHONPATH is the user's."""
    status, said = main("/bin/bash", isolated=0, PBS_QUEUE="batch")
    assert status == 255
    assert "python3 -I" in said


def test_wrong_configuration(main: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    (tmp_path / "vmbatch.conf").write_text("[queues]\nvm = 1\n")
    status, said = main("/bin/bash", PBS_QUEUE="vm", PBS_JOBID="42.vm")
    assert status == 255
    assert "queues.vm" in said


def test_environment_behind_the_starter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own variables are none of the job's, and without it a prefix means nothing."""
    raw = {b"job:PATH": b"/home/alice/bin", b"job:A=": b"x", b"PATH": b"/usr/bin:/bin", b"LC_ALL": b"C", b"job:": b"",
           b"job:B": b"\xff"}
    monkeypatch.setattr(os, "environb", raw)
    found = {"PATH": "/home/alice/bin", "A=": "x", "": "", "B": "\udcff"}
    assert environ_module.read(True) == found
    monkeypatch.setattr(os, "environ", {"job:PATH": "/x", "PATH": "/y"})
    assert environ_module.read(False) == {"job:PATH": "/x", "PATH": "/y"}


def test_environment_from_openpbs() -> None:
    """Its hook gives the user's variables other names; a native job's stay as they are."""
    raw = {"VMBATCH_JOB_PATH": "/hers", "PATH": "/usr/bin:/bin", "VMBATCH_JOB_LD_PRELOAD": "x.so", "VMBATCH_JOB_": "odd", "B": ""}
    assert environ_module.of_guest(raw) == {"PATH": "/hers", "B": "", "LD_PRELOAD": "x.so", "": "odd"}
