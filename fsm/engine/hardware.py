"""Where the blocks of a device lie, in names that the hardware has on every host that sees it.

Paths and device numbers are each host's own. A serial is whatever its maker gave, the UUID of a logical
volume comes along with a copy of its disk, and what it leads to may have been moved on one host alone. So a
device is followed down to the hardware: through partitions, paths and plain mappings, whose place is part of
the name, to disks with a WWID of a kind that is given out once. Where anything else stands in between there
is no name.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence

from attrs import frozen

from fsm.hypervisor.shell import Shell

# A line for each device that is met: its number, what it is, what it lies on.
_WALK = """\
down() (
  number=$(cat "$1/dev") || exit
  if [ -e "$1/partition" ]; then
    echo "$number part $(cat "$1/start") $(cat "$1/../dev")"
    down "$1/.."
  elif [ -e "$1/dm" ]; then
    below=$(cat "$1"/slaves/*/dev)
    case $(cat "$1/dm/uuid") in
      mpath-*) echo "$number paths" $below;;
      *) dmsetup table --major "${number%:*}" --minor "${number#*:}" | sed "s/^/$number table /";;
    esac
    for one in "$1"/slaves/*; do [ ! -e "$one" ] || down "$one"; done
  else
    echo "$number wwid $(cat "$1/wwid" "$1/device/wwid" 2>/dev/null | head -n 1)"
  fi
)
[ -b "$p" ] || exit 0
set -- $(stat -L --format='%t %T' -- "$p")
number=$((0x$1)):$((0x$2))
echo "$number"
down /sys/dev/block/$number"""

# What IEEE has handed out to a maker, or a random UUID (NVMe). "t10." holds a model and a serial that
# software targets and emulated disks have in common with each other.
_GIVEN_ONCE = re.compile(r"(naa|eui|uuid)\.(?=.*[1-9a-f])[0-9a-f-]+", re.IGNORECASE)
_PLAIN = ("linear", "striped")
_NUMBER = re.compile(r"\d+:\d+")


@frozen
class Hardware:
    """The device's name, the same on each host that sees it; empty where it has none, and ``why``."""

    name: str = ""
    why: str = ""


class _Nameless(Exception):  # no error: an answer
    """Why a device can't be told from another one on another host."""


async def hardware_of(shell: Shell, path: str) -> Hardware:
    """The hardware below the device that the path leads to. Raises ``HostError``."""
    return named((await shell.ask(f"p={shlex.quote(path)}\n{_WALK}")).splitlines())


def named(told: Sequence[str]) -> Hardware:
    """What the lines that a host told of a device add up to."""
    met: dict[str, list[list[str]]] = {}
    for line in told[1:]:
        number, *what = line.split()
        if what not in met.setdefault(number, []):
            met[number].append(what)
    if not told:
        return Hardware(why="there is no such block device")
    try:
        return Hardware(_name(told[0], met))
    except _Nameless as why:
        return Hardware(why=str(why))


def _name(number: str, met: Mapping[str, Sequence[Sequence[str]]]) -> str:
    match met.get(number, ()):
        case [["wwid"]]:
            raise _Nameless(f"disk {number} has no WWID")
        case [["wwid", *words]]:
            if _GIVEN_ONCE.fullmatch(words[0]):
                return words[0].lower()
            raise _Nameless(f"the WWID of disk {number}, {' '.join(words)}, may be another disk's as well")
        case [["part", start, disk]]:
            return f"{_name(disk, met)} from {start}"
        case [["paths", *disks]] if len(names := {_name(disk, met) for disk in disks}) == 1:
            return names.pop()
        case [["table", *_], *_] as lines if all(line[3:4] and line[3] in _PLAIN for line in lines):
            return "; ".join(" ".join(_word(word, met) for word in line[1:]) for line in lines)
    raise _Nameless(f"where device {number} puts its blocks may be known to that host alone")


def _word(word: str, met: Mapping[str, Sequence[Sequence[str]]]) -> str:
    """A word of a table, which names devices by their numbers."""
    return f"({_name(word, met)})" if _NUMBER.fullmatch(word) else word
