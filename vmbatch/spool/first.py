"""A disk that the first job makes and fills, and on which all later jobs work: with `create='once'`."""

import contextlib
import os
import stat

from ..errors import CommandError, DeadlineError
from ..host import clock, file, process
from ..resource import Resource
from ..units import Deadline
from .directory import Directory

_FILLED = "filled"


class FirstFill(Resource, frozen=True, tag="first-fill"):
    """The right to fill the disk `ready`: the directory `path`, marked with the start's token; only one job can have it.

    The disk is made in there and filled by the job's guest. Released after a job that ran, it becomes `ready`, root's and
    read-only, for the group `readers` alone if there is one; after a start that failed, or a node that went down in the middle,
    it is gone and the next job is the first.
    """

    path: str
    token: str
    ready: str
    readers: int | None = None

    @property
    def disk(self) -> str:
        """Where the guest fills it."""
        return os.path.join(self.path, "disk")

    def acquire(self) -> None:
        """Makes the directory. NodeError if another job has it."""
        self._directory().acquire()

    def hand_over(self) -> None:
        """From now on the disk is worth keeping, as long as this boot of the node lasts."""
        file.write_new(os.path.join(self.path, _FILLED), self._filled(), 0o600)

    def release(self, deadline: Deadline, *, last: bool) -> None:
        """Publishes a disk that was filled, then removes the rest."""
        if self._is_filled():
            with contextlib.suppress(FileNotFoundError):
                self._publish(deadline)
        self._directory().release(deadline, last=last)

    def _publish(self, deadline: Deadline) -> None:
        """Gives the disk its name once it is on the disk; what cannot be written in time is lost."""
        try:
            process.run(["/usr/bin/sync", "--", self.disk], deadline)
            fd = os.open(self.disk, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except (CommandError, DeadlineError, OSError):
            return
        try:
            if stat.S_ISREG(os.fstat(fd).st_mode):
                file.give(fd, self.readers)
                os.rename(self.disk, self.ready)
                file.sync_directory(os.path.dirname(self.ready))
        finally:
            os.close(fd)

    def _directory(self) -> Directory:
        return Directory(self.path, self.token, 0o711)

    def _filled(self) -> bytes:
        return f"{self.token} {clock.boot_id()}".encode()

    def _is_filled(self) -> bool:
        try:
            directory = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            return file.read_hostile(directory, _FILLED, 200) == self._filled()
        finally:
            os.close(directory)

    def __str__(self) -> str:
        return f"first filling of {self.ready} in {self.path}"
