"""All checks at once: what hangs, fails, or is only for root is said, and keeps no other check waiting."""

import multiprocessing
import os
import time
from collections.abc import Iterator

import pytest

from tests.pure.sample import settings
from vmbatch.doctor.examination import examine
from vmbatch.doctor.finding import Check, Finding, Site, ok, warning
from vmbatch.errors import InputError, NodeError
from vmbatch.host.distant import Question
from vmbatch.units import Deadline

SITE = Site(settings(), ())


def fine(site: Site) -> Iterator[Finding]:
    yield ok("well")


def hangs(site: Site) -> Iterator[Finding]:
    yield ok("never seen")
    time.sleep(60)


def fails(site: Site) -> Iterator[Finding]:
    yield warning("first")
    raise NodeError("libvirt does not answer", "start it")


def refuses(site: Site) -> Iterator[Finding]:
    yield from ()
    raise InputError("a.xml", [(1, "bad"), (2, "worse")])


def missing(site: Site) -> Iterator[Finding]:
    yield from ()
    os.stat("/nowhere")


def breaks(site: Site) -> Iterator[Finding]:
    yield from ()
    raise KeyError("a defect")


def dies(site: Site) -> Iterator[Finding]:
    yield from ()
    os._exit(9)


def silent(site: Site) -> Iterator[Finding]:
    yield from ()


def seen(checks: list[Check]) -> list[list[Finding]]:
    return [findings for _, findings in examine(SITE, checks)]


def check(look: object, **more: object) -> Check:
    return Check(getattr(look, "__name__", ""), "a test", look, **more)  # type: ignore[arg-type]


def test_each_says_its_own_and_none_waits_for_another() -> None:
    begin = time.monotonic()
    found = seen([check(hangs, seconds=1.0), check(fine), check(fails), check(refuses), check(missing), check(breaks),
                  check(dies), check(silent)])
    assert time.monotonic() - begin < 15
    assert [each.check for findings in found for each in findings] == [
        "hangs", "fine", "fails", "fails", "refuses", "refuses", "missing", "breaks", "dies", "silent"]
    hung, (well,), (first, failed), refused, (gone,), (defect,), (dead,), (nothing,) = found
    assert (hung[0].level, hung[0].found) == ("error", "no answer in time")
    assert (well.level, well.found) == ("ok", "well")
    assert (first.level, first.found) == ("warning", "first")
    assert (failed.level, failed.found, failed.advice) == ("error", "libvirt does not answer", "start it")
    assert [each.found for each in refused] == ["a.xml:1: bad", "a.xml:2: worse"]
    assert (gone.level, gone.found) == ("error", "/nowhere: No such file or directory")
    assert defect.level == "error"
    assert defect.found == "a defect in VmBatch: KeyError: 'a defect'"
    assert (dead.level, dead.found) == ("error", "its process was killed")
    assert (nothing.level, nothing.found) == ("ok", "nothing here needs it")


def test_nothing_is_left_of_what_hangs() -> None:
    before = set(os.listdir("/proc"))
    list(examine(SITE, [check(hangs, seconds=0.2)]))
    ours = [pid for pid in set(os.listdir("/proc")) - before if pid.isdecimal() and _parent(pid) == os.getpid()]
    assert ours == []


def _parent(pid: str) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as line:
            return int(line.read().rpartition(b")")[2].split()[1])
    except OSError:
        return 0


def test_without_settings_only_what_needs_none() -> None:
    found = [findings for _, findings in examine(SITE, [check(fine), check(silent, settings=False)], broken=True)]
    assert [each.check for findings in found for each in findings] == ["silent"]


def test_what_another_check_has_said_already() -> None:
    after = [check(fails), check(refuses, needs="fails"), check(fine, needs="fails"), check(missing, needs="fine")]
    assert [[each.found for each in findings] for findings in seen(after)] == [
        ["first", "libvirt does not answer"], [], [], ["/nowhere: No such file or directory"]]
    assert seen(after[1:2])[0], "alone it says what it finds"


def test_what_only_root_can_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    (found,), = seen([check(fine, root=True)])
    assert (found.level, found.found) == ("warning", "only root can tell")


def test_patience_grows_with_a_slow_machine_and_with_reading() -> None:
    def slow(site: Site) -> Iterator[Finding]:
        time.sleep(0.6)
        yield ok("late")

    def level(patience: float, reading: float, *, whole: bool) -> str:
        site = Site(settings(), (), whole=whole)
        return next(examine(site, [check(slow, seconds=0.2, reading=reading)], patience=patience))[1][0].level

    assert level(1.0, 0.0, whole=True) == "error"
    assert level(20.0, 0.0, whole=False) == "ok"
    assert level(1.0, 5.0, whole=False) == "error"
    assert level(1.0, 5.0, whole=True) == "ok"


def test_questions_go_on_beside_each_other() -> None:
    all_asked = multiprocessing.get_context("fork").Barrier(4, timeout=60)

    def answer(number: int) -> int:
        all_asked.wait()
        return number

    asked = [Question("x", lambda number=number: answer(number)) for number in range(4)]  # type: ignore[misc]
    assert [question.answer(int, Deadline(60)) for question in asked] == [0, 1, 2, 3]
