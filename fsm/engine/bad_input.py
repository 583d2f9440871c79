"""What is wrong with a request whatever the hosts look like."""

from __future__ import annotations

import re

from fsm.engine.direct import check_direct
from fsm.engine.plan import Request
from fsm.errors import BadInput
from fsm.hypervisor.uris import safe_uri

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
