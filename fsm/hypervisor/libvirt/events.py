"""libvirt's event loop: registered once per process, run in one daemon thread.

Keepalive and all events of every connection depend on it, and it must be registered before the first
connection is opened.
"""

from __future__ import annotations

import threading

import libvirt

_lock = threading.Lock()
_started = False


def ensure_event_loop() -> None:
    """Start the event loop thread, unless it was started before, and keep libvirt from printing errors."""
    global _started  # noqa: PLW0603 - libvirt's event loop is global to the process as well
    with _lock:
        if _started:
            return
        _started = True
        # Without a handler libvirt prints each error to stderr, also those that we expect and handle.
        libvirt.registerErrorHandler(_ignore, None)
        libvirt.virEventRegisterDefaultImpl()
        # A daemon thread: it never ends by itself and must not keep the process alive.
        threading.Thread(target=_run, name="libvirt-events", daemon=True).start()


def _ignore(_context: object, _error: object) -> None:
    """Errors reach us as exceptions."""


def _run() -> None:
    # Each turn blocks until an event or a timer is due; it raises only when poll(2) itself fails.
    while libvirt.virEventRunDefaultImpl() == 0:
        pass
