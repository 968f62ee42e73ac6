import argparse
import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from handoff.warp import WarpedLoop
from unit.cloud.world import until
from websockets.asyncio.client import connect

from bletoken.errors import StorageError, UsageError
from bletoken.sim.cli import parser
from bletoken.sim.cloud import command
from bletoken.sim.cloud.server import serve


@contextmanager
def started(*arguments: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """The program, and the first line that it prints."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "bletoken.sim.cli", "cloud", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout
        yield process, process.stdout.readline()
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def parsed(*arguments: str) -> argparse.Namespace:
    return parser(["cloud", *arguments]).parse_args(["cloud", *arguments])


def test_what_is_redeemed_survives_being_killed(tmp_path: Path) -> None:
    db = str(tmp_path / "mode.db")
    with started("--json", "--seed", "--db", db) as (process, line):
        seed, url = json.loads(line)["seed"], json.loads(line)["url"]
        user = {"Authorization": f"ModeCloud {seed['userKey']}"}
        path = f"/homes/{seed['homeId']}/deviceProvisioning"
        with httpx.Client(base_url=url, trust_env=False) as client:
            tokens = [
                client.post(path, json={"deviceClass": seed["deviceClass"]}, headers=user).json()["token"]
                for _ in range(2)
            ]
            device = client.post("/devices", json={"token": tokens[0]}).json()
        process.kill()
        process.wait()
    with (
        started("--json", "--seed", "--db", db) as (process, line),
        httpx.Client(base_url=json.loads(line)["url"], trust_env=False) as client,
    ):
        again = json.loads(line)["seed"]
        assert {k: v for k, v in again.items() if k != "userKey"} == {k: v for k, v in seed.items() if k != "userKey"}
        own_key = {"Authorization": f"ModeCloud {device['apiKey']}"}
        assert client.get("/auth", headers=own_key).json()["deviceId"] == device["id"]
        assert client.get(f"/devices/{device['id']}", headers=user).status_code == 200
        assert client.post("/devices", json={"token": tokens[0]}).status_code == 403
        assert client.post("/devices", json={"token": tokens[1]}).json()["id"] == device["id"] + 1


def test_a_claim_window_and_a_claim_survive_being_killed(tmp_path: Path) -> None:
    db = str(tmp_path / "mode.db")
    devices: list[dict[str, Any]] = []
    seed: dict[str, Any] = {}

    def headers(key: str) -> dict[str, str]:
        return {"Authorization": f"ModeCloud {key}"}

    def claim(client: httpx.Client, device: dict[str, Any]) -> httpx.Response:
        body = {"homeId": seed["homeId"], "claimCode": device["claimCode"]}
        return client.post("/devices", json=body, headers=headers(seed["userKey"]))

    @contextmanager
    def killed_in_the_end() -> Iterator[httpx.Client]:
        with (
            started("--json", "--db", db) as (process, line),
            httpx.Client(base_url=json.loads(line)["url"], trust_env=False) as client,
        ):
            yield client
            process.kill()
            process.wait()

    with killed_in_the_end() as client:
        seed |= client.post("/_sim/seed", json={"onDemand": False}).json()
        devices += [client.post("/_sim/devices").json() for _ in range(3)]
        for device, window in zip(devices, [{"claimable": 1, "duration": 300}, {"claimable": 0}], strict=False):
            body = {"deviceId": device["id"], **window}
            answer = client.post("/deviceRegistration", data=body, headers=headers(device["apiKey"]))
            assert answer.status_code == 200
        opened = client.get("/_sim/devices?secrets=1").json()
    with killed_in_the_end() as client:
        assert client.get("/_sim/devices?secrets=1").json() == opened
        assert [each["claimable"] for each in opened] == [True, False, False]
        assert [claim(client, device).status_code for device in devices] == [201, 403, 403]
        path = f"/devices/{devices[0]['id']}"
        claimed = client.get(path, headers=headers(devices[0]["apiKey"])).json()
        assert claimed["homeId"] == seed["homeId"]
    with killed_in_the_end() as client:
        assert client.get(path, headers=headers(devices[0]["apiKey"])).json() == claimed
        assert claim(client, devices[0]).json() == {"reason": "DEVICE_ALREADY_IN_HOME"}
        body = {"deviceId": devices[0]["id"], "claimable": 1, "duration": 60}
        answer = client.post("/deviceRegistration", data=body, headers=headers(devices[0]["apiKey"]))
        assert answer.json() == {"reason": "DEVICE_ALREADY_IN_HOME"}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot send a program these signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_it_cleanly_in_the_middle_of_everything(number: signal.Signals) -> None:
    with started("--seed", "--set", "timestamp_digits=0") as (process, line):
        url = line.strip()
        assert process.stdout
        key = next(text.split()[1] for text in process.stdout if "userKey" in text)
        async with (
            httpx.AsyncClient(base_url=url, trust_env=False) as client,
            connect(f"{url.replace('http', 'ws')}/userSession/websocket?authToken={key}", proxy=None) as socket,
        ):
            await client.put("/_sim/faults", json={"GET /auth": {"hold": "after"}, "POST /devices": {"delay_s": 3600}})
            waiting = [
                asyncio.create_task(client.get("/auth", timeout=60)),
                asyncio.create_task(client.post("/devices", timeout=60)),
            ]

            async def both_wait() -> bool:
                return sum(r["fault"] is not None for r in (await client.get("/_sim/requests")).json()) == 2

            await until(both_wait)
            process.send_signal(number)
            await socket.wait_closed()
            outcomes = await asyncio.gather(*waiting, return_exceptions=True)
            assert all(isinstance(outcome, httpx.TransportError) for outcome in outcomes)
        _, errors = await asyncio.to_thread(process.communicate)
        assert (process.returncode, errors) == (0, "")


async def test_a_test_that_fails_inside_fails_with_its_own_error() -> None:
    with pytest.raises(KeyError):
        async with serve():
            raise KeyError


async def test_servers_in_one_loop_do_not_share_anything() -> None:
    async with serve() as one, serve() as other, httpx.AsyncClient(trust_env=False) as client:
        assert one.url != other.url
        await client.get(f"{one.url}/auth")
        assert (len(one.log.requests()), len(other.log.requests())) == (1, 0)


async def test_a_server_is_gone_after_its_context() -> None:
    async with serve() as server:
        pass
    async with httpx.AsyncClient(trust_env=False) as client:
        with pytest.raises(httpx.ConnectError):
            await client.get(f"{server.url}/auth")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com", ""])
def test_it_listens_on_this_machine_only(host: str) -> None:
    with pytest.raises(UsageError, match="this machine only"):
        command.run(parsed("--host", host))


async def test_a_port_in_use_is_an_error_in_words() -> None:
    async with serve() as server:
        port = int(server.url.rpartition(":")[2])
        with pytest.raises(UsageError, match=str(port)):
            async with serve(port=port):
                pass


@pytest.mark.parametrize(
    "arguments",
    [
        ["--set", "token_length"],
        ["--set", "token_length=1"],
        ["--set", "nonsense=1"],
        ["--settings", "/nowhere/settings.json"],
        ["--port", "99999"],
    ],
)
def test_unusable_options_are_refused(arguments: list[str]) -> None:
    with pytest.raises(UsageError):
        command.run(parsed(*arguments))


def test_a_settings_file_is_read_and_overruled_by_set(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text('{"token_length": 60, "redeem_status": 200}')
    settings: Any = command._settings(parsed("--settings", str(path), "--set", "token_length=61"))
    assert (settings.token_length, settings.redeem_status) == (61, 200)
    path.write_text("[]")
    with pytest.raises(UsageError):
        command._settings(parsed("--settings", str(path)))


def test_an_unusable_database_is_an_error_in_words(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        command.run(parsed("--db", str(tmp_path)))


def test_an_idle_connection_is_closed_by_the_client_and_not_while_it_sends() -> None:
    async def idle_s() -> float:
        loop = asyncio.get_running_loop()
        async with serve() as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(server.url).port)
            writer.write(b"GET /auth HTTP/1.1\r\nHost: mode\r\n\r\n")
            await reader.readuntil(b"}")
            began_at = loop.time()
            assert await reader.read() == b""
            writer.close()
            return loop.time() - began_at

    with asyncio.Runner(loop_factory=WarpedLoop) as runner:
        server_keeps_s = runner.run(idle_s())
    client_keeps_s = httpx.Limits().keepalive_expiry
    assert client_keeps_s
    assert server_keeps_s > 2 * client_keeps_s
