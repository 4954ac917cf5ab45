"""What a hardened service denies its programs, by prctl(2) and seccomp(2). Each is called between fork and exec."""

import ctypes
import errno
import struct

LIBC = ctypes.CDLL(None, use_errno=True)

MMAP, MPROTECT, SHMAT, SECCOMP, MEMFD_CREATE, PKEY_MPROTECT, CLOSE_RANGE = 9, 10, 30, 317, 319, 329, 436
LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446
PROT_WRITE, PROT_EXEC, SHM_EXEC = 2, 4, 0o100000

PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 22, 38, 65, 1
SECCOMP_MODE_FILTER = 2
LOAD, AND, EQUAL, RETURN = 0x20, 0x54, 0x15, 0x06
RET_ALLOW, RET_ERRNO = 0x7FFF0000, 0x00050000


def prctl(*arguments):
    """prctl(2), which must succeed."""
    if LIBC.prctl(*[ctypes.c_ulong(a) for a in arguments], *[ctypes.c_ulong(0)] * (5 - len(arguments))) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def filter_of(*calls, error=errno.EPERM):
    """A filter that denies calls: each a number, or (number, argument, bits) where all of these bits are set in that argument."""
    program = [(LOAD, 0, 0, 0)]
    answer = (RETURN, 0, 0, RET_ERRNO | error)
    for call in calls:
        if isinstance(call, int):
            program += [(EQUAL, 0, 1, call), answer]
        else:
            number, argument, bits = call
            # Low half of the argument; the number again for what follows.
            test = [(LOAD, 0, 0, 16 + 8 * argument), (AND, 0, 0, bits), (EQUAL, 0, 1, bits), answer, (LOAD, 0, 0, 0)]
            program += [(EQUAL, 0, len(test), number), *test]
    program.append((RETURN, 0, 0, RET_ALLOW))
    return b"".join(struct.pack("HBBI", *step) for step in program)


def deny(*calls, error=errno.EPERM):
    """Denies calls, from now on."""
    program = filter_of(*calls, error=error)
    code = ctypes.create_string_buffer(program)
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(code)))
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(header))


def no_page_becomes_executable():
    """As the kernel has it (from 6.3 on)."""
    prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN)


def no_page_becomes_executable_by_filter():
    """As systemd's MemoryDenyWriteExecute has it."""
    deny(
        (MMAP, 2, PROT_WRITE | PROT_EXEC), (MPROTECT, 2, PROT_EXEC), (PKEY_MPROTECT, 2, PROT_EXEC), (SHMAT, 2, SHM_EXEC)
    )


def no_landlock():
    """A kernel without it."""
    deny(LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF, error=errno.ENOSYS)
