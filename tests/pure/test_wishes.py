"""What a submitter asks for with -l other=, and what the template and the site make of it."""

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from vmbatch.batch.wishes import parse_wishes
from vmbatch.errors import JobError
from vmbatch.facts import choose
from vmbatch.template import ImageSource

from .sample import TEMPLATE, form, settings

IMAGE = "/home/alice/image.qcow2"
SOURCES = ("/home/", "https://images.example.org/vm/")
SITE = settings(userimages_sources=SOURCES)
ROOT_OFFER = "<target dev='vda' bus='virtio'/>"
SECOND = (
    "<disk type='file'><driver type='qcow2'/><vbdisksource source='/srv/data.qcow2' copy_method='{}'/>"
    "<vbuserimage name='vbdata' format='vhd'/><target dev='vdb'/>{}</disk>"
)


def offering(method: str = "cow", second: str = "copy", readonly: str = "") -> str:
    text = TEMPLATE.replace("'cow'", f"'{method}'").replace(ROOT_OFFER, f"<vbuserimage/>{ROOT_OFFER}")
    return text.replace("<interface", SECOND.format(second, readonly) + "<interface", 1)


@pytest.mark.parametrize(
    ("resources", "wishes"),
    [
        ("", {}),
        ("nodes=1:ppn=2,mem=512mb,walltime=00:10:00", {}),
        (f"other=vbuserimage={IMAGE}", {"vbuserimage": IMAGE}),
        (f"other=vbuserimage={IMAGE},nodes=1,walltime=00:10:00", {"vbuserimage": IMAGE}),
        (f"nodes=1:ppn=2,other=vbuserimage={IMAGE},walltime=00:10:00", {"vbuserimage": IMAGE}),
        (f"nodes=1,neednodes=1,other=vbuserimage={IMAGE}", {"vbuserimage": IMAGE}),
        ("other=vba=/a;vbb=/b;vbc=/c", {"vba": "/a", "vbb": "/b", "vbc": "/c"}),
        ("other=vba=/a,other=vbb=/b", {"vba": "/a", "vbb": "/b"}),
        ("other= vba=/a ; vbb=/b ", {"vba": "/a", "vbb": "/b"}),
        ("other=vba=/a;", {"vba": "/a"}),
        ("other=;;vba=/a;;", {"vba": "/a"}),
        ("other=vbuserimage=https://h/get?name=el9.raw&v=2", {"vbuserimage": "https://h/get?name=el9.raw&v=2"}),
        ("other=vbuserimage==x", {"vbuserimage": "=x"}),
        ("other=vbuserimage=/home/alice/a b:c+d@e", {"vbuserimage": "/home/alice/a b:c+d@e"}),
    ],
)
def test_wishes(resources: str, wishes: dict[str, str]) -> None:
    assert parse_wishes(resources) == wishes


@pytest.mark.parametrize(
    "resources",
    [
        "other=",
        "other",
        "other=gpu",
        "other=fast;gpu=2",
        "other=VBuserimage=/a",
        "other=v=b",
        "other=xvbuserimage=/a",
        "other=gpu=vbuserimage=/a",
        "others=vbuserimage=/a",
        "Other=vbuserimage=/a",
        "vbuserimage=/a",
        "nodes=1:other=vbuserimage=/a",
        "procs=1;vbuserimage=/a",
    ],
)
def test_what_is_not_for_vmbatch(resources: str) -> None:
    assert parse_wishes(resources) == {}


def test_others_beside_ours() -> None:
    assert parse_wishes("other=gpu;vba=/a;fast=1,mem=1gb") == {"vba": "/a"}


@pytest.mark.parametrize("text", ["vba", "vba=", "vba ; vbb=/b", "vbb=/b;vba=", "vba=,mem=1gb", "vba,mem=1gb"])
def test_a_value_is_missing(text: str) -> None:
    with pytest.raises(JobError) as caught:
        parse_wishes(f"nodes=1,other={text}")
    assert caught.value.lines() == ["-l other=vba: a value is missing (write -l other=vba=VALUE)"]


@pytest.mark.parametrize("text", ["other=vba=/a;vba=/b", "other=vba=/a;vba=/a", "other=vba=/a,mem=1gb,other=vba=/b"])
def test_asked_for_twice(text: str) -> None:
    with pytest.raises(JobError) as caught:
        parse_wishes(text)
    assert caught.value.lines() == ["-l other: vba is asked for twice"]


