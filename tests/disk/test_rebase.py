"""An overlay that finds the image below it beside itself, wherever that is."""

import json
import subprocess
from pathlib import Path

from tests.work import work
from vmbatch.disk import layout
from vmbatch.disk.rebase import Rebase
from vmbatch.format import qcow2

SIZE = 1 << 20


def test_the_image_is_found_beside_the_overlay(tmp_path: Path) -> None:
    start, job = tmp_path / "start", tmp_path / "job"
    for place in (start, job):
        place.mkdir()
    (start / "vda").write_bytes(b"image".ljust(SIZE, b"\0"))
    layout.write(str(start / "vda.qcow2"), qcow2.overlay(str(start / "vda"), "raw", SIZE))
    Rebase(str(start / "vda.qcow2"), "vda", "raw").make(work())
    (start / "vda").rename(job / "vda")
    (start / "vda.qcow2").rename(job / "vda.saved")
    said = subprocess.run(["qemu-img", "info", "--output=json", job / "vda.saved"], capture_output=True, check=True)
    known = json.loads(said.stdout)
    assert (known["backing-filename"], known["full-backing-filename"]) == ("vda", str(job / "vda"))
    assert known["backing-filename-format"] == "raw"
    raw = tmp_path / "raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", job / "vda.saved", raw], check=True)
    assert raw.read_bytes().startswith(b"image")
