"""`rediss://`: the tier over TLS, with a certificate that is checked."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from servers import Server

from aiopromptcache import PromptCache, RedisTier
from aiopromptcache._cli._app import cli

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for this machine's loopback address and its key, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "loopback")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    secret = key.private_bytes(encoding, form, serialization.NoEncryption())
    path.write_bytes(made.public_bytes(encoding) + secret)
    return path


@pytest.fixture
async def tls_port(valkey: Server, url: str, certificate: Path) -> AsyncIterator[int]:
    """Where the server is reached over TLS."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)

    async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(2**16):
            target.write(data)
        target.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", valkey.port)
        await asyncio.gather(copy(reader, back), copy(there, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    loop = asyncio.get_running_loop()
    plain = loop.get_exception_handler()

    def unmoved(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A client that leaves in the middle of a handshake is nothing to this server."""
        if plain is not None and not isinstance(context.get("exception"), OSError):
            plain(loop, context)

    loop.set_exception_handler(unmoved)
    yield server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    loop.set_exception_handler(plain)


async def test_answers_are_shared_over_tls(tls_port: int, url: str, certificate: Path) -> None:
    secure = f"rediss://127.0.0.1:{tls_port}/0?ssl_ca_certs={certificate}"
    async with PromptCache(RedisTier(secure, timeout=5)) as one:
        async with PromptCache(RedisTier(url, timeout=5)) as other:
            await one.set("key", 1)
            assert await other.get("key") == 1
            assert await other.delete("key") == 1
            assert await one.get("key") is None
            assert one.stats.errors == other.stats.errors == 0


async def test_a_certificate_that_nobody_vouches_for_is_a_fault_of_the_tier(
    tls_port: int,
) -> None:
    async with PromptCache(RedisTier(f"rediss://127.0.0.1:{tls_port}/0", timeout=5)) as cache:

        async def make() -> int:
            return 1

        assert await cache.get_or_create("key", make) == 1
        assert cache.stats.errors > 0


async def test_the_command_line_over_tls(tls_port: int, certificate: Path) -> None:
    async def ran(*args: str) -> Any:
        return await asyncio.to_thread(CliRunner().invoke, cli, args)

    place = f"rediss://127.0.0.1:{tls_port}/0"
    trusted = await ran("doctor", "--url", f"{place}?ssl_ca_certs={certificate}")
    assert (trusted.exit_code, trusted.stderr) == (0, "")
    assert "transport: TLS" in trusted.stdout
    stranger = await ran("stats", "--url", place)
    assert stranger.exit_code == 2
    assert "TLS failed (CERTIFICATE_VERIFY_FAILED)" in stranger.stderr
