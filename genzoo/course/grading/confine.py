"""What a sandboxed process does to itself before it looks at untrusted code. Linux, by ctypes.

Run inside of the worker's process, with the standard library alone: resource limits, no new
privileges, Landlock (which files may be read), seccomp (which system calls may be made). None of it
can be undone.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import struct
from collections.abc import Iterable, Mapping
from typing import Any

# -- resource limits ------------------------------------------------------------------------

_RESOURCES = {
    "cpu_seconds": resource.RLIMIT_CPU,
    "memory_bytes": resource.RLIMIT_AS,
    "file_bytes": resource.RLIMIT_FSIZE,
    "open_files": resource.RLIMIT_NOFILE,
}


def limit(limits: Mapping[str, int]) -> None:
    """Set hard limits, by the names of `_RESOURCES`."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for name, value in limits.items():
        resource.setrlimit(_RESOURCES[name], (value, value))


# -- Landlock -------------------------------------------------------------------------------
# Numbers from the kernel's user-space headers (linux/landlock.h).

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_WRITE = (
    (1 << 1) | (1 << 4) | (1 << 5) | (1 << 7) | (1 << 8)
)  # write, remove, make files and folders
_BY_ABI = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1}
_TCP = 0b11
_SCOPED = 0b11  # abstract sockets and signals stay inside (ABI 6)


def landlock_version() -> int:
    """The kernel's Landlock ABI; 0 where there is none."""
    return max(0, int(_libc().syscall(_CREATE_RULESET, None, 0, 1)))


def landlock(readable: Iterable[str], listable: Iterable[str], writable: Iterable[str]) -> None:
    """From now on only these files and folders can be opened, whatever their permissions say.

    Args:
        readable: files, and folders with all that is in them.
        listable: folders whose names may be listed, but whose files not read.
        writable: folders to read and write in.

    Raises:
        OSError: the kernel has no Landlock.
    """
    abi = landlock_version()
    if abi < 1:
        raise OSError(errno.ENOSYS, "this kernel has no Landlock")
    handled = _BY_ABI.get(abi, (1 << 16) - 1)
    attributes = struct.pack("=Q", handled)
    if abi >= 4:
        attributes += struct.pack("=Q", _TCP)
    if abi >= 6:
        attributes += struct.pack("=Q", _SCOPED)
    ruleset = _call(_CREATE_RULESET, attributes, len(attributes), 0)
    for paths, rights in (
        (readable, _READ_FILE | _READ_DIR),
        (listable, _READ_DIR),
        (writable, _READ_FILE | _READ_DIR | _WRITE),
    ):
        for path in paths:
            _allow(ruleset, path, rights & handled)
    no_new_privileges()
    _call(_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # what is not there need not be readable
    if not os.path.isdir(path):
        rights &= ~(_READ_DIR | (1 << 4) | (1 << 5) | (1 << 7) | (1 << 8))
    rule = struct.pack("=Qi", rights, place)
    try:
        _call(_ADD_RULE, ruleset, 1, rule, 0)
    finally:
        os.close(place)


# -- capabilities ---------------------------------------------------------------------------

_READ_SEARCH = 1 << 2


def become(uid: int) -> None:
    """Another user, who may still read what Landlock lets him: an interpreter in a closed home."""
    _libc().prctl(8, 1, 0, 0, 0)  # keep capabilities over the change
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)
    _keep(_READ_SEARCH)


def drop_capabilities() -> None:
    """Whatever a root user could do beyond his files is gone."""
    _keep(0)


def _keep(which: int) -> None:
    header = struct.pack("=Ii", 0x20080522, 0)
    data = struct.pack("=6I", which, which, 0, 0, 0, 0)
    if _libc().capset(header, data) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


