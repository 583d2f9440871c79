"""Clients of a guest's display are told where it goes on, on two real hosts."""

from __future__ import annotations

import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fsm.lab import DiskSpec, GuestSpec, LabHost, SnapshotSpec
from tests.lab_rig import LONG_LAB, Rig, check_kept, look

pytestmark = LONG_LAB
pytest_plugins = ["tests.rig_fixtures"]

SHOWN = GuestSpec(
    name="shown",
    disks=(DiskSpec(target="vda", size_mib=16, data_mib=4),),
    snapshots=(SnapshotSpec("s1"),),
    live_snapshots=False,
    extra_devices="<graphics type='spice' autoport='yes' listen='0.0.0.0'/>"
    "<video><model type='none'/></video>",
)
TIMEOUT_S = 60
MAIN_CHANNEL, SWITCH_HOST = 1, 111


@pytest.fixture
def shown(rig: Rig) -> Iterator[GuestSpec]:
    rig.lab.define_guest(rig.alpha, SHOWN)
    yield SHOWN
    rig.destroy(SHOWN)


class Client:
    """As much of SPICE's protocol as a client needs that cannot migrate and so is told where to go."""

    def __init__(self, host: LabHost, domain: str, directory: Path) -> None:
        port = int(host.virsh("domdisplay", domain).strip().rpartition(":")[2])
        self._socket = socket.create_connection((host.address, port), TIMEOUT_S)
        link = struct.pack("<IBBIII", 0, MAIN_CHANNEL, 0, 0, 0, 18)
        self._socket.sendall(struct.pack("<4sIII", b"REDQ", 2, 2, len(link)) + link)
        *_, size = struct.unpack("<4sIII", self._read(16))
        error, key = struct.unpack_from("<I162s", self._read(size))
        assert error == 0
        (directory / "key").write_bytes(key)
        words = f"pkeyutl -encrypt -pubin -keyform DER -inkey {directory}/key -pkeyopt rsa_padding_mode:oaep"
        encrypt = ["openssl", *words.split()]
        self._socket.sendall(subprocess.run(encrypt, input=b"\0", capture_output=True, check=True).stdout)
        assert self._read(4) == bytes(4)

    def told(self) -> tuple[str, int]:
        """Read on to where the display is now: host and port."""
        while True:  # ends: the server closes the connection, or keeps silent too long
            _serial, kind, size, _sub_list = struct.unpack("<QHII", self._read(18))
            content = self._read(size)
            if kind == SWITCH_HOST:
                port, _tls_port, length, at = struct.unpack_from("<HHII", content)
                return content[at : at + length].rstrip(b"\0").decode(), port

    def close(self) -> None:
        self._socket.close()

    def _read(self, count: int) -> bytes:
        read = b""
        while len(read) < count:
            piece = self._socket.recv(count - len(read))
            assert piece, "the server has closed the connection"
            read += piece
        return read


def test_graphics_uri_is_what_clients_of_the_display_are_told(
    rig: Rig, shown: GuestSpec, tmp_path: Path
) -> None:
    before = look(rig, rig.alpha, shown)
    client = Client(rig.alpha, shown.name, tmp_path)
    try:
        done = rig.migrate(shown.name, rig.alpha, "--graphics-uri", "spice://display.example:5999")
        assert done.returncode == 0, done.stderr
        assert client.told() == ("display.example", 5999)
    finally:
        client.close()
    check_kept(rig, shown, before, rig.beta, [])
