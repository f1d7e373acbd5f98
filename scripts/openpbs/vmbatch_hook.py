"""VmBatch's hook for OpenPBS's pbs_mom: jobs of queues with a template run in a virtual machine of their own.

It is imported with qmgr for events of execution hosts and runs in pbs_python, whose Python (3.5 or later) need not be VmBatch's:
so it only notes what pbs_mom knows of the job, and lets VmBatch's own programs in DIRECTORY do the work. docs/openpbs.md has the
events, and what is done for each.
"""

import contextlib
import grp
import json
import os
import pwd
import re
import stat
import subprocess
import time

import pbs

DIRECTORY = "/var/spool/pbs/mom_priv"
CONFIG = "/etc/vmbatch/vmbatch.conf"
NOTES = "/run/vmbatch/openpbs"
HANDOVER = "/run/vmbatch/handover"
JOBS = "/var/lib/vmbatch/jobs"

OUTSIDE = "VMBATCH_JOB_"
"""Before the name of every variable that is the job's, and must not work on the node: remoteshell takes it off again."""
KEPT = frozenset(("ENVIRONMENT", "HOME", "LOGNAME", "PATH", "SHELL", "TERM", "USER"))
DEFAULT_ALARM = 30
MARGIN_SECONDS = 1.0
SHORT_SECONDS = 20.0
BEGUN = time.time()


def slug(job_id):
    """The job's id in file names, as VmBatch writes it."""
    if not re.match(r"[0-9]{1,18}(\[[0-9]{0,9}\])?(\.[A-Za-z0-9][A-Za-z0-9._-]{0,120})?$", job_id) or ".." in job_id:
        raise ValueError("%.80r is not a job id" % (job_id,))
    return job_id.replace("[", "-").replace("]", "")


def may_be_ours(queue):
    """Whether the configuration may have a template for the queue (vmbatch/native.py); no false "no"."""
    try:
        with open(CONFIG, "rb") as config:
            text = config.read()
    except FileNotFoundError:
        return False
    if b'"""' not in text and b"'''" not in text:
        text = b"\n".join(line for line in text.split(b"\n") if not line.lstrip().startswith(b"#"))
    return b"\\" in text or queue.encode("utf-8", "surrogateescape") in text


def has_guest(job):
    """Whether the job's prologue has handed over a guest."""
    return os.path.exists("%s/%s/record" % (HANDOVER, slug(job.id)))


def is_served(job):
    """Whether the job's queue has a template; RuntimeError if that cannot be told."""
    if has_guest(job):
        return True
    if not may_be_ours(queue_of(job)):
        return False
    status = run(["openpbs", "serves", queue_of(job)], SHORT_SECONDS)
    if status not in (0, 3):
        raise RuntimeError("VmBatch cannot tell whether queue %s has guests (see syslog)" % (queue_of(job),))
    return status == 0


def queue_of(job):
    return text(job.queue)


def text(value):
    """An attribute as text; '' where it is not set."""
    return "" if value is None else str(value)


def attribute(job, name):
    """An attribute that not every release has."""
    try:
        return text(getattr(job, name))
    except Exception:
        return ""


def is_interactive(job):
    """pbs_mom has the port of qsub there."""
    return attribute(job, "interactive").lower() not in ("", "0", "false")


def texts(values):
    """A job's resources, or its variables, each as text."""
    found = {}
    if values is not None:
        for name in values.keys():
            if values[name] is not None:
                found[str(name)] = str(values[name])
    return found


def alarm(event):
    """This hook's alarm, in seconds: pbs_mom has it in a file beside the hook (lib/Libutil/hook_save, NAME.HK)."""
    home = "/var/spool/pbs"
    with contextlib.suppress(Exception):
        home = pbs.pbs_conf["PBS_HOME"]
    try:
        with open("%s/mom_priv/hooks/%s.HK" % (home, event.hook_name)) as settings:
            for line in settings:
                name, _, value = line.strip().partition("=")
                if name == "alarm" and value.isdigit():
                    return int(value)
    except OSError:
        pass
    return DEFAULT_ALARM


def left(event):
    """Seconds until the alarm, less what it takes to come to an end."""
    return max(1.0, alarm(event) - (time.time() - BEGUN) - MARGIN_SECONDS)


