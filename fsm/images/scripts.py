"""What scripts that write on a host have in common: they hold their file, and end with whoever sent them."""

from __future__ import annotations

import shlex

HELD = "/proc/self/fd/4"
"""The file that a script holds, whatever bears its name by now; see ``holding``."""

LOCK_S = 10
"""How long a script waits for its file: as the last one may take to end, or udev to look at a device."""


def holding(path: str) -> str:
    """The first lines of a script that writes, or relies on nobody writing: it opens the file and locks it.

    A script whose engine has died without its host noticing may still be under way. Behind it the next one
    fails instead of mixing with it; and what it does late it does to the file that it opened, not to one that
    has got that name since and may be a running guest's. One that was told to stop is waited for: behind a
    slow link it ends later than the engine hears of. On a device udev takes the same lock, for a moment,
    whenever somebody has written to it.
    """
    return f"""\
exec 4<{shlex.quote(path)} || exit
flock --timeout {LOCK_S} 4 || {{ echo "another command still holds "{shlex.quote(path)} >&2; exit 1; }}"""


def watched(lines: str) -> str:
    """A script that is ended when its input ends, and with it the command that it does by ``run COMMAND``.

    ``try COMMAND`` leaves it to the lines to look at the command's status. The script waits until the command
    has ended: what comes behind, such as the file's length, is not undone by it.

    Commands are ended by SIGPWR, for which no shell has a handler and QEMU no mask: one that has just been
    forked still has its shell's handlers, and would swallow what those are for. ``$!`` is set by the fork
    itself, so there is no moment in which a command runs and its number is not known.
    """
    return f"""\
exec 3<&0 </dev/null
ended=
trap '[ "$!" = "$ended" ] || {{ kill -PWR $!; wait $!; }} 2>/dev/null; exit 1' HUP INT TERM
{{ read -r _ <&3; kill -TERM $$; }} >/dev/null 2>&1 4<&- &
watch=$!
ended=$!
exec 3<&-
leave() {{ :; }}
trap '{{ kill -PWR $watch; wait $watch; }} 2>/dev/null; leave' EXIT
try() {{ "$@" & wait $!; set -- $?; ended=$!; return "$1"; }}
run() {{ try "$@" || failed $? "$1"; }}
failed() {{ [ "$1" -lt 128 ] || echo "$2 was killed" >&2; exit "$1"; }}
{lines}"""
