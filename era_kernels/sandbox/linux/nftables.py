"""Filters what leaves a network namespace, by the tables of nf_tables(7).

The filter looks at each packet's own destination. Routes alone do not suffice: a program that
binds its socket to an interface (SO_BINDTODEVICE, IP_PKTINFO; no rights are needed for that) makes
Linux pass over routes that refuse, and take the destination for a neighbour on that interface.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence

from era_kernels.netlink import (
    NETLINK_NETFILTER,
    NLM_F_ACK,
    NLM_F_APPEND,
    NLM_F_CREATE,
    Netlink,
    attribute,
    message,
    nested,
)

TABLE, CHAIN = b"era\0", b"outbound\0"

_SUBSYSTEM = 10  # nftables, of nfnetlink
_BATCH_BEGIN, _BATCH_END = 16, 17
_NEW_TABLE, _NEW_CHAIN, _NEW_RULE, _DELETE_RULE = 0, 3, 6, 8
_FAMILY_INET = 1
_HOOK_OUTPUT, _DROP, _ACCEPT = 3, 0, 1
_REGISTER = struct.pack(">I", 1)
_OIF, _NFPROTO, _L4PROTO = 5, 15, 16  # what an expression `meta` can load
_LOOPBACK = struct.pack("=I", 1)  # the index of lo in every network namespace
_PROTOCOL_FAMILY = {socket.AF_INET: 2, socket.AF_INET6: 10}
# Where a packet's head has its destination, and how long that is.
_DESTINATION = {socket.AF_INET: (16, 4), socket.AF_INET6: (24, 16)}
_DNS_PORT = 53

# An address, the length of its network's prefix, and whether packets may go there.
Rule = tuple[str, int, bool]


def family_of(address: str) -> socket.AddressFamily:
    """Returns the family of an address in its textual form."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def set_filter(rules: Sequence[Rule], resolvers: Sequence[str]) -> None:
    """Lets TCP and UDP leave as the first matching rule says, and nothing else at all.

    UDP to port 53 of `resolvers` may leave, too, and all that stays on the loopback. The change is
    one step: no packet meets half a filter. A former filter of the namespace is replaced: Linux
    takes a table and a chain that are there for the new ones, with the rules that they have, and
    the first rules decide. Raises OSError.
    """
    all_rules = attribute(1, TABLE) + attribute(2, CHAIN)
    messages = [_batch(_BATCH_BEGIN), _table(), _chain(), _message(_DELETE_RULE, all_rules)]
    messages.append(_rule(_load_meta(_OIF), _equals(_LOOPBACK), _verdict(_ACCEPT)))
    for address in resolvers:
        match = (*_leads_to(address, 8 * len(_packed(address))), *_is_protocol(socket.IPPROTO_UDP))
        messages.append(_rule(*match, *_is_to_port(_DNS_PORT), _verdict(_ACCEPT)))
    for address, length, allows in rules:
        match = _leads_to(address, length)
        if allows:
            for protocol in (socket.IPPROTO_TCP, socket.IPPROTO_UDP):
                messages.append(_rule(*match, *_is_protocol(protocol), _verdict(_ACCEPT)))
        else:
            messages.append(_rule(*match, _verdict(_DROP)))
    messages.append(_batch(_BATCH_END))
    with Netlink(NETLINK_NETFILTER) as netlink:
        netlink.call_all(messages)


def _batch(kind: int) -> bytes:
    return message(kind, struct.pack(">BBH", 0, 0, _SUBSYSTEM))


def _message(kind: int, payload: bytes, flags: int = 0) -> bytes:
    head = struct.pack(">BBH", _FAMILY_INET, 0, 0)
    return message(_SUBSYSTEM << 8 | kind, head + payload, flags | NLM_F_ACK)


def _table() -> bytes:
    return _message(_NEW_TABLE, attribute(1, TABLE), NLM_F_CREATE)


def _chain() -> bytes:
    hook = nested(4, attribute(1, struct.pack(">I", _HOOK_OUTPUT)), attribute(2, bytes(4)))
    policy = attribute(5, struct.pack(">I", _DROP))
    payload = attribute(1, TABLE) + attribute(3, CHAIN) + hook + policy
    return _message(_NEW_CHAIN, payload + attribute(7, b"filter\0"), NLM_F_CREATE)


def _rule(*expressions: bytes) -> bytes:
    payload = attribute(1, TABLE) + attribute(2, CHAIN) + nested(4, *expressions)
    return _message(_NEW_RULE, payload, NLM_F_CREATE | NLM_F_APPEND)


def _expression(name: bytes, *attributes: bytes) -> bytes:
    return nested(1, attribute(1, name + b"\0"), nested(2, *attributes))


def _value(kind: int, value: bytes) -> bytes:
    return nested(kind, attribute(1, value))


def _load_meta(key: int) -> bytes:
    return _expression(b"meta", attribute(2, struct.pack(">I", key)), attribute(1, _REGISTER))


def _equals(value: bytes) -> bytes:
    return _expression(b"cmp", attribute(1, _REGISTER), attribute(2, bytes(4)), _value(3, value))


def _load_payload(base: int, offset: int, length: int) -> bytes:
    numbers = enumerate((base, offset, length), start=2)
    where = (attribute(kind, struct.pack(">I", number)) for kind, number in numbers)
    return _expression(b"payload", attribute(1, _REGISTER), *where)


def _masked(mask: bytes) -> bytes:
    length = attribute(3, struct.pack(">I", len(mask)))
    values = _value(4, mask), _value(5, bytes(len(mask)))
    registers = attribute(1, _REGISTER), attribute(2, _REGISTER)
    return _expression(b"bitwise", *registers, length, *values)


def _verdict(code: int) -> bytes:
    verdict = nested(2, attribute(1, struct.pack(">I", code)))
    return _expression(b"immediate", attribute(1, bytes(4)), nested(2, verdict))


def _leads_to(address: str, prefix_length: int) -> tuple[bytes, ...]:
    """Returns the expressions that match packets to a network."""
    family, packed = family_of(address), _packed(address)
    offset, size = _DESTINATION[family]
    mask = ((1 << 8 * size) - (1 << 8 * size - prefix_length)).to_bytes(size)
    network = bytes(one & other for one, other in zip(packed, mask, strict=True))
    return (
        _load_meta(_NFPROTO),
        _equals(bytes([_PROTOCOL_FAMILY[family]])),
        _load_payload(1, offset, size),
        _masked(mask),
        _equals(network),
    )


def _is_protocol(number: int) -> tuple[bytes, ...]:
    return _load_meta(_L4PROTO), _equals(bytes([number]))


def _is_to_port(port: int) -> tuple[bytes, ...]:
    return _load_payload(2, 2, 2), _equals(struct.pack(">H", port))


def _packed(address: str) -> bytes:
    return socket.inet_pton(family_of(address), address)
