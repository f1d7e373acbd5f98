"""Jobs made by hand: what the lifecycle is told of them, and when they are over."""

import msgspec
import pytest

from vmbatch.batch import local
from vmbatch.errors import JobError, NodeError
from vmbatch.host import clock
from vmbatch.job import Leader, check_job_id

from .sample import TOKEN, settings

ORDER = local.Order(kind="run", user="root", group="root", name="first", cores=2, memory=1 << 30, wishes={"vbkeep": "2h"})


def test_a_job_as_it_was_ordered() -> None:
    call = local.call(ORDER)
    job = local.Local().parse(call, TOKEN, None)
    check_job_id(job.id)
    assert job.id == local.Local().job_id(call) and job.id.endswith(".run")
    assert (job.user.name, job.user.group.name, job.name, job.cores, job.memory) == ("root", "root", "first", 2, 1 << 30)
    assert (job.token, job.queue, job.batch, job.wishes) == (TOKEN, "local", "local", {"vbkeep": "2h"})
    assert (job.script, job.node_file, job.nodes, job.rank) == (None, None, (), 0)


def test_each_has_an_id_of_its_own() -> None:
    assert len({local.Local().job_id(local.call(ORDER)) for _ in range(50)}) == 50


def test_what_the_node_does_not_know() -> None:
    with pytest.raises(NodeError, match="this node knows no user nobody-such"):
        local.Local().parse(local.call(msgspec.structs.replace(ORDER, user="nobody-such")), TOKEN, None)
    with pytest.raises(JobError, match="is not a job id"):
        local.Local().parse(local.call(msgspec.structs.replace(ORDER, kind="../x")), TOKEN, None)


def test_it_is_over_with_its_maker() -> None:
    system, me = local.Local(), clock.this_process()
    assert local.call(ORDER).parent == Leader(me.pid, me.started)
    assert system.is_gone("1.run", None, Leader(me.pid, me.started)) is False
    assert system.is_gone("1.run", None, Leader(me.pid, me.started + 1)) is True
    assert system.is_gone("1.run", None, Leader((1 << 22) + 1, me.started)) is True, "beyond the largest pid"


def test_a_start_has_time_for_all_its_waits() -> None:
    config = settings(images_transfer=100.0, images_wait=200.0, admission_wait=10.0, timeouts_boot=240.0, timeouts_scale=2.0,
                      timeouts_margin=15.0)
    assert local.Local().alarm(local.call(ORDER), config) == 805.0
