"""Boot configurations in the form that distributions give them: what would their boot loader boot?"""

import pytest

from vmbatch.bootloader import bls, grub, legacy, syslinux
from vmbatch.bootloader.menu import Entry, File
from vmbatch.format import FormatError

from .world import World

UUID = "5a3c1a0e-1111-4222-8333-444455556666"


def plain(entry: Entry) -> tuple[str, str, tuple[str, ...], str]:
    """Title, kernel, initrds, arguments; a number before a path for what is elsewhere."""

    def shown(file: File) -> str:
        return f"{file.number or ''}{file.path}"

    return entry.names[0], shown(entry.kernel), tuple(map(shown, entry.initrds)), entry.args


DEBIAN = """
if [ -s $prefix/grubenv ]; then
  set have_grubenv=true
  load_env
fi
if [ "${next_entry}" ] ; then
   set default="${next_entry}"
   set next_entry=
   save_env next_entry
   set boot_once=true
else
   set default="DEFAULT"
fi

if [ x"${feature_menuentry_id}" = xy ]; then
  menuentry_id_option="--id"
else
  menuentry_id_option=""
fi

export menuentry_id_option

function load_video {
  if [ x$feature_all_video_module = xy ]; then
    insmod all_video
  else
    insmod efi_gop
    insmod vga
  fi
}

if [ x$feature_default_font_path = xy ] ; then
   font=unicode
else
insmod part_gpt
    font="/usr/share/grub/unicode.pf2"
fi

if loadfont $font ; then
  set gfxmode=auto
  load_video
  insmod gfxterm
fi
terminal_output gfxterm
if [ "${recordfail}" = 1 ] ; then
  set timeout=30
else
  if [ x$feature_timeout_style = xy ] ; then
    set timeout_style=menu
    set timeout=5
  # A comment.
  else
    set timeout=5
  fi
fi
function gfxmode {
  set gfxpayload="${1}"
}
set linux_gfx_mode=
export linux_gfx_mode
menuentry 'Debian GNU/Linux' --class debian --class gnu-linux --class gnu --class os $menuentry_id_option 'gnulinux-simple-UUID' {
	load_video
	insmod gzio
	if [ x$grub_platform = xxen ]; then insmod xzio; insmod lzopio; fi
	insmod part_gpt
	insmod ext2
	search --no-floppy --fs-uuid --set=root UUID
	echo	'Loading Linux 6.1.0-18-cloud-amd64 ...'
	linux	/boot/vmlinuz-6.1.0-18-cloud-amd64 root=UUID=UUID ro  console=hvc0 quiet \\
		net.ifnames=0
	echo	'Loading initial ramdisk ...'
	initrd	/boot/initrd.img-6.1.0-18-cloud-amd64
}
submenu 'Advanced options for Debian GNU/Linux' $menuentry_id_option 'gnulinux-advanced-UUID' {
	menuentry 'Debian GNU/Linux, with Linux 6.1.0-18' --class debian $menuentry_id_option 'gnulinux-6.1.0-18-advanced-UUID' {
		set root='hd0,gpt1'
		if [ x$feature_platform_search_hint = xy ]; then
			search --no-floppy --fs-uuid --set=root --hint-bios=hd0,gpt1 --hint='hd0,gpt1'  UUID
		else
			search --no-floppy --fs-uuid --set=root UUID
		fi
		linux	/boot/vmlinuz-6.1.0-18-cloud-amd64 root=UUID=UUID ro
		initrd	/boot/initrd.img-6.1.0-18-cloud-amd64
	}
	menuentry 'Debian GNU/Linux, with Linux 6.1.0-10 (recovery mode)' $menuentry_id_option 'gnulinux-6.1.0-10-recovery-UUID' {
		linux	/boot/vmlinuz-6.1.0-10 root=UUID=UUID ro single
		initrd	/boot/microcode.img /boot/initrd.img-6.1.0-10
	}
}
menuentry "Memory test" { linux16 /boot/memtest86+.bin }
""".replace("UUID", UUID).replace(f"root={UUID}={UUID}", f"root=UUID={UUID}")
MAIN = ("Debian GNU/Linux", "1/boot/vmlinuz-6.1.0-18-cloud-amd64", ("1/boot/initrd.img-6.1.0-18-cloud-amd64",),
        f"root=UUID={UUID} ro console=hvc0 quiet net.ifnames=0")