def test_long_names_are_cut() -> None:
    with pytest.raises(JobError) as caught:
        parse_wishes("other=vb" + "x" * 1000)
    assert caught.value.what == f"-l other=vb{'x' * 78}: a value is missing"


def test_a_value_ends_at_a_comma() -> None:
    """Torque quotes no comma, so what is behind one is another resource; none of those is without a value."""
    assert parse_wishes("other=vba=/a,vbb=/b") == {"vba": "/a"}
    assert parse_wishes("other=vba=/a,other=vbb=/b;gpu") == {"vba": "/a", "vbb": "/b"}
    with pytest.raises(JobError) as caught:
        parse_wishes("other=vba=/a,b,nodes=1")
    assert caught.value.lines() == [
        "-l other: no value can have a comma in it, and 'b' stands behind one (write %2C in a URL, or rename the file)"]


@given(st.text() | st.text("vbother=;, /", max_size=60))
def test_only_job_errors(resources: str) -> None:
    try:
        wishes = parse_wishes(resources)
    except JobError:
        return
    for name, value in wishes.items():
        assert name.startswith("vb")
        assert value
        assert "," not in name + value
        assert ";" not in name + value


def test_nothing_asked_for() -> None:
    assert choose(form(), {}, settings()) == {}
    assert choose(form(offering()), {}, SITE) == {}


@pytest.mark.parametrize(
    ("method", "readonly", "chosen"),
    [
        ("cow", "", "cow"),
        ("copy", "", "copy"),
        ("shared", "", "cow"),
        ("download", "", "copy"),
        ("shared", "<readonly/>", "shared"),
        ("cow", "<readonly/>", "cow"),
    ],
)
def test_the_users_image_is_used_as_the_templates_is(method: str, readonly: str, chosen: str) -> None:
    found = choose(form(offering(second=method, readonly=readonly)), {"vbdata": IMAGE}, SITE)
    assert found == {2: ImageSource((IMAGE,), chosen, "qcow2", "", None, "qcow2")}


def test_a_private_download_becomes_a_copy() -> None:
    text = offering(second="download").replace("/srv/data.qcow2", "http://h/data.qcow2")
    assert choose(form(text), {"vbdata": IMAGE}, SITE)[2].method == "copy"


def test_two_images() -> None:
    url = "https://images.example.org/vm/el9.raw.xz"
    assert choose(form(offering()), {"vbdata": IMAGE, "vbuserimage": url}, SITE) == {
        0: ImageSource((url,), "cow", "raw", "xz", None, "qcow2"),
        2: ImageSource((IMAGE,), "copy", "qcow2", "", None, "qcow2"),
    }


@pytest.mark.parametrize(
    ("wish", "image_format", "packed"),
    [
        ("/home/alice/a.raw", "raw", ""),
        ("/home/alice/a.img", "raw", ""),
        ("/home/alice/a.qcow2", "qcow2", ""),
        ("/home/alice/a.QCOW2", "qcow2", ""),
        ("/home/alice/a.qcow", "qcow", ""),
        ("/home/alice/a.vhd", "vhd", ""),
        ("/home/alice/a", "vhd", ""),
        ("/home/alice/a.vmdk", "vhd", ""),
        ("/home/alice.raw/a", "vhd", ""),
        ("/home/alice/raw", "vhd", ""),
        ("/home/alice/a b.raw", "raw", ""),
        ("https://images.example.org/vm/a.qcow2", "qcow2", ""),
        ("https://images.example.org/vm/a.qcow2.gz", "qcow2", "gz"),
        ("https://images.example.org/vm/a.img.bz2", "raw", "bz2"),
        ("https://images.example.org/vm/a.vhd.zst", "vhd", "zst"),
        ("https://images.example.org/vm/a.xz", "vhd", "xz"),
        ("https://images.example.org/vm/a.qcow2?v=1.raw.gz", "qcow2", ""),
        ("https://images.example.org/vm/get?a.raw", "vhd", ""),
        ("https://images.example.org:443/vm/a.raw", "raw", ""),
        ("https://IMAGES.example.org/vm/deep/a.raw", "raw", ""),
    ],
)
def test_format_by_the_name_or_as_the_template_says(wish: str, image_format: str, packed: str) -> None:
    assert choose(form(offering()), {"vbdata": wish}, SITE) == {
        2: ImageSource((wish,), "copy", image_format, packed, None, "qcow2")
    }


