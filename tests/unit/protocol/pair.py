"""Both machines on one made-up link: entropy and time are given, every frame passes through here."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bletoken.errors import StorageError
from bletoken.protocol import frames
from bletoken.protocol.companion import CompanionMachine
from bletoken.protocol.device import DeviceMachine, Output, Requested, Send
from bletoken.protocol.guesses import GuessRecord
from bletoken.protocol.setup_code import Label, Pin, QrSecret, SetupCode
from bletoken.protocol.wire import Action, ClearStatus, CoarseState, MessageType, Provision, Request, Status

QR = QrSecret(bytes.fromhex("00112233445566778899aabbccddeeff"))
PIN = Pin("27182845")
LABEL = Label(QR, PIN)
OTHER_QR = QrSecret(bytes(16))
OTHER_PIN = Pin("31415926")
TOKEN = Provision("canary-token-canary-token", expires_in_s=900, companion_time=1_800_000_000)


class Dice:
    """Entropy that is the same every time and remembers what it gave."""

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self.given: list[bytes] = []

    def __call__(self, size: int) -> bytes:
        octets = hashlib.sha512(f"{self._seed} {len(self.given)}".encode()).digest()[:size]
        self.given.append(octets)
        return octets


class Disk:
    """Where the device keeps its guess record."""

    def __init__(self) -> None:
        self.saved: list[int] = []
        self.fails_at: int | None = None
        self.on_save: Callable[[], object] = lambda: None

    def __call__(self, record: GuessRecord) -> None:
        self.on_save()
        if len(self.saved) == self.fails_at:
            raise StorageError("the disk is full")
        self.saved.append(record.failures)


@dataclass
class Device:
    """A device and the companions' ends of the link to it."""

    label: Label = LABEL
    failures: int | None = 0
    actions: Sequence[Action] = tuple(Action)
    state: CoarseState = CoarseState.READY
    frame_size: int = 20
    now: float = 1000.0
    dice: Dice = field(default_factory=lambda: Dice("device"))
    disk: Disk = field(default_factory=Disk)

    def __post_init__(self) -> None:
        self.machine = DeviceMachine(
            self.label,
            guesses=None if self.failures is None else GuessRecord(self.failures, self.now),
            save_guesses=self.disk,
            entropy=self.dice,
            actions=self.actions,
            state=self.state,
            device_class="thermostat",
        )

    def connect(self, peer: str = "a") -> None:
        self.machine.connected(peer, self.now)

    def hello(self, peer: str = "a") -> bytes:
        """A read of HELLO, and what the device does after answering it."""
        value = self.machine.hello(peer)
        self.machine.replenish(peer)
        return value

    def take(self, message: bytes, peer: str = "a") -> list[Output]:
        """A whole message, written frame by frame."""
        pieces = frames.split(message, self.frame_size)
        arrived = [self.machine.frame_received(peer, piece, self.now) for piece in pieces]
        assert arrived[:-1] == [None] * (len(pieces) - 1)
        assert arrived[-1] == message
        return self.machine.message_received(peer, message, self.now)


def companion(code: SetupCode = QR, seed: str = "companion") -> CompanionMachine:
    return CompanionMachine(code, Dice(seed))


def hear(
    machine: CompanionMachine, outputs: Sequence[Output], size: int = 20, now: float = 0
) -> list[Status | ClearStatus]:
    """What a companion makes of the messages the device sends."""
    pieces = [piece for o in outputs if isinstance(o, Send) for piece in frames.split(o.message, size)]
    return [heard for piece in pieces if (heard := machine.frame_received(piece, now)) is not None]


def clear(outputs: Sequence[Output]) -> ClearStatus:
    """The one clear status among these outputs, which is all there is."""
    (output,) = outputs
    assert isinstance(output, Send)
    assert output.message[0] == MessageType.CLEAR_STATUS
    return ClearStatus.decode(output.message)


def requested(outputs: Sequence[Output]) -> Requested:
    """The one request among these outputs, which is all there is."""
    (output,) = outputs
    assert isinstance(output, Requested)
    return output


def open_session(
    device: Device, code: SetupCode = QR, request: Request = TOKEN, peer: str = "a", seed: str = "companion"
) -> tuple[CompanionMachine, Requested]:
    """Connect, read, send the first message; the companion has heard nothing yet."""
    device.connect(peer)
    mine = companion(code, seed)
    mine.offer_read(device.hello(peer))
    return mine, requested(device.take(mine.first_message(request), peer))
