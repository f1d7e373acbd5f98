"""The other guests of a job: keys, names, ssh's configuration, and what a login may say of them."""

import subprocess
from pathlib import Path

import pytest

from .guest import KIT, Guest

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI"
PARTY = f"10.77.0.10 vm-42 {KEY}one\n10.77.0.11 vm-42-n1 {KEY}two\nfd00::12 vm-42-n2 {KEY}/+=\n"
REFUSED = "what the login brought of the other guests is not what the host sends"


@pytest.fixture
def party(guest: Guest) -> Guest:
    """A guest of three, as prolog.sh leaves it."""
    guest.add_to_medium("ssh/authorized_key", f"{KEY}job 42.vm\n")
    guest.add_to_medium("ssh/party", "vm-42\nvm-42-n1\nvm-42-n2\n")
    guest.add_to_medium("ssh/party_key", "PRIVATE\n")
    guest.add_to_medium("ssh/party_keys", f"{KEY}a vm-42\n{KEY}b vm-42-n1\n{KEY}c vm-42-n2\n")
    guest.write("etc/hosts", "127.0.0.1 localhost\n127.0.1.1 vm-42\n# 1 vm-42-n1\n10.0.0.1 * vm-42-n1\n10.77.0.9 vm-42-n1 old")
    guest.write("etc/ssh/ssh_config", "Port 22\n", 0o600)
    guest.write("var/lib/vmbatch/job/party", PARTY)
    code = f'. "{KIT}/party.sh"; medium={guest.medium}; VMBATCH_UID=0 VMBATCH_GID=0; '
    assert guest.evaluate(f"set -e; {code} install_party_key") == ""
    return guest


def meet(guest: Guest) -> str:
    code = f'. "{KIT}/party.sh"; medium={guest.medium}; set -e\n'
    return guest.evaluate(code + 'fail() { echo "$1"; exit 1; }; meet_party; echo met').strip()


def test_the_key_is_the_users_alone(party: Guest) -> None:
    key = party.base / "party/id_ed25519"
    assert (key.read_text(), key.stat().st_mode & 0o777, key.parent.stat().st_mode & 0o777) == ("PRIVATE\n", 0o600, 0o755)
    assert party.read("chown.log") == f"0:0 {key}\n"
    link = party.root / "usr/local/bin/pbsdsh"
    assert str(link.readlink()) == "/var/lib/vmbatch/kit/pbsdsh.sh"


def test_keys_of_all_are_trusted(party: Guest) -> None:
    said = party.evaluate(f"medium={party.medium}; trusted_keys")
    assert said == f"{KEY}job 42.vm\n{KEY}a vm-42\n{KEY}b vm-42-n1\n{KEY}c vm-42-n2\n"


def test_they_meet(party: Guest) -> None:
    assert meet(party) == "met"
    assert party.read("etc/hosts") == (
        "10.77.0.10 vm-42\n10.77.0.11 vm-42-n1\nfd00::12 vm-42-n2\n"
        "127.0.0.1 localhost\n# 1 vm-42-n1\n10.0.0.1 * vm-42-n1\n")
    assert party.read("var/lib/vmbatch/party/known_hosts") == (
        f"vm-42,10.77.0.10 {KEY}one\nvm-42-n1,10.77.0.11 {KEY}two\nvm-42-n2,fd00::12 {KEY}/+=\n")
    first = party.read("etc/ssh/ssh_config")
    assert first.startswith("# vmbatch: the guests of this job\nHost vm-42 vm-42-n1 vm-42-n2 10.77.0.10 10.77.0.11 fd00::12 \n")
    assert first.endswith("CheckHostIP no\nHost *\n# vmbatch: end\nPort 22\n")
    assert (party.root / "etc/ssh/ssh_config").stat().st_mode & 0o777 == 0o600
    assert meet(party) == "met"
    assert party.read("etc/ssh/ssh_config") == first


def test_openssh_understands_it(party: Guest) -> None:
    meet(party)
    path = party.root / "etc/ssh/ssh_config"
    for host in ("vm-42-n1", "fd00::12"):
        said = subprocess.run(["ssh", "-G", "-F", path, host], capture_output=True, text=True, check=True).stdout
        assert "\nidentityfile /var/lib/vmbatch/party/id_ed25519\n" in said
        assert "\nstricthostkeychecking true\n" in said
    said = subprocess.run(["ssh", "-G", "-F", path, "elsewhere"], capture_output=True, text=True, check=True).stdout
    assert "vmbatch" not in said


