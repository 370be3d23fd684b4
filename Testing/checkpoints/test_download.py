"""Downloads: they come whole or not at all, go on where they broke off, and only from where they may."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.request import Request

import pytest

from thoraxseg.checkpoints import download as download_module
from thoraxseg.checkpoints.download import download
from thoraxseg.errors import CheckpointError, DownloadError, OutputError
from thoraxseg.progress import Cancelled

CONTENT = random.Random(0).randbytes(700_000)
OTHER = random.Random(1).randbytes(700_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()
LIMIT = 10_000_000


@dataclass
class Web:
    """A server on this machine: what it has, how it fails, what it was asked and what it sent."""

    content: bytes = CONTENT
    headers: dict[str, str] = field(default_factory=lambda: {"ETag": '"one"'})
    ranges: bool = True
    tells_length: bool = True
    breaks_after: list[int] = field(default_factory=list)
    """For each of the next answers: bytes after which the connection ends."""
    statuses: list[int] = field(default_factory=list)
    """For the next answers: statuses other than success."""
    location: str = ""
    own: Callable[[BaseHTTPRequestHandler], None] | None = None
    """Answers everything itself, if it is there."""
    asked: list[dict[str, str]] = field(default_factory=list)
    sent: list[tuple[int, int]] = field(default_factory=list)
    """First byte and number of bytes of each answer."""
    url: str = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.asked.append(dict(handler.headers))
        if self.own is not None:
            return self.own(handler)
        if self.location:
            return self.head(handler, 302, {"Location": self.location, "Content-Length": "0"})
        if self.statuses:
            return self.head(handler, self.statuses.pop(0), {"Content-Length": "0"})
        start, status, more = 0, 200, {}
        wanted = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        same = handler.headers.get("If-Range") in (
            self.headers.get("ETag"),
            self.headers.get("Last-Modified"),
        )
        if wanted and self.ranges and same:
            start, status = int(wanted[1]), 206
            if start >= len(self.content):
                return self.head(handler, 416, {"Content-Range": f"bytes */{len(self.content)}"})
            more = {"Content-Range": f"bytes {start}-{len(self.content) - 1}/{len(self.content)}"}
        rest = self.content[start:]
        if self.tells_length:
            more["Content-Length"] = str(len(rest))
        self.head(handler, status, {**self.headers, **more})
        if self.breaks_after:
            rest = rest[: self.breaks_after.pop(0)]
        handler.wfile.write(rest)
        self.sent.append((start, len(rest)))
        return None

    @staticmethod
    def head(handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str]) -> None:
        handler.send_response(status)
        for key, value in headers.items():
            handler.send_header(key, value)
        handler.end_headers()


def serve(web, context=None):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            web.answer(self)

        def do_CONNECT(self):
            web.asked.append({"path": self.path})
            self.send_error(403)

        def log_message(self, *words):
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request, address):
            pass  # clients of these tests go away in the middle

    server = Server(("127.0.0.1", 0), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    web.url = f"http{'s' if context else ''}://127.0.0.1:{server.server_port}/models/weights.bin"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    return server, thread


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for key in ("http", "https", "all", "no"):
        monkeypatch.delenv(f"{key}_proxy", raising=False)
        monkeypatch.delenv(f"{key}_proxy".upper(), raising=False)


@pytest.fixture
def running():
    """Start servers that end with the test."""
    started = []

    def run(web, context=None):
        started.append(serve(web, context))
        return web

    yield run
    for server, thread in started:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def web(running, monkeypatch):
    """A server, and no waiting between tries."""
    monkeypatch.setattr(download_module, "PAUSES_SECONDS", (0.01,) * 4)
    return running(Web())


@pytest.fixture
def target(tmp_path):
    return tmp_path / "new folder" / "weights.bin"


def left(target):
    return sorted(path.name for path in target.parent.iterdir())


def part_size(target):
    part = target.with_name("weights.bin.part")
    return part.stat().st_size if part.exists() else 0


class CancelAt:
    """Cancels when so many bytes are in the partial file."""

    def __init__(self, target, size):
        self.target, self.size = target, size

    def __call__(self, fraction, message):
        if part_size(self.target) >= self.size:
            raise Cancelled


def test_a_file_comes_whole_under_its_name_and_nothing_lies_beside_it(web, target):
    assert download(web.url, target, DIGEST.upper(), LIMIT) == target
    assert target.read_bytes() == CONTENT
    assert left(target) == ["weights.bin"]


def test_a_file_without_a_known_digest_comes_too(web, target):
    download(web.url, target, None, LIMIT)
    assert target.read_bytes() == CONTENT


def test_a_file_that_is_here_with_the_right_digest_is_not_fetched_again(web, target):
    target.parent.mkdir()
    target.write_bytes(CONTENT)
    download(web.url, target, DIGEST, LIMIT)
    assert not web.asked


def test_an_older_file_of_that_name_is_replaced_only_by_a_verified_one(web, target):
    target.parent.mkdir()
    target.write_bytes(b"old")
    web.content = OTHER
    with pytest.raises(CheckpointError):
        download(web.url, target, DIGEST, LIMIT)
    assert target.read_bytes() == b"old"
    web.content = CONTENT
    download(web.url, target, DIGEST, LIMIT)
    assert target.read_bytes() == CONTENT


def test_progress_tells_how_far_it_is_and_never_falls(web, target):
    web.content = random.Random(2).randbytes(12_400_000)
    told = []
    download(web.url, target, None, 20_000_000, lambda fraction, words: told.append((fraction, words)))
    fractions = [fraction for fraction, _ in told]
    assert fractions == sorted(fractions) and fractions[0] == 0 and fractions[-1] == 1
    assert {"Fetching weights.bin (0 of 12 MB)", "Fetching weights.bin (12 of 12 MB)"} <= {w for _, w in told}


# Connections that end


def test_a_connection_that_ends_in_the_middle_is_resumed_and_no_byte_comes_twice(web, target):
    web.breaks_after = [300_000]
    told = []
    download(web.url, target, DIGEST, LIMIT, lambda fraction, words: told.append((fraction, words)))
    assert target.read_bytes() == CONTENT
    assert "Range" not in web.asked[0]
    assert web.asked[1]["Range"] == "bytes=300000-"
    assert web.asked[1]["If-Range"] == '"one"'
    assert web.sent == [(0, 300_000), (300_000, 400_000)]
    assert [fraction for fraction, _ in told] == sorted(fraction for fraction, _ in told)
    assert any("trying again" in words for _, words in told)


def test_a_connection_that_always_ends_early_gets_through_as_long_as_each_try_brings_something(
    web, target, monkeypatch
):
    monkeypatch.setattr(download_module, "WORTH_A_TRY", 10_000)
    web.breaks_after = [50_000] * 100
    download(web.url, target, DIGEST, LIMIT)
    assert len(web.asked) == 14
    assert sum(size for _, size in web.sent) == len(CONTENT)


def test_a_connection_that_never_brings_anything_new_is_given_up_and_what_came_is_kept(web, target):
    web.breaks_after = [300_000, *[0] * 50]
    with pytest.raises(DownloadError, match=r"at 300 of 700 kB, 5 times.*is kept: run again"):
        download(web.url, target, DIGEST, LIMIT)
    assert len(web.asked) == 5
    assert not target.exists()
    web.breaks_after.clear()
    web.sent.clear()
    download(web.url, target, DIGEST, LIMIT)
    assert target.read_bytes() == CONTENT
    assert web.sent == [(300_000, 400_000)]


def test_a_server_that_cannot_resume_and_breaks_off_each_time_is_given_up(web, target, monkeypatch):
    monkeypatch.setattr(download_module, "WORTH_A_TRY", 10_000)
    web.ranges = False
    web.breaks_after = [300_000, 0] * 50
    with pytest.raises(DownloadError, match="the connection ended"):
        download(web.url, target, DIGEST, LIMIT)
    assert len(web.asked) == 6


def test_a_server_that_cannot_resume_sends_all_again_and_the_parts_are_not_mixed(web, target):
    web.ranges, web.breaks_after = False, [300_000]
    told = []
    download(web.url, target, None, LIMIT, lambda fraction, words: told.append(fraction))
    assert web.sent == [(0, 300_000), (0, 700_000)]
    assert told == sorted(told)
    assert target.read_bytes() == CONTENT


def test_a_date_serves_where_there_is_no_etag(web, target):
    web.headers = {"Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}
    web.breaks_after = [300_000]
    download(web.url, target, DIGEST, LIMIT)
    assert web.asked[1]["If-Range"] == "Wed, 21 Oct 2015 07:28:00 GMT"
    assert web.sent[1] == (300_000, 400_000)


@pytest.mark.parametrize("headers", [{}, {"ETag": 'W/"weak"'}])
def test_without_a_word_that_the_file_is_the_same_all_of_it_is_fetched_again(web, target, headers):
    web.headers, web.breaks_after = headers, [300_000]
    download(web.url, target, None, LIMIT)
    assert "Range" not in web.asked[1]
    assert target.read_bytes() == CONTENT


def test_a_part_that_cannot_be_resumed_is_not_left_lying_about(web, target):
    web.headers, web.breaks_after = {}, [300_000] * 9
    with pytest.raises(DownloadError) as caught:
        download(web.url, target, None, LIMIT)
    assert "kept" not in str(caught.value)
    assert left(target) == []


@pytest.mark.parametrize("honest", [True, False])
def test_a_file_that_changed_meanwhile_is_fetched_from_its_start(web, target, honest):
    """Also from a server that sends the rest of the new file although it was asked for that of the old one."""

    def changing(handler):
        if len(web.asked) == 1:
            web.head(handler, 200, {"ETag": '"one"', "Content-Length": str(len(CONTENT))})
            handler.wfile.write(CONTENT[:300_000])
        elif "Range" in web.asked[-1] and not honest:
            headers = {"ETag": '"two"', "Content-Range": "bytes 300000-699999/700000"}
            web.head(handler, 206, {**headers, "Content-Length": "400000"})
            handler.wfile.write(OTHER[300_000:])
        else:
            web.head(handler, 200, {"ETag": '"two"', "Content-Length": str(len(OTHER))})
            handler.wfile.write(OTHER)

    web.own = changing
    download(web.url, target, None, LIMIT)
    assert target.read_bytes() == OTHER


def test_a_part_of_another_address_is_not_taken_up(web, target):
    web.breaks_after = [300_000, *[0] * 4]
    with pytest.raises(DownloadError):
        download(web.url, target, None, LIMIT)
    web.content = OTHER
    download(web.url + "?version=2", target, None, LIMIT)
    assert target.read_bytes() == OTHER


@pytest.mark.parametrize(
    "state", [b"", b"{", b"[1]", b'{"url": 1}', b"\xff", b'{"kept": 1e999}', b"[" * 60_000]
)
def test_a_part_whose_story_is_not_known_is_not_taken_up(web, target, state):
    target.parent.mkdir()
    target.with_name("weights.bin.part").write_bytes(OTHER[:300_000])
    target.with_name("weights.bin.part.json").write_bytes(state)
    download(web.url, target, None, LIMIT)
    assert target.read_bytes() == CONTENT
    assert left(target) == ["weights.bin"]


def left_by_an_earlier_run(web, target, part, **more):
    target.parent.mkdir()
    target.with_name("weights.bin.part").write_bytes(part)
    digest = hashlib.sha256(web.url.encode()).hexdigest()
    state = {"url": "", "url_sha256": digest, "etag": '"one"', "last_modified": None, "total": 700_000}
    target.with_name("weights.bin.part.json").write_text(json.dumps({**state, "kept": len(part), **more}))


def test_a_header_with_a_second_line_in_the_story_of_a_part_is_not_sent(web, target):
    left_by_an_earlier_run(web, target, CONTENT[:9], etag="a\r\nX: y")
    download(web.url, target, None, LIMIT)
    assert "Range" not in web.asked[0] and "X" not in web.asked[0]


def test_a_part_longer_than_its_story_is_cut_to_it(web, target):
    left_by_an_earlier_run(web, target, CONTENT + OTHER, kept=200_000)
    download(web.url, target, None, LIMIT)
    assert target.read_bytes() == CONTENT


def test_a_server_that_sends_another_range_than_asked_for_does_not_mix_up_the_file(web, target):
    def elsewhere(handler):
        wanted = "Range" in web.asked[-1]
        headers = {"ETag": '"one"', "Content-Length": "700000"}
        web.head(handler, 206 if wanted else 200, {**headers, "Content-Range": "bytes 0-699999/700000"})
        handler.wfile.write(CONTENT)

    web.own = elsewhere
    left_by_an_earlier_run(web, target, CONTENT[:300_000])
    download(web.url, target, None, LIMIT)
    assert len(web.asked) == 2
    assert target.read_bytes() == CONTENT


def test_bytes_that_the_disk_may_not_have_got_before_a_crash_are_fetched_again(web, target):
    """After a loss of power a file may have its length but not its content."""
    left_by_an_earlier_run(web, target, CONTENT[:200_000] + bytes(100_000), kept=200_000)
    download(web.url, target, None, LIMIT)
    assert web.sent == [(200_000, 500_000)]
    assert target.read_bytes() == CONTENT


def test_a_part_that_is_complete_gets_its_name_without_another_question(web, target):
    left_by_an_earlier_run(web, target, CONTENT)
    download(web.url, target, DIGEST, LIMIT)
    assert not web.asked
    assert left(target) == ["weights.bin"]


@pytest.mark.parametrize(("part", "again"), [(CONTENT, 0), (CONTENT + b"more", 1)])
def test_a_part_of_unknown_length_is_complete_if_the_server_has_no_more(web, target, part, again):
    left_by_an_earlier_run(web, target, part, total=None)
    download(web.url, target, None, LIMIT)
    assert web.asked[0]["Range"] == f"bytes={len(part)}-"
    assert len(web.asked) == 1 + again
    assert target.read_bytes() == CONTENT


def test_the_key_in_an_address_is_not_written_beside_the_part(web, target):
    web.breaks_after = [300_000, *[0] * 4]
    with pytest.raises(DownloadError):
        download(web.url + "?token=secret", target, None, LIMIT)
    assert "secret" not in target.with_name("weights.bin.part.json").read_text()
    assert part_size(target) == 300_000


@pytest.mark.skipif(os.name != "posix", reason="kills a process")
def test_a_run_that_was_killed_leaves_nothing_under_the_name_and_the_next_one_goes_on(
    web, target, monkeypatch
):
    def slowly(handler):
        web.head(handler, 200, {"ETag": '"one"', "Content-Length": str(len(CONTENT))})
        handler.wfile.write(CONTENT[:300_000])
        time.sleep(30)

    web.own = slowly
    code = (
        "import sys; from pathlib import Path; from thoraxseg.checkpoints import download as d; d._KEEP_EVERY = 1\n"
        f"d.download({web.url!r}, Path(sys.argv[1]), None, {LIMIT})"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(target)])
    try:
        waited = time.monotonic() + 60
        while part_size(target) < 300_000 and time.monotonic() < waited:
            time.sleep(0.02)
        time.sleep(0.2)
        with pytest.raises(OutputError, match="another run is fetching this file"):
            download(web.url, target, None, LIMIT)
    finally:
        child.kill()
        child.wait()
    assert not target.exists()
    web.own = None
    download(web.url, target, None, LIMIT)
    assert target.read_bytes() == CONTENT
    assert web.sent == [(300_000, 400_000)]


# Cancelling


def test_a_cancelled_download_goes_on_where_it_was(web, target):
    with pytest.raises(Cancelled):
        download(web.url, target, DIGEST, LIMIT, CancelAt(target, 200_000))
    had = part_size(target)
    assert 200_000 <= had < 700_000
    assert not target.exists()
    web.sent.clear()
    download(web.url, target, DIGEST, LIMIT)
    assert web.asked[1]["Range"] == f"bytes={had}-"
    assert web.sent == [(had, 700_000 - had)]
    assert target.read_bytes() == CONTENT


def test_waiting_for_the_next_try_can_be_cancelled(web, target, monkeypatch):
    monkeypatch.setattr(download_module, "PAUSES_SECONDS", (60.0,))
    web.breaks_after = [300_000]

    def cancel(fraction, words):
        if "trying again" in words:
            raise Cancelled

    started = time.monotonic()
    with pytest.raises(Cancelled):
        download(web.url, target, DIGEST, LIMIT, cancel)
    assert time.monotonic() - started < 10
    assert part_size(target) == 300_000


def test_a_server_that_sends_one_byte_now_and_then_cannot_hold_up_a_cancel(web, target):
    def trickle(handler):
        web.head(handler, 200, {"Content-Length": "1000000"})
        for _ in range(600):
            handler.wfile.write(b"x")
            time.sleep(0.05)

    web.own = trickle
    started = time.monotonic()
    with pytest.raises(Cancelled):
        download(web.url, target, None, LIMIT, CancelAt(target, 3))
    assert time.monotonic() - started < 10


def test_a_server_that_falls_silent_is_asked_again(web, target, monkeypatch):
    monkeypatch.setattr(download_module, "READ_SECONDS", 0.3)

    def silent(handler):
        web.own = None
        web.head(handler, 200, {"ETag": '"one"', "Content-Length": "700000"})
        handler.wfile.write(CONTENT[:300_000])
        time.sleep(3)

    web.own = silent
    download(web.url, target, DIGEST, LIMIT)
    assert web.sent == [(300_000, 400_000)]


# What is not the file


def test_a_wrong_digest_names_both_and_deletes_the_file(web, target):
    web.content = OTHER
    got = hashlib.sha256(OTHER).hexdigest()
    with pytest.raises(CheckpointError, match=rf"{DIGEST[:12]}\.\.\., got {got[:12]}\.\.\..*deleted"):
        download(web.url, target, DIGEST, LIMIT)
    assert left(target) == []


def test_a_file_that_says_it_is_too_large_is_not_begun(web, target):
    with pytest.raises(DownloadError, match=r"at most 699\.0 kB, the server sends 700\.0 kB"):
        download(web.url, target, None, 699_000)
    assert left(target) == []
    download(web.url, target, None, 700_000)
    assert target.exists()


def test_a_file_that_turns_out_too_large_is_stopped_and_deleted(web, target):
    def chunked(handler):
        web.head(handler, 200, {"Transfer-Encoding": "chunked"})
        for _ in range(100):
            handler.wfile.write(b"2710\r\n" + bytes(10_000) + b"\r\n")

    web.own = chunked
    seen = []
    with pytest.raises(DownloadError, match=r"at most 50\.0 kB, the server sends more"):
        download(web.url, target, None, 50_000, lambda *_: seen.append(part_size(target)))
    assert max(seen) <= 50_000
    assert left(target) == []


@pytest.mark.parametrize(
    ("headers", "content"),
    [
        ({"Content-Type": "text/html; charset=utf-8"}, CONTENT),
        ({"Content-Type": "application/octet-stream"}, b"\r\n <!DOCTYPE HTML><title>Log in</title>"),
        ({}, b"\xef\xbb\xbf<html><body>Not found</body></html>"),
    ],
)
def test_a_web_page_is_refused_as_one(web, target, headers, content):
    web.headers, web.content = headers, content
    with pytest.raises(DownloadError, match="got a web page"):
        download(web.url, target, None, LIMIT)
    assert len(web.asked) == 1
    assert left(target) == []


def test_the_login_page_of_a_network_does_not_cost_what_came_before(web, target):
    web.breaks_after = [300_000, *[0] * 4]
    with pytest.raises(DownloadError):
        download(web.url, target, DIGEST, LIMIT)
    web.own = lambda handler: web.head(handler, 200, {"Content-Type": "text/html", "Content-Length": "0"})
    with pytest.raises(DownloadError, match="web page"):
        download(web.url, target, DIGEST, LIMIT)
    assert part_size(target) == 300_000


def test_an_empty_file_is_refused(web, target):
    web.content = b""
    with pytest.raises(DownloadError, match="is empty"):
        download(web.url, target, None, LIMIT)
    assert left(target) == []


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (404, "has no such file"), (403, "does not give this file to everybody"), (401, "asks for a login"),
        (410, "does not have this file any more"), (204, "does not answer with the file"),
    ],
)  # fmt: skip
def test_what_a_server_refuses_is_said_in_a_sentence_and_not_asked_again(web, target, status, sentence):
    web.statuses = [status] * 9
    with pytest.raises(DownloadError, match=sentence) as caught:
        download(web.url, target, None, LIMIT)
    assert str(status) in str(caught.value) and web.url in str(caught.value)
    assert len(web.asked) == 1
    assert left(target) == []


def test_a_server_with_a_problem_is_asked_again_and_then_given_up(web, target):
    web.statuses = [500, 503, 429]
    download(web.url, target, DIGEST, LIMIT)
    assert target.read_bytes() == CONTENT
    web.statuses = [500] * 9
    with pytest.raises(DownloadError, match=r"a problem of its own \(status 500\), 5 times"):
        download(web.url, target.with_name("again"), None, LIMIT)
    assert len(web.statuses) == 4


# Contents whose length is not told


def test_a_file_in_chunks_comes_and_a_chunk_that_is_missing_is_noticed(web, target):
    def chunked(handler):
        web.head(handler, 200, {"Transfer-Encoding": "chunked"})
        for start in range(0, len(CONTENT), 100_000):
            if len(web.asked) == 1 and start == 300_000:
                return
            handler.wfile.write(b"186a0\r\n" + CONTENT[start : start + 100_000] + b"\r\n")
        handler.wfile.write(b"0\r\n\r\n")

    web.own = chunked
    download(web.url, target, None, LIMIT)
    assert len(web.asked) == 2
    assert target.read_bytes() == CONTENT


def test_a_file_of_untold_length_comes_if_its_digest_is_known(web, target):
    web.tells_length = False
    download(web.url, target, DIGEST, LIMIT)
    assert target.read_bytes() == CONTENT


def test_a_file_of_untold_length_that_was_cut_is_noticed_by_its_digest(web, target):
    web.tells_length, web.breaks_after = False, [300_000]
    with pytest.raises(CheckpointError, match="damaged on its way"):
        download(web.url, target, DIGEST, LIMIT)
    assert left(target) == []


def test_a_file_whose_end_nobody_could_tell_is_not_begun(web, target):
    web.tells_length = False
    with pytest.raises(DownloadError, match="a file cut short would look whole"):
        download(web.url, target, None, LIMIT)
    assert left(target) == []


def test_content_that_was_packed_on_its_way_is_refused(web, target):
    web.headers = {"Content-Encoding": "gzip"}
    with pytest.raises(DownloadError, match="packs the file"):
        download(web.url, target, None, LIMIT)


# Addresses


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("http://example.org/model.zip", "begins with https://"),
        ("http://127.0.0.1.example.org/model.zip", "begins with https://"),
        ("http://localhost.example.org/model.zip", "begins with https://"),
        ("http://0.0.0.0/model.zip", "begins with https://"),
        ("file:///etc/passwd", "begins with https://"),
        ("ftp://example.org/model.zip", "begins with https://"),
        ("data:text/plain,hello", "begins with https://"),
        ("model.zip", "begins with https://"),
        ("https:///model.zip", "begins with https://"),
        ("https://user:secret@example.org/model.zip", "user name or a password"),
        ("http://127.0.0.1@example.org/model.zip", "user name or a password"),
        ("https://example.org/a b", "without spaces"),
        ("https://example.org/a\r\nHost: b", "without spaces"),
        ("https://example.org/modèle", "without spaces"),
        ("https://example.org:99999/a", "expected a web address"),
        ("https://[::1/a", "expected a web address"),
        ("", "without spaces"),
    ],
)
def test_an_address_that_is_not_https_is_refused_before_anything_is_done(tmp_path, url, sentence):
    with pytest.raises(DownloadError, match=sentence) as caught:
        download(url, tmp_path / "new" / "model.zip", None, LIMIT)
    assert "secret" not in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_the_key_in_an_address_is_not_in_messages(web, target):
    web.statuses = [404]
    with pytest.raises(DownloadError) as caught:
        download(web.url + "?token=secret", target, None, LIMIT)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "location",
    [
        "http://example.org/model.zip", "ftp://example.org/model.zip", "file:///etc/passwd",
        "https://user:secret@example.org/model.zip", "//example.org/model.zip",
    ],
)  # fmt: skip
def test_a_redirect_to_where_one_may_not_ask_is_refused(web, target, location):
    web.location = location
    with pytest.raises(DownloadError) as caught:
        download(web.url, target, None, LIMIT)
    assert "secret" not in str(caught.value)
    assert len(web.asked) == 1
    assert left(target) == []


def test_a_redirect_on_this_machine_is_followed_and_resumed(web, running, target):
    first = running(Web(location=web.url))
    web.breaks_after = [300_000]
    download(first.url, target, DIGEST, LIMIT)
    assert web.asked[1]["Range"] == "bytes=300000-"
    assert target.read_bytes() == CONTENT


def test_redirects_without_end_are_given_up(web, target):
    web.location = web.url
    with pytest.raises(DownloadError, match="302"):
        download(web.url, target, None, LIMIT)
    assert len(web.asked) < 20


def test_the_content_of_a_redirect_is_not_read(web, running, target):
    def endless(handler):
        web.head(handler, 302, {"Location": goal.url})
        while True:
            handler.wfile.write(bytes(1 << 16))

    goal = running(Web())
    web.own = endless
    started = time.monotonic()
    download(web.url, target, DIGEST, LIMIT)
    assert time.monotonic() - started < 10


def test_from_https_nothing_leads_to_http_not_even_on_this_machine():
    handler = download_module._Redirects()
    for goal, refused in (("http://127.0.0.1/b", True), ("https://example.org/b", False)):

        class Answer:
            def close(self):
                pass

        words = (Request("https://example.org/a"), Answer(), 302, "Found", {}, goal)
        if refused:
            with pytest.raises(DownloadError, match="back to plain http"):
                handler.redirect_request(*words)
        else:
            assert handler.redirect_request(*words).full_url == goal


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate of this machine that nobody trusts."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes a certificate, is not here")
    folder = tmp_path_factory.mktemp("certificate")
    key, public = folder / "key.pem", folder / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(public)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("this openssl cannot make a certificate")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(public, key)
    return context, public


def test_a_server_whose_certificate_nobody_vouches_for_is_refused_at_once(running, certificate, target):
    web = running(Web(), certificate[0])
    with pytest.raises(DownloadError, match="certificate is not trusted here") as caught:
        download(web.url, target, DIGEST, LIMIT)
    assert "SSL_CERT_FILE" in str(caught.value)
    assert not web.asked


def test_https_works_and_a_redirect_from_it_to_http_is_refused(
    web, running, certificate, target, monkeypatch
):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[1]))
    safe = running(Web(breaks_after=[300_000]), certificate[0])
    download(safe.url, target, DIGEST, LIMIT)
    assert safe.sent == [(0, 300_000), (300_000, 400_000)]
    safe.location = web.url
    with pytest.raises(DownloadError, match="back to plain http"):
        download(safe.url, target.with_name("other"), DIGEST, LIMIT)
    assert not web.asked


# Networks


def test_without_a_network_it_fails_within_seconds_and_says_what_to_do(target):
    started = time.monotonic()
    with pytest.raises(
        DownloadError, match=r"no-such-host\.invalid cannot be reached.*Connect to the network"
    ):
        download("https://no-such-host.invalid/model.zip", target, None, LIMIT)
    assert time.monotonic() - started < 10
    assert left(target) == []


def test_a_server_that_is_not_there_is_not_waited_for_and_what_came_before_is_kept(web, target):
    with pytest.raises(Cancelled):
        download(web.url, target, DIGEST, LIMIT, CancelAt(target, 200_000))
    had = part_size(target)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{free.getsockname()[1]}/models/weights.bin"
    state = target.with_name("weights.bin.part.json")
    before, after = (hashlib.sha256(url.encode()).hexdigest() for url in (web.url, dead))
    state.write_text(state.read_text().replace(before, after))
    started = time.monotonic()
    with pytest.raises(DownloadError, match=r"cannot be reached.*is kept"):
        download(dead, target, DIGEST, LIMIT)
    assert time.monotonic() - started < 5
    assert part_size(target) == had


def test_the_proxy_of_the_environment_is_asked_for_others_but_not_for_this_machine(web, target, monkeypatch):
    proxy = web.url.removesuffix("/models/weights.bin")
    for key in ("https_proxy", "http_proxy"):
        monkeypatch.setenv(key, proxy)
    with pytest.raises(DownloadError, match="cannot be reached"):
        download("https://example.invalid/model.zip", target, None, LIMIT)
    assert web.asked == [{"path": "example.invalid:443"}]
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    download(web.url, target, DIGEST, LIMIT)
    assert target.read_bytes() == CONTENT


# Disks


def test_a_disk_without_enough_space_is_said_before_the_first_byte(web, target, monkeypatch):
    usage = shutil.disk_usage(target.parent.parent)._replace(free=1000)
    monkeypatch.setattr(download_module.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OutputError, match=r"needs 700\.0 kB more, but 1\.0 kB are free"):
        download(web.url, target, None, LIMIT)
    assert not web.sent or web.sent == [(0, 700_000)]
    assert left(target) == []


def test_a_disk_that_takes_no_more_is_said_and_what_came_is_kept(web, target):
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(OutputError, match=r"cannot be written: File too large.*Free space.*kept"):
            download(web.url, target, None, LIMIT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    web.sent.clear()
    download(web.url, target, None, LIMIT)
    assert 0 < web.sent[0][0] <= 200_000
    assert target.read_bytes() == CONTENT


def test_a_folder_that_cannot_be_made_is_said(web, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="cannot be written"):
        download(web.url, tmp_path / "file" / "weights.bin", None, LIMIT)
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    with pytest.raises(OutputError, match="cannot be written: Is a directory"):
        download(web.url, tmp_path / "folder", None, LIMIT)
