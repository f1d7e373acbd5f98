"""What a job gets of what it asks for: a template, cores, memory, its disks after a failure, files before and after it."""

import re

import msgspec

from .config import Config
from .errors import JobError, SiteError
from .job import Job
from .staging import Stage
from .template import Template
from .units import format_size, parse_duration, parse_size

_NAMES = ("vbcores", "vbkeep", "vbmemory", "vbstagein", "vbstageout", "vbtemplate")
_PATH = re.compile(r"(?!\.\.?(?:/|$))[^/]+(?:/(?!\.\.?(?:/|$))[^/]+)*")
_MANY = 100


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """`cores` and `memory` (bytes) are None for the template's own; `keep` in seconds; `notes` say whence all this comes."""

    cores: int | None = None
    memory: int | None = None
    keep: float = 0.0
    stage: Stage | None = None
    notes: tuple[str, ...] = ()


def template_name(job: Job, config: Config) -> str:
    """Which of its queue's templates a job gets: the one it asks for, else its feature's, its type's, or the first. JobError."""
    names = config.queues.get(job.queue)
    if not names:
        raise SiteError(f"queue {job.queue} has no template", "see [queues] in vmbatch.conf", code="VB102")
    asked = job.wishes.get("vbtemplate")
    chosen = {config.features[feature]: f"feature {feature}" for feature in job.features if feature in config.features}
    if asked is not None:
        name, why = f"{asked.removesuffix('.xml')}.xml", f"vbtemplate={asked[:80]}"
    elif len(chosen) > 1:
        raise JobError(f"the features {', '.join(why.partition(' ')[2] for why in chosen.values())} stand for several templates",
                       "ask for one of them", code="VB205")
    elif chosen:
        name, why = next(iter(chosen.items()))
    elif job.type in config.types:
        name, why = config.types[job.type], f"job type {job.type}"
    else:
        return names[0]
    if name not in names:
        raise JobError(f"{why}: queue {job.queue} has no such template",
                       f"it has {', '.join(known.removesuffix('.xml') for known in names)}", code="VB205")
    return name


def grant(job: Job, form: Template, config: Config) -> Grant:
    """What the template and the site allow of what the job asks for. JobError."""
    images = tuple(tag.user.name for tag in form.disks if tag.user is not None)
    for name in job.wishes:
        if name not in (*images, *form.requests, "vbtemplate"):
            raise unknown(name, (*images, *form.requests))
    notes: list[str] = []
    cores, memory = _cores(job, form, notes), _memory(job, form, notes)
    return Grant(cores=cores, memory=memory, keep=_keep(job, form, config), stage=_stage(job, form), notes=tuple(notes))


def unknown(name: str, offers: tuple[str, ...]) -> JobError:
    """For a name that the template does not offer."""
    import difflib

    near = [] if name in _NAMES else difflib.get_close_matches(name, (*offers, *_NAMES), 1, 0.75)
    meant = f"did you mean {near[0]}? " if near else ""
    can = f"they can ask for {', '.join(offers)}" if offers else "they can ask for nothing by -l other="
    return JobError(f"{name[:80]}: jobs of this queue cannot ask for that", f"{meant}{can}", code="VB202")


def _cores(job: Job, form: Template, notes: list[str]) -> int | None:
    limits = form.resources
    given = job.cores if "cores" in limits.of_job else None
    wish = job.wishes.get("vbcores")
    if wish is None and given is None:
        return None
    asked = given or 0
    if wish is not None:
        if not re.fullmatch(r"[1-9][0-9]{0,3}", wish):
            raise JobError(f"vbcores={wish[:80]}: not a number of cores", "write for instance vbcores=4", code="VB203")
        asked = int(wish)
        most = min(int(form.requests["vbcores"]), limits.max_cores or 9999)
        if not max(1, limits.min_cores) <= asked <= most:
            raise JobError(f"vbcores={wish}: guests of this template can have {max(1, limits.min_cores)} to {most} cores",
                           code="VB204")
        if given is not None and asked > given:
            raise JobError(f"vbcores={wish}: the batch system gives the job {given} on this node",
                           "ask it for more, such as by -l nodes=1:ppn=", code="VB204")
    elif limits.max_cores and asked > limits.max_cores:
        raise JobError(f"the job has {asked} cores on this node, and guests of this template have {limits.max_cores} at most",
                       "ask for fewer, or for another template", code="VB204")
    cores = max(asked, limits.min_cores, 1)
    if cores % limits.core_step:
        raise JobError(f"guests of this template cannot have {cores} cores", f"ask for a multiple of {limits.core_step}",
                       code="VB204")
    notes.append(f"the guest has {cores} cores, {_why(wish is not None, cores == asked)}")
    return cores


