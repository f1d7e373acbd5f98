"""Root's way into the guests of a template."""

from ..host.rootssh import RootAccess
from ..template import RootSsh


def access(tag: RootSsh) -> RootAccess:
    """What the template says, for the door."""
    return RootAccess(key=tag.key, host_keys=(tag.host_key,) if tag.host_key else (), first_use=tag.first_use)
