"""Runs both sides against each other on made-up entropy and time, and writes down every step."""

import hashlib
import hmac
from collections.abc import Callable, Sequence
from typing import Any, Final

from vectors.maker.notation import name_of, to_json

from bletoken.errors import ProtocolError, RemoteProtocolError, StorageError, UnsupportedVersionError
from bletoken.protocol import cpace, frames
from bletoken.protocol.channel import Direction, NotAuthenticError
from bletoken.protocol.companion import CompanionMachine, MethodNotOfferedError
from bletoken.protocol.device import DeviceMachine, Drop, Output, Requested, Send, SessionId
from bletoken.protocol.guesses import GuessRecord
from bletoken.protocol.setup_code import Label, Pin, QrSecret, SetupCode
from bletoken.protocol.wire import (
    Action,
    ClearStatus,
    CoarseState,
    FirstHead,
    MessageType,
    Offer,
    Request,
    Status,
    channel_identifier,
    encode_request,
    encode_status,
)

Steps = list[dict[str, Any]]

QR: Final = QrSecret(bytes.fromhex("00112233445566778899aabbccddeeff"))
PIN: Final = Pin("27182845")
BOTH: Final = Label(QR, PIN)
BOOT_S: Final = 1000.0
"""The device's clock when a transcript begins."""


class Dice:
    """Gives the same octets every time, and tells what it gave."""

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self._count = 0
        self._fresh: list[str] = []

    def __call__(self, size: int) -> bytes:
        octets = hashlib.sha512(f"{self._seed}, draw {self._count}".encode()).digest()[:size]
        self._count += 1
        self._fresh.append(octets.hex())
        return octets

    def taken(self) -> list[str]:
        """What was drawn since the last call."""
        fresh, self._fresh = self._fresh, []
        return fresh


def error_name(error: ProtocolError) -> str:
    match error:
        case NotAuthenticError():
            return "not-authentic"
        case MethodNotOfferedError():
            return "method-not-offered"
        case UnsupportedVersionError():
            return "unsupported-version"
        case _:
            return "refused"


def outputs_to_json(outputs: Sequence[Output], frame_size: int) -> Steps:
    return [_output_to_json(output, frame_size) for output in outputs]


def _output_to_json(output: Output, frame_size: int) -> dict[str, Any]:
    match output:
        case Send(_, message):
            sent: dict[str, Any] = {"send": message.hex(), "frames": hexes(frames.split(message, frame_size))}
            if message[0] == MessageType.CLEAR_STATUS:
                clear = ClearStatus.decode(message)
                sent |= {"meaning": to_json(clear) | {"short_sid": clear.short_sid.hex()}}
            return sent
        case Requested(session, counter, request):
            return {"session": session.short_sid.hex(), "counter": counter, "request": to_json(request)}
        case Drop():
            return {"drop": True}


def heard_to_json(heard: Status | ClearStatus) -> dict[str, Any]:
    return to_json(heard) | ({"short_sid": heard.short_sid.hex()} if isinstance(heard, ClearStatus) else {})


def hexes(many: Sequence[bytes]) -> list[str]:
    return [one.hex() for one in many]


class Saves:
    """Where a device keeps its guess record; some of the writes fail."""

    def __init__(self, failing: Sequence[int]) -> None:
        self._failing = failing
        self._count = 0
        self._fresh: list[int] = []

    def __call__(self, record: GuessRecord) -> None:
        self._count += 1
        if self._count - 1 in self._failing:
            raise StorageError("the disk is full")
        self._fresh.append(record.failures)

    def taken(self) -> list[int]:
        """The counts stored since the last call."""
        fresh, self._fresh = self._fresh, []
        return fresh


