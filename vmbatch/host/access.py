"""How servers are reached; apart from `http`, which takes longer to load than most jobs need."""

import msgspec


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """How servers are reached; empty where there is none. `netrc` and the client's files are paths, timeouts in seconds."""

    proxy: str = ""
    no_proxy: tuple[str, ...] = ()
    ca_bundle: str = ""
    client_certificate: str = ""
    client_key: str = ""
    netrc: str = ""
    connect_timeout: float = 10.0
    read_timeout: float = 30.0