RECOVERY = ("Debian GNU/Linux, with Linux 6.1.0-10 (recovery mode)", "/boot/vmlinuz-6.1.0-10",
            ("/boot/microcode.img", "/boot/initrd.img-6.1.0-10"), f"root=UUID={UUID} ro single")


@pytest.mark.parametrize(("default", "saved", "wanted", "expected"), [
    ("0", "", "", MAIN),
    ("${saved_entry}", "", "", MAIN),
    ("${saved_entry}", "saved_entry=1>1\n", "", RECOVERY),
    (f"gnulinux-advanced-{UUID}>gnulinux-6.1.0-10-recovery-{UUID}", "", "", RECOVERY),
    ("Advanced options for Debian GNU/Linux>Debian GNU/Linux, with Linux 6.1.0-10 (recovery mode)", "", "", RECOVERY),
    ("no such entry", "", "", MAIN),
    ("7", "", "", MAIN),
    ("0", "next_entry=1>1\n", "", RECOVERY),
    ("0", "", "1>1", RECOVERY),
    ("0", "", "Memory test", ("Memory test", "/boot/memtest86+.bin", (), "")),
])
def test_debian(default: str, saved: str, wanted: str, expected: object) -> None:
    files = {"/boot/grub/grubenv": f"# GRUB Environment Block\n{saved}####"} if saved else {}
    world = World(files, {1: {}}, {("uuid", UUID): 1})
    assert plain(grub.parse(DEBIAN.replace("DEFAULT", default), "/boot/grub/grub.cfg", world, wanted)) == expected


def test_an_entry_that_is_not_there() -> None:
    with pytest.raises(FormatError) as caught:
        grub.parse(DEBIAN, "/boot/grub/grub.cfg", World({}), "Windows\x1b[2J")
    assert caught.value.what == "has no menu entry 'Windows[2J'"
    assert caught.value.hint == ("there are 'Debian GNU/Linux', 'Advanced options for Debian GNU/Linux', 'Memory test'")


CENTOS7 = """
set pager=1
if [ -s $prefix/grubenv ]; then
  load_env
fi
if [ "${next_entry}" ] ; then
   set default="${next_entry}"
   save_env next_entry
else
   set default="${saved_entry}"
fi
if [ x"${feature_menuentry_id}" = xy ]; then menuentry_id_option="--id"; else menuentry_id_option=""; fi
function savedefault {
  if [ -z "${boot_once}" ]; then
    saved_entry="${chosen}"
    save_env saved_entry
  fi
}
menuentry 'CentOS Linux (3.10.0-1160.el7.x86_64) 7 (Core)' --class centos --unrestricted $menuentry_id_option 'gnulinux-a' {
	load_video
	set gfxpayload=keep
	set root='hd0,msdos1'
	linux16 /vmlinuz-3.10.0-1160.el7.x86_64 root=/dev/mapper/centos-root ro crashkernel=auto rd.lvm.lv=centos/root rhgb quiet
	initrd16 /initramfs-3.10.0-1160.el7.x86_64.img
}
menuentry 'CentOS Linux (0-rescue-1234) 7 (Core)' --class centos $menuentry_id_option 'gnulinux-b' {
	set root='hd0,msdos1'
	linux16 /vmlinuz-0-rescue-1234 root=/dev/mapper/centos-root ro
	initrd16 /initramfs-0-rescue-1234.img
}
"""


def test_centos_7() -> None:
    """The saved entry is a title; the kernel is on the boot partition."""
    saved = "# GRUB Environment Block\nsaved_entry=CentOS Linux (3.10.0-1160.el7.x86_64) 7 (Core)\n#########"
    entry = grub.parse(CENTOS7, "/grub2/grub.cfg", World({"/grub2/grubenv": saved}, {1: {}}), "")
    assert plain(entry) == (
        "CentOS Linux (3.10.0-1160.el7.x86_64) 7 (Core)", "1/vmlinuz-3.10.0-1160.el7.x86_64",
        ("1/initramfs-3.10.0-1160.el7.x86_64.img",),
        "root=/dev/mapper/centos-root ro crashkernel=auto rd.lvm.lv=centos/root rhgb quiet")


