"""The local MODE as one ASGI application, put together from its parts."""

from collections.abc import Callable

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from bletoken.sim.cloud.admin import AdminApi
from bletoken.sim.cloud.answers import RefusedError, error
from bletoken.sim.cloud.api import routes_of
from bletoken.sim.cloud.body import BodyReader
from bletoken.sim.cloud.core import Core
from bletoken.sim.cloud.faults import FaultInjector, FaultTable
from bletoken.sim.cloud.request_log import RequestLog, RequestLogger
from bletoken.sim.cloud.settings import Refusal, Settings
from bletoken.sim.cloud.store import Store


def create_app(settings: Settings, store: Store, clock: Callable[[], int]) -> tuple[ASGIApp, FaultTable, RequestLog]:
    """The application, with its fault table and its request log.

    From the outside in: the request is logged, read to its end, struck by a fault, and carried out.
    """
    mode_routes = routes_of(Core(settings, store, clock))
    faults = FaultTable(mode_routes)
    log = RequestLog()
    routes = mode_routes + AdminApi(settings, store, faults, log, clock).routes()

    async def refuse(_: HTTPConnection, e: Exception) -> Response:
        assert isinstance(e, RefusedError)
        return error(e.refusal, headers=e.headers)

    async def refuse_route(_: HTTPConnection, e: Exception) -> Response:
        assert isinstance(e, HTTPException)
        refusal = settings.not_found if e.status_code == 404 else Refusal(e.status_code, "METHOD_NOT_ALLOWED")
        return error(refusal, headers=e.headers)

    async def fail(_: HTTPConnection, __: Exception) -> Response:
        return error(Refusal(500, "INTERNAL_ERROR"))

    async def serve_nothing(scope: Scope, receive: Receive, send: Send) -> None:
        # The router's own answer to a web socket that nothing serves has no body.
        await error(settings.not_found)(scope, receive, send)

    starlette = Starlette(
        routes=routes,
        exception_handlers={RefusedError: refuse, HTTPException: refuse_route, Exception: fail},
    )
    starlette.router.redirect_slashes = False
    starlette.router.default = serve_nothing
    app: ASGIApp = FaultInjector(starlette, faults)
    app = BodyReader(app, max_body_size=settings.max_body_size)
    app = RequestLogger(app, log, mode_routes)
    return app, faults, log
