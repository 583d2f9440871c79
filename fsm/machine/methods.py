"""libvirt's own methods, and which operation each of them is.

Names only, so that it can be read without libvirt; a test compares them with the library's classes, so that
a method which a later libvirt adds is not let through unseen. Where flags or arguments decide, the name is in
``BY_ARGUMENTS`` and ``fsm.hypervisor.libvirt.guarded`` looks at them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from fsm.machine.operations import Operation

Methods = Mapping[str, Operation]


def _table(rows: Mapping[Operation, Iterable[str]]) -> Methods:
    found: dict[str, Operation] = {}
    for operation, names in rows.items():
        for name in names:
            if name in found:
                raise ValueError(f"method {name!r} is classified twice")
            found[name] = operation
    return MappingProxyType(found)


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


DOMAIN: Methods = _table(
    {
        Operation.SNAPSHOT_REVERT: ("revertToSnapshot",),
        Operation.BLOCK_COMMIT: ("blockCommit",),
        Operation.BLOCK_PULL: ("blockPull",),
        Operation.BLOCK_COPY: ("blockCopy",),
        Operation.BLOCK_RESIZE: ("blockResize",),
        Operation.BLOCK_JOB_ABORT: ("blockJobAbort",),
        Operation.JOB_ABORT: ("abortJob", "abortJobFlags"),
        Operation.BACKUP_BEGIN: ("backupBegin",),
        Operation.CHECKPOINT_CREATE: ("checkpointCreateXML",),
        Operation.SAVE: ("save", "saveFlags", "saveParams"),
        Operation.MANAGED_SAVE: ("managedSave", "managedSaveDefineXML", "managedSaveRemove"),
        Operation.MIGRATE: _words(
            "migrate migrate2 migrate3 migrateToURI migrateToURI2 migrateToURI3 migrateStartPostCopy"
        ),
        Operation.ATTACH_DEVICE: ("attachDevice", "attachDeviceFlags"),
        Operation.DETACH_DEVICE: ("detachDevice", "detachDeviceFlags", "detachDeviceAlias"),
        Operation.UNDEFINE: ("undefine", "undefineFlags"),
        Operation.RENAME: ("rename",),
        Operation.START: ("create", "createWithFlags", "createWithFiles"),
        Operation.SUSPEND: ("suspend", "pMSuspendForDuration"),
        Operation.RESUME: ("resume", "pMWakeup"),
        Operation.REBOOT: ("reboot", "reset"),
        Operation.SHUTDOWN: ("shutdown", "shutdownFlags"),
        Operation.DESTROY: ("destroy", "destroyFlags"),
        Operation.CORE_DUMP: ("coreDump", "coreDumpWithFormat"),
        Operation.TUNE: _words(
            "FDAssociate addIOThread blockJobSetSpeed delIOThread migrateSetCompressionCache"
            " migrateSetMaxDowntime migrateSetMaxSpeed pinEmulator pinIOThread pinVcpu pinVcpuFlags"
            " setAutostart setBlkioParameters setBlockIoTune setBlockThreshold setIOThreadParams"
            " setInterfaceParameters setLaunchSecurityState setLifecycleAction setMaxMemory setMemory"
            " setMemoryFlags setMemoryParameters setMemoryStatsPeriod setNumaParameters setPerfEvents"
            " setSchedulerParameters setSchedulerParametersFlags setVcpu setVcpus setVcpusFlags"
            " setThrottleGroup delThrottleGroup setAutostartOnce graphicsReload delIOThreadFlags"
        ),
        Operation.GUEST: _words(
            "agentSetResponseTimeout authorizedSSHKeysGet authorizedSSHKeysSet fSTrim fsFreeze fsInfo fsThaw"
            " getTime guestInfo guestVcpus injectNMI openChannel openConsole openGraphics openGraphicsFD"
            " screenshot sendKey sendProcessSignal setGuestVcpus setTime setUserPassword"
        ),
        Operation.QUERY: _words(
            "ID OSType UUID UUIDString XMLDesc autostart backupGetXMLDesc blkioParameters blockInfo"
            " blockIoTune blockJobInfo blockPeek blockStats blockStatsFlags c_pointer checkpointLookupByName"
            " connect controlInfo diskErrors emulatorPinInfo getAutostartOnce getCPUStats"
            " hasCurrentSnapshot hasManagedSaveImage hostname info interfaceAddresses interfaceParameters"
            " interfaceStats ioThreadInfo isActive isPersistent isUpdated jobInfo jobStats"
            " launchSecurityInfo listAllCheckpoints listAllSnapshots managedSaveGetXMLDesc maxMemory"
            " maxVcpus memoryParameters memoryPeek memoryStats messages metadata"
            " migrateGetCompressionCache migrateGetMaxDowntime migrateGetMaxSpeed name numaParameters"
            " perfEvents schedulerParameters schedulerParametersFlags schedulerType securityLabel"
            " securityLabelList snapshotCurrent snapshotListNames snapshotLookupByName snapshotNum"
            " startDirtyRateCalc state vcpuPinInfo vcpus vcpusFlags"
        ),
    }
)

# What flags or arguments decide, and what it may be.
BY_ARGUMENTS: Mapping[str, frozenset[Operation]] = MappingProxyType(
    {
        "snapshotCreateXML": frozenset(
            {
                Operation.SNAPSHOT_CREATE_INTERNAL,
                Operation.SNAPSHOT_CREATE_EXTERNAL,
                Operation.SNAPSHOT_REDEFINE,
            }
        ),
        "blockRebase": frozenset({Operation.BLOCK_REBASE, Operation.BLOCK_COPY}),
        "updateDeviceFlags": frozenset({Operation.UPDATE_DEVICE, Operation.CHANGE_MEDIA}),
        "setMetadata": frozenset({Operation.SET_METADATA, Operation.TUNE}),
    }
)

VOLUME: Methods = _table(
    {
        Operation.VOLUME_DELETE: ("delete",),
        Operation.VOLUME_RESIZE: ("resize",),
        Operation.VOLUME_WIPE: ("wipe", "wipePattern"),
        Operation.VOLUME_UPLOAD: ("upload",),
        Operation.QUERY: _words(
            "XMLDesc c_pointer connect download info infoFlags key name path storagePoolLookupByVolume"
            " streamBufSize"
        ),
    }
)

SNAPSHOT: Methods = _table(
    {
        Operation.SNAPSHOT_DELETE: ("delete",),
        Operation.QUERY: _words(
            "c_pointer connect domain getChildren getConnect getDomain getName getParent getXMLDesc"
            " hasMetadata isCurrent listAllChildren listChildrenNames numChildren"
        ),
    }
)

CHECKPOINT: Methods = _table(
    {
        Operation.CHECKPOINT_DELETE: ("delete",),
        Operation.QUERY: _words(
            "c_pointer connect domain getConnect getDomain getName getParent getXMLDesc listAllChildren"
        ),
    }
)
