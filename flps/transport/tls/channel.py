"""One TLS conversation, without its socket: bytes go in and come out, messages come out and go in.

Law 1: nothing here opens a socket, reads a clock or starts a thread.
Law 2: no message passes before both certificates are checked. The answering end says `WELCOME` when it has done so;
with TLS 1.3 the asking end would else take itself for accepted, and lose what it sends.
Law 3: what a stranger can make this end keep is bounded: by HANDSHAKE_BYTES before it is known, by the limits after.
"""

from __future__ import annotations

import ssl

from flps.errors import ProtocolError
from flps.frames import Limits
from flps.transport.tls.complaints import HUNG_UP, NO_FLPS, NO_TLS, TlsMismatch, TlsTrouble, explain
from flps.transport.tls.framing import Assembler
from flps.transport.tls.identity import PROTOCOL
from flps.transport.tls.queues import Outbox
from flps.transport.tls.speakers import names_of

WELCOME = b"flps tls 1\r\n"
HANDSHAKE_BYTES = 1 << 18
_BURST_BYTES = 1 << 18  # sealed at once: enough to spare system calls, little enough to stay in the cache
_HANDSHAKE, _ALERT = 0x16, 0x15  # what a stream of TLS may begin with


class Channel:
    """One end of one connection."""

    def __init__(self, context: ssl.SSLContext, limits: Limits, server_name: str | None) -> None:
        """`server_name`: who must answer; None at the answering end."""
        self.names: frozenset[str] = frozenset()  # of the other side's certificate, once it is open
        self.certificate = b""  # DER
        self.is_open = False
        self._is_server = server_name is None
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, self._is_server, server_name)
        self._assembler = Assembler(limits)
        self._is_agreed = False
        self._welcome = b""
        self._fed = 0

    def feed(self, chunk: memoryview | bytes) -> None:
        """Bytes have come; none: the other side has hung up. Raises TlsTrouble."""
        if not chunk:
            self._in.write_eof()
            return
        if not self._fed and chunk[0] not in (_HANDSHAKE, _ALERT):
            raise TlsMismatch(NO_TLS)
        self._fed += len(chunk)
        if not self.is_open and self._fed > HANDSHAKE_BYTES and not self._is_agreed:
            raise TlsTrouble(f"{self._fed} bytes came before the other side had shown who it is")
        self._in.write(chunk)

    def receive(self) -> list[memoryview] | None:
        """The next whole message, or None until more is fed. Raises TlsTrouble, also when the other side hung up."""
        try:
            if not self.is_open:
                self._open()
            while True:
                message = self._assembler.took(self._fill(self._assembler.room()))
                if message is not None:
                    return message
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None
        except ssl.SSLZeroReturnError:
            raise TlsTrouble("the other side hung up") from None
        except ssl.SSLError as error:
            hung_up = self.is_open and isinstance(error, ssl.SSLEOFError)
            raise (TlsTrouble("the other side hung up") if hung_up else explain(error)) from None
        except ProtocolError as error:
            raise TlsTrouble(str(error)) from None

    def transmit(self, outbox: Outbox) -> None:
        """Seal some of what waits to be sent, if it may be sent already."""
        while self.is_open and self._out.pending < _BURST_BYTES:
            piece = outbox.piece()
            if piece is None:
                return
            piece, done, write = piece[:_BURST_BYTES], 0, self._tls.write
            while done < piece.nbytes:  # a record at a time; a large frame is thousands of them
                done += write(piece[done:])
            outbox.advance(done)

    def take_output(self) -> bytes:
        """Bytes that must go to the other side."""
        return self._out.read()

    def say_good_bye(self) -> None:
        """The other side shall know that nothing more comes."""
        try:
            if self._is_agreed:
                self._tls.unwrap()
        except ssl.SSLError:
            pass  # its own good-bye is not waited for

    def _fill(self, room: memoryview) -> int:
        """Unseal into `room` what is there of it; how many bytes. Raises ssl.SSLError, also when there are none."""
        done, read = 0, self._tls.read
        while done < room.nbytes:  # a record at a time; a large frame is thousands of them
            try:
                count = int(read(room.nbytes - done, room[done:]))
            except ssl.SSLWantReadError:
                if not done:
                    raise
                return done
            if not count:
                raise TlsTrouble("the other side hung up")
            done += count
        return done

    def _open(self) -> None:
        if not self._is_agreed:
            self._tls.do_handshake()
            self._check_agreed()
        if not self._is_server:
            self._hear_welcome()
        else:
            self._tls.write(WELCOME)
        self.is_open = True

    def _check_agreed(self) -> None:
        if self._tls.selected_alpn_protocol() != PROTOCOL:
            raise TlsMismatch(NO_FLPS)
        self.names = names_of(self._tls.getpeercert() or {})
        self.certificate = self._tls.getpeercert(True) or b""
        self._is_agreed = True

    def _hear_welcome(self) -> None:
        while len(self._welcome) < len(WELCOME):
            heard = self._tls.read(len(WELCOME) - len(self._welcome))
            if not heard:
                raise TlsTrouble(HUNG_UP)
            self._welcome += heard
        if self._welcome != WELCOME:
            raise TlsMismatch(NO_FLPS)
