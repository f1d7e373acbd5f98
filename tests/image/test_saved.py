"""Saved guests in the store: found by all that shaped them, whole or not there, gone when nobody can use them."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tests.descriptors import descriptors
from vmbatch.errors import NodeError
from vmbatch.image import saved
from vmbatch.image.record import Stamp
from vmbatch.image.room import make_room
from vmbatch.image.saved import Frozen, Input, Record, Saved, Shape
from vmbatch.image.store import make_directories, stamp
from vmbatch.template import Places

from .conftest import MIB, Other

HOLD = """
import msgspec
from vmbatch.image import saved
held = saved.find(a[0], msgspec.json.decode(a[1], type=saved.Shape))
say(held.saved.directory)
hear()
"""


@pytest.fixture
def template(tmp_path: Path) -> Path:
    path = tmp_path / "guest.xml"
    path.write_text("<domain/>")
    return path


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    path = tmp_path / "vmlinuz"
    path.write_bytes(b"kernel")
    return path


@pytest.fixture
def shape(template: Path, kernel: Path) -> Shape:
    return Shape(template=str(template), domain="d", kit="k", node="n", cores=1, memory=MIB,
                 inputs=(Input(str(kernel), "", stamp(os.stat(kernel))), Input("/store/content/0", "sha256:0", None)))


def put(directory: Path, shape: Shape, size: int = MIB) -> Path:
    """Makes a saved guest, as a start does: in a directory of its own."""
    make_directories(str(directory))
    ready = Path(saved.place(str(directory), shape.key))
    made = Path(f"{ready}.making/guest")
    made.mkdir(parents=True)
    (made / saved.MEMORY).write_bytes(os.urandom(size))
    (made / "vda.qcow2").write_bytes(b"disk")
    record = Record(shape, "<domain/>", (Frozen(0, "vda.qcow2", "qcow2", MIB),), Places(("<address/>",), ""), time.time(),
                    stamp(os.stat(made / saved.MEMORY)))
    saved.publish(str(made), str(ready), record, None)
    made.parent.rmdir()
    return ready


def test_what_was_put_is_found(images: Path, shape: Shape) -> None:
    ready, before = put(images, shape), descriptors()
    held = saved.find(str(images), shape)
    assert held is not None
    assert held.saved.directory == str(ready)
    assert held.saved.record.shape == shape
    assert Path(held.saved.memory).stat().st_size == MIB
    held.close()
    assert descriptors() == before


def test_its_files_are_roots(images: Path, shape: Shape) -> None:
    ready = put(images, shape)
    modes = {path.name: path.stat().st_mode & 0o7777 for path in ready.iterdir()}
    assert modes == {"memory": 0o600, "record": 0o600, "vda.qcow2": 0o444}
    assert ready.stat().st_mode & 0o7777 == 0o700


@pytest.mark.parametrize("change", [
    {"template": "/other.xml"}, {"domain": "x"}, {"kit": "x"}, {"node": "x"}, {"cores": 2}, {"memory": 2 * MIB},
    {"inputs": ()}, {"inputs": (Input("/boot/vmlinuz", "", Stamp(1, 2, 3, 4)),)}])
def test_all_that_shapes_it_counts(images: Path, shape: Shape, change: dict[str, object]) -> None:
    put(images, shape)
    assert saved.find(str(images), msgspec.structs.replace(shape, **change)) is None


def test_where_an_image_is_does_not_count_if_its_content_is_known(shape: Shape) -> None:
    elsewhere = msgspec.structs.replace(shape, inputs=(shape.inputs[0], Input("/elsewhere", "sha256:0", None)))
    other = msgspec.structs.replace(shape, inputs=(shape.inputs[0], Input("/store/content/0", "sha256:1", None)))
    assert elsewhere.key == shape.key != other.key


@pytest.mark.parametrize("damage", [
    lambda ready: (ready / "record").write_bytes(b"{"), lambda ready: (ready / "record").unlink(),
    lambda ready: (ready / "memory").write_bytes(b"another"), lambda ready: (ready / "memory").unlink()])
def test_what_is_not_whole_is_not_found(images: Path, shape: Shape, damage: Callable[[Path], None]) -> None:
    damage(put(images, shape))
    before = descriptors()
    assert saved.find(str(images), shape) is None
    assert descriptors() == before


def test_one_that_is_held_stays_until_its_holder_dies(images: Path, shape: Shape) -> None:
    ready = put(images, shape)
    holder = Other(HOLD, str(images), msgspec.json.encode(shape).decode())
    assert holder.line() == str(ready)
    assert not saved.remove(str(ready))
    assert not saved.remove(str(ready), in_use=True)
    holder.kill()
    assert saved.remove(str(ready))
    assert not ready.exists()


def test_one_whose_disk_a_job_has_stays_unless_it_is_of_no_use(images: Path, shape: Shape) -> None:
    ready = put(images, shape)
    os.link(ready / "vda.qcow2", images / "uses/vda")
    assert saved.is_used(str(ready))
    assert not saved.remove(str(ready))
    assert saved.remove(str(ready), in_use=True)
    assert (images / "uses/vda").read_bytes() == b"disk", "the guest that is made of it goes on"


def test_one_that_is_discarded_is_found_no_more(images: Path, shape: Shape) -> None:
    ready = put(images, shape)
    held = saved.find(str(images), shape)
    saved.discard(str(ready))
    saved.discard(str(ready))
    assert saved.find(str(images), shape) is None
    assert held is not None
    held.close()
    assert saved.tidy(str(images)) == [f"removed the saved guest {ready}: half removed"]
    assert not ready.exists()


def test_tidy_leaves_what_can_be_used_and_what_is_being_made(images: Path, shape: Shape) -> None:
    content = msgspec.structs.replace(shape, inputs=shape.inputs[:1])
    ready = put(images, content)
    making = images / "saved/0.making"
    making.mkdir()
    assert saved.tidy(str(images)) == []
    assert ready.is_dir()
    assert making.is_dir()


def test_tidy_removes_what_was_made_with_something_else(images: Path, shape: Shape, template: Path, kernel: Path) -> None:
    image = template.with_name("image")
    image.write_bytes(b"image")
    whole = msgspec.structs.replace(shape, inputs=(shape.inputs[0], Input(str(image), "sha256:0", None)))
    for change, why in ((template, f"there is no template {template} any more"),
                        (kernel, f"{kernel} is not what it was made with"),
                        (image, f"{image} is not what it was made with")):
        ready = put(images, whole)
        assert saved.tidy(str(images)) == []
        before = change.read_bytes()
        status = change.stat()
        change.rename(f"{change}.away")
        assert saved.tidy(str(images)) == [f"removed the saved guest {ready}: {why}"]
        Path(f"{change}.away").rename(change)
        assert (change.read_bytes(), change.stat().st_ino) == (before, status.st_ino)
    ready = put(images, whole)
    kernel.write_bytes(b"a newer kernel")
    assert saved.tidy(str(images)) == [f"removed the saved guest {ready}: {kernel} is not what it was made with"]


def test_a_newer_one_takes_the_place_of_the_older(images: Path, shape: Shape) -> None:
    old, larger = put(images, shape), put(images, msgspec.structs.replace(shape, memory=2 * MIB))
    newer = msgspec.structs.replace(shape, kit="newer")
    ready = put(images, newer)
    saved.supersede(str(images), str(ready), newer)
    assert (old.exists(), larger.exists(), ready.exists()) == (False, True, True)


def test_the_one_used_least_recently_is_evicted(images: Path, shape: Shape) -> None:
    first, second = put(images, shape, 4 * MIB), put(images, msgspec.structs.replace(shape, cores=2), 4 * MIB)
    os.utime(first / "record", (1, 1))
    make_room(str(images), 6 * MIB, 0, MIB)
    assert (first.exists(), second.exists()) == (False, True)
    os.link(second / "vda.qcow2", images / "uses/vda")
    with pytest.raises(NodeError, match="has no room for 4 MiB"):
        make_room(str(images), 6 * MIB, 0, 4 * MIB)


def test_finding_one_is_using_it(images: Path, shape: Shape) -> None:
    ready = put(images, shape)
    os.utime(ready / "record", (1, 1))
    held = saved.find(str(images), shape)
    assert held is not None
    held.close()
    (known, used), = saved.every(str(images))
    assert (known, used > 1) == (Saved(str(ready), known.record), True)


def test_a_store_that_is_not_there(tmp_path: Path, shape: Shape) -> None:
    nowhere = str(tmp_path / "nowhere")
    assert (saved.find(nowhere, shape), saved.every(nowhere), saved.tidy(nowhere)) == (None, [], [])
