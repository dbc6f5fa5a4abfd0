"""The server of `world4rl play`: what it tells, and whom it refuses."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import resource
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from world4rl_gym import WorldModel
from world4rl_gym.episodes import load_episode
from world4rl_gym.policy import Policy, make_policy, policy_config

aiohttp = pytest.importorskip("aiohttp")

from world4rl_gym.play import server  # noqa: E402

TOKEN = "a-token-of-the-tests"


class Tab:
    """What a browser's tab does: sends a message, reads the answer."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket

    async def read(self) -> tuple[dict[str, Any], bytes]:
        data = await asyncio.wait_for(self.socket.receive_bytes(), 60)
        (length,) = struct.unpack(">I", data[:4])
        return json.loads(data[4 : 4 + length]), data[4 + length :]

    async def ask(self, **message: Any) -> tuple[dict[str, Any], bytes]:
        await self.socket.send_str(json.dumps(message))
        return await self.read()


class Visitor:
    """A client of a running server."""

    def __init__(self, session: aiohttp.ClientSession, origin: str) -> None:
        self.session = session
        self.origin = origin
        self.address = f"{origin}/{TOKEN}/"

    async def open(self, **headers: str) -> Tab:
        """Opens a tab's socket; its greeting is still to be read."""
        returned = {"Origin": self.origin, **headers}
        return Tab(await self.session.ws_connect(self.address + "socket", headers=returned))

    async def greeted(self) -> Tab:
        tab = await self.open()
        assert (await tab.read())[0]["event"] == "hello"
        return tab


@contextlib.asynccontextmanager
async def serving(world_model: WorldModel, policy: Policy | None = None) -> AsyncIterator[Visitor]:
    player = server.Player(world_model, policy, name="tiny", task="push", token=TOKEN)
    async with (
        server.listening(player, "127.0.0.1", 0) as (host, port),
        aiohttp.ClientSession() as session,
    ):
        yield Visitor(session, f"http://{host}:{port}")


def visit(
    world_model: WorldModel,
    visitor: Callable[[Visitor], Awaitable[None]],
    policy: Policy | None = None,
) -> None:
    """Runs a visit to a server of its own."""

    async def run() -> None:
        async with serving(world_model, policy) as visited:
            await visitor(visited)

    asyncio.run(asyncio.wait_for(run(), 120))


def picture(body: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(body)).convert("RGB"))


def test_an_episode_is_begun_stepped_and_saved(
    tiny_world_model: WorldModel, tmp_path: Path
) -> None:
    async def visitor(visitor: Visitor) -> None:
        tab = await visitor.open()
        hello, _ = await tab.read()
        assert hello["tasks"] == {"push": [0, 2, 4], "pull": [1, 3, 5]}
        assert (hello["action_size"], hello["policy"]) == (3, None)
        first, body = await tab.ask(do="begin", task="pull", start=3)
        assert (first["task"], first["start"], first["step"]) == ("pull", 3, 0)
        start = tiny_world_model.initial_frames.frames[3].permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(picture(body), start)  # without loss
        frames = [start]
        for _ in range(8):
            moment, body = await tab.ask(do="step", action=[1, -5, 0.5])
            assert moment["driver"] == "person"
            assert 0 <= moment["success"] <= 1
            frames.append(picture(body))
        assert moment["over"]
        refused, _ = await tab.ask(do="step", action=[0, 0, 0])
        assert "the episode is over" in refused["message"]
        head, body = await tab.ask(do="save", **{"as": "npz"})
        assert head["name"] == "imagined-pull-3.npz"
        (tmp_path / head["name"]).write_bytes(body)
        episode = load_episode(tmp_path / head["name"])
        assert episode.imagined
        np.testing.assert_array_equal(episode.frames, np.stack(frames))
        np.testing.assert_array_equal(episode.actions[0], [1, -1, 0.5])
        assert (episode.task, episode.policy, episode.action_repeat) == ("pull", "person", 2)
        assert episode.state is not None
        assert episode.state.shape == (9, 3)
        gif = Image.open(io.BytesIO((await tab.ask(do="save", **{"as": "gif"}))[1]))
        assert gif.n_frames > 1

    visit(tiny_world_model, visitor)