@pytest.mark.parametrize("said", [
    "", PARTY[:-len(f"fd00::12 vm-42-n2 {KEY}/+=\n")], PARTY + f"10.77.0.12 vm-43 {KEY}x\n", PARTY + f"10.77.0.12 vm-42 {KEY}x\n",
    PARTY.replace("10.77.0.10", "$(id)"), PARTY.replace("10.77.0.10", "-oProxyCommand=id"), PARTY.replace("one", "one more"),
    PARTY.replace("one", "`id`"), PARTY.replace("vm-42-n2", "localhost"), PARTY.replace("vm-42-n2", "*"),
    PARTY.replace("ssh-ed25519", "@cert-authority", 1).replace("AAAA", "* AAAA", 1), PARTY.replace("\n", "\r\n"), "\n" + PARTY,
])
def test_what_the_host_does_not_send(party: Guest, said: str) -> None:
    hosts = party.read("etc/hosts")
    party.write("var/lib/vmbatch/job/party", said)
    assert meet(party) == REFUSED
    assert party.read("etc/hosts") == hosts
    assert party.read("etc/ssh/ssh_config") == "Port 22\n"


def test_a_link_is_not_followed(party: Guest, tmp_path: Path) -> None:
    file = party.root / "var/lib/vmbatch/job/party"
    file.rename(tmp_path / "party")
    file.symlink_to(tmp_path / "party")
    assert meet(party) == "the host did not say where the other guests are"
    assert not (party.root / "var/lib/vmbatch/party/known_hosts").exists()


def test_a_job_on_one_node_has_no_party(guest: Guest) -> None:
    code = f'. "{KIT}/party.sh"; medium={guest.medium}; set -e; install_party_key; meet_party; ls "$base"; echo done'
    guest.base.mkdir(exist_ok=True)
    assert guest.evaluate(code) == "done\n"


@pytest.mark.parametrize(("words", "status", "said"), [
    (["echo", "a b"], 0, ["0 one", "1 one", "2 two", "3 two"]),
    (["-u", "echo", "a b"], 0, ["0 one", "2 two"]),
    (["-n", "2", "echo", "a b"], 0, ["2 two"]),
    (["-c", "3", "echo", "a b"], 0, ["0 one", "1 one", "2 two"]),
    (["-h", "two", "-o", "echo", "a b"], 0, ["2 two", "3 two"]),
    (["-n", "7", "echo", "a b"], 2, []),
    (["-n", "x", "echo"], 2, []),
    (["-x"], 2, []),
    ([], 2, []),
])
def test_pbsdsh(guest: Guest, words: list[str], status: int, said: list[str]) -> None:
    (guest.root / "nodefile").write_text("one\none\ntwo\ntwo\n")
    guest.functions["ssh"] = 'eval "host=\\$4"; (eval "$5")'
    script = KIT / "pbsdsh.sh"
    environment = {**guest.environment, "PBS_NODEFILE": f"{guest.root}/nodefile", "PBS_JOBID": "it's $1", "PBS_VNODENUM": "9"}
    run = [*words[:-2], "sh", "-c", 'echo "$PBS_VNODENUM $PBS_JOBID $1"', "-", words[-1]] if "a b" in words else words
    command = [*guest.shell, "-c", f"{guest.prelude}. \"$0\"", str(script), *run]
    done = subprocess.run(command, env=environment, cwd=guest.root, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == status, done.stderr
    assert sorted(done.stdout.splitlines()) == [f"{line.split()[0]} it's $1 a b" for line in said]


@pytest.mark.parametrize("order", [[], ["-s"]])
def test_pbsdsh_ends_with_the_highest_status(guest: Guest, order: list[str]) -> None:
    (guest.root / "nodefile").write_text("one\ntwo\nthree\n")
    guest.functions["ssh"] = '(eval "$5")'
    run = [*order, "sh", "-c", "exit $((PBS_VNODENUM * 3))"]
    command = [*guest.shell, "-c", f"{guest.prelude}. \"$0\"", str(KIT / "pbsdsh.sh"), *run]
    done = subprocess.run(command, env={**guest.environment, "PBS_NODEFILE": f"{guest.root}/nodefile"}, capture_output=True,
                          timeout=60, check=False)
    assert (done.returncode, done.stderr) == (6, b"")


def test_a_login_brings_the_party(guest: Guest) -> None:
    guest.write("var/lib/vmbatch/kit/login.sh", (KIT / "login.sh").read_text(), 0o755)
    job = guest.base / "job"
    job.mkdir()
    for words, given in ((["party"], PARTY), ([], "not read")):
        (job / "login").unlink(missing_ok=True)
        subprocess.run([*guest.shell, guest.base / "kit/login.sh", *words], input=given.encode(), check=True)
        assert (job / "login").exists()
        assert (job / "party").read_text() == PARTY
