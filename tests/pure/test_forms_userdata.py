"""The site's user-data: every kind, every mistake with its line, and how it comes together with ours."""

import base64
import email
import json
from email.message import Message

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from vmbatch.context import cloudinit, userdata
from vmbatch.context.userdata import Part, SiteFile, UserData, parse, render
from vmbatch.errors import InputError

INSTANCE = "01234567-89ab-4def-8123-456789abcdef"


def read(text: str | bytes) -> UserData:
    return parse(SiteFile("/etc/site", text if isinstance(text, bytes) else text.encode()))


def wrong(text: str | bytes) -> list[tuple[int, str]]:
    with pytest.raises(InputError) as caught:
        read(text)
    assert caught.value.path == "/etc/site"
    return caught.value.problems


def merged(text: str) -> dict[str, object]:
    whole = render("cidata", INSTANCE, read(text))
    assert whole.startswith(b"#cloud-config\n")
    found = yaml.safe_load(whole)
    assert isinstance(found, dict)
    return found


def parts(text: str) -> list[Message]:
    message = email.message_from_bytes(render("cidata", INSTANCE, read(text)))
    assert message["MIME-Version"] == "1.0" and message.get_content_type() == "multipart/mixed" and not message.defects
    found = message.get_payload()
    assert isinstance(found, list)
    return [part for part in found if isinstance(part, Message)]


def content(part: Message) -> bytes:
    data = part.get_payload(decode=True)
    assert isinstance(data, bytes)
    return data


def test_lists_come_together_ours_first_and_last() -> None:
    found = merged("#cloud-config\nbootcmd: [a, [b, c]]\nruncmd: [d]\n")
    boot, run = found["bootcmd"], found["runcmd"]
    assert isinstance(boot, list) and isinstance(run, list)
    assert boot[:1] == ["("] and boot[-3:] == [")", "a", ["b", "c"]]
    assert run[0] == "d" and run[-1] == "fi"
    assert not any("start_epilog" in str(line) for line in boot), "the job would begin before the site's commands have run"


def test_the_epilog_starts_early_where_nothing_comes_late() -> None:
    found = merged("#cloud-config\nbootcmd: [a]\ntimezone: UTC\n")
    assert "runcmd" not in found
    assert "start_epilog() {" in found["bootcmd"]  # type: ignore[operator]


@pytest.mark.parametrize(("text", "init", "config", "final"), [
    ("", ["bootcmd"], [], []),
    ("runcmd: [a]", ["bootcmd"], ["runcmd"], ["scripts-user"]),
    ("write_files: []\nusers: [a]", ["bootcmd", "write-files", "users-groups"], [], []),
    ("timezone: UTC\ngrowpart: {mode: auto}\nresize_rootfs: true", ["bootcmd", "growpart", "resizefs"], ["timezone"], []),
    ("mounts: []\nca_certs: {}", ["bootcmd", "mounts", "ca-certs"], [], []),
])
def test_modules_by_key(text: str, init: list[str], config: list[str], final: list[str]) -> None:
    found = merged("#cloud-config\n" + text)
    assert [found[f"cloud_{stage}_modules"] for stage in ("init", "config", "final")] == [init, config, final]


@pytest.mark.parametrize("text", [
    "packages: [x]", "package_update: true", "ntp: {}", "something_new: 1", "write_files: [{path: /a, defer: true}]"])
def test_the_images_own_modules_for_what_we_do_not_know(text: str) -> None:
    found = merged("#cloud-config\n" + text)
    assert not any(key.endswith("_modules") for key in found)
    assert found["runcmd"], "the epilog waits for all the others"


@pytest.mark.parametrize("key", sorted(cloudinit.LOCKED))
def test_ours_wins(key: str) -> None:
    ours = cloudinit.LOCKED[key]
    assert merged(f"#cloud-config\n{key}: {json.dumps(ours)}\n")[key] == ours
    ((line, text),) = wrong(f"#cloud-config\na: 1\n{key}: other\n")
    assert (line, text) == (3, f"sets {key}, which VmBatch needs to be {json.dumps(ours)}; take it out")


@pytest.mark.parametrize("key", sorted(cloudinit.DEFAULTS))
def test_the_sites_wins(key: str) -> None:
    assert merged(f"#cloud-config\n{key}: theirs\n")[key] == "theirs"


@pytest.mark.parametrize(("key", "why"), [
    ("ssh_keys", "VmBatch gives every guest the job's own host key"),
    ("hostname", "VmBatch names the guest: [guest] hostname in vmbatch.conf"),
    ("power_state", "it would end the guest before its job"),
    ("network", "cloud-init takes no network from user-data; write a <vbnetwork> in the template"),
    ("launch-index", "cloud-init would pass over the whole user-data"),
    ("merge_how", "VmBatch merges"),
    ("cloud_init_modules", "VmBatch chooses the modules by the other keys"),
])
def test_refused(key: str, why: str) -> None:
    assert wrong(f"#cloud-config\n{key}: []\n") == [(2, f"sets {key}: {why}; take it out")]


