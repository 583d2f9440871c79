"""What happens in a world besides the calls of the port: guests, operators, accidents. And looking at it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from attrs import define

from fsm.hypervisor.simulated import (
    domains,
    environment,
    files,
    guest,
    images,
    migration,
    overlays,
    snapshots,
)
from fsm.hypervisor.simulated.core import WorldCore
from fsm.hypervisor.simulated.guest import LostWrite
from fsm.hypervisor.simulated.state import HostState, active, domain_record


@define(eq=False)
class Events(WorldCore):
    """Whatever a test wants to happen. What a host refuses raises ``Denied``, the port's errors aside."""

    # The guest

    def guest_write(
        self, uuid: str, target: str, block: int, content: bytes | None = None, *, at: str | None = None
    ) -> bytes:
        """Have the guest write a 4 KiB block and return what it wrote; ``GuestStopped`` without an answer."""
        wanted = f"{target}:{block} again".encode() if content is None else content
        with self.changing() as state:
            guest.write(state, uuid, target, block, wanted, at)
        return wanted

    def guest_read(self, uuid: str, target: str, block: int, *, at: str | None = None) -> bytes:
        """What the guest would read, without trailing zeros."""
        with self.changing() as state:
            return guest.read(state, uuid, target, block, at)

    def lost_writes(self, uuid: str, *, at: str | None = None) -> list[LostWrite]:
        """Acknowledged writes that are not there; empty if all is well."""
        with self.changing() as state:
            return guest.lost_writes(state, uuid, at)

    def dirty_memory(self, uuid: str, mib_per_s: int) -> None:
        """The guest writes to its memory from now on, wherever it runs."""
        with self.changing() as state:
            for uri in guest.running_at(state, uuid):
                active(state.hosts[uri], uuid)[1].dirties_mib_per_s = mib_per_s

    def throttle_of(self, uri: str, uuid: str, target: str) -> int | None:
        """What the guest may write to a disk, in bytes a second; None: as much as it likes."""
        return active(self.state.hosts[uri], uuid)[1].disks[target].throttle

    def power_off_guest(self, uuid: str) -> None:
        """The guest powers itself off, wherever it runs."""
        with self.changing() as state:
            for uri in guest.running_at(state, uuid):
                domains.stop(state, state.hosts[uri], uuid, "shutdown")

    def crash_guest(self, uuid: str, on_crash: str = "preserve") -> None:
        """The guest panics, wherever it runs; ``on_crash`` is libvirt's word for what becomes of it."""
        with self.changing() as state:
            for uri in guest.running_at(state, uuid):
                guest.crash(state, state.hosts[uri], uuid, on_crash)

    def reboot_guest(self, uuid: str) -> None:
        """The guest reboots, wherever it runs; its process stays."""
        with self.changing() as state:
            for uri in guest.running_at(state, uuid):
                guest.reset(state, state.hosts[uri], uuid)

    def running_at(self, uuid: str) -> list[str]:
        """The hosts where the guest runs."""
        return guest.running_at(self.state, uuid)

    def active_at(self, uuid: str) -> list[str]:
        """The hosts where the domain has a process."""
        return guest.active_at(self.state, uuid)

    # Operators

    def pause(self, uri: str, uuid: str) -> None:
        """An operator pauses the domain."""
        with self.changing() as state:
            domains.pause(state, state.hosts[uri], uuid)

    def resume(self, uri: str, uuid: str) -> None:
        """An operator resumes the domain."""
        with self.changing() as state:
            domains.resume(state, state.hosts[uri], uuid)

    def destroy(self, uri: str, uuid: str) -> None:
        """An operator destroys the domain."""
        with self.changing() as state:
            domains.destroy(state, state.hosts[uri], uuid)

    def abort_job(self, uri: str, uuid: str) -> None:
        """An operator aborts the migration; ``Denied`` when it is too late."""
        with self.changing() as state:
            migration.abort(state, state.hosts[uri], uuid)

    def start(self, uri: str, uuid: str) -> None:
        """An operator starts the domain from its definition."""
        with self.changing() as state:
            domains.start_paused(state, state.hosts[uri], uuid)
            domains.resume(state, state.hosts[uri], uuid)
            active(state.hosts[uri], uuid)[1].reason = "booted"

    def take_snapshot(self, uri: str, uuid: str, name: str) -> None:
        """An operator takes an internal snapshot: it lands in whatever is the active layer."""
        with self.changing() as state:
            snapshots.take(state, state.hosts[uri], uuid, name)

    def revert(self, uri: str, uuid: str, name: str) -> None:
        """An operator reverts the running domain; later acknowledgements count from here."""
        with self.changing() as state:
            snapshots.revert(state, state.hosts[uri], uuid, name)

    def delete_snapshot(self, uri: str, uuid: str, name: str) -> None:
        """An operator deletes an internal snapshot."""
        with self.changing() as state:
            snapshots.delete(state, state.hosts[uri], uuid, name)

    def resize(self, uri: str, uuid: str, target: str, capacity_bytes: int) -> None:
        """An operator gives a disk of the running domain another size: that of its active layer changes."""
        with self.changing() as state:
            overlays.resize(state, state.hosts[uri], uuid, target, capacity_bytes)

    def forget_snapshot(self, uri: str, uuid: str, name: str) -> None:
        """An operator deletes the metadata of a snapshot, and leaves the snapshot in the images."""
        with self.changing() as state:
            snapshots.forget(state, state.hosts[uri], uuid, (name,))

    def add_layer(self, uri: str, uuid: str, target: str, path: str) -> None:
        """An operator puts an overlay of his own over a disk."""
        with self.changing() as state:
            host = state.hosts[uri]
            record = domain_record(host, uuid)
            overlays.create_image(state, host, record, target, path)
            overlays.put(state, host, record, target, path)

    # Accidents

    def kill_qemu(self, uri: str, uuid: str) -> None:
        """The domain's process on this host is killed."""
        with self.changing() as state:
            environment.kill_qemu(state, state.hosts[uri], uuid)

    def stop_libvirtd(self, uri: str) -> None:
        """The host's daemon dies; its domains go on."""
        with self._shaking(uri) as host:
            environment.stop_libvirtd(self.state, host)

    def start_libvirtd(self, uri: str) -> None:
        """The host's daemon is started again."""
        with self._shaking(uri) as host:
            environment.start_libvirtd(host)

    def restart_libvirtd(self, uri: str) -> None:
        """The host's daemon is killed and started again."""
        self.stop_libvirtd(uri)
        self.start_libvirtd(uri)

    def leave_ghost(self, uri: str, uuid: str) -> None:
        """The host's daemon dies while it starts an arriving domain, which then can't be got rid of."""
        with self.changing() as state:
            environment.leave_ghost(state, state.hosts[uri], uuid)

    def lay_ghost(self, uri: str, uuid: str) -> None:
        """The operator gets rid of a ghost by removing its status file."""
        with self.changing() as state:
            environment.lay_ghost(state, state.hosts[uri], uuid)

    def power_off(self, uri: str) -> None:
        """The host loses its power."""
        with self._shaking(uri) as host:
            environment.power_off(self.state, host)

    def power_on(self, uri: str) -> None:
        """The host is up again; no domain runs there."""
        with self._shaking(uri) as host:
            environment.power_on(host)

    def disconnect(self, uri: str) -> None:
        """Clients do not get through to the host any more; hosts among themselves do."""
        with self._shaking(uri) as host:
            host.connected = False

    def reconnect(self, uri: str) -> None:
        """Undo ``disconnect``."""
        with self._shaking(uri) as host:
            host.connected = True

    def cut(self, one: str, other: str) -> None:
        """No packet passes between two hosts any more; clients reach both."""
        with self.changing() as state:
            environment.cut(state, state.hosts[one], state.hosts[other])

    def mend(self, one: str, other: str) -> None:
        """Undo ``cut``."""
        with self.changing() as state:
            environment.mend(state, state.hosts[one], state.hosts[other])

    def set_free_bytes(self, uri: str, directory: str, free_bytes: int) -> None:
        """Leave so much space on the file system that holds ``directory``."""
        with self.changing() as state:
            where = files.filesystem(state, state.hosts[uri], directory)
            where.size_bytes = where.used_bytes + free_bytes

    @contextmanager
    def _shaking(self, uri: str) -> Iterator[HostState]:
        """A change that everybody notices who watches a domain on this host."""
        with self.changing() as state:
            host = state.hosts[uri]
            watched = set(host.domains) | set(host.versions)
            yield host
            for uuid in watched | set(host.domains):
                state.touch(host, uuid)

    # Looking

    def files(self, uri: str) -> list[str]:
        """The paths of all files that the host can see."""
        with self.changing() as state:
            mounted = {state.hosts[uri].mounts[mount] for mount in state.hosts[uri].mounts}
            return sorted(path for identity in mounted for path in state.filesystems[identity].files)

    def pools(self, uri: str) -> dict[str, bool]:
        """The pools of a host: directory -> whether it is active."""
        with self.changing() as state:
            return {directory: pool.active for directory, pool in state.hosts[uri].pools.items()}

    def file_bytes(self, uri: str, path: str) -> bytes:
        """A file's whole content."""
        with self.changing() as state:
            file = files.existing(state, state.hosts[uri], path)
            return files.read(file, 0, file.size)

    def data_extents(self, uri: str, path: str) -> list[tuple[int, int]]:
        """Where a file holds data: (offset, length), ascending."""
        with self.changing() as state:
            file = files.existing(state, state.hosts[uri], path)
            return [(at, length) for at, length, is_data in files.extents(file, 0, file.size) if is_data]

    def snapshot_view(self, uri: str, uuid: str, target: str, name: str) -> dict[int, bytes]:
        """What a disk's guest saw when a snapshot was taken: block -> content, through the layers below."""
        with self.changing() as state:
            host = state.hosts[uri]
            seen: dict[int, bytes] = {}
            layers = overlays.layers(state, host, domain_record(host, uuid), target)
            for path, image_format in reversed(layers):
                file = files.existing(state, host, path)
                if any(entry.name == name for entry in images.snapshot_table(file)):
                    seen.update(images.snapshot_blocks(file, name))
                else:
                    held = images.blocks(file, image_format)
                    layer = ((path, image_format),)
                    seen.update({b: images.read_block(state, host, layer, b) for b in held})
            return seen

    def image_snapshots(self, uri: str, path: str) -> dict[str, dict[int, bytes]]:
        """What an image's own snapshots hold: name -> block -> content."""
        with self.changing() as state:
            file = files.existing(state, state.hosts[uri], path)
            return {one.name: images.snapshot_blocks(file, one.name) for one in images.snapshot_table(file)}

    def remove_file(self, uri: str, path: str) -> None:
        """An operator removes a file."""
        with self.changing() as state:
            files.remove(state, state.hosts[uri], path)

    def snapshot_contents(self, uri: str, uuid: str) -> dict[tuple[str, str], dict[int, bytes]]:
        """What the internal snapshots hold: (disk target, snapshot) -> block -> content."""
        with self.changing() as state:
            return guest.snapshot_contents(state, state.hosts[uri], uuid)
