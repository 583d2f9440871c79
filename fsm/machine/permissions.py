"""Which permission of libvirt's own access control each operation takes, and which of them to refuse.

libvirt checks permissions per object, such as ``domain.snapshot`` on one domain, and asks polkit about each
under the action ``org.libvirt.api.`` + permission. The names are the ``@acl`` lines of libvirt's
``src/remote/remote_protocol.x``; the lab's test calls each operation and sees it refused or let through.
"""

from __future__ import annotations

from fsm.machine.operations import Operation
from fsm.machine.spec import Kind, Spec

# Always checked by the operation's calls, whatever their flags. libvirt checks further ones with some flags,
# such as domain.save for a change of the definition.
PERMISSIONS: dict[Operation, tuple[str, ...]] = {
    Operation.SNAPSHOT_CREATE_INTERNAL: ("domain.snapshot",),
    Operation.SNAPSHOT_CREATE_EXTERNAL: ("domain.snapshot",),
    Operation.SNAPSHOT_REDEFINE: ("domain.snapshot",),
    Operation.SNAPSHOT_REVERT: ("domain.snapshot",),
    Operation.SNAPSHOT_DELETE: ("domain.snapshot",),
    Operation.BLOCK_COMMIT: ("domain.block-write",),
    Operation.BLOCK_PULL: ("domain.block-write",),
    Operation.BLOCK_COPY: ("domain.block-write",),
    Operation.BLOCK_REBASE: ("domain.block-write",),
    Operation.BLOCK_RESIZE: ("domain.block-write",),
    Operation.BLOCK_JOB_ABORT: ("domain.write",),
    Operation.JOB_ABORT: ("domain.write",),
    Operation.BACKUP_BEGIN: ("domain.checkpoint", "domain.block-write"),
    Operation.CHECKPOINT_CREATE: ("domain.checkpoint",),
    Operation.CHECKPOINT_DELETE: ("domain.checkpoint",),
    Operation.SAVE: ("domain.hibernate",),
    Operation.MANAGED_SAVE: ("domain.hibernate",),
    Operation.MIGRATE: ("domain.migrate",),
    Operation.ATTACH_DEVICE: ("domain.write",),
    Operation.DETACH_DEVICE: ("domain.write",),
    Operation.UPDATE_DEVICE: ("domain.write",),
    Operation.CHANGE_MEDIA: ("domain.write",),
    Operation.DEFINE: ("domain.write",),
    Operation.UNDEFINE: ("domain.delete",),
    Operation.RENAME: ("domain.write",),
    Operation.SET_METADATA: ("domain.write",),
    Operation.START: ("domain.start",),
    Operation.VOLUME_DELETE: ("storage-vol.delete",),
    Operation.VOLUME_RESIZE: ("storage-vol.resize",),
    Operation.VOLUME_WIPE: ("storage-vol.format",),
    Operation.VOLUME_UPLOAD: ("storage-vol.data-write",),
    Operation.QUERY: ("domain.read",),
    Operation.SUSPEND: ("domain.suspend",),
    Operation.RESUME: ("domain.suspend",),
    Operation.REBOOT: ("domain.init-control",),
    Operation.SHUTDOWN: ("domain.init-control",),
    Operation.DESTROY: ("domain.stop",),
    Operation.CORE_DUMP: ("domain.core-dump",),
    Operation.TUNE: ("domain.write",),
    Operation.GUEST: ("domain.send-input",),
}

# Permitted, but not worth letting through what takes the same permission: settings can wait for an hour.
REFUSED_ALONG = frozenset({Operation.TUNE})


def blocked_beside_an_overlay(spec: Spec) -> tuple[Operation, ...]:
    """What any state blocks in which an overlay may exist: all but the initial and the final ones."""
    overlay = [state for state in spec.states.values() if state.kind not in (Kind.INITIAL, Kind.FINAL)]
    return tuple(operation for operation in Operation if any(operation in s.blocks for s in overlay))


def refused_permissions(spec: Spec) -> tuple[str, ...]:
    """The permissions to refuse while an overlay exists, in alphabetical order.

    A permission that a permitted operation takes is never among them, but for those of ``REFUSED_ALONG``.
    """
    blocked = blocked_beside_an_overlay(spec)
    spared = [each for each in Operation if each not in blocked and each not in REFUSED_ALONG]
    permitted = {name for each in spared for name in PERMISSIONS[each]}
    return tuple(sorted({name for each in blocked for name in PERMISSIONS[each]} - permitted))


def is_refused(spec: Spec, operation: Operation) -> bool:
    """Whether libvirt refuses the operation then: one refused permission is enough.

    A blocked operation that is not refused takes the same permissions as a permitted one, as suspending a
    domain does with resuming it: libvirt's access control can't tell them apart.
    """
    return not set(PERMISSIONS[operation]).isdisjoint(refused_permissions(spec))


def markdown(spec: Spec) -> str:
    """The reference page: every operation, what it takes, and whether the polkit rule refuses it."""
    lines = [_HEAD, "| Operation | Permissions | While an overlay exists |", "| --- | --- | --- |"]
    for operation in Operation:
        shown = ", ".join(f"`{name}`" for name in PERMISSIONS[operation])
        lines.append(f"| `{operation}` | {shown} | {_verdict(spec, operation)} |")
    return "\n".join(lines) + "\n"


def _verdict(spec: Spec, operation: Operation) -> str:
    if is_refused(spec, operation):
        return "refused"
    if operation not in blocked_beside_an_overlay(spec):
        return "let through"
    states = ", ".join(f"`{name}`" for name, state in spec.states.items() if operation in state.blocks)
    return f"let through, though blocked in {states}: permitted operations take the same permissions"


_HEAD = """\
# Operations and libvirt's permissions

Generated from `states.yaml` and `fsm/machine/permissions.py`; change those, never this page. `fsm guard
polkit` makes its rule from the same table, see [polkit.md](polkit.md). polkit knows each permission as
`org.libvirt.api.` and its name.
"""
