"""The door to a guest's root by ssh: a connection that is tried until the guest is up, and commands of ours in it."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import select
import socket
import threading
import time
from binascii import Error as Base64Error
from binascii import a2b_base64
from collections.abc import Callable, Iterable
from io import StringIO
from typing import TYPE_CHECKING, TypeVar

import msgspec

from ..errors import DeadlineError, NodeError, SiteError
from ..guest import printable
from ..resource import Work
from ..units import Deadline
from . import file

if TYPE_CHECKING:
    from types import TracebackType

    from paramiko import Channel, PKey, Transport

T = TypeVar("T")
_ALIVE_SECONDS = 0.2
_DIAL_SECONDS = 10.0
_BANNER_SECONDS = 30.0
_HANDSHAKE_SECONDS = 60.0
"""A guest that is emulated, or on a busy node, takes its time; the deadline is shorter than any of these where it matters."""
_KEEPALIVE_SECONDS = 15
"""A guest that was rebooted while we only listen answers the next packet with a reset."""
_LATE_OUTPUT_SECONDS = 1.0
_PAUSES = {"down": (0.25, 0.4, 0.6, 1.0), "cut": (0.5, 1.0, 2.0), "refused": (1.0, 2.0, 5.0)}
"""Before the next attempt. A refused key costs 5 s of penalty, and above 15 s OpenSSH locks out (sshd_config(5),
PerSourcePenalties)."""
_TAIL = 16 << 10
_OUTPUT = 256 << 10
_FLOOD_BEFORE = 64 << 10
_FLOOD = 1 << 20
_HOST_KEY = {
    "ssh-ed25519": ("ssh-ed25519",),
    "ecdsa-sha2-nistp256": ("ecdsa-sha2-nistp256",),
    "ecdsa-sha2-nistp384": ("ecdsa-sha2-nistp384",),
    "ecdsa-sha2-nistp521": ("ecdsa-sha2-nistp521",),
    "ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256", "ssh-rsa"),
}
"""The signature algorithms of each type of host key (RFC 8332: an RSA key has several)."""

_UNTOLD = ("transport shut down or saw EOF", "Negotiation failed.", "No existing session", "Channel closed.")
"""What paramiko says where it knows no more than that the connection ended."""


class RootAccess(msgspec.Struct, frozen=True, kw_only=True):
    """How root gets in: the path of the private key, and what the guest's host key must be, as lines `ssh-ed25519 AAAA...`.

    With `first_use` and no host key whatever the guest shows first is taken.
    """

    key: str
    host_keys: tuple[str, ...] = ()
    first_use: bool = False
    port: int = 22


class DroppedError(NodeError):
    """The connection ended while something was under way; nobody knows how far it got."""

    code = "VB506"


class Outcome(msgspec.Struct, frozen=True):
    """How a command ended: its exit status, -1 for a death by signal, and the end of what it wrote, made printable."""

    status: int
    lines: tuple[str, ...]


class _AgainError(Exception):
    """An attempt failed in a way that time may mend; `kind` is one of `_PAUSES`."""

    def __init__(self, kind: str, cause: str) -> None:
        super().__init__(cause)
        self.kind = kind


def check(access: RootAccess) -> None:
    """What would make every attempt fail, before there is a guest. SiteError."""
    load_key(access.key)
    for line in access.host_keys:
        parse_host_key(line)
    if bool(access.host_keys) == access.first_use:
        raise SiteError("root's ssh needs the guest's host key, or leave to trust the first one, and not both",
                        "see <vbrootssh hostkey='...' firstuse='...'>", code="VB507")


def parse_host_key(line: str) -> tuple[str, bytes]:
    """(type, key) of a public key line of OpenSSH (sshd(8), AUTHORIZED_KEYS FILE FORMAT, without options). SiteError."""
    words = line.split()
    kind = words[0] if words else ""
    if kind not in _HOST_KEY:
        raise SiteError(f"{line[:60]!r} is not a host key as in /etc/ssh/ssh_host_ed25519_key.pub",
                        f"it begins with one of {', '.join(_HOST_KEY)}", code="VB507")
    try:
        blob = a2b_base64(words[1] if len(words) > 1 else "", strict_mode=True)
    except Base64Error:
        blob = b""
    name = kind.encode()
    if not blob.startswith(len(name).to_bytes(4, "big") + name) or len(blob) < len(name) + 36:
        raise SiteError(f"the host key {line[:60]!r} is not whole", "copy the line of the guest's .pub file", code="VB507")
    return kind, blob


def load_key(path: str) -> PKey:
    """Root's private key, which nobody but root may read. SiteError."""
    import paramiko

    text = file.read_trusted(path).decode("ascii", "replace")
    file.check_secret(path)
    locked = "-----BEGIN ENCRYPTED PRIVATE KEY-----" in text
    for kind in (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey):
        try:
            return kind.from_private_key(StringIO(text))
        except paramiko.PasswordRequiredException:
            locked = True
        except Exception:  # noqa: S112  each reads its own type, and fails in many ways on others
            continue
    if locked:
        raise SiteError(f"the private key {path} has a passphrase, and nobody is there to type it",
                        f"ssh-keygen -p -N '' -f {path}", code="VB507")
    raise SiteError(f"{path} is not a private key of type ed25519, ecdsa or rsa in OpenSSH's form",
                    "make one with ssh-keygen -t ed25519", code="VB507")


