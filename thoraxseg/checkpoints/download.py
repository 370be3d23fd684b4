"""One file from the web, on request: over https, resumed where it broke off, verified, and whole under its name."""

from __future__ import annotations

import hashlib
import http.client
import io
import ipaddress
import json
import os
import re
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from thoraxseg.checkpoints import fields
from thoraxseg.errors import CheckpointError, DownloadError, OutputError
from thoraxseg.progress import Progress, silent

CONNECT_SECONDS = 5.0
READ_SECONDS = 12.0
"""A connection that is silent for this long is dropped, and the file resumed on a new one."""
PAUSES_SECONDS = (1.0, 2.0, 4.0, 8.0)
"""Waits before the next try; the file is given up when more tries in a row than there are waits were not worth it."""
WORTH_A_TRY = 1 << 20
"""Bytes that a try must add to what came before to have been worth it."""
_BLOCK = 1 << 16
_KEEP_EVERY = 32 << 20
_HEAD = 512
_TICK_SECONDS = 0.1
_TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_ANSWERS = {
    401: "asks for a login",
    403: "does not give this file to everybody",
    404: "has no such file",
    407: "is behind a proxy that asks for a login",
    410: "does not have this file any more",
    429: "is asked too often at the moment",
}
_KEPT = "What came so far is kept: run again to go on."


def download(url: str, target: Path, sha256: str | None, max_bytes: int, progress: Progress = silent) -> Path:
    """Fetch `url` into the file `target` and return its path; nothing is fetched if it has `sha256` already.

    Only https is spoken, with plain http for this machine's own servers, also after a redirect. What came is kept
    beside the target in `NAME.part`, so that a broken connection, a cancel or a kill costs no more than 32 MiB;
    the server must say by ETag or date that its file is still the same, or all of it is fetched again. The
    file gets its name when it is complete: by the length that the server told, and by SHA-256 where that is
    given (64 hexadecimal digits). Proxies are those of the environment.

    Raises DownloadError where nothing, too much (`max_bytes`) or a web page comes, CheckpointError for a wrong
    SHA-256, and OutputError where the file cannot be written or another run is fetching it.
    """
    target, wanted = Path(target), None if sha256 is None else sha256.lower()
    _check(url)
    try:
        if wanted is not None and target.is_file() and _digest(target, silent) == wanted:
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        with _alone(target):
            transfer = _Transfer(url, target, max_bytes, wanted is not None, progress)
            try:
                transfer.run()
                _verify(transfer, wanted, progress)
                _publish(transfer)
            finally:
                transfer.tidy()
    except OSError as error:
        if isinstance(error, (DownloadError, OutputError)):
            raise
        raise OutputError(
            f"{target}: cannot be written: {error.strerror or error}. Free space or choose another folder, then "
            f"run again. {_KEPT}"
        ) from error
    progress(1.0, f"Fetched {target.name}")
    return target


class _Cut(Exception):  # noqa: N818 - becomes a DownloadError when there is no try left
    """Why a try ended before the file did; `reached` tells whether there was a server at all."""

    def __init__(self, reason: str, reached: bool = True) -> None:
        super().__init__(reason)
        self.reached = reached


