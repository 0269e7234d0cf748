"""How the parties of a split job exchange tensors: each message once, in order, or an error that says who failed.

    with VerticalFederatedCommunicator(ServerConfig("leader", "127.0.0.1:10087"),
                                       ServerConfig("follower", "127.0.0.1:10086")) as communicator:
        step = communicator.agree({"rows": 16000}, steps=[0, 100])
        activations = communicator.receive("follower")
        communicator.send_tensors("follower", gradients)

Law 1: either side may start first. Every wait has a deadline and names who was waited for; a party that falls silent is
noticed after a lease, and one that ends says good-bye and why.
Law 2: sending waits when the other side is `window` messages behind; nothing is dropped.
Law 3: when a party is started again, the next call at the others raises `PartyRestarted`: go back to a checkpoint and
`agree` again. Nothing of the time before is handed out after that.
"""

from __future__ import annotations

import logging
import queue
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from flps.compression import CompressConfig, Feedback
from flps.config.job import Terms
from flps.config.tls import TlsFiles
from flps.config.types import Network
from flps.errors import ConfigError, FlpsError, ProtocolError
from flps.frames import Limits
from flps.membership import Member
from flps.split.agreement import Fits, Offer, Summary, same_values
from flps.split.codec import Compressing
from flps.split.exchange import Exchange, Item
from flps.split.links import Links
from flps.split.meeting import follow, lead
from flps.split.parties import LEADER, Role, ServerConfig, SSLConfig, own_certificates, seats_of, terms_of
from flps.split.tensors import Received, Tensors, check_sizes, pack, unpack
from flps.split.wires import Arrival, Dialling, Listening, Memory, Wire
from flps.transport.sockets import Carrier

log = logging.getLogger(__name__)
START_S = 900.0
TIMEOUT_S = 3600.0
WINDOW = 8
_LINGER_S = 5.0
_AFTER_ERROR_S = 1.0
_NOTHING = Item(0, None, (), "")


