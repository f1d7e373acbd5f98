"""job.sh: the request protocol, and what the job finds: its environment, input, directory, shell and arguments."""

import ast
import os
import pty
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from .encoder import request
from .guest import SHELLS
from .runs import ID, Runs

SHOW_ENVIRONMENT = b"#!/usr/bin/python3 -IS\nimport os\nprint(dict(os.environb))\n"
SHOW_ARGUMENTS = b"#!/usr/bin/python3 -IS\nimport sys\nprint(sys.argv)\n"
ALL_BYTES = bytes(range(256))

AWKWARD = {
    "PLAIN": b"as it is",
    "EMPTY": b"",
    "BLANK": b" ",
    "BLANKS": b"  both  ends  ",
    "NEWLINE": b"\n",
    "NEWLINES": b"one\n\ntwo\n\n\n",
    "QUOTES": b"'\"`'\"`",
    "BACKSLASH": b"\\",
    "ESCAPES": b"\\n\\0101\\c\\\\x\\",
    "DOLLAR": b"$HOME $(echo no) ${x} `echo no`",
    "PERCENT": b"%s%d%%",
    "GLOB": b"* ? [a-z] ~ {a,b}",
    "OPERATORS": b"; & | < > ( ) # ! =",
    "CONTROL": bytes(range(1, 32)),
    "ESC_BYTES": b"\x01\x02\x7f\x81\x82\x83\x84\x85\x86\x87\x88\xff",
    "HIGH": bytes(range(128, 256)),
    "UTF8": "größe €".encode(),
    "DASH": b"-n",
    "LONG": b"x" * 20000 + b"\n",
    "IFS": b"0123456789",
    "LD_PRELOAD": b"",
    "LD_LIBRARY_PATH": b"/nowhere",
    "ENV": b"/nowhere",
    "BASH_ENV": b"",
    "run": b"no",
    "line": b"no",
    "script": b"no",
    "base": b"no",
    "_x1": b"y",
    "LC_ALL": b"C",
}


def test_environment(runs: Runs) -> None:
    done = runs.job(request(AWKWARD, file=SHOW_ENVIRONMENT))
    assert done.stderr == b""
    found: dict[bytes, bytes] = ast.literal_eval(done.stdout.decode())
    # IFS is every shell's own, and bash as a login shell does not let it through.
    assert {name: found.get(name.encode()) for name in AWKWARD if name != "IFS"} == {
        name: value for name, value in AWKWARD.items() if name != "IFS"
    }
    assert found[b"FROM_SSHD"] == b"1"
    added = found.keys() - {name.encode() for name in AWKWARD} - {name.encode() for name in runs.environment}
    assert added <= {b"_", b"SHLVL", b"PWD", b"OLDPWD"}


def test_own_locale_comes_back(runs: Runs) -> None:
    assert runs.job(request(command=b"echo $LC_ALL")).stdout == b"C.UTF-8\n"
    del runs.environment["LC_ALL"]
    assert runs.job(request(command=b"echo ${LC_ALL-none}"), "2").stdout == b"none\n"


def test_wrapper_ignores_the_jobs_environment(runs: Runs) -> None:
    hostile = {"PATH": b"/nowhere", "SHELLOPTS": b"noexec:xtrace", "LD_PRELOAD": b"/nowhere.so"}
    done = runs.job(request(hostile, login=b"/bin/dash", command=b"exit 3"))
    assert done.returncode == 3
    assert runs.status() == (0, b"3\n")
    assert b"+ " not in done.stderr


def test_input_is_untouched(runs: Runs) -> None:
    body = ALL_BYTES * 4096 + b"no newline at the end"
    done = runs.job(request({"A": b"b"}, command=b"exec cat") + body)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == body


def test_input_from_a_file(runs: Runs, tmp_path: Path) -> None:
    file = tmp_path / "input"
    file.write_bytes(request(command=b"exec cat") + ALL_BYTES)
    with file.open("rb") as input:
        done = subprocess.run(
            runs.command("job.sh", ID), stdin=input, env=runs.environment, capture_output=True, timeout=60, check=False
        )
    assert done.stdout == ALL_BYTES


@pytest.mark.parametrize("login", ["/bin/bash", "/bin/dash", "/bin/sh"])
def test_arguments(runs: Runs, login: str) -> None:
    args = b"""plain 'single "x"' "double 'y' $VALUE" back\\ slash $((1+1)) "" * ; echo not reached"""
    (runs.base / "here").mkdir()
    (runs.base / "here/a file").touch()
    done = runs.job(
        request({"VALUE": b"v v"}, cwd=str(runs.base / "here").encode(), file=SHOW_ARGUMENTS, args=args, login=login.encode())
    )
    assert done.stderr == b""
    expected = ["plain", 'single "x"', "double 'y' v v", "back slash", "2", "", "a file"]
    assert ast.literal_eval(done.stdout.decode()) == [str(runs.in_run("script")), *expected]


