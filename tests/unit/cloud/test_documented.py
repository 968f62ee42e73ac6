"""Nothing that anybody can send makes the local MODE answer what it is not said to answer."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

import httpx
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from unit.cloud.documented import DOCUMENTED, UNSEEN_SETTINGS
from unit.cloud.world import World
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidHandshake, InvalidStatus

from bletoken.sim.cloud.app import create_app
from bletoken.sim.cloud.records import Seed
from bletoken.sim.cloud.request_log import endpoints
from bletoken.sim.cloud.settings import Settings
from bletoken.sim.cloud.store import Store

HTTP_ENDPOINTS = sorted(DOCUMENTED.keys() - {"UNKNOWN", "GET /userSession/websocket", "GET /devices/{id}/command"})
SOCKETS = ["GET /userSession/websocket", "GET /devices/{id}/command"]


def test_every_endpoint_is_documented_and_every_documented_one_is_there() -> None:
    with Store() as store:
        app: Any = create_app(Settings(), store, lambda: 0)[0]
        # The application is inside of what reads, counts and disturbs its requests.
        while not isinstance(app, Starlette):
            app = app._app
        assert endpoints(app.routes) == DOCUMENTED.keys() - {"UNKNOWN"}


def test_every_refusal_that_can_be_set_is_documented_somewhere() -> None:
    assert set() == UNSEEN_SETTINGS


# A scene with one of everything -------------------------------------------------------------------------------------


@dataclass
class Scene:
    """Ids, keys and codes that are good for something, and some that were."""

    ids: dict[str, int]
    keys: dict[str, str]
    values: dict[str, list[Any]]
    """For each parameter, values that a well-meaning client could send."""

    @classmethod
    def of(cls, store: Store, *, on_demand: bool) -> "Scene":
        """Make it anew: an example may have spoilt the one before."""
        user, home = store.seed(Seed(on_demand=True), now_ns=0)
        mate, _ = store.seed(Seed(email="mate@example.com"), now_ns=0)
        stranger, elsewhere = store.seed(Seed(email="stranger@example.com", home_name="Elsewhere"), now_ns=0)
        foreigner, abroad = store.seed(Seed(project_id=202), now_ns=0)
        for member in (user, stranger):
            store.set_member(home if member == user else elsewhere, member, "owner", now_ns=0)
        store.set_member(home, mate, "member", now_ns=0)

        def redeemed(home_id: int) -> Any:
            return store.redeem(token(home_id), now_ns=0)

        def token(home_id: int, *, expires_ns: int = 2**62) -> str:
            return store.issue_token(home_id, "demo-class", "", length=120, expires_ns=expires_ns)

        def key(email: str, project_id: int = 101, *, expires_ns: int = 2**62) -> str:
            session = store.sign_in(project_id, "demo-app", email, "demo-password", expires_ns=expires_ns)
            assert session
            return session.key

        device, other, far = redeemed(home), redeemed(elsewhere), redeemed(abroad)
        used = token(home)
        store.redeem(used, now_ns=0)
        tokens = [token(home), token(home, expires_ns=1), used]
        store.set_on_demand(101, False)
        pooled, claimable, claimed = (store.make_device(101, "demo-class", now_ns=0) for _ in range(3))
        for each in (claimable, claimed):
            store.open_claim(each.id, expires_ns=2**62)
        assert claimed.claim_code
        store.claim(claimed.claim_code, home, now_ns=0)
        store.set_on_demand(101, on_demand)
        homes = [home, elsewhere, abroad]
        devices = [each.id for each in (device, other, far, pooled, claimable, claimed)]
        return cls(
            ids={"home": home, "elsewhere": elsewhere, "abroad": abroad, "user": user, "mate": mate}
            | dict(zip(["device", "other", "far", "pooled", "claimable", "claimed"], devices, strict=True)),
            keys={
                "user": key("user@example.com"),
                "mate": key("mate@example.com"),
                "stranger": key("stranger@example.com"),
                "foreigner": key("user@example.com", 202),
                "expired": key("user@example.com", expires_ns=1),
                "device": device.api_key,
                "pooled": pooled.api_key,
                "claimable": claimable.api_key,
                "claimed": claimed.api_key,
                "project": store.make_project_key(101).key,
                "other project": store.make_project_key(202).key,
            },
            values={
                "projectId": [101, 202, "101"],
                "appId": ["demo-app"],
                "email": ["stranger@example.com", "user@example.com", "mate@example.com", "new@example.com"],
                "password": ["demo-password", "wrong"],
                "userId": [user, mate, stranger, foreigner],
                "homeId": [*homes, str(home)],
                "name": ["Name", ""],
                "role": ["member", "owner", "king"],
                "deviceClass": ["demo-class", "lamp"],
                "deviceTag": ["", "tag"],
                "tag": ["tag"],
                "token": tokens,
                "claimCode": [each.claim_code for each in (claimable, pooled, claimed)] + ["c" * 16, "short"],
                "deviceId": devices,
                "claimable": [True, False, 1, 0, "true", "0", "maybe"],
                "duration": [1, 300, "300", 0, -1, 10**9, 1.5],
                "eventType": ["happened"],
                "eventData": [{}, {"a": [1]}, "{}"],
                "action": ["blink"],
                "parameters": [{}, {"n": 1}, "{}"],
                "onDemand": [True, False],
                "homeName": ["Home"],
                "endpoint": ["GET /auth"],
                "GET /auth": [{"drop": "after", "count": 1}, {"count": 0}, []],
            },
        )


Draw = Callable[..., Any]
"""How a strategy's value is drawn; Hypothesis has no type for `data.draw`."""

