"""The air between the controllers: Bumble's LocalLink with time, loss, breakage and a record of what went over ATT."""

import asyncio
import itertools
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, cast

from bumble import core, hci, ll
from bumble.controller import Connection, Controller
from bumble.link import LocalLink

from bletoken.errors import UsageError
from bletoken.sim.air.att_log import ATT_CID, AttLog, Direction

if TYPE_CHECKING:
    from bletoken.sim.air.controller import AirController

_CONNECTION_TIMEOUT: Final = hci.HCI_ErrorCode.CONNECTION_TIMEOUT_ERROR
_KEPT_CONNECTIONS: Final = 64
_MAX_CONNECTION_HANDLE: Final = 0x0EFF
_L2CAP_HEADER: Final = 4


@dataclass(frozen=True)
class LinkModel:
    """How the air behaves.

    Data on a connection is never lost or reordered, as on a real link layer: trouble is delay, then disconnection.

    Attributes:
        connection_interval_s: Data waits for the next connection event; 0 delivers at once.
        delay_s: Added to every data and control PDU before it waits for its connection event.
        control_delay_s: Added to link-layer control PDUs on top (real ones wait for an instant six events away).
        jitter_s: Up to this much more delay, evenly distributed.
        advertising_loss: The share of advertising PDUs that a scanner misses, 0 to 1.
        drop_after: A connection breaks after this many L2CAP PDUs; None for never.
        drop_share: The share of connections, made from now on, that break by themselves, 0 to 1.
        drop_within: Those break after any number of L2CAP PDUs below this one, each as likely.
        supervision_timeout_s: How long an end waits in silence before it calls the connection lost. The default is
            Linux's.
        seed: Everything random here comes from it.

    Raises:
        UsageError: A value is out of its range.
    """

    connection_interval_s: float = 0.015
    delay_s: float = 0.0
    control_delay_s: float = 0.0
    jitter_s: float = 0.0
    advertising_loss: float = 0.0
    drop_after: int | None = None
    drop_share: float = 0.0
    drop_within: int = 20
    supervision_timeout_s: float = 0.42
    seed: int = 0

    def __post_init__(self) -> None:
        durations = ("connection_interval_s", "delay_s", "control_delay_s", "jitter_s", "supervision_timeout_s")
        for name in durations:
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(f"{name} must be a number of seconds, at least 0")
        for name in ("advertising_loss", "drop_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} must be between 0 and 1")
        if self.drop_after is not None and self.drop_after < 0:
            raise UsageError("drop_after must be at least 0")
        if self.drop_within < 1:
            raise UsageError("drop_within must be at least 1")


@dataclass
class Corruption:
    """An order to flip one bit in one ATT PDU.

    Attributes:
        direction: Which way the PDU goes.
        opcode: Its opcode.
        nth: Which of those, counted from 1 over all connections from the moment of the order.
        bit: Which bit, counted from the opcode's least significant one; modulo the PDU's length.

    Raises:
        UsageError: A value is out of its range.
    """

    direction: Direction
    opcode: int
    nth: int
    bit: int

    def __post_init__(self) -> None:
        if not 0 <= self.opcode <= 0xFF or self.nth < 1 or self.bit < 0:
            raise UsageError("an opcode is an octet, nth counts from 1 and bit from 0")

    def apply(self, pdu: bytes) -> bytes | None:
        """Return the PDU with the bit flipped if it is the one meant; the caller then forgets the order."""
        if pdu[:1] != bytes([self.opcode]):
            return None
        self.nth -= 1
        if self.nth:
            return None
        damaged = bytearray(pdu)
        byte, bit = divmod(self.bit % (len(pdu) * 8), 8)
        damaged[byte] ^= 1 << bit
        return bytes(damaged)


@dataclass(eq=False)
class AirConnection:
    """One LE connection, with the link-layer view of both ends.

    Attributes:
        number: Counts the connections of this air, from 1.
        central: The initiator's end.
        peripheral: The advertiser's end.
        began_s: The loop's time when it began; also the anchor of its connection events.
        log: Its ATT traffic.
        breaks_after: It breaks by itself after this many L2CAP PDUs; None for never.
        pdus: How many L2CAP PDUs it has carried.
        is_broken: Nothing is delivered any more; the supervision time-out is running.
        end_reason: The HCI reason it ended with, or None while it lives.
    """

    number: int
    central: Connection
    peripheral: Connection
    began_s: float
    breaks_after: int | None = None
    log: AttLog = field(default_factory=AttLog)
    pdus: int = 0
    is_broken: bool = False
    end_reason: int | None = None
    in_flight: dict[Direction, deque[tuple[float, Callable[[], None]]]] = field(
        default_factory=lambda: {direction: deque() for direction in Direction}
    )
    timers: dict[str, asyncio.TimerHandle] = field(default_factory=dict)

    def receiver(self, direction: Direction) -> Connection:
        """Return the end that PDUs of this direction arrive at."""
        return self.peripheral if direction is Direction.TO_PERIPHERAL else self.central