ROCKY8 = """
if [ -f ${config_directory}/grubenv ]; then
  load_env -f ${config_directory}/grubenv
elif [ -s $prefix/grubenv ]; then
  load_env
fi
set default="${saved_entry}"
set root='hd0,msdos1'
if [ -z "${kernelopts}" ]; then
  set kernelopts="root=/dev/fallback ro"
fi
insmod blscfg
blscfg
if [ -f  $prefix/custom.cfg ]; then
  source $prefix/custom.cfg
fi
"""
BLS = {
    f"/loader/entries/0123456789abcdef-{version}.conf":
        f"title Rocky Linux ({version}) 8.9\nversion {version}\nlinux /vmlinuz-{version}\n"
        f"initrd /initramfs-{version}.img $tuned_initrd\noptions $kernelopts $tuned_params\nid rocky-{version}\n"
        "grub_users $grub_users\n"
    for version in ("4.18.0-513.5.1.el8_9.x86_64", "4.18.0-80.el8.x86_64", "0-rescue")
}


@pytest.mark.parametrize(("environment", "version", "args"), [
    ("kernelopts=root=/dev/xvda2 ro console=hvc0\n", "4.18.0-513.5.1.el8_9.x86_64", "root=/dev/xvda2 ro console=hvc0"),
    ("saved_entry=0123456789abcdef-4.18.0-80.el8.x86_64\n", "4.18.0-80.el8.x86_64", "root=/dev/fallback ro"),
    ("saved_entry=2\nkernelopts=ro\n", "0-rescue", "ro"),
])
def test_rocky_8(environment: str, version: str, args: str) -> None:
    """Entries are files, the newest first; what they have in common is in the environment block."""
    world = World({"/grub2/grubenv": environment}, {1: BLS})
    assert plain(grub.parse(ROCKY8, "/grub2/grub.cfg", world, "")) == (
        f"Rocky Linux ({version}) 8.9", f"1/vmlinuz-{version}", (f"1/initramfs-{version}.img",), args)


CENTOS5 = """# grub.conf generated by anaconda
#boot=/dev/xvda
default=1
timeout=5
splashimage=(hd0,0)/grub/splash.xpm.gz
hiddenmenu
title CentOS (2.6.18-398.el5xen)
\troot (hd0,0)
\tkernel /vmlinuz-2.6.18-398.el5xen ro root=/dev/VolGroup00/LogVol00 console=xvc0
\tinitrd /initrd-2.6.18-398.el5xen.img
title CentOS (2.6.18-371.el5)
\troot (hd0,0)
\tkernel --no-mem-option /vmlinuz-2.6.18-371.el5 ro root=LABEL=/
\tinitrd /initrd-2.6.18-371.el5.img
title Xen
\troot (hd0,0)
\tkernel /xen.gz-2.6.18-398.el5 dom0_mem=512M
\tmodule /vmlinuz-2.6.18-398.el5xen ro root=LABEL=/
\tmodule /initrd-2.6.18-398.el5xen.img
"""


@pytest.mark.parametrize(("wanted", "expected"), [
    ("", ("CentOS (2.6.18-371.el5)", "1/vmlinuz-2.6.18-371.el5", ("1/initrd-2.6.18-371.el5.img",), "ro root=LABEL=/")),
    ("0", ("CentOS (2.6.18-398.el5xen)", "1/vmlinuz-2.6.18-398.el5xen", ("1/initrd-2.6.18-398.el5xen.img",),
           "ro root=/dev/VolGroup00/LogVol00 console=xvc0")),
    ("Xen", ("Xen", "1/vmlinuz-2.6.18-398.el5xen", ("1/initrd-2.6.18-398.el5xen.img",), "ro root=LABEL=/")),
])
def test_centos_5(wanted: str, expected: object) -> None:
    assert plain(legacy.parse(CENTOS5, "/grub/grub.conf", World({}), wanted)) == expected


@pytest.mark.parametrize(("default", "saved", "title"), [
    ("default 0", "", "CentOS (2.6.18-398.el5xen)"), ("default 9", "", "CentOS (2.6.18-398.el5xen)"),
    ("default\tsaved", "1\n#\n#\n", "CentOS (2.6.18-371.el5)"), ("default saved", "", "CentOS (2.6.18-398.el5xen)"),
    ("", "", "CentOS (2.6.18-398.el5xen)"),
])
def test_default_of_grub_legacy(default: str, saved: str, title: str) -> None:
    text = CENTOS5.replace("default=1", default)
    assert legacy.parse(text, "/boot/grub/menu.lst", World({"/boot/grub/default": saved}), "").names == (title,)


