import base64
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from vectors.maker import __main__ as maker
from vectors.maker import notation, plain
from vectors.maker.recorder import error_name, heard_to_json, outputs_to_json

from bletoken.errors import ProtocolError, RemoteProtocolError, SetupCodeError, StorageError
from bletoken.protocol import cbor, frames, wire
from bletoken.protocol.companion import CompanionMachine
from bletoken.protocol.device import DeviceMachine, Output, SessionId
from bletoken.protocol.guesses import GuessRecord
from bletoken.protocol.setup_code import AdvertName, Label, Pin, QrSecret, SetupCode, parse_setup_code
from bletoken.protocol.wire import Action, CoarseState

FOLDER = maker.FOLDER
MADE = maker.contents()
TRANSCRIPTS: list[dict[str, Any]] = [json.loads(path.read_text()) for path in sorted(FOLDER.glob("transcripts/*.json"))]
CODES, ADVERTS, FRAMES, CBOR, GUESSES = (
    json.loads((FOLDER / f"{name}.json").read_text())
    for name in ("setup-codes", "adverts", "frames", "cbor", "guesses")
)

transcripts = pytest.mark.parametrize("transcript", TRANSCRIPTS, ids=lambda t: t["name"])


# The code gives what is recorded ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(MADE), ids=lambda path: path.stem)
def test_the_code_writes_this_file_again_octet_for_octet(path: Path) -> None:
    assert json.loads(path.read_text(encoding="utf-8")) == MADE[path], "if it is meant: scripts/vectors"


def test_there_is_no_file_that_nothing_writes() -> None:
    assert set(FOLDER.rglob("*.json")) == {*MADE, FOLDER / "cpace.json"}


# What is recorded gives the recorded outcome ------------------------------------------------------------------------


class Draws:
    """Entropy as it was recorded."""

    def __init__(self) -> None:
        self.left: list[bytes] = []

    def __call__(self, size: int) -> bytes:
        octets = self.left.pop(0)
        assert len(octets) == size
        return octets


class Player:
    """Plays a transcript to both machines, from the JSON alone."""

    def __init__(self, transcript: dict[str, Any]) -> None:
        header = transcript["device"]
        self._frame_size = transcript["frame_size"]
        self._draws = Draws()
        self._saves: list[int] = []
        self._save_number = 0
        self._failing = header["failing_saves"]
        label, failures = header["label"], header["wrong_pins"]
        self._device = DeviceMachine(
            Label(QrSecret(bytes.fromhex(label["secret"])), Pin(label["pin"]) if label["pin"] else None),
            guesses=None if failures is None else GuessRecord.after_boot(failures, header["booted_at_s"]),
            save_guesses=self._save,
            entropy=self._draws,
            actions=[Action(number) for number in header["actions"]],
            state=notation.member(CoarseState, header["state"]),
            device_class=header["device_class"],
        )
        self._companions: dict[str, CompanionMachine] = {}

    def _save(self, record: GuessRecord) -> None:
        self._save_number += 1
        if self._save_number - 1 in self._failing:
            raise StorageError("the disk is full")
        self._saves.append(record.failures)

    def play(self, step: dict[str, Any]) -> dict[str, Any]:
        """What the step gives here."""
        given = step["given"]
        self._draws.left = [bytes.fromhex(draw) for draw in given.get("draws", [])]
        if step["who"] == "device":
            gives = self._device_step(step["does"], given)
        elif step["does"] == "starts":
            self._companions[step["who"]] = CompanionMachine(parse_setup_code(given["code"]), self._draws)
            gives = {}
        else:
            machine = self._companions[step["who"]]
            try:
                gives = self._companion_step(machine, step["does"], given)
            except ProtocolError as error:
                gives = {"error": error_name(error)}
            gives |= {"state": machine.state.value}
        assert not self._draws.left, "some entropy was not used"
        return gives

    def _device_step(self, does: str, given: dict[str, Any]) -> dict[str, Any]:
        peer, now = given.get("peer", ""), given["at_s"]
        match does:
            case "connected":
                self._device.connected(peer, now)
            case "disconnected":
                self._device.disconnected(peer)
            case "state-set":
                self._device.set_state(notation.member(CoarseState, given["state"]))
            case "unlocked":
                self._device.unlock(GuessRecord(given["failures"], now))
            case "hello-read":
                value = self._device.hello(peer)
                self._device.replenish(peer)
                return {"hello": value.hex()}
            case "status-sent":
                session = SessionId(peer, bytes.fromhex(given["session"]))
                return self._out(self._device.send(session, notation.from_json(given["status"])))
            case "time-passed":
                return self._out(self._device.timeouts(now))
            case "frames-written":
                return self._frames_written(peer, given["frames"])
            case _:
                raise AssertionError(does)
        return {}

    def _frames_written(self, peer: str, timed: list[dict[str, Any]]) -> dict[str, Any]:
        refused, outputs = [], []
        for i, frame in enumerate(timed):
            try:
                message = self._device.frame_received(peer, bytes.fromhex(frame["octets"]), frame["at_s"])
            except RemoteProtocolError as error:
                refused.append({"frame": i, "att_error": error.att_error_hint})
                outputs += self._device.frame_refused(peer, error)
                continue
            if message is not None:
                outputs += self._device.message_received(peer, message, frame["at_s"])
        saved, self._saves = self._saves, []
        return {"refused": refused, "failures_saved": saved} | self._out(outputs)

    def _out(self, outputs: list[Output]) -> dict[str, Any]:
        return {"outputs": outputs_to_json(outputs, self._frame_size)}

    def _companion_step(self, machine: CompanionMachine, does: str, given: dict[str, Any]) -> dict[str, Any]:
        match does:
            case "reads-hello":
                return {"offer": notation.to_json(machine.offer_read(bytes.fromhex(given["hello"])))}
            case "first-message":
                return self._message(machine.first_message(notation.from_json(given["request"])))
            case "request":
                counter, message = machine.request(notation.from_json(given["request"]))
                return {"counter": counter} | self._message(message)
            case "notified":
                heard = [machine.frame_received(bytes.fromhex(frame), given["at_s"]) for frame in given["frames"]]
                return {"heard": [heard_to_json(one) for one in heard if one is not None]}
            case _:
                raise AssertionError(does)

    def _message(self, message: bytes) -> dict[str, Any]:
        return {"message": message.hex(), "frames": [f.hex() for f in frames.split(message, self._frame_size)]}


