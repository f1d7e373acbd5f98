"""Templates for guests of the lab's Xen machine."""

IMAGES = "/srv/vmbatch/images/busybox"
QUICK = "console=hvc0 quiet mitigations=off cryptomgr.notests=1"
MEDIUM = """<disk type='file' device='disk'><driver name='qemu' type='raw'/><vbpreparecdrom source='context.iso'/>
      <target dev='xvdb' bus='xen'/><readonly/></disk>"""
BRIDGE = "<interface type='bridge'><source bridge='xenbr0'/></interface>"
POOL = "first='10.78.0.20' count='20' prefix='24'"
STATIC = BRIDGE.replace("<source", f"<vbnetwork method='static' {POOL}/><source")
WHERE = """#!/bin/sh
id -un
ip -4 addr show eth0 | sed -n 's/^ *inet \\([^ ]*\\) .*/\\1/p'
cat /sys/hypervisor/type
"""
"""A job's script: its user, the guest's address, the hypervisor."""
ROOT = f"""<disk type='file' device='disk'><driver name='qemu' type='raw'/>
      <vbdisksource source='{IMAGES}/disk.raw' copy_method='cow'/><target dev='xvda' bus='xen'/></disk>"""


def template(config: str = "", devices: str = MEDIUM, *, method: str = "CDROM", hypervisor: str = "XEN", line: str = "",
             disk: bool = False, network: str = BRIDGE, memory: int = 192, boot: str = "") -> str:
    """The busybox guest, from its initramfs, or with `disk` from the root disk that `devices` have; `boot` replaces <kernel>."""
    initrd = "initrd.cpio" if disk else "guest.cpio"
    kernel = "" if boot else f"<kernel>{IMAGES}/vmlinux</kernel><initrd>{IMAGES}/{initrd}</initrd>"
    root = "root=/dev/xvda1 rw" if disk else ""
    named = f"<vbhypervisor>{hypervisor}</vbhypervisor>" if hypervisor else ""
    return f"""<domain type='xen'>
  <name>own</name>
  <vbconfig><vbpreparemethod>{method}</vbpreparemethod>{named}{config}</vbconfig>
  <memory unit='MiB'>{memory}</memory>
  <vcpu>1</vcpu>
  {boot}
  <os><type>linux</type>{kernel}<cmdline>{QUICK} {root} {line}</cmdline></os>
  <clock offset='utc'/>
  <devices>
    {devices}
    {network}
    <console type='pty'><target type='xen' port='0'/></console>
  </devices>
</domain>
"""