def pause(seconds: float, work: Work) -> None:
    """Waits, but not beyond the deadline."""
    over = work.deadline.earlier(seconds)
    while not over.passed():
        work.alive()
        time.sleep(min(_ALIVE_SECONDS, over.left()))


class Connection:
    """A login as root at `address`, which is a number; `host_key` is the guest's, as OpenSSH writes it."""

    def __init__(self, address: str, access: RootAccess, work: Work, cause: str = "nothing has answered yet") -> None:
        """`cause` is what is in the way so far."""
        self.host_key = ""
        self._address = address
        self._access = access
        self._work = work
        self._pinned = dict(parse_host_key(line)[::-1] for line in access.host_keys)
        self._transport: Transport | None = None
        self._socket: _Counted | None = None
        self._cause = cause
        self._refused = False

    def __enter__(self) -> Connection:
        """Connects. DeadlineError says what was last in the way; NodeError and SiteError are what time does not mend."""
        check(self._access)
        key = load_key(self._access.key)
        failures = 0
        while True:
            try:
                self._attempt(key)
            except _AgainError as error:
                self.close()
                failures = failures + 1 if str(error) == self._cause else 1
                if failures == 1:
                    self._cause = str(error)
                    self._work.say(f"ssh to {self._address}: {self._cause}; trying again")
                self._refused = error.kind == "refused"
                pauses = _PAUSES[error.kind]
                pause(pauses[min(failures, len(pauses)) - 1], self._work)
                self._check()
            except BaseException:
                self.close()
                raise
            else:
                self._refused = False
                return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection, whatever it is doing."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)  # wakes whoever waits in another thread
        if self._transport is not None:
            self._transport.close()
            self._transport.join(1.0)
        if self._socket is not None:
            self._socket.close()
        self._socket = self._transport = None

    def run(self, command: str, feed: Iterable[bytes] | None = None) -> Outcome:
        """Runs a command with `feed` as its input. DroppedError, NodeError, DeadlineError, and what feed or `alive` raises."""
        self._cause = "a command in the guest has not ended"
        return self._watched(lambda: self._run(command, feed))

    def _check(self) -> None:
        self._work.alive()
        if not self._work.deadline.passed():
            return
        if self._refused:
            raise SiteError(f"the guest at {self._address} does not let root in: {self._cause}",
                            f"its image must have the public half of {self._access.key} for root, and an sshd that takes it",
                            code="VB506")
        raise DeadlineError(f"root's ssh to the guest at {self._address} was not done in time: {self._cause}", code="VB506")

    def _watched(self, call: Callable[[], T]) -> T:
        """Does what may block in another thread; cuts the connection at the deadline, and when `alive` raises."""
        results: list[T] = []
        errors: list[BaseException] = []

        def work() -> None:
            try:
                results.append(call())
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=work, name="root's ssh", daemon=True)
        thread.start()
        try:
            while thread.is_alive():
                thread.join(_ALIVE_SECONDS)
                if thread.is_alive():
                    self._check()
        except BaseException:
            self.close()
            thread.join(1.0)
            raise
        if errors:
            raise errors[0]
        return results[0]

    def _attempt(self, key: PKey) -> None:
        self._check()
        self._socket = counted = _Counted(self._dial())
        try:
            self._watched(lambda: self._log_in(counted, key))
        except _AgainError:
            if counted.flooded:
                raise NodeError(f"what answers at {self._address} port {self._access.port} sends without end, "
                                "and is not an sshd", code="VB506") from None
            raise

    def _dial(self) -> socket.socket:
        """A connected socket. _AgainError."""
        try:
            number = ipaddress.ip_address(self._address)
        except ValueError:
            raise NodeError(f"{self._address[:60]!r} is not the address of a guest", code="VB506") from None
        dialled = socket.socket(socket.AF_INET6 if number.version == 6 else socket.AF_INET, socket.SOCK_STREAM)
        try:
            dialled.setblocking(False)
            status = dialled.connect_ex((str(number), self._access.port))
            over = self._work.deadline.earlier(_DIAL_SECONDS)
            while status == errno.EINPROGRESS:
                if select.select([], [dialled], [], min(_ALIVE_SECONDS, over.left()))[1]:
                    status = dialled.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    break
                self._check()
                if over.passed():
                    status = errno.ETIMEDOUT
            if status:
                raise _AgainError("down", os.strerror(status).lower())
            dialled.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except BaseException:
            dialled.close()
            raise
        return dialled

    def _log_in(self, counted: _Counted, key: PKey) -> None:
        """Handshake, host key, key of root; in the other thread. _AgainError, SiteError, NodeError."""
        import paramiko

        _quiet()
        transport = paramiko.Transport(counted)
        self._transport = transport
        transport.banner_timeout = _BANNER_SECONDS
        transport.handshake_timeout = _HANDSHAKE_SECONDS
        transport.auth_timeout = _HANDSHAKE_SECONDS
        options = transport.get_security_options()
        kinds = self._pinned.values() if self._pinned else _HOST_KEY
        wanted = [name for kind in kinds for name in _HOST_KEY[kind]]
        options.key_types = tuple(name for name in dict.fromkeys(wanted) if name in options.key_types)
        try:
            transport.start_client(timeout=_HANDSHAKE_SECONDS + _BANNER_SECONDS)
            shown = transport.get_remote_server_key()
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise self._judged(error, counted) from None
        counted.limit = _FLOOD
        if self._pinned and shown.asbytes() not in self._pinned:
            raise SiteError(f"the guest at {self._address} shows another host key than the pinned one: "
                            f"{_shown(shown)}", "correct <vbrootssh hostkey='...'>, or find out who answers there", code="VB506")
        try:
            transport.auth_publickey("root", key)
        except paramiko.BadAuthenticationType as error:
            raise _AgainError("refused", f"its sshd takes no key of root's, only {_listed(error.allowed_types)}") from None
        except (paramiko.SSHException, OSError, EOFError) as error:
            if str(error).rstrip(".") == "Authentication failed":
                raise _AgainError("refused", f"its sshd refuses root's key {_shown(key)}") from None
            raise _AgainError("cut", f"the connection ended during the login{_reason(error)}") from None
        if not transport.is_authenticated():
            raise _AgainError("refused", "its sshd wants more of root than a key")
        transport.set_keepalive(_KEEPALIVE_SECONDS)
        self.host_key = f"{shown.get_name()} {shown.get_base64()}"

    def _judged(self, error: Exception, counted: _Counted) -> Exception:
        """What a failed handshake means: whether to try again, in words."""
        from paramiko.ssh_exception import IncompatiblePeer

        text = str(error)
        place = f"what answers at {self._address} port {self._access.port}"
        if isinstance(error, IncompatiblePeer):
            if "host key" in text and self._pinned:
                return SiteError(f"the guest at {self._address} has no host key of the pinned type "
                                 f"({_listed(sorted(set(self._pinned.values())))})", "correct <vbrootssh hostkey='...'>",
                                 code="VB506")
            if text.startswith("Incompatible version"):
                return SiteError(f"{place} speaks an ssh older than version 2", "use CDROM or DISK for such a guest",
                                 code="VB506")
            return SiteError(f"the guest's sshd at {self._address} and VmBatch have no algorithm in common: {_clean(text)}",
                             "it may be too old, with SHA-1 alone: use CDROM or DISK for such a guest", code="VB506")
        if text.startswith("Indecipherable protocol") or text == "Invalid SSH banner":
            said = text.partition('"')[2][:-1]
            return SiteError(f"{place} is not an sshd; it says {_clean(said)!r}", "see <vbrootssh port='...'>", code="VB506")
        if text.startswith("Error reading SSH protocol banner"):
            return _AgainError("cut", "sshd ends the connection before its first word" if counted.ended else "sshd says nothing")
        return _AgainError("cut", f"the connection ended in its handshake{_reason(error)}")

    def _run(self, command: str, feed: Iterable[bytes] | None) -> Outcome:
        import paramiko

        transport, counted = self._transport, self._socket
        if transport is None or counted is None:
            raise DroppedError(f"there is no ssh connection to the guest at {self._address}")
        output = _Output(self._address)
        try:
            channel = self._open(transport, command)
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise self._lost(counted, _reason(error)) from None
        _send(channel, feed or (), output, counted)
        _receive(channel, output)
        status = channel.recv_exit_status()
        if status == -1 and _ends(transport):
            raise self._lost(counted, "")
        with contextlib.suppress(paramiko.SSHException, OSError, EOFError):
            channel.close()
        return Outcome(status, output.lines())

    def _lost(self, counted: _Counted, reason: str) -> NodeError:
        if counted.flooded:
            return NodeError(f"the guest at {self._address} sends without end over ssh", code="VB506")
        return DroppedError(f"the ssh connection to the guest at {self._address} was dropped{reason}")

    def _open(self, transport: Transport, command: str) -> Channel:
        """A channel in which the command runs. NodeError, and paramiko's errors."""
        import paramiko

        try:
            channel = transport.open_session(timeout=_HANDSHAKE_SECONDS)
            channel.set_combine_stderr(True)
            channel.exec_command(command)
        except paramiko.SSHException:
            if _ends(transport):
                raise
            raise NodeError(f"the guest at {self._address} lets root in, but runs no command for it",
                            "see ForceCommand, and root's shell, in the image", code="VB506") from None
        return channel


