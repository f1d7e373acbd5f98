"""The program itself, called as libxl, libvirt and xend call it."""

import json
import os
import pwd
import re
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from vmbatch.bootloader import LINE_LIMIT, Wish
from vmbatch.bootloader.command import FLAGS, VALUES, Call, arguments, formatted
from vmbatch.bootloader.load import boot_of
from vmbatch.errors import JobError, SiteError
from vmbatch.guestdisk.view import view
from vmbatch.units import Deadline

from .disks import CERNVM, INITRD, KERNEL, MENU, MIB, ext, fat, run, tree

ROOT = Path(__file__).parents[2]
ARGS = "root=first quiet"


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("program")
    return fat(top / "cernvm.fat", tree(top / "files", dict(CERNVM)), 20 * MIB)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    path = tmp_path / "bootloader.7.d"
    path.mkdir(0o600)
    return path


def program(*words: str | Path, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[bytes]:
    """In libxl's environment."""
    return subprocess.run([*before, sys.executable, "-I", str(ROOT / "scripts/pygrub-vmbatch"), *map(str, words)],
                          env={"TERM": "vt100"}, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=120)


def said(done: subprocess.CompletedProcess[bytes]) -> list[str]:
    """Its lines, without the code that an error of VmBatch's has at the end of the first."""
    assert done.returncode == 1
    assert not done.stdout
    first, *more = done.stderr.decode().splitlines()
    return [re.sub(r" \[VB[0-9]{3}\]$", "", first), *more]


def test_as_libxl_calls_it(disk: Path, out: Path, tmp_path: Path) -> None:
    """The words of make_bootloader_args, with what libvirt makes of <cmdline>; a file that is there, and a directory."""
    output = tmp_path / "bootloader.7.out"
    output.touch(0o600)
    done = program('--args=vmbatch=1 x="a b"', f"--output={output}", "--output-format=simple0", f"--output-directory={out}", disk)
    assert (done.returncode, done.stdout) == (0, b"")
    assert done.stderr.decode() == (
        "pygrub-vmbatch: the whole disk, /boot/grub/menu.lst: uCernVM 1.18: /cernvm/vmlinuz.gzip /cernvm/initrd.img\n")
    kernel, ramdisk, args, *rest = output.read_bytes().split(b"\0")
    assert rest == [b"", b""]
    assert args == b'args root=first quiet vmbatch=1 x="a b"'
    paths = [Path(word.partition(b" ")[2].decode()) for word in (kernel, ramdisk)]
    assert [path.parent for path in paths] == [out, out]
    assert sorted(paths) == sorted(out.iterdir())
    assert [path.read_bytes() for path in paths] == [KERNEL, INITRD]
    for path in paths:
        status = path.lstat()
        assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_nlink) == (0o600, 0, 1)


def test_as_xend_calls_it(disk: Path, out: Path, tmp_path: Path) -> None:
    """A FIFO, an S-expression."""
    fifo = tmp_path / "xenbl.1"
    os.mkfifo(fifo, 0o600)
    heard: list[bytes] = []
    xend = threading.Thread(target=lambda: heard.append(fifo.read_bytes()), daemon=True)
    xend.start()
    done = program('--args=b="c\\d"', "-q", f"--output={fifo}", f"--output-directory={out}", disk)
    xend.join(30)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(rb'linux \(kernel "%s/kernel\.[0-9a-f]{16}"\)\(ramdisk "%s/initrd\.[0-9a-f]{16}"\)'
                        rb'\(args "root=first quiet b=\\"c\\\\d\\""\)' % ((str(out).encode(),) * 2), heard[0])


