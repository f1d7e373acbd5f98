"""The order of a Xen guest's disks, which decides what boots; neither libvirt nor the guest asks for the template's order.

libvirt sorts disks by the number of their target (virDomainDiskInsert in src/conf/domain_conf.c, virDiskNameToIndex in
src/util/virutil.c): xvdb before xvdaa. A bootloader on the node reads the first (libxl_bootloader.c in Xen). CernVM 3 sorts
targets as words, xvdaa before xvdb, and takes the first as its cache.
"""

import re

import msgspec


class Target(msgspec.Struct, frozen=True):
    """`kind` is `image`, `empty`, `medium` or `other`."""

    name: str
    kind: str


def number(name: str) -> int:
    """libvirt's number of a target: 0 for xvda, 25 for xvdz, 26 for xvdaa; -1 where it knows none."""
    match = re.fullmatch(r"(?:fd|hd|vd|sd|xvd|ubd)([a-z]+)[0-9]*", name)
    if match is None:
        return -1
    total = 0
    for letter in match[1]:
        total = total * 26 + ord(letter) - ord("a") + 1
    return total - 1


def warnings(targets: list[Target], *, cernvm: bool) -> list[str]:
    """What is wrong with the order where the guest boots from a disk by a bootloader on the node."""
    if not targets:
        return ["the guest has a bootloader, but no disk to boot from"]
    said = []
    boots = min(targets, key=lambda each: number(each.name))
    if boots.kind in ("empty", "medium"):
        what = {"empty": "an empty disk", "medium": "the context medium"}[boots.kind]
        said.append(f"the bootloader reads the disk with the lowest target, {boots.name}, and that is {what}: "
                    "give the disk that boots a lower one, as xvda before xvdb, ..., xvdz, xvdaa")
    caches = [each for each in targets if each.kind == "empty"]
    first = min(targets, key=lambda each: each.name)
    if cernvm and caches and first.kind != "empty":
        said.append(f"CernVM takes the target that is first as a word, {first.name}, as its cache, and that is not the empty "
                    f"disk {caches[0].name}: give that a target as xvdaa, which libvirt numbers behind xvdz")
    return said
