"""Sprig's encodings and checksums, and JSON."""

from __future__ import annotations

import base64
import binascii
import hashlib
import zlib

from istio_init.inject.template.errors import FunctionError
from istio_init.inject.template.functions import Registry
from istio_init.inject.template.istio import read_json
from istio_init.inject.template.plain import json_text
from istio_init.inject.template.sprig.convert import room_for
from istio_init.inject.template.values import Value, from_utf8, utf8

FUNCTIONS = Registry()
_PAD = ord("=")
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_BASE32 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"


@FUNCTIONS.add("b64enc", "string")
def _b64enc(text: str) -> str:
    room_for(len(text) * 6)
    return base64.b64encode(utf8(text)).decode()


@FUNCTIONS.add("b64dec", "string")
def _b64dec(text: str) -> str:
    try:
        return from_utf8(base64_bytes(utf8(text)))
    except _CorruptError as error:
        return f"illegal base64 data at input byte {error.position}"


class _CorruptError(Exception):
    """Text that is no base 64 or 32, and at which byte of it Go finds out."""

    def __init__(self, position: int) -> None:
        self.position = position


def base64_bytes(data: bytes) -> bytes:
    """Return what base 64 with padding stands for; line ends in it count for nothing."""
    places = [place for place, byte in enumerate(data) if byte not in b"\r\n"]
    for number, place in enumerate(places):
        if data[place] in _BASE64:
            continue
        column = number % 4
        if data[place] != _PAD or column < 2:
            raise _CorruptError(place)
        behind = places[number + 1 :]
        if column == 2:
            if not behind:
                raise _CorruptError(len(data))
            if data[behind[0]] != _PAD:
                raise _CorruptError(behind[0] - 1)
            behind = behind[1:]
        if behind:
            raise _CorruptError(behind[0])
        break
    else:
        rest = len(places) % 4
        if rest:
            raise _CorruptError(len(data) - rest)
    return binascii.a2b_base64(bytes(data[place] for place in places))


@FUNCTIONS.add("b32enc", "string")
def _b32enc(text: str) -> str:
    room_for(len(text) * 7)
    return base64.b32encode(utf8(text)).decode()


@FUNCTIONS.add("b32dec", "string")
def _b32dec(text: str) -> str:
    try:
        return from_utf8(base32_bytes(utf8(text)))
    except _CorruptError as error:
        return f"illegal base32 data at input byte {error.position}"


def base32_bytes(data: bytes) -> bytes:
    """Return what base 32 with padding stands for; line ends in it count for nothing."""
    data = data.replace(b"\r", b"").replace(b"\n", b"")
    size = len(data)
    for place, byte in enumerate(data):
        column, rest = place % 8, size - place - 1
        if byte == _PAD and column >= 2 and rest < 8:
            if rest + column < 7:
                raise _CorruptError(size)
            for number in range(7 - column):
                if rest > number and data[place + 1 + number] != _PAD:
                    raise _CorruptError(place + number)
            if column in {1, 3, 6}:
                raise _CorruptError(place)
            data = data[:place] + b"=" * (8 - column)
            break
        if byte not in _BASE32:
            raise _CorruptError(place)
    else:
        if size % 8:
            raise _CorruptError(size - size % 8)
    return base64.b32decode(data)


@FUNCTIONS.add("sha1sum", "string")
def _sha1sum(text: str) -> str:
    return hashlib.sha1(utf8(text), usedforsecurity=False).hexdigest()


@FUNCTIONS.add("sha256sum", "string")
def _sha256sum(text: str) -> str:
    return hashlib.sha256(utf8(text)).hexdigest()


@FUNCTIONS.add("sha512sum", "string")
def _sha512sum(text: str) -> str:
    return hashlib.sha512(utf8(text)).hexdigest()


@FUNCTIONS.add("adler32sum", "string")
def _adler32sum(text: str) -> str:
    return str(zlib.adler32(utf8(text)))


@FUNCTIONS.add("fromJson", "string")
def _from_json(text: str) -> Value:
    try:
        return read_json(text)
    except FunctionError:
        return None


@FUNCTIONS.add("mustFromJson", "string")
def _must_from_json(text: str) -> Value:
    return read_json(text)


@FUNCTIONS.add("toJson", "any", json=True)
def _to_json(value: Value) -> str:
    return json_text(value)


@FUNCTIONS.add("mustToJson", "any", json=True)
def _must_to_json(value: Value) -> str:
    return json_text(value)


@FUNCTIONS.add("toPrettyJson mustToPrettyJson", "any", json=True)
def _to_pretty_json(value: Value) -> str:
    return json_text(value, indent="  ")


@FUNCTIONS.add("toRawJson mustToRawJson", "any", json=True)
def _to_raw_json(value: Value) -> str:
    return json_text(value, markup=False)
