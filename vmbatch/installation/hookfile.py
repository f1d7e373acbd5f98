"""The hooks as files for a batch system: with the interpreter of this installation, isolated from everybody's environment."""

import os
import re
import sys
import sysconfig
import tempfile

from .. import digest, native
from ..errors import CommandError, SiteError
from ..host import file, process
from ..shell.environment import PREFIX
from ..units import Deadline

HOOKS = ("prologue", "epilogue", "prologue.parallel", "epilogue.parallel", "remoteshell", "submitfilter", "pygrub-vmbatch",
         "slurm-prolog", "slurm-epilog", "slurm-task", "health")
OPENPBS_HOOKS = ("openpbs/prologue", "openpbs/epilogue", "openpbs/openpbs", "remoteshell")
_SHEBANG_LIMIT = 127
"""What Linux reads of a `#!` line for sure (fs/binfmt_script.c)."""
_OURS = re.compile(rb"^from vmbatch\.[\w.]+ import |made by vmbatch from [0-9a-f]{64}|^\"\"\"VmBatch's hook for ", re.MULTILINE)
_COMPILER_SECONDS = 60.0
_CHECK_SECONDS = 20.0


def hook(name: str, interpreter: str) -> bytes:
    """The text of a hook. pip keeps scripts as they are only outside `bin`: there it would drop `-I`. SiteError."""
    line = f"#!{interpreter} -I\n".encode()
    if len(line) > _SHEBANG_LIMIT or b" " in line[: -len(" -I\n")]:
        raise SiteError(f"{interpreter} cannot stand in the first line of a script",
                        "install VmBatch below a shorter path without blanks", code="VB916")
    with open(os.path.join(sysconfig.get_path("data"), "share/vmbatch", name), "rb") as source:
        return line + source.read().split(b"\n", 1)[1]


def starter_code(interpreter: str) -> str:
    """What the starter has Python do: our packages' directories are named, as Python's own search for them takes time."""
    prefix = os.path.dirname(os.path.dirname(interpreter))
    paths = [prefix + path[len(sys.prefix):] if path.startswith(f"{sys.prefix}/") else path
             for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    return f"import sys; sys.path += {paths!r}; from vmbatch.remoteshell import main; main(True)"


def starter_source(interpreter: str) -> bytes:
    """remoteshell's starter in C, for that interpreter."""
    with open(os.path.join(os.path.dirname(os.path.dirname(__file__)), "shell/starter.c"), "rb") as template:
        text = template.read()
    words = {b"@PREFIX@": PREFIX, b"@CONFIG@": os.fsencode(native.CONFIG), b"@INTERPRETER@": os.fsencode(interpreter),
             b"@CODE@": starter_code(interpreter).encode()}
    for name, value in words.items():
        text = text.replace(name, c_string(value))
    return text.replace(b"@MARK@", c_string(_mark(text)))


def _mark(text: bytes) -> bytes:
    """Stands in the program, by which it is known what it was made from."""
    return f"made by vmbatch from {digest.of_bytes(text)}".encode()


def c_string(value: bytes) -> bytes:
    """A string literal of C."""
    plain = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 /._-:;,+=[]()'")
    return b'"' + b"".join(bytes((byte,)) if byte in plain else b"\\%03o" % byte for byte in value) + b'"'


def is_ours(text: bytes) -> bool:
    """Whether a file is a hook of VmBatch's, of any version."""
    return _OURS.search(text) is not None


def is_made_from(program: bytes, source: bytes) -> bool:
    """Whether a compiled starter is of that source."""
    found = re.search(rb"made by vmbatch from [0-9a-f]{64}", source)
    return found is not None and found[0] in program


def compile_starter(interpreter: str) -> bytes:
    """remoteshell as a static program. SiteError without a C compiler or a static C library."""
    compiler = process.find("cc") or process.find("gcc")
    if compiler is None:
        raise SiteError("there is no C compiler", "install gcc and the static C library (Debian: gcc libc6-dev)", code="VB916")
    with tempfile.TemporaryDirectory(prefix="vmbatch-hooks-") as place:
        source, made = os.path.join(place, "starter.c"), os.path.join(place, "starter")
        with open(source, "wb") as text:
            text.write(starter_source(interpreter))
        try:
            process.run([compiler, "-std=c99", "-O2", "-Wall", "-Wextra", "-static", "-s", "-o", made, source],
                        Deadline(_COMPILER_SECONDS))
        except CommandError as error:
            raise SiteError(f"{error}", "install the static C library (Debian: libc6-dev; others: glibc-static)",
                            code="VB916") from None
        with open(made, "rb") as program:
            return program.read()


def openpbs_hook(directory: str) -> bytes:
    """The text of the hook for pbs_mom, which finds the others in `directory`."""
    with open(os.path.join(sysconfig.get_path("data"), "share/vmbatch/openpbs/vmbatch_hook.py"), "rb") as source:
        before, line, behind = source.read().partition(b'\nDIRECTORY = "/var/spool/pbs/mom_priv"\n')
    if not line:
        raise SiteError("VmBatch's hook for OpenPBS is not as it was installed", "install VmBatch again", code="VB916")
    return before + f"\nDIRECTORY = {directory!r}\n".encode() + behind


def interpreter_of(prefix: str) -> str:
    """The Python of an installation, by the name that hooks have for it."""
    return os.path.join(prefix, "bin/python3")


def texts(names: tuple[str, ...], directory: str, prefix: str = sys.prefix) -> tuple[dict[str, bytes], str]:
    """The hooks of VmBatch at `prefix` by their paths in `directory`, and why remoteshell is only a script, if so. SiteError.

    A compiled remoteshell that is there already, of the same source, is taken as it is: a node may lack the compiler.
    """
    interpreter = interpreter_of(prefix)
    found = {os.path.join(directory, os.path.basename(name)): hook(name, interpreter) for name in names}
    path, why = os.path.join(directory, "remoteshell"), ""
    try:
        there = file.read_trusted(path) if os.path.isfile(path) else b""
        if prefix == sys.prefix:
            process.run([interpreter, "-I", "-S", "-c", starter_code(interpreter).replace("main(True)", "main")],
                        Deadline(_CHECK_SECONDS))
        made = is_made_from(there, starter_source(interpreter))
        found[path] = there if made else compile_starter(interpreter)
    except (SiteError, CommandError) as error:
        why = "; ".join(error.lines())
    return found, why


def write_hooks(directory: str, *, openpbs: bool = False, prefix: str = sys.prefix) -> tuple[list[str], str]:
    """Writes all hooks, executable for everybody and root's; (their paths, why remoteshell is only a script if so). SiteError."""
    found, why = texts(OPENPBS_HOOKS if openpbs else HOOKS, directory, prefix)
    for path, text in found.items():
        file.replace(path, text, 0o755)
    if openpbs:
        path = os.path.join(directory, "vmbatch_hook.py")
        file.replace(path, openpbs_hook(os.path.abspath(directory)), 0o644)
        return [*found, path], why
    return list(found), why
