"""Where things are kept on the server, and what they are called there.

    prefix:namespace:e:{key}     an entry
    prefix:namespace:l:{key}     the lease on it
    prefix:namespace:v:{key}:id  a stream that is still coming, and is wanted elsewhere
    prefix:namespace:w:{key}     who wants it
    prefix:{namespace}:t:tag     the entries that carry a tag
    prefix:{namespace}:i         all entries by age, where their number is bounded
    prefix:{namespace}:log       who changed what
    prefix:{namespace}:r         how each process is, for dashboards
    prefix:{namespace}:rt        when it said so
    prefix:{namespace}:q:family  the questions of a family by their vectors
    prefix:{namespace}:q         all of these by the time that their answers go

Braces hold what a cluster picks the hash slot by. With encryption, keys and tags are replaced by
what a secret makes of them, and names in the log are sealed.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple
from urllib.parse import unquote

from ._base import Family
from ._crypt import Cipher


class Places(NamedTuple):
    """Where one slot may be: an entry's place for writing first, then its places under old keys."""

    entry: bytes
    lease: bytes
    older: tuple[bytes, ...]
    names: tuple[bytes, ...]
    """What the log calls the slot, the newest first."""

    @property
    def entries(self) -> tuple[bytes, ...]:
        """All places of the entry."""
        return (self.entry, *self.older)


class Names:
    """Makes names from slots and tags."""

    def __init__(self, prefix: str, cipher: Cipher | None) -> None:
        self._prefix = prefix.encode("utf-8", "surrogatepass")
        self._cipher = cipher

    def places(self, slot: str) -> Places:
        """Everything about one slot."""
        namespace, _, key = slot.partition(":")
        base = self._base(namespace)
        if self._cipher is None:
            name = b"{" + _unbraced(key) + b"}"
            return Places(base + b"e:" + name, base + b"l:" + name, (), (name,))
        names = tuple([b"{" + name + b"}" for name in self._cipher.hide(_bytes(slot))])
        entry, *older = [base + b"e:" + name for name in names]
        return Places(entry, base + b"l:" + names[0], tuple(older), names)

    def _base(self, namespace: str) -> bytes:
        return self._prefix + b":" + namespace.encode() + b":"

    def stream(self, slot: str, stream: str) -> bytes:
        """One live stream for a slot, beside its entry."""
        return self._beside(slot, b"v:") + b":" + stream.encode()

    def readers(self, slot: str) -> bytes:
        """Who wants a slot's live streams."""
        return self._beside(slot, b"w:")

    def _beside(self, slot: str, kind: bytes) -> bytes:
        namespace = slot.partition(":")[0].encode()
        return self._prefix + b":" + namespace + b":" + kind + self.places(slot).names[0]

    def key_of(self, namespace: str, name: bytes) -> str:
        """The key behind the name of an entry, where no secret hides it."""
        inner = name[len(self._base(namespace)) + len(b"e:{") : -len(b"}")]
        if inner == b"%":
            return ""
        text = inner.decode("utf-8", "surrogatepass")
        return text.replace("%7D", "}").replace("%25", "%")

    def entry_prefix(self, namespace: str) -> bytes:
        """What the names of all entries of a namespace begin with, and no others."""
        return self._base(namespace) + b"e:{"

    def everywhere(self) -> bytes:
        """What matches the entries of all namespaces."""
        return _literal(self._prefix + b":") + b"*:e:{*"

    def namespace_of(self, name: bytes) -> str:
        """The namespace, as its user calls it, of an entry's name."""
        quoted = name[len(self._prefix) + 1 :].partition(b":")[0]
        return unquote(quoted.decode("utf-8", "replace"))

    def tag_sets(self, namespace: str, tag: str) -> list[bytes]:
        """The sets of a tag, the one for writing first."""
        return [self._books(namespace) + b"t:" + name for name in self.tag_names(namespace, tag)]

    def tag_names(self, namespace: str, tag: str) -> list[bytes]:
        """What the log calls a tag, the newest first."""
        if self._cipher is None:
            return [_bytes(tag)]
        return self._cipher.hide(_bytes(f"{namespace} {tag}"))  # no slot has a space before its ":"

    def index(self, namespace: str) -> bytes:
        """All entries by age."""
        return self._books(namespace) + b"i"

    def log(self, namespace: str) -> bytes:
        """The stream of news."""
        return self._books(namespace) + b"log"

    def reports(self, namespace: str) -> list[bytes]:
        """How each process is, and when it said so."""
        return [self._books(namespace) + b"r", self._books(namespace) + b"rt"]

    def questions(self, namespace: str) -> bytes:
        """All questions; the names of the families' sets begin with it."""
        return self._books(namespace) + b"q"

    def family(self, family: Family) -> bytes:
        """What stands for a family in the name of its set. Under the newest key only."""
        name = _bytes(" ".join(family))
        if self._cipher is None:
            return hashlib.sha256(name).hexdigest()[:32].encode()
        return self._cipher.hide(b"family " + name)[0]

    def question(self, namespace: str, key: str) -> bytes:
        """What stands for a question in its family's set."""
        if self._cipher is None:
            return _bytes(key)
        return self._cipher.hide(_bytes(f"{namespace}:{key}"))[0]

    def families(self, namespace: str) -> bytes:
        """What matches the sets of all families of a namespace."""
        return _literal(self.questions(namespace)) + b":*"

    def patterns(self, namespace: str) -> tuple[bytes, bytes, bytes]:
        """What matches all entries, all leases and all tags of a namespace, and nothing else."""
        base = _literal(self._prefix + b":" + namespace.encode() + b":")
        return base + b"e:{*", base + b"l:{*", _literal(self._books(namespace)) + b"t:*"

    def _books(self, namespace: str) -> bytes:
        return self._prefix + b":{" + namespace.encode() + b"}:"

    # What the log says, readable for those who have the secret

    def sealed(self, name: str) -> bytes:
        """A slot or tag for the log."""
        text = _bytes(name)
        return text if self._cipher is None else self._cipher.seal(b"log", text)

    def unsealed(self, name: bytes) -> str:
        """The slot or tag. Raises `BadRecord` where it was sealed with another secret."""
        text = name if self._cipher is None else self._cipher.open(b"log", name)
        return text.decode("utf-8", "surrogatepass")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _unbraced(key: str) -> bytes:
    """A cluster would take the first "}" for the end, and heeds no braces with nothing in them."""
    return _bytes(key.replace("%", "%25").replace("}", "%7D")) or b"%"


def _literal(pattern: bytes) -> bytes:
    for special in b"\\*?[]^-":
        pattern = pattern.replace(bytes([special]), b"\\" + bytes([special]))
    return pattern