class Recorder:
    """One transcript in the making."""

    def __init__(
        self,
        name: str,
        about: str,
        *,
        label: Label = BOTH,
        state: CoarseState = CoarseState.READY,
        wrong_pins: int | None = 0,
        failing_saves: Sequence[int] = (),
        actions: Sequence[Action] = tuple(Action),
        frame_size: int = 182,
    ) -> None:
        self.name = name
        self.now = BOOT_S
        self._about = about
        self._frame_size = frame_size
        self._header = {
            "label": {"secret": label.qr.secret.hex(), "pin": label.pin.digits if label.pin else None},
            "state": name_of(state),
            "actions": [int(action) for action in actions],
            "device_class": "thermostat",
            "wrong_pins": wrong_pins,
            "failing_saves": list(failing_saves),
            "booted_at_s": self.now,
        }
        self._saves = Saves(failing_saves)
        self._dice = Dice(f"{name}: device")
        self.device = DeviceMachine(
            label,
            guesses=None if wrong_pins is None else GuessRecord.after_boot(wrong_pins, self.now),
            save_guesses=self._saves,
            entropy=self._dice,
            actions=actions,
            state=state,
            device_class="thermostat",
        )
        self._companions: dict[str, CompanionMachine] = {}
        self._codes: dict[str, SetupCode] = {}
        self._companion_dice: dict[str, Dice] = {}
        self._offers: dict[str, bytes] = {}
        self.steps: Steps = []

    def content(self) -> dict[str, Any]:
        """The whole transcript."""
        return {
            "name": self.name,
            "about": self._about,
            "frame_size": self._frame_size,
            "device": self._header,
            "steps": self.steps,
        }

    def _step(
        self, who: str, does: str, given: dict[str, Any], gives: dict[str, Any], note: str = "", **more: object
    ) -> None:
        step: dict[str, Any] = {"who": who, "does": does}
        if note:
            step["note"] = note
        self.steps.append(step | {"given": {"at_s": self.now, **given}, "gives": gives} | more)

    # The device ------------------------------------------------------------------------------------------------------

    def connect(self, peer: str = "1") -> None:
        self.device.connected(peer, self.now)
        self._step("device", "connected", {"peer": peer, "draws": self._dice.taken()}, {})

    def disconnect(self, peer: str = "1") -> None:
        self.device.disconnected(peer)
        self._step("device", "disconnected", {"peer": peer}, {})

    def hello(self, peer: str = "1") -> bytes:
        value = self.device.hello(peer)
        self.device.replenish(peer)
        self._step("device", "hello-read", {"peer": peer, "draws": self._dice.taken()}, {"hello": value.hex()})
        return value

    def take(self, message: bytes, peer: str = "1", note: str = "") -> list[Output]:
        """The device takes a message, cut into frames."""
        return self.take_frames([(self.now, piece) for piece in frames.split(message, self._frame_size)], peer, note)

    def take_frames(self, pieces: Sequence[tuple[float, bytes]], peer: str = "1", note: str = "") -> list[Output]:
        """The device takes frames, each at its time."""
        outputs: list[Output] = []
        refused = []
        for i, (at_s, piece) in enumerate(pieces):
            try:
                message = self.device.frame_received(peer, piece, at_s)
                if message is not None:
                    outputs += self.device.message_received(peer, message, at_s)
            except RemoteProtocolError as error:
                refused.append({"frame": i, "att_error": error.att_error_hint})
                outputs += self.device.frame_refused(peer, error)
        self._step(
            "device",
            "frames-written",
            {
                "peer": peer,
                "frames": [{"at_s": at_s, "octets": piece.hex()} for at_s, piece in pieces],
                "draws": self._dice.taken(),
            },
            {
                "refused": refused,
                "failures_saved": self._saves.taken(),
                "outputs": outputs_to_json(outputs, self._frame_size),
            },
            note,
        )
        return outputs

    def say(self, session: SessionId, status: Status, note: str = "") -> bytes:
        """The device seals a status; no octets when the session is gone."""
        outputs = self.device.send(session, status)
        gives = outputs_to_json(outputs, self._frame_size)
        self._step(
            "device",
            "status-sent",
            {"peer": session.peer, "session": session.short_sid.hex(), "status": to_json(status)},
            {"outputs": gives},
            note,
            plaintext=encode_status(status).hex(),
        )
        match outputs:
            case [Send(_, message)]:
                return message
            case _:
                return b""

    def become(self, state: CoarseState) -> None:
        self.device.set_state(state)
        self._step("device", "state-set", {"state": name_of(state), "draws": self._dice.taken()}, {})

    def unlock(self) -> None:
        self.device.unlock(GuessRecord(0, self.now))
        self._step("device", "unlocked", {"failures": 0}, {})

    def wait(self, seconds: float, note: str = "") -> list[Output]:
        """Time passes, and the device looks at its deadlines."""
        self.now += seconds
        outputs = self.device.timeouts(self.now)
        self._step("device", "time-passed", {}, {"outputs": outputs_to_json(outputs, self._frame_size)}, note)
        return outputs

    # A companion -----------------------------------------------------------------------------------------------------

    def companion(self, name: str, code: SetupCode) -> None:
        self._codes[name] = code
        self._companion_dice[name] = Dice(f"{self.name}: {name}")
        self._companions[name] = CompanionMachine(code, self._companion_dice[name])
        self._step(name, "starts", {"code": code.text}, {})

    def read(self, name: str, hello: bytes, note: str = "") -> None:
        """A companion takes HELLO's value."""
        self._offers[name] = hello
        self._companion_step(
            name, "reads-hello", {"hello": hello.hex()}, lambda m: {"offer": to_json(m.offer_read(hello))}, note
        )

    def ask_first(self, name: str, request: Request, note: str = "") -> bytes:
        """A companion makes its first message."""
        message = b""

        def make(machine: CompanionMachine) -> dict[str, Any]:
            nonlocal message
            message = machine.first_message(request)
            return self._message(message)

        given = {"request": to_json(request)}
        step = self._companion_step(name, "first-message", given, make, note)
        drawn = step["given"]["draws"] = self._companion_dice[name].taken()
        step["plaintext"] = encode_request(request).hex()
        if message:
            step["secrets"] = secrets_of(
                self._codes[name], self._offers[name], message[: FirstHead.SIZE], bytes.fromhex(drawn[0])
            )
        return message

    def ask(self, name: str, request: Request, note: str = "") -> bytes:
        """A companion makes a later message."""
        message = b""

        def make(machine: CompanionMachine) -> dict[str, Any]:
            nonlocal message
            counter, message = machine.request(request)
            return {"counter": counter} | self._message(message)

        step = self._companion_step(name, "request", {"request": to_json(request)}, make, note)
        step["plaintext"] = encode_request(request).hex()
        return message

    def hear(self, name: str, message: bytes, note: str = "") -> None:
        """A companion takes notifications."""
        self.hear_frames(name, frames.split(message, self._frame_size), note)

    def hear_frames(self, name: str, pieces: Sequence[bytes], note: str = "") -> None:
        def take(machine: CompanionMachine) -> dict[str, Any]:
            heard = [machine.frame_received(piece, self.now) for piece in pieces]
            return {"heard": [heard_to_json(one) for one in heard if one is not None]}

        self._companion_step(name, "notified", {"frames": hexes(pieces)}, take, note)

    def _companion_step(
        self,
        name: str,
        does: str,
        given: dict[str, Any],
        act: Callable[[CompanionMachine], dict[str, Any]],
        note: str,
    ) -> dict[str, Any]:
        machine = self._companions[name]
        try:
            gives = act(machine)
        except ProtocolError as error:
            gives = {"error": error_name(error)}
        self._step(name, does, given, gives | {"state": machine.state.value}, note)
        return self.steps[-1]

    def _message(self, message: bytes) -> dict[str, Any]:
        return {"message": message.hex(), "frames": hexes(frames.split(message, self._frame_size))}