# -- seccomp --------------------------------------------------------------------------------

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_DENIED: Mapping[str, tuple[int, int]] = {
    # name: (x86_64, aarch64); -1 where there is none
    "execve": (59, 221), "execveat": (322, 281), "fork": (57, -1), "vfork": (58, -1),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "kcmp": (312, 272), "pidfd_getfd": (438, 438), "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "bpf": (321, 280), "perf_event_open": (298, 241),
    "userfaultfd": (323, 282), "keyctl": (250, 219), "add_key": (248, 217),
    "request_key": (249, 218), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "move_mount": (429, 429), "open_tree": (428, 428), "fsopen": (430, 430), "chroot": (161, 51),
    "unshare": (272, 97), "setns": (308, 268), "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264), "init_module": (175, 105), "finit_module": (313, 273),
    "kexec_load": (246, 104), "reboot": (169, 142), "swapon": (167, 224), "acct": (163, 89),
    "quotactl": (179, 60), "setuid": (105, 146), "setgid": (106, 144), "setreuid": (113, 145),
    "setresuid": (117, 147), "setgroups": (116, 159), "personality": (135, 92),
    "shmget": (29, 194), "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180),
    "setrlimit": (160, 164), "sched_setaffinity": (203, 122), "setpriority": (141, 140),
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "syslog": (103, 116),
    "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240), "move_pages": (279, 239),
    "migrate_pages": (256, 238), "process_madvise": (440, 440), "process_mrelease": (448, 448),
    "sched_setscheduler": (144, 119), "sched_setparam": (142, 118), "sched_setattr": (314, 274),
    "ioprio_set": (251, 30), "settimeofday": (164, 170), "clock_settime": (227, 112),
    "adjtimex": (159, 171), "clock_adjtime": (305, 266), "sethostname": (170, 161),
    "setdomainname": (171, 162), "iopl": (172, -1), "ioperm": (173, -1),
    "delete_module": (176, 106), "kexec_file_load": (320, 294), "fanotify_init": (300, 262),
    "swapoff": (168, 225), "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433),
    "mount_setattr": (442, 442), "quotactl_fd": (443, 443), "vhangup": (153, 58),
    "capset": (126, 91),
}  # fmt: skip
_SOCKET, _SOCKETPAIR, _CLONE, _CLONE3 = (41, 198), (53, 199), (56, 220), (435, 435)
_KILL, _TKILL, _TGKILL, _PRLIMIT = (62, 129), (200, 130), (234, 131), (302, 261)
_CLONE_THREAD = 0x00010000
_ALLOW, _REFUSE, _UNKNOWN, _DEATH = (
    0x7FFF0000,
    0x00050000 | errno.EPERM,
    0x00050000 | 38,
    0x80000000,
)
_LOAD, _EQUAL, _SET, _RETURN = 0x20, 0x15, 0x45, 0x06
_NUMBER, _ARCH, _ARGUMENT = 0, 4, 16


def seccomp() -> None:
    """From now on: no network, no other processes, no programs, no tricks with the kernel.

    Raises:
        OSError: this processor's system calls are not known here, or the kernel refuses.
    """
    machine = platform.machine()
    if machine not in _ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"no filter of system calls for {machine}")
    program = _filter(list(_ARCHITECTURES).index(machine), _ARCHITECTURES[machine], os.getpid())
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    no_new_privileges()
    if _libc().prctl(22, 2, header, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _filter(which: int, architecture: int, pid: int) -> bytes:
    """The program of the filter, for the system calls of one architecture."""
    code: list[bytes] = []

    def add(kind: int, value: int, yes: int = 0, no: int = 0) -> None:
        code.append(struct.pack("=HBBI", kind, yes, no, value & 0xFFFFFFFF))

    add(_LOAD, _ARCH)
    add(_EQUAL, architecture, 1, 0)
    add(_RETURN, _DEATH)
    add(_LOAD, _NUMBER)
    if which == 0:  # the x32 calls of x86-64 have other numbers and no use here
        add(0x35, 0x40000000, 0, 1)
        add(_RETURN, _DEATH)
    for numbers in _DENIED.values():
        if numbers[which] >= 0:
            add(_EQUAL, numbers[which], 0, 1)
            add(_RETURN, _REFUSE)
    add(_EQUAL, _CLONE3[which], 0, 1)  # its flags lie in memory; libraries fall back to clone
    add(_RETURN, _UNKNOWN)
    add(_EQUAL, _CLONE[which], 0, 4)  # threads only
    add(_LOAD, _ARGUMENT)
    add(_SET, _CLONE_THREAD, 1, 0)
    add(_RETURN, _REFUSE)
    add(_RETURN, _ALLOW)
    for call in (_SOCKET, _SOCKETPAIR):  # sockets of this process alone
        add(_EQUAL, call[which], 0, 4)
        add(_LOAD, _ARGUMENT)
        add(_EQUAL, 1, 1, 0)
        add(_RETURN, _REFUSE)
        add(_RETURN, _ALLOW if call is _SOCKETPAIR else _REFUSE)
    for call in (_KILL, _TGKILL):  # signals to oneself
        add(_EQUAL, call[which], 0, 4)
        add(_LOAD, _ARGUMENT)
        add(_EQUAL, pid, 1, 0)
        add(_RETURN, _REFUSE)
        add(_RETURN, _ALLOW)
    add(_EQUAL, _PRLIMIT[which], 0, 4)  # limits of oneself may be read
    add(_LOAD, _ARGUMENT)
    add(_EQUAL, 0, 1, 0)
    add(_RETURN, _REFUSE)
    add(_RETURN, _ALLOW)
    add(_EQUAL, _TKILL[which], 0, 1)
    add(_RETURN, _REFUSE)
    add(_RETURN, _ALLOW)
    return b"".join(code)


def no_new_privileges() -> None:
    """No program that is run later has more rights than this one."""
    _libc().prctl(38, 1, 0, 0, 0)


def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _call(number: int, *arguments: Any) -> int:
    found = int(_libc().syscall(number, *arguments))
    if found < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return found
