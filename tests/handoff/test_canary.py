"""No secret is where it does not belong: not in a log, an argument, an advert, a packet, an error or another's file."""

import asyncio
import base64
import logging
import os
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from handoff.bench import WAIT_S, Device, InProcess, Processes, command_of, open_bench

from bletoken.errors import BletokenError
from bletoken.protocol.setup_code import Pin, SetupCode
from bletoken.sim.cloud.faults import ErrorAnswer, Fault
from bletoken_central.onboarding import Companion


def forms(secret: str | bytes) -> Iterator[bytes]:
    """A secret as it may turn up: as it is, in hex, and in base64 at each of the three alignments."""
    raw = secret.encode() if isinstance(secret, str) else secret
    yield raw
    yield raw.hex().encode()
    yield raw.hex().upper().encode()
    for shift in range(3):
        # What the neighbours shape is left out at both ends.
        encoded = base64.b64encode(bytes(shift) + raw)[-(-8 * shift // 6) : 8 * (shift + len(raw)) // 6]
        yield encoded
        yield encoded.replace(b"+", b"-").replace(b"/", b"_")


@dataclass
class Canary:
    """The secrets of one bench, and everything that could give them away."""

    secrets: dict[str, str | bytes]
    seen: dict[str, bytes] = field(default_factory=dict)

    def check(self) -> None:
        assert self.seen
        assert any(len(content) > 100 for content in self.seen.values()), "nothing was recorded"
        for name, secret in self.secrets.items():
            for form in forms(secret):
                for where, content in self.seen.items():
                    assert form not in content, f"the {name} is in {where}"


def code_secrets(device: Device) -> dict[str, str | bytes]:
    qr, pin = device.label.qr, device.label.pin
    assert pin is not None
    return {
        "QR text": qr.text.removeprefix("BLETOKEN1:")[:26],
        "QR secret": qr.secret,
        "PIN": pin.digits,
        "printed PIN": pin.text,
    }


async def record(name: str, canary: Canary, process: asyncio.subprocess.Process) -> bytes:
    """Keep what a program says, its arguments and its environment."""
    canary.seen[f"the {name}'s arguments"] = Path(f"/proc/{process.pid}/cmdline").read_bytes() + b" " * 101
    canary.seen[f"the {name}'s environment"] = Path(f"/proc/{process.pid}/environ").read_bytes()
    async with asyncio.timeout(2 * WAIT_S):
        out, err = await process.communicate()
    canary.seen[f"the {name}'s output"] = out
    canary.seen[f"the {name}'s log"] = err
    # How much it is depends on how slow the machine is: asyncio names each step that took long.
    assert b"DEBUG" in err, "nothing was logged at DEBUG"
    return out


async def start(command: list[str]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONASYNCIODEBUG": "1"},
    )


FAULTS = {
    "success": None,
    "refused": Fault(error=ErrorAnswer(status=403, reason="INVALID_TOKEN")),
    "lost": Fault(drop="after"),
    "garbled": Fault(error=ErrorAnswer(status=201, body='{"id": "x"', content_type="application/json")),
    "later": Fault(error=ErrorAnswer(status=503, retry_after="1")),
    "cut": Fault(truncate=True),
}


@pytest.mark.parametrize("case", list(FAULTS))
async def test_programs_at_debug_give_no_secret_away(tmp_path: Path, case: str) -> None:
    snoop = tmp_path / "air.btsnoop"
    async with open_bench(Processes(), tmp_path, btsnoop=snoop) as bench:
        device = bench.device(retry_s=3)
        token = await bench.token()
        canary = Canary({**code_secrets(device), "session key": bench.seed["userKey"], "token": token})
        own = tmp_path / "own"
        own.mkdir()
        (own / "code").write_text(device.label.qr.text)
        (own / "token").write_text(token)
        fault = FAULTS[case]
        if fault is not None:
            bench.mode.faults.arm("POST /devices", fault)
        peripheral = await start(
            [*command_of("bletoken_peripheral"), "run", "--verbose", "--config", str(device.config)]
        )
        recording = asyncio.create_task(record("device", canary, peripheral))
        push = ["push", "--verbose", "--radio", bench.hub.radio, "--find-s", "20"]
        central = await start(
            [
                *command_of("bletoken_central"),
                *push,
                "--code-file",
                str(own / "code"),
                "--token-file",
                str(own / "token"),
            ]
        )
        await record("companion", canary, central)
        assert (central.returncode == 0) == (case == "success"), canary.seen["the companion's log"][-2000:]
        if device.credentials is not None:
            canary.secrets["API key"] = device.credentials.api_key
        peripheral.terminate()
        await recording
        canary.seen["the air"] = snoop.read_bytes()
        for path in tmp_path.rglob("*"):
            if path.is_file() and path.parent != own and path.name not in ("setup-code.json", "credentials.json"):
                canary.seen[str(path)] = path.read_bytes()
        canary.check()


CLAIM_FAULTS = {
    "success": None,
    "refused": Fault(error=ErrorAnswer(status=403, reason="DEVICE_NOT_CLAIMABLE")),
    "lost": Fault(drop="after", count=1),
    "garbled": Fault(error=ErrorAnswer(status=201, body='{"id": "x"', content_type="application/json")),
}


@pytest.mark.parametrize("case", list(CLAIM_FAULTS))
async def test_programs_at_debug_give_no_claim_code_away(tmp_path: Path, case: str) -> None:
    snoop = tmp_path / "air.btsnoop"
    async with open_bench(Processes(), tmp_path, btsnoop=snoop) as bench:
        device = await bench.pre_provisioned()
        assert device.credentials is not None
        canary = Canary(
            {
                **code_secrets(device),
                "session key": bench.seed["userKey"],
                "claim code": device.claim_code,
                "API key": device.credentials.api_key,
            }
        )
        own = tmp_path / "own"
        own.mkdir()
        (own / "code").write_text(device.label.qr.text)
        (own / "key").write_text(bench.seed["userKey"])
        (own / "claim-code").write_text(device.claim_code)
        fault = CLAIM_FAULTS[case]
        if fault is not None:
            bench.mode.faults.arm("POST /devices", fault)
            bench.mode.faults.arm("POST /deviceRegistration", Fault(drop="after", count=1))
        peripheral = await start(
            [*command_of("bletoken_peripheral"), "run", "--verbose", "--config", str(device.config)]
        )
        recording = asyncio.create_task(record("device", canary, peripheral))
        claim = ["claim", "--verbose", "--mode-url", bench.mode.url, "--session-key-file", str(own / "key")]
        over_the_air = ["--radio", bench.hub.radio, "--code-file", str(own / "code")]
        typed = ["--claim-code-file", str(own / "claim-code")]
        central = await start([*command_of("bletoken_central"), *claim, *over_the_air])
        await record("companion", canary, central)
        assert (central.returncode == 0) == (case in ("success", "lost")), canary.seen["the companion's log"][-2000:]
        central = await start([*command_of("bletoken_central"), *claim, *typed])
        await record("companion without Bluetooth", canary, central)
        assert central.returncode != 0
        button = await start([*command_of("bletoken_peripheral"), "claim", "--verbose", "--config", str(device.config)])
        await record("button", canary, button)
        peripheral.terminate()
        await recording
        canary.seen["the air"] = snoop.read_bytes()
        canary.seen["what MODE was asked"] = repr(bench.mode.log.to_json()).encode()
        for path in tmp_path.rglob("*"):
            private = ("setup-code.json", "credentials.json", "claim.json")
            if path.is_file() and path.parent != own and path.name not in private:
                canary.seen[str(path)] = path.read_bytes()
        canary.check()


@pytest.mark.parametrize("case", [*FAULTS, "wrong PIN", "wrong session", "provision", "claim"])
async def test_logs_and_errors_inside_a_process_give_no_secret_away(
    tmp_path: Path, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    # At DEBUG httpcore shows headers; the command lines never let it.
    logging.getLogger("httpcore").setLevel(logging.INFO)
    async with open_bench(InProcess(), tmp_path) as bench:
        token = await bench.token()
        device = await bench.pre_provisioned() if case == "claim" else bench.device(retry_s=1)
        await device.start()
        canary = Canary({**code_secrets(device), "session key": bench.seed["userKey"], "token": token})
        fault = FAULTS.get(case)
        if fault is not None:
            bench.mode.faults.arm("POST /devices", fault)
        code: SetupCode = device.label.qr
        if case == "wrong PIN":
            code = Pin("13572468")
            canary.secrets["wrong PIN"] = "13572468"
        key = "v1.wrong-session-key" if case == "wrong session" else bench.seed["userKey"]
        canary.secrets["used session key"] = key
        texts: list[str] = []
        try:
            async with Companion(
                bench.hub.radio, session_key=key, mode_url=bench.mode.url, notes=tmp_path / "notes"
            ) as companion:
                texts.append(repr(companion))
                if case in ("wrong session", "provision"):
                    await companion.provision(
                        code, home_id=bench.seed["homeId"], device_class=bench.seed["deviceClass"]
                    )
                elif case == "claim":
                    canary.secrets["claim code"] = device.claim_code
                    texts.append(repr(device.folder.read_claim()))
                    await companion.claim(code, home_id=bench.seed["homeId"])
                    await companion.claim_typed(device.claim_code, home_id=bench.seed["homeId"])
                else:
                    await bench.push(code, token)
        except BletokenError as error:
            texts.append("".join(traceback.format_exception(error)))
            texts += [repr(e) for e in (error, error.__cause__, error.__context__)]
        if device.credentials is not None:
            canary.secrets["API key"] = device.credentials.api_key
            texts.append(repr(device.credentials))
        texts += [repr(device.journal), repr(device.label)]
        canary.seen["errors and reprs"] = "\n".join(texts).encode()
        canary.seen["the log"] = caplog.text.encode()
        await device.stop()
        canary.check()


def test_the_canary_sings() -> None:
    for secret in ("a-rather-long-token", bytes(range(16))):
        raw = secret.encode() if isinstance(secret, str) else secret
        for shown in (raw, raw.hex().encode(), base64.b64encode(raw), base64.b64encode(b"ab" + raw + b"c")):
            with pytest.raises(AssertionError, match="the token is in the log"):
                Canary({"token": secret}, {"the log": b" " * 200 + shown}).check()
