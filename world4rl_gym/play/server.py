"""The page of `world4rl play`: a small server that shows imagined episodes to browsers.

It listens on loopback unless told otherwise. Every address holds a random token, sockets must come
from the page itself, messages are small, and connections few. The browser keeps the time: it asks
for each step, so a tab that is gone costs nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hmac
import io
import ipaddress
import json
import secrets
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from aiohttp import WSCloseCode, WSMsgType, web
from PIL import Image

from world4rl_gym.pixels import channels_last
from world4rl_gym.play.recording import RecordingError
from world4rl_gym.play.session import Session, SessionError
from world4rl_gym.policy import Policy
from world4rl_gym.world_model import WorldModel

LARGEST_MESSAGE = 4096
"""Bytes of the largest message taken from a browser."""
MOST_SOCKETS = 8
"""Tabs that may play at the same time."""
MOST_CONNECTIONS = 128
"""Connections kept at the same time, and up to 100 more in a burst: a page opens several."""
PATIENCE = 10.0
"""Seconds in which a new connection must ask for something, with the token."""
_STATIC = Path(__file__).parent / "static"
_PAGES = {
    "": ("index.html", "text/html"),
    "play.js": ("play.js", "text/javascript"),
    "play.css": ("play.css", "text/css"),
}
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_KINDS = {"mp4": "video/mp4", "gif": "image/gif", "npz": "application/octet-stream"}


class ServerError(OSError):
    """The page cannot be served; the message says why."""


class Player:
    """Serves the page and a session for each of its sockets.

    Args:
        world_model: The world model.
        policy: Drives where the viewer does not; None leaves all to the viewer.
        name: What the page calls the world model.
        task: The task that a page begins with.
        token: What every address must hold; None draws one.
    """

    def __init__(
        self,
        world_model: WorldModel,
        policy: Policy | None,
        *,
        name: str,
        task: str,
        token: str | None = None,
    ) -> None:
        self.world_model = world_model
        self.policy = policy
        self.name = name
        self.task = task
        self.token = token or secrets.token_urlsafe(24)
        self.loopback = True  # only names of this machine may be used to reach it
        self._sockets: set[web.WebSocketResponse] = set()
        self._silent: set[asyncio.BaseProtocol | None] = set()  # connections that asked nothing yet
        self._worker = ThreadPoolExecutor(1, "imagination")  # tabs take turns, step by step
        self._pages = {
            path: (kind, (_STATIC / file).read_bytes()) for path, (file, kind) in _PAGES.items()
        }

    def make_app(self) -> web.Application:
        """Builds the aiohttp application."""
        app = web.Application(middlewares=[self._guard], client_max_size=LARGEST_MESSAGE)
        for path in self._pages:
            app.router.add_get(f"/{{token}}/{path}", self._page)
        app.router.add_get("/{token}/start/{index}.webp", self._start)
        app.router.add_get("/{token}/socket", self._socket)
        app.on_shutdown.append(self._hang_up)
        return app

    def connect(self, server: web.Server) -> asyncio.BaseProtocol:
        """Makes the protocol of a new connection: aiohttp's, or one that hangs up at once."""
        if len(server.connections) >= MOST_CONNECTIONS:
            return _Refused()
        protocol = server()
        self._silent.add(protocol)
        asyncio.get_running_loop().call_later(PATIENCE, self._lose_patience, protocol)
        return protocol

    def _lose_patience(self, protocol: web.RequestHandler) -> None:
        if protocol in self._silent:
            self._silent.discard(protocol)
            protocol.force_close()

    @web.middleware
    async def _guard(
        self,
        request: web.Request,
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    ) -> web.StreamResponse:
        """Lets in only who knows the token, and calls this machine by one of its names."""
        given = request.path.split("/")[1]
        if not hmac.compare_digest(given.encode(), self.token.encode()):
            return _refusal("Open the whole address that world4rl play printed.")
        if self.loopback and not _is_loopback(request.url.host or ""):
            return _refusal(f"Host: expected this machine's own, got {request.host!r:.100}.")
        self._silent.discard(request.protocol)
        try:
            response = await handler(request)
        except web.HTTPException as error:
            error.headers.update(_HEADERS)
            raise
        if not response.prepared:
            response.headers.update(_HEADERS)
        return response

    async def _page(self, request: web.Request) -> web.Response:
        kind, body = self._pages[request.path.removeprefix(f"/{self.token}/")]
        return web.Response(body=body, content_type=kind, charset="utf-8")

    async def _start(self, request: web.Request) -> web.Response:
        frames, index = self.world_model.initial_frames.frames, request.match_info["index"]
        if not index.isascii() or not index.isdigit() or int(index[:9]) >= len(frames):
            raise web.HTTPNotFound(text="No such start.")
        body = _webp(channels_last(frames[int(index)]).cpu().numpy())
        return web.Response(body=body, content_type="image/webp")

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        origin = request.headers.get("Origin")
        if origin != f"{request.scheme}://{request.host}":
            return _refusal(f"Origin: expected this page's, got {origin!r:.100}.")
        socket = web.WebSocketResponse(
            max_msg_size=LARGEST_MESSAGE, heartbeat=15, compress=False, timeout=2
        )
        await socket.prepare(request)
        if len(self._sockets) >= MOST_SOCKETS:
            reason = f"At most {MOST_SOCKETS} tabs may play at the same time; close one."
            await socket.close(code=WSCloseCode.TRY_AGAIN_LATER, message=reason.encode())
            return socket
        self._sockets.add(socket)
        try:
            await self._converse(socket, Session(self.world_model, self.policy))
        except ConnectionError:
            pass  # the tab is gone
        finally:
            self._sockets.discard(socket)
        return socket

    async def _converse(self, socket: web.WebSocketResponse, session: Session) -> None:
        """Answers one tab's messages, one after another, each by one message."""
        await socket.send_bytes(_pack(self._greeting()))
        async for message in socket:
            if message.type is WSMsgType.ERROR:
                return  # too large, or no WebSocket's: aiohttp has closed it with the reason
            try:
                if message.type is not WSMsgType.TEXT:
                    raise SessionError("message: expected text, got bytes")
                answer = await self._answer(session, _read(message.data))
            except (SessionError, RecordingError) as error:
                answer = _pack({"event": "error", "message": str(error)})
            await socket.send_bytes(answer)

    def _greeting(self) -> dict[str, Any]:
        model, contexts = self.world_model, self.world_model.initial_frames
        return {
            "event": "hello",
            "model": self.name,
            "tasks": {
                task: contexts.select("start", [task]).tolist() for task in model.config.tasks
            },
            "task": self.task,
            "action_size": model.action_size,
            "state_size": model.state_size,
            "threshold": model.config.success_threshold,
            "policy": None if self.policy is None else self.policy.name,
        }

    async def _answer(self, session: Session, message: dict[str, Any]) -> bytes:
        loop, wish = asyncio.get_running_loop(), message.get("do")
        if wish == "begin":
            task, start = message.get("task"), message.get("start")
            if not isinstance(task, str):
                raise SessionError(f"task: expected a name, got {task!r:.100}")
            moment = await loop.run_in_executor(self._worker, session.begin, task, start)
        elif wish == "step":
            moment = await loop.run_in_executor(self._worker, session.step, message.get("action"))
        elif wish == "save":
            return await _saved(session, message.get("as"))
        else:
            raise SessionError(f"do: expected begin, step or save, got {wish!r:.100}")
        return _pack({"event": "moment", **moment.record()}, _webp(moment.frame))

    async def _hang_up(self, app: web.Application) -> None:
        for socket in list(self._sockets):
            await socket.close(code=WSCloseCode.GOING_AWAY, message=b"world4rl play has ended.")
        self._worker.shutdown(wait=False, cancel_futures=True)


