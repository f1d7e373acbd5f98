"""Saves a guest of a template, from which those of jobs go on: boots one, has it wait before it is anybody, writes it down.

It is a start like any other, with a journal, that ends once the saved guest has its name; what a dead one leaves is the sweep's.
"""

import contextlib
import os
import re
import time

from . import admission, claim, facts, journal, resume, sweep, template, trace
from .batch import local
from .config import Config
from .errors import DeadlineError, NodeError, SiteError
from .format import FormatError, savefile
from .grant import Grant
from .guest import printable
from .host import clock, console, file, interrupt, lock, process, virt
from .host.log import Log
from .image import saved
from .image.room import make_room
from .image.saved import Record, Shape
from .image.store import make_directories, stamp
from .job import Job
from .journal import Journal
from .lifecycle import act, console_of_failure
from .record import Start
from .registry import HYPERVISORS
from .release import release
from .resource import Work
from .resumeplan import Saving, saving
from .units import Deadline

_LOOK_SECONDS = 0.05
_SWEEP_SECONDS = 10.0
_ALONE_SECONDS = 30.0
"""How long a guest may take to let its medium go."""


def save(path: str, config: Config, log: Log, number: int) -> str:
    """Has a saved guest of the template at `path`; where it is and what it took, in words. VmBatchError.

    `number` is that of the start, as `local.new_number` has it. KeyboardInterrupt where `interrupt` has one.
    """
    form = template.parse(file.read_trusted(path), path)
    why = resume.why_not(form, config) if form.resume else "it does not say <vbstart>RESUME</vbstart>"
    if why:
        raise SiteError(f"{path}: its guests are not saved: {why}", code="VB715")
    job = local.of_node(job_id(number), "save")
    journal.make_directories()
    make_directories(config.images_directory)
    file.make_state_directory(claim.DIRECTORY, 0o700)
    me = clock.this_process()
    deadline = Deadline(config.admission_wait + config.images_wait + config.images_transfer
                        + config.timeouts_boot * config.timeouts_scale + config.timeouts_margin)
    book = Journal.create(Start(job.id, job.token, job.user.name, job.queue, None, me, time.time(), job.batch, leader=job.leader))
    if book is None:
        raise NodeError(f"there is a job {job.id} already", "try again", code="VB907")
    work = Work(deadline, interrupt.check, log.detail)
    process.watch(work.alive, deadline)
    try:
        others = Log(config.log_directory, sweep.LOG, "save")
        sweep.journals(config, others, dry_run=False, patience=deadline.earlier(_SWEEP_SECONDS))
        return _save(job, form, book, config, work, log)
    finally:
        process.watch(None)
        release(book, "the guest of a template was to be saved", config, log, orphaned=False)
        book.close()


def job_id(number: int) -> str:
    """Of such a start: no batch system has it."""
    return f"{number}.save"


def _save(job: Job, form: template.Template, book: Journal, config: Config, work: Work, log: Log) -> str:
    begin = time.monotonic()
    with contextlib.closing(facts.Gathered()) as gathered:
        with log.phase("images"):
            known = facts.of_node(form, {}, job, config, gathered, work)
        shape = resume.shape(known, form, Grant(), config)
        there = saved.find(config.images_directory, shape)
        if there is not None:
            there.close()
            return f"{form.path}: a guest is saved already, in {there.saved.directory}"
        chosen = saving(job, form, HYPERVISORS[form.hypervisor], config, known, shape)
        claimed = admission.claim(job, form, Grant(), config, book.start.owner)
        with log.phase("admission"):
            act(claimed, book, work)
            here = admission.room(config)
            admission.check(claimed, Grant(), here)
            admission.enter(claimed, here, config, work)
            admission.begin(claimed, config, work)
        make_room(config.images_directory, config.images_limit, config.images_keep_free, shape.memory)
        saved.remove(chosen.ready, in_use=True)
        with log.phase("disks"):
            with lock.held(os.path.dirname(chosen.ready), work.deadline):
                if os.path.lexists(chosen.directory.path):
                    raise NodeError(f"{form.path}: another vmbatch save has a guest of it saved just now", "wait for its end",
                                    code="VB716")
                act(chosen.directory, book, work)
            os.mkdir(chosen.made, 0o711)
            for step in chosen.steps:
                act(step, book, work)
        trace.write(config.log_trace, trace.Begin(
            time=time.time(), token=job.token, job=job.id, user=job.user.name, uid=0, queue="", batch=job.batch,
            node=os.uname().nodename, started=book.start.time, guest=chosen.domain.name, uuid=chosen.domain.uuid,
            template=form.path, macs=(), addresses=(), images=()))
        with console_of_failure(chosen.console, config, log):
            with log.phase("start"):
                at = _start(chosen, form, book, work)
            with log.phase("boot"):
                _wait(chosen, "waiting", work.deadline.earlier(config.timeouts_boot * config.timeouts_scale))
        with log.phase("save"):
            size = _write(chosen, form, shape, at, facts.readers(form, config), work)
    return f"{form.path}: saved in {chosen.ready}, {size >> 20} MiB, after {time.monotonic() - begin:.1f} s"


