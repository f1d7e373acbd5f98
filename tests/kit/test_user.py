"""user.sh: the submitting user in passwd, group, shadow and gshadow, and the home directory."""

from .guest import Guest

OURS = "alice:x:1500:1501::/home/alice:/bin/bash\n"


def create(guest: Guest, **context: str) -> str:
    guest.base.mkdir(exist_ok=True)
    output = guest.evaluate("create_user; hand_over", guest.context | context)
    assert output == ""
    return guest.read("etc/passwd")


def test_new_user(guest: Guest) -> None:
    before = guest.read("etc/passwd")
    assert create(guest) == OURS + before
    assert guest.read("etc/group") == (
        "staff.x:x:1501:\nphysics:x:1600:alice\ngrid:x:1700:alice\nroot:x:0:\ndaemon:x:1:\nwheel:x:10:root,bob\n"
    )
    assert guest.read("etc/shadow") == "alice:*:::::::\nroot:!:19000:0:99999:7:::\n"
    assert guest.read("etc/gshadow") == ("staff.x:!::\nphysics:!::alice\ngrid:!::alice\nroot:*::\nwheel:::root,bob\n")
    assert (guest.root / "etc/shadow").stat().st_mode & 0o777 == 0o640
    assert (guest.root / "etc/gshadow").stat().st_mode & 0o777 == 0o600
    assert (guest.root / "etc/passwd").stat().st_mode & 0o777 == 0o644
    assert not (guest.root / "etc/.vmbatch").exists()


def test_twice_is_once(guest: Guest) -> None:
    guest.write("etc/group", "grid:x:99:\nroot:x:0:\n")
    create(guest)
    names = ("passwd", "group", "shadow", "gshadow", "shells")
    once = [guest.read(f"etc/{name}") for name in names]
    create(guest)
    assert [guest.read(f"etc/{name}") for name in names] == once


def test_uid_taken(guest: Guest) -> None:
    guest.write("etc/passwd", "root:x:0:0::/root:/bin/sh\nbob:x:1500:100::/home/bob:/bin/sh\n")
    passwd = create(guest)
    assert passwd.index("alice:") < passwd.index("bob:x:1500:")


def test_same_name(guest: Guest) -> None:
    guest.write("etc/passwd", "root:x:0:0::/root:/bin/sh\nalice:x:7:7::/:/bin/sh\nbob:x:8:8::/:/bin/sh")
    guest.write("etc/shadow", "alice:$6$secret:1:2:3::::\nbob:!:::::::\n")
    assert create(guest) == OURS + "root:x:0:0::/root:/bin/sh\nbob:x:8:8::/:/bin/sh\n"
    assert guest.read("etc/shadow") == "alice:*:::::::\nbob:!:::::::\n"


def test_names_are_no_patterns(guest: Guest) -> None:
    others = "axb:x:1:1::/:/bin/sh\na.b:x:2:2::/:/bin/sh\na.bc:x:3:3::/:/bin/sh\nxa.b$:x:4:4::/:/bin/sh\n"
    guest.write("etc/passwd", others + "a.b$:x:5:5::/:/bin/sh\n[a]*:x:6:6::/:/bin/sh\n")
    guest.write("etc/group", "g:x:5:axb,a.b,a.b$,xa.b$\nst.ff:x:6:\n")
    passwd = create(guest, VMBATCH_USER="a.b$", VMBATCH_GROUP="st.f-")
    assert passwd == "a.b$:x:1500:1501::/home/alice:/bin/bash\n" + others + "[a]*:x:6:6::/:/bin/sh\n"
    group = guest.read("etc/group")
    assert "g:x:5:axb,a.b,xa.b$\n" in group
    assert "st.f-:x:1501:\n" in group and "st.ff:x:6:\n" in group
    assert create(guest, VMBATCH_USER="[a]*").count("\n") == 6


def test_gid_taken(guest: Guest) -> None:
    guest.write("etc/group", "root:x:0:\nusers:x:1501:bob\nstorage:x:1600:\n")
    create(guest)
    group = guest.read("etc/group")
    assert group.index("staff.x:x:1501:") < group.index("users:x:1501:bob\n")
    assert group.index("physics:x:1600:alice\n") < group.index("storage:x:1600:\n")


def test_group_name_taken(guest: Guest) -> None:
    guest.write("etc/group", "staff.x:x:50:bob\nphysics:x:60:alice,bob\nroot:x:0:\n")
    guest.write("etc/gshadow", "staff.x:!::bob\nphysics:!::alice,bob\n")
    create(guest)
    assert guest.read("etc/group") == (
        "vb1501:x:1501:\nvb1600:x:1600:alice\ngrid:x:1700:alice\nstaff.x:x:50:bob\nphysics:x:60:bob\nroot:x:0:\n"
    )
    assert guest.read("etc/gshadow") == ("vb1501:!::\nvb1600:!::alice\ngrid:!::alice\nstaff.x:!::bob\nphysics:!::bob\n")