class _Output:
    """The end of what a command writes, and an end to one that writes too much."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._tail = bytearray()
        self._all = 0

    def add(self, data: bytes) -> None:
        """NodeError above 256 KiB."""
        self._all += len(data)
        if self._all > _OUTPUT:
            raise NodeError(f"the guest at {self._address} sends without end over ssh", code="VB506")
        self._tail += data
        del self._tail[:-_TAIL]

    def lines(self) -> tuple[str, ...]:
        """Printable, none of them empty."""
        return tuple(filter(None, (printable(line).strip() for line in bytes(self._tail).splitlines())))


class _Counted(socket.socket):
    """A socket for paramiko that ends where a server sends far more than the `sent` bytes of input can explain.

    paramiko itself takes a banner line, a packet and a channel's data of any size (packet.py, Packetizer.readline and
    read_message; channel.py, Channel._feed).
    """

    def __init__(self, dialled: socket.socket) -> None:
        super().__init__(fileno=dialled.detach())
        self._received = 0
        self.sent = 0
        self.limit = _FLOOD_BEFORE
        self.flooded = False
        self.ended = False

    def recv(self, size: int, flags: int = 0) -> bytes:
        """As a socket's; EOFError for a flood."""
        try:
            data = super().recv(size, flags)
        except TimeoutError:
            raise
        except OSError:
            self.ended = True
            raise
        self._received += len(data)
        self.ended = self.ended or not data
        if self._received > self.limit + self.sent // 8:
            self.flooded = True
            raise EOFError
        return data


