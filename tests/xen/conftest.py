"""The Xen machine for a session, jobs in it, and the difference between a test that fails and a machine that has died."""

from collections.abc import Generator, Iterator
from typing import Any, NamedTuple

import pytest
from _pytest.runner import runtestprotocol

from lab.xen import driver, machine

OWN = "/etc/vmbatch/domains/own.xml"
_crashes: list[str] = []
_death = pytest.StashKey[str]()


class Ended(NamedTuple):
    """A job that has ended in dom0: as lab.mom has it, and the job's log."""

    verdict: str
    status: int
    epilogue: int
    output: str
    errors: str
    log: str

    def told(self) -> str:
        """What explains it."""
        return f"{self.errors}\n{self.log}"


class Dom0:
    """What the tests do there."""

    @staticmethod
    def call(do: str, **arguments: Any) -> Any:
        """A function of lab.xen.inside."""
        return driver.call(do, **arguments)

    def run(self, *argv: str) -> str:
        """A program's output; it must succeed."""
        done = self.call("execute", argv=list(argv))
        assert done["status"] == 0, done
        return str(done["out"])

    def accept(self, script: str, **about: Any) -> str:
        """A new job's id."""
        return str(self.call("accept", script=script, about={"queue": "own", **about}))

    def play(self, script: str, template: str = "", **about: Any) -> Ended:
        """A job from start to end, of queue `own` where it has a template."""
        if template:
            self.call("write", path=OWN, text=template)
        ended = self.call("play", job=self.accept(script, **about))
        del ended["seconds"]
        return Ended(**ended)


@pytest.fixture(scope="session")
def dom0(request: pytest.FixtureRequest) -> Iterator[Dom0]:
    """Booted for the session, unless it runs: then it is used, and left running."""
    ours = machine.pid() is None or bool(_crashes)
    try:
        machine.up()
    except machine.OuterCrash as error:
        _boot_again(str(error))
    yield Dom0()
    if ours:
        machine.down()


@pytest.fixture
def nothing_left(dom0: Dom0) -> Iterator[None]:
    """Dom0 is empty after the test; it was before, for it is booted so and every test ends with this."""
    yield
    assert dom0.call("left") == []


def _boot_again(why: str) -> None:
    _crashes.append(why)
    machine.down()
    machine.up()


def _died() -> str:
    """Why a test that failed says nothing: the machine is dead, or programs in dom0 die as programs do not; else nothing."""
    try:
        machine.check(machine.state())
        found = machine.wounds(driver.call("kernel_log"))
    except machine.OuterCrash as error:
        return str(error)
    return f"programs in dom0 died by the emulation's fault: {found[-1]}" if found else ""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """Notes a machine's death before the session's own end of it."""
    report = yield
    if report.failed and call.when != "teardown" and "dom0" in getattr(item, "fixturenames", ()):
        item.stash[_death] = _died()
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Once in a session, a test during which the machine has died is run again in a new one; and it is said."""
    if "dom0" not in getattr(item, "fixturenames", ()):
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    reports = runtestprotocol(item, nextitem=nextitem, log=False)
    if why := item.stash.get(_death, ""):
        if not _crashes:
            _boot_again(why)
            del item.stash[_death]
            item._initrequest()  # type: ignore[attr-defined]
            reports = runtestprotocol(item, nextitem=nextitem, log=False)
        else:
            for report in reports:
                if report.failed:
                    report.sections.append(("The Xen machine", f"not a failing test, but the machine has died: {why}"))
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for why in _crashes:
        terminalreporter.write_line(f"the Xen machine died and was booted again: {why}")
