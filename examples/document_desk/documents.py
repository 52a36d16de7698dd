"""Documents in a directory: what may be one, and who may change it."""

from __future__ import annotations

import hashlib
import os
import tempfile
import unicodedata
from dataclasses import dataclass
from pathlib import Path

MAX_BYTES = 200_000
"""Size of a document in UTF-8."""
MAX_DOCUMENTS = 200
MAX_NAME = 120
"""Bytes of a name in UTF-8."""
SUFFIXES = (".md", ".txt")
_FORBIDDEN = frozenset('/\\:*?"<>|')
_CONTROLS = frozenset(map(chr, range(32))) - frozenset("\t\n\r\f")


class Refused(Exception):
    """What cannot be done, in words for whoever asked, with the HTTP status that says so."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message


@dataclass(frozen=True, slots=True)
class Document:
    """A document's text, and its version: a digest of it."""

    name: str
    text: str

    @property
    def version(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]


class Library:
    """The documents of one directory, all names checked before they meet the file system.

    Raises `Refused` for names that are none, documents that do not exist, and bytes that are no
    text. A save replaces the file in one step: nobody reads half of one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()

    def names(self) -> list[str]:
        """The names of all documents, sorted."""
        found = [path.name for path in self.folder.iterdir() if _is_document(path)]
        return sorted(filter(_is_name, found))

    def stamp(self, name: str) -> str:
        """Changes whenever the file does, by whoever's hand; much cheaper than reading it."""
        found = self._existing(name).stat()
        return f"{found.st_mtime_ns}-{found.st_size}-{found.st_ino}"

    def read(self, name: str) -> Document:
        """One document."""
        with self._existing(name).open("rb") as file:
            return Document(checked(name), text_of(file.read(MAX_BYTES + 1)))

    def save(self, name: str, data: bytes, *, expected: str | None = None) -> Document:
        """Write a document, a new one too.

        `expected` is the version that the writer has seen, "" for none: another one there is
        refused, but for this very text: a save may be sent twice. It is a check and not a lock: of
        two writers in the same moment the later wins.
        """
        document = Document(checked(name), text_of(data))
        path = self._path(document.name)
        self._check(path, document, expected)
        number, temporary = tempfile.mkstemp(prefix=".saving-", dir=self.folder)
        try:
            with os.fdopen(number, "wb") as file:
                file.write(document.text.encode())
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
        return document

    def remove(self, name: str) -> None:
        """Delete a document."""
        self._existing(name).unlink()

    def _check(self, path: Path, document: Document, expected: str | None) -> None:
        exists = _is_document(path)
        if not exists and len(self.names()) >= MAX_DOCUMENTS:
            raise Refused(409, f"There are {MAX_DOCUMENTS} documents already.")
        if expected is None:
            return
        if not expected and exists:
            raise Refused(412, f"There is a document named {path.name} already.")
        seen = (expected, document.version)
        if expected and (not exists or self.read(path.name).version not in seen):
            raise Refused(412, f"{path.name} was changed by somebody else meanwhile.")

    def _existing(self, name: str) -> Path:
        path = self._path(name)
        if not _is_document(path):
            raise Refused(404, f"There is no document named {name}.")
        return path

    def _path(self, name: str) -> Path:
        return self.folder / checked(name)


def _is_document(path: Path) -> bool:
    """A plain file. A link could lead out of the directory, so it is none."""
    return (
        path.suffix in SUFFIXES and path.name[0] != "." and not path.is_symlink() and path.is_file()
    )


def _is_name(name: str) -> bool:
    """Whether a file that somebody has put here can be asked for by its name."""
    try:
        return checked(name) == name
    except Refused:
        return False


def checked(name: str) -> str:
    """A document's name; `Refused` for one that is none, such as a path."""
    name = unicodedata.normalize("NFC", name)
    plain = name.isprintable() and not _FORBIDDEN & set(name) and name == name.strip()
    if not plain or name.startswith(".") or len(name.encode()) > MAX_NAME:
        raise Refused(
            400, "A name is a file's name, without a path, and does not begin with a dot."
        )
    if Path(name).suffix not in SUFFIXES:
        raise Refused(400, f"A name ends with {' or '.join(SUFFIXES)}.")
    return name


def text_of(data: bytes) -> str:
    """The text in a file's bytes; `Refused` where there is none."""
    if len(data) > MAX_BYTES:
        raise Refused(413, f"A document has at most {MAX_BYTES:,} bytes.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Refused(415, "This is no text file: it is not UTF-8.") from None
    if _CONTROLS & set(text):
        raise Refused(415, "This is no text file: it has control characters.")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.strip():
        raise Refused(400, "The document is empty.")
    return text
