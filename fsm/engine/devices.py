"""What a host's shell tells of its block devices. libvirt shows one in a directory as if it were a file."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from attrs import frozen

from fsm.errors import HostError
from fsm.hypervisor.shell import ANSWER_S, Shell
from fsm.hypervisor.uris import safe_uri
from fsm.images.scripts import watched

SLOWEST_BYTES_PER_S = 10 << 20
"""What a device is expected to be read at, at the least."""

# Major and minor number of the device at "$p", and what the kernel has on it.
_NUMBER = """\
set -- $(stat -L --format='%t %T' -- "$p")
number=$((0x$1)):$((0x$2))
at=/sys/dev/block/$number"""

_LOOK = f"""\
[ -e "$p" ] || {{ echo none; exit; }}
[ -b "$p" ] || {{ echo other; exit; }}
{_NUMBER}
echo device
blockdev --getsize64 "$p" || exit
echo "$number"
cat "$at/dm/uuid" "$at/wwid" "$at/device/wwid" "$at/device/serial" 2>/dev/null | head -n 1 | grep . || echo
real=$(readlink -f -- "$p")
[ "$(blockdev --getro "$p")" = 0 ] || echo "it is read-only"
[ -z "$(ls -A "$at/holders")" ] || echo "$(ls -A "$at/holders") stands on it"
for part in "$at"/*/partition; do [ ! -e "$part" ] || {{ echo "it has partitions"; break; }}; done
while read -r _ _ one _ where rest; do
  case " $one $rest " in *" $number "*|*" $real "*) echo "it is mounted at $where";; esac
done </proc/self/mountinfo
while read -r one _; do [ "$one" != "$real" ] || echo "it is swap space"; done </proc/swaps"""


@frozen
class Device:
    """A block device of a host. ``number`` tells it from the host's others, whatever their names are.

    ``identity`` is a name that it has on every host that sees it, empty where the kernel knows none.
    ``busy`` are reasons, in words, not to write to it.
    """

    path: str
    size_bytes: int
    number: str
    identity: str = ""
    busy: tuple[str, ...] = ()


async def device_at(shell: Shell, path: str) -> Device | None:
    """The block device that the path leads to, None where it leads to none. Raises ``HostError``."""
    told = (await shell.ask(f"p={shlex.quote(path)}\n{_LOOK}")).split("\n")
    if told[0] != "device":
        return None
    _, size_bytes, number, identity, *busy = told
    return Device(path, int(size_bytes), number, identity.strip(), tuple(busy))


async def numbers(shell: Shell, paths: Sequence[str]) -> dict[str, str]:
    """The numbers of those paths that lead to block devices. Raises ``HostError``."""
    script = f'if [ -b "$p" ]; then {_NUMBER}\necho "$number"; else echo; fi'
    asked = [f"p={shlex.quote(path)}\n{script}" for path in paths]
    told = (await shell.ask("\n".join(asked))).split("\n")
    return {path: line for path, line in zip(paths, told, strict=False) if line}


async def holds_data(shell: Shell, device: Device) -> bool:
    """Whether it holds more than zeros, as far as it goes: all of it is read. Raises ``HostError``."""
    words = ["cmp", "--quiet", f"--bytes={device.size_bytes}", "--", device.path, "/dev/zero"]
    script = f"""\
try {shlex.join(words)}
case $? in 0) echo zeros;; 1) echo data;; *) exit 1;; esac"""
    return await shell.ask(watched(script), ANSWER_S + device.size_bytes / SLOWEST_BYTES_PER_S) != "zeros"


async def named(shell: Shell, path: str) -> str:
    """Its length and the time on its node, as libvirt tells them of it. Raises ``HostError``."""
    quoted = shlex.quote(path)
    return await shell.ask(
        f'[ -b {quoted} ] && echo "$(blockdev --getsize64 {quoted}) $(stat -L --format=%.9Y -- {quoted})"'
    )


async def writes(shell: Shell, path: str) -> str:
    """How many sectors have been written to the device: another number after each write. ``HostError``.

    What is still cached is written first: it would count later. Flushes count as writes, of no sector.
    """
    return await shell.ask(
        f'p={shlex.quote(path)}\nsync -- "$p" && {_NUMBER} && read -r line <"$at/stat" && set -- $line && '
        'echo "$7"'
    )


async def digest(shell: Shell, path: str, offset: int, length: int) -> str:
    """A digest of that piece as it is on the hardware, whatever this host has cached. ``HostError``."""
    words = ["dd", f"if={path}", "bs=1M", "iflag=direct,skip_bytes,count_bytes", f"skip={offset}"]
    words += [f"count={length}", "status=none"]
    told = await shell.ask(
        f"{{ {{ {shlex.join(words)}; echo $? >&3; }} | sha256sum; }} 3>&1",
        ANSWER_S + length / SLOWEST_BYTES_PER_S,
    )
    status, found = sorted(told.split("\n"), key=len)
    if status != "0":
        raise HostError(f"{path} can't be read past the caches", host=safe_uri(shell.uri), call="shell")
    return found