def sent(outputs: Sequence[Output]) -> bytes:
    """The one message among these outputs."""
    (message,) = (output.message for output in outputs if isinstance(output, Send))
    return message


def session_of(outputs: Sequence[Output]) -> SessionId:
    """The session of the one request among these outputs."""
    (session,) = (output.session for output in outputs if isinstance(output, Requested))
    return session


def secrets_of(code: SetupCode, hello: bytes, head: bytes, scalar: bytes) -> dict[str, str]:
    """Every value between the code and the keys, as the companion computes them."""
    first, offer = FirstHead.decode(head), Offer.decode(hello)
    ci = channel_identifier(first.method)
    ya = offer.shares[first.method]
    k = cpace.scalar_multiply(scalar, ya)
    isk = cpace.intermediate_session_key(first.sid, k, ya, hello, first.share, head)
    return {
        "prs": code.password.hex(),
        "ci": ci.hex(),
        "sid": first.sid.hex(),
        "generator_string": cpace._generator_string(code.password, ci, first.sid).hex(),
        "generator": cpace.generator(code.password, ci, first.sid).hex(),
        "yb_scalar": scalar.hex(),
        "ya": ya.hex(),
        "yb": first.share.hex(),
        "ada": hello.hex(),
        "adb": head.hex(),
        "k": k.hex(),
        "isk": isk.hex(),
        "key_to_device": _key(isk, Direction.TO_DEVICE.value).hex(),
        "key_to_companion": _key(isk, Direction.TO_COMPANION.value).hex(),
    }


def _key(isk: bytes, info: bytes) -> bytes:
    """HKDF-SHA-512, spelled out (RFC 5869): one block is enough for 32 octets."""
    extracted = hmac.digest(b"bletoken/1", isk, "sha512")
    return hmac.digest(extracted, info + b"\x01", "sha512")[:32]
