"""How images are obtained on this node: what the configuration says, as the family needs it."""

import msgspec

from ..config import Config
from ..host.access import Access
from ..units import Deadline


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes and seconds; `access` is for the site's images, `bare` for users', which get none of the site's credentials.

    `readers` is the group that reads what is a user's own; None where everybody can who knows its name.
    """

    directory: str
    limit: int
    keep_free: int
    largest: int
    recheck: float
    transfer: float
    wait: float
    access: Access
    bare: Access
    programs: tuple[str, ...]
    account: str
    sources: tuple[str, ...]
    user_largest: int
    user_limit: int
    user_cpu: int
    user_memory: int
    user_digests: tuple[str, ...]
    signers: str
    authorities: str
    readers: int | None = None

    def waiting(self, deadline: Deadline) -> Deadline:
        """Until when to wait for another job."""
        return deadline.earlier(self.wait)


def terms(config: Config) -> Terms:
    """From the configuration."""
    access = Access(
        proxy=config.images_proxy, no_proxy=config.images_no_proxy, ca_bundle=config.images_ca_bundle,
        client_certificate=config.images_client_certificate, client_key=config.images_client_key, netrc=config.images_netrc,
        connect_timeout=config.images_connect, read_timeout=config.images_read,
    )
    return Terms(
        directory=config.images_directory, limit=config.images_limit, keep_free=config.images_keep_free,
        largest=config.images_largest, recheck=config.images_recheck, transfer=config.images_transfer, wait=config.images_wait,
        access=access, bare=msgspec.structs.replace(access, client_certificate="", client_key="", netrc=""),
        programs=config.images_hash_programs, account=config.images_account,
        sources=config.userimages_sources, user_largest=config.userimages_largest, user_limit=config.userimages_limit,
        user_cpu=int(config.userimages_cpu), user_memory=config.userimages_memory, user_digests=config.userimages_digests,
        signers=config.userimages_signers, authorities=config.userimages_authorities,
    )
