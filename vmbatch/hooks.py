"""The hooks' first steps. A native queue's job must hardly notice them: nothing is imported that Python has not loaded."""

import os
import sys

from . import native

_REQUEUE = 2


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
    path = sys.argv[0] + ".site"
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    if status.st_uid != 0 or status.st_mode & 0o022 or status.st_mode & 0o170000 != 0o100000 or not status.st_mode & 0o100:
        _refuse(f"{path} must be a regular file of root, executable, and not to be changed by others")
    return path


def _native() -> None:
    """A job that is not ours: the site's own hook in our place, or nothing."""
    path = _site_hook()
    if path is not None:
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        os.execv(path, [path, *sys.argv[1:]])  # noqa: S606
    os._exit(0)


def _in_order() -> dict[str, object]:
    """Undoes what mom leaves behind for its children: descriptors, blocked signals, the user's groups, directory and umask.

    Returns the latter three, which the site's own hook expects, as subprocess.Popen takes them.
    """
    import signal

    os.closerange(3, 1 << 20)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    as_from_mom: dict[str, object] = {"cwd": os.getcwd(), "umask": os.umask(0o077), "extra_groups": os.getgroups()}
    os.setgroups([])
    os.chdir("/")
    return as_from_mom


def _run(batch: str, hook: str, queue: str, job_id: str, work: str) -> None:
    """Native jobs leave here; for all others the hook's real work begins: `work` of `hooked`, or what is called as the hook."""
    _standard_streams()
    try:
        if not sys.flags.isolated:
            _refuse(f"{sys.argv[0]} must run as `python3 -I`; have `vmbatch hooks` write it anew")
        if not native.may_name_queue(queue) and not (hook == "epilogue" and native.has_journal(job_id)):
            _native()
        as_from_mom = _in_order()
        from . import hooked

        os._exit(getattr(hooked, work or hook)(batch, _site_hook(), as_from_mom))
    except Exception as error:
        _refuse(f"the {hook} of job {job_id[:80]!r} cannot run: {error!r}")


def prologue() -> None:
    """`prologue` in mom_priv."""
    _prologue("")


def epilogue() -> None:
    """`epilogue` in mom_priv. A journal counts for more than the configuration, which may have changed."""
    _epilogue("")


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