@transcripts
def test_the_recorded_octets_give_the_recorded_outcome(transcript: dict[str, Any]) -> None:
    player = Player(transcript)
    for number, step in enumerate(transcript["steps"]):
        assert player.play(step) == step["gives"], f"step {number}: {step['who']} {step['does']}"


def test_every_clear_status_but_busy_is_in_a_transcript_that_a_device_makes() -> None:
    found = {
        output["meaning"]["code"]
        for transcript in TRANSCRIPTS
        for step in transcript["steps"]
        for output in step["gives"].get("outputs", [])
        if "meaning" in output
    }
    # Only whoever carries requests out can be busy; the machine never is.
    assert found == {notation.name_of(code) for code in wire.ClearCode} - {"busy"}


def test_every_sealed_status_and_failure_is_in_a_transcript() -> None:
    heard = [
        h for t in TRANSCRIPTS for s in t["steps"] for h in s["gives"].get("heard", []) if h["is"] != "clear-status"
    ]
    assert {h["is"] for h in heard} == {notation.NAMES[cls] for cls in wire._STATUSES.values()}
    assert {h["code"] for h in heard if h["is"] == "failed"} == {notation.name_of(code) for code in wire.FailureCode}


# A second implementation, from PROTOCOL.md alone --------------------------------------------------------------------