def test_same_group_keeps_its_members(guest: Guest) -> None:
    guest.write("etc/group", "physics:x:1600:carol,alice,bob\n")
    create(guest, VMBATCH_GROUPS="physics:1600 staff.x:1501 again:1600")
    assert guest.read("etc/group") == "staff.x:x:1501:\nphysics:x:1600:carol,bob,alice\n"


def test_old_memberships_end(guest: Guest) -> None:
    guest.write("etc/group", "sudo:x:27:alice\nadm:x:4:alice,bob\nw:x:5:bob,alice\nmalice:x:6:malice\nalice:x:7:\n")
    create(guest, VMBATCH_GROUPS="")
    assert guest.read("etc/group") == ("staff.x:x:1501:\nsudo:x:27:\nadm:x:4:bob\nw:x:5:bob\nmalice:x:6:malice\nalice:x:7:\n")


def test_without_shadow(guest: Guest) -> None:
    for name in ("shadow", "gshadow", "group", "shells"):
        (guest.root / "etc" / name).unlink()
    assert create(guest).startswith("alice:*:1500:")
    assert guest.read("etc/group") == "staff.x:x:1501:\nphysics:x:1600:alice\ngrid:x:1700:alice\n"
    assert not (guest.root / "etc/shadow").exists()
    assert guest.read("etc/shells") == "/bin/bash\n"


def test_shell_missing(guest: Guest) -> None:
    assert create(guest, VMBATCH_SHELL="/bin/zsh").startswith("alice:x:1500:1501::/home/alice:/bin/bash\n")
    assert guest.read("etc/shells") == "/bin/sh\n/bin/bash\n"
    (guest.root / "bin/bash").unlink()
    assert create(guest, VMBATCH_SHELL="").startswith("alice:x:1500:1501::/home/alice:/bin/sh\n")


def test_new_home(guest: Guest) -> None:
    guest.write("etc/skel/.profile", "hello\n")
    create(guest, VMBATCH_HOME="/home/deep/down/alice")
    home = guest.root / "home/deep/down/alice"
    assert home.stat().st_mode & 0o777 == 0o700
    assert (home / ".profile").read_text() == "hello\n"
    assert guest.read("chown.log") == f"-R 1500:1501 {guest.base}/home\n"
    assert not (guest.base / "home").exists()


def test_home_with_a_slash(guest: Guest) -> None:
    create(guest, VMBATCH_HOME="/alice/")
    assert (guest.root / "alice").stat().st_mode & 0o777 == 0o700


def list_as(uid: int) -> str:
    return f"echo drwxr-xr-x 2 {uid} 100 4096 Jan 1 1970 x"


def test_existing_home_stays(guest: Guest) -> None:
    guest.write("home/alice/file", "kept")
    guest.write("etc/skel/.profile", "hello\n")
    (guest.root / "home/alice").chmod(0o755)
    for uid in (1500, 0):
        guest.functions["ls"] = list_as(uid)
        create(guest)
        assert [path.name for path in (guest.root / "home/alice").iterdir()] == ["file"]
        assert (guest.root / "home/alice").stat().st_mode & 0o777 == 0o755
        assert not (guest.root / "chown.log").exists()


def test_home_of_the_replaced_account(guest: Guest) -> None:
    """The guest's own alice had another uid: her home is the user's now, but not what is in it."""
    guest.write("home/alice/.ssh/config", "")
    guest.write("etc/passwd", "alice:x:77:1::/home/alice:/bin/sh\n")
    guest.functions["ls"] = list_as(77)
    create(guest)
    home = guest.root / "home/alice"
    assert guest.read("chown.log") == f"1500:1501 {home}\n1500:1501 {home}/.ssh\n"


def test_home_of_somebody_else(guest: Guest) -> None:
    (guest.root / "home/alice").mkdir()
    guest.functions["ls"] = list_as(77)
    output = guest.evaluate("trap 'echo \"because $reason\"' EXIT; create_user", guest.context)
    assert output == "because /home/alice belongs to uid 77, not to alice\n"
    assert not (guest.root / "chown.log").exists()


def test_refused(guest: Guest) -> None:
    before = guest.read("etc/passwd")
    for bad in (
        {"VMBATCH_UID": "0"},
        {"VMBATCH_UID": "00"},
        {"VMBATCH_USER": "root"},
        {"VMBATCH_USER": "a:b"},
        {"VMBATCH_USER": ""},
        {"VMBATCH_UID": "1x"},
        {"VMBATCH_GID": ""},
        {"VMBATCH_GROUPS": "a:b"},
        {"VMBATCH_HOME": "home"},
    ):
        output = guest.evaluate("trap 'echo \"because $reason\"' EXIT; create_user", guest.context | bad)
        assert output.startswith("because the "), (bad, output)
        assert guest.read("etc/passwd") == before