@pytest.mark.parametrize("words", [("--no-such-option",), ("--entry=none",)])
def test_xend_is_not_kept_waiting(disk: Path, out: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    """It opens the FIFO and waits for somebody to do so, too."""
    fifo = tmp_path / "xenbl.2"
    os.mkfifo(fifo, 0o600)
    heard: list[bytes] = []
    xend = threading.Thread(target=lambda: heard.append(fifo.read_bytes()), daemon=True)
    xend.start()
    done = program(f"--output={fifo}", f"--output-directory={out}", *words, disk)
    xend.join(30)
    assert (done.returncode, heard) == (1, [b""])


def test_another_account(disk: Path, out: Path) -> None:
    """libxl's bootloader_restrict: a uid that has no name."""
    done = program("--runas=65000", "--quiet", "--output-format=simple", f"--output-directory={out}", disk)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[2:] == [b"args root=first quiet", b""]


def test_not_really(disk: Path) -> None:
    done = program("-n", disk)
    assert done.stdout.decode() == (
        'linux (kernel "<kernel:/cernvm/vmlinuz.gzip>")(ramdisk "<ramdisk:/cernvm/initrd.img>")(args "root=first quiet")')


def test_without_initrd(out: Path, tmp_path: Path) -> None:
    """And without a kernel line: nothing is said of either, unless the toolstack has a line."""
    files = tree(tmp_path / "files", {"boot/grub/menu.lst": b"title a\nkernel /k\n", "k": KERNEL})
    disk = ext(tmp_path / "disk", files, 8 * MIB)
    done = program("--output-format=simple", f"--output-directory={out}", disk)
    assert [line.partition(b" ")[0] for line in done.stdout.splitlines()] == [b"kernel", b""]
    done = program("--output-format=simple", f"--output-directory={out}", "--default_args=ro", "--args=x", disk)
    assert done.stdout.splitlines()[1:] == [b"args ro x", b""]


def test_several_initrds(out: Path, tmp_path: Path) -> None:
    """Each begins at a multiple of four, as the kernel asks."""
    files = tree(tmp_path / "files", {
        "boot/grub/grub.cfg": b"menuentry a {\n linux /k\n initrd /ucode /i /ucode\n}\n", "k": KERNEL, "i": INITRD,
        "ucode": b"12345"})
    fd = os.open(ext(tmp_path / "disk", files, 8 * MIB), os.O_RDONLY)
    boot = boot_of(fd, str(out), Wish(args="z"), account="nobody", deadline=Deadline(60))
    os.close(fd)
    assert Path(boot.initrd).read_bytes() == b"12345\0\0\0" + INITRD + bytes(-len(INITRD) % 4) + b"12345"
    assert (boot.args, boot.found.initrds) == ("z", ("/ucode", "/i", "/ucode"))


@pytest.mark.parametrize("form", ["qcow2", "vpc"])
def test_disks_of_other_formats(disk: Path, out: Path, tmp_path: Path, form: str) -> None:
    """As the hooks see them: Xen's toolstack shows them as block devices, and `view` as a file."""
    image = tmp_path / "image"
    backing = ("-b", str(disk), "-F", "raw") if form == "qcow2" else ()
    if backing:
        run("qemu-img", "create", "-q", "-f", form, *backing, str(image))
    else:
        run("qemu-img", "convert", "-f", "raw", "-O", form, str(disk), str(image))
    deadline = Deadline(60)
    with view(str(image), "vhd" if form == "vpc" else form, "nobody", deadline, (str(disk), "raw") if backing else None) as shown:
        fd = os.open(shown.path, os.O_RDONLY | os.O_CLOEXEC)
        boot = boot_of(fd, str(out), Wish(), account="nobody", deadline=deadline)
        os.close(fd)
    assert Path(boot.kernel).read_bytes() == KERNEL


def test_nothing_to_boot(out: Path, tmp_path: Path) -> None:
    empty = tmp_path / "disk"
    empty.write_bytes(bytes(MIB))
    done = program(f"--output-directory={out}", empty)
    assert " is needed) [VB711]\n" in done.stderr.decode()
    assert said(done) == [
        "pygrub-vmbatch: the disk has nothing that can be booted (a file system ext2, ext3, ext4 or FAT with the configuration "
        "of GRUB, SYSLINUX or systemd-boot is needed)",
        "pygrub-vmbatch: the disk has no partition table in its MBR",
    ]
    assert not list(out.iterdir())


@pytest.mark.parametrize(("head", "kind"), [(b"QFI\xfb\0\0\0\3", "qcow2"), (b"conectix", "VHD"), (b"KDMV", "VMDK"),
                                            (b"\x1f\x8b\x08", "gzip")])
def test_images_that_are_not_raw(out: Path, tmp_path: Path, head: bytes, kind: str) -> None:
    image = tmp_path / "disk"
    image.write_bytes(head + bytes(MIB))
    assert said(program(f"--output-directory={out}", image)) == [
        f"pygrub-vmbatch: the disk is not a raw disk but {kind} (state its format in the domain's XML, and Xen shows it raw)"]


def test_full_file_system(disk: Path, out: Path) -> None:
    """What was written is removed."""
    done = program(f"--output-directory={out}", disk, before=("/usr/bin/prlimit", "--fsize=400000", "--"))
    assert re.fullmatch(r"pygrub-vmbatch: initrd\.[0-9a-f]{16} cannot be written: File too large \(is the file system full\?\)",
                        said(done)[0])
    assert not list(out.iterdir())


def test_a_directory_of_somebody_else(disk: Path, out: Path) -> None:
    out.chmod(0o777)
    assert said(program(f"--output-directory={out}", disk)) == [
        f"pygrub-vmbatch: others than root can change what is in {out} (chown root {out}; chmod go-w {out})"]
    assert said(program("--output-directory=/nowhere", disk)) == [
        "pygrub-vmbatch: kernel and initrd cannot be put into /nowhere: No such file or directory"]


def test_no_disk(out: Path, tmp_path: Path) -> None:
    assert said(program(f"--output-directory={out}", tmp_path / "absent")) == [
        f"pygrub-vmbatch: {tmp_path}/absent: No such file or directory"]
    assert said(program(f"--output-directory={out}", "/dev/null")) == [
        "pygrub-vmbatch: the disk is neither a file nor a block device"]


def test_kernel_line_that_xen_would_cut_off(disk: Path, out: Path) -> None:
    room = LINE_LIMIT - len(ARGS) - 1
    assert program(f"--args={'x' * room}", f"--output-directory={out}", disk).returncode == 0
    for path in out.iterdir():
        path.unlink()
    assert said(program(f"--args={'x' * (room + 1)}", f"--output-directory={out}", disk)) == [
        "pygrub-vmbatch: the kernel line would have 1024 bytes, and Xen cuts it off behind 1023 "
        "(shorten it in the guest's boot configuration or in the domain's XML)"]
    assert not list(out.iterdir())


def test_what_ends_a_value_is_refused(out: Path, tmp_path: Path) -> None:
    """A guest that would say `kernel /etc/shadow` to libxl, in the words of its kernel line or of a name."""
    for text in (MENU.replace("quiet", "quiet\0kernel /etc/shadow"), MENU.replace("quiet", "quiet\x7f")):
        files = tree(tmp_path / str(len(text)), CERNVM | {"boot/grub/menu.lst": text.encode()})
        disk = ext(tmp_path / "disk", files, 8 * MIB)
        assert said(program("--output-format=simple0", f"--output-directory={out}", disk)) == [
            "pygrub-vmbatch: the guest's kernel line has characters that cannot be printed (mend the guest's boot configuration)"]
    assert not list(out.iterdir())


def test_messages_are_plain(out: Path, tmp_path: Path) -> None:
    """They go to an admin's terminal."""
    files = tree(tmp_path / "files", {"boot/grub/menu.lst": b"title \x1b[2Ja\nkernel /\x1b]0;x\x07k\n"})
    lines = said(program(f"--output-directory={out}", ext(tmp_path / "disk", files, 8 * MIB)))
    assert lines[2] == "pygrub-vmbatch: the whole disk, /boot/grub/menu.lst names a file that is not there: '/]0;xk'"


@pytest.mark.parametrize(("words", "call"), [
    (["/d"], Call("/d", Wish())),
    (["-q", "--args=a b -n", "--kernel=/k", "--ramdisk=/i", "/d"], Call("/d", Wish(args="a b -n", kernel="/k", ramdisk="/i"))),
    (["-q --entry=2 --default_args='ro quiet'", "/d"], Call("/d", Wish(entry="2", default_args="ro quiet"))),
    (["--entry", "Debian GNU/Linux", "-n", "/d"], Call("/d", Wish(entry="Debian GNU/Linux"), dry=True)),
    (["--output=-", "--output-format=simple0", "--output-directory=/o", "--runas=7", "/d"],
     Call("/d", Wish(), form="simple0", directory="/o", uid=7)),
])
def test_arguments(words: list[str], call: Call) -> None:
    """libvirt hands over <bootloader_args> as one word."""
    assert arguments(words) == call


@pytest.mark.parametrize(("words", "what"), [
    ([], "one disk is needed"), (["/a", "/b"], "one disk is needed, and not /a /b"), (["--entry"], "--entry needs a value"),
    (["-x", "/d"], "-x is no option of pygrub-vmbatch"), (["--offset=1", "/d"], "--offset=1 is no option of pygrub-vmbatch"),
    (["--output-format=xml", "/d"], "'xml' is no format for the output"),
    (["--runas=0", "/d"], "--runas=0 is no uid without rights"),
    (["--ramdisk=/i", "/d"], "--ramdisk needs --kernel"), (["--args=a\nb", "/d"], "--args has characters that cannot be printed"),
    (["-q '", "/d"], "\"-q '\" cannot be read as options"),
])
def test_wrong_arguments(words: list[str], what: str) -> None:
    with pytest.raises(SiteError) as caught:
        arguments(words)
    assert caught.value.what == what


def test_the_manual_has_every_option() -> None:
    text = (ROOT / "docs/man/pygrub-vmbatch.8.md").read_text()
    items = re.findall(r"^- (\*\*[^:\n]+):", text, re.MULTILINE)
    assert sorted(name for item in items for name in re.findall(r"\*\*(-[^*=]+)", item)) == sorted(
        [*FLAGS, *(f"--{name}" for name in VALUES)])


def test_no_value_can_be_ended() -> None:
    with pytest.raises(JobError):
        formatted("simple", "/k", "", "a\nkernel /etc/shadow")


def test_the_reader_can_open_nothing(tmp_path: Path) -> None:
    """Neither a file nor a socket nor a process: what takes it over has a disk to read and a pipe to write to."""
    from vmbatch.host import process

    tries = {
        "file": "os.open('/etc/passwd', os.O_RDONLY)", "new file": "os.open('/tmp/x', os.O_WRONLY | os.O_CREAT)",
        "socket": "socket.socket(socket.AF_INET)", "pipe": "os.pipe()", "process": "os.fork()", "copy": "os.dup(1)",
        "root": "os.setuid(0)",
    }
    code = ["import json, os, socket", "from vmbatch.bootloader import reader", "reader._confine()",
            "said = {'uid': os.getuid()}"]
    for name, call in tries.items():
        code += ["try:", f" {call}", f" said[{name!r}] = 'done'", "except OSError as error:", f" said[{name!r}] = error.strerror"]
    code.append("os.write(1, json.dumps(said).encode())")
    text = process.run([sys.executable, "-I", "-c", "\n".join(code)], Deadline(60), account="nobody", limits=("--core=0",))
    assert json.loads(text) == {
        "uid": pwd.getpwnam("nobody").pw_uid, "file": "Too many open files", "new file": "Too many open files",
        "socket": "Too many open files", "pipe": "Too many open files", "process": "Resource temporarily unavailable",
        "copy": "Invalid argument", "root": "Operation not permitted",
    }