def refused(wish: str, name: str = "vbuserimage") -> list[str]:
    with pytest.raises(JobError) as caught:
        choose(form(offering()), {name: wish}, SITE)
    return caught.value.lines()


@pytest.mark.error("VB308")
def test_no_sources_no_images() -> None:
    with pytest.raises(JobError) as caught:
        choose(form(offering()), {"vbuserimage": IMAGE}, settings())
    assert caught.value.lines() == [
        "vbuserimage: this site takes no images of users (the admins name [userimages] sources)"
    ]


@pytest.mark.parametrize(
    "wish",
    ["image.qcow2", "~/image.qcow2", "home/alice/i.raw", "/", "//home/alice/i.raw", "/home/alice/", "/home/alice/../bob/i.raw",
     "/home/./i.raw", "/home/alice/..", "ftp://images.example.org/vm/i.raw", "file:///home/alice/i.raw", "HTTPS://h/i.raw"],
)
def test_not_a_place(wish: str) -> None:
    assert refused(wish) == [
        f"vbuserimage={wish}: not an absolute path, and not a URL with http:// or https:// "
        "(write for instance -l other=vbuserimage=/home/alice/image.qcow2)"
    ]


@pytest.mark.parametrize(
    "wish",
    ["/srv/i.raw", "/home", "/homes/i.raw", "/etc/shadow", "http://images.example.org/vm/i.raw", "https://images.example.org/i.raw",
     "https://images.example.org/vmx/i.raw", "https://images.example.org:8443/vm/i.raw", "https://evil.example.org/vm/i.raw",
     "https://images.example.org@evil.example.org/vm/i.raw", "https://images.example.org/vm/../i.raw",
     "https://images.example.org/vm/%2e%2e/i.raw", "https://images.example.org/vm/..;x/i.raw",
     "https://images.example.org\\vm\\i.raw", "https://images.example.org/vm//i.raw", "http://",
     "https://images.example.org/vm/ä.raw", "https://images.example.org/vm/a b"],
)
def test_not_from_there(wish: str) -> None:
    assert refused(wish) == [
        f"vbuserimage={wish}: images may not come from there (this site allows /home/, https://images.example.org/vm/)"
    ]


@pytest.mark.parametrize("wish", ["/home/alice/i\nraw", "/home/alice/\x00", "/home/" + "i" * 2000, "/home/\x1b[2J", "\udcff"])
def test_nothing_of_a_strange_name_is_shown(wish: str) -> None:
    assert refused(wish) == ["vbuserimage: this is not the path or URL of an image"]


def test_long_names_of_images_are_cut() -> None:
    wish = "/srv/" + "i" * 1000
    assert refused(wish)[0].startswith(f"vbuserimage={wish[:200]}: images may not come from there")


@pytest.mark.parametrize("packed", ["gz", "bz2", "xz", "zst"])
def test_local_images_are_not_unpacked(packed: str) -> None:
    assert refused(f"{IMAGE}.{packed}") == [f"vbuserimage={IMAGE}.{packed}: local images are not unpacked (unpack it)"]


@pytest.mark.parametrize(("name", "meant"), [
    ("vbother", ""), ("vb", ""), ("vbUserimage", "did you mean vbuserimage? "), ("vbuserimage ", "did you mean vbuserimage? "),
    ("vbmemry", "did you mean vbmemory? "), ("vbmemory", ""), ("vbx" * 100, ""),
])
def test_unknown_name(name: str, meant: str) -> None:
    assert refused(IMAGE, name) == [
        f"{name[:80]}: jobs of this queue cannot ask for that ({meant}they can ask for vbuserimage, vbdata)"
    ]


def test_a_template_that_offers_nothing() -> None:
    with pytest.raises(JobError) as caught:
        choose(form(), {"vbuserimage": IMAGE}, SITE)
    assert caught.value.lines() == [
        "vbuserimage: jobs of this queue cannot ask for that (they can ask for nothing by -l other=)"
    ]


@hypothesis_settings(deadline=None)
@given(st.text(max_size=100) | st.from_regex(r"(/home|https://images\.example\.org/vm)/[ -~]{0,40}", fullmatch=True))
def test_whatever_is_wished_for(wish: str) -> None:
    try:
        found = choose(form(offering()), {"vbdata": wish}, SITE)[2]
    except JobError as error:
        assert all("\n" not in line for line in error.lines())
        return
    assert wish.startswith(("/home/", "https://images.example.org/vm/", "https://images.example.org:443/vm/"))
    assert found.places == (wish,)
    assert found.checksum is None
