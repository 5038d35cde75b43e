"""Pages of an S3 listing (ListObjectsV2), read so strictly that no cut one passes for an end.

A listing that ends early looks like success: the files that are missing are not missed. So a
page counts only if its XML is whole, its root and its fields are the ones that belong there,
`IsTruncated` is said, and a truncated page carries a token to go on with. Anything else is
`BadListing`, never an end.

The answer comes from whoever answers at that address, so a document type, an entity, a
processing instruction (XML's ways to grow, and to read files) and more than 16 MiB end it at
once. Expat, which is part of Python, does the lexing; nothing is built but the page.

Source: the S3 API reference, ListObjectsV2 and Error Responses.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote_plus
from xml.parsers import expat

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_PAGE = 16 * 1024 * 1024
MAX_ERROR = 64 * 1024
MAX_DEPTH = 8
MAX_OBJECTS = 10_000  # of one page; S3 sends 1,000, and other servers what they are set to
_SIZE = re.compile(r"[0-9]{1,18}\Z")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
# Objects there are only there after a restore of hours; a GET answers 403 InvalidObjectState.
# GLACIER_IR is read at once, in spite of its name.
_ARCHIVES = frozenset({"GLACIER", "DEEP_ARCHIVE"})

_SINGLE = {
    "IsTruncated": "truncated",
    "NextContinuationToken": "token",
    "EncodingType": "encoding",
}
_OF_OBJECT = {"Key", "Size", "ETag", "LastModified", "StorageClass"}
_OF_ERROR = {"Code", "Message", "Region", "Endpoint", "Bucket"}


class BadListing(Exception):
    """An answer that is no page of a listing; the text says why.

    cut: it ended before its end, so that asking again may bring the rest.
    """

    def __init__(self, text: str, *, cut: bool = False) -> None:
        super().__init__(text)
        self.cut = cut

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (str(self),), self.__dict__)


@dataclass(frozen=True, slots=True)
class Listed:
    """One object. etag: quoted, as in a header; empty if the listing has none."""

    key: str
    size: int
    etag: str = ""
    modified: str = ""
    storage_class: str = ""

    @property
    def is_archived(self) -> bool:
        """Whether it must be restored before it can be read."""
        return self.storage_class in _ARCHIVES


@dataclass(frozen=True, slots=True)
class Page:
    """One page. next_token: what asks for the next one; None: this was the last.

    folders: the common prefixes, if a delimiter was asked for.
    """

    objects: tuple[Listed, ...] = ()
    next_token: str | None = None
    folders: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class S3Error:
    """What an error answer says. All of it is the server's word; empty where it says nothing."""

    code: str = ""
    message: str = ""
    region: str = ""


class PageReader:
    """Reads one page as it comes: `feed` its bytes, then `close`. Both raise BadListing."""

    def __init__(self) -> None:
        self._fields: dict[str, str] = {}
        self._objects: list[dict[str, str]] = []
        self._folders: list[str] = []
        self._xml = _Xml(self._opened, self._closed, MAX_PAGE)

    def feed(self, data: bytes | memoryview) -> None:
        """Take the next bytes."""
        self._xml.feed(bytes(data))

    def close(self) -> Page:
        """Return the page, now that all of it has come."""
        self._xml.close()
        truncated = self._fields.get("truncated")
        token = self._fields.get("token")
        if truncated not in {"true", "false"}:
            raise BadListing("the listing does not say whether it goes on (IsTruncated)")
        if truncated == "true" and not token:
            raise BadListing("the listing goes on, but without a token to go on with")
        if truncated == "false" and token:
            raise BadListing("the listing has ended, but with a token to go on with")
        encoding = self._fields.get("encoding")
        if encoding not in {None, "", "url"}:
            raise BadListing(f"the listing has an unknown encoding: {encoding[:20]!r}")
        decoded = _decoded if encoding else str
        return Page(
            tuple(_object(fields, decoded) for fields in self._objects),
            token or None,
            tuple(decoded(folder) for folder in self._folders),
        )

    def _opened(self, path: tuple[str, ...]) -> None:
        if len(path) == 1 and path[0] != "ListBucketResult":
            raise BadListing(f"not a listing: it begins with `{path[0][:40]}`")
        if path[1:] == ("Contents",):
            if len(self._objects) == MAX_OBJECTS:
                raise BadListing(f"a page of more than {MAX_OBJECTS} objects")
            self._objects.append({})

    def _closed(self, path: tuple[str, ...], text: str) -> None:
        match path[1:]:
            case (name,) if name in _SINGLE:
                _once(self._fields, _SINGLE[name], text)
            case ("Contents", name) if name in _OF_OBJECT:
                _once(self._objects[-1], name, text)
            case ("CommonPrefixes", "Prefix"):
                self._folders.append(text)