def test_two_tabs_do_not_disturb_each_other(tiny_world_model: WorldModel) -> None:
    async def visitor(visitor: Visitor) -> None:
        one, other = await visitor.greeted(), await visitor.greeted()
        await one.ask(do="begin", task="push", start=0)
        await other.ask(do="begin", task="pull", start=1)
        for step in range(1, 5):
            here, _ = await one.ask(do="step", action=[1, 0, 0])
            there, _ = await other.ask(do="step", action=[-1, 0, 0])
            assert (here["task"], here["start"], here["step"]) == ("push", 0, step)
            assert (there["task"], there["start"], there["step"]) == ("pull", 1, step)
        alone = await visitor.greeted()
        await alone.ask(do="begin", task="push", start=0)
        for _ in range(4):
            again, _ = await alone.ask(do="step", action=[1, 0, 0])
        assert again["state"] == here["state"]
        assert again["success"] == here["success"]

    visit(tiny_world_model, visitor)


def test_a_policy_drives_and_is_overruled(tiny_world_model: WorldModel, tmp_path: Path) -> None:
    make_policy(policy_config(tiny_world_model, "push")).save_pretrained(tmp_path / "mine")
    policy = Policy.from_pretrained(tmp_path / "mine")

    async def visitor(visitor: Visitor) -> None:
        tab = await visitor.greeted()
        await tab.ask(do="begin", task="push")
        assert (await tab.ask(do="step", action=None))[0]["driver"] == "mine"
        assert (await tab.ask(do="step", action=[0, 0, 1]))[0]["driver"] == "person"
        _, body = await tab.ask(do="save", **{"as": "npz"})
        assert str(np.load(io.BytesIO(body))["policy"]) == "mine and person"

    visit(tiny_world_model, visitor, policy)


@pytest.mark.parametrize("path", ["", "play.js", "socket", "start/0.webp", "../play.js"])
def test_without_the_token_nothing_is_told(tiny_world_model: WorldModel, path: str) -> None:
    async def visitor(visitor: Visitor) -> None:
        for start in ("/", "/wrong/", f"/{TOKEN}x/", "//", "/\u00e4/"):
            async with visitor.session.get(visitor.origin + start + path) as answer:
                assert answer.status == 403
                assert TOKEN not in await answer.text()

    visit(tiny_world_model, visitor)


def test_pages_may_load_nothing_from_elsewhere(tiny_world_model: WorldModel) -> None:
    async def visitor(visitor: Visitor) -> None:
        for path in ("", "play.js", "play.css", "start/0.webp"):
            async with visitor.session.get(visitor.address + path) as answer:
                assert answer.status == 200
                assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
                assert answer.headers["Referrer-Policy"] == "no-referrer"
                if not path.endswith("webp"):
                    assert "//" not in (await answer.text()).replace("// ", "")
        for path in ("start/10.webp", "start/-1.webp", "start/a.webp", "other", "start/²0.webp"):
            async with visitor.session.get(visitor.address + path) as answer:
                assert answer.status == 404

    visit(tiny_world_model, visitor)


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": ""},
        {"Host": "evil.example", "Origin": "http://evil.example"},
    ],
)
def test_another_origin_is_refused(tiny_world_model: WorldModel, headers: dict[str, str]) -> None:
    async def visitor(visitor: Visitor) -> None:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await visitor.open(**headers)
        assert refused.value.status == 403

    visit(tiny_world_model, visitor)


def test_an_oversized_message_ends_its_socket_alone(tiny_world_model: WorldModel) -> None:
    async def visitor(visitor: Visitor) -> None:
        tab, other = await visitor.greeted(), await visitor.greeted()
        await tab.socket.send_str("x" * (server.LARGEST_MESSAGE + 1))
        message = await asyncio.wait_for(tab.socket.receive(), 30)
        assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1009)
        assert (await other.ask(do="begin", task="push"))[0]["event"] == "moment"

    visit(tiny_world_model, visitor)


MALFORMED = [
    "",
    "{",
    "[" * 4000,
    "[]",
    "null",
    "{}",
    '{"do": "begin"}',
    '{"do": "begin", "task": ["push"]}',
    '{"do": "begin", "task": "fly"}',
    '{"do": "begin", "task": "push", "start": 1}',
    '{"do": "begin", "task": "push", "start": 99}',
    '{"do": "begin", "task": "push", "start": -1}',
    '{"do": "begin", "task": "push", "start": 0.5}',
    '{"do": "begin", "task": "push", "start": true}',
    '{"do": "step"}',
    '{"do": "step", "action": [0, 0]}',
    '{"do": "step", "action": [0, 0, NaN]}',
    '{"do": "step", "action": [0, 0, Infinity]}',
    '{"do": "step", "action": [0, 0, 1' + "0" * 400 + "]}",
    '{"do": "step", "action": [0, 0, "1"]}',
    '{"do": "step", "action": [0, 0, true]}',
    '{"do": "step", "action": {"0": 1, "1": 1, "2": 1}}',
    '{"do": "save"}',
    '{"do": "save", "as": ["npz"]}',
    '{"do": "save", "as": "npz"}',
    '{"do": "quit"}',
]


