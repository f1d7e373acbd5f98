"""A private download: the job's own image, which nobody else sees and nothing keeps."""

import os
import time

from ..errors import NodeError, SiteError
from ..format import FormatError
from ..host import http
from ..resource import Piece, Work
from ..template import ImageSource
from ..units import format_size
from . import local, remote, transfer
from .progress import Progress
from .terms import Terms


class Download(Piece, frozen=True, tag="download"):
    """The image of `source` at `path`, of at most `most` bytes, where `keep_free` bytes must remain."""

    source: ImageSource
    path: str
    most: int
    keep_free: int
    terms: Terms

    def make(self, work: Work) -> None:
        """Downloads, and checks before anybody uses it."""
        begin = time.monotonic()
        try:
            fetched = transfer.fetch(
                transfer.Source(self.source.places, self.source.compression), f"{self.path}.part", self.path,
                access=self.terms.access, allowed=None, algorithms=remote.algorithms(self.source),
                limit=min(self.most, self.terms.largest), deadline=work.deadline.earlier(self.terms.transfer),
                alive=work.alive, room=self._room, known=None,
                progress=work.progress or Progress(work.say, name=http.shown(self.source.places[0])))
        except FormatError as error:
            raise SiteError(f"the image {http.shown(self.source.places[0])} {error.what}", error.hint, code="VB303") from None
        if fetched is None:
            raise NodeError(f"{http.shown(self.source.places[0])}: the server sends no image", code="VB304")
        remote.verify(self.source, self.path, fetched, self.terms, work)
        known = local.known(self.path, self.source.format, self.terms.largest,
                            lambda what, hint: SiteError(f"the image {http.shown(self.source.places[0])} {what}", hint,
                                                         code="VB303"))
        if known.chained:
            raise SiteError(f"the image {http.shown(self.source.places[0])} is a differencing VHD, and its parent is not here",
                            code="VB303")
        work.say(f"downloaded {fetched.moved >> 20} MiB in {time.monotonic() - begin:.1f} s")

    def _room(self, coming: int) -> None:
        if coming > self.most:
            raise SiteError(f"the job's images take more than [spool] job_limit = {format_size(self.most)}",
                            "use copy_method='shared'", code="VB402")
        space = os.statvfs(os.path.dirname(self.path))
        if coming + self.keep_free > space.f_bavail * space.f_frsize:
            raise NodeError(f"{os.path.dirname(self.path)} has no room for {coming >> 20} MiB",
                            "see [spool] keep_free, or use copy_method='shared'", code="VB310")

    def __str__(self) -> str:
        return f"private download {self.path} of {' '.join(http.shown(place) for place in self.source.places)}"
