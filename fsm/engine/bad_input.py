"""What is wrong with a request whatever the hosts look like."""

from __future__ import annotations

import posixpath
import re

from fsm.engine.direct import check_direct
from fsm.engine.elsewhere import check_places
from fsm.engine.plan import Request, StorageChoice
from fsm.errors import BadInput
from fsm.hypervisor.uris import safe_uri
from fsm.hypervisor.values import LONGEST_DOWNTIME_MS, Tuning, Wiring

COMPRESSION = ("mt", "xbzrle")

# Neither libvirt nor a journal takes these; the last are bytes of a command line that are no UTF-8.
_UNWRITABLE = re.compile("[\0\n\ud800-\udfff]")


def check_request(request: Request) -> None:
    """Raise ``BadInput`` for what is wrong with it."""
    if not request.domain or _UNWRITABLE.search(request.domain):
        raise BadInput(f"domain name {request.domain!r} is not a name", remedy="give its name or UUID")
    for uri in filter(None, (request.source_uri, request.destination_uri, request.peer_uri)):
        scheme, separator, _rest = uri.partition("://")
        if not separator or not scheme or _UNWRITABLE.search(uri):
            raise BadInput(
                f"{safe_uri(uri)!r} is no connection URI", remedy="for example qemu+ssh://root@host/system"
            )
    if not 1 <= request.connections <= 64:
        raise BadInput(f"{request.connections} connections: 1 to 64 are possible")
    if request.bandwidth_mib_per_s < 0:
        raise BadInput("the bandwidth can't be negative", remedy="0 means unlimited")
    if request.direct is not None:
        check_direct(request, request.direct)
    directory = request.overlay_directory
    if directory and (not directory.startswith("/") or posixpath.normpath(directory) != directory):
        raise BadInput(
            f"the overlay directory {directory!r} is no plain absolute path", remedy="such as /srv"
        )
    if request.delete_source and request.storage is StorageChoice.SHARED:
        raise BadInput("bases on shared storage are not copied, so none is removed at the source")
    check_places(request)
    name = request.destination_name
    if name and (_UNWRITABLE.search(name) or "/" in name or not name.strip()):
        raise BadInput(f"--dname {name!r} is not a name that libvirt takes", remedy="leave out '/'")
    if request.timeout_s < 0:
        raise BadInput("a timeout can't be negative", remedy="0 means none")
    _check_tuning(request.tuning)
    _check_wiring(request.wiring)
    if (
        request.max_pause_ms
        and not request.tuning.max_downtime_ms <= request.max_pause_ms <= LONGEST_DOWNTIME_MS
    ):
        raise BadInput(
            f"a pause of {request.max_pause_ms} ms: it can't be shorter than --max-downtime, "
            f"nor longer than {LONGEST_DOWNTIME_MS} ms",
            remedy="0 allows none",
        )


def _check_wiring(wiring: Wiring) -> None:
    if wiring.tls_destination and not wiring.tls:
        raise BadInput("a name for the destination's certificate without --tls", remedy="add --tls")
    if wiring.disks_port and wiring.disks_uri:
        raise BadInput("--disks-port and --disks-uri exclude each other", remedy="name the port in the URI")
    if not 0 <= wiring.disks_port <= 65535:
        raise BadInput(f"port {wiring.disks_port}: 1 to 65535 are possible")


def _check_numbers(tuning: Tuning) -> None:
    for name, most, needed, needs in (
        ("auto_converge_initial", 99, tuning.auto_converge, "--auto-converge"),
        ("auto_converge_increment", 99, tuning.auto_converge, "--auto-converge"),
        ("comp_mt_level", 9, "mt" in tuning.comp_methods, "--comp-methods mt"),
        ("comp_mt_threads", 255, "mt" in tuning.comp_methods, "--comp-methods mt"),
        ("comp_mt_dthreads", 255, "mt" in tuning.comp_methods, "--comp-methods mt"),
        ("comp_xbzrle_cache", 1 << 40, "xbzrle" in tuning.comp_methods, "--comp-methods xbzrle"),
    ):
        value: int = getattr(tuning, name)
        option = f"--{name.replace('_', '-')}"
        if not 0 <= value <= most:
            raise BadInput(f"{option} {value}: 1 to {most} are possible")
        if value and not needed:
            raise BadInput(f"{option} without {needs}", remedy=f"add {needs}")


def _check_tuning(tuning: Tuning) -> None:
    """What libvirt or QEMU would refuse, or take without any effect (tried on 9.0 with 7.2)."""
    _check_numbers(tuning)
    if not 0 <= tuning.max_downtime_ms <= LONGEST_DOWNTIME_MS:
        raise BadInput(
            f"a downtime of {tuning.max_downtime_ms} ms: 1 to {LONGEST_DOWNTIME_MS} are possible",
            remedy="0 leaves it to libvirt",
        )
    if tuning.parallel_connections and not tuning.parallel:
        raise BadInput("a number of parallel connections without --parallel", remedy="add --parallel")
    if not 0 <= tuning.parallel_connections <= 255:
        raise BadInput(f"{tuning.parallel_connections} parallel connections: 1 to 255 are possible")
    if tuning.comp_methods and not tuning.compress:
        raise BadInput("a method of compression without --compress", remedy="add --compress")
    if unknown := [method for method in tuning.comp_methods if method not in COMPRESSION]:
        raise BadInput(
            f"no method of compression: {', '.join(unknown)}", remedy=f"there are: {', '.join(COMPRESSION)}"
        )
    if tuning.compress and tuning.parallel:
        raise BadInput(
            "QEMU does not compress what goes over parallel connections",
            remedy="leave away --compress or --parallel",
        )
