"""The activities of states, bound to work on the hosts. Each can be taken over by another engine.

An activity returns when its work is done and raises when it failed; what that means for the migration is
decided afterwards, from what both hosts show.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fsm.engine.commit import commit_at_destination, commit_at_source
from fsm.engine.context import Context
from fsm.engine.copying import copy_bases
from fsm.engine.preflight import preflight
from fsm.engine.rescue import rescue_snapshots
from fsm.engine.transfer import migrate

Activity = Callable[[Context], Awaitable[None]]

ACTIVITIES: dict[str, Activity] = {
    function.__name__.replace("_", "-"): function
    for function in (
        preflight,
        copy_bases,
        migrate,
        commit_at_destination,
        commit_at_source,
        rescue_snapshots,
    )
}
