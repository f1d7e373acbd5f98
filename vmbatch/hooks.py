"""The hooks' first steps. A native queue's job must hardly notice them: nothing is imported that Python has not loaded."""

import os
import sys

from . import native


def _standard_streams() -> None:
    """Torque may start hooks with closed streams; whatever is opened next would become one."""
    while (fd := os.open("/dev/null", os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)


def _site_hook() -> str | None:
    """The site's own hook beside ours, `prologue.site`; None if there is none. Exits as mom does for one it would not run."""
    path = sys.argv[0] + ".site"
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    if status.st_uid != 0 or status.st_mode & 0o022 or status.st_mode & 0o170000 != 0o100000 or not status.st_mode & 0o100:
        os.write(2, f"vmbatch: {path} must be a regular file of root, executable, and not to be changed by others\n".encode())
        os._exit(2)
    return path


def _native() -> None:
    """A job that is not ours: the site's own hook in our place, or nothing."""
    path = _site_hook()
    if path is not None:
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        os.execv(path, [path, *sys.argv[1:]])  # noqa: S606
    os._exit(0)


def _in_order() -> None:
    """Undoes what mom leaves behind for its children: descriptors, blocked signals, the user's groups."""
    import signal

    os.closerange(3, 1 << 20)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.setgroups([])
    os.umask(0o077)
    os.chdir("/")


def prologue() -> None:
    """`prologue` in mom_priv."""
    _standard_streams()
    queue = sys.argv[6] if len(sys.argv) > 6 else ""
    if not native.may_name_queue(queue):
        _native()
    _in_order()
    from .hooked import prologue as run

    os._exit(run(_site_hook()))


def epilogue() -> None:
    """`epilogue` in mom_priv. A journal counts for more than the configuration, which may have changed."""
    _standard_streams()
    queue = sys.argv[8] if len(sys.argv) > 8 else ""
    if not native.may_name_queue(queue) and not native.has_journal(sys.argv[1] if len(sys.argv) > 1 else ""):
        _native()
    _in_order()
    from .hooked import epilogue as run

    os._exit(run(_site_hook()))
