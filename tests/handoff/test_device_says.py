"""What a real device program says when something is wrong with it, with MODE, or with what it is asked."""

import asyncio
import datetime as dt
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from handoff.bench import Bench, until
from handoff.raw_companion import RawCompanion, connected
from handoff.stranger import Stranger

from bletoken.protocol import companion, frames
from bletoken.protocol.wire import (
    Accepted,
    AskStatus,
    Claim,
    ClearCode,
    Failed,
    FailureCode,
    MessageType,
    Provision,
    Redeeming,
    Status,
)
from bletoken.sim.cloud.faults import ErrorAnswer, Fault

pytestmark = pytest.mark.parametrize("bench", ["processes"], indirect=True)


async def failure(companion: RawCompanion) -> Failed:
    status = await companion.heard()
    while isinstance(status, Accepted | Redeeming):
        status = await companion.heard()
    assert isinstance(status, Failed), status
    return status


@pytest.mark.produces(ClearCode.LOCKED)
async def test_after_wrong_pins_the_next_has_to_wait_also_after_a_restart_and_the_qr_code_does_not(
    bench: Bench,
) -> None:
    device = bench.device()
    device.folder.write_failures(8)
    await device.start()
    assert device.label.pin is not None
    locked = await bench.push(device.label.pin, "token")
    assert locked.exit_code == 5, locked
    assert "takes no PIN for 1" in locked.message
    assert device.folder.read_failures() == 8
    assert (await bench.push(device.label.qr, await bench.token())).exit_code == 0


def block_writing(folder: Path, name: str) -> Path:
    """Make a state file unwritable, for root too: its fresh copy has the name of a folder."""
    blocker = folder / f".{name}.new"
    (blocker / "in-the-way").mkdir(parents=True)
    return blocker


def unblock_writing(blocker: Path) -> None:
    (blocker / "in-the-way").rmdir()
    blocker.rmdir()


@pytest.mark.produces(ClearCode.STORAGE_FAILED)
async def test_a_pin_that_cannot_be_counted_is_not_tried(bench: Bench) -> None:
    device = bench.device()
    await device.start()
    block_writing(device.folder.path, "guesses.json")
    assert device.label.pin is not None
    outcome = await bench.push(device.label.pin, await bench.token())
    assert outcome.exit_code == 15, outcome
    assert bench.redemptions == []
    assert (await bench.push(device.label.qr, await bench.token())).exit_code == 0


@pytest.mark.produces(FailureCode.STORAGE_FAILED)
async def test_a_token_that_cannot_be_stored_is_not_taken_and_can_be_sent_again(bench: Bench) -> None:
    device = bench.device()
    await device.start()
    blocker = block_writing(device.folder.path, "journal.json")
    token = await bench.token()
    outcome = await bench.push(device.label.qr, token)
    assert outcome.exit_code == 15, outcome
    assert bench.redemptions == []
    unblock_writing(blocker)
    assert (await bench.push(device.label.qr, token)).exit_code == 0


@pytest.mark.produces(FailureCode.CREDENTIALS_REFUSED)
async def test_credentials_that_mode_does_not_accept_are_kept_and_told(bench: Bench) -> None:
    device = bench.device()
    await device.start()
    nobody = ErrorAnswer(status=200, body='{"type": "nobody"}', content_type="application/json")
    bench.mode.faults.arm("GET /auth", Fault(error=nobody))
    outcome = await bench.push(device.label.qr, await bench.token())
    assert outcome.exit_code == 21, outcome
    assert device.credentials is not None


@pytest.mark.produces(FailureCode.NOT_ALLOWED)
async def test_a_request_that_the_device_does_not_know_is_not_allowed(bench: Bench) -> None:
    device = bench.device()
    await device.start()
    async with connected(bench, device.label.qr) as raw:
        await raw.send(Claim(60))
        assert (await failure(raw)).code is FailureCode.NOT_ALLOWED


@pytest.mark.produces(FailureCode.REQUEST_INVALID)
async def test_a_request_that_is_none_is_invalid_and_the_session_goes_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = bench.device()
    await device.start()
    async with connected(bench, device.label.qr) as raw:
        with monkeypatch.context() as patch:
            patch.setattr(companion, "encode_request", lambda _: b"\xa1\x00\x18\x63")
            await raw.send(AskStatus())
        assert (await failure(raw)).code is FailureCode.REQUEST_INVALID
        answer = await raw.ask(AskStatus())
        assert isinstance(answer, Status)
        assert answer.re == 1


@pytest.mark.produces(FailureCode.CLOCK_WRONG)
async def test_a_certificate_out_of_its_time_and_a_companion_in_another_year_mean_a_wrong_clock(bench: Bench) -> None:
    async with mode_with_an_expired_certificate(bench.path) as url:
        device = bench.device(mode_url=url, mode_ca=str(bench.path / "ca.pem"), retry_s=1)
        await device.start()
        async with connected(bench, device.label.qr) as raw:
            await raw.send(Provision("token", 600, 1_000_000_000))
            assert (await failure(raw)).code is FailureCode.CLOCK_WRONG
        # A companion in the same year says that it is the certificate.
        outcome = await bench.push(device.label.qr, "another-token")
        assert outcome.exit_code == 7, outcome
        assert "certificate" in outcome.message


@asynccontextmanager
async def mode_with_an_expired_certificate(folder: Path) -> AsyncIterator[str]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    then = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(then)
        .not_valid_after(then + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "ca.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "key.pem").write_bytes(private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "ca.pem", folder / "key.pem")
    server = await asyncio.start_server(lambda _, writer: writer.close(), "localhost", 0, ssl=context)
    async with server:
        yield f"https://localhost:{server.sockets[0].getsockname()[1]}"


@pytest.mark.produces(ClearCode.BUSY)
async def test_who_floods_the_device_with_messages_is_told_that_it_is_busy(bench: Bench) -> None:
    device = bench.device()
    await device.start()
    stranger = await Stranger.connect(bench)
    # Write Commands need no answer, so many arrive before the first is looked at.
    await stranger.flood([frames.split(b"\x09nonsense", 20)[0]] * 200)
    await until(lambda: any(m[0] == MessageType.CLEAR_STATUS for m in stranger.heard))
    codes = {await stranger.refused_with() for _ in range(len(stranger.heard))}
    assert ClearCode.BUSY in codes
    assert (await bench.push(device.label.qr, await bench.token())).exit_code == 0
    await stranger.client.disconnect()
