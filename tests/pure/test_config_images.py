"""vmbatch.conf: the settings for images, each with what is right, and with what is wrong and why."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmbatch.config import OPTIONS, parse
from vmbatch.errors import InputError
from vmbatch.image.terms import terms

NEW = [name for name in OPTIONS if name.startswith(("images.", "userimages.")) or name == "spool.reserve"]
DIGEST = "0123456789abcdef" * 4
PATH = "must be an absolute path without '..' and without '/' at its end, not {!r}"
TEXT = "must be a string such as \"text\", not {}"
TRUTH = "must be true or false, not {}"
SIZE = "must be a size such as \"20G\", not {}"
NO_SIZE = "{!r} is not a size; write for instance \"512M\" or \"20G\""
DURATION = "must be a duration such as \"90s\", not {}"
NO_DURATION = "{!r} is not a duration; write for instance \"90s\" or \"5min\""
PROXY = "must be the URL of a proxy such as \"http://proxy.example.org:3128\", not {!r}"
HOST = "{!r} is not a host or domain such as \"example.org\""
HOSTS = "must be a list of hosts such as [\"example.org\"], not {}"
SOURCE = "{!r} is not a directory or the URL of one, with '/' at its end"
SOURCES = "must be a list of places such as [\"https://images.example.org/vm/\", \"/home/\"], not {}"
SHA = "{!r} is not a SHA-256 digest of 64 hexadecimal digits"

RIGHT: dict[str, dict[str, object]] = {
    "spool.reserve": {"true": True, "false": False},
    "images.directory": {'"/data/store"': "/data/store", "'/a b'": "/a b"},
    "images.limit": {'"2T"': 2 << 40, '"0"': 0},
    "images.keep_free": {'"512M"': 512 << 20},
    "images.largest": {'"10 GiB"': 10 << 30},
    "images.recheck": {'"0s"': 0.0, '"1d"': 86400.0, '"1.5h"': 5400.0},
    "images.connect": {'"250ms"': 0.25},
    "images.read": {'"2min"': 120.0},
    "images.transfer": {'"12h"': 43200.0},
    "images.wait": {'"90s"': 90.0},
    "images.proxy": {
        '""': "",
        '"http://proxy.example.org:3128"': "http://proxy.example.org:3128",
        '"https://u:p@proxy/"': "https://u:p@proxy/",
        '"http://[2001:db8::1]:3128"': "http://[2001:db8::1]:3128",
    },
    "images.no_proxy": {
        "[]": (),
        '["example.org", ".example.com", "10.0.0.1", "h:8080"]': ("example.org", ".example.com", "10.0.0.1", "h:8080"),
    },
    "images.ca_bundle": {'""': "", '"/etc/ssl/site.pem"': "/etc/ssl/site.pem"},
    "images.client_certificate": {'""': "", '"/etc/grid-security/hostcert.pem"': "/etc/grid-security/hostcert.pem"},
    "images.client_key": {'""': "", '"/etc/grid-security/hostkey.pem"': "/etc/grid-security/hostkey.pem"},
    "images.netrc": {'""': "", '"/etc/vmbatch/netrc"': "/etc/vmbatch/netrc"},
    "images.hash_programs": {"[]": (), '["/usr/bin/cksum", "/opt/b3sum"]': ("/usr/bin/cksum", "/opt/b3sum")},
    "images.account": {'"vmbatch-images"': "vmbatch-images"},
    "images.once_for_all_users": {"true": True, "false": False},
    "userimages.sources": {
        "[]": (),
        '["/home/", "/srv/user images/", "https://h/", "http://h:8080/a/b/", "https://[::1]/vm/"]':
            ("/home/", "/srv/user images/", "https://h/", "http://h:8080/a/b/", "https://[::1]/vm/"),
        '["/a..b/", "https://h/..a/"]': ("/a..b/", "https://h/..a/"),
    },
    "userimages.largest": {'"1G"': 1 << 30},
    "userimages.limit": {'"1T"': 1 << 40},
    "userimages.cpu": {'"1min"': 60.0},
    "userimages.memory": {'"256M"': 256 << 20},
    "userimages.digests": {"[]": (), f'["{DIGEST}", "{DIGEST.upper()}"]': (DIGEST, DIGEST)},
    "userimages.signers": {
        '""': "",
        r"'/DC=ch/DC=cern/CN=cvm-sign[0-9]*\.cern\.ch'": r"/DC=ch/DC=cern/CN=cvm-sign[0-9]*\.cern\.ch",
        r'"/CN=a\\.b"': r"/CN=a\.b",
    },
    "userimages.authorities": {'"/etc/ca"': "/etc/ca"},
}

WRONG: dict[str, dict[str, str]] = {
    "spool.reserve": {'"yes"': TRUTH.format("'yes'"), "1": TRUTH.format("1")},
    "images.directory": {
        '""': PATH.format(""), '"store"': PATH.format("store"), '"/data/"': PATH.format("/data/"),
        '"/data/../etc"': PATH.format("/data/../etc"), '"//data"': PATH.format("//data"), "1": TEXT.format("1"),
        '"/a\\u0007"': TEXT.format("'/a\\x07'"),
    },
    "images.limit": {"200": SIZE.format("200"), '"200X"': NO_SIZE.format("200X"), '"-1G"': NO_SIZE.format("-1G")},
    "images.keep_free": {"true": SIZE.format("True"), '""': NO_SIZE.format("")},
    "images.largest": {"1.5": SIZE.format("1.5"), '"1.5G"': NO_SIZE.format("1.5G")},
    "images.recheck": {"600": DURATION.format("600"), '"ten minutes"': NO_DURATION.format("ten minutes")},
    "images.connect": {"10.0": DURATION.format("10.0"), '"10"': NO_DURATION.format("10")},
    "images.read": {"false": DURATION.format("False"), '"-1s"': NO_DURATION.format("-1s")},
    "images.transfer": {'["1h"]': DURATION.format("['1h']"), '"1w"': NO_DURATION.format("1w")},
    "images.wait": {"{}": DURATION.format("{}"), '"inf"': NO_DURATION.format("inf")},
    "images.proxy": {
        '"proxy:3128"': PROXY.format("proxy:3128"), '"socks5://proxy"': PROXY.format("socks5://proxy"),
        '"http://"': PROXY.format("http://"), '"http://proxy/path"': PROXY.format("http://proxy/path"),
        '"http://a b"': PROXY.format("http://a b"), '"HTTP://proxy"': PROXY.format("HTTP://proxy"),
        "0": TEXT.format("0"), "1": TEXT.format("1"), "[]": TEXT.format("[]"), "false": TEXT.format("False"),
        '"http://proxy\\n"': TEXT.format("'http://proxy\\n'"),
    },
    "images.no_proxy": {
        '"example.org"': HOSTS.format("'example.org'"), '[1]': TEXT.format("1"), '[""]': HOST.format(""),
        '["*.example.org"]': HOST.format("*.example.org"), '["10.0.0.0/8"]': HOST.format("10.0.0.0/8"),
        '["a", "b c"]': HOST.format("b c"), '["http://h"]': HOST.format("http://h"), '["..a"]': HOST.format("..a"),
        '["ä"]': HOST.format("ä"),
    },
    "images.ca_bundle": {'"ca.pem"': PATH.format("ca.pem"), "0": TEXT.format("0"), "false": TEXT.format("False")},
    "images.client_certificate": {'"~/cert.pem"': PATH.format("~/cert.pem"), "[]": TEXT.format("[]")},
    "images.client_key": {'"/etc/./key"': PATH.format("/etc/./key"), '" "': PATH.format(" ")},
    "images.netrc": {'"/root/.netrc/"': PATH.format("/root/.netrc/"), "{}": TEXT.format("{}")},
    "images.hash_programs": {
        '"/usr/bin/cksum"': "must be a list of paths such as [\"/usr/bin/cksum\"], not '/usr/bin/cksum'",
        '["cksum"]': PATH.format("cksum"), '["/usr/bin/cksum", ""]': PATH.format(""), '[["/usr/bin/cksum"]]':
            TEXT.format("['/usr/bin/cksum']"),
    },
    "images.account": {'""': "must not be empty", "65534": TEXT.format("65534")},
    "images.once_for_all_users": {'"true"': TRUTH.format("'true'"), "0": TRUTH.format("0"), "[]": TRUTH.format("[]")},
    "userimages.sources": {
        '"/home/"': SOURCES.format("'/home/'"), "true": SOURCES.format("True"), "[0]": TEXT.format("0"),
        **{f'["{text}"]': SOURCE.format(text) for text in (
            "", "/", "/home", "home/", "//home/", "/home//", "/home/../", "/../", "https://h", "https://h/a", "https:///", "https://",
            "http://h/a?b/", "http://h/#a/", "http://u@h/", "ftp://h/", "file:///home/", "HTTPS://h/", "http://a b/",
            "https://h/a/../", "https://h/a b/", "*")},
        '["/home/", "/srv"]': SOURCE.format("/srv"), "['https://h\\a/']": SOURCE.format("https://h\\a/"),
    },
    "userimages.largest": {"20": SIZE.format("20"), '"big"': NO_SIZE.format("big")},
    "userimages.limit": {"[]": SIZE.format("[]"), '"1P"': NO_SIZE.format("1P")},
    "userimages.cpu": {"300": DURATION.format("300"), '"5 minutes"': NO_DURATION.format("5 minutes")},
    "userimages.memory": {"1": SIZE.format("1"), '"1g"': NO_SIZE.format("1g")},
    "userimages.digests": {
        f'"{DIGEST}"': f"must be a list of SHA-256 digests, not '{DIGEST}'", "[1]": TEXT.format("1"), '[""]': SHA.format(""),
        f'["{DIGEST[1:]}"]': SHA.format(DIGEST[1:]), f'["{DIGEST}0"]': SHA.format(f"{DIGEST}0"),
        f'["{DIGEST}", "{"G" * 64}"]': SHA.format("g" * 64), f'["sha256:{DIGEST}"]': SHA.format(f"sha256:{DIGEST}"),
        f'[" {DIGEST}"]': SHA.format(f" {DIGEST}"),
    },
    "userimages.signers": {
        "'/CN=('": "is not a regular expression: missing ), unterminated subpattern at position 4",
        "'['": "is not a regular expression: unterminated character set at position 0",
        "'*'": "is not a regular expression: nothing to repeat at position 0",
        "['/CN=a']": TEXT.format("['/CN=a']"), "1": TEXT.format("1"), r'"a\nb"': TEXT.format(r"'a\nb'"),
    },
    "userimages.authorities": {'""': PATH.format(""), '"certificates"': PATH.format("certificates")},
}


def value(option: str, toml: str) -> object:
    section, _, name = option.partition(".")
    return getattr(parse(f"[{section}]\n{name} = {toml}\n".encode(), "c"), f"{section}_{name}")


def mistake(option: str, toml: str) -> str:
    with pytest.raises(InputError) as caught:
        value(option, toml)
    [line] = caught.value.lines()
    assert line.startswith(f"c:2: {option}: ")
    return line.removeprefix(f"c:2: {option}: ")


def test_every_option_is_here() -> None:
    assert sorted(RIGHT) == sorted(WRONG) == sorted(NEW)


@pytest.mark.parametrize(("option", "toml"), [(option, toml) for option, values in RIGHT.items() for toml in values])
def test_right(option: str, toml: str) -> None:
    found = value(option, toml)
    assert found == RIGHT[option][toml]
    assert type(found) is type(RIGHT[option][toml])


@pytest.mark.parametrize(("option", "toml"), [(option, toml) for option, values in WRONG.items() for toml in values])
def test_wrong(option: str, toml: str) -> None:
    assert mistake(option, toml) == WRONG[option][toml]


@pytest.mark.parametrize("place", ["/home/./", "/./", "https://h/./", "https://h//", "https://h/a//b/", "https://h:99999/", "https://h:x/"])
def test_a_place_from_which_nothing_could_come(place: str) -> None:
    """Nothing is ignored: no name of an image is ever found below these."""
    assert mistake("userimages.sources", f'["{place}"]') == SOURCE.format(place)


@pytest.mark.parametrize("pattern", ["a{4294967295}", "(" * 2000 + ")" * 2000], ids=["repeat", "depth"])
def test_a_pattern_that_is_too_much(pattern: str) -> None:
    assert mistake("userimages.signers", f"'{pattern}'").startswith("is not a regular expression: ")


def test_all_mistakes_at_once() -> None:
    sections = ", ".join(sorted({name.partition(".")[0] for name in OPTIONS}))
    text = "\n".join(["[images]", "limit = 1", "proxy = 'x'", "recheck = 1", "", "[userimages]", "sources = ['/home']",
                      "digest = []", "[image]", "limit = '1G'", "[spool]", "reserve = 'no'"])
    with pytest.raises(InputError) as caught:
        parse(text.encode(), "c")
    assert caught.value.problems == [
        (2, f"images.limit: {SIZE.format('1')}"),
        (3, f"images.proxy: {PROXY.format('x')}"),
        (4, f"images.recheck: {DURATION.format('1')}"),
        (7, f"userimages.sources: {SOURCE.format('/home')}"),
        (8, "userimages.digest: unknown setting; did you mean userimages.digests?"),
        (10, f"image.limit: unknown section [image]; there are {sections}"),
        (12, f"spool.reserve: {TRUTH.format(repr('no'))}"),
    ]


def test_defaults() -> None:
    config = parse(b"", "c")
    assert (config.images_directory, config.images_account) == ("/var/lib/vmbatch/store", "nobody")
    assert (config.images_limit, config.images_keep_free, config.images_largest) == (200 << 30, 4 << 30, 64 << 30)
    assert (config.userimages_sources, config.userimages_digests, config.userimages_signers) == ((), (), "")
    assert (config.spool_reserve, config.images_once_for_all_users) == (True, False)


def test_terms() -> None:
    """Nothing of the site's goes along when a user's image is downloaded, but the way there is the same."""
    text = b"""[images]
    proxy = 'http://proxy:3128'
    no_proxy = ['h']
    ca_bundle = '/ca'
    client_certificate = '/cert'
    client_key = '/key'
    netrc = '/netrc'
    connect = '3s'
    read = '4s'
    transfer = '5s'
    wait = '6s'
    recheck = '7s'
    hash_programs = ['/p']
    account = 'a'
    [userimages]
    cpu = '2.9s'
    memory = '1M'
    sources = ['/home/']
    """
    found = terms(parse(text, "c"))
    for access, certificate, key, netrc in ((found.access, "/cert", "/key", "/netrc"), (found.bare, "", "", "")):
        assert (access.client_certificate, access.client_key, access.netrc) == (certificate, key, netrc)
        assert (access.proxy, access.no_proxy, access.ca_bundle) == ("http://proxy:3128", ("h",), "/ca")
        assert (access.connect_timeout, access.read_timeout) == (3.0, 4.0)
    assert (found.transfer, found.wait, found.recheck) == (5.0, 6.0, 7.0)
    assert (found.programs, found.account, found.sources) == (("/p",), "a", ("/home/",))
    assert (found.user_cpu, found.user_memory) == (2, 1 << 20)


@given(st.text(max_size=60) | st.from_regex(r"(https?://h|/)[ -~]{0,20}/", fullmatch=True))
def test_whatever_place(text: str) -> None:
    read = OPTIONS["userimages.sources"].read
    try:
        assert read([text]) == (text,)
    except ValueError as error:
        assert str(error) in (SOURCE.format(text), TEXT.format(repr(text)))
        return
    assert text.endswith("/")
    assert text != "/"
    assert ".." not in text.split("/")


@given(st.text(max_size=60))
def test_whatever_pattern(text: str) -> None:
    try:
        assert OPTIONS["userimages.signers"].read(text) == text
    except ValueError as error:
        assert "is not a regular expression" in str(error) or "must be a string" in str(error)