def test_script_of_the_medium(runs: Runs) -> None:
    runs.place_script(b'#!/bin/sh\necho "$0" "$@"\nexit 3\n')
    done = runs.job(request(args=b"1 2"))
    assert (done.returncode, done.stdout) == (3, f"{runs.base}/job/script 1 2\n".encode())
    assert not runs.in_run("script").exists()


def test_script_sent(runs: Runs) -> None:
    content = b'#!/bin/sh\n# a script with spaces in it\nexec tail -c +%d "$0"\n'
    content %= len(content) + 1
    content += ALL_BYTES * 40 + b"\n\n"
    done = runs.job(request(file=content))
    assert runs.in_run("script").read_bytes() == content
    assert done.stdout == ALL_BYTES * 40 + b"\n\n"


@pytest.mark.parametrize("first", [b"", b"#!/opt/vmbatch/remoteshell\n", b"#!/usr/bin/env remoteshell\n", b"# no\n"])
def test_script_run_by_the_shell(runs: Runs, first: bytes) -> None:
    done = runs.job(request(login=b"/bin/bash", args=b"'a b'", file=first + b'echo "$BASH $0 $1"\n'))
    assert (done.stdout, done.stderr) == (f"/bin/bash {runs.in_run('script')} a b\n".encode(), b"")


def test_login_shell(runs: Runs) -> None:
    (Path(runs.environment["HOME"]) / ".profile").write_text("FROM_PROFILE=yes; export FROM_PROFILE\n")
    for number, shell in enumerate((b"", b"/bin/bash", b"/bin/dash", b"/no/such/shell", b"bash", b'/bin/sh" -c "x')):
        assert runs.job(request(login=shell, command=b"echo $FROM_PROFILE"), str(number)).stdout == b"yes\n"
    runs.environment["SHELL"] = "/no/such/shell"
    assert runs.job(request(command=b"echo $FROM_PROFILE"), "a").stdout == b"yes\n"
    assert runs.job(b"vmbatch 1\nshell\ncommand echo $((1))\nrun\n", "b").returncode == 125
    assert runs.job(b"vmbatch 1\nshell\ncommand echo 1\nrun\n", "c").stdout == b"1\n"


def test_c_shell_gets_no_dash_l(runs: Runs, tmp_path: Path) -> None:
    for name, expected in (("csh", "-c echo x\n"), ("tcsh", "-c echo x\n"), ("zsh", "-l -c echo x\n")):
        shell = tmp_path / name
        shell.write_text('#!/bin/sh\necho "$*"\n')
        shell.chmod(0o755)
        assert runs.job(request(login=bytes(shell), command=b"echo x"), name.encode().hex()).stdout == expected.encode()


def test_interpreter_as_shell(runs: Runs) -> None:
    done = runs.job(request(login=b"/usr/bin/python3", args=b'"a b"', file=b"import sys\nprint(sys.argv[1:])\n"))
    assert (done.stdout, done.stderr) == (b"['a b']\n", b"")


def test_working_directory(runs: Runs, tmp_path: Path) -> None:
    there = tmp_path / "with 'quotes' and\nnewline"
    there.mkdir()
    home = runs.environment["HOME"].encode()
    for number, (cwd, expected) in enumerate(
        ((bytes(there), bytes(there)), (b"/no/such", home), (b"-", home), (b"relative", home), (b"", home), (None, home))
    ):
        assert runs.job(request(cwd=cwd, command=b"pwd"), str(number)).stdout == expected + b"\n"
    runs.environment["HOME"] = "/no/such/home"
    assert runs.job(request(cwd=b"/no/such", command=b"pwd"), "a").stdout == b"/\n"


def test_node_file(runs: Runs) -> None:
    asked = {"PBS_NODEFILE": b"/var/spool/torque/aux/42.vm"}
    assert runs.job(request(asked, command=b"echo $PBS_NODEFILE"), "1").stdout == b"/var/spool/torque/aux/42.vm\n"
    (runs.base / "job/nodefile").write_text("node\n")
    assert runs.job(request(asked, command=b"cat $PBS_NODEFILE"), "2").stdout == b"node\n"
    assert runs.job(request(command=b"echo ${PBS_NODEFILE-none}"), "3").stdout == b"none\n"


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (b"exit 0", 0),
        (b"exit 3", 3),
        (b"exit 255", 255),
        (b"kill -9 0", 137),
        (b"kill -9 $$", 137),
        (b"kill -TERM $$", 143),
        (b"kill -INT $$", 130),
        (b"kill -SEGV $$", 139),
        (b"no-such-command 2>/dev/null", 127),
    ],
)
def test_status(runs: Runs, command: bytes, status: int) -> None:
    assert runs.status() == (1, b"")
    done = runs.job(request(command=command))
    assert (done.returncode, done.stdout, done.stderr) == (status, b"", b"")
    assert runs.status() == (0, b"%d\n" % status)
    assert sorted(path.name for path in runs.in_run("").iterdir()) == ["pid", "status"]


