"""What an NFS server shows, asked without a mount: RPC (RFC 5531), and as much of NFS 4.1 (RFC 8881) as that takes."""

import contextlib
import os
import secrets
import socket
import struct

from ..errors import NodeError
from ..units import Deadline

PORT = 2049
_PROGRAM = 100003
_NULL, _COMPOUND = 0, 1
_AUTH_NONE, _AUTH_SYS = 0, 1
_EXCHANGE_ID, _CREATE_SESSION, _SEQUENCE, _PUTROOTFH, _LOOKUP = 42, 43, 53, 24, 15
_DESTROY_SESSION, _DESTROY_CLIENTID = 44, 57
_RESERVED = range(1023, 699, -1)
"""Ports that only root has, from which a server may insist that it is asked."""
_LIMIT = 1 << 16
OLD = 10021
"""NFS4ERR_MINOR_VERS_MISMATCH: of servers that know NFS 4.0 alone, or 4.2 alone."""
_HINT = "does its NFS server run, and can this node reach it?"
_WORDS = {1: "does not let this node in", 2: "has nothing there", 5: "cannot read it", 13: "does not let this node in",
          10016: "wants another security than sec=sys", OLD: "knows no NFS 4.1"}
"""nfsstat4 (RFC 8881, 15.1)."""


class NotShownError(NodeError):
    """The server answers, and says no; `status` is an nfsstat4."""

    code = "VB606"

    def __init__(self, server: str, path: str, status: int) -> None:
        super().__init__(f"the NFS server {server}, asked for {path}, {_WORDS.get(status, f'answers with error {status}')}")
        self.status = status


def ping(server: str, version: int, deadline: Deadline) -> None:
    """NodeError unless an NFS server of this version answers."""
    with _connection(server, deadline) as peer:
        _call(peer, version, _NULL, b"", server)


def check(server: str, path: str, deadline: Deadline) -> None:
    """NotShownError unless the server shows the directory `path` to this node, NodeError if it does not answer."""
    try:
        _find(server, path, deadline)
    except struct.error:
        raise NodeError(f"the NFS server {server} answers what is not NFS 4.1", code="VB606") from None


def _find(server: str, path: str, deadline: Deadline) -> None:
    with _connection(server, deadline) as peer:
        owner = _opaque(b"vmbatch-" + secrets.token_hex(8).encode())
        found = _compound(peer, server, path, _EXCHANGE_ID, secrets.token_bytes(8) + owner + struct.pack(">III", 0, 0, 0))
        client, sequence = struct.unpack_from(">QI", found)
        channel = struct.pack(">IIIIIII", 0, _LIMIT, _LIMIT, 4096, 16, 1, 0)
        session = _compound(peer, server, path, _CREATE_SESSION, struct.pack(">QII", client, sequence, 0) + channel * 2
                            + struct.pack(">III", 0x40000000, 1, _AUTH_NONE))[:16]
        try:
            names = [os.fsencode(name) for name in path.split("/") if name]
            steps = session + struct.pack(">IIIII", 1, 0, 0, 0, _PUTROOTFH)
            steps += b"".join(struct.pack(">I", _LOOKUP) + _opaque(name) for name in names)
            _compound(peer, server, path, _SEQUENCE, steps, 2 + len(names))
        finally:
            with contextlib.suppress(NodeError, OSError):
                _compound(peer, server, path, _DESTROY_SESSION, session)
                _compound(peer, server, path, _DESTROY_CLIENTID, struct.pack(">Q", client))


def _compound(peer: socket.socket, server: str, path: str, operation: int, arguments: bytes, count: int = 1) -> bytes:
    """What the first operation of a COMPOUND gives, behind its status. NotShownError unless all succeed."""
    said = _call(peer, 4, _COMPOUND, struct.pack(">IIII", 0, 1, count, operation) + arguments, server)
    status, tag = struct.unpack_from(">II", said)
    if status:
        raise NotShownError(server, path, status)
    return said[8 + -(-tag // 4) * 4 + 12:]


def _call(peer: socket.socket, version: int, procedure: int, arguments: bytes, server: str) -> bytes:
    """The answer to one call; a record is one fragment, as servers send short ones. NodeError."""
    number = secrets.randbits(32)
    credential = struct.pack(">I", 0) + _opaque(os.uname().nodename.encode()[:255]) + struct.pack(">III", 0, 0, 0)
    call = struct.pack(">IIIIII", number, 0, 2, _PROGRAM, version, procedure)
    call += struct.pack(">I", _AUTH_SYS) + _opaque(credential) + struct.pack(">II", _AUTH_NONE, 0) + arguments
    try:
        peer.sendall(struct.pack(">I", 0x80000000 | len(call)) + call)
        length = struct.unpack(">I", _read(peer, 4))[0] & 0x7FFFFFFF
        answer = _read(peer, min(length, 4 * _LIMIT))
        same, kind, state = struct.unpack_from(">III", answer)
        verifier = struct.unpack_from(">II", answer, 12)[1]
        accepted = struct.unpack_from(">I", answer, 20 + -(-verifier // 4) * 4)[0] if state == 0 else -1
    except (OSError, struct.error) as error:
        raise NodeError(f"the NFS server {server} does not answer: {getattr(error, 'strerror', '') or error}", _HINT,
                        code="VB606") from None
    if (same, kind, state, accepted) != (number, 1, 0, 0):
        raise NodeError(f"the NFS server {server} does not take calls of NFS {version} from this node", code="VB606")
    return answer[24 + -(-verifier // 4) * 4:]


def _read(peer: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        piece = peer.recv(length - len(data))
        if not piece:
            raise OSError("it ended the connection")
        data += piece
    return data


def _opaque(data: bytes) -> bytes:
    """XDR's variable-length bytes (RFC 4506, 4.10)."""
    return struct.pack(">I", len(data)) + data + bytes(-len(data) % 4)


def _connection(server: str, deadline: Deadline) -> socket.socket:
    """From a port that only root has, where this is root. NodeError."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(server, PORT, type=socket.SOCK_STREAM)[0]
        peer = socket.socket(family, kind, protocol)
    except OSError as error:
        raise NodeError(f"the NFS server {server} is not known: {error.strerror}",
                        "correct [share] source, or see the node's DNS", code="VB606") from None
    peer.settimeout(max(0.1, deadline.left()))
    for port in _RESERVED:
        with contextlib.suppress(OSError):
            peer.bind(("", port))
            break
    try:
        peer.connect(place)
    except OSError as error:
        peer.close()
        raise NodeError(f"the NFS server {server} does not answer: {error.strerror or error}", _HINT, code="VB606") from None
    return peer