def _start(chosen: Saving, form: template.Template, book: Journal, work: Work) -> template.Places:
    """Boots the guest without what a job's own will have; where a booted guest has that."""
    domain = chosen.domain
    book.promise(domain)
    virt.create(domain.uri, chosen.layout.decode(), paused=True)
    laid_out = virt.laid_out(domain.uri, domain.uuid)
    domain.release(work.deadline, last=False)
    file.write_new(domain.xml, template.waiting_xml(laid_out).encode(), 0o600)
    domain.acquire()
    book.acted()
    return template.places(laid_out, form)


def _wait(chosen: Saving, word: str, over: Deadline) -> None:
    """Until the guest says so on its console. DeadlineError, SiteError."""
    token, domain = chosen.domain.token.encode(), chosen.domain
    while True:
        said = console.read_tail(chosen.console)
        if b"vmbatch 1 %s %s" % (word.encode(), token) in said:
            return
        failed = re.search(rb"vmbatch 1 failed %s ([^\r\n]{1,500})[\r\n]" % token, said)
        if failed is not None:
            raise SiteError(f"the guest cannot be saved: {printable(failed[1])}", code="VB715")
        if (panic := console.panic(chosen.console)) is not None:
            raise SiteError(f"the guest's kernel died before it could be saved: {panic}", code="VB705")
        if (state := virt.state(domain.uri, domain.uuid)) not in ("running", None):
            raise SiteError(f"the guest ended before it could be saved: its domain is {state}", code="VB706")
        if over.passed():
            raise DeadlineError("the guest has not said on its console that it waits",
                                "its image needs VmBatch's kit, and its kernel the first console that its domain has",
                                code="VB704")
        process.alive()
        time.sleep(_LOOK_SECONDS)


def _write(chosen: Saving, form: template.Template, shape: Shape, at: template.Places, readers: int | None, work: Work) -> int:
    """Takes the medium away from the guest that waits, saves it, and gives that its name; bytes of its state."""
    domain, over = chosen.domain, work.deadline.earlier(_ALONE_SECONDS)
    with open(domain.xml, encoding="utf-8") as opened:
        medium = template.medium_xml(opened.read(), form)
    virt.detach(domain.uri, domain.uuid, medium, next(tag.target for tag in form.disks if tag.medium is not None), over)
    _wait(chosen, "alone", over)
    memory = os.path.join(chosen.made, saved.MEMORY)
    virt.save(domain.uri, domain.uuid, memory)
    for piece in chosen.after:
        piece.make(work)
    try:
        with open(memory, "rb") as opened:
            status = os.fstat(opened.fileno())
            known = savefile.parse(lambda offset, length: os.pread(opened.fileno(), length, offset))
    except FormatError as error:
        raise SiteError(f"{form.path}: its guests are not saved: libvirt's file {error.what}", error.hint, code="VB715") from None
    record = Record(shape, known.xml.decode(), chosen.disks, at, time.time(), stamp(status))
    saved.publish(chosen.made, chosen.ready, record, readers)
    saved.supersede(os.path.dirname(os.path.dirname(chosen.ready)), chosen.ready, shape)
    return status.st_size