def test_session_of_its_own(runs: Runs) -> None:
    done = runs.job(request(login=b"/bin/bash", command=b"echo $$; exec cut -d' ' -f1,5,6 /proc/self/stat"))
    leader, process = done.stdout.split(b"\n", 1)
    assert process.split() == [leader, leader, leader]
    assert runs.in_run("pid").read_bytes() == leader + b"\n"


def test_streams(runs: Runs) -> None:
    done = runs.job(request(command=b"echo out; echo err >&2; ls /proc/self/fd"))
    assert (done.stdout, done.stderr) == (b"out\n0\n1\n2\n3\n", b"err\n")


def test_job_on_a_terminal_keeps_it(runs: Runs) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        command = runs.command("job.sh", ID)
        os.execvpe(command[0], command, runs.environment)  # noqa: S606
    os.write(terminal, request(command=b"echo x >/dev/tty && exit 5"))
    shown = b""
    while b"\nx\r\n" not in shown:
        shown += os.read(terminal, 1000)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5
    os.close(terminal)


@pytest.mark.parametrize(
    "lines",
    [
        b"",
        b"vmbatch 2\nrun\n",
        b"vmbatch 1\n",
        b"vmbatch 1\ncommand touch $HOME/hacked\n",
        b"vmbatch 1\ncommand echo\nrun",
        b"vmbatch 1\nrun\n",
        b"vmbatch 1\nunknown x\nrun\n",
        b"vmbatch 1\n\nrun\n",
        b"vmbatch 1\nrun now\n",
        b"vmbatch 1\n run\n",
        b"vmbatch 1\nenv 1A x\ncommand echo\nrun\n",
        b"vmbatch 1\nenv A-B x\ncommand echo\nrun\n",
        b"vmbatch 1\nenv A;touch$IFS$HOME/hacked x\ncommand echo\nrun\n",
        b"vmbatch 1\nenv  x\ncommand echo\nrun\n",
        b"vmbatch 1\nenv A $(touch $HOME/hacked)\ncommand echo\nrun\n",
        b"vmbatch 1\nenv A x'\ncommand echo\nrun\n",
        b"vmbatch 1\nenv A \\c\ncommand echo\nrun\n",
        b"vmbatch 1\nenv A \\\ncommand echo\nrun\n",
        b"vmbatch 1\nenv A \xff\ncommand echo\nrun\n",
        b"vmbatch 1\nfile `touch hacked`\nrun\n",
        b"vmbatch 1\r\ncommand echo\r\nrun\r\n",
        ALL_BYTES,
    ],
)
def test_refused(runs: Runs, lines: bytes) -> None:
    done = runs.job(lines)
    assert (done.returncode, done.stdout) == (125, b"")
    assert done.stderr.startswith(b"vmbatch: ") and done.stderr.count(b"\n") == 1
    assert list(Path(runs.environment["HOME"]).iterdir()) == []
    assert runs.status() == (0, b"125\n")


@pytest.mark.parametrize("id", ["", "..", "a/b", "A", "g", "1\n", "1 2", "*"])
def test_bad_id(runs: Runs, id: str) -> None:
    assert runs.job(request(command=b"echo"), id).returncode == 125
    assert runs.call("status.sh", id).returncode == 2
    assert runs.call("signal.sh", id, "TERM").returncode == 2
    assert list((runs.base / "job").iterdir()) == []


def test_an_id_is_used_once(runs: Runs) -> None:
    assert runs.job(request(command=b"exit 4")).returncode == 4
    assert runs.job(request(command=b"exit 5")).returncode == 125
    assert runs.status() == (0, b"4\n")


def test_login_proof(runs: Runs) -> None:
    done = runs.call("login.sh")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert (runs.base / "job/login").exists()