def test_all_mistakes_at_once() -> None:
    found = wrong("#cloud-config\nfqdn: x\nruncmd: ls\nbootcmd: [[], 1]\nssh_pwauth: true\n")
    assert [line for line, _ in found] == [2, 3, 4, 5]
    assert found[1][1] == "has runcmd that is not a list of commands, each a text or a list of texts"


@pytest.mark.parametrize(("text", "line", "what"), [
    ("", 1, "begins with ''; VmBatch takes"),
    ("hello\n", 1, "begins with 'hello'; VmBatch takes"),
    ("#cloud-config-archive\n- a\n", 1, "begins with '#cloud-config-archive'"),
    ("#cloud-config-jsonp\n", 1, "begins with '#cloud-config-jsonp'"),
    ("#cloud-config x\na: 1\n", 1, "begins with '#cloud-config x'"),
    ("#cloud-boothook\n", 1, "begins with '#cloud-boothook'"),
    ("#part-handler\n", 1, "begins with '#part-handler'"),
    ("## template: jinja\n#cloud-config\n", 1, "begins with '## template: jinja'"),
    (" #cloud-config\n", 1, "begins with ' #cloud-config'"),
    ("\n#cloud-config\n", 1, "begins with ''"),
    ("#cloud-config\na: 1\r\n", 2, "has carriage returns or NULs"),
    ("#!/bin/sh\n\0\n", 2, "has carriage returns or NULs"),
    (b"#cloud-config\na: \xff\n", 2, "is not text in UTF-8"),
    (b"\x1f\x8b\x08\x00", 1, "is not text in UTF-8"),
    (b"#cloud-config\n" + b"#" * userdata.LIMIT, 0, f"has {userdata.LIMIT + 14} bytes; user-data has {userdata.LIMIT} at most"),
    ("#include\nhttps://a/b\nftp://a/b\n", 3, "includes 'ftp://a/b', which is no URL"),
    ("#include /etc/passwd\n", 1, "includes '/etc/passwd'"),
    ("#include-once\nhttps://\n", 2, "includes 'https://'"),
])
def test_what_it_may_not_be(text: str | bytes, line: int, what: str) -> None:
    ((at, said),) = wrong(text)
    assert at == line and said.startswith(what), said


def test_a_script() -> None:
    script = "#!/bin/sh -e\necho 'one' \"two\" ☃\n"
    assert read(script) == UserData({}, (Part("text/x-shellscript", script),))
    first, last = parts(script)
    assert first.get_content_type() == "text/x-shellscript" and content(first).decode() == script
    assert first.get_filename() == "part-001", "cloud-init runs it before runcmd, which starts the epilog"
    config = yaml.safe_load(content(last))
    assert config["runcmd"][-1] == "fi" and config["cloud_final_modules"] == ["scripts-user"]


@pytest.mark.parametrize("text", ["#include\n\n# why\nhttps://a/b?c=d\nfile:///etc/x\n", "#include-once https://a/b\n", "#INCLUDE http://a\n"])
def test_includes_come_before_ours(text: str) -> None:
    found = parts(text)
    kinds = [part.get_content_type() for part in found]
    include = "text/x-include-" + ("once-url" if "once" in text else "url")
    assert kinds == ["text/cloud-config", include, *["text/cloud-config"] * 3]
    assert content(found[1]).decode() == text
    assert [part["Merge-Type"] for part in found] == [
        None, None, "list(prepend)+dict(no_replace,recurse_list)+str()", "list(append)+dict(no_replace,recurse_list)+str()",
        "dict(replace)+list()+str()"]
    own = [yaml.safe_load(content(part)) for part in (found[0], *found[2:])]
    assert not {"bootcmd", "runcmd"} & set(own[0]) and not any(key.endswith("_modules") for key in own[0])
    assert [set(each) for each in own[1:]] == [{"bootcmd"}, {"runcmd"}, set(cloudinit.LOCKED)]


MIME = """\
Content-Type: multipart/mixed; boundary="=x="
MIME-Version: 1.0

--=x=
Content-Type: text/cloud-config

#cloud-config
bootcmd: [one]
--=x=
Content-Type: text/plain

#!/bin/sh
echo script
--=x=
Content-Type: text/cloud-config; charset="us-ascii"
Content-Transfer-Encoding: base64

@BASE64@
--=x=--
"""
SECOND = "#cloud-config\nbootcmd: [two]\ntimezone: UTC\n"


def mime(second: str = SECOND, old: str = "", new: str = "") -> str:
    assert old in MIME
    return MIME.replace(old, new).replace("@BASE64@", base64.b64encode(second.encode()).decode())