def read_error(data: bytes) -> S3Error:
    """Return what the body of an error answer says; all empty if it is not S3's XML."""
    fields: dict[str, str] = {}

    def closed(path: tuple[str, ...], text: str) -> None:
        if len(path) == 2 and path[0] == "Error" and path[1] in _OF_ERROR:
            fields.setdefault(path[1], text.strip())

    xml = _Xml(lambda _: None, closed, MAX_ERROR)
    try:
        xml.feed(data)
        xml.close()
    except BadListing:
        return S3Error()
    return S3Error(
        fields.get("Code", "")[:100], fields.get("Message", "")[:300], fields.get("Region", "")
    )


def _once(fields: dict[str, str], name: str, text: str) -> None:
    if name in fields:
        raise BadListing(f"the listing says `{name}` twice")
    fields[name] = text


def _object(fields: dict[str, str], decoded: Callable[[str], str]) -> Listed:
    key = decoded(fields.get("Key", ""))
    size = fields.get("Size", "").strip()
    if not key:
        raise BadListing("the listing has an object without a key")
    if not _SIZE.match(size):
        raise BadListing(f"the listing has an object without a size (`{key[:100]}`)")
    etag = fields.get("ETag", "").strip()
    if etag and not etag.startswith(('"', 'W/"')):
        etag = f'"{etag}"'  # some servers leave out in the listing what their headers have
    return Listed(
        key,
        int(size),
        etag,
        fields.get("LastModified", "").strip(),
        fields.get("StorageClass", "").strip(),
    )


def _decoded(text: str) -> str:
    """Undo `encoding-type=url`. It is that of forms: a space is `+`, and a plus `%2B`."""
    if _BAD_ESCAPE.search(text):
        raise BadListing("the listing has a key with a broken escape")
    try:
        return unquote_plus(text, errors="strict")
    except UnicodeDecodeError:
        raise BadListing("the listing has a key that is not UTF-8") from None


class _Xml:
    """The lexer: whole, bounded, flat XML without a document type.

    opened: called with the path of names from the root.  closed: with the text inside as well.
    """

    def __init__(
        self,
        opened: Callable[[tuple[str, ...]], None],
        closed: Callable[[tuple[str, ...], str], None],
        limit: int,
    ) -> None:
        self._told_opened = opened
        self._told_closed = closed
        self._limit = limit
        self._path: tuple[str, ...] = ()
        self._text: list[str] = []
        self._is_leaf = True
        self._parser = parser = expat.ParserCreate("utf-8", " ")
        parser.buffer_text = True
        parser.SetParamEntityParsing(expat.XML_PARAM_ENTITY_PARSING_NEVER)
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text.append
        parser.StartDoctypeDeclHandler = self._refused
        parser.EntityDeclHandler = self._refused
        parser.ExternalEntityRefHandler = self._refused
        parser.SkippedEntityHandler = self._refused
        parser.ProcessingInstructionHandler = self._refused

    def feed(self, data: bytes) -> None:
        self._limit -= len(data)
        if self._limit < 0:
            raise BadListing("the answer is longer than a page of a listing can be")
        self._parse(data, last=False)

    def close(self) -> None:
        self._parse(b"", last=True)

    def _parse(self, data: bytes, *, last: bool) -> None:
        try:
            self._parser.Parse(data, last)
        except expat.ExpatError as error:
            if last:
                raise BadListing("the listing is cut", cut=True) from None
            text = f"the listing is not XML ({expat.ErrorString(error.code)})"
            raise BadListing(text) from None

    def _start(self, name: str, _: object) -> None:
        # A namespace comes first, and differs between servers: it is no part of the shape.
        self._path = (*self._path, name.rpartition(" ")[2])
        self._text.clear()
        self._is_leaf = True
        if len(self._path) > MAX_DEPTH:
            raise BadListing(f"the listing is more than {MAX_DEPTH} elements deep")
        self._told_opened(self._path)

    def _end(self, _: object) -> None:
        # Of an element with others inside the text would be what follows the last of them.
        self._told_closed(self._path, "".join(self._text) if self._is_leaf else "")
        self._is_leaf = False
        self._path = self._path[:-1]
        self._text.clear()

    def _refused(self, *_: object) -> int:
        raise BadListing("the listing has a document type or an instruction, as S3's never has")
