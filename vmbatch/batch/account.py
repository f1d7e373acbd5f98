"""Submitting users, as the node's name service knows them."""

import grp
import os
import pwd

from ..errors import JobError, NodeError
from ..job import Group, User, check_name


def parse_user(name: str, group: str) -> User:
    """The submitting user as this node's name service knows it. NodeError."""
    check_name(name, "user")
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise NodeError(f"this node knows no user {name}", code="VB908") from None
    try:
        gid = grp.getgrnam(group).gr_gid
    except (KeyError, ValueError):
        raise NodeError(f"this node knows no group {group[:80]!r}", code="VB908") from None
    return _user(entry, gid)


def user_of(uid: int, gid: int) -> User:
    """The submitting user, by the numbers that the batch system knows. NodeError."""
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        raise NodeError(f"this node knows no user with uid {uid}", code="VB908") from None
    check_name(entry.pw_name, "user")
    return _user(entry, gid)


def _user(entry: pwd.struct_passwd, gid: int) -> User:
    name = entry.pw_name
    others = sorted(set(os.getgrouplist(name, gid)) - {gid})
    primary, *groups = (_group(number) for number in (gid, *others))
    return User(name, entry.pw_uid, primary, tuple(groups), entry.pw_dir or "/", entry.pw_shell or "/bin/sh")


def _group(gid: int) -> Group:
    """A group with a name that any guest can have: its own, unless there is none or it has blanks or the like."""
    try:
        name = grp.getgrgid(gid).gr_name
        check_name(name, "group")
    except (KeyError, JobError):
        name = f"gid{gid}"
    return Group(name, gid)