ODD_IDS = ["0", "-1", str(2**64 - 1), str(2**64), "9" * 400, "x", "1e3", " 1", "٣", "1\x00", "ü", "."]
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KINDS = ["application/json", "application/x-www-form-urlencoded", "application/json; charset=x", "text/plain", "", "é"]
ODD_KEYS = [None, "", "ModeCloud", "ModeCloud wrong", "Bearer x", "modecloud \xff", "ModeCloud a b", "x" * 4000]


def authorization(draw: Draw, scene: Scene, endpoint: str) -> bytes | None:
    """A key: often one that may do it, else of any kind, or what only looks like one."""
    if draw(st.booleans()):
        of_devices = endpoint in ("POST /deviceRegistration", "PUT /devices/{id}/event", "GET /devices/{id}/command")
        kind = draw(st.sampled_from(["device", "claimable", "claimed"] if of_devices else ["user", "project"]))
    else:
        kind = draw(st.sampled_from(sorted(scene.keys)) | st.none())
    value = f"ModeCloud {scene.keys[kind]}" if kind else draw(st.sampled_from(ODD_KEYS))
    return None if value is None else value.encode("latin-1")


def path(draw: Draw, scene: Scene, template: str) -> str:
    """The path with ids: mostly of something that is there, else odd ones."""
    kinds = {
        "/homes/{id}": ["home", "home", "elsewhere", "abroad"],
        "/devices/{id}": ["device", "device", "other", "far", "pooled", "claimable", "claimed"],
        "/members/{userId}": ["user", "mate"],
    }
    for part, good in kinds.items():
        if part in template:
            value = str(scene.ids[draw(st.sampled_from(good))])
            if not draw(st.integers(0, 3)):
                value = draw(st.sampled_from([*ODD_IDS, *map(str, scene.ids.values())]) | st.text(max_size=6))
            folder = part.partition("{")[0]
            template = template.replace(part, folder + quote(value, safe="", errors="replace"))
    return template


def parameters(draw: Draw, scene: Scene) -> dict[str, Any]:
    """Parameters with good values, mixed up, and a few that are not."""
    names = draw(st.lists(st.sampled_from(sorted(scene.values)), max_size=8, unique=True))
    return {name: draw(st.sampled_from(scene.values[name]) if draw(st.integers(0, 4)) else ANY_JSON) for name in names}


GOOD = {
    "POST /auth/user": ["projectId", "appId", "email", "password"],
    "POST /homes": ["name"],
    "PATCH /homes/{id}": ["name"],
    "POST /homes/{id}/deviceProvisioning": ["deviceClass", "deviceTag"],
    "POST /homes/{id}/members": ["email", "role"],
    "PATCH /homes/{id}/members/{userId}": ["role"],
    "POST /deviceRegistration": ["deviceId", "claimable", "duration"],
    "POST /devices": ["homeId", "claimCode"],
    "PATCH /devices/{id}": ["name", "homeId"],
    "PUT /devices/{id}/event": ["eventType", "eventData"],
    "PUT /devices/{id}/command": ["action", "parameters"],
}
"""What a client means to send there; other endpoints need nothing."""


def body(draw: Draw, scene: Scene, endpoint: str, caller: str) -> tuple[bytes, str]:
    """A body and its content type: what belongs there, what does not, or garbage; as JSON, as a form or as neither."""
    kind = draw(st.sampled_from(KINDS))
    which = draw(st.sampled_from(["fitting", "fitting", "mixed", "good", "any", "json", "octets"]))
    if which == "octets":
        return draw(st.binary(max_size=200)), kind
    if which == "json":
        return json.dumps(draw(ANY_JSON)).encode(), kind
    content: dict[str, Any] = {}
    for name in GOOD.get(endpoint, ()) if which != "any" else ():
        content[name] = scene.values[name][0] if which == "fitting" else draw(st.sampled_from(scene.values[name]))
    if which == "fitting" and "deviceId" in content and caller in scene.ids:
        content["deviceId"] = scene.ids[caller]
    if which in ("mixed", "any"):
        content |= parameters(draw, scene)
    if draw(st.booleans()):
        return json.dumps(content).encode(), draw(st.sampled_from([kind, "application/json"]))
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in content.items()}
    form = urlencode(texts, errors="replace").encode()
    return form, draw(st.sampled_from([kind, "application/x-www-form-urlencoded"]))


