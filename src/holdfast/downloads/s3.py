"""A bucket: where it is asked, what it lists, and the address of each of its objects.

    source = parse_source("s3://nsf-ncar-era5/e5.oper.an.pl/202102/")
    bucket = Bucket(source, auth="anonymous")
    for page in bucket.pages(token_of_the_last_committed_page):
        for one in bucket.chosen(page, globs(include="*_t.*")):
            ...                                  # one.path, one.url, one.size, one.etag

Pages come one by one, so that each can be journaled together with the token that goes on after
it; a run that was killed begins there. A page counts only if it is whole (see `listing`), and
what goes round in a circle is an error.

Requests go through a policy (retries per host) and the data plane of downloads: its timeouts,
its TLS, its cancelling. Two things are put right inside one attempt, once each: a bucket in
another region than the one that was asked, and a clock that differs from the server's.
"""

from __future__ import annotations

import math
import re
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import quote

from holdfast.core.backoff import Exponential
from holdfast.core.errors import DeadlineExceeded, HoldfastError, Rejected, Stopped
from holdfast.core.retry import Retry
from holdfast.core.retry_after import parse_http_date
from holdfast.core.verdict import THROTTLED, TRANSIENT
from holdfast.downloads.failures import CODES, Failure, failure_of
from holdfast.downloads.listing import Listed, Page, S3Error
from holdfast.downloads.nearest import nearest
from holdfast.downloads.s3_address import UNRESERVED, Place, Source, endpoint_of
from holdfast.downloads.s3_answers import Answer, Asked, refusal
from holdfast.downloads.s3_auth import Auth, Found, find
from holdfast.runtime.clock import clock
from holdfast.runtime.policy import Policy, policy
from holdfast.transfer.failures import Interrupted, TransferFailed
from holdfast.transfer.plane import Plane, Request, Timeouts
from holdfast.transfer.plane_threads import ThreadPlane
from holdfast.transfer.verify import ASK_CHECKSUMS
from holdfast.wire.cancel import Cancel
from holdfast.wire.urls import parse

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from holdfast.downloads.globs import Globs

ATTEMPTS = 8
MAX_EMPTY_PAGES = 10_000
RENEW_EVERY = 60.0
# A region becomes part of a host name and of a signature, and a server may name it.
_REGION = re.compile(r"[a-z0-9-]{1,32}\Z")


@dataclass(frozen=True, slots=True)
class Chosen:
    """An object that is wanted.

    path: of the key what lies below the source; not yet made safe (see `names`).  size, etag:
    what the GET must bring.  failure: why it cannot be fetched.
    """

    key: str
    path: str
    url: str
    size: int
    etag: str
    failure: Failure | None = None


class ListFailed(HoldfastError):
    """A listing ended without its end. failure: the record of it, as of a failed item."""

    exit_code = 1

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.text)
        self.failure = failure
        self.reason = failure.reason
        self.code = CODES[failure.reason].code
        self.next_step = failure.next_step

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.failure,))


def default_policy(attempts: int = ATTEMPTS) -> Policy:
    """Return what decides about repeats of one page: full jitter to 30 s, no shared budget."""
    backoff = Exponential(base=0.5, cap=30)
    retry = Retry(attempts, on=TRANSIENT | THROTTLED, backoff=backoff, budget=None)
    return policy(retry, name="listing", key=lambda call: call.host)


