"""The request before a job's input, written from docs/architecture.md alone."""

PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789/._=:,+@%- ")


def escape(value: bytes) -> bytes:
    return b"".join(bytes([byte]) if byte in PLAIN else b"\\0%03o" % byte for byte in value)


def request(
    environment: dict[str, bytes] | None = None,
    *,
    cwd: bytes | None = None,
    login: bytes | None = None,
    file: bytes | None = None,
    args: bytes | None = None,
    command: bytes | None = None,
) -> bytes:
    lines = [b"vmbatch 1"]
    lines += [b"env %s %s" % (name.encode(), escape(value)) for name, value in (environment or {}).items()]
    for item, value in ((b"cwd", cwd), (b"shell", login), (b"args", args), (b"command", command)):
        if value is not None:
            lines.append(item + b" " + escape(value))
    if file is not None:
        lines += [b"file " + escape(file[start : start + 1000]) for start in range(0, len(file), 1000)]
    return b"".join(line + b"\n" for line in [*lines, b"run"])
