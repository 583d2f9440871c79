"""The names of actions and activities that ``states.yaml`` may use, and what each means.

The machine only knows the names. The engine binds every one of them to an effect; a test compares the two.
"""

from __future__ import annotations

# Run while a transition is taken; each is idempotent: "make it so".
ACTIONS: dict[str, str] = {
    "mark-source": "write what the journal knows into the domain's own metadata at the source",
    "complete-marker": "add the bases, the copies and the snapshots' metadata to the marker at the source",
    "mark-destination": "write what the journal knows into the domain's own metadata at the destination",
    "unmark-source": "remove the marker from the domain's metadata at the source",
    "unmark-destination": "remove the marker from the domain's metadata at the destination",
    "create-source-overlays": "put the temporary overlays over all migrated disks, atomically",
    "save-bases": "record the bases' sizes and the snapshots' metadata, now that nothing can change them",
    "create-copies": "create the files that the bases will be copied into, each as one hole",
    "remove-source-overlays": "remove the overlay files at the source",
    "remove-source-bases": "remove the copied bases at the source, where asked for and nothing is against it",
    "flatten-destination": "begin the block pulls at the destination that were asked for, and wait for none",
    "create-destination-overlays": "create empty overlays on the copied bases at the destination",
    "remove-destination-overlays": "remove the overlay files at the destination",
    "remove-copies": "remove the copied bases at the destination, those that this migration created",
    "forget-source-snapshots": "drop the snapshots' metadata at the source; the journal has it",
    "restore-source-snapshots": "define the snapshots' metadata at the source again",
    "restore-destination-snapshots": "define the snapshots' metadata at the destination",
    "verify-destination-snapshots": "compare the snapshots at the destination with those recorded",
    "cancel-source-commits": "cancel our block commits at the source; the overlays stay the active layers",
    "cancel-destination-commits": "cancel our block commits at the destination; the overlays stay",
    "lift-source-throttle": "let the guest write to its disks at the source as its description has it",
    "lift-destination-throttle": "let the guest write to its disks at the destination likewise",
    "resume-source": "resume the source instance if the failed migration left it paused",
    "destroy-source-instance": "destroy the source instance that has handed its memory over",
    "undefine-source": "undefine the shut-off domain that libvirt left at the source",
    "release-pools": "put the storage pools of both hosts back as they were",
}

# Run while the machine is in a state; each can be taken over by another engine.
ACTIVITIES: dict[str, str] = {
    "preflight": "look for every reason against the migration, touching nothing",
    "copy-bases": "copy the bases, make them durable and compare them with their originals",
    "migrate": "libvirt's live migration of memory and overlays",
    "commit-at-destination": "block-commit every overlay into its base at the destination",
    "commit-at-source": "block-commit every overlay into its base at the source",
    "rescue-snapshots": "save each snapshot that lies in an overlay as an image of its own",
}
