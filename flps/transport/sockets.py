"""What kind of socket an endpoint needs, and its keys.

    ipc:///private/folder/server-0   one machine; the folder's mode 700 keeps others out
    tcp://host:port                  CURVE, or plain when the user insisted
    tls://host:port                  mutual TLS by X.509 certificates (tls/)
    loopback://server-0              threads of one process

Law: no socket lingers, except for a moment when its process ends: closing never waits for an absent peer.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import zmq

from flps.config.job import Terms
from flps.config.tls import TlsFiles
from flps.errors import ConfigError, ResourceError
from flps.frames import Limits
from flps.membership import Member
from flps.message import Body
from flps.transport.access import Access
from flps.transport.faulty import BadSocket, Mishaps
from flps.transport.gate import DOMAIN, Gate, raise_file_limit
from flps.transport.security import public_key, secret_key

if TYPE_CHECKING:  # `cryptography` is needed for tls:// endpoints only
    from flps.transport.tls.dialler import TlsDialler
    from flps.transport.tls.door import TlsDoor, TlsGate
    from flps.transport.tls.identity import Identity

Socket: TypeAlias = "zmq.Socket[Any] | BadSocket | TlsDialler | TlsDoor"
Door: TypeAlias = "Gate | TlsGate"
_LAST_WORDS_MS = 1000
_RECONNECT_MS = 50
_BOX_BYTES = 256  # CURVE puts each frame into a box, and zmq counts the box; the decoder counts the frame
_RECONNECT_MAX_MS = 2000
_HANDSHAKE_MS = 10_000  # who has not said who it is by then is cut
_BACKLOG = 1024


class Carrier:
    """Opens sockets for one member of one run."""

    def __init__(
        self,
        terms: Terms,
        member: Member,
        incarnation: int = 1,
        tls_password: bytes | None = None,
        life: int | None = None,
    ) -> None:
        """tls_password: in the place of the one that `terms.tls` points to. life: the how-manieth of the member's lives
        in its launcher's run this is, for scripted faults; left out: the incarnation.
        """
        self.terms = terms
        self.run = terms.run_id
        self.member = member
        self.incarnation = incarnation
        self.network = terms.network
        self.checkpoint = terms.checkpoint  # identity of the one that this role goes on from
        network = self.network
        self.limits = Limits(network.frames_max, network.frame_bytes_max, network.message_bytes_max)
        self._keys = Path(terms.key_dir) if terms.security == "curve" else None
        self._in_process = terms.security == "loopback"
        self._context: zmq.Context[Any] = zmq.Context.instance()
        self._mishaps = Mishaps(terms, member, life or incarnation) if terms.faults else None
        self._identity: Identity | None = None
        self._tls_password = tls_password

    def saw(self, sender: Member, body: Body) -> None:
        """A message of `sender` is about to be sent or carried out here: scripted faults may strike."""
        if self._mishaps is not None:
            self._mishaps.saw(sender, body)

    def reached(self, moment: str, number: int = 0) -> None:
        """This member has come to a moment that no message tells: scripted faults may strike."""
        if self._mishaps is not None:
            self._mishaps.reached(moment, number)

    def dial(self, endpoint: str, peer: Member) -> Socket:
        """A socket that asks `peer` at `endpoint`; it connects, and connects again, by itself."""
        if endpoint.startswith("tls://"):
            return self._dial_tls(endpoint, peer)
        with ExitStack() as opened:
            socket = self._socket(zmq.DEALER)
            opened.callback(socket.close)
            socket.setsockopt(zmq.RECONNECT_IVL, _RECONNECT_MS)
            socket.setsockopt(zmq.RECONNECT_IVL_MAX, _RECONNECT_MAX_MS)
            if self._keys is not None:
                socket.curve_secretkey = own = secret_key(self._keys, self.member.role)
                socket.curve_publickey = zmq.curve_public(own)
                socket.curve_serverkey = public_key(self._keys, peer.role)
            socket.connect(self._address(endpoint))
            opened.pop_all()
        return socket if self._mishaps is None else self._mishaps.spoil(socket, peer)

    def listen(self, endpoint: str) -> tuple[Socket, Door | None]:
        """A socket that answers at `endpoint`, and the gate that watches over its visitors (over TCP and TLS).

        Raises ResourceError when the port is taken or the address is not this machine's.
        """
        if endpoint.startswith("tls://"):
            return self._listen_tls(endpoint)
        with ExitStack() as opened:
            socket = self._socket(zmq.ROUTER)
            opened.callback(socket.close)
            gate = None
            access = None
            if self._keys is not None:
                access = Access(self._keys)
                socket.curve_server = True
                socket.curve_secretkey = own = secret_key(self._keys, self.member.role)
                socket.curve_publickey = zmq.curve_public(own)
                socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # without a gate nobody is let in
            if endpoint.startswith("tcp://"):
                raise_file_limit()
                # Where zmq has a domain it refuses peers that do not say which protocol they speak. It would take a
                # TLS greeting for one of the oldest kind, and end the process if the socket is closed just then.
                socket.setsockopt(zmq.ZAP_DOMAIN, DOMAIN)
                socket.setsockopt(zmq.BACKLOG, _BACKLOG)
                socket.setsockopt(zmq.HANDSHAKE_IVL, _HANDSHAKE_MS)
                gate = Gate(self._context, socket, access, self.limits.message_bytes)
                opened.callback(gate.close)
            try:
                socket.bind(self._address(endpoint))
            except zmq.ZMQError as error:
                raise ResourceError(f"{self.member} cannot listen at {endpoint}: {error.strerror}") from error
            opened.pop_all()
        return (socket if self._mishaps is None else self._mishaps.spoil(socket, None)), gate

    def let_go(self) -> None:
        """This member has closed its sockets; no fault strikes it any more. Others of this process may go on."""
        if self._mishaps is not None:
            self._mishaps.close()

    def shut_down(self) -> None:
        """This process says no more: wait a moment for what is on its way, then close every socket."""
        self.let_go()
        if self._in_process:
            return  # other roles of this process use the same sockets' context
        self._context.destroy(linger=_LAST_WORDS_MS)

    def _dial_tls(self, endpoint: str, peer: Member) -> Socket:
        identity = self._tls_identity()  # first: it says what is not installed
        from flps.transport.tls.dialler import TlsDialler

        dialler = TlsDialler(identity, endpoint, str(peer), self.limits)
        return dialler if self._mishaps is None else self._mishaps.spoil(dialler, peer)

    def _listen_tls(self, endpoint: str) -> tuple[Socket, Door]:
        identity = self._tls_identity()
        from flps.transport.tls.door import TlsDoor, TlsGate
        from flps.transport.tls.speakers import Speakers

        speakers = Speakers(identity.files.speakers)
        raise_file_limit()
        door = TlsDoor(identity, endpoint, self.limits)
        gate = TlsGate(door, speakers)
        return (door if self._mishaps is None else self._mishaps.spoil(door, None)), gate

    def _tls_identity(self) -> Identity:
        """Certificates, read once. Raises ConfigError when there are none, or they cannot be used."""
        if self.terms.tls is None:
            raise ConfigError("a tls:// endpoint needs certificates: set `ca` and `certificate`; see docs/security.md")
        if self._identity is None:
            self._identity = read_identity(self.terms.tls, Path(self.terms.config_dir), self._tls_password)
        return self._identity

    def _socket(self, kind: int) -> zmq.Socket[Any]:
        socket: zmq.Socket[Any] = self._context.socket(kind)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.MAXMSGSIZE, self.limits.frame_bytes + _BOX_BYTES)
        socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
        return socket

    def _address(self, endpoint: str) -> str:
        scheme, _, rest = endpoint.partition("://")
        return f"inproc://{self.run}/{rest}" if scheme == "loopback" else endpoint


def read_identity(files: TlsFiles, folder: Path, password: bytes | None = None) -> Identity:
    """Certificates, made ready for use. folder, password: as of `Identity`.

    Raises ConfigError when `cryptography` is not installed, and for what cannot be used: files that are missing, a
    wrong password, an own certificate that is not valid now, a table of speakers that cannot be read.
    """
    try:
        from flps.transport.tls.identity import Identity
    except ModuleNotFoundError as error:
        raise ConfigError(f"tls:// endpoints need {error.name}: pip install 'flps[split]'") from error
    from flps.transport.tls.speakers import Speakers

    Speakers(files.speakers)
    return Identity(files, folder, password)


def receive_parts(socket: Socket, parts_max: int) -> tuple[list[Any], int]:
    """The first parts of the next message, and how many parts it has; those over `parts_max` go as they are read."""
    if not isinstance(socket, zmq.Socket):  # these have looked at the number before they let a message in
        parts = socket.recv_multipart(copy=False)
        return parts[:parts_max], len(parts)
    kept: list[Any] = []
    count, is_whole = 0, False
    while not is_whole:
        part = socket.recv(copy=False)
        is_whole = not part.more
        count += 1
        if count <= parts_max:
            kept.append(part)
    return kept, count