class AirLink(LocalLink):
    """Bumble's link with a `LinkModel`; the model may be replaced at any time.

    HACK: replaces `LocalLink.send_acl_data`, which always gives the sender's random address as the source, so that
    hosts that use their public address (BlueZ) get no data; seen with Bumble 0.0.236.

    Attributes:
        connections: The latest connections, ended ones too; bounded.
    """

    def __init__(self, model: LinkModel | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._model = model or LinkModel()
        self.random = random.Random(self._model.seed)  # noqa: S311 - reproducible weather, no secret
        self.connections: deque[AirConnection] = deque(maxlen=_KEPT_CONNECTIONS)
        # Numbers of their own: which connections break does not hang on how many adverts came before.
        self._breakage = random.Random(self._model.seed)  # noqa: S311 - as above
        self._live: dict[tuple[Controller, int], AirConnection] = {}
        self._numbers = itertools.count(1)
        # Not `cycle`, which remembers all that it has gone through.
        self._handles = (1 + number % _MAX_CONNECTION_HANDLE for number in itertools.count())
        self._corruptions: list[Corruption] = []

    @property
    def model(self) -> LinkModel:
        """How the air behaves now; a new seed starts its random numbers again."""
        return self._model

    @model.setter
    def model(self, model: LinkModel) -> None:
        if model.seed != self._model.seed:
            self.random.seed(model.seed)
            self._breakage.seed(model.seed)
        self._model = model

    def corrupt(self, corruption: Corruption) -> None:
        """Damage one ATT PDU that is still to come."""
        self._corruptions.append(corruption)

    def drop_all(self) -> None:
        """End every connection now, with a supervision time-out at both ends."""
        for connection in set(self._live.values()):
            self._time_out(connection)

    def silence(self, controller: Controller) -> None:
        """Take a controller off the air, as if its power had gone: its peers notice by their supervision time-outs."""
        self.remove_controller(controller)
        for connection in {live for (owner, _), live in self._live.items() if owner is controller}:
            self._break(connection)

    def close(self) -> None:
        """Stop everything that is still under way; no host is told."""
        for connection in self._live.values():
            self._stop(connection)
        self._live.clear()

    def allocate_handle(self) -> int:
        """Return a connection handle that is in use nowhere on this air."""
        used = {handle for _, handle in self._live}
        return next(handle for handle in self._handles if handle not in used)

    # What controllers call ----------------------------------------------------------------------------------------

    def can_connect(self, initiator: hci.Address, advertiser: hci.Address) -> bool:
        """Tell whether a CONNECT_IND sent now would be heard and taken."""
        listener = self._advertiser(advertiser)
        return listener is not None and initiator not in listener.le_connections

    def send_advertising_pdu(self, sender_controller: Controller, packet: ll.AdvertisingPdu) -> None:
        """Carry an advertising PDU to every other controller, or a CONNECT_IND to the one it names."""
        if isinstance(packet, ll.ConnectInd):
            self._connect(sender_controller, packet)
        elif isinstance(packet, ll.AdvInd):
            loop = asyncio.get_running_loop()
            # The order decides who gets which random number: a set of objects has none that repeats.
            for controller in sorted(self.controllers, key=lambda controller: controller.name):
                if controller is not sender_controller and not self.is_lost():
                    scanner = cast("AirController", controller)
                    loop.call_soon(scanner.on_advertisement, sender_controller, packet)

    def is_lost(self) -> bool:
        """Draw whether one advertising PDU is missed."""
        return self.random.random() < self._model.advertising_loss

    def send_acl_data(
        self,
        sender_controller: Controller,
        destination_address: hci.Address,
        transport: core.PhysicalTransport,
        data: bytes,
    ) -> None:
        """Carry one L2CAP PDU."""
        found = self._find(sender_controller.le_connections.get(destination_address))
        if found is None:
            return
        connection, direction = found
        connection.pdus += 1
        if any(end is not None and connection.pdus > end for end in (self._model.drop_after, connection.breaks_after)):
            self._break(connection)
            return
        receiver = connection.receiver(direction)

        def arrive() -> None:
            arrived = self._damage(direction, data)
            time_s = asyncio.get_running_loop().time() - connection.began_s
            connection.log.add_acl(time_s, direction, arrived, is_first=True)
            receiver.controller.on_link_acl_data(receiver.peer_address, transport, arrived)

        self._send(connection, direction, 0.0, arrive)

    def send_ll_control_pdu(
        self, sender_address: hci.Address, receiver_address: hci.Address, packet: ll.ControlPdu
    ) -> None:
        """Carry one link-layer control PDU, in order with the data.

        A terminated connection ends at both sides when the PDU arrives, as its sender waits for the acknowledgement
        (Core 5.4 Vol 6 Part B 5.1.6).
        """
        found = self._find_by_addresses(sender_address, receiver_address)
        if found is None:
            return
        connection, direction = found
        receiver = connection.receiver(direction)

        def arrive() -> None:
            if not isinstance(packet, ll.TerminateInd):
                receiver.controller.on_ll_control_pdu(receiver.peer_address, packet)
                return
            ours = hci.HCI_ErrorCode.CONNECTION_TERMINATED_BY_LOCAL_HOST_ERROR
            to_peripheral = direction is Direction.TO_PERIPHERAL
            self._end(
                connection,
                central_reason=ours if to_peripheral else packet.error_code,
                peripheral_reason=packet.error_code if to_peripheral else ours,
            )

        self._send(connection, direction, self._model.control_delay_s, arrive)

    # Inside -------------------------------------------------------------------------------------------------------

    def _advertiser(self, address: hci.Address) -> Controller | None:
        for controller in self.controllers:
            advertiser = controller.le_legacy_advertiser
            if advertiser.enabled and advertiser.address == address:
                return controller
        return None

    def _connect(self, initiator: Controller, packet: ll.ConnectInd) -> None:
        advertiser = self._advertiser(packet.advertiser_address)
        assert advertiser is not None, "a controller asks can_connect first"
        central = initiator.le_connections[packet.advertiser_address]
        advertiser.on_le_connect_ind(packet)
        peripheral = advertiser.le_connections[packet.initiator_address]
        breaks_after = None
        if self._breakage.random() < self._model.drop_share:
            breaks_after = self._breakage.randrange(self._model.drop_within)
        began_s = asyncio.get_running_loop().time()
        connection = AirConnection(next(self._numbers), central, peripheral, began_s, breaks_after)
        self.connections.append(connection)
        self._live[initiator, central.handle] = connection
        self._live[advertiser, peripheral.handle] = connection

    def _find(self, end: Connection | None) -> tuple[AirConnection, Direction] | None:
        if end is None or (connection := self._live.get((end.controller, end.handle))) is None:
            return None
        return connection, Direction.TO_PERIPHERAL if end is connection.central else Direction.TO_CENTRAL

    def _find_by_addresses(self, sender: hci.Address, receiver: hci.Address) -> tuple[AirConnection, Direction] | None:
        for connection in self._live.values():
            for end in (connection.central, connection.peripheral):
                if (end.self_address, end.peer_address) == (sender, receiver):
                    return self._find(end)
        return None

    def _damage(self, direction: Direction, data: bytes) -> bytes:
        if int.from_bytes(data[2:_L2CAP_HEADER], "little") != ATT_CID:
            return data
        for corruption in self._corruptions:
            if corruption.direction is direction and (pdu := corruption.apply(data[_L2CAP_HEADER:])) is not None:
                self._corruptions.remove(corruption)
                return data[:_L2CAP_HEADER] + pdu
        return data

    def _send(
        self, connection: AirConnection, direction: Direction, extra_s: float, arrive: Callable[[], None]
    ) -> None:
        if connection.is_broken:
            return
        model = self._model
        now = asyncio.get_running_loop().time()
        when = now + model.delay_s + extra_s + self.random.uniform(0.0, model.jitter_s)
        if interval := model.connection_interval_s:
            # The tiny addend keeps a response that is sent within an event out of that same event.
            events = math.floor((when - connection.began_s) / interval + 1e-6) + 1
            when = connection.began_s + events * interval
        queue = connection.in_flight[direction]
        if queue:
            when = max(when, queue[-1][0])
        queue.append((when, arrive))
        if len(queue) == 1:
            self._schedule(connection, direction, when)

    def _schedule(self, connection: AirConnection, direction: Direction, when: float) -> None:
        self._at(connection, direction, when, lambda: self._deliver(connection, direction, when))

    def _deliver(self, connection: AirConnection, direction: Direction, until: float) -> None:
        queue = connection.in_flight[direction]
        # Arrivals may end the connection (which empties the queue) or, without an interval, send more.
        while queue and queue[0][0] <= until:
            queue[0][1]()
            if queue:
                queue.popleft()
        if queue:
            self._schedule(connection, direction, queue[0][0])

    @staticmethod
    def _at(connection: AirConnection, what: str, when: float, callback: Callable[[], None]) -> None:
        connection.timers[what] = asyncio.get_running_loop().call_at(when, callback)

    def _break(self, connection: AirConnection) -> None:
        """Carry nothing more, and let both ends find out."""
        if connection.is_broken:
            return
        self._stop(connection)
        when = asyncio.get_running_loop().time() + self._model.supervision_timeout_s
        self._at(connection, "supervision", when, lambda: self._time_out(connection))

    def _time_out(self, connection: AirConnection) -> None:
        self._end(connection, _CONNECTION_TIMEOUT, _CONNECTION_TIMEOUT)

    def _end(self, connection: AirConnection, central_reason: int, peripheral_reason: int) -> None:
        self._stop(connection)
        connection.end_reason = peripheral_reason
        for end, reason in ((connection.central, central_reason), (connection.peripheral, peripheral_reason)):
            self._live.pop((end.controller, end.handle), None)
            if end.controller.le_connections.get(end.peer_address) is end:
                end.controller.on_le_disconnected(end, reason)

    @staticmethod
    def _stop(connection: AirConnection) -> None:
        connection.is_broken = True
        for timer in connection.timers.values():
            timer.cancel()
        connection.timers.clear()
        for queue in connection.in_flight.values():
            queue.clear()
