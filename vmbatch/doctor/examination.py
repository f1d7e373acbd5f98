"""Many checks at once: each in a process of its own, so that none hangs another."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator

import msgspec

from ..errors import UnreachableError, VmBatchError
from ..host.distant import Question
from ..units import Deadline
from .checks import CHECKS
from .finding import UNNEEDED, Check, Finding, Site, error, of_error, ok, warning, worst

_AT_ONCE = 2 * (os.cpu_count() or 1) + 2
"""Some only wait; more would only wait for each other."""


def examine(site: Site, checks: Iterable[Check] = CHECKS, *, broken: bool = False,
            patience: float = 1.0) -> Iterator[tuple[Check, list[Finding]]]:
    """What each check finds, in their order; with `broken` settings only what needs none. `patience`: a factor on their time.

    None are found by a check that is left out, as another one has found what is in its way.
    """
    todo = deque(check for check in checks if not (broken and check.settings))
    asked: deque[tuple[Check, Question | None, Deadline]] = deque()
    failed: set[str] = set()
    while todo or asked:
        while todo and len(asked) < _AT_ONCE and not any(todo[0].needs == check.name for check, _, _ in asked):
            asked.append(_ask(todo.popleft(), site, patience, failed))
        check, question, over = asked.popleft()
        found = [] if check.needs in failed else _heard(question, over)
        if worst(found) == "error":
            failed.add(check.name)
        yield check, [msgspec.structs.replace(each, check=check.name) for each in found]


def _ask(check: Check, site: Site, patience: float, failed: set[str]) -> tuple[Check, Question | None, Deadline]:
    may = (os.geteuid() == 0 or not check.root) and check.needs not in failed
    seconds = max(check.seconds, check.reading if site.whole else 0.0) * patience
    return check, Question(check.name, _task(check, site)) if may else None, Deadline(seconds)


def _task(check: Check, site: Site) -> Callable[[], list[Finding]]:
    return lambda: look(check, site)


def look(check: Check, site: Site) -> list[Finding]:
    """What one check finds, here and now; what it raises is found, too."""
    found: list[Finding] = []
    try:
        found.extend(check.look(site))
    except VmBatchError as wrong:
        found += of_error(wrong)
    except OSError as wrong:
        found.append(error(": ".join(filter(None, (str(wrong.filename or ""), wrong.strerror or str(wrong))))))
    return found


def _heard(question: Question | None, over: Deadline) -> list[Finding]:
    if question is None:
        return [warning("only root can tell", "run vmbatch doctor as root")]
    try:
        found: list[Finding] = question.answer(list[Finding], over)
    except UnreachableError:
        if not over.passed():
            return [error("its process was killed", "has the node memory left? see dmesg")]
        return [error("no answer in time", "what it looks at hangs: a file server, libvirtd, a name service, or a command")]
    except RuntimeError as defect:
        return [error(f"a defect in VmBatch: {str(defect).strip().splitlines()[-1]}", "report it with the output of --json")]
    return found or [ok(UNNEEDED)]
