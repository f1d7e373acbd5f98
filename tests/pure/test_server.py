"""The answer of Torque's server about a job: exact, or refused."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmbatch.batch.server import read
from vmbatch.batch.wishes import parse_variables
from vmbatch.errors import JobError, NodeError

ANSWER = ("<Data><Job><Job_Id>42.vm</Job_Id><Job_Name>a&lt;b&gt;&amp;</Job_Name><Resource_List><mem>512mb</mem>"
          "<nodes>1:ppn=2</nodes><other>vbmemory=8G;x,mem=100gb</other></Resource_List><Variable_List>PBS_O_HOME=/home/alice,VB_CORES=2,A=&quot;x&quot;"
          "</Variable_List><etime>1700000000</etime><x></x><y/></Job></Data>")


@pytest.mark.parametrize("text", [ANSWER, f"{ANSWER}\n", f'<?xml version="1.0"?>\n{ANSWER}'])
def test_answer(text: str) -> None:
    assert read(text) == ("42.vm", {"mem": "512mb", "nodes": "1:ppn=2", "other": "vbmemory=8G;x,mem=100gb"},
                          'PBS_O_HOME=/home/alice,VB_CORES=2,A="x"', 1.7e9)


@pytest.mark.parametrize("injected", [
    "</Job_Name><Resource_List><mem>100gb</mem></Resource_List><Job_Name>", "<!--", "<![CDATA[", "<?x ?>", "</Job></Data>", "<",
    ">", "<a b='c'>", "</Job_Name><x></x><Job_Name>",
])
def test_what_a_user_wrote_changes_nothing(injected: str) -> None:
    """Even if the server did not escape it."""
    with pytest.raises(NodeError, match="the server's answer about the job cannot be understood"):
        read(ANSWER.replace("a&lt;b", injected))


@pytest.mark.parametrize("text", [ANSWER[:-1], ANSWER[:-7], ANSWER + ANSWER, "<Data></Job>", "</Data>", "qstat: Unknown <"])
@pytest.mark.error("VB915")
def test_broken(text: str) -> None:
    with pytest.raises(NodeError):
        read(text)


def test_nothing() -> None:
    assert read("<Data></Data>") == read("") == ("", {}, "", None)
    assert read(ANSWER.replace("1700000000", "soon"))[3] is None


@given(st.text("<>/ab&;\"=! ?-", max_size=40))
def test_only_node_errors(text: str) -> None:
    with contextlib.suppress(NodeError):
        read(text)


@pytest.mark.parametrize(("text", "wishes"), [
    ("PBS_O_HOME=/home/alice,VB_MEMORY=8G,VB_STAGEIN=a:b;c", {"vbmemory": "8G", "vbstagein": "a:b;c"}),
    ("vblank_mode=0,VBOX=1,VB_=1,XVB_A=1,VB_a=1,VB_A B=1", {}),
    ("VB_KEEP=a=b", {"vbkeep": "a=b"}),
    ("", {}),
])
def test_variables(text: str, wishes: dict[str, str]) -> None:
    assert parse_variables(text) == wishes


def test_variables_refused() -> None:
    with pytest.raises(JobError) as caught:
        parse_variables("VB_KEEP=,A=1")
    assert caught.value.lines() == ["-v VB_KEEP: a value is missing (write -v VB_KEEP=VALUE)"]
    with pytest.raises(JobError, match="VB_KEEP is asked for twice"):
        parse_variables("VB_KEEP=1h,VB_KEEP=1h")