def query(draw: Draw, scene: Scene) -> str:
    """Mostly a query that means something."""
    if not draw(st.integers(0, 3)):
        return draw(st.sampled_from(["?", "?%ff", "?userId", "?homeId=&homeId=1", "?projectId=x", "?a=" + "b" * 2000]))
    name = draw(st.sampled_from(["userId", "homeId", "projectId", "secrets", "authToken"]))
    values = scene.values.get(name, [1, scene.keys["user"]])
    return f"?{name}={quote(str(draw(st.sampled_from(values))))}"


# The promise --------------------------------------------------------------------------------------------------------


def check(world: World, asked: str, answer: httpx.Response, *, caller: str) -> None:
    """The answer is one of the documented ones of the endpoint that was asked, and looks like MODE's."""
    # An odd id can make it another endpoint, or none.
    requests = world.server.log.requests()
    endpoint = requests[-1].endpoint if requests else asked
    content = answer.json() if answer.content else None
    refused = answer.status_code >= 400
    reason = content["reason"] if refused else None
    assert (answer.status_code, reason) in DOCUMENTED[endpoint], f"{endpoint}: {answer.status_code} {answer.text}"
    assert (answer.status_code == 204) == (content is None)
    if endpoint.partition(" ")[2].startswith("/_sim/"):
        return
    assert not refused or content.keys() == {"reason"}
    assert answer.headers.get("Content-Type") == (None if content is None else "application/json; charset=utf-8")
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert ("Retry-After" in answer.headers) == (answer.status_code == 429)
    # Nobody gets a secret but who is meant to.
    assert "claimCode" not in answer.text or "project" in caller
    assert "apiKey" not in answer.text or "project" in caller or endpoint == "POST /devices"


@pytest.mark.parametrize("endpoint", HTTP_ENDPOINTS)
@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
async def test_an_endpoint_never_answers_what_it_is_not_said_to(
    world: World, endpoint: str, data: st.DataObject
) -> None:
    scene = Scene.of(world.server.store, on_demand=data.draw(st.booleans(), "on demand"))
    draw = data.draw
    method, _, template = endpoint.partition(" ")
    url = path(draw, scene, template) + query(draw, scene)
    key = authorization(draw, scene, endpoint)
    caller = next((name for name, good in scene.keys.items() if key == f"ModeCloud {good}".encode()), "")
    content, kind = body(draw, scene, endpoint, caller)
    headers = {b"Content-Type": kind.encode()} if kind else {}
    if key is not None:
        headers[b"Authorization"] = key
    headers |= draw(st.sampled_from([{}, {b"X-Http-Method-Override": b"DELETE"}, {b"Accept": b"x/\xff"}]))
    world.server.log.clear()
    world.server.faults.clear()
    # The timeout is how it would show that nothing answers.
    request = world.client.build_request(method, world.server.url + "/", content=content, headers=headers, timeout=20)
    request.url = request.url.copy_with(raw_path=url.encode())
    try:
        answer = await world.client.send(request)
    except httpx.RemoteProtocolError:
        # A fault that this very example has armed.
        assume(False)
    check(world, endpoint, answer, caller=caller)


@pytest.mark.parametrize("endpoint", SOCKETS)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
async def test_a_socket_opens_or_says_why_not(world: World, endpoint: str, data: st.DataObject) -> None:
    scene = Scene.of(world.server.store, on_demand=True)
    draw = data.draw
    url = path(draw, scene, endpoint.partition(" ")[2]) + query(draw, scene)
    key = authorization(draw, scene, endpoint)
    headers = {} if key is None else {"Authorization": key.decode("latin-1")}
    world.server.log.clear()
    try:
        async with connect(
            world.server.url.replace("http", "ws") + url, additional_headers=headers, proxy=None, open_timeout=20
        ) as socket:
            await socket.send(draw(st.text(max_size=20) | st.binary(max_size=20)))
        status, reason = 101, None
    except InvalidStatus as e:
        status, reason = e.response.status_code, json.loads(e.response.body or b"{}")["reason"]
    except InvalidHandshake:
        # The client itself found the request too odd.
        assume(False)
    (request,) = world.server.log.requests()
    assert (status, reason) in DOCUMENTED[request.endpoint]


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "BREW"]),
    url=st.sampled_from([*sorted({name.partition(" ")[2] for name in DOCUMENTED} - {""}), "//", "/..", "/%2e%2e/auth"])
    | st.text(max_size=12).map(lambda text: "/" + quote(text)),
)
async def test_any_method_on_any_path_is_answered(world: World, method: str, url: str) -> None:
    world.server.log.clear()
    world.server.faults.clear()
    request = world.client.build_request(method, world.server.url + "/", timeout=20)
    request.url = request.url.copy_with(raw_path=url.encode())
    answer = await world.client.send(request)
    requests = world.server.log.requests()
    if method != "HEAD" and requests:
        check(world, requests[-1].endpoint, answer, caller="")
    assert answer.status_code < 500
