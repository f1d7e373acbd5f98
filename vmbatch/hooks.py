"""The hooks' first steps. A native queue's job must hardly notice them: nothing is imported that Python has not loaded."""

import os
import sys

from . import native

_REQUEUE = 2
_GARBAGE = 50_000
"""New objects after which Python looks for garbage: by itself it does so a hundred times while the real work is loaded."""


def _standard_streams() -> None:
    """Torque may start hooks with closed streams; whatever is opened next would become one."""
    while (fd := os.open("/dev/null", os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)


def _refuse(text: str) -> None:
    """Ends a hook that cannot do its work: a fault of the node, so that the job is not lost."""
    os.write(2, f"vmbatch: {text}\n".encode(errors="replace"))
    os._exit(_REQUEUE)


def _site_hook() -> str | None:
    """The site's own hook beside ours, `prologue.site`; None if there is none. Refuses one that mom would not run."""
    path = os.path.join(os.path.dirname(sys.argv[0]), f"{_plain_name()}.site")
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    if os.path.samefile(path, sys.argv[0]):  # a link to us, for `qsub -T site`
        return None
    if status.st_mode & 0o170000 != 0o100000 or not status.st_mode & 0o100 or not _is_roots(path):
        _refuse(f"{path} must be a regular file of root, executable, and not to be changed by others, nor a directory above it")
    return path


def _is_roots(path: str) -> bool:
    """Whether none but root can change a file or a directory above it: file.check_trusted, without what that loads."""
    place, shared = os.path.realpath(path), 0
    while True:
        mode = (status := os.stat(place)).st_mode
        if status.st_uid != 0 or (mode & 0o022 and not mode & shared):
            return False
        if place == "/":
            return True
        place, shared = os.path.dirname(place), 0o1000


def _plain_name() -> str:
    """Ours without a job type: `prologue` for `prologue.kvm`, on a sister `prologue.parallel` for `prologue.parallel.kvm`."""
    name = os.path.basename(sys.argv[0])
    plain = name.partition(".")[0]
    if plain not in ("prologue", "epilogue"):
        return name
    return f"{plain}.parallel" if name.startswith(f"{plain}.parallel") and not _first() else plain


def _native() -> None:
    """A job that is not ours: the site's own hook in our place, or nothing."""
    path = _site_hook()
    if path is not None:
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        os.execv(path, [path, *sys.argv[1:]])  # noqa: S606
    os._exit(0)


def _in_order() -> dict[str, object]:
    """Undoes what mom leaves behind for its children: descriptors, blocked signals, groups, environment, directory and umask.

    Returns what the site's own hook expects of that, as subprocess.Popen takes it; it closes no more than we do.
    """
    import gc
    import signal

    gc.set_threshold(_GARBAGE)
    _load_msgspec()
    os.closerange(3, 1 << 20)
    blocked = signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def signals() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    as_from_mom: dict[str, object] = {"cwd": os.getcwd(), "umask": os.umask(0o077), "extra_groups": os.getgroups(),
                                      "env": dict(os.environ), "restore_signals": False, "preexec_fn": signals}
    os.setgroups([])
    os.environ.clear()  # libraries have settings there, too
    os.environ["PATH"] = "/usr/sbin:/usr/bin:/sbin:/bin"
    os.chdir("/")
    return as_from_mom


def _load_msgspec() -> None:
    """Without typing_extensions, which it prefers where somebody has installed it: all that it takes from there typing has.

    That is a tenth of all that an epilogue loads (msgspec/_utils.py).
    """
    import typing

    sys.modules["typing_extensions"] = typing
    import msgspec  # noqa: F401

    del sys.modules["typing_extensions"]


def _run(batch: str, hook: str, queue: str | None, job_id: str, work: str = "") -> None:
    """Native jobs leave here; for all others, and where the queue is to be found out (None), the hook's real work begins.

    That is `work` of `hooked`, or what is called as the hook.
    """
    _standard_streams()
    try:
        native.uncoerce()
        if not sys.flags.isolated:
            _refuse(f"{sys.argv[0]} must run as `python3 -I`; have `vmbatch hooks` write it anew")
        if not _may_be_ours(queue) and not (hook == "epilogue" and native.has_journal(job_id)):
            _native()
        site = _site_hook()
        as_from_mom = _in_order()
        from . import hooked

        os._exit(getattr(hooked, work or hook)(batch, site, as_from_mom))
    except Exception as error:
        _refuse(f"the {hook} of job {job_id[:80]!r} cannot run: {error!r}")


def _may_be_ours(queue: str | None) -> bool:
    return os.path.exists(native.CONFIG) if queue is None else native.may_name_queue(queue)


def prologue() -> None:
    """`prologue` in mom_priv."""
    _prologue("")


def slurm_prolog() -> None:
    """`slurm-prolog`, Slurm's Prolog."""
    _run("slurm", "prologue", os.environ.get("SLURM_JOB_PARTITION", ""), os.environ.get("SLURM_JOB_ID", ""))


def slurm_epilog() -> None:
    """`slurm-epilog`, Slurm's Epilog."""
    _run("slurm", "epilogue", os.environ.get("SLURM_JOB_PARTITION", ""), os.environ.get("SLURM_JOB_ID", ""))


def epilogue() -> None:
    """`epilogue` in mom_priv. A journal counts for more than the configuration, which may have changed."""
    _epilogue("")


def openpbs_prologue() -> None:
    """OpenPBS's `prologue`, run by pbs_mom or by our hook in it."""
    job_id = sys.argv[1] if len(sys.argv) > 1 else ""
    _run("openpbs", "prologue", native.noted_queue(job_id), job_id)


def openpbs_epilogue() -> None:
    """OpenPBS's `epilogue`, run by pbs_mom or by our hook in it."""
    _run("openpbs", "epilogue", sys.argv[8] if len(sys.argv) > 8 else "", sys.argv[1] if len(sys.argv) > 1 else "")


def openpbs() -> None:
    """What our hook in pbs_mom asks for: `serves QUEUE` (exit status 0 or 3), `stop JOBID`, `release JOBID`."""
    _standard_streams()
    try:
        if not sys.flags.isolated:
            _refuse(f"{sys.argv[0]} must run as `python3 -I`; have `vmbatch hooks` write it anew")
        if len(sys.argv) != 3:
            _refuse(f"usage: {sys.argv[0]} serves QUEUE | stop JOBID | release JOBID")
        _in_order()
        from . import hooked

        os._exit(hooked.openpbs(*sys.argv[1:]))
    except Exception as error:
        _refuse(f"{sys.argv[0]} cannot run: {error!r}")


def health() -> None:
    """`health`: mom's $node_check_script, Slurm's HealthCheckProgram."""
    _standard_streams()
    try:
        if not sys.flags.isolated:
            _refuse(f"{sys.argv[0]} must run as `python3 -I`; have `vmbatch hooks` write it anew")
        as_from_mom = _in_order()
        from . import hooked

        os._exit(hooked.health(as_from_mom))
    except Exception as error:
        _refuse(f"{sys.argv[0]} cannot run: {error!r}")


def _prologue(work: str) -> None:
    _run("torque", "prologue", sys.argv[6] if len(sys.argv) > 6 else "", sys.argv[1] if len(sys.argv) > 1 else "", work)


def _epilogue(work: str) -> None:
    _run("torque", "epilogue", sys.argv[8] if len(sys.argv) > 8 else "", sys.argv[1] if len(sys.argv) > 1 else "", work)


def prologue_parallel() -> None:
    """`prologue.parallel` in mom_priv: at a job's sister nodes; with `qsub -T parallel` instead of `prologue` at the first."""
    _prologue("" if _first() else "sister_prologue")


def epilogue_parallel() -> None:
    """`epilogue.parallel` in mom_priv: as `prologue.parallel`."""
    _epilogue("" if _first() else "sister_epilogue")


def _first() -> bool:
    """Mom counts a job's nodes from 0."""
    return os.environ.get("PBS_NODENUM", "0") == "0"