@dataclass
class _Transfer:
    """One file on its way: what is known of it, and how much of it is here."""

    url: str
    target: Path
    max_bytes: int
    verifiable: bool
    """Whether a SHA-256 will tell at the end if all of it came."""
    progress: Progress
    etag: str | None = None
    last_modified: str | None = None
    total: int | None = None
    done: int = 0
    """Bytes in `part`."""
    kept: int = 0
    """Bytes of them that the disk has, as the state says."""
    shown: float = 0.0
    part: Path = field(init=False)
    state: Path = field(init=False)

    def __post_init__(self) -> None:
        self.part = _part_of(self.target)
        self.state = self.target.with_name(self.target.name + ".part.json")

    def run(self) -> None:
        """Try until all of the file is in `part`."""
        self._recall()
        opener, start, best, failed = _opener(), self.done, self.done, 0
        while True:
            try:
                self._try(opener)
                return
            except _Cut as cut:
                failed = 0 if self.done >= best + WORTH_A_TRY else failed + 1
                best = max(best, self.done)
                hopeless = not cut.reached and best == start
                if hopeless or failed > len(PAUSES_SECONDS):
                    raise DownloadError(self._giving_up(cut, failed)) from cut
                self._wait(PAUSES_SECONDS[max(failed - 1, 0)])

    def restart(self) -> None:
        """Forget what came so far."""
        self.state.unlink(missing_ok=True)
        os.truncate(self.part, 0)
        self.done = self.kept = 0
        self.etag = self.last_modified = self.total = None

    def tidy(self) -> None:
        """Leave nothing beside the target if there is nothing to resume."""
        useless = self.done == 0 or (self._validator() is None and self.done != self.total)
        with suppress(OSError):
            if useless or not self.part.exists():
                self.part.unlink(missing_ok=True)
                self.state.unlink(missing_ok=True)

    def _recall(self) -> None:
        """Take up what an earlier run left, as far as the disk surely has it."""
        try:
            with self.state.open("rb") as file:
                said = json.loads(file.read(1 << 16))
            header = fields.maybe(fields.matching(r"[\x20-\x7e]{1,1000}", "a header of one line"))
            parsers = {
                "url": fields.text,
                "url_sha256": fields.digest,
                "etag": header,
                "last_modified": header,
                "total": fields.maybe(fields.count),
                "kept": fields.count,
            }
            said = fields.members(said, "state", parsers)
        except (OSError, ValueError, RecursionError, fields.FieldError):
            return self.restart()
        if said["url_sha256"] != self._address() or not 0 < said["kept"] <= min(
            self.part.stat().st_size, self.max_bytes
        ):
            return self.restart()
        os.truncate(self.part, said["kept"])
        self.etag, self.last_modified, self.total = said["etag"], said["last_modified"], said["total"]
        self.done = self.kept = said["kept"]
        return None

    def _address(self) -> str:
        """Return a digest of the address, which may hold a key that is not to be written down."""
        return hashlib.sha256(self.url.encode()).hexdigest()

    def _keep(self, file_descriptor: int) -> None:
        """Bring to the disk what came, then the word that it is there."""
        os.fsync(file_descriptor)
        self.kept = self.done
        words = {
            "url": _shown(self.url),
            "url_sha256": self._address(),
            "etag": self.etag,
            "last_modified": self.last_modified,
            "total": self.total,
            "kept": self.kept,
        }
        fresh = self.state.with_name(self.state.name + ".new")
        fresh.write_text(json.dumps(words), "utf-8")
        fresh.replace(self.state)

    def _try(self, opener: urllib.request.OpenerDirector) -> None:
        if self.done and self.done == self.total:  # an earlier run ended between the last byte and the name
            return
        if self.done and self._validator() is None:
            self.restart()
        self._report(f"Asking for {self.target.name}" if not self.done else None)
        response = self._ask(opener)
        if response is None:
            return
        with response:
            self._begin(response)
            with self.part.open("r+b", buffering=0) as file:
                file.seek(self.done)
                try:
                    self._receive(response, file)
                except BaseException:
                    with suppress(OSError):
                        self._keep(file.fileno())
                    raise
                self._keep(file.fileno())

    def _validator(self) -> str | None:
        """Return what tells the server which file the rest is wanted of; a weak ETag does not."""
        if self.etag is not None and not self.etag.startswith("W/"):
            return self.etag
        return self.last_modified

    def _validator_in(self, headers: http.client.HTTPMessage) -> str | None:
        """Return the same word in an answer, which may leave it out."""
        key = "ETag" if self._validator() == self.etag else "Last-Modified"
        return _one_line(headers.get(key, self._validator()))

    def _ask(self, opener: urllib.request.OpenerDirector) -> http.client.HTTPResponse | None:
        """Return the answer of the server, or None if the file turns out to be complete."""
        headers = {"User-Agent": "ThoraxSeg", "Accept-Encoding": "identity"}
        if self.done:
            headers |= {"Range": f"bytes={self.done}-", "If-Range": self._validator() or ""}
        request = urllib.request.Request(self.url, headers=headers)  # noqa: S310 - checked: https, or this machine
        try:
            return opener.open(request, timeout=READ_SECONDS)
        except DownloadError:
            raise
        except urllib.error.HTTPError as error:
            try:
                return self._refused(error)
            finally:
                error.close()
        except urllib.error.URLError as error:
            if isinstance(error.reason, ssl.SSLCertVerificationError):
                raise DownloadError(
                    f"{_shown(self.url)}: the server's certificate is not trusted here "
                    f"({error.reason.verify_message}). Nothing was fetched. Check this machine's clock and network; "
                    "where a proxy has a certificate of its own, name it in SSL_CERT_FILE."
                ) from error
            raise _Cut(_words(error.reason), reached=False) from error
        except (OSError, UnicodeError, http.client.HTTPException) as error:
            raise _Cut(_words(error)) from error

    def _refused(self, error: urllib.error.HTTPError) -> None:
        """Say what a status other than success means, or that the part here is all there is."""
        if error.code == 416 and self.done:
            known = re.fullmatch(r"bytes \*/(\d{1,18})", error.headers.get("Content-Range", "").strip())
            if known and int(known[1]) == self.done and self.total is None:
                self.total = self.done
                return
            self.restart()
            raise _Cut("the file on the server is another one now")
        what = _ANSWERS.get(
            error.code, "has a problem of its own" if error.code >= 500 else "does not answer with the file"
        )
        if error.code in _TRY_AGAIN:
            raise _Cut(f"the server {what} (status {error.code})")
        raise DownloadError(
            f"{_shown(self.url)}: the server {what} (status {error.code}). Check the address in a browser; a file "
            "that needs a login has to be downloaded there and given as a file."
        )

    def _begin(self, response: http.client.HTTPResponse) -> None:
        """Take from the headers where the content belongs and how long the file is; refuse what is not the file."""
        headers = response.headers
        if headers.get_content_type() in ("text/html", "application/xhtml+xml") and "Content-Type" in headers:
            raise self._web_page()
        if headers.get("Content-Encoding", "identity").lower() not in ("", "identity"):
            raise DownloadError(
                f"{_shown(self.url)}: the server packs the file on its way ({headers['Content-Encoding']!r:.40}), so "
                "that it cannot be verified. Download it in a browser and give the file."
            )
        length = re.fullmatch(r"\d{1,18}", headers.get("Content-Length", "").strip())
        if response.status == 206 and self.done:
            self._check_range(headers)
        elif response.status == 200:
            total = int(length[0]) if length else None
            self._check_size(total, done=0)
            if total is None and headers.get("Transfer-Encoding", "").lower() != "chunked":
                self._check_end_is_known()
            self.restart()
            self.total = total
            self.etag, self.last_modified = (_one_line(headers.get(key)) for key in ("ETag", "Last-Modified"))
        else:
            raise DownloadError(
                f"{_shown(self.url)}: the server does not answer with the file (status {response.status}). Check "
                "the address in a browser."
            )

    def _check_range(self, headers: http.client.HTTPMessage) -> None:
        """Start again unless the rest that comes is that of the part that is here."""
        said = re.fullmatch(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18})", headers.get("Content-Range", "").strip())
        same = (
            said is not None
            and int(said[1]) == self.done
            and self.total in (None, int(said[2]))
            and self._validator() == self._validator_in(headers)
        )
        if not same:
            self.restart()
            raise _Cut("the rest that the server sends is not that of what came before")
        self.total = int(said[2])
        self._check_size(self.total, self.done)

    def _check_size(self, total: int | None, done: int) -> None:
        if total == 0:
            raise DownloadError(
                f"{_shown(self.url)}: the file on the server is empty. Check the address in a browser."
            )
        if total is None:
            return
        if total > self.max_bytes:
            raise self._too_large(_size(total))
        free = shutil.disk_usage(self.target.parent).free + self.part.stat().st_size - done
        if total - done > free:
            raise OutputError(
                f"{self.target}: fetching it needs {_size(total - done)} more, but {_size(free)} are free. "
                "Free space or choose another folder, then run again."
            )

    def _check_end_is_known(self) -> None:
        if not self.verifiable:
            raise DownloadError(
                f"{_shown(self.url)}: the server does not say how long the file is, and no SHA-256 is known, so that "
                "a file cut short would look whole. Download it in a browser and give the file."
            )

    def _receive(self, response: http.client.HTTPResponse, file: io.FileIO) -> None:
        """Write what comes behind what is here."""
        head = b"" if self.done == 0 else None
        while self.total is None or self.done < self.total:
            self._report()
            try:
                block = response.read1(_BLOCK)
            except (OSError, http.client.HTTPException) as error:
                raise _Cut(_words(error)) from error
            if not block:
                break
            if self.done + len(block) > self.max_bytes:
                self.restart()
                raise self._too_large("more than that")
            if head is not None:
                head += block[: _HEAD - len(head)]
                if _is_web_page(head):
                    self.restart()
                    raise self._web_page()
                head = None if len(head) >= _HEAD else head
            rest = memoryview(block)
            while rest:
                rest = rest[file.write(rest) :]
            self.done += len(block)
            if self.done - self.kept >= _KEEP_EVERY:
                self._keep(file.fileno())
        if self.total is None:
            if self.done == 0:
                self._check_size(0, 0)
            self.total = self.done
        elif self.done < self.total:
            raise _Cut("the connection ended")
        self._report()

    def _report(self, words: str | None = None) -> None:
        """Tell how far it is; the fraction never falls, also where the file has to start again."""
        if self.total:
            self.shown = max(self.shown, 0.99 * self.done / self.total)
        self.progress(self.shown, words or f"Fetching {self.target.name} ({self._how_far()})")

    def _how_far(self) -> str:
        if not self.total:
            return _size(self.done)
        unit, size = ("MB", 1e6) if self.total >= 1e6 else ("kB", 1e3)
        return f"{self.done / size:.0f} of {self.total / size:.0f} {unit}"

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._report(f"Fetching {self.target.name} ({self._how_far()}): trying again in {left:.0f} s")
            time.sleep(min(_TICK_SECONDS, left))

    def _giving_up(self, cut: _Cut, tries: int) -> str:
        kept = f" {_KEPT}" if self.done and self._validator() is not None else ""
        if not cut.reached:
            return (
                f"{_shown(self.url)}: {urlsplit(self.url).hostname} cannot be reached: {cut}. Connect to the network, "
                "set HTTPS_PROXY where one is needed, and run again; or download the file elsewhere and give "
                f"it as a file.{kept}"
            )
        place = f" at {self._how_far()}" if self.done else ""
        return (
            f"{_shown(self.url)}: {cut}{place}, {tries} times in a row. Try again later, or download the "
            f"file in a browser and give it as a file.{kept}"
        )

    def _too_large(self, size: str) -> DownloadError:
        return DownloadError(
            f"{_shown(self.url)}: expected at most {_size(self.max_bytes)}, the server sends {size}. Nothing "
            "was kept of it; check the address."
        )

    def _web_page(self) -> DownloadError:
        return DownloadError(
            f"{_shown(self.url)}: expected a file, got a web page, probably one of an error or a login. Give the "
            "address of the file itself, or download it in a browser."
        )


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows only to where one could have asked at once, and never from https to http."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        fp.close()  # its content, of any length, would be read otherwise
        _check(newurl, before=req.full_url)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Proxies(urllib.request.ProxyHandler):
    """The proxies of the environment; this machine's own servers are asked without one."""

    def proxy_open(self, req, proxy, type):  # noqa: A002
        if _is_loopback(urlsplit(req.full_url).hostname):
            return None
        return super().proxy_open(req, proxy, type)