def _send(channel: Channel, feed: Iterable[bytes], output: _Output, counted: _Counted) -> None:
    """A command's input; the command may end before it has read all."""
    from paramiko import SSHException

    for piece in feed:
        try:
            channel.sendall(piece)
            counted.sent += len(piece)
        except (SSHException, OSError, EOFError):
            return
        while channel.recv_ready():
            output.add(_read(channel))
    with contextlib.suppress(SSHException, OSError, EOFError):
        channel.shutdown_write()


def _read(channel: Channel) -> bytes:
    """A piece of output, nothing at its end. TimeoutError. paramiko may find the connection gone as it opens the window anew."""
    from paramiko import SSHException

    try:
        return channel.recv(_TAIL)
    except TimeoutError:
        raise
    except (SSHException, OSError, EOFError):
        return b""


def _receive(channel: Channel, output: _Output) -> None:
    """All output; what a command has left in the background may hold its end open, so only for a while after its status."""
    channel.settimeout(_ALIVE_SECONDS)
    late: Deadline | None = None
    while late is None or not late.passed():
        try:
            data = _read(channel)
        except TimeoutError:
            if channel.exit_status_ready():
                late = late or Deadline(_LATE_OUTPUT_SECONDS)
            continue
        if not data:
            return
        output.add(data)


def _ends(transport: Transport) -> bool:
    """Whether a connection is over; paramiko closes its channels a moment before it says so (Transport.run)."""
    over = Deadline(0.3)
    while transport.is_active() and not over.passed():
        time.sleep(0.02)
    return not transport.is_active()


def _quiet() -> None:
    """What paramiko would write about a broken connection comes as our own error."""
    import logging

    logger = logging.getLogger("paramiko")
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    logger.propagate = False


def _reason(error: Exception) -> str:
    """Why, if the error says it: sshd's last words, or the system's."""
    if isinstance(error, TimeoutError):
        return ": no answer"
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return ""
    text = (error.strerror or "") if isinstance(error, OSError) else str(error)
    known = text.removeprefix("Authentication failed: ") in _UNTOLD
    return "" if known or not text else f": {_clean(text)}"


def _clean(text: str) -> str:
    return printable(text.encode("utf-8", "replace"), 200)


def _listed(names: Iterable[str]) -> str:
    return _clean(", ".join(names)) or "nothing"


def _shown(key: PKey) -> str:
    return f"{key.get_name()} {key.fingerprint}"




def public_key(path: str) -> str:
    """`ssh-ed25519 AAAA...` of root's key. SiteError."""
    key = load_key(path)
    return f"{key.get_name()} {key.get_base64()}"
