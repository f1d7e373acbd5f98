"""`vmbatch doctor`: what this node needs for guests, and whether it has it."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

import click

from ..errors import INTERRUPTED
from . import complete

if TYPE_CHECKING:
    from ..config import Config
    from ..doctor.finding import Finding
    from ..errors import VmBatchError

_COLOURS = {"ok": "green", "warning": "yellow", "error": "red"}
_NAME_WIDTH = 13
_INDENT = 9 + _NAME_WIDTH + 1


@click.command()
@click.option("--json", "as_json", is_flag=True, help="one JSON object, when all is done")
@click.option("--brief", is_flag=True, help="one line, for monitoring: what is not as it should be")
@click.option("--only", multiple=True, metavar="NAME", shell_complete=complete.checks, help="this check alone; may be repeated")
@click.option("--images", "whole", is_flag=True, help="read the templates' images, and compare them with their digests")
@click.option("--boot", "booted", metavar="TEMPLATE", shell_complete=complete.templates,
              help="boot a guest from TEMPLATE, too: a path, or a name in [templates] directory")
@click.option("--user", help="whose guest that is, as if the user had submitted a job  [default: who called sudo]")
def doctor(as_json: bool, brief: bool, only: tuple[str, ...], whole: bool, booted: str | None, user: str | None) -> None:
    """Check all that guests need on this node, and say what to do. Changes nothing.

    Exit status: 0 if all is well, 1 if there are warnings, 2 if there are errors.

    \b
    Example: vmbatch doctor --boot debian.xml --user alice
    """
    from ..doctor.checks import CHECKS, READ
    from ..doctor.examination import examine
    from ..doctor.finding import LEVELS, UNNEEDED, worst
    from ..doctor.settings import open_site

    if as_json and brief:
        raise click.UsageError("--json or --brief, not both")
    known = (*READ, *(check.name for check in CHECKS))
    if unknown := [name for name in only if name not in known]:
        raise click.BadParameter(f"there is no check {unknown[0]}; there are {', '.join(known)}", param_hint="--only")
    user = user or os.environ.get("SUDO_USER")
    if booted is not None and not user:
        raise click.UsageError("--boot needs --user: in whose name the guest is made")
    if booted is not None and os.geteuid() != 0:
        raise click.UsageError("--boot is for root, as hooks are")
    shown = not as_json and not brief
    site, found, broken = open_site(user=user or "", whole=whole)
    found = [finding for finding in found if not only or finding.check in only]
    for finding in found if shown else ():
        _show(finding)
    left_out = [check.name for check in CHECKS if broken and check.settings and (not only or check.name in only)]
    for check, findings in examine(site, [check for check in CHECKS if not only or check.name in only], broken=broken,
                                   patience=site.config.timeouts_scale):
        found += findings
        left_out += [] if findings else [check.name]
        for finding in findings if shown else ():
            if only or finding.found != UNNEEDED:
                _show(finding)
    trial = None
    if booted is not None and broken:
        found.append(_left_out())
    elif booted is not None and user is not None:
        trial = _Trial(_place(booted, site.config), user, shown=shown)
        found.append(trial.run(site.config))
    if as_json:
        _print_json(found, left_out, trial)
    elif brief:
        click.echo(_brief(found))
    else:
        counts = {level: sum(finding.level == level for finding in found) for level in LEVELS}
        click.echo(f"\n{counts['ok']} ok, {_counted(counts['warning'], 'warning')}, {_counted(counts['error'], 'error')}")
        if left_out:
            click.echo(f"Once that is mended, look again: nothing could be said of {', '.join(left_out)}")
        elif any(finding.check == "templates" and finding.level == "error" for finding in found):
            click.echo("Once the templates are mended, look again: what only they need was not looked at")
    sys.exit(LEVELS.index(worst(found)))


def _left_out() -> Finding:
    from ..doctor.finding import Finding

    return Finding("error", "no guest was booted, as the settings cannot be read", check="boot")


def _show(finding: Finding) -> None:
    """A finding, and below it what to do; as wide as the terminal, if it is one."""
    import shutil
    import textwrap

    level = click.style(f"{finding.level if finding.level == 'ok' else finding.level.upper():8}", fg=_COLOURS[finding.level])
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 1 << 16
    for text, before in ((finding.found, ""), (finding.advice, "→ ")):
        if text:
            lines = textwrap.wrap(before + text, max(width - _INDENT, 40), subsequent_indent=" " * len(before),
                                  break_long_words=False, break_on_hyphens=False)
            head = f"{level} {finding.check:{_NAME_WIDTH}} " if not before else " " * _INDENT
            click.echo(head + f"\n{' ' * _INDENT}".join(lines))


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _brief(found: list[Finding]) -> str:
    """As monitoring shows it: the worst first."""
    from ..doctor.finding import LEVELS

    wrong = sorted((finding for finding in found if finding.level != "ok"), key=lambda finding: -LEVELS.index(finding.level))
    if not wrong:
        return f"VMBATCH OK - all is as it should be: {_counted(len(found), 'condition')}"
    said = "; ".join(f"{finding.level} {finding.check}: {finding.found}" for finding in wrong)
    return f"VMBATCH {wrong[0].level.upper()} - {said}"


def _print_json(found: list[Finding], left_out: list[str], trial: _Trial | None) -> None:
    import msgspec

    from ..doctor.finding import worst

    phases = None if trial is None else [{"name": name, "seconds": round(seconds, 3)} for name, seconds in trial.phases]
    click.echo(msgspec.json.format(msgspec.json.encode(
        {"node": os.uname().nodename, "time": round(time.time(), 3), "level": worst(found), "findings": found,
         "left_out": left_out, "boot": phases})))


def _place(name: str, config: Config) -> str:
    """The template's path: by its path, or by its name with or without `.xml`."""
    if "/" in name:
        return name
    return os.path.join(config.templates_directory, name if name.endswith(".xml") else f"{name}.xml")


