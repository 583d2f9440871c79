"""Operations on a domain that a migration may have to block, by their names on the command line.

``states.yaml`` says for every state which of these are blocked; a state that says nothing is an error.
"""

from __future__ import annotations

from enum import StrEnum


class Operation(StrEnum):
    """What somebody may want to do to a domain while it is being migrated.

    ``set-metadata`` is about this package's own namespace, the ``volume-`` ones about the domain's images and
    overlays. ``tune`` stands for all settings of a running domain and of its jobs, ``guest`` for what goes to
    the guest: keys, consoles, its agent.
    """

    SNAPSHOT_CREATE_INTERNAL = "snapshot-create-internal"
    SNAPSHOT_CREATE_EXTERNAL = "snapshot-create-external"
    SNAPSHOT_REDEFINE = "snapshot-redefine"
    SNAPSHOT_REVERT = "snapshot-revert"
    SNAPSHOT_DELETE = "snapshot-delete"
    BLOCK_COMMIT = "block-commit"
    BLOCK_PULL = "block-pull"
    BLOCK_COPY = "block-copy"
    BLOCK_REBASE = "block-rebase"
    BLOCK_RESIZE = "block-resize"
    BLOCK_JOB_ABORT = "block-job-abort"
    JOB_ABORT = "job-abort"
    BACKUP_BEGIN = "backup-begin"
    CHECKPOINT_CREATE = "checkpoint-create"
    CHECKPOINT_DELETE = "checkpoint-delete"
    SAVE = "save"
    MANAGED_SAVE = "managed-save"
    MIGRATE = "migrate"
    ATTACH_DEVICE = "attach-device"
    DETACH_DEVICE = "detach-device"
    UPDATE_DEVICE = "update-device"
    CHANGE_MEDIA = "change-media"
    DEFINE = "define"
    UNDEFINE = "undefine"
    RENAME = "rename"
    SET_METADATA = "set-metadata"
    START = "start"
    VOLUME_DELETE = "volume-delete"
    VOLUME_RESIZE = "volume-resize"
    VOLUME_WIPE = "volume-wipe"
    VOLUME_UPLOAD = "volume-upload"
    QUERY = "query"
    SUSPEND = "suspend"
    RESUME = "resume"
    REBOOT = "reboot"
    SHUTDOWN = "shutdown"
    DESTROY = "destroy"
    CORE_DUMP = "core-dump"
    TUNE = "tune"
    GUEST = "guest"


# Why each would harm: the reference docs and the refusals quote these sentences.
HARM: dict[Operation, str] = {
    Operation.SNAPSHOT_CREATE_INTERNAL: "it would be stored in the overlay and vanish with it",
    Operation.SNAPSHOT_CREATE_EXTERNAL: "it would put a layer on the overlay, and block the commit",
    Operation.SNAPSHOT_REDEFINE: "the record would not have it, and libvirt migrates no domain with metadata",
    Operation.SNAPSHOT_REVERT: "it would throw the overlay's writes away",
    Operation.SNAPSHOT_DELETE: "it would rewrite the base while it is being copied",
    Operation.BLOCK_COMMIT: "it would write into the base while it is being copied",
    Operation.BLOCK_PULL: "it would cut the overlay off from its base",
    Operation.BLOCK_COPY: "it would move the disk away from the overlay",
    Operation.BLOCK_REBASE: "it would change the overlay's backing chain",
    Operation.BLOCK_RESIZE: "the overlay would no longer fit its base nor its copy",
    Operation.BLOCK_JOB_ABORT: "it would end the commit that this migration waits for",
    Operation.JOB_ABORT: "it would end the migration job behind the engine's back; use `fsm abort`",
    Operation.BACKUP_BEGIN: "it would hold the overlay in a block job",
    Operation.CHECKPOINT_CREATE: "it would put a bitmap into the overlay, which vanishes with it",
    Operation.CHECKPOINT_DELETE: "it would rewrite bitmaps in a base that must stand still",
    Operation.SAVE: "it would stop the domain on its overlay",
    Operation.MANAGED_SAVE: "it would stop the domain on its overlay",
    Operation.MIGRATE: "the domain is being migrated already",
    Operation.ATTACH_DEVICE: "the other host's definition would not have the device",
    Operation.DETACH_DEVICE: "the other host's definition would still have the device",
    Operation.UPDATE_DEVICE: "the other host's definition would not have the change",
    Operation.CHANGE_MEDIA: "the other host's definition would not have the change",
    Operation.DEFINE: "with another image in the definition, the next start loses what the overlay holds",
    Operation.UNDEFINE: "it would remove what the commit and the rollback need",
    Operation.SUSPEND: "libvirt would resume the guest when the migration ends; suspend it then",
    Operation.RENAME: "the other host's definition would keep the old name",
    Operation.SET_METADATA: "the domain's marker would no longer tell that its overlay exists",
    Operation.START: "the domain may live at the other host, and two instances would write",
    Operation.VOLUME_DELETE: "it would remove a file that the domain or its way back needs",
    Operation.VOLUME_RESIZE: "it would change a file that must stand still",
    Operation.VOLUME_WIPE: "it would destroy a file that the domain or its way back needs",
    Operation.VOLUME_UPLOAD: "it would overwrite a file that the domain or its way back needs",
}
