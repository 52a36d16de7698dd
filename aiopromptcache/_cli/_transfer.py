"""`export` and `import`: a namespace as a file, and back, wherever that is."""

from __future__ import annotations

import gzip
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import IO, Any, cast

import click

from .._entry import Entry
from ._errors import FAILED, ToolError
from ._options import Command, Settings, common
from ._output import count_text, emit, say
from ._portable import BadFile, Item, Reader, Writer
from ._rows import Filter, filtered
from ._seed import Seeding
from ._session import opened, run

EXPORT_EXAMPLES = """
aiopromptcache export cache.jsonl.gz
aiopromptcache export docs.jsonl --tag docs --fresh
aiopromptcache export - | ssh staging aiopromptcache import -
"""
IMPORT_EXAMPLES = """
aiopromptcache import cache.jsonl.gz --namespace staging
aiopromptcache import cache.jsonl.gz --as-exported
aiopromptcache import cache.jsonl.gz --check
"""
BATCH = 200
"""Entries that are stored at once, or fewer."""
BATCH_BYTES = 4 * 2**20


# Export


@click.command(cls=Command, examples=EXPORT_EXAMPLES)
@click.argument("file")
@filtered
@common
@click.pass_obj
def export(settings: Settings, /, file: str, **fields: Any) -> int:
    """Write entries to FILE, which another environment can import; "-" is stdout.

    The file depends on no prefix, namespace or encryption key: what is in it can be read by whoever
    can read the file (it is made for you alone). It is packed if its name ends with .gz, and is
    there only once it is whole. Ages go on while it lies there. What is written to the cache
    meanwhile may be in it or not.
    """
    if file == "-":
        report = run(settings, _export(settings, Filter(**fields), sys.stdout.buffer, True))
        sys.stdout.buffer.flush()
    else:
        with _file_in_place(file) as stream:
            packed = file.endswith(".gz")
            report = run(settings, _export(settings, Filter(**fields), stream, not packed))
    _told(settings, report, "exported", file == "-")
    return FAILED if report["unreadable"] else 0


async def _export(
    settings: Settings, wanted: Filter, stream: IO[bytes], compress: bool
) -> dict[str, int]:
    unreadable = 0
    async with opened(settings) as session, aclosing(session.rows()) as rows:
        now = session.clock()
        writer = Writer(stream, settings.room, now, compress=compress)
        async for row in rows:
            if row is None:
                unreadable += 1
            elif wanted.takes(row.entry, now):
                writer.add(row.key, row.entry)
    writer.end()
    return {"exported": writer.entries, "unreadable": unreadable}


@contextmanager
def _file_in_place(name: str) -> Iterator[IO[bytes]]:
    """A new file that takes its name when it is whole; only its owner may read it. A pipe or a
    device stays what it is, and is written into; a link stays a link.
    """
    path = Path(os.path.realpath(name))
    if os.path.exists(name) and not (path.is_file() or path.is_dir()):
        with _opened(name) as stream:
            yield stream
        return
    part = path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise ToolError(f"{name}: {error.strerror}") from None
    try:
        with os.fdopen(descriptor, "wb") as raw:
            if name.endswith(".gz"):
                with gzip.GzipFile("", "wb", 6, raw, 0) as packed:
                    yield cast(IO[bytes], packed)
            else:
                yield raw
            raw.flush()
            os.fsync(raw.fileno())
        _rename(part, path)
    finally:
        part.unlink(missing_ok=True)


def _opened(name: str) -> IO[bytes]:
    try:
        return Path(name).open("wb")
    except OSError as error:
        raise ToolError(f"{name}: {error.strerror}") from None


def _rename(part: Path, path: Path) -> None:
    try:
        part.replace(path)
    except OSError as error:
        raise ToolError(f"{path}: {error.strerror}") from None


# Import


@click.command("import", cls=Command, examples=IMPORT_EXAMPLES)
@click.argument("file")
@click.option("--overwrite", is_flag=True, help="Also over what is as new as the file's, or newer.")
@click.option(
    "--as-exported", is_flag=True, help="The time that the file lay there does not count as age."
)
@click.option("--check", is_flag=True, help="Only look whether the file is whole; needs no server.")
@common
@click.pass_obj
def import_(settings: Settings, file: str, overwrite: bool, as_exported: bool, check: bool) -> int:
    """Store the entries of FILE, which `export` wrote; "-" is stdin.

    The whole file is looked through before anything of it is stored. An entry keeps its age: what
    has expired by now is left out. What the cache has already, as new or newer, stays. Import only
    what you trust: apps will answer with what is in it.
    """
    with _seekable(file) as raw:
        count = _checked(file, raw)
        if check:
            report = {"entries": count}
        else:
            report = run(settings, _import(settings, file, raw, overwrite, as_exported))
    _told(settings, report, "entries" if check else "imported", False)
    return FAILED if report.get("refused") else 0


@contextmanager
def _seekable(name: str) -> Iterator[IO[bytes]]:
    """The input, which is read twice; stdin is put into a file that has no name."""
    if name == "-":
        with tempfile.TemporaryFile() as copy:
            shutil.copyfileobj(sys.stdin.buffer, copy)
            yield cast(IO[bytes], copy)
        return
    try:
        file = Path(name).open("rb")  # noqa: SIM115
    except OSError as error:
        raise ToolError(f"{name}: {error.strerror}") from None
    with file:
        yield file


@contextmanager
def _unpacked(name: str, raw: IO[bytes]) -> Iterator[IO[bytes]]:
    """From its beginning, packed or not. Raises `ToolError` for a line that is bad."""
    raw.seek(0)
    packed = raw.read(2) == b"\x1f\x8b"
    raw.seek(0)
    try:
        if packed:
            with gzip.GzipFile(fileobj=raw, mode="rb") as unpacked:
                yield cast(IO[bytes], unpacked)
        else:
            yield raw
    except BadFile as error:
        raise ToolError(f"{'stdin' if name == '-' else name}: {error}") from None


def _checked(name: str, raw: IO[bytes]) -> int:
    """How many entries there are, all of them good."""
    with _unpacked(name, raw) as stream:
        return sum(1 for _ in Reader(stream, time.time()).items())


async def _import(
    settings: Settings, name: str, raw: IO[bytes], overwrite: bool, as_exported: bool
) -> dict[str, int]:
    async with opened(settings) as session:
        with _unpacked(name, raw) as stream:
            reader = Reader(stream, session.clock())
            later = session.clock() - reader.exported_at if as_exported else 0.0
            seeding = Seeding(session, overwrite=overwrite)
            for batch in _batches(reader.items()):
                now = session.clock()
                await seeding.store({item.key: _aged(item.entry, later, now) for item in batch})
        return seeding.counts


def _aged(entry: Entry, later: float, now: float) -> Entry:
    if later:  # whatever the file says of its own time, nothing is stored in the future
        entry.stored_at = min(entry.stored_at + later, now)
    return entry


def _batches(items: Iterator[Item]) -> Iterator[Sequence[Item]]:
    batch: list[Item] = []
    size = 0
    for item in items:
        batch.append(item)
        size += len(item.entry.payload)
        if len(batch) >= BATCH or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _told(settings: Settings, report: dict[str, int], first: str, to_stderr: bool) -> None:
    if settings.json and not to_stderr:
        emit(report)
        return
    others = [f"{count:,} {name}" for name, count in report.items() if name != first and count]
    verb = "" if first == "entries" else f"{first} "
    told = ", ".join([f"{verb}{count_text(report[first], 'entry', 'entries')}", *others])
    if to_stderr:
        say(told)
    else:
        click.echo(told)