ALPINE = """# Generated by update-extlinux 6.04
DEFAULT menu.c32
PROMPT 0
MENU TITLE Alpine/Linux Boot Menu
MENU HIDDEN
MENU AUTOBOOT Alpine will be booted automatically in # seconds.
TIMEOUT 10
LABEL lts
  MENU LABEL Linux lts
  LINUX vmlinuz-lts
  INITRD intel-ucode.img,initramfs-lts
  APPEND root=UUID=1 modules=ext4 quiet rootfstype=ext4
LABEL virt
  MENU DEFAULT
  MENU LABEL Linux ^virt
  LINUX vmlinuz-virt
  INITRD initramfs-virt
  APPEND root=UUID=1 modules=ext4 console=hvc0

MENU SEPARATOR
"""


@pytest.mark.parametrize(("text", "path", "wanted", "expected"), [
    (ALPINE, "/extlinux.conf", "",
     ("Linux virt", "/vmlinuz-virt", ("/initramfs-virt",), "root=UUID=1 modules=ext4 console=hvc0")),
    (ALPINE, "/boot/extlinux.conf", "lts",
     ("Linux lts", "/boot/vmlinuz-lts", ("/boot/intel-ucode.img", "/boot/initramfs-lts"),
      "root=UUID=1 modules=ext4 quiet rootfstype=ext4")),
    ("default linux\nappend root=/dev/xvda\nlabel a\nkernel /a\nlabel linux\n kernel ../k\n initrd /i",
     "/syslinux/syslinux.cfg", "", ("linux", "/k", ("/i",), "root=/dev/xvda")),
    ("default linux\nappend x\nlabel linux\nkernel /k\nappend -\n", "/syslinux.cfg", "", ("linux", "/k", (), "")),
    ("DEFAULT vmlinuz initrd=initrd.gz root=/dev/ram0\n", "/isolinux/isolinux.cfg", "",
     ("default", "/isolinux/vmlinuz", ("/isolinux/initrd.gz",), "root=/dev/ram0")),
    ("default xen\nlabel xen\n kernel mboot.c32\n append xen.gz dom0_mem=1G --- vmlinuz root=/dev/sda1 --- initrd\n",
     "/syslinux.cfg", "", ("xen", "/vmlinuz", ("/initrd",), "root=/dev/sda1")),
    ("include linux.cfg\n", "/boot/syslinux/syslinux.cfg", "", ("vm", "/boot/syslinux/vm", (), "a b")),
])
def test_syslinux(text: str, path: str, wanted: str, expected: object) -> None:
    world = World({"/boot/syslinux/linux.cfg": "label vm\n append a b\n"})
    assert plain(syslinux.parse(text, path, world, wanted)) == expected


@pytest.mark.parametrize(("loader", "version"), [
    ("", "6.6.10"), ("timeout 3\ndefault arch-lts.conf\n", "6.1.9"), ("default @saved\n", "6.6.10"),
    ("default *-lts*\n", "6.1.9"),
])
def test_systemd_boot(loader: str, version: str) -> None:
    files = {
        "/loader/entries/arch-lts.conf": "title Arch LTS\nlinux /vmlinuz-6.1.9\ninitrd /ucode.img\ninitrd /initramfs-6.1.9\n"
                                         "options root=LABEL=arch\noptions rw\n",
        "/loader/entries/arch-z.conf": "title Arch\tLinux\nlinux\t/vmlinuz-6.6.10\n# no initrd\noptions root=LABEL=arch rw\n",
        "/loader/entries/memtest.conf": "title Memtest\nefi /memtest.efi\n",
    }
    found = bls.parse(loader, "/loader/loader.conf", World(files), "")
    assert (found.kernel.path, found.args) == (f"/vmlinuz-{version}", "root=LABEL=arch rw")
    assert len(found.initrds) == {"6.1.9": 2, "6.6.10": 0}[version]