class _Trial:
    """One guest, from its template to its ready file, and away."""

    def __init__(self, template: str, user: str, *, shown: bool) -> None:
        self.template = template
        self.user = user
        self.shown = shown
        self.phases: list[tuple[str, float]] = []

    def run(self, config: Config) -> Finding:
        """What came of it. Ends the program if a signal does, once the guest is removed."""
        import grp
        import pwd

        from .. import alone
        from ..batch import local
        from ..doctor.finding import Finding
        from ..errors import VmBatchError

        begin = time.monotonic()
        ready = 0.0
        try:
            group = grp.getgrgid(pwd.getpwnam(self.user).pw_gid).gr_name
        except KeyError:
            raise click.BadParameter(f"this node knows no user {self.user}", param_hint="--user") from None
        call = local.call(local.Order(kind="doctor", user=self.user, group=group, name="doctor"))
        self._say(f"\nboot of {self.template} for {self.user}: job {local.Local().job_id(call)}")
        try:
            with alone.guest(call, self.template, config, "doctor", self._hear):
                ready = time.monotonic() - begin
        except VmBatchError as wrong:
            return self._failure(wrong)
        except KeyboardInterrupt:
            click.echo("vmbatch: interrupted; the guest is removed", err=True)
            sys.exit(INTERRUPTED)
        said = f"{os.path.basename(self.template)}: {self.user} could log in after {ready:.3f} s"
        finding = Finding("ok", f"{said}; removed after {time.monotonic() - begin - ready:.3f} s more", check="boot")
        if self.shown:
            _show(finding)
        return finding

    def _failure(self, wrong: VmBatchError) -> Finding:
        from ..doctor.finding import Finding

        finding = Finding("error", f"{os.path.basename(self.template)}: {wrong.what}", wrong.hint, check="boot")
        if self.shown:
            _show(finding)
            for line in wrong.detail:
                click.echo(" " * _INDENT + line)
        return finding

    def _hear(self, name: str, seconds: float | None) -> None:
        if seconds is not None:
            self.phases.append((name, seconds))
            self._say(f"  {name:24}{seconds:9.3f} s" if not name.startswith("guest ") else f"    {name:22}{seconds:9.3f} s")

    def _say(self, text: str) -> None:
        if self.shown:
            click.echo(text)
