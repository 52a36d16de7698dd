"""The checks that ask the server about itself."""

from __future__ import annotations

import time
from collections.abc import Sequence
from urllib.parse import urlsplit

from redis.exceptions import RedisError

from ._checks import Finding
from ._output import size_text
from ._session import Session

OLDEST = 7
"""Major version."""
PINGS = 100
ROUND_TRIPS = 3
"""Of a miss: reading with the lease, writing, and one to spare."""
APART = 60.0
"""Seconds between two clocks that are worth a warning."""
_LOOPBACK = {"localhost", "127.0.0.1", "::1", ""}


async def version(session: Session, app_timeout: float) -> Sequence[Finding]:
    """Kind and version."""
    about = (await session.info("server"))[0]
    kind = "Valkey" if "valkey_version" in about else "Redis"
    number = str(about.get("valkey_version") or about.get("redis_version") or "?")
    mode = str(about.get("redis_mode") or about.get("server_mode") or "standalone")
    text = f"{kind} {number}, {mode}, {await _vector_sets(session)} vector sets"
    major = number.partition(".")[0]
    if major.isdigit() and int(major) < OLDEST:
        advice = f"Use Redis or Valkey {OLDEST} or newer."
        return [Finding("version", "failure", text, advice)]
    return [Finding("version", "ok", text)]


async def _vector_sets(session: Session) -> str:
    """Told for information: only newer servers have them."""
    try:
        await session.within(session.tier._link.command("VCARD", session.tier._names.index("-")))
    except RedisError as error:  # a cluster's client knows by itself what there is
        unknown = any(words in str(error) for words in ("unknown command", "doesn't exist"))
        return "without" if unknown else "perhaps"
    return "with"


async def role(session: Session, app_timeout: float) -> Sequence[Finding]:
    """May it be written to?"""
    about = (await session.info("replication"))[0]
    if session.tier._link.clustered or about.get("role") == "master":
        return []
    master = f"{about.get('master_host')}:{about.get('master_port')}"
    return [
        Finding(
            "role",
            "failure",
            "it is a replica: it is read, and takes no writes",
            f"Use the master ({master}), or a Sentinel-made client in the app.",
        )
    ]


async def memory(session: Session, app_timeout: float) -> Sequence[Finding]:
    """Limit and eviction policy: what happens when it is full."""
    nodes = await session.info("memory")
    used = sum(int(node.get("used_memory", 0)) for node in nodes)
    limit = sum(int(node.get("maxmemory", 0)) for node in nodes)
    policy = str(nodes[0].get("maxmemory_policy", "noeviction"))
    if not limit:
        text = f"{size_text(used)} used, and no limit is set"
        advice = "What expires goes; RedisTier(max_entries=…) or maxmemory bounds the rest."
        return [Finding("memory", "note", text, advice)]
    text = f"{size_text(used)} of {size_text(limit)} used, maxmemory-policy {policy}"
    return [await _judged(session, policy, text)]


_VOLATILE_TTL = (
    "CONFIG SET maxmemory-policy volatile-ttl: what ends soonest goes first, and a tag's list "
    "outlives what it names."
)


async def _judged(session: Session, policy: str, text: str) -> Finding:
    if policy == "volatile-ttl":
        return Finding("memory", "ok", text)
    if policy == "noeviction":
        why = "when it is full, new answers are not stored until others expire"
        advice = f"RedisTier(max_entries=…), or {_VOLATILE_TTL}"
        return Finding("memory", "warning", f"{text}: {why}", advice)
    if policy.endswith("-random"):
        why = (
            "answers in daily use go as soon as any other, and so do the lists of tags: "
            "invalidate then misses what they named"
        )
        return Finding("memory", "warning", f"{text}: {why}", _VOLATILE_TTL)
    if await _has_tags(session):
        why = (
            "a tag's list is used less often than what it names, so it may go first: "
            "invalidate then misses entries"
        )
        return Finding("memory", "warning", f"{text}: {why}", _VOLATILE_TTL)
    return Finding("memory", "ok", f"{text}; good as long as no tags are used")


async def _has_tags(session: Session) -> bool:
    _, _, tags = session.tier._names.patterns(session.slots[:-1])
    async for _ in session.tier._link.scan(tags, 1_000):
        return True
    return False


async def persistence(session: Session, app_timeout: float) -> Sequence[Finding]:
    """What a restart leaves."""
    nodes = await session.info("persistence")
    if any(node.get("rdb_last_bgsave_status") == "err" for node in nodes):
        advice = "See the server's log; until then it may refuse all writes (MISCONF)."
        return [Finding("persistence", "warning", "the last snapshot failed", advice)]
    if all(node.get("aof_enabled") for node in nodes):
        return [Finding("persistence", "ok", "append-only file: answers survive a restart")]
    text = "no append-only file: after a restart the newest answers, or all, are paid for again"
    return [Finding("persistence", "note", text)]


async def latency(session: Session, app_timeout: float) -> Sequence[Finding]:
    """Round trips, against what the app allows for all of them together."""
    took: list[float] = []
    for _ in range(PINGS):
        started = time.perf_counter()
        await session.within(session.tier._link.server_time())
        took.append(time.perf_counter() - started)
    took.sort()
    p50, p99 = took[PINGS // 2], took[PINGS * 99 // 100]
    text = f"p50 {p50 * 1e3:.2f} ms, p99 {p99 * 1e3:.2f} ms; the app's timeout is {app_timeout:g} s"
    if p99 * ROUND_TRIPS <= app_timeout:
        return [Finding("latency", "ok", text)]
    why = "a call needs about three round trips, so some will go on without the cache"
    advice = f"RedisTier(timeout={p99 * ROUND_TRIPS * 2:.2g}) or more, or a server that is nearer."
    return [Finding("latency", "warning", f"{text}: {why}", advice)]


async def clock(session: Session, app_timeout: float) -> Sequence[Finding]:
    """The server's clock against ours: ages go by the server's alone."""
    before = time.time()
    whole, micros = await session.within(session.tier._link.server_time())
    apart = whole + micros / 1e6 - (before + time.time()) / 2
    text = f"the server is {abs(apart):.2f} s {'ahead' if apart >= 0 else 'behind'}"
    if abs(apart) <= APART:
        return [Finding("clock", "ok", text)]
    advice = "Set the clocks (NTP). The cache copes, `export` to another server does not."
    return [Finding("clock", "warning", text, advice)]


async def transport(session: Session, app_timeout: float) -> Sequence[Finding]:
    """Can anybody on the way read along?"""
    parts = urlsplit(session.settings.where)
    if parts.scheme == "rediss":
        return [Finding("transport", "ok", "TLS")]
    if parts.scheme == "unix" or (parts.hostname or "") in _LOOPBACK:
        return [Finding("transport", "ok", "stays on this machine")]
    if session.settings.keys is not None:
        text = "no TLS; answers are sealed with the encryption key, the password is not"
        return [Finding("transport", "note", text, "rediss:// if the network is not yours alone.")]
    advice = "rediss://, or RedisTier(encryption_key=…), unless the network is yours alone."
    return [Finding("transport", "warning", "no TLS: answers cross the network readable", advice)]


SERVER_CHECKS = (version, role, memory, persistence, latency, clock, transport)
