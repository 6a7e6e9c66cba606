"""The proxies of the environment: none for this machine's own servers, and told where one counts.

Every client here (requests, httpx, urllib, botocore, aiohttp, websockets) reads the same variables,
and so does every process that is started from here. So one edit of the environment is enough.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import ssl
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tasks.errors import TaskError
from tasks.system.redaction import shown

LOOPBACK = ("127.0.0.1", "localhost", "::1", "0.0.0.0")
_PROXIES = re.compile(r"(http|https|all|ws|wss|socks)_proxy", re.IGNORECASE)
# Where users say that a server is, besides DVC's own settings.
_ADDRESSES = (
    "MLFLOW_TRACKING_URI",
    "PREFECT_API_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL",
    "MLFLOW_S3_ENDPOINT_URL",
)
_CERTIFICATES = (
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "PREFECT_API_SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "AWS_CA_BUNDLE",
)
# What httpx takes as an entry of NO_PROXY; it refuses to start at others, as fe80::/10. No client
# here matches those either.
_ENTRY = re.compile(r"\*|[\w.*-]+(:\d+)?(/\d+)?", re.ASCII)

# Variables that `keep_loopback_direct` took out of the environment, with their values.
left_out: dict[str, str] = {}


def keep_loopback_direct() -> None:
    """See that neither this process nor its children ask a proxy for a server of this machine.

    To be called at the start of every program. Servers elsewhere are asked as before, except that
    a proxy that is not an HTTP proxy (socks5://…) is left out: Prefect's client would not start.
    """
    for name, address in _configured().items():
        if not _is_http_proxy(address):
            left_out[name] = os.environ.pop(name)
    if not _configured():
        return
    entries = [*_entries(), *LOOPBACK, *_own_hosts()]
    # Not everyone knows a star among others.
    merged = "*" if "*" in entries else ",".join(dict.fromkeys(entries))
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = merged


def is_this_machine(host: str) -> bool:
    """Whether a host of an address is this machine by its name or number."""
    host = host.strip("[]").rstrip(".").lower()
    try:
        number = ipaddress.ip_address(host)
    except ValueError:
        own = socket.gethostname().lower()
        return host in ("localhost", own) or host.endswith(".localhost")
    number = getattr(number, "ipv4_mapped", None) or number
    return number.is_loopback or number.is_unspecified


def proxy_of(address: str) -> str | None:
    """The variable and the proxy through which an address is asked, in words; None if directly."""
    parts = urlsplit(address)
    host = parts.hostname
    if parts.scheme not in ("http", "https") or host is None or is_this_machine(host):
        return None
    if urllib.request.proxy_bypass(f"{host}:{parts.port}" if parts.port else host):
        return None
    for wanted in (f"{parts.scheme}_proxy", "all_proxy"):
        for name, proxy in sorted(_configured().items(), reverse=True):
            if name.lower() == wanted:
                return f"{name}={shown(proxy)}"
    return None


def by_proxy(address: str) -> str:
    """For a message on a server that does not answer: what stands between; '' if nothing does."""
    if proxy := proxy_of(address):
        return f" through the proxy {proxy}"
    host = urlsplit(address).hostname
    if left_out and host and not is_this_machine(host):
        return f" without {', '.join(unused())}, which is not an HTTP proxy"
    return ""


def named() -> list[str]:
    """The proxies of the environment, in words."""
    return [f"{name}={shown(address)}" for name, address in _configured().items()]


def unused() -> list[str]:
    """The proxies that are left out, in words."""
    return [f"{name}={shown(address)}" for name, address in left_out.items()]


def open_url(request: str | urllib.request.Request, timeout: float) -> Any:
    """Like `urllib.request.urlopen`, which knows no IPv6 address in NO_PROXY."""
    address = request if isinstance(request, str) else request.full_url
    if is_this_machine(urlsplit(address).hostname or ""):
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        return direct.open(request, timeout=timeout)
    return urllib.request.urlopen(request, timeout=timeout)


def require_certificates() -> None:
    """Refuse variables that name certificates where there are none: clients would not start.

    Raises:
        TaskError: Names the variable.
    """
    for name in _CERTIFICATES:
        place = os.environ.get(name)
        if not place:
            continue
        try:
            if not Path(place).is_dir():
                ssl.create_default_context(cafile=place)
        except OSError as error:  # ssl's own errors are of this kind
            raise TaskError(
                f"{name} names {place}, which holds no certificates ({error.strerror or error}): "
                "correct it or unset it."
            ) from None


def _configured() -> dict[str, str]:
    """The variables that name a proxy."""
    return {name: value for name, value in os.environ.items() if value and _PROXIES.fullmatch(name)}


def _is_http_proxy(address: str) -> bool:
    try:
        parts = urlsplit(address if "://" in address else f"http://{address}")
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # its port is not a number
        return False


def _entries() -> Iterator[str]:
    """What the user's own NO_PROXY names; the lower-case variable counts, as in every client."""
    given = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    for entry in re.split(r"[\s,;]+", given):
        entry = entry.strip("[]")
        if _ENTRY.fullmatch(entry) or _is_ipv6(entry):
            yield entry


def _own_hosts() -> Iterator[str]:
    """Further names of this machine that the user's settings use."""
    for name in _ADDRESSES:
        address = os.environ.get(name, "")
        host = urlsplit(address).hostname if address.startswith(("http://", "https://")) else None
        if host and is_this_machine(host):
            yield host


def _is_ipv6(text: str) -> bool:
    try:
        return bool(ipaddress.IPv6Address(text))
    except ValueError:
        return False