def note(event, seconds):
    """Writes down what pbs_mom knows of the job, for VmBatch's prologue, which is only told job id, user and group."""
    job = event.job
    variables = texts(job.Variable_List)
    known = {
        "queue": queue_of(job), "name": attribute(job, "Job_Name"), "account": attribute(job, "Account_Name"),
        "resources": texts(job.Resource_List),
        "variables": {name: unescaped(value) for name, value in variables.items() if name.startswith("vb")},
        "exec_host": attribute(job, "exec_host2") or attribute(job, "exec_host"), "exec_vnode": attribute(job, "exec_vnode"),
        "node": pbs.get_local_nodename(), "first": bool(job.in_ms_mom()), "alarm": seconds,
        "interactive": is_interactive(job),
    }
    os.makedirs("/run/vmbatch", 0o711, exist_ok=True)
    os.makedirs(NOTES, 0o700, exist_ok=True)
    status = os.lstat(NOTES)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != 0 or status.st_mode & 0o077:
        raise RuntimeError("%s must be a directory of root's alone" % (NOTES,))
    path = "%s/%s.facts" % (NOTES, slug(job.id))
    data = (known["queue"].replace("\n", " ") + "\n" + json.dumps(known) + "\n").encode("utf-8", "surrogateescape")
    fresh = "%s.%d" % (path, os.getpid())
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)
    os.rename(fresh, path)


def unescaped(value):
    """A variable's value without the backslashes that OpenPBS writes before commas, quotes and backslashes."""
    return re.sub(r"\\([,'\"\\])", r"\1", value)


def forget(job):
    for suffix in ("facts", "verdict"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink("%s/%s.%s" % (NOTES, slug(job.id), suffix))


def run(words, seconds, output=subprocess.DEVNULL, errors=subprocess.DEVNULL):
    """A program in DIRECTORY; its exit status, negative for a signal. RuntimeError if it does not end in time."""
    environ = dict(os.environ)
    environ.pop("PBS_HOOK_CONFIG_FILE", None)
    argv = [os.path.join(DIRECTORY, words[0])] + [str(word) for word in words[1:]]
    process = subprocess.Popen(argv, cwd=DIRECTORY, env=environ, stdin=subprocess.DEVNULL, stdout=output, stderr=errors,
                               restore_signals=False)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        raise RuntimeError("%s did not end within %.0f s" % (words[0], seconds)) from None
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def group_of(job):
    """The job's group as pbs_mom names it to a prologue, else that of the account."""
    return attribute(job, "egroup") or grp.getgrgid(pwd.getpwnam(text(job.euser)).pw_gid).gr_name


def begin(event):
    """The job has come to this node: pbs_mom waits, so that nothing is done but to note what is known of the job."""
    forget(event.job)
    note(event, None)


def prologue(event):
    """Before the job's shell; pbs_mom runs no mom_priv/prologue any more where there is a hook like this one."""
    job = event.job
    if not may_be_ours(queue_of(job)) and not os.path.exists(os.path.join(DIRECTORY, "prologue.site")):
        return
    forget(job)
    note(event, alarm(event) - (time.time() - BEGUN))
    os.environ["PBS_JOBDIR"] = pwd.getpwnam(text(job.euser)).pw_dir
    try:
        status = run(["prologue", job.id, text(job.euser), group_of(job)], left(event), None, None)
    except RuntimeError as error:
        refuse(event, "rerun", str(error))
        return
    if status:
        refuse(event, *verdict(job, status))


def verdict(job, status):
    """What is to become of a job whose prologue has failed, and why: VmBatch's own words, else those of the site's hook."""
    try:
        with open("%s/%s.verdict" % (NOTES, slug(job.id))) as said:
            known = json.load(said)
        return known["verdict"], known["text"]
    except (OSError, ValueError, KeyError):
        how = "was killed by signal %d" % -status if status < 0 else "ended with exit status %d" % status
        return ("delete" if status == 1 or is_interactive(job) else "rerun"), "prologue of job %s %s" % (job.id, how)


def refuse(event, what, why):
    """Ends the start of a job: it is deleted, or goes back, is held, or takes this node's vnodes off-line."""
    job = event.job
    if what == "delete":
        job.delete()
    else:
        if what == "hold":
            job.Hold_Types = pbs.hold_types("s")
        elif what == "offline":
            own = pbs.get_local_nodename()
            for name in event.vnode_list.keys():
                if name == own or name.startswith(own + "["):
                    event.vnode_list[name].state = pbs.ND_OFFLINE
                    event.vnode_list[name].comment = "VmBatch: " + why
        job.rerun()
    event.reject(why)


def launch(event):
    """What is to be executed for the job, or for a task of it on this node: remoteshell instead.

    Every variable but OpenPBS's own gets another name, so that no LD_PRELOAD or the like of the user's works on the node.
    """
    job = event.job
    if not is_served(job):
        return
    words = [str(word) for word in event.argv]
    if len(words) == 1 and words[0].startswith("-"):
        arguments = [text(event.progname)]
    else:
        program = text(event.progname) or words[0]
        arguments = ["/bin/sh", "-c", "exec " + " ".join("'%s'" % word.replace("'", "'\\''") for word in [program] + words[1:])]
    kind = type(event.env)
    environ = {}
    for name in event.env.keys():
        own = name in KEPT or (name.startswith("PBS_") and name != "PBS_HOOK_CONFIG_FILE")
        environ[name if own else OUTSIDE + name] = event.env[name]
    environ["PATH"] = "/usr/bin:/bin"
    if "PATH" in event.env:
        environ[OUTSIDE + "PATH"] = event.env["PATH"]
    environ["PBS_JOBID"] = job.id
    environ["PBS_QUEUE"] = queue_of(job)
    event.progname = os.path.join(DIRECTORY, "remoteshell")
    event.argv = ["remoteshell"] + arguments
    event.env = kind(environ)


def attach(event):
    """A process on the node is to be made the job's: jobs that run in a guest have none here."""
    if is_served(event.job):
        event.reject("job %s runs in a guest: a process on the node cannot be a part of it" % (event.job.id,))


def preterm(event):
    """The job is about to be killed: a guest that is still being made is not waited for."""
    if os.path.exists("%s/%s.journal" % (JOBS, slug(event.job.id))) and not has_guest(event.job):
        run(["openpbs", "stop", event.job.id], SHORT_SECONDS)


def epilogue(event):
    """After the job; pbs_mom runs no mom_priv/epilogue any more where there is a hook like this one."""
    job = event.job
    ours = os.path.exists("%s/%s.journal" % (JOBS, slug(job.id)))
    if not ours and not os.path.exists(os.path.join(DIRECTORY, "epilogue.site")):
        return
    words = [
        "epilogue", job.id, text(job.euser), group_of(job), attribute(job, "Job_Name"), attribute(job, "session_id") or "0",
        listed(job.Resource_List), listed(job.resources_used), queue_of(job), attribute(job, "Account_Name") or "null",
        attribute(job, "Exit_status"),
    ]
    output, errors = outputs(job)
    run(words, left(event), output, errors)


def outputs(job):
    """The job's own files for what an epilogue says, opened as the user opens them (resmom/prolog.c, PE_IO_TYPE_STD)."""
    if is_interactive(job):
        return subprocess.DEVNULL, subprocess.DEVNULL
    join = attribute(job, "Join_Path")
    output = subprocess.DEVNULL if join.startswith("e") else opened(job, "stdout_file")
    errors = output if join.startswith("o") else opened(job, "stderr_file")
    return (errors if join.startswith("e") else output), errors


def opened(job, which):
    account = pwd.getpwnam(text(job.euser))
    groups = os.getgroups()
    try:
        path = getattr(job, which)()
        group = grp.getgrnam(group_of(job)).gr_gid
        os.setgroups(os.getgrouplist(account.pw_name, group))
        os.setegid(group)
        os.seteuid(account.pw_uid)
        try:
            fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_NOCTTY | os.O_NONBLOCK)
        finally:
            os.seteuid(0)
            os.setegid(0)
            os.setgroups(groups)
    except Exception:
        return subprocess.DEVNULL
    return fd if stat.S_ISREG(os.fstat(fd).st_mode) else subprocess.DEVNULL


