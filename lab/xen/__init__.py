"""A Xen host for the lab: Xen and a Debian dom0 in a QEMU of the host, and in it this project's hooks and PV guests.

No virtualization by the processor is needed: PV guests are the only ones that Xen can run without it. The machine is QEMU's TCG
all through, and its dom0 is as private as the lab's node: it has no network but the one that it makes for its own guests.
"""