class _Http(http.client.HTTPConnection):
    """Gives up connecting sooner than waiting for content."""

    def connect(self) -> None:
        self.timeout = CONNECT_SECONDS
        super().connect()
        self.sock.settimeout(READ_SECONDS)


class _Https(http.client.HTTPSConnection):
    """Gives up connecting sooner than waiting for content."""

    def connect(self) -> None:
        self.timeout = CONNECT_SECONDS
        super().connect()
        self.sock.settimeout(READ_SECONDS)


class _Handler(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
    def http_open(self, req):
        return self.do_open(_Http, req)

    def https_open(self, req):
        return self.do_open(_Https, req)


def _opener() -> urllib.request.OpenerDirector:
    """Return an opener that speaks http and https and nothing else: no files, no ftp, no passwords."""
    opener = urllib.request.OpenerDirector()
    opener.addheaders = []
    for handler in (
        *(_Proxies(), _Handler(), _Redirects(), urllib.request.HTTPDefaultErrorHandler()),
        *(urllib.request.HTTPErrorProcessor(), urllib.request.UnknownHandler()),
    ):
        opener.add_handler(handler)
    return opener


def _check(url: str, before: str | None = None) -> None:
    """Refuse an address that is not https, or http of this machine; `before` is the one that led there."""
    led = "" if before is None else f"{_shown(before)} leads to another address: "
    if not re.fullmatch(r"[\x21-\x7e]{1,4000}", url):
        raise DownloadError(
            f"{led}expected a web address without spaces and letters beyond ASCII, got {url!r:.80}. Copy it from "
            "the browser's address line."
        )
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise DownloadError(f"{led}expected a web address, got {url!r:.80}: {error}. Correct it.") from error
    if "@" in parts.netloc:
        raise DownloadError(
            f"{led}{_shown(url)}: the address holds a user name or a password, which would end up in logs. Download "
            "the file in a browser and give it as a file."
        )
    allowed = parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(host))
    if not host or not allowed:
        raise DownloadError(
            f"{led}{_shown(url)}: expected an address that begins with https://, since what comes by "
            f"{parts.scheme or 'another way'!r:.20} can be changed on its way. Nothing was fetched from there."
        )
    if before is not None and parts.scheme == "http" and urlsplit(before).scheme == "https":
        raise DownloadError(
            f"{led}{_shown(url)}: from https back to plain http, where content can be changed on its way. Nothing "
            "was fetched from there."
        )


