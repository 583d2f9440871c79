"""Migrations between hosts of different versions of libvirt and QEMU: ``python -m tests.versions``."""
