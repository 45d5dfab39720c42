"""The internet access of a session: whether there is any, and to which hosts."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

# What `Isolation.missing` tells where packets have no way out; why is told behind it.
PROXY_ONLY = (
    "network: the internet, where a session has access, is reached by the HTTP proxy alone, "
    "by no UDP and no DNS"
)
MAX_HOST_PATTERNS = 256
_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
HOST_PATTERN = re.compile(rf"(\*\.)?{_LABEL}(\.{_LABEL})*|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*")
_MAX_NAME = 253  # characters of a host's name: RFC 1035, section 2.3.4


def normalize_host(host: str) -> str:
    """Returns a host in lower case, without a last dot; an address in its shortest form.

    >>> normalize_host("WWW.Example.org."), normalize_host("2001:DB8:0::1")
    ('www.example.org', '2001:db8::1')
    """
    name = host.lower().removesuffix(".")
    with suppress(ValueError):
        return str(ipaddress.ip_address(name))
    return name


@dataclass(frozen=True, slots=True)
class HostPatterns:
    """Names the hosts that a session may reach; none of them, none at all.

    A pattern is a name, an address, or `*.` and a name, which means all names below that one.
    Made by `parse`, which checks them.

    >>> HostPatterns.parse(["example.org", "*.example.net"]).allows("a.example.net")
    True
    """

    values: tuple[str, ...]

    @classmethod
    def parse(cls, values: Sequence[str]) -> Self:
        """Returns the patterns. Raises ValueError with the rule, as a phrase after the name."""
        if len(values) > MAX_HOST_PATTERNS:
            raise ValueError(f"must have at most {MAX_HOST_PATTERNS} patterns")
        for number, pattern in enumerate(values, start=1):
            if not _is_pattern(pattern):
                raise ValueError(
                    "must have patterns that are names of hosts, addresses, or *. and a name, "
                    f"which number {number} is not"
                )
        return cls(tuple(normalize_host(pattern) for pattern in values))

    def allows(self, host: str) -> bool:
        """Returns whether a host may be reached, whose name is in the form of `normalize_host`."""
        return any(
            host.endswith(pattern[1:]) if pattern.startswith("*.") else host == pattern
            for pattern in self.values
        )

    def to_json(self) -> list[str]:
        """Returns the patterns as callers write them."""
        return list(self.values)


@dataclass(frozen=True, slots=True)
class InternetAccess:
    """The internet access of one session at one moment; a host must match each of `hosts`."""

    is_on: bool = False
    hosts: tuple[HostPatterns, ...] = ()

    @property
    def is_unbounded(self) -> bool:
        """True when every host may be reached, so that no name needs to be known."""
        return self.is_on and not self.hosts

    def allows(self, host: str) -> bool:
        """Returns whether a host may be reached, whose name is in the form of `normalize_host`."""
        return self.is_on and all(patterns.allows(host) for patterns in self.hosts)


@dataclass(frozen=True, slots=True)
class OutboundRules:
    """What packets of sessions may reach, where they leave as packets.

    The first rule that matches decides, and what none matches is refused: an address, the length of
    its network's prefix, and whether packets may go there. `families` (of `socket`) are those by
    which the host reaches others.
    """

    rules: tuple[tuple[str, int, bool], ...]
    families: tuple[int, ...]


NO_INTERNET = InternetAccess()


def _is_pattern(text: str) -> bool:
    if len(text) > _MAX_NAME or not HOST_PATTERN.fullmatch(text):
        return False
    if ":" not in text:
        return True
    try:
        return ipaddress.ip_address(text).version == 6
    except ValueError:
        return False