class VerticalFederatedCommunicator:
    """One party's links to the others: the leader's to each follower, a follower's to the leader."""

    def __init__(
        self,
        http_server_config: ServerConfig,
        remote_server_config: ServerConfig | Sequence[ServerConfig],
        enable_ssl: bool = False,
        ssl_config: TlsFiles | SSLConfig | None = None,
        compress_configs: Mapping[str, CompressConfig] | None = None,
        *,
        role: Role | None = None,
        rank: int | None = None,
        network: Network | None = None,
        timeout_s: float = TIMEOUT_S,
        window: int = WINDOW,
        key_dir: Path | None = None,
        insecure: bool = False,
        terms: Terms | None = None,
        incarnation: int | None = None,
        life: int = 1,
        wire: Wire | None = None,
    ) -> None:
        """Nothing is opened before `launch`.

        Args:
            http_server_config: this party. A follower's own address is accepted and not used: it dials.
            remote_server_config: the other party; at the leader one for each follower.
            enable_ssl, ssl_config: TLS between the parties, with these certificates; the original's form is
                accepted, and a password in it warned about.
            compress_configs: tensor name -> how it is packed.
            role, rank: which party this is, where the names do not say it (`seats_of`).
            network: deadlines and limits; left out: the defaults, with 900 s for the others to come up.
            timeout_s: longest wait of one call for a party that is alive.
            window: messages to one party that may wait there.
            key_dir, insecure: CURVE keys, or none, over TCP (`terms_of`).
            terms: what a launcher says of the run; left out: parties of one run are told by their addresses.
            incarnation: a later process of this party has a higher one; left out: the clock says it, since a party may
                be started again by another launcher.
            life: how often its launcher has started this party, for scripted faults.
            wire: carries the messages, in the place of a socket (`in_process`).

        Raises:
            ConfigError: addresses, names, keys or folders are not as they must be.
        """
        remotes = [remote_server_config] if isinstance(remote_server_config, ServerConfig) else remote_server_config
        self._own, self._remotes = _checked(http_server_config), [_checked(remote) for remote in remotes]
        if window < 1:
            raise ConfigError(f"window must be at least 1, got {window}")
        self.seats = seats_of(self._own, self._remotes, role, rank, enable_ssl)
        network = network or (terms.network if terms else Network(start_timeout_s=START_S))
        tls, self._tls_password = own_certificates(ssl_config, self.seats.own.role)
        self._terms = terms or (terms_of(self.seats, network, key_dir, insecure, tls) if wire is None else None)
        self._network, self._timeout_s, self._wire = network, timeout_s, wire
        self._carrier: Carrier | None = None
        self._limits = Limits(network.frames_max, network.frame_bytes_max, network.message_bytes_max)
        self.window = window
        self._incarnation = time.time_ns() // 1000 if incarnation is None else incarnation
        self._life = life
        self._links = Links(self._own.server_name, self.seats.others, self._incarnation, window, network)
        self._to_self: deque[Item] = deque()
        self.summaries: dict[str, dict[str, Any]] = {}  # party -> what it told when all agreed
        self._codecs: dict[str, Compressing] = {}
        self.pack_by(compress_configs or {})

    # --- coming and going --------------------------------------------------------------------------------------------

    def launch(self) -> None:
        """Listen, or dial; returns at once, whoever is there. A second call changes nothing.

        Raises ResourceError when the leader's address cannot be listened at.
        """
        if not self._links.is_open:
            self._links.open(self._wire or self._open())

    def close(self, reason: str = "", linger_s: float = _LINGER_S) -> None:
        """Wait until what was sent has come, say good-bye, and let go of everything. A second call changes nothing.

        reason: why this party ends, "" in good order; the others hear it. linger_s: longest wait for them.
        """
        if not reason and self._links.is_open:
            self.mark("ending")
        self._links.close(reason, linger_s)

    def __enter__(self) -> VerticalFederatedCommunicator:
        self.launch()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            # What Python or a library says of its own may name values of this party's rows.
            words = str(error) if isinstance(error, FlpsError) else ""
            name = ConfigError.__name__ if isinstance(error, ConfigError) else type(error).__name__
            self.close(f"{name}: {words}" if words else name, _AFTER_ERROR_S)

    def http_server_config(self) -> ServerConfig:
        """This party."""
        return self._own

    def remote_server_config(self) -> ServerConfig | list[ServerConfig]:
        """The other party; a list when there are several."""
        return self._remotes[0] if len(self._remotes) == 1 else self._remotes

    @property
    def is_leader(self) -> bool:
        """Whether the others dial this party."""
        return self.seats.own == LEADER

    @property
    def others(self) -> tuple[str, ...]:
        """Names of the parties that this one talks to: at the leader all followers, at a follower the leader."""
        return tuple(self._links.named)

    @property
    def bytes(self) -> tuple[int, int]:
        """Bytes that came and that went so far, headers and signs of life included."""
        return (0, 0) if self._links.wire is None else self._links.wire.bytes

    def mark(self, moment: str, number: int = 0) -> None:
        """The job has come to `moment` (a step, an epoch or a phase of `flps.faults`): scripted faults may strike."""
        if self._carrier is not None:
            self._carrier.reached(moment, number)

    def _open(self) -> Wire:
        assert self._terms is not None
        carrier = self._carrier = Carrier(
            self._terms, self.seats.own, self._incarnation, self._tls_password, self._life
        )
        own, endpoint = self._own, self.seats.endpoint
        names = ", ".join(self.seats.others.values())
        if self.seats.own == LEADER:
            log.info("%s listens at %s for %s", own.server_name, endpoint, names)
            return Listening(carrier, endpoint)
        log.info("%s dials %s at %s", own.server_name, names, endpoint)
        log.info("%s is not listened at: a follower only dials", own.server_address)
        return Dialling(carrier, endpoint, LEADER)

    # --- tensors -----------------------------------------------------------------------------------------------------

    def send_tensors(
        self,
        target_server_name: str,
        tensors: Tensors,
        *,
        step: int | None = None,
        timeout_s: float | None = None,
        as_they_are: bool = False,
    ) -> None:
        """Send {name: tensor} or {label: {name: tensor}}. Returns when it is on its way; waits while the other side is
        `window` messages behind. The tensors may be changed afterwards.

        Args:
            target_server_name: the party; this one's own name: the message waits here for `receive`.
            step: the sender's; the receiver may ask for it.
            timeout_s: longest wait for room; left out: the communicator's.
            as_they_are: nothing is packed, whatever `compress_configs` say.

        Raises:
            ConfigError: nothing that can be sent, or over the limits, with the numbers.
            PeerLost, NeverCameUp: the other side is silent, has ended, or never came.
            PartyRestarted: a party was started again.
        """
        codec = self._codec(target_server_name)
        pieces = pack(tensors, None if as_they_are else codec)
        check_sizes(pieces, self._limits)
        self.mark("pushing")
        if target_server_name == self._own.server_name:
            self._to_self.append(Item(0, step, pieces, ""))
            return
        link = self._links.of(target_server_name)
        wait_s = self._timeout_s if timeout_s is None else timeout_s
        self._links.until(lambda: link.put(pieces, step) if link.has_room else None, link, "to take a message", wait_s)

    def receive(self, target_server_name: str, timeout_s: float | None = None, *, step: int | None = None) -> Received:
        """The next message of a party, as `send_tensors` was given it there.

        Args:
            target_server_name: the party.
            timeout_s: longest wait; left out: the communicator's.
            step: the step that the sender must have named.

        Raises:
            PeerLost, NeverCameUp, PartyRestarted: as `send_tensors`.
            ProtocolError: another step, or what cannot have been sent by a party that behaves.
        """
        if target_server_name == self._own.server_name:
            return unpack(self._of_self(step).pieces, self._codec(target_server_name))
        link = self._links.of(target_server_name)
        self.mark("pulling")
        wait_s = self._timeout_s if timeout_s is None else timeout_s
        item = self._links.until(link.take, link, "to send a message", wait_s)
        return self._tensors_of(item, link, step)

    def receive_soon(self, target_server_name: str, wait_s: float) -> Received | None:
        """As `receive`, but None when no message comes within `wait_s`, which is no error."""
        link = self._links.of(target_server_name)
        deadline = time.monotonic() + wait_s

        def look() -> Item | None:
            return link.take() or (_NOTHING if time.monotonic() >= deadline else None)

        item = self._links.until(look, link, "to send a message", wait_s + 1.0)
        return None if item is _NOTHING else self._tensors_of(item, link)

    def has_room(self, target_server_name: str) -> bool:
        """Whether `send_tensors` would not wait."""
        return self._links.of(target_server_name).has_room

    def pack_by(self, compress_configs: Mapping[str, CompressConfig]) -> None:
        """From now on tensors of these names are packed so; others travel as they are. Raises ConfigError."""
        names = (self._own.server_name, *self._links.named)
        self._codecs = {name: Compressing(compress_configs, self._limits.frame_bytes) for name in names}

    @property
    def feedback(self) -> dict[str, Feedback]:
        """Party -> what packing took from gradients that went to it, which a checkpoint must hold."""
        return {name: codec.feedback for name, codec in self._codecs.items()}

    def _tensors_of(self, item: Item, link: Exchange, step: int | None = None) -> Received:
        if item.note:
            raise ProtocolError(f"{link.peer} wants to agree on a step, and {link.own} waits for tensors")
        _check_step(item, link.peer, step)
        return unpack(item.pieces, self._codec(link.peer))

    def _codec(self, name: str) -> Compressing:
        if name not in self._codecs:
            self._links.of(name)  # says whom there is
        return self._codecs[name]

    def _of_self(self, step: int | None) -> Item:
        if not self._to_self:
            raise FlpsError(f"{self._own.server_name} has sent itself nothing that could be received")
        item = self._to_self.popleft()
        _check_step(item, self._own.server_name, step)
        return item

    # --- agreeing ----------------------------------------------------------------------------------------------------

    def agree(
        self,
        summary: Summary,
        steps: Iterable[int] = (0,),
        fits: Fits = same_values,
        timeout_s: float | None = None,
    ) -> int:
        """Meet the others: check that the parts fit, and settle the step to begin with. All parties call it, before
        the first message and again after `PartyRestarted`; then every party goes back, whoever was started again.

        Args:
            summary: what the others must know of this party's part, as it may stand in a json.
            steps: those at which this party can begin; left out: the first.
            fits: (at the leader) {party: summary} -> complaints; left out: what two parties name must be equal.
            timeout_s: longest wait; left out: the start time-out.

        Returns:
            The newest step at which every party can begin.

        Raises:
            ConfigError: the parts do not fit, or there is no such step; all parties raise it with the same words.
            PeerLost, NeverCameUp: as `send_tensors`.
        """
        timeout_s = self._network.start_timeout_s if timeout_s is None else timeout_s
        offer = Offer(dict(summary), tuple(sorted(set(steps))))
        self._links.begin_anew()
        self.mark("connecting")

        def about_to() -> None:
            self.mark("connecting")

        if self.is_leader:
            verdict = lead(self._links, offer, fits, timeout_s, about_to)
        else:
            verdict = follow(self._links, offer, timeout_s, about_to)
        if verdict.complaint:
            raise ConfigError(verdict.complaint)
        self.summaries = verdict.summaries
        log.info("the parties agree to begin with step %d", verdict.step)
        return verdict.step


