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
        masters = [_key_bytes(key) for key in ([keys] if isinstance(keys, (str, bytes)) else keys)]
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

    def open(self, place: bytes, sealed: bytes) -> bytes:
        """The text. Raises `BadRecord` where no key fits."""
        for seal in self._seals:
            try:
                return seal.decrypt(sealed[:_NONCE], sealed[_NONCE:], place)
            except (self._invalid, ValueError):
                continue
        raise BadRecord("sealed with another key, or for another place, or damaged")


def _derived(master: bytes, purpose: bytes) -> bytes:
    return hmac.digest(master, b"aiopromptcache 1 " + purpose, hashlib.sha256)


def _key_bytes(key: str | bytes) -> bytes:
    """32 bytes. The value is a secret, so the error does not show it."""
    if isinstance(key, str):
        try:
            key = base64.urlsafe_b64decode(key.encode("ascii"))
        except (binascii.Error, UnicodeEncodeError):
            raise ConfigurationError("encryption_key: a str must be URL-safe base64") from None
    if not isinstance(key, bytes) or len(key) != 32:
        raise ConfigurationError(
            f"encryption_key: expected 32 bytes, or their URL-safe base64 as str; got {len(key)}"
        )
    return key
