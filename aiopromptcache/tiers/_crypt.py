"""Encryption of records: AES-256-GCM, each record bound to the place that it belongs to."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
from collections.abc import Sequence

from .._errors import ConfigurationError
from ._wire import BadRecord

_NONCE = 12
_NAMED = b"apn1"
"""A sealed record begins so, followed by the length (2) of the sealed slot, that, and the rest."""
_NAME_PLACE = b"name"


class Cipher:
    """Seals with the first key, opens with any of them.

    Names are hidden too (HMAC-SHA-256), so that who can read the server cannot test guesses.
    """

    def __init__(self, keys: str | bytes | Sequence[str | bytes]) -> None:
        try:
            from cryptography.exceptions import InvalidTag
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        except ImportError as error:
            raise ImportError(
                "encryption_key needs the extra: pip install 'aiopromptcache[encryption]'"
            ) from error
        listed = (
            keys if isinstance(keys, Sequence) and not isinstance(keys, (str, bytes)) else [keys]
        )
        masters = [_key_bytes(key) for key in listed]
        if not masters:
            raise ConfigurationError("encryption_key=[]: expected at least one key")
        self._invalid = InvalidTag
        self._seals = [AESGCM(_derived(master, b"record")) for master in masters]
        self._hides = [_derived(master, b"slot") for master in masters]

    @property
    def rotating(self) -> bool:
        """Are there older keys?"""
        return len(self._seals) > 1

    def hide(self, name: bytes) -> list[bytes]:
        """What stands for a name, under each key."""
        return [hmac.digest(key, name, "sha256").hex().encode() for key in self._hides]

    def seal(self, place: bytes, text: bytes) -> bytes:
        """The text, readable and changeable only with the key, and only at this place."""
        nonce = os.urandom(_NONCE)
        return nonce + self._seals[0].encrypt(nonce, text, place)

    def seal_record(self, slot: str, record: bytes) -> bytes:
        """A record for the server. Its name there is a digest, so it carries the slot, sealed."""
        place = _bytes(slot)
        name = self.seal(_NAME_PLACE, place)
        if len(name) >= 2**16:  # then it cannot be listed
            return self.seal(place, record)
        return _NAMED + len(name).to_bytes(2, "big") + name + self.seal(place, record)

    def open_record(self, slot: str, sealed: bytes) -> bytes:
        """The record of a slot. Raises `BadRecord` where no key fits."""
        return self.open(_bytes(slot), _split(sealed)[1])

    def slot_of(self, sealed: bytes) -> str:
        """The slot that a sealed record says it is of. Raises `BadRecord` where no key fits."""
        name, _ = _split(sealed)
        return self.open(_NAME_PLACE, name).decode("utf-8", "surrogatepass")

    def open(self, place: bytes, sealed: bytes) -> bytes:
        """The text. Raises `BadRecord` where no key fits."""
        for seal in self._seals:
            try:
                return seal.decrypt(sealed[:_NONCE], sealed[_NONCE:], place)
            except (self._invalid, ValueError):
                continue
        raise BadRecord("sealed with another key, or for another place, or damaged")


def _bytes(slot: str) -> bytes:
    return slot.encode("utf-8", "surrogatepass")


def _split(sealed: bytes) -> tuple[bytes, bytes]:
    """The sealed slot, and the sealed record."""
    if not sealed.startswith(_NAMED):
        return b"", sealed
    start = len(_NAMED) + 2
    end = start + int.from_bytes(sealed[len(_NAMED) : start], "big")
    return sealed[start:end], sealed[end:]


def _derived(master: bytes, purpose: bytes) -> bytes:
    return hmac.digest(master, b"aiopromptcache 1 " + purpose, hashlib.sha256)


def _key_bytes(key: str | bytes) -> bytes:
    """32 bytes. The value is a secret, so the error does not show it."""
    if isinstance(key, str):
        try:
            key = base64.urlsafe_b64decode(key.encode("ascii") + b"=" * (-len(key) % 4))
        except (binascii.Error, UnicodeEncodeError):
            raise ConfigurationError("encryption_key: a str must be URL-safe base64") from None
    if not isinstance(key, bytes) or len(key) != 32:
        got = f"{len(key)} bytes" if isinstance(key, bytes) else f"a {type(key).__qualname__}"
        raise ConfigurationError(
            f"encryption_key: expected 32 bytes, or their URL-safe base64 as str; got {got}"
        )
    return key
