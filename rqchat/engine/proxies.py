"""Which proxy leads to a URL, and whose certificates are believed: as the environment says.

The variables are those that curl, requests and the hub's client read, in both cases of letters:
HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY, and SSL_CERT_FILE, SSL_CERT_DIR, REQUESTS_CA_BUNDLE,
CURL_CA_BUNDLE. A proxy that cannot be used is an error: going without it would tell the network
what somebody wanted to keep from it.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
import urllib.request
from http.client import HTTPResponse
from urllib.parse import urlsplit

from rqchat.engine.foreign import border
from rqchat.errors import InputError, UsageError

__all__ = ["ProxyHandler", "proxy_for", "tls_context"]

_CERTIFICATES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


class ProxyHandler(urllib.request.ProxyHandler):
    """Leads each request of an opener, redirected ones too, through its own proxy."""

    def __init__(self) -> None:
        super().__init__({})

    def http_open(self, request: urllib.request.Request) -> HTTPResponse | None:
        """Prepares the request for its proxy; the next handler opens it."""
        proxy = proxy_for(request.full_url)
        opened: HTTPResponse | None = self.proxy_open(request, proxy, "http") if proxy else None
        return opened

    https_open = http_open


def proxy_for(url: str) -> str | None:
    """The proxy that leads to `url`, such as `http://user:word@proxy:3128`; None for none.

    Raises:
        UsageError: it is of a kind that is not spoken, such as SOCKS, or is no address.
        InputError: `url` is none.
    """
    proxies = urllib.request.getproxies()
    with border(lambda cause: InputError(f"{url} cannot be fetched: {cause}")):
        target = urlsplit(url)
        host, port = target.hostname or "", target.port
    given = proxies.get(target.scheme) or proxies.get("all")
    if not given or _is_direct(host, port, proxies.get("no", "")):
        return None
    proxy = given if "://" in given else f"http://{given}"
    variable = "ALL_PROXY" if not proxies.get(target.scheme) else f"{target.scheme}_proxy".upper()
    with border(lambda cause: UsageError(f"{variable} is no address of a proxy: {cause}")):
        parts = urlsplit(proxy)
        shown = f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")
    if parts.scheme.lower() != "http" or not parts.hostname:
        raise UsageError(
            f"{variable} leads to {host} through {shown}, and rqchat speaks with http:// proxies"
            f" alone; set {target.scheme.upper()}_PROXY to one, or NO_PROXY={host} to go without"
        )
    return proxy


def _is_direct(host: str, port: int | None, no_proxy: str) -> bool:
    """Whether `no_proxy` names `host`: as a name, an end of names, an address, a network, or all.

    Beyond what Python's own reading of it knows these are networks (`192.0.2.0/24`), `*.name`, and
    `*` among others.
    """
    if urllib.request.proxy_bypass(f"{host}:{port}" if port else host):
        return True
    for entry in filter(None, (part.strip().lower() for part in no_proxy.split(","))):
        name = entry.removeprefix("*").removeprefix(".")
        if entry == "*" or host == name or host.endswith(f".{name}"):
            return True
        try:
            if ipaddress.ip_address(host) in ipaddress.ip_network(name.strip("[]"), strict=False):
                return True
        except ValueError:  # one of the two is a name
            continue
    return False


def tls_context() -> ssl.SSLContext:
    """Believes the certificates that a variable names, else those of the system.

    Raises:
        UsageError: a variable names what holds no certificates.
    """
    variable = next((name for name in _CERTIFICATES if os.environ.get(name)), None)
    if variable is None:
        return ssl.create_default_context()  # which reads SSL_CERT_DIR by itself
    path = os.environ[variable]
    with border(
        lambda cause: UsageError(
            f"{variable} is {path}, from where no certificates can be read: {cause}; mend or unset"
            " it"
        )
    ):
        if os.path.isdir(path):
            return ssl.create_default_context(capath=path)
        return ssl.create_default_context(cafile=path)