def test_a_message() -> None:
    found = read(mime())
    assert found.config == {"bootcmd": ["one", "two"], "timezone": "UTC"}
    assert found.parts == (Part("text/x-shellscript", "#!/bin/sh\necho script"),)
    script, config = parts(mime())
    assert content(script) == b"#!/bin/sh\necho script"
    assert yaml.safe_load(content(config))["bootcmd"][-2:] == ["one", "two"]


@pytest.mark.parametrize(("text", "line", "what"), [
    (mime(old="bootcmd: [one]", new="a: 1\nbootcmd: *x"), 9, "cannot be read as YAML: an alias"),
    (mime("#cloud-config\na: 1\nhostname: x\n"), 18, "part 3, line 3: sets hostname"),
    (mime("#cloud-config\ntimezone: UTC\n", "bootcmd: [one]", "timezone: CET"), 18, "part 3, line 2: sets timezone, which"),
    (mime("binary"), 18, "part 3, line 1: begins with 'binary'"),
    (mime(old="text/plain", new="text/cloud-config"), 12, "has a part with the Content-Type text/cloud-config, which begins"),
    (mime(old="text/plain", new="text/part-handler"), 12, "has a part with the Content-Type text/part-handler"),
    (mime(old="text/plain", new="text/plain\nMerge-Type: dict(replace)"), 13, "has a part with Merge-Type; VmBatch merges"),
    (mime(old="text/plain", new="text/plain\nLaunch-Index: 1"), 13, "has a part with Launch-Index"),
    (mime(old="text/plain", new="message/rfc822"), 12, "has a part of type message/rfc822 in another one"),
    (mime(old="MIME-Version: 1.0\n", new=""), 1, "has a Content-Type but no MIME-Version: 1.0"),
    (mime().replace("--=x=--\n", ""), 7, "is not a well-formed MIME message: CloseBoundaryNotFoundDefect"),
    ("MIME-Version: 1.0\nContent-Type: multipart/mixed\n\nx\n", 1, "is not a MIME message of 1 to 64 parts"),
    ("MIME-Version: 1.0\nContent-Type: application/gzip\n\nx\n", 4, "begins with 'x'"),
])
def test_mistakes_in_a_message(text: str, line: int, what: str) -> None:
    at, said = wrong(text)[0]
    assert at == line and said.startswith(what), (at, said)


def test_a_message_of_one_part() -> None:
    assert read("MIME-Version: 1.0\nContent-Type: text/cloud-config\n\n#cloud-config\na: 1\n").config == {"a": 1}
    assert wrong("MIME-Version: 1.0\nContent-Type: text/cloud-config\n\n#cloud-config\na: 1\na: 1\n")[0][0] == 6


def test_many_and_deep_parts() -> None:
    many = 'MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary="x"\n\n' + "--x\n\n#!/bin/sh\n" * 65 + "--x--\n"
    assert wrong(many) == [(1, "is not a MIME message of 1 to 64 parts")]
    head = "".join(f'--{n - 1}\nContent-Type: multipart/mixed; boundary="{n}"\n\n' for n in range(1, 3000))
    deep = 'MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary="0"\n\n' + head
    assert wrong(deep)


def test_a_config_that_cloud_init_would_take_for_a_message() -> None:
    """convert_string in cloudinit/user_data.py looks for the words in the first 4096 bytes."""
    text = "#cloud-config\nusers: ['Mime-Version: 1.0']\n"
    (part,) = parts(text)
    assert yaml.safe_load(content(part))["users"] == ["Mime-Version: 1.0"]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-10**17, 10**17) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=20), inner, max_size=4), max_leaves=20)


@given(st.dictionaries(st.text(max_size=20), VALUES))
def test_what_we_write_is_json_and_yaml_and_ascii(values: dict[str, object]) -> None:
    text = cloudinit.dump(values)
    assert text.isascii() and all(byte >= 32 or byte == 10 for byte in text) and b"\x7f" not in text
    assert yaml.safe_load(text) == values
    if "\\U" not in text.decode():
        assert json.loads(text) == values


@given(st.text())
def test_what_an_admin_writes_arrives(text: str) -> None:
    """YAML of the site's, through our reader and writer, is in the guest what cloud-init would have read of it."""
    source = "#cloud-config\n" + yaml.safe_dump({"motd": text, "n": [1, 2.5, None, True]}, allow_unicode=True)
    try:
        expected = yaml.safe_load(source)
    except yaml.YAMLError:
        return
    found = merged(source)
    assert found["motd"] == expected["motd"] and found["n"] == [1, 2.5, None, True]


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(data: bytes) -> None:
    multipart = b"Content-Type: multipart/mixed; boundary=a\nMIME-Version: 1\n\n--a\n"
    for head in (b"", b"#cloud-config\n", b"#include\n", b"MIME-Version: 1.0\n", multipart):
        try:
            read(head + data)
        except InputError as error:
            assert error.problems