class Bucket:
    """The objects of one source.

    auth: see `s3_auth`; found: credentials that were looked for already.  endpoint: the address
    of a service that speaks S3, http or https.  region: of the bucket, where it is known; else
    the user's own is tried, and the right one followed.  requester_pays: you agree to pay for the
    transfer.  What is found out about region and clock is kept.

    Raises BadUrl or DownloadError. `pages` is for one thread at a time, all else for any.
    """

    def __init__(
        self,
        source: Source,
        *,
        auth: Auth = "auto",
        found: Found | None = None,
        endpoint: str | None = None,
        region: str = "",
        requester_pays: bool = False,
        policy: Policy | None = None,
        plane: Plane | None = None,
        cancel: Cancel | None = None,
        timeouts: Timeouts | None = None,
    ) -> None:
        self.source = source
        self._auth = auth
        self._found = find(auth) if found is None else found
        self._renewing = threading.Lock()
        self._renewed_at = -math.inf
        base = None if endpoint is None else endpoint_of(endpoint)
        self.place = Place(source.bucket, base, region or self._found.region)
        self._requester_pays = requester_pays
        self._policy = policy or default_policy()
        self._plane = plane or ThreadPlane()
        self._cancel = cancel or Cancel()
        self._timeouts = timeouts or Timeouts()
        self._moved = False
        self._skew = 0.0

    # -- requests --------------------------------------------------------------------------------

    @property
    def is_signed(self) -> bool:
        """Whether requests are signed: then `headers_for` must be asked for each of them."""
        return self._found.signer is not None

    def object_url(self, key: str) -> str:
        """Return the address of an object."""
        return self.place.url(key)

    def headers_for(
        self, url: str, method: str = "GET", *, checksums: bool = False
    ) -> dict[str, str]:
        """Return the headers with which `url` is asked now; a signature is good for minutes.

        checksums: those that are stored with an object are wanted.
        """
        headers = {"x-amz-request-payer": "requester"} if self._requester_pays else {}
        if checksums:
            headers[ASK_CHECKSUMS] = "ENABLED"
        if self._found.signer is None:
            return headers
        signer = replace(self._found.signer, region=self.place.asked_region)
        return signer(url, method, headers, clock.wall() + self._skew)

    def set_clock(self, headers: Mapping[str, str]) -> bool:
        """Take the time from a server that called ours wrong (RequestTimeTooSkewed).

        headers: of its answer.  Returns whether to sign again.
        """
        date = parse_http_date(headers.get("date", ""))
        if date is None:
            return False
        self._skew = date - clock.wall()
        return self.is_signed

    def renew(self) -> bool:
        """Look for credentials anew, as a server calls the ones there are expired.

        Returns whether there are others now. Those who ask within a minute share one look.
        """
        with self._renewing:
            now = clock.monotonic()
            if now - self._renewed_at < RENEW_EVERY:
                return True
            found = find(self._auth)
            if found.signer is None or self._found.signer is None:
                return False
            if found.signer.same_as(self._found.signer):
                return False
            self._found, self._renewed_at = found, now
            return True

    # -- the listing -----------------------------------------------------------------------------

    def pages(self, token: str | None = None) -> Iterator[Page]:
        """Yield the pages, from the one that `token` asks for, or from the first.

        If the source is exactly the key of an object, that object is all. If the service does
        not know `token` any more, it begins anew; nothing is left out, some objects come again.
        Raises ListFailed, or Interrupted once cancelled.
        """
        prefix = self.source.prefix
        circle, empty = _Circle(token), 0
        for number in range(1, 1 << 62):
            try:
                page = self._page(prefix, token)
            except _TokenRefused:
                if number > 1 or token is None:
                    raise
                token = None
                page = self._page(prefix, None)
            first = page.objects[0] if page.objects and token is None else None
            if first is not None and first.key == prefix and not prefix.endswith("/"):
                yield Page((first,))
                return
            empty = 0 if page.objects else empty + 1
            closed = circle.is_closed_by(page)
            if closed or empty > MAX_EMPTY_PAGES:
                what = "goes round in a circle (a page came again)" if closed else "does not end"
                raise ListFailed(Failure("bad-listing", f"`{self.source}`: the listing {what}"))
            yield page
            token = page.next_token
            if token is None:
                return

    def chosen(self, page: Page, globs: Globs) -> list[Chosen]:
        """Return what of a page is wanted. Keys that end in `/` are marks of folders, not files.

        globs: on the path below the source.
        """
        found = []
        cut = len(self.source.base)
        for one in page.objects:
            path = one.key[cut:]
            if not one.key.endswith("/") and globs.takes(path):
                found.append(self._chosen(one, path))
        return found

    def _chosen(self, one: Listed, path: str) -> Chosen:
        failure = None
        if one.is_archived:
            text = f"`{one.key}` lies in an archive (storage class: {one.storage_class})"
            failure = Failure("archived", text[:500])
        return Chosen(one.key, path, self.object_url(one.key), one.size, one.etag, failure)

    def no_match(self, globs: Globs, seen: int, sample: str = "") -> ListFailed:
        """Return the failure of a source of which nothing was chosen, with what is near.

        seen: objects that were listed; sample: the path of one of them. May ask for up to 5
        more pages.
        """
        if seen:
            near = f"; one of them: `{sample[:200]}`" if sample else ""
            text = f"`{self.source}`: {seen} objects, of which `{globs}` takes none{near}"
        else:
            text = f"`{self.source}`: no key begins so{self._near()}"
        return ListFailed(Failure("no-match", text[:500]))

    def _near(self) -> str:
        try:
            found = self.nearest_prefixes()
        except ListFailed:  # this is only the explanation of another failure
            return ""
        if not found:
            return "" if self.source.prefix else "; the bucket is empty"
        return "; near it: " + ", ".join(f"`{prefix}`" for prefix in found)

    def nearest_prefixes(self) -> list[str]:
        """Return up to three prefixes that are there and are like the source's.

        Raises ListFailed or Interrupted.
        """
        prefix = self.source.prefix
        parent = prefix.rstrip("/")
        for _ in range(5):
            parent = parent[: parent.rfind("/") + 1]
            page = self._page(parent, None, folders=True)
            there = [*page.folders, *(one.key for one in page.objects)]
            if there or not parent:
                return nearest(prefix, there, count=3, alike=0.3) or there[:3]
            parent = parent.rstrip("/")
        return []

    # -- one page --------------------------------------------------------------------------------

    def _page(self, prefix: str, token: str | None, *, folders: bool = False) -> Page:
        query = {"list-type": "2", "encoding-type": "url", "max-keys": "1000", "prefix": prefix}
        if token is not None:
            query["continuation-token"] = token
        if folders:
            query["delimiter"] = "/"
        text = "&".join(
            f"{name}={quote(value.encode('utf-8', 'surrogatepass'), safe=UNRESERVED)}"
            for name, value in sorted(query.items())
        )
        host = parse(self.place.url()).netloc
        try:
            for attempt in self._policy.attempts(key=host, method="GET", stop=self._cancel.event):
                with attempt:
                    return self._attempt(text, resumes=token is not None)
        except Stopped:
            raise Interrupted from None
        except Interrupted:
            raise
        except Asked as error:
            kind = _TokenRefused if error.is_token else ListFailed
            raise kind(error.failure()) from None
        except (TransferFailed, Rejected, DeadlineExceeded) as error:
            raise ListFailed(failure_of(error, host)) from None
        raise RuntimeError("the attempts ended without an outcome")

    def _attempt(self, query: str, *, resumes: bool) -> Page:
        corrected = renewed = False
        while True:
            if self._cancel.is_set():
                raise Interrupted
            url = self.place.url(query=query)
            answer = Answer()
            request = Request(parse(url), self.headers_for(url), self._timeouts)
            answer.take(self._plane.fetch(request, answer, self._cancel))
            if answer.page is not None:
                return answer.page
            if self._moves(answer.error, answer.headers):
                continue
            skewed = answer.error.code == "RequestTimeTooSkewed"
            if skewed and not corrected and self.set_clock(answer.headers):
                corrected = True
                continue
            if answer.error.code == "ExpiredToken" and not renewed and self.renew():
                renewed = True
                continue
            raise refusal(
                answer,
                str(self.source),
                note=self._found.note if self._found.signer is None else "",
                resumes=resumes,
            )

    def _moves(self, error: S3Error, headers: Mapping[str, str]) -> bool:
        """Go where the bucket is, once; whether there is anything else to ask now."""
        region = headers.get("x-amz-bucket-region", "") or error.region
        if self._moved or not _REGION.match(region) or region == self.place.asked_region:
            return False
        if self.place.endpoint is not None and not self.is_signed:
            return False  # the address stays, and nothing else depends on the region
        self._moved = True
        self.place = replace(self.place, region=region)
        return True


class _Circle:
    """Sees pages come again, however many there are, and remembers two (Brent, 1980).

    A page is known by the token that it gives, and by its first key: a service that does not
    understand tokens answers with the first page for ever, each time with another token.
    """

    def __init__(self, token: str | None) -> None:
        self._last = self._mark = (token, "")
        self._count, self._next_mark = 0, 1

    def is_closed_by(self, page: Page) -> bool:
        """Return whether `page`, the next one, was there before."""
        token, key = page.next_token, page.objects[0].key if page.objects else ""
        known = (self._last, self._mark)
        closed = any((token and token == one[0]) or (key and key == one[1]) for one in known)
        self._last = (token, key)
        self._count += 1
        if self._count == self._next_mark:
            self._mark, self._next_mark = self._last, self._next_mark * 2
        return closed


class _TokenRefused(ListFailed):
    """The service does not know the token."""