def lv(*parts: bytes) -> bytes:
    return b"".join((bytes([n]) if (n := len(p)) < 128 else bytes([n % 128 + 128, n // 128])) + p for p in parts)


def elligator(octets: bytes) -> bytes:
    p, a = 2**255 - 19, 486662
    r = int.from_bytes(octets, "little") % 2**255
    v = -a * pow(1 + 2 * r**2, p - 2, p) % p
    square = pow(v**3 + a * v**2 + v, (p - 1) // 2, p) in (0, 1)
    return (v if square else (-v - a) % p).to_bytes(32, "little")


def x25519(scalar: bytes, point: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(scalar).exchange(X25519PublicKey.from_public_bytes(point))


def hkdf(key: bytes, info: bytes) -> bytes:
    extracted = hmac.digest(b"bletoken/1", key, "sha512")
    return hmac.digest(extracted, info + b"\x01", "sha512")[:32]


def derive(prs: bytes, hello: bytes, scalar: bytes, method: int, sid: bytes, ya: bytes) -> dict[str, bytes]:
    service = bytes.fromhex("b1e700000c9946dcbaf4a8712fe5a5d4")
    ci = lv(b"bletoken/1", service, b"device", b"companion", bytes([method]))
    pad = bytes(127 - len(lv(prs)) - len(lv(b"CPace255")))
    g = elligator(hashlib.sha512(lv(b"CPace255", prs, pad, ci, sid)).digest()[:32])
    yb = x25519(scalar, g)
    head = bytes([1, 1, method]) + sid + yb
    k = x25519(scalar, ya)
    isk = hashlib.sha512(lv(b"CPace255_ISK", sid, k) + lv(ya, hello) + lv(yb, head)).digest()
    return {
        "generator": g,
        "yb": yb,
        "adb": head,
        "k": k,
        "isk": isk,
        "key_to_device": hkdf(isk, b"companion to device"),
        "key_to_companion": hkdf(isk, b"device to companion"),
    }


@transcripts
def test_an_implementation_of_the_document_gets_the_same_keys_and_boxes(transcript: dict[str, Any]) -> None:
    keys: dict[str, dict[str, bytes]] = {}
    for step in transcript["steps"]:
        if step["does"] in ("first-message", "request") and "message" in step["gives"]:
            message = bytes.fromhex(step["gives"]["message"])
            head_size, counter = (51, 0) if step["does"] == "first-message" else (13, step["gives"]["counter"])
            if counter == 0:
                secrets = {name: bytes.fromhex(value) for name, value in step["secrets"].items()}
                known = secrets["prs"], secrets["ada"], secrets["yb_scalar"]
                mine = derive(*known, message[2], secrets["sid"], secrets["ya"])
                assert mine == {name: secrets[name] for name in mine}
                keys[step["who"]] = keys[message[3:11].hex()] = mine
            box = AESGCM(keys[step["who"]]["key_to_device"])
            plaintext = bytes.fromhex(step["plaintext"])
            head = message[:head_size]
            assert head == (keys[step["who"]]["adb"] if counter == 0 else b"\x02" + head[1:9] + counter.to_bytes(4))
            assert message == head + box.encrypt(counter.to_bytes(12), plaintext, head)
        for output in step["gives"].get("outputs", []):
            if step["does"] == "status-sent" and output["send"][2:18] in keys:
                message = bytes.fromhex(output["send"])
                box = AESGCM(keys[output["send"][2:18]]["key_to_companion"])
                nonce = bytes(8) + message[9:13]
                assert box.decrypt(nonce, message[13:], message[:13]).hex() == step["plaintext"]


@transcripts
def test_answers_to_what_is_no_request_open_with_the_recorded_key(transcript: dict[str, Any]) -> None:
    for step in transcript["steps"]:
        if "answer" in step:
            (output,) = step["gives"]["outputs"]
            message, isk = bytes.fromhex(output["send"]), bytes.fromhex(step["answer"]["isk"])
            opened = AESGCM(hkdf(isk, b"device to companion")).decrypt(
                bytes(8) + message[9:13], message[13:], message[:13]
            )
            assert opened.hex() == step["answer"]["plaintext"]
            assert step["answer"]["means"]["code"] == "request-invalid"


@pytest.mark.parametrize("vector", ADVERTS["names"], ids=lambda v: v["name"])
def test_an_implementation_of_the_document_makes_the_same_tag(vector: dict[str, str]) -> None:
    nonce = bytes.fromhex(vector["nonce"])
    key = hkdf(bytes.fromhex(vector["secret"]), b"bletoken/1 advert")
    tag = base64.b32encode(nonce + hmac.digest(key, nonce, "sha256")[:4]).decode().rstrip("=")
    assert tag == vector["tag"]
    assert vector["name"] == f"bletoken-1{'rwpuc'[state(vector)]}-{tag}"
    assert bytes.fromhex(vector["scan_response"]) == bytes([23, 9]) + vector["name"].encode()


def state(vector: dict[str, str]) -> CoarseState:
    return notation.member(CoarseState, vector["state"])


# Codes and adverts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", [*CODES["qr"], *CODES["pin"]], ids=lambda v: v["text"])
def test_a_code_reads_and_prints_as_recorded(vector: dict[str, str]) -> None:
    code: SetupCode = Pin(vector["digits"]) if "digits" in vector else QrSecret(bytes.fromhex(vector["secret"]))
    assert (code.text, code.password.hex()) == (vector["text"], vector["prs"])
    assert parse_setup_code(vector["text"]) == code


@pytest.mark.parametrize("vector", CODES["same"], ids=lambda v: repr(v["typed"]))
def test_another_spelling_is_the_same_code(vector: dict[str, str]) -> None:
    assert parse_setup_code(vector["typed"]).text == vector["means"]


@pytest.mark.parametrize("vector", CODES["refused"], ids=lambda v: v["about"])
def test_a_wrong_code_is_refused(vector: dict[str, str]) -> None:
    with pytest.raises(SetupCodeError):
        parse_setup_code(vector["text"])


@pytest.mark.parametrize("digits", CODES["trivial_pins"])
def test_a_trivial_pin_is_refused(digits: str) -> None:
    with pytest.raises(SetupCodeError):
        Pin(digits)


@pytest.mark.parametrize("vector", ADVERTS["names"], ids=lambda v: v["name"])
def test_only_the_holder_of_the_secret_knows_the_name(vector: dict[str, str]) -> None:
    name = AdvertName.parse(vector["name"])
    assert name == AdvertName(state(vector).letter, vector["tag"])
    for other in {v["secret"] for v in ADVERTS["names"]}:
        assert name.is_of(QrSecret(bytes.fromhex(other))) is (other == vector["secret"])


@pytest.mark.parametrize("text", ADVERTS["not_ours"])
def test_a_name_that_is_not_ours_is_none(text: str) -> None:
    assert AdvertName.parse(text) is None


def test_the_advertising_data_fit_into_31_octets_and_hold_the_service() -> None:
    octets = bytes.fromhex(ADVERTS["advertising_data"])
    assert octets == bytes([2, 1, 6, 17, 7]) + bytes.fromhex(wire.SERVICE_UUID.replace("-", ""))[::-1]
    assert len(octets) <= 31


# Frames, CBOR, guesses ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", FRAMES["sizes"], ids=lambda v: str(v["att_mtu"]))
def test_the_frame_size_follows_the_mtu(vector: dict[str, int]) -> None:
    assert frames.frame_size(vector["att_mtu"]) == vector["frame_size"]


@pytest.mark.parametrize("vector", FRAMES["cut"], ids=lambda v: f"{len(v['message']) // 2} by {v['size']}")
def test_a_message_is_cut_as_recorded(vector: dict[str, Any]) -> None:
    assert [f.hex() for f in frames.split(bytes.fromhex(vector["message"]), vector["size"])] == vector["frames"]


@pytest.mark.parametrize("vector", [*FRAMES["cut"], *FRAMES["joined"]])
def test_recorded_frames_give_the_message_and_only_with_the_last(vector: dict[str, Any]) -> None:
    reassembler = frames.Reassembler()
    *before, last = [reassembler.receive(bytes.fromhex(frame), 0) for frame in vector["frames"]]
    assert before == [None] * len(before)
    assert last == bytes.fromhex(vector["message"])


@pytest.mark.parametrize("vector", FRAMES["refused"], ids=lambda v: v["about"])
def test_the_last_of_these_frames_is_refused(vector: dict[str, Any]) -> None:
    reassembler = frames.Reassembler()
    *before, last = vector["frames"]
    for frame in before:
        reassembler.receive(bytes.fromhex(frame["octets"]), frame["at_s"])
    with pytest.raises(RemoteProtocolError) as caught:
        reassembler.receive(bytes.fromhex(last["octets"]), last["at_s"])
    assert caught.value.att_error_hint == vector["att_error"]


def decode(kind: str, octets: bytes) -> object:
    match kind:
        case "offer":
            return wire.Offer.decode(octets)
        case "clear-status":
            return cbor.decode(octets, wire.ClearStatus)
        case "request":
            return wire.decode_request(octets)
        case _:
            return wire.decode_status(octets)


def kind_of(name: str) -> str:
    cls = notation.CLASSES[name]
    return name if name in ("offer", "clear-status") else "status" if issubclass(cls, wire.Status) else "request"


@pytest.mark.parametrize("vector", [*CBOR["valid"], *CBOR["also_valid"]], ids=lambda v: v["octets"][:24])
def test_valid_octets_mean_what_is_recorded(vector: dict[str, Any]) -> None:
    decoded = decode(kind_of(vector["means"]["is"]), bytes.fromhex(vector["octets"]))
    assert notation.to_json(decoded) == vector["means"]


@pytest.mark.parametrize("vector", CBOR["valid"], ids=lambda v: v["octets"][:24])
def test_a_message_becomes_the_recorded_octets(vector: dict[str, Any]) -> None:
    assert plain.encoded(notation.from_json(vector["means"])).hex() == vector["octets"]


@pytest.mark.parametrize("vector", CBOR["refused"], ids=lambda v: f"{v['as']}: {v['about']}")
def test_refused_octets_are_refused(vector: dict[str, str]) -> None:
    with pytest.raises(RemoteProtocolError):
        decode(vector["as"], bytes.fromhex(vector["octets"]))


def test_every_message_is_among_the_valid_ones() -> None:
    assert {vector["means"]["is"] for vector in CBOR["valid"]} == set(notation.CLASSES)


@pytest.mark.parametrize("vector", GUESSES["waits"], ids=lambda v: str(v["failures"]))
def test_the_wait_is_as_recorded(vector: dict[str, Any]) -> None:
    wait_s = GuessRecord(vector["failures"], 50).wait_s(50)
    assert wait_s == (float("inf") if vector["wait_s"] is None else vector["wait_s"])
