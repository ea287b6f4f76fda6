"""Proxies and certificates of the environment: used, or refused, and never gone around."""

from __future__ import annotations

from pathlib import Path

import pytest

from rqchat.engine.inputs.urls import download
from rqchat.engine.model_files import download as model_download
from rqchat.engine.model_files.http_range import open_range
from rqchat.engine.proxies import proxy_for, tls_context
from rqchat.errors import InputError, UsageError
from tests.helpers import WebPages


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


def test_the_proxy_of_the_scheme_and_then_that_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    assert proxy_for("https://example.com/x") is None
    monkeypatch.setenv("ALL_PROXY", "all:1")
    monkeypatch.setenv("https_proxy", "http://user:word@secure:2")
    assert proxy_for("http://example.com/x") == "http://all:1"
    assert proxy_for("https://example.com/x") == "http://user:word@secure:2"


@pytest.mark.parametrize(
    ("no_proxy", "url", "is_direct"),
    [
        ("example.com", "http://example.com/", True),
        ("example.com", "http://www.example.com/", True),
        (".example.com", "http://www.example.com/", True),
        ("*.example.com", "http://www.example.com/", True),
        ("example.com", "http://notexample.com/", False),
        ("other, *", "http://example.com/", True),
        ("192.0.2.0/24", "http://192.0.2.3/", True),
        ("192.0.2.0/24", "http://192.0.3.3/", False),
        ("::1", "http://[::1]:8000/", True),
        ("[fd00::]/8", "http://example.com/", False),
        ("example.com:81", "http://example.com:80/", False),
        ("example.com:81", "http://example.com:81/", True),
        ("", "http://example.com/", False),
    ],
)
def test_no_proxy(
    monkeypatch: pytest.MonkeyPatch, no_proxy: str, url: str, is_direct: bool
) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://proxy:1")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert (proxy_for(url) is None) is is_direct


@pytest.mark.parametrize("variable", ["ALL_PROXY", "http_proxy"])
@pytest.mark.parametrize("kind", ["socks5", "socks5h", "socks4", "https", "ftp"])
def test_a_proxy_that_is_not_spoken_is_named_and_not_gone_around(
    web: WebPages, monkeypatch: pytest.MonkeyPatch, variable: str, kind: str
) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name)
    monkeypatch.setenv(variable, f"{kind}://user:secret@localhost:9")
    web.pages["/a"] = (200, {}, b"reached")
    for fetch in (lambda url: download(url, max_bytes=100), lambda url: open_range(url, 0)):
        with pytest.raises(UsageError, match=f"{kind}://localhost:9, and rqchat speaks") as raised:
            fetch(f"{web.root}/a")
        assert "secret" not in str(raised.value)
    assert not web.finished


@pytest.mark.parametrize("place", ["http://[", "http://host:port", "http://"])
def test_a_proxy_that_is_no_address(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    monkeypatch.setenv("HTTP_PROXY", place)
    with pytest.raises(UsageError, match="HTTP_PROXY"):
        proxy_for("http://example.com/")


def test_urls_and_files_of_models_go_through_the_proxy(
    web: WebPages, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("ALL_PROXY", web.root)
    web.pages["http://nowhere.test/a"] = (302, {"Location": "http://other.test/b"}, b"")
    web.pages["http://other.test/b"] = (200, {}, b"by proxy")
    assert download("http://nowhere.test/a", max_bytes=100).data == b"by proxy"
    assert open_range("http://nowhere.test/a", 0).read() == b"by proxy"


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_certificates_that_are_not_there_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str
) -> None:
    (tmp_path / "empty.pem").write_text("")
    for path in ("/nowhere/ca.pem", str(tmp_path / "empty.pem")):
        monkeypatch.setenv(variable, path)
        with pytest.raises(UsageError, match=f"{variable} is {path}, from where no certificates"):
            tls_context()
        with pytest.raises(UsageError, match=variable):
            download("https://localhost:1/", max_bytes=100)


def test_a_pull_names_the_proxy_that_it_cannot_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5h://localhost:9")
    with pytest.raises(UsageError, match="ALL_PROXY leads to .* through socks5h://localhost:9"):
        model_download.pull("google/gemma-4-31B-it", ["*"], lambda event: None)


def test_a_proxy_that_does_not_answer_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://localhost:9")
    with pytest.raises(InputError, match="cannot be fetched: .*refused"):
        download("https://example.com/", max_bytes=100)
