"""What every request must be, and what every answer says to the browser.

The server listens on loopback. A page of another site could still make a browser ask it, so names other than loopback's are
refused (one could have been made to point here: DNS rebinding), nothing but reading is allowed, and no page may be framed. Texts
of models are escaped by the templates; should one get through, the policy below runs no script of a page and loads nothing from
anywhere else.
"""

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
METHODS = ("GET", "HEAD")
HOSTS = frozenset({"127.0.0.1", "localhost", "[::1]"})


def _host(headers: Headers) -> str:
    """The Host header without its port."""
    host = headers.get("host", "")
    name, colon, port = host.rpartition(":")
    return name.lower() if colon and port.isdecimal() else host.lower()


class Guard:
    """Refuses what is not a reading request to loopback, and puts `HEADERS` on every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # a WebSocket, of which there is none here
            await send({"type": "websocket.close", "code": 1003})
            return
        without_body = scope["method"] == "HEAD"

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            elif without_body:
                message = {**message, "body": b""}
            await send(message)

        await self._answering(scope)(scope, receive, sending)

    def _answering(self, scope: Scope) -> ASGIApp:
        if _host(Headers(scope=scope)) not in HOSTS:
            return PlainTextResponse("this server answers to 127.0.0.1 and localhost only", status_code=421)
        if scope["method"] not in METHODS:
            return PlainTextResponse("the viewer only reads: GET and HEAD", 405, {"Allow": ", ".join(METHODS)})
        scope["method"] = "GET"  # HEAD is answered as GET is, without the body
        return self._app
