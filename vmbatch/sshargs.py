"""The arguments of OpenSSH's client towards a guest, for prologue and job shell alike."""

SSH = "/usr/bin/ssh"
WITH_PARENT = ("/usr/bin/setpriv", "--pdeathsig=KILL", "--")
"""Has a program die with the one that starts it (util-linux)."""
HANDOVER = "/run/vmbatch/handover"


def client(handover: str, alias: str, key: str = "", known_hosts: str = "") -> list[str]:
    """ssh with the job's key and the guest's pinned host key, and nothing of the node's or the user's configuration.

    `key`: another copy of the job's key than the user's own. `known_hosts`: where the Ed25519 host key is instead.
    """
    options = {
        "BatchMode": "yes",
        "ConnectTimeout": "30",
        "ForwardAgent": "no",
        "ForwardX11": "no",
        "GlobalKnownHostsFile": "/dev/null",
        "HostKeyAlias": alias,
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "IdentityFile": key or f"{handover}/id_ed25519",
        "KexAlgorithms": "^curve25519-sha256",
        "LogLevel": "ERROR",
        "PreferredAuthentications": "publickey",
        "ServerAliveCountMax": "8",
        "ServerAliveInterval": "15",
        "StrictHostKeyChecking": "yes",
        "UpdateHostKeys": "no",
        "UserKnownHostsFile": known_hosts or f"{handover}/known_hosts",
    }
    if known_hosts:
        options["HostKeyAlgorithms"] = "ssh-ed25519"
    return [SSH, "-F", "none", "-e", "none", *(f"-o{name}={value}" for name, value in options.items())]


def target(user: str, address: str, port: int = 22) -> list[str]:
    """Where to: the end of ssh's own arguments."""
    return ["-l", user, "-p", str(port), "--", address]  # without -p ssh looks the port up
