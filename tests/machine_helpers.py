"""What the tests of the machine share: observations in short form, spaces, changed machines, golden files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from fsm.machine.loader import loads
from fsm.machine.observation import (
    Activity,
    BlockJob,
    Disk,
    Domain,
    DomainState,
    Engine,
    Host,
    Job,
    Layer,
    Observation,
    Preflight,
    Size,
)
from fsm.machine.space import engine_witnesses, host_witnesses
from fsm.machine.spec import Spec

TESTS = Path(__file__).resolve().parent
STATES_YAML = TESTS.parent / "states.yaml"

GONE = Host(reachable=False)
FENCED = Host(reachable=False, fenced=True)
ABSENT = Host(reachable=True)
OVERLAY = (Disk("vda", Layer.OVERLAY),)
BASE = (Disk("vda", Layer.BASE),)
FOREIGN = (Disk("vda", Layer.FOREIGN),)


def host(
    state: DomainState, reason: str = "", job: Job = Job.NONE, disks: tuple[Disk, ...] = OVERLAY
) -> Host:
    return Host(reachable=True, domain=Domain(state, reason, job, disks))


def running(job: Job = Job.NONE, disks: tuple[Disk, ...] = OVERLAY) -> Host:
    return host(DomainState.RUNNING, "booted", job, disks)


def paused(reason: str, job: Job = Job.NONE, disks: tuple[Disk, ...] = OVERLAY) -> Host:
    return host(DomainState.PAUSED, reason, job, disks)


def shut_off(disks: tuple[Disk, ...] = OVERLAY) -> Host:
    return host(DomainState.SHUT_OFF, "shutdown", disks=disks)


def shipped() -> dict[str, Any]:
    """states.yaml as plain data, read without this package's loader."""
    data = dict(yaml.safe_load(STATES_YAML.read_text("utf-8")))
    for state in data["states"].values():
        state["blocks"] = [
            name for entry in state["blocks"] for name in (entry if isinstance(entry, list) else [entry])
        ]
    return data


def changed(edit: Callable[[dict[str, Any]], None]) -> Spec:
    """The shipped machine after ``edit`` has changed its plain data."""
    # Through text once more: aliases would otherwise stay shared, and one edit change several states.
    data = yaml.safe_load(plain_text(shipped()))
    edit(data)
    return loads(plain_text(data))


class _NoAliases(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def plain_text(data: dict[str, Any]) -> str:
    return yaml.dump(data, Dumper=_NoAliases, sort_keys=False)


def space(spec: Spec, state: str, *also: str) -> Iterator[Observation]:
    """Every observation that ``state`` can tell apart, and that the conditions ``also`` can."""
    used = {name for row in spec.rows_from(state) for name in row.conditions} | set(also)
    used |= {name for row in spec.states[state].recover for name in row.when}
    engines = engine_witnesses(frozenset(used))
    for pair in host_witnesses():
        for engine in engines:
            yield Observation(pair.source, pair.destination, engine)


def compare_with_golden(name: str, text: str) -> None:
    """Compare with the stored file; ``UPDATE_GOLDEN=1 pytest tests`` stores what is found instead."""
    path = TESTS / "testdata" / name
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, "utf-8")
    assert path.read_text("utf-8").splitlines() == text.splitlines(), (
        f"{path.name}: if the change is meant, renew it with: UPDATE_GOLDEN=1 pytest tests"
    )


# -- observations out of raw values -----------------------------------------------------------------------

_words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
block_jobs = st.builds(BlockJob, _words, st.booleans(), st.integers(0, 2**63), st.integers(0, 2**63))
_names = st.lists(_words, max_size=3).map(tuple)
disks = st.builds(
    Disk,
    _words,
    st.sampled_from(Layer),
    _names,
    st.none() | block_jobs,
    _names,
    st.sampled_from(Size),
    _words,
)
_reasons = st.sampled_from(
    ("migration", "postcopy", "postcopy-failed", "starting-up", "user", "io-error", "")
)
domains = st.builds(
    Domain,
    st.sampled_from(DomainState),
    _reasons | _words,
    st.sampled_from(Job),
    st.lists(disks, max_size=4).map(tuple),
    _names,
    st.none() | _words,
    st.none() | _words,
    st.booleans(),
    _names,
)
_views = st.builds(Host, reachable=st.just(value=True), domain=domains)
hosts = st.sampled_from((GONE, FENCED, ABSENT)) | _views
engines = st.builds(
    Engine,
    preflight=st.sampled_from(Preflight),
    activity=st.sampled_from(Activity),
    **{
        name: st.booleans()
        for name in (
            "copies_verified",
            "transfer_begun",
            "step_failed",
            "attempts_left",
            "overdue",
            "retry_due",
            "abort_requested",
            "space_short",
            "adopted",
            "rescue_requested",
        )
    },
)
observations = st.builds(Observation, hosts, hosts, engines)