def hook(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_what_runs_around_the_job(runs: Runs) -> None:
    """The site's before the user's, in the order of their names, with the job's environment; not the job's input."""
    home = Path(runs.environment["HOME"])
    hook(runs.base / "before.d/20", "echo site 20 $NAME")
    hook(runs.base / "before.d/10", "echo site 10; cat")
    hook(home / ".vmbatch/prologue", "echo user; echo error >&2")
    hook(runs.base / "after.d/10", "echo after $VMBATCH_STATUS; false")
    hook(home / ".vmbatch/epilogue", "echo last")
    done = runs.job(request({"NAME": b"value"}, command=b"cat; exit 3") + b"input\n")
    assert (done.returncode, done.stdout) == (3, b"site 10\nsite 20 value\nuser\ninput\nafter 3\nlast\n")
    assert done.stderr == b"error\n"
    assert runs.status() == (0, b"3\n")


def test_a_hook_that_fails_keeps_the_job_from_running(runs: Runs) -> None:
    hook(runs.base / "before.d/10", "exit 9")
    done = runs.job(request(command=b"echo job"))
    assert (done.returncode, done.stdout) == (9, b"")
    assert done.stderr.decode() == f"vmbatch: {runs.base}/before.d/10 failed with status 9; the job was not run\n"
    assert runs.status() == (0, b"9\n")


def test_what_is_no_program_is_no_hook(runs: Runs) -> None:
    (runs.base / "before.d").mkdir()
    (runs.base / "before.d/README").write_text("exit 9\n")
    (Path(runs.environment["HOME"]) / ".vmbatch/prologue").mkdir(parents=True)
    assert runs.job(request(command=b"exit 4")).returncode == 4


def test_what_is_left_behind_dies_though_it_is_just_forking(runs: Runs) -> None:
    """A child that its parent makes between our look and our blow holds the job's output, too."""
    script = b"#!/bin/bash\nset -m\nsleep 1031 &\n(trap : TERM HUP; sleep 1031; sleep 1031) &\nexit 4\n"
    for number in range(6):
        assert runs.job(request(file=script), f"{number}").returncode == 4


def test_what_is_left_behind_dies_though_sed_gives_up(runs: Runs, tmp_path: Path) -> None:
    """As GNU sed does when one of the processes goes while it reads of them."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "sed").write_text(f'#!/bin/sh\ncase "$*" in */proc/*) [ -e {tmp_path}/2 ] || {{\n'
                                  f'    [ ! -e {tmp_path}/1 ] || touch {tmp_path}/2; touch {tmp_path}/1; exit 4; }} ;; esac\n'
                                  'exec /usr/bin/sed "$@"\n')
    (programs / "sed").chmod(0o755)
    runs.environment["PATH"] = f"{programs}:{os.defpath}"
    done = runs.job(request(file=b"#!/bin/bash\nset -m\nsleep 1032 &\nexit 4\n"))
    assert (done.returncode, done.stdout, done.stderr) == (4, b"", b"")
    assert (tmp_path / "2").exists() == (runs.shell != SHELLS["busybox"]), "busybox has a sed of its own"


@pytest.fixture
def dropbear(runs: Runs, tmp_path: Path) -> Runs:
    """The kit below a process of that name, in a guest that has 9p."""
    server = tmp_path / "dropbear"
    shutil.copy("/bin/dash", server)
    runs.shell = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /sys/fs && mkdir /sys/fs/9p && exec "$0" "$@"',
                  str(server), "-c", '"$@"; exit', "dropbear", *runs.shell]
    return runs


def test_dropbear_has_no_pipe_of_the_job(dropbear: Runs) -> None:
    done = dropbear.job(request(command=b"readlink /proc/self/fd/1 /proc/self/fd/2; ls /proc/self/fd; cat; exit 3") + b"input\n")
    pipes = "".join(f"{dropbear.in_run(name)}\n" for name in ("out", "err"))
    assert (done.returncode, done.stdout.decode(), done.stderr) == (3, f"{pipes}0\n1\n2\n3\ninput\n", b"")


def test_all_of_the_output_comes_through_dropbear(dropbear: Runs) -> None:
    done = dropbear.job(request(command=b"seq 200000; seq 100000 >&2; exit 5"))
    assert done.returncode == 5
    assert done.stdout.split() == [b"%d" % number for number in range(1, 200001)]
    assert done.stderr.split() == [b"%d" % number for number in range(1, 100001)]
    assert dropbear.status() == (0, b"5\n")


def test_what_is_left_behind_does_not_hold_dropbear(dropbear: Runs) -> None:
    done = dropbear.job(request(file=b"#!/bin/bash\nset -m\necho begun\nsleep 1033 &\nexit 4\n"))
    assert (done.returncode, done.stdout) == (4, b"begun\n")


def test_dropbear_tells_why_a_job_was_not_run(dropbear: Runs) -> None:
    hook(dropbear.base / "before.d/10", "exit 9")
    done = dropbear.job(request(command=b"echo job"))
    assert (done.returncode, done.stdout) == (9, b"")
    assert done.stderr.decode() == f"vmbatch: {dropbear.base}/before.d/10 failed with status 9; the job was not run\n"


def test_output_that_nobody_reads_below_dropbear(dropbear: Runs) -> None:
    process = dropbear.start(request(command=b"exec yes"))
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(60) == 128 + signal.SIGPIPE
    process.communicate()
