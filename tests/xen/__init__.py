"""Jobs in real Xen guests: the hooks run in the dom0 of the lab's Xen machine, these tests outside."""
