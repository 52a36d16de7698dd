"""The checks that do what the cache does: rights, a probe, and what is stored."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

from redis.exceptions import NoPermissionError, ResponseError

from .._entry import Entry, Kind
from ..tiers._base import News, Refused
from ._checks import Finding
from ._session import Session

SAMPLE = 200
"""Records that are tried with the key."""


def _attempts(session: Session, slot: str) -> list[tuple[Any, ...]]:
    """Every command that the tier and its scripts use, on keys like theirs that nobody uses."""
    names = session.tier._names
    text = names.places(slot).entry
    members, log = names.readers(slot), names.stream(slot, "doctor")
    return [
        ("PING",), ("TIME",), ("SCAN", "0", "MATCH", text, "COUNT", "1"),
        ("EVAL", "return 1", 1, text), ("EVALSHA", "0" * 40, 1, text),
        ("SET", text, "1", "PX", 60_000), ("GET", text), ("MGET", text), ("EXISTS", text),
        ("GETRANGE", text, 0, 0), ("APPEND", text, "1"), ("PTTL", text),
        ("PERSIST", text), ("PEXPIRE", text, 60_000), ("PEXPIREAT", text, 1), ("DEL", text),
        ("ZADD", members, 1, "a"), ("ZCARD", members), ("ZSCORE", members, "a"),
        ("ZRANGE", members, 0, 0), ("ZRANDMEMBER", members, 1), ("ZPOPMIN", members, 1),
        ("ZREM", members, "a"), ("ZREMRANGEBYSCORE", members, 0, 0),
        ("ZREMRANGEBYRANK", members, 0, 0),
        ("XADD", log, "*", "k", "v"), ("XRANGE", log, "-", "+", "COUNT", 1),
        ("XREVRANGE", log, "+", "-", "COUNT", 1), ("XINFO", "STREAM", log),
        ("XREAD", "COUNT", 1, "STREAMS", log, "0"), ("XTRIM", log, "MAXLEN", 0),
        ("PEXPIRE", log, 60_000), ("PEXPIRE", members, 60_000),
        ("UNLINK", log), ("UNLINK", members), ("DEL", log), ("DEL", members),
    ]  # fmt: skip


async def rights(session: Session, app_timeout: float) -> Sequence[Finding]:
    """May the user do all that the cache does?"""
    missing: dict[str, None] = {}
    keys = True
    for attempt in _attempts(session, _probe_slot(session)):
        try:
            await session.within(session.tier._link.command(*attempt))
        except NoPermissionError as error:
            if "key" in str(error):
                keys = False
            else:
                missing[attempt[0].lower()] = None
        except (ResponseError, Refused):
            continue  # other checks tell of it
    if keys and not missing:
        return [Finding("rights", "ok", "the user may do all that the cache does")]
    pattern = f"~{session.settings.beginning}:*"
    lacks = [*([] if keys else [f"use the keys {pattern[1:]}"]), *missing]
    grants = [*([] if keys else [pattern]), *(f"+{name}" for name in missing)]
    advice = f"ACL SETUSER {await _user(session)} {' '.join(grants)}"
    return [Finding("rights", "failure", f"the user may not: {', '.join(lacks)}", advice)]


async def _user(session: Session) -> str:
    try:
        user = await session.within(session.client.acl_whoami())
    except ResponseError:
        return "NAME"
    return user.decode() if isinstance(user, bytes) else str(user)


def _probe_slot(session: Session) -> str:
    return f"{session.slots}aiopromptcache doctor {secrets.token_hex(8)}"


async def storing(session: Session, app_timeout: float) -> Sequence[Finding]:
    """Store, read and remove a probe, and hear of it as another process would."""
    slot = _probe_slot(session)
    entry = Entry(Kind.JSON, b"1", stored_at=session.clock(), ttl=60.0)
    try:
        await session.within(session.tier.set({slot: entry}))
        found = await session.within(session.tier.get([slot]))
        await _heard(session, slot)
    except Refused as error:
        advice = "Give it memory, or see `memory` above; until then answers are read, not stored."
        return [Finding("storing", "failure", f"it takes no writes: {error}", advice)]
    if slot not in found or found[slot].payload != b"1":
        return [Finding("storing", "failure", "what was stored did not come back")]
    return [Finding("storing", "ok", "stores, reads, and tells other processes")]


async def _heard(session: Session, slot: str) -> None:
    """Remove the probe, and wait for the word of it."""
    heard: asyncio.Queue[News] = asyncio.Queue()
    listener = asyncio.create_task(session.tier.listen(session.slots[:-1], "", heard.put))
    try:
        await _until(session, listener, heard, "listening")
        await session.within(session.tier.delete([slot]))
        await _until(session, listener, heard, "dropped")
    finally:
        listener.cancel()
        await asyncio.wait([listener])


async def _until(
    session: Session, listener: asyncio.Task[None], heard: asyncio.Queue[News], kind: str
) -> None:
    """Wait for news of a kind. Raises what ended the listening."""
    end = time.monotonic() + session.settings.patience
    while True:
        news = asyncio.ensure_future(heard.get())
        left = max(0.0, end - time.monotonic())
        await asyncio.wait([news, listener], timeout=left, return_when="FIRST_COMPLETED")
        if news.done():
            if news.result().kind == kind:
                return
            continue
        news.cancel()
        if listener.done():
            await listener
        raise TimeoutError(f"no word of {kind}")


async def encryption(session: Session, app_timeout: float) -> Sequence[Finding]:
    """Can what is stored be read?"""
    readable = unreadable = 0
    async with aclosing(session.rows()) as rows:
        async for row in rows:
            readable, unreadable = readable + (row is not None), unreadable + (row is None)
            if readable + unreadable >= SAMPLE:
                break
    if session.settings.keys is None:
        return [_without_key(readable, unreadable)]
    if not unreadable:
        text = f"the key reads all of {readable}" if readable else "there is nothing to read yet"
        return [Finding("encryption", "ok", text)]
    text = f"the key does not read {unreadable} of {readable + unreadable} records"
    advice = (
        "They were sealed with another key, or without one. Give the older keys too "
        "(newest first), or leave them to expire: nobody answers from them."
    )
    return [Finding("encryption", "warning", text, advice)]


def _without_key(readable: int, unreadable: int) -> Finding:
    if not unreadable:
        text = "none: who can read the server can read the answers"
        return Finding("encryption", "note", text, "RedisTier(encryption_key=…) seals them.")
    text = f"{unreadable} of {readable + unreadable} records cannot be read without a key"
    advice = "Set AIOPROMPTCACHE_ENCRYPTION_KEY, or --encryption-key-file."
    return Finding("encryption", "warning", text, advice)


STORE_CHECKS = (rights, storing, encryption)