def _memory(job: Job, form: Template, notes: list[str]) -> int | None:
    limits = form.resources
    given = None if job.memory is None or "memory" not in limits.of_job else max(0, job.memory - limits.overhead)
    wish = job.wishes.get("vbmemory")
    if "memory" in limits.of_job and job.memory is None and wish is None:
        notes.append("the batch system does not say how much memory the job has: the guest gets the template's")
    if wish is None and given is None:
        return None
    asked = given or 0
    less = f", less {format_size(limits.overhead)} for the hypervisor" if limits.overhead else ""
    if wish is not None:
        asked = _size("vbmemory", wish)
        least, most = max(limits.memory_step, limits.min_memory), int(form.requests["vbmemory"])
        most = min(most, limits.max_memory or most)
        if not least <= asked <= most:
            raise JobError(f"vbmemory={wish}: guests of this template can have {format_size(least)} to {format_size(most)}",
                           code="VB204")
        if given is not None and asked > given:
            raise JobError(f"vbmemory={wish}: the batch system gives the job {format_size(job.memory or 0)} on this node{less}",
                           "ask it for more, such as by -l mem=", code="VB204")
    elif limits.max_memory and asked > limits.max_memory:
        raise JobError(f"the job has {format_size(job.memory or 0)} of memory on this node, and guests of this template have "
                       f"{format_size(limits.max_memory)} at most", "ask for less, or for another template", code="VB204")
    floor = -(-max(limits.min_memory, limits.memory_step) // limits.memory_step) * limits.memory_step
    memory = max(asked // limits.memory_step * limits.memory_step, floor)
    notes.append(f"the guest has {format_size(memory)} of memory, {_why(wish is not None, memory >= floor and asked >= floor)}"
                 f"{less if wish is None and asked >= floor else ''}")
    return memory


def _why(wished: bool, as_asked: bool) -> str:
    if wished:
        return "as was asked for"
    return "as the job" if as_asked else "the least that its template gives"


def _size(name: str, text: str) -> int:
    """Bytes; also as Torque writes them, `8gb`."""
    match = re.fullmatch(r"([0-9]{1,15})([KMGTkmgt]?)[bB]?", text)
    if not match or not int(match[1]):
        raise JobError(f"{name}={text[:80]}: not a size", f"write for instance {name}=8G", code="VB203")
    return parse_size(match[1] + match[2].upper())


def _keep(job: Job, form: Template, config: Config) -> float:
    """Seconds for which what is left of a failed job is kept."""
    wish = job.wishes.get("vbkeep")
    if wish is None:
        return 0.0
    try:
        seconds = parse_duration(wish)
    except ValueError:
        raise JobError(f"vbkeep={wish[:80]}: not a duration", "write for instance vbkeep=2h", code="VB203") from None
    if not config.requests_keep:
        raise JobError("vbkeep: this site keeps nothing of failed jobs", "its admins set [requests] keep", code="VB207")
    longest = min(form.requests["vbkeep"], config.requests_keep_longest)
    if not 0 < seconds <= longest:
        raise JobError(f"vbkeep={wish[:80]}: failed jobs of this template are kept for {longest / 60:g}min at most", code="VB207")
    return seconds


def _stage(job: Job, form: Template) -> Stage | None:
    """Which of the user's files go into the guest before the job, and which come back after it."""
    if not {"vbstagein", "vbstageout"} & job.wishes.keys():
        return None
    return Stage(
        send=_paths("vbstagein", job), fetch=_paths("vbstageout", job), send_limit=int(form.requests.get("vbstagein", 0)),
        fetch_limit=int(form.requests.get("vbstageout", 0)), shared=tuple(share.target for share in form.shares))


def _paths(name: str, job: Job) -> tuple[str, ...]:
    """A list of paths with `:` between them, each below the job's working directory."""
    if name not in job.wishes:
        return ()
    found = []
    for part in job.wishes[name].split(":"):
        path = re.sub("/+", "/", part.removeprefix("./")).rstrip("/")
        if part.startswith("/") or not path.isprintable() or not _PATH.fullmatch(path) or len(path.encode()) > 1000:
            raise JobError(f"{name}: {part[:80]!r} is not a path below the job's working directory",
                           f"write for instance {name}=data:run/input.txt, without '..'", code="VB203")
        found.append(path)
    if len(found) > _MANY:
        raise JobError(f"{name}: {len(found)} paths are too many", f"there may be {_MANY}; name a directory instead",
                       code="VB203")
    return tuple(dict.fromkeys(found))