def listed(values):
    return ",".join("%s=%s" % pair for pair in sorted(texts(values).items()))


def end(event):
    """Nothing of the job is left to do, or its start has failed: whatever it still owns is released."""
    if os.path.exists("%s/%s.journal" % (JOBS, slug(event.job.id))):
        run(["openpbs", "release", event.job.id], left(event))
    forget(event.job)


STARTING = {"EXECJOB_BEGIN": begin, "EXECJOB_PROLOGUE": prologue, "EXECJOB_LAUNCH": launch, "EXECJOB_ATTACH": attach}
ENDING = {"EXECJOB_PRETERM": preterm, "EXECJOB_EPILOGUE": epilogue, "EXECJOB_END": end, "EXECJOB_ABORT": end}


def is_native(job):
    """Whether the job's queue has no template for sure."""
    try:
        return not may_be_ours(queue_of(job))
    except Exception:
        return False


def respond(event):
    """What fails here gives back a job that was to start in a guest; no other is kept from its start, and none from its end."""
    for name, handler in STARTING.items():
        if event.type == getattr(pbs, name, None):
            try:
                handler(event)
            except Exception as error:
                pbs.logmsg(pbs.LOG_ERROR, "vmbatch: %s of job %s: %s" % (name.lower(), event.job.id, error))
                if not is_native(event.job):
                    refuse(event, "rerun", "VmBatch: %s" % (error,))
    for name, handler in ENDING.items():
        if event.type == getattr(pbs, name, None):
            try:
                handler(event)
            except Exception as error:
                pbs.logmsg(pbs.LOG_ERROR, "vmbatch: %s of job %s: %s" % (name.lower(), event.job.id, error))
    event.accept()


respond(pbs.event())
