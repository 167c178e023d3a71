"""Odd rules of others: names that are no text, and rules that the kernel takes no more."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from typing import TYPE_CHECKING

import pytest

from tests.namespace import PROGRAM, Namespace

if TYPE_CHECKING:
    from pathlib import Path

NAME = os.fsdecode(b"caf\xe9")
CALL = ("istio-iptables", "-u", "1337", "-i", "*", "-b", "*", "--no-ipv6")


@pytest.mark.parametrize("tool", ["legacy", "nft"])
def test_a_chain_whose_name_is_no_text_is_left_alone_by_every_command(tool: str) -> None:
    program = f"iptables-{tool}"
    with Namespace() as pod:
        pod.run(program, "-t", "nat", "-N", NAME)
        pod.run(program, "-t", "nat", "-A", "OUTPUT", "-p", "tcp", "--dport", "7", "-j", NAME)
        calls = (
            (*CALL, "--backend", tool),
            (*CALL, "--backend", tool, "-x", "10.0.0.0/8"),
            ("audit", *CALL, "-x", "10.0.0.0/8"),
            ("explain", "outbound", "--to", "1.2.3.4:7", "--uid", "1000", "--live"),
            ("doctor", *CALL),
            ("clean",),
        )
        for call in calls:
            done = pod.run(PROGRAM, *call, check=False)
            assert done.returncode == 0, (call, done.stderr)
            assert "Traceback" not in done.stderr
            assert "\udce9" not in done.stdout + done.stderr
        left = pod.run("sh", "-c", f"{program}-save -t nat | grep -ac 'dport 7 -j caf'")

        assert left.stdout.strip() == "1"


# bpf(2): BPF_PROG_LOAD and BPF_OBJ_PIN, of a socket filter that returns 0.
_NUMBER = {"x86_64": 321, "aarch64": 280}
_RETURN_0 = struct.pack("<BBhi", 0xB7, 0, 0, 0) + struct.pack("<BBhi", 0x95, 0, 0, 0)


def pin_program(path: Path) -> None:
    library = ctypes.CDLL(None, use_errno=True)

    def bpf(command: int, attributes: bytes) -> int:
        data = ctypes.create_string_buffer(attributes, len(attributes))
        result = library.syscall(_NUMBER[platform.machine()], command, data, len(attributes))
        assert result >= 0, os.strerror(ctypes.get_errno())
        return int(result)

    code = ctypes.create_string_buffer(_RETURN_0)
    licence = ctypes.create_string_buffer(b"GPL")
    load = struct.pack(
        "<IIQQIIQI", 1, 2, ctypes.addressof(code), ctypes.addressof(licence), 0, 0, 0, 0
    )
    handle = bpf(5, load.ljust(120, b"\0"))
    name = ctypes.create_string_buffer(os.fsencode(path))
    bpf(6, struct.pack("<QII", ctypes.addressof(name), handle, 0).ljust(24, b"\0"))
    os.close(handle)


def test_a_rule_of_others_that_the_kernel_takes_no_more_is_named(tmp_path: Path) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    mounted = library.mount(b"bpf", os.fsencode(tmp_path), b"bpf", 0, None)
    assert mounted == 0, os.strerror(ctypes.get_errno())
    try:
        pin_program(tmp_path / "program")
        with Namespace() as pod:
            rule = ("-m", "bpf", "--object-pinned", str(tmp_path / "program"), "-j", "RETURN")
            pod.run("iptables-legacy", "-t", "nat", "-I", "OUTPUT", "1", *rule)
            (tmp_path / "program").unlink()

            refused = pod.init(*CALL, "--backend", "legacy", check=False)
            elsewhere = pod.init(*CALL, "--backend", "nftables", check=False)
    finally:
        assert library.umount2(os.fsencode(tmp_path), 0) == 0

    assert refused.returncode == 1
    assert "may refuse rule 1 of OUTPUT (-m bpf" in refused.stderr
    assert "use --backend nft or nftables" in refused.stderr
    assert "rolled back" in refused.stderr or "nothing was changed" in refused.stderr
    assert elsewhere.returncode == 0, elsewhere.stderr