def test_malformed_messages_are_refused_and_change_nothing(tiny_world_model: WorldModel) -> None:
    async def visitor(visitor: Visitor) -> None:
        tab = await visitor.greeted()
        assert "no episode" in (await tab.ask(do="step", action=[0, 0, 0]))[0]["message"]
        assert "no episode" in (await tab.ask(do="save", **{"as": "npz"}))[0]["message"]
        await tab.ask(do="begin", task="push")
        for text in MALFORMED:
            await tab.socket.send_str(text)
            answer, _ = await tab.read()
            assert answer["event"] == "error", text
            assert ": " in answer["message"]
            assert len(answer["message"]) < 300
        await tab.socket.send_bytes(b"\x00\xff")
        assert (await tab.read())[0]["message"] == "message: expected text, got bytes"
        assert (await tab.ask(do="step", action=[0, 0, 0]))[0]["step"] == 1

    visit(tiny_world_model, visitor)


def test_there_is_a_cap_on_sockets_and_a_closed_tab_makes_room(
    tiny_world_model: WorldModel,
) -> None:
    async def visitor(visitor: Visitor) -> None:
        tabs = [await visitor.greeted() for _ in range(server.MOST_SOCKETS)]
        refused = await visitor.open()
        message = await asyncio.wait_for(refused.socket.receive(), 30)
        assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1013)
        assert "tabs" in message.extra
        await tabs[0].socket.close()
        assert (await (await visitor.greeted()).ask(do="begin", task="push"))[0]["step"] == 0

    visit(tiny_world_model, visitor)


def test_a_killed_tab_is_survived_and_makes_room(tiny_world_model: WorldModel) -> None:
    async def visitor(visitor: Visitor) -> None:
        for _ in range(2 * server.MOST_SOCKETS):
            tab = await visitor.greeted()
            await tab.socket.send_str('{"do": "begin", "task": "push"}')
            await tab.socket.send_str('{"do": "step", "action": [1, 0, 0]}')
            connection = tab.socket._conn  # the wire is cut: no goodbye
            assert connection is not None
            assert connection.transport is not None
            connection.transport.abort()
            await asyncio.sleep(0.1)
        answer, _ = await (await visitor.greeted()).ask(do="begin", task="push")
        assert answer["event"] == "moment"

    visit(tiny_world_model, visitor)


async def connected(visitor: Visitor) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A bare TCP connection."""
    host, port = visitor.origin.removeprefix("http://").split(":")
    return await asyncio.open_connection(host, int(port))


async def hung_up(reader: asyncio.StreamReader) -> None:
    """Waits until the server ends a connection, within its patience."""
    with contextlib.suppress(ConnectionError):
        await asyncio.wait_for(reader.read(), server.PATIENCE + 10)


def test_a_thousand_connections_are_survived_and_memory_is_flat(
    tiny_world_model: WorldModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "PATIENCE", 5.0)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    process = psutil.Process()

    async def flood(visitor: Visitor, asked: bytes) -> None:
        held = [await connected(visitor) for _ in range(1000)]
        for _, writer in held:
            writer.write(asked)
        await asyncio.sleep(0.5)
        assert process.num_fds() < 1000 + 2 * server.MOST_CONNECTIONS  # our ends, and those kept
        await asyncio.gather(*(hung_up(reader) for reader, _ in held))
        for _, writer in held:
            writer.close()

    async def visitor(visitor: Visitor) -> None:
        tab = await visitor.greeted()
        await flood(visitor, b"")
        before, handles = process.memory_info().rss, process.num_fds()
        await flood(visitor, b"GET /guessed/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert process.memory_info().rss - before < 10 * 2**20
        assert process.num_fds() <= handles + 5
        assert (await tab.ask(do="begin", task="push"))[0]["event"] == "moment"  # a tab plays on
        assert (await (await visitor.greeted()).ask(do="begin", task="push"))[0]["step"] == 0

    visit(tiny_world_model, visitor)
