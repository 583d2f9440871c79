"""Bulk data over libvirt's storage streams."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any, TypeVar

import libvirt

from fsm.errors import HostError
from fsm.hypervisor.libvirt import volumes
from fsm.hypervisor.libvirt.reading import recognise
from fsm.hypervisor.libvirt.session import Call, Work, open_connection, perform
from fsm.hypervisor.port import DataSink
from fsm.hypervisor.uris import safe_uri

T = TypeVar("T")

PACKET_BYTES = 262_120
"""What one message of libvirt's stream protocol holds."""

_IS_HOLE = -3

# While one stream to a volume is being opened libvirt refuses another one, for well under a millisecond. No
# event can be waited for: libvirt has them for a pool's life and refreshes, none for a volume, and a lock of
# ours would not see the streams of another process.
_OPEN_ATTEMPTS = 200
_OPEN_WAIT_S = 0.002


class LibvirtChannel:
    """See ``fsm.hypervisor.port.DataChannel``. Opening it connects, so it blocks.

    ``host_uuid``: the host that has to answer, where it is known. Its files are not another one's.
    """

    def __init__(self, uri: str, host_uuid: str = "") -> None:
        self._uri = uri
        self._connection = open_connection(uri)
        self._closed = False
        if host_uuid:
            try:
                self.perform("connect", lambda call: recognise(call, host_uuid), change=False)
            except BaseException:
                self.close()
                raise

    def read(self, path: str, offset: int, length: int, sink: DataSink) -> None:
        """Feed ``length`` bytes from ``offset`` on, cut off at the file's end, to ``sink``."""
        self.perform("read", lambda call: self._read(call, path, offset, length, sink), change=False)

    def writer(self, path: str) -> LibvirtWriter:
        """A writer into the existing file ``path``."""
        return LibvirtWriter(self, path)

    def close(self) -> None:
        """Close the connection; a transfer that runs on it fails at its next packet."""
        if self._closed:
            return
        self._closed = True
        with suppress(libvirt.libvirtError):
            self._connection.close()

    def perform(self, name: str, work: Work[T], *, change: bool) -> T:
        """Do ``work`` on this connection with libvirt's errors turned into ours."""
        self.check_open(name)
        return perform(self._connection, self._uri, name, work, change=change)

    def check_open(self, name: str) -> None:
        """Raise when the channel was closed."""
        if self._closed:
            raise HostError("the data channel was closed", host=safe_uri(self._uri), call=name)

    def _read(self, call: Call, path: str, offset: int, length: int, sink: DataSink) -> None:
        volume = volume_at(call, path)
        end = min(offset + length, volume.infoFlags(libvirt.VIR_STORAGE_VOL_GET_PHYSICAL)[2])
        if offset >= end:
            return
        stream = call.connection.newStream(0)
        volume.download(stream, offset, end - offset, libvirt.VIR_STORAGE_VOL_DOWNLOAD_SPARSE_STREAM)
        try:
            self._pump(call, stream, offset, end, sink)
        except BaseException:
            _abort(stream)
            raise
        stream.finish()

    def _pump(self, call: Call, stream: Any, position: int, end: int, sink: DataSink) -> None:
        while position < end:
            self.check_open("read")
            got = stream.recvFlags(PACKET_BYTES, libvirt.VIR_STREAM_RECV_STOP_AT_HOLE)
            if got == _IS_HOLE:
                length = min(stream.recvHole(0), end - position)
                if length:
                    sink.hole(position, length)
                position += length
            elif got:
                sink.data(position, got)
                position += len(got)
            else:
                raise call.error(f"the stream ended at byte {position}, before byte {end}")


class LibvirtWriter:
    """See ``fsm.hypervisor.port.RangeWriter``.

    Each run of data is a stream of its own. libvirt's sparse upload can't be used: at a hole it cuts the file
    off at the hole's end, and with it what parallel writers have written behind.
    """

    def __init__(self, channel: LibvirtChannel, path: str) -> None:
        self._channel = channel
        self._path = path
        self._volume = channel.perform("write", lambda call: volume_at(call, path), change=False)
        self._stream: Any = None
        self._position = 0

    def data(self, offset: int, chunk: bytes) -> None:
        """``chunk`` stands at ``offset``."""
        self._channel.perform("write", lambda call: self._data(call, offset, chunk), change=True)

    def hole(self, offset: int, length: int) -> None:  # noqa: ARG002 - where a hole lies does not matter here
        """End the run of data before the hole."""
        self.close()

    def close(self) -> None:
        """Send what is buffered and wait until the host has taken it. Errors of earlier writes come here."""
        if self._stream is not None:
            self._channel.perform("write", self._finish, change=True)

    def abandon(self) -> None:
        """Give the open stream up after an error."""
        stream, self._stream = self._stream, None
        if stream is not None:
            _abort(stream)

    def _data(self, call: Call, offset: int, chunk: bytes) -> None:
        if self._stream is not None and offset != self._position:
            self._finish(call)
        if self._stream is None:
            self._stream = self._open(call, offset)
            self._position = offset
        sent = 0
        while sent < len(chunk):
            # Slicing copies, so a chunk of one packet or less is passed as it is.
            part = chunk if len(chunk) <= PACKET_BYTES and not sent else chunk[sent : sent + PACKET_BYTES]
            sent += self._stream.send(part)
        self._position += len(chunk)

    def _finish(self, _call: Call) -> None:
        stream, self._stream = self._stream, None
        stream.finish()

    def _open(self, call: Call, offset: int) -> Any:
        for _ in range(_OPEN_ATTEMPTS - 1):
            try:
                return self._upload(call, offset)
            except libvirt.libvirtError as error:
                code = error.get_error_code()
                if code in (libvirt.VIR_ERR_NO_STORAGE_POOL, libvirt.VIR_ERR_NO_STORAGE_VOL):
                    self._volume = volume_at(call, self._path)  # its pool was released by somebody else
                elif code != libvirt.VIR_ERR_OPERATION_INVALID:
                    raise
            time.sleep(_OPEN_WAIT_S)
        return self._upload(call, offset)

    def _upload(self, call: Call, offset: int) -> Any:
        stream = call.connection.newStream(0)
        self._volume.upload(stream, offset, 0, 0)
        return stream


def volume_at(call: Call, path: str) -> Any:
    """The volume of an existing file; the pool looks at its directory only when it does not know the file."""
    volumes.split(call, path)
    try:
        return call.connection.storageVolLookupByPath(path)
    except libvirt.libvirtError as error:
        if error.get_error_code() not in (libvirt.VIR_ERR_NO_STORAGE_VOL, libvirt.VIR_ERR_NO_STORAGE_POOL):
            raise
    volume = volumes.find(call, path)
    if volume is None:
        raise call.not_found(f"there is no file {path!r}")
    return volume


def _abort(stream: Any) -> None:
    with suppress(libvirt.libvirtError):
        stream.abort()
