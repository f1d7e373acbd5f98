"""vmbatch.conf: every kind of mistake, all of a file at once, each with its line and what to write instead."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmbatch.config import OPTIONS, Config, parse
from vmbatch.errors import InputError, SiteError

MISTAKES = Path(__file__).parent / "templates" / "mistakes.conf"


def mistakes(text: str) -> list[tuple[int, str]]:
    with pytest.raises(InputError) as caught:
        parse(text.encode(), "c")
    return caught.value.problems


def test_all_mistakes_at_once(golden: Callable[[str, str], None]) -> None:
    with pytest.raises(SiteError) as caught:
        parse(MISTAKES.read_bytes(), "vmbatch.conf")
    golden("mistakes.conf.txt", "".join(f"{line}\n" for line in caught.value.lines()))


def test_each_mistake_is_on_its_line() -> None:
    """Every line that sets something in the file is wrong but one; the sections stand for those that are."""
    text = MISTAKES.read_text()
    lines = [number for number, line in enumerate(text.split("\n"), 1) if " = " in line and line != 'vm = "debian.xml"']
    lines = [number for number in lines if not text.split("\n")[number - 2].startswith("[[")]
    reported = [line for line, _ in mistakes(text)]
    double = text.split("\n").index("[[log]]") + 1
    assert reported == sorted([*lines, double])


@pytest.mark.error("VB101")
def test_one_mistake_is_one_line() -> None:
    with pytest.raises(InputError) as caught:
        parse(b"[share]\n\nowner = 'me'\n", "/etc/vmbatch/vmbatch.conf")
    assert caught.value.lines() == ["/etc/vmbatch/vmbatch.conf:3: share.owner: must be a whole number, not 'me'"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[share\n", 1),
        ("[share]\nsource = server:/share\n", 2),
        ("[share]\ntype = 'a'\ntype = 'b'\n", 3),
        ("\n\n[share]\n[share]\n", 4),
        ('[share]\nsource = """open\nfor ever\n', 3),
        ("[users]\nallow = [\n  'alice',\n", 3),
    ],
)
def test_no_toml(text: str, line: int) -> None:
    assert [number for number, _ in mistakes(text)] == [line]


def test_not_utf_8() -> None:
    with pytest.raises(InputError, match="c:2: is not UTF-8"):
        parse(b"[share]\nsource = '\xff'\n", "c")


@pytest.mark.parametrize(
    "text",
    [
        "share.owner = 'me'\n",
        "[ share ]\nowner = 'me'\n",
        "[\"share\"]\nowner = 'me'\n",
        "['share']\n'owner' = 'me'\n",
        "\t[share]  # comment\n\towner='me'\n",
        "share = {owner = 'me'}\n",
        "[share]\r\nowner = 'me'\r\n",
    ],
    ids=ascii,
)
def test_line_of_every_spelling(text: str) -> None:
    line = next(number for number, part in enumerate(text.split("\n"), 1) if "owner" in part)
    assert mistakes(text) == [(line, "share.owner: must be a whole number, not 'me'")]


def test_a_comment_gives_no_line() -> None:
    assert mistakes("[share]\n# owner = 1\n\nowner = 'me'\n")[0][0] == 4


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("share.souce", "share.source"),
        ("share.dir", "share.directory"),
        ("timeouts.boots", "timeouts.boot"),
        ("users.denied", "users.deny"),
    ],
)
def test_did_you_mean(wrong: str, right: str) -> None:
    [(_, text)] = mistakes(f"{wrong} = 1\n")
    assert right in text


def test_unknown_settings_and_sections_name_what_there_is() -> None:
    [(_, text)] = mistakes("[guest]\nzzzzzz = 1\n")
    assert all(name in text for name in OPTIONS if name.startswith("guest."))
    [(_, text)] = mistakes("[zzz]\na = 1\n")
    assert all(name.partition(".")[0] in text for name in OPTIONS)


def test_defaults_are_values_that_may_be_written() -> None:
    """What the table calls a default is read back as itself."""
    for name, option in OPTIONS.items():
        written: object = option.default
        if name.endswith(".*"):
            continue
        if option.read is OPTIONS["spool.keep_free"].read:
            written = str(option.default)
        elif isinstance(option.default, float) and name != "timeouts.scale":
            written = f"{option.default:g}s"
        elif isinstance(option.default, tuple):
            written = list(option.default)
        assert option.read(written) == option.default, name


