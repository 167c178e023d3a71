"""Sprig's encodings and checksums, and JSON."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import zlib

from istio_init.inject.template.errors import FunctionError
from istio_init.inject.template.functions import Registry
from istio_init.inject.template.istio import read_json
from istio_init.inject.template.plain import json_text
from istio_init.inject.template.sprig.convert import room_for
from istio_init.inject.template.values import Value, from_utf8, utf8

FUNCTIONS = Registry()
_BASE64 = re.compile(r"[A-Za-z0-9+/\r\n]*=*[\r\n]*")


@FUNCTIONS.add("b64enc", "string")
def _b64enc(text: str) -> str:
    room_for(len(text) * 6)
    return base64.b64encode(utf8(text)).decode()


@FUNCTIONS.add("b64dec", "string")
def _b64dec(text: str) -> str:
    bare = text.replace("\r", "").replace("\n", "")
    bad = re.search(r"[^A-Za-z0-9+/]", bare)
    start = len(bare) if bad is None else bad.start()
    padding = bare[start:]
    # Go names the first byte that cannot be there.
    if set(padding) - {"="} or len(padding) > 2 or len(bare) % 4 or (start % 4 == 1):
        where = start if set(padding[:1]) - {"="} or not padding else min(start, len(bare))
        return f"illegal base64 data at input byte {where}"
    try:
        return from_utf8(base64.b64decode(bare))
    except binascii.Error:
        return f"illegal base64 data at input byte {start}"


@FUNCTIONS.add("b32enc", "string")
def _b32enc(text: str) -> str:
    room_for(len(text) * 7)
    return base64.b32encode(utf8(text)).decode()


@FUNCTIONS.add("b32dec", "string")
def _b32dec(text: str) -> str:
    bare = text.replace("\r", "").replace("\n", "")
    bad = re.search(r"[^A-Z2-7]", bare)
    start = len(bare) if bad is None else bad.start()
    try:
        return from_utf8(base64.b32decode(bare))
    except binascii.Error:
        return f"illegal base32 data at input byte {start}"


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
