"""The test's own API under `/_sim/`: to set the scene, to make things fail, and to see what happened.

| request | what it does |
|---|---|
| `POST /_sim/seed` | make a project, app, class, user and home (all optional: `projectId, appId, email, password, homeName, deviceClass, onDemand`); answers with all of it, the ids, and a session key of the user |
| `PUT /_sim/faults` | arm exactly these faults: `{"POST /devices": [{"drop": "after", "count": 1}]}` (one fault needs no list) |
| `GET /_sim/faults` | the armed faults, how often each still strikes, and the requests being held |
| `DELETE /_sim/faults` | forget all faults; held requests stay held |
| `POST /_sim/release` | let held requests go on: all, or those of `{"endpoint": "POST /devices"}` |
| `GET /_sim/requests` | the requests so far: endpoint, status decided, status sent, fault |
| `DELETE /_sim/requests` | forget them |
| `GET /_sim/devices` | all devices, in homes or not; `?secrets=1` with their keys and claim codes |
| `POST /_sim/devices` | make a device ahead of time, as the Developer Console does (all optional: `projectId, deviceClass, name, tag`, those of the seed by default); answers with its id, key and claim code |

Only this machine may ask.
"""  # noqa: E501 - a table

import ipaddress
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from bletoken.errors import UsageError
from bletoken.sim.cloud.answers import RefusedError, timestamp
from bletoken.sim.cloud.body import Parameters, parse_object
from bletoken.sim.cloud.faults import Fault, FaultTable
from bletoken.sim.cloud.records import Device, Seed
from bletoken.sim.cloud.request_log import RequestLog
from bletoken.sim.cloud.settings import Refusal, Settings
from bletoken.sim.cloud.store import Store

Handler = Callable[[Request], Awaitable[Response]]


class AdminApi:
    """The handlers below `/_sim/`."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        faults: FaultTable,
        log: RequestLog,
        clock: Callable[[], int],
    ) -> None:
        self._settings = settings
        self._store = store
        self._faults = faults
        self._log = log
        self._clock = clock

    def routes(self) -> list[BaseRoute]:
        """The endpoints."""
        return [
            Route("/_sim/seed", _local(self.seed), methods=["POST"]),
            Route("/_sim/faults", _local(self.get_faults), methods=["GET"]),
            Route("/_sim/faults", _local(self.put_faults), methods=["PUT"]),
            Route("/_sim/faults", _local(self.delete_faults), methods=["DELETE"]),
            Route("/_sim/release", _local(self.release), methods=["POST"]),
            Route("/_sim/requests", _local(self.get_requests), methods=["GET"]),
            Route("/_sim/requests", _local(self.delete_requests), methods=["DELETE"]),
            Route("/_sim/devices", _local(self.get_devices), methods=["GET"]),
            Route("/_sim/devices", _local(self.make_device), methods=["POST"]),
        ]

    async def seed(self, request: Request) -> Response:
        """`POST /_sim/seed`."""
        parameters = await Parameters.of(request)
        names = {
            "app_id": "appId",
            "email": "email",
            "password": "password",
            "home_name": "homeName",
            "device_class": "deviceClass",
        }
        given: dict[str, Any] = {
            field: value for field, name in names.items() if (value := parameters.optional_text(name)) is not None
        }
        if parameters.has("projectId"):
            given["project_id"] = parameters.id("projectId")
        if parameters.has("onDemand"):
            given["on_demand"] = parameters.truth("onDemand")
        return JSONResponse(plant(self._store, Seed(**given), self._settings, now_ns=self._clock()))

    async def get_faults(self, _: Request) -> Response:
        """`GET /_sim/faults`."""
        return JSONResponse(self._faults.to_json())

    async def put_faults(self, request: Request) -> Response:
        """`PUT /_sim/faults`."""
        table = parse_object(await request.body())
        self._faults.replace(
            {
                endpoint: [Fault.parse(value) for value in (values if isinstance(values, list) else [values])]
                for endpoint, values in table.items()
            }
        )
        return JSONResponse(self._faults.to_json())

    async def delete_faults(self, _: Request) -> Response:
        """`DELETE /_sim/faults`."""
        self._faults.clear()
        return Response(status_code=204)

    async def release(self, request: Request) -> Response:
        """`POST /_sim/release`."""
        parameters = await Parameters.of(request)
        return JSONResponse({"released": self._faults.release(parameters.optional_text("endpoint"))})

    async def get_requests(self, _: Request) -> Response:
        """`GET /_sim/requests`."""
        return JSONResponse(self._log.to_json())

    async def delete_requests(self, _: Request) -> Response:
        """`DELETE /_sim/requests`."""
        self._log.clear()
        return Response(status_code=204)

    async def get_devices(self, request: Request) -> Response:
        """`GET /_sim/devices`."""
        secrets = request.query_params.get("secrets") == "1"
        return JSONResponse([self._device_json(device, secrets=secrets) for device in self._store.devices()])

    async def make_device(self, request: Request) -> Response:
        """`POST /_sim/devices`."""
        parameters = await Parameters.of(request)
        device = self._store.make_device(
            parameters.id("projectId") if parameters.has("projectId") else Seed.project_id,
            parameters.optional_text("deviceClass") or Seed.device_class,
            name=parameters.optional_text("name") or "",
            tag=parameters.optional_text("tag") or "",
            now_ns=self._clock(),
        )
        return JSONResponse(self._device_json(device, secrets=True), status_code=201)

    def _device_json(self, device: Device, *, secrets: bool) -> dict[str, Any]:
        claimable = device.is_claimable(self._clock())
        content = {
            "id": device.id,
            "projectId": device.project_id,
            "homeId": device.home_id,
            "deviceClass": device.device_class,
            "name": device.name,
            "tag": device.tag,
            "claimable": claimable,
            "claimExpirationTime": (
                timestamp(device.claim_expires_ns, digits=9) if claimable and device.claim_expires_ns else None
            ),
        }
        return content | ({"apiKey": device.api_key, "claimCode": device.claim_code} if secrets else {})


def plant(store: Store, seed: Seed, settings: Settings, *, now_ns: int) -> dict[str, Any]:
    """Seed the store and sign the user in.

    Returns:
        What `POST /_sim/seed` answers with.
    """
    user_id, home_id = store.seed(seed, now_ns=now_ns)
    session = store.sign_in(
        seed.project_id,
        seed.app_id,
        seed.email,
        seed.password,
        expires_ns=now_ns + int(settings.session_lifetime_s * 10**9),
    )
    assert session is not None, "its parts were just planted"
    project = store.project(seed.project_id)
    assert project is not None, "it was just planted"
    return {
        "projectId": seed.project_id,
        "appId": seed.app_id,
        "email": seed.email,
        "password": seed.password,
        "userId": user_id,
        "homeId": home_id,
        "homeName": seed.home_name,
        "deviceClass": seed.device_class,
        "onDemand": project.on_demand,
        "userKey": session.key,
    }


def _local(handler: Handler) -> Handler:
    """The handler for this machine, a refusal for any other, and the reason in words for a mistaken test."""

    async def local_only(request: Request) -> Response:
        if request.client is None or not ipaddress.ip_address(request.client.host).is_loopback:
            raise RefusedError(Refusal(403, "PERMISSION_DENIED"))
        try:
            return await handler(request)
        except UsageError as e:
            return JSONResponse({"reason": "INVALID_PARAMETER", "detail": str(e)}, status_code=400)

    return local_only
