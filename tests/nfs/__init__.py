"""Images on NFS, in a machine of its own whose kernel has it: ``./dev nfs``."""