def in_process(
    leader: str = "leader",
    *followers: str,
    compress_configs: Mapping[str, CompressConfig] | None = None,
    threads: bool = False,
    timeout_s: float = TIMEOUT_S,
) -> list[VerticalFederatedCommunicator]:
    """Parties in one process without sockets: the leader's communicator, then each follower's.

    threads: False: one thread plays all parties, and to wait for what nobody has sent is an error at once; True: each
    party is a thread, and waits as usual.
    """
    names = [leader, *(followers or ("follower",))]
    members = [LEADER, *(Member("follower", rank) for rank in range(len(names) - 1))]
    boxes: dict[Member, queue.SimpleQueue[Arrival]] = {member: queue.SimpleQueue() for member in members}
    configs = [ServerConfig(name, f"loopback://{name}") for name in names]
    made = []
    for rank, member in enumerate(members):
        made.append(
            VerticalFederatedCommunicator(
                configs[rank],
                configs[1:] if member == LEADER else configs[0],
                role="leader" if member == LEADER else "follower",
                rank=None if member == LEADER else member.rank,
                timeout_s=timeout_s,
                window=WINDOW if threads else 1 << 16,
                incarnation=1,
                compress_configs=compress_configs,
                wire=Memory(member, boxes, Limits()),
            )
        )
    for communicator in made:
        communicator._links.open(communicator._wire or communicator._open(), is_alone=not threads)
    for _ in range(3):  # they meet, since later only one of them moves at a time
        for communicator in made:
            communicator._links.settle(0.0)
    return made


def _checked(config: ServerConfig) -> ServerConfig:
    if not isinstance(config, ServerConfig):
        raise ConfigError(f"a party is given as ServerConfig(server_name, server_address), got {str(config)[:80]!r}")
    return config


def _check_step(item: Item, peer: str, step: int | None) -> None:
    if step is not None and item.step != step:
        said = "a message without a step" if item.step is None else f"step {item.step}"
        raise ProtocolError(f"{peer} sent {said}, expected step {step}: the parties are not at the same place")