class _Refused(asyncio.Protocol):
    """A connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.abort()


async def _saved(session: Session, kind: Any) -> bytes:
    recording = session.recording
    if not isinstance(kind, str) or kind not in _KINDS:
        raise SessionError(f"as: expected {', '.join(_KINDS)}, got {kind!r:.100}")
    if recording is None:
        raise SessionError("save: no episode is under way; begin one")
    if kind == "npz":
        body = await asyncio.to_thread(recording.episode)
    else:
        body = await asyncio.to_thread(recording.video, kind)
    name = f"imagined-{recording.task}-{recording.start}.{kind}"
    return _pack({"event": "file", "name": name, "type": _KINDS[kind]}, body)


def _read(text: str) -> dict[str, Any]:
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        raise SessionError("message: expected JSON") from None
    if not isinstance(message, dict):
        raise SessionError(f"message: expected a JSON object, got {type(message).__name__}")
    return message


def _pack(record: dict[str, Any], body: bytes = b"") -> bytes:
    """A message to the browser: the record's length (4 bytes, big endian), the record, the body."""
    head = json.dumps(record, allow_nan=False).encode()
    return struct.pack(">I", len(head)) + head + body


def _webp(frame: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "WEBP", lossless=True, method=0)
    return file.getvalue()


def _refusal(reason: str) -> web.Response:
    response = web.Response(status=403, text=reason + "\n", headers=_HEADERS)
    response.force_close()
    return response


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def serve(player: Player, host: str, port: int) -> None:
    """Serves the page at a port (0 takes a free one), printing its address, until it is cancelled.

    Raises:
        ServerError: It cannot listen there.
    """
    async with listening(player, host, port) as address:
        shown = f"[{address[0]}]" if ":" in address[0] else address[0]
        print(f"Open http://{shown}:{address[1]}/{player.token}/ (Ctrl+C ends)", flush=True)
        if not player.loopback:
            print("Others on the network may reach it, if they know the address.", flush=True)
        await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def listening(player: Player, host: str, port: int) -> AsyncIterator[tuple[str, int]]:
    """Listens while within; yields the address and port.

    Raises:
        ServerError: It cannot listen there.
    """
    player.loopback = _is_loopback(host)
    runner = web.AppRunner(
        player.make_app(), access_log=None, shutdown_timeout=2, keepalive_timeout=PATIENCE
    )
    await runner.setup()
    assert runner.server is not None
    try:
        try:
            listener = await asyncio.get_running_loop().create_server(
                functools.partial(player.connect, runner.server), host, port
            )
        except OSError as error:
            raise ServerError(f"cannot listen at {host}, port {port} ({error})") from None
        try:
            yield listener.sockets[0].getsockname()[:2]
        finally:
            listener.close()
    finally:
        await runner.cleanup()