def test_what_slurms_settings_cannot_be() -> None:
    with pytest.raises(InputError) as caught:
        parse(b"[slurm]\nnode_fault = 'resume'\nask = 5", "c")
    assert caught.value.problems == [
        (2, "slurm.node_fault: must be one of drain, hold, requeue, not 'resume'"),
        (3, "slurm.ask: must be a duration such as \"90s\", not 5"),
    ]


def test_every_option_is_a_field() -> None:
    fields = {field.name for field in msgspec.structs.fields(Config)}
    assert fields == {name.replace(".", "_").removesuffix("_*") for name in OPTIONS}


def test_empty() -> None:
    config = parse(b"", "c")
    assert config.queues == {}
    assert config.share_source == ""
    assert config.template_path("vm") is None


def test_template_path() -> None:
    config = parse(b"[queues]\nvm = 'debian.xml'\n[templates]\ndirectory = '/t'\n", "c")
    assert config.template_path("vm") == "/t/debian.xml"
    assert config.template_path("VM") is None


def test_templates_of_a_queue() -> None:
    config = parse(b"[queues]\nvm = ['debian.xml', 'el7.xml']\n[types]\nold = 'el7.xml'\n[features]\nel7 = 'el7.xml'\n"
                   b"[templates]\ndirectory = '/t'\n", "c")
    assert config.queues == {"vm": ("debian.xml", "el7.xml")}
    assert (config.types, config.features) == ({"old": "el7.xml"}, {"el7": "el7.xml"})
    assert (config.template_path("vm"), config.template_path("vm", "el7.xml")) == ("/t/debian.xml", "/t/el7.xml")


@pytest.mark.parametrize(("text", "said"), [
    ("[queues]\nvm = []", "queues.vm: a list of templates must not be empty, and name each once"),
    ("[queues]\nvm = ['a.xml', 'a.xml']", "queues.vm: a list of templates must not be empty, and name each once"),
    ("[queues]\nvm = ['a.xml', '../b.xml']",
     "queues.vm: '../b.xml' is not the file name of a template; write for instance \"debian.xml\""),
    ("[types]\nkvm = ['a.xml']", "types.kvm: must be a string such as \"text\", not ['a.xml']"),
    ("[types]\n'k v' = 'a.xml'", "types.k v: 'k v' is not the name of a job type"),
    ("[features]\n'k&v' = 'a.xml'", "features.k&v: 'k&v' is not the name of a feature"),
    ("[requests]\nqstat = 'qstat'",
     "requests.qstat: must be an absolute path without '..' and without '/' at its end, not 'qstat'"),
])
def test_mistakes_in_requests(text: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(text.encode(), "c")
    assert caught.value.what == f"c:2: {said}"


@pytest.mark.parametrize(
    "name", ["../x.xml", "/etc/x.xml", ".xml", "-x.xml", "x.xml\n", "x", "x y.xml", "a/b.xml", "x.xml\x00", "ä.xml"], ids=ascii
)
def test_no_template(name: str) -> None:
    [(line, text)] = mistakes(f"[queues]\nvm = {msgspec.json.encode(name).decode()}\n")
    assert line == 2
    assert text.startswith("queues.vm: ")


@pytest.mark.parametrize("pattern", ["vm-{job}", "{job}", "{job}-vm", "a{job}b", "vm"])
def test_hostname(pattern: str) -> None:
    assert parse(f"[guest]\nhostname = '{pattern}'\n".encode(), "c").guest_hostname == pattern


@pytest.mark.parametrize(
    "pattern", ["", "-vm", "VM", "vm.example", "vm_1", "{user}", "{job", "vm {job}", "v" * 61, "{job}" + "v" * 61, "ä"]
)
def test_no_hostname(pattern: str) -> None:
    [(_, text)] = mistakes(f"[guest]\nhostname = '{pattern}'\n")
    assert "vm-{job}" in text


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_only_input_errors(text: bytes) -> None:
    try:
        parse(text, "c")
    except InputError as error:
        assert error.lines()[0].startswith("c")


@given(
    st.sampled_from(sorted(set(OPTIONS) - {"queues.*"})),
    st.one_of(
        st.integers(),
        st.floats(),
        st.booleans(),
        st.text(),
        st.lists(st.integers() | st.text() | st.lists(st.none())),
        st.dictionaries(st.text(), st.integers()),
    ),
)
def test_no_value_is_too_strange(name: str, value: object) -> None:
    """A reader takes any TOML value: it gives a value or a ValueError in one line."""
    try:
        OPTIONS[name].read(value)
    except ValueError as error:
        assert "\n" not in str(error)
