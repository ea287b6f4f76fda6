"""URLs: what comes, and what bounds it."""

from __future__ import annotations

import socket

import pytest

from rqchat.engine.inputs.urls import download
from rqchat.errors import InputError
from tests.helpers import WebPages


def test_body_type_and_charset(web: WebPages) -> None:
    web.pages["/a"] = (200, {"Content-Type": "Text/HTML; charset=latin-1"}, b"caf\xe9")

    got = download(f"{web.root}/a", max_bytes=100)

    assert (got.name, got.data) == (f"{web.root}/a", b"caf\xe9")
    assert (got.media_type, got.charset) == ("text/html", "latin-1")


def test_a_server_that_names_no_type(web: WebPages) -> None:
    web.pages["/a"] = (200, {}, b"x")
    assert download(f"{web.root}/a", max_bytes=100).media_type == ""


def test_redirects_are_followed(web: WebPages) -> None:
    web.pages["/a"] = (302, {"Location": "/b"}, b"")
    web.pages["/b"] = (200, {}, b"there")
    assert download(f"{web.root}/a", max_bytes=100).data == b"there"


@pytest.mark.parametrize("place", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:text/plain,x"])
def test_a_redirect_leads_to_the_web_alone(web: WebPages, place: str) -> None:
    web.pages["/a"] = (302, {"Location": place}, b"")
    with pytest.raises(InputError, match=r"no http\(s\) address|unknown url type: ftp"):
        download(f"{web.root}/a", max_bytes=100)


def test_a_ring_of_redirects_ends(web: WebPages) -> None:
    web.pages["/a"] = (302, {"Location": "/a"}, b"")
    with pytest.raises(InputError, match="redirects in a circle, more than 5 times"):
        download(f"{web.root}/a", max_bytes=100)


def test_only_http_is_spoken() -> None:
    with pytest.raises(InputError, match="cannot be fetched: unknown url type: file"):
        download("file:///etc/passwd", max_bytes=100)


@pytest.mark.parametrize("status", [404, 500])
def test_an_error_of_the_server_is_passed_on(web: WebPages, status: int) -> None:
    web.pages["/a"] = (status, {}, b"")
    with pytest.raises(InputError, match=f"/a cannot be fetched: the server answers {status}"):
        download(f"{web.root}/a", max_bytes=100)


def test_too_many_bytes_are_not_waited_for(web: WebPages) -> None:
    web.pages["/a"] = (200, {"Content-Length": "10000000"}, bytes(5_000_000))
    with pytest.raises(InputError, match="has more than 1 MB, which is the limit"):
        download(f"{web.root}/a", max_bytes=1_000_000)


def test_what_broke_off_is_not_taken_for_the_whole(web: WebPages) -> None:
    web.pages["/a"] = (200, {"Content-Length": "50"}, b"half of it")
    with pytest.raises(InputError, match="broke off after 10 of 50 bytes; try again"):
        download(f"{web.root}/a", max_bytes=100)


def test_a_body_announced_too_large_is_not_begun(web: WebPages) -> None:
    web.pages["/a"] = (200, {"Content-Length": "10000000"}, b"")
    with pytest.raises(InputError, match="has more than 1 MB"):
        download(f"{web.root}/a", max_bytes=1_000_000)


@pytest.mark.parametrize("pause_s", [0.05, 5.0], ids=["dribbles", "sleeps"])
def test_a_slow_server_is_given_up(web: WebPages, pause_s: float) -> None:
    web.pages["/a"] = (200, {}, b"slow" * 300)  # which takes a minute, and more
    web.pause_s = pause_s
    with pytest.raises(InputError, match="did not arrive in time"):
        download(f"{web.root}/a", max_bytes=100, deadline_s=0.3)
    assert "/a" not in web.finished


def test_nobody_listens() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        with pytest.raises(InputError, match="cannot be fetched: .*refused"):
            download(f"http://localhost:{port}/", max_bytes=100)


@pytest.mark.parametrize("url", ["http://", "http://[", "http://a b/", "http://x:port/"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="cannot be fetched"):
        download(url, max_bytes=100)