def _is_loopback(host: str | None) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def _shown(url: str) -> str:
    """Return an address for messages: without a password, and without the query, which may be a key."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"[:300]


def _words(error: object) -> str:
    """Return what an error of the network says."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, http.client.IncompleteRead):
        return "the connection ended"
    return str(getattr(error, "strerror", None) or error or type(error).__name__)[:200]


def _one_line(header: str | None) -> str | None:
    return header if header is not None and re.fullmatch(r"[\x20-\x7e]{1,1000}", header) else None


def _size(count: int) -> str:
    """Return a number of bytes for a person."""
    if count >= 1_000_000:
        return f"{count / 1e6:.0f} MB" if count >= 10_000_000 else f"{count / 1e6:.1f} MB"
    return f"{count / 1e3:.1f} kB"


def _is_web_page(head: bytes) -> bool:
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:15].lower()
    return start.startswith((b"<!doctype html", b"<html"))


def _part_of(target: Path) -> Path:
    return target.with_name(target.name + ".part")


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Keep other processes from the partial file meanwhile; the system ends the lock with the process.

    Windows, and some network disks, cannot lock so: there the length and the SHA-256 at the end have to do.
    """
    part = _part_of(target)
    descriptor = os.open(part, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if os.name == "posix":
            import fcntl

            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise _busy(target) from error
            except OSError:
                pass
            # It may have got its name, or gone, between opening and locking.
            if not part.exists() or not os.path.samestat(os.fstat(descriptor), part.stat()):
                raise _busy(target)
        else:
            os.close(descriptor)  # an open file could not be renamed there
            descriptor = -1
        yield
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _busy(target: Path) -> OutputError:
    return OutputError(f"{target}: another run is fetching this file. Wait for it to end, then run again.")


def _digest(path: Path, progress: Progress) -> str:
    digest, done, size = hashlib.sha256(), 0, max(path.stat().st_size, 1)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            done += len(block)
            progress(0.99 + 0.01 * min(done / size, 1.0), f"Checking {path.name.removesuffix('.part')}")
    return digest.hexdigest()


def _verify(transfer: _Transfer, wanted: str | None, progress: Progress) -> None:
    """Compare what came with what was told and what is known; delete what is not the file."""
    size = transfer.part.stat().st_size
    if size != transfer.total:
        transfer.restart()
        raise DownloadError(
            f"{transfer.target.name}: expected {transfer.total} bytes, got {size}. The file was deleted; run again."
        )
    if wanted is None:
        return
    digest = _digest(transfer.part, progress)
    if digest != wanted:
        transfer.restart()
        raise CheckpointError(
            f"{transfer.target.name}: expected SHA-256 {wanted[:12]}..., got {digest[:12]}...: not the published "
            f"file, or damaged on its way. It was deleted. Run again, and if it stays so, ask who published it at "
            f"{_shown(transfer.url)}."
        )


def _publish(transfer: _Transfer) -> None:
    """Give the file, which the disk has by now, its name."""
    transfer.part.replace(transfer.target)
    if os.name == "posix":  # Windows cannot open a folder, and journals renames itself
        descriptor = os.open(transfer.target.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    transfer.state.unlink(missing_ok=True)