SCRIPTS = {
    "quotes": ("linux /k 'a b' \"c $x ${y}d\" e\\ f \"\\$x\" $z g", "a b c 1 2d e f $x g"),
    "words of a variable": ("z='a  b'\nlinux /k $z-$z \"$z\"", "a b-a b a  b"),
    "comments": ("# linux /no\nlinux /k a#b # c", "a#b"),
    "else": ("if false; then linux /k a; elif [ 1 -gt 2 ]; then linux /k b; else linux /k c; fi", "c"),
    "not": ("if ! [ a = b ]; then linux /k a; fi", "a"),
    "and, or": ("if [ a = b -o 1 -eq 1 -a ! -z x ]; then linux /k a; fi", "a"),
    "brackets": ("if [ ( a = a ) -a ( a = b ) ]; then linux /k a; else linux /k b; fi", "b"),
    "for": ("for i in 1 2 3; do r=\"$r$i\"; if [ $i = 2 ]; then break; fi; done\nlinux /k $r", "12"),
    "while": ("until [ x$i = xaaa ]; do i=a$i; done; linux /k $i", "aaa"),
    "function": ("function f { if [ $1 = a ]; then return; fi; linux /k $2 $#; }\nf b c\nf a d", "c 2"),
    "files": ("if [ -f /a -a -d /d -a ! -f /d -a -s /a -a ! -e /b ]; then linux /k a; fi", "a"),
    "source": ("source /a\nlinux /k $q", "sourced"),
    "unknown commands fail": ("if loadfont x; then linux /k a; elif nonsense; then linux /k b; else linux /k c; fi", "c"),
    "a kernel for each processor": ("if cpuid -l; then linux /k 64; else linux /k 32; fi", "64"),
    "the last one counts": ("linux /k a\nlinux /k b", "b"),
}


@pytest.mark.parametrize(("script", "args"), SCRIPTS.values(), ids=SCRIPTS)
def test_the_language_of_grub(script: str, args: str) -> None:
    world = World({"/a": "set q=sourced", "/d/e": ""})
    found = grub.parse(f"x=1; set y=2\nmenuentry m {{\n{script}\n}}\n", "/boot/grub/grub.cfg", world, "")
    assert (found.kernel, found.args) == (File(0, "/k"), args)


def test_a_stub_that_leads_to_the_configuration() -> None:
    """As on EFI system partitions, and in images for clouds."""
    stub = f"search.fs_uuid {UUID} root hd0,gpt2\nset prefix=($root)'/boot/grub'\nconfigfile $prefix/grub.cfg\n"
    world = World({}, {2: {"/boot/grub/grub.cfg": "menuentry a --id b {\n linux ($root)/vmlinuz x\n initrd /i\n}"}},
                  {("uuid", UUID): 2})
    assert plain(grub.parse(stub, "/grub/grub.cfg", world, "")) == ("a", "2/vmlinuz", ("2/i",), "x")


MISTAKES = {
    "if true; then": "has a mistake in line 1", "}": "has a mistake in line 1",
    "menuentry a {\nlinux /k": "has a mistake in line 2",
    "set a='b\n": "has a quote in line 1 that does not end", 'a\n"b': "has a quote in line 2 that does not end",
    "a | b": "has '|' in line 1, which is not understood here", "for 1 in a; do b; done": "has a mistake in line 1",
    "": "has no menu entry", "menuentry a { true; }": "has a menu entry without a kernel",
    "submenu a { true; }": "has a submenu without entries", "menuentry a { multiboot /xen.gz; }":
        "has a menu entry for Xen without a kernel for dom0",
}


@pytest.mark.parametrize(("text", "what"), MISTAKES.items())
def test_mistakes(text: str, what: str) -> None:
    with pytest.raises(FormatError, match="^" + what.replace("|", "[|]") + "$"):
        grub.parse(text, "/boot/grub/grub.cfg", World({}), "")


@pytest.mark.parametrize(("parse", "text", "what"), [
    (legacy.parse, "default 0\n", "has no menu entry"),
    (legacy.parse, "title a\nroot (hd0)\n", "has a menu entry without a kernel"),
    (legacy.parse, "title a\nchainloader +1\n", "has a menu entry without a kernel"),
    (syslinux.parse, "prompt 0\n", "has no menu entry"),
    (syslinux.parse, "label a\nkernel chain.c32\n", "has a default menu entry that boots no Linux"),
    (bls.parse, "timeout 1\n", "has no entry for systemd-boot"),
])
def test_nothing_to_boot(parse: object, text: str, what: str) -> None:
    assert callable(parse)
    with pytest.raises(FormatError) as caught:
        parse(text, "/boot/x", World({}), "")
    assert caught.value.what == what
