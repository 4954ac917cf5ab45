#!/usr/bin/env python3
"""A folder whose files answer late: `latency.py FOLDER MOUNT MILLISECONDS` shows FOLDER in MOUNT until it is told to end.

Every read and write of data takes so long; names, lengths and flushes do not. Requests are answered side by side, as a
file server or a cloud disk does. The least of the FUSE protocol that the commands take, for root.
"""

import contextlib
import ctypes
import errno
import os
import signal
import stat
import struct
import sys
import threading
import time

LOOKUP, FORGET, GETATTR, SETATTR, UNLINK, RENAME, OPEN, READ, WRITE, STATFS = 1, 2, 3, 4, 10, 12, 14, 15, 16, 17
RELEASE, FSYNC, FLUSH, INIT, OPENDIR, READDIR, RELEASEDIR = 18, 20, 25, 26, 27, 28, 29
ACCESS, CREATE, INTERRUPT, BATCH_FORGET, RENAME2, LSEEK = 34, 35, 36, 42, 45, 46
SILENT = (FORGET, INTERRUPT, BATCH_FORGET)
DONE = (FLUSH, FSYNC, READDIR, RELEASEDIR, ACCESS)
# Of INIT: reads run side by side, so do direct writes; requests of a mebibyte.
ASYNC_READ, BIG_WRITES, PARALLEL_WRITES, MAX_PAGES = 1, 1 << 5, 1 << 18, 1 << 22
# Of an open file: past the page cache, where writes run side by side as well.
DIRECT, PARALLEL_DIRECT_WRITES = 1, 1 << 6
SIZE = 1 << 3
MNT_DETACH = 2
ROOT = 1
THREADS = 64
MESSAGE = (1 << 20) + 65536
LIBC = ctypes.CDLL(None, use_errno=True)


class Late:
    """The files of `folder` in `mount`, each read and write `seconds` late."""

    def __init__(self, folder, mount, seconds):
        self.folder, self.mount, self.seconds = folder, mount, seconds
        # By the number of the file below; what has been seen stays open.
        self.seen = {ROOT: os.open(folder, os.O_PATH)}
        self.lock = threading.Lock()
        self.device = os.open("/dev/fuse", os.O_RDWR)
        options = f"fd={self.device},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
        if LIBC.mount(b"late", os.fsencode(mount), b"fuse", 0, options):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def close(self):
        LIBC.umount2(os.fsencode(self.mount), MNT_DETACH)

    def serve(self):
        """Answers until the folder is unmounted."""
        while True:
            try:
                request = os.read(self.device, MESSAGE)
            except OSError as error:
                if error.errno in (errno.EINTR, errno.ENOENT, errno.EAGAIN):
                    continue
                return
            _, code, unique, node, *_ = struct.unpack_from("=IIQQIIII", request)
            try:
                answer, status = self.answer(code, node, memoryview(request)[40:]), 0
            except OSError as error:
                answer, status = b"", -error.errno
            if code not in SILENT:
                with contextlib.suppress(OSError):
                    os.writev(self.device, [struct.pack("=IiQ", 16 + len(answer), status, unique), answer])

    def answer(self, code, node, body):
        """The body of a reply."""
        if code == READ:
            file, offset, size = struct.unpack_from("=QQI", body)
            time.sleep(self.seconds)
            return os.pread(file, size, offset)
        if code == WRITE:
            file, offset, size = struct.unpack_from("=QQI", body)
            time.sleep(self.seconds)
            return struct.pack("=II", os.pwrite(file, body[40 : 40 + size], offset), 0)
        if code == INIT:
            _, _, readahead = struct.unpack_from("=III", body)
            flags = ASYNC_READ | BIG_WRITES | PARALLEL_WRITES | MAX_PAGES
            return struct.pack("=IIIIHHIIHHI28x", 7, 31, readahead, flags, 64, 48, 1 << 20, 1, 256, 0, 0)
        if code == LOOKUP:
            return self.entry(text(body))
        if code == GETATTR:
            return struct.pack("=QII", 0, 0, 0) + self.attributes(node)
        if code == SETATTR:
            valid, _, _, size = struct.unpack_from("=IIQQ", body)
            if valid & SIZE:
                os.truncate(self.of(node), size)
            return struct.pack("=QII", 0, 0, 0) + self.attributes(node)
        if code == OPEN:
            return self.opened(os.open(self.of(node), os.O_RDWR), body)
        if code == CREATE:
            mode, name = struct.unpack_from("=II", body)[1], text(body[16:])
            file = os.open(self.path(name), os.O_RDWR | os.O_CREAT | os.O_EXCL, mode & 0o7777)
            return self.entry(name) + self.opened(file, body)
        if code == RELEASE:
            os.close(struct.unpack_from("=Q", body)[0])
            return b""
        if code == UNLINK:
            os.unlink(self.path(text(body)))
            return b""
        if code in (RENAME, RENAME2):
            if code == RENAME2 and struct.unpack_from("=QI", body)[1]:
                raise OSError(errno.EINVAL, "")
            old, new = bytes(body[8 if code == RENAME else 16 :]).split(b"\0")[:2]
            os.rename(self.path(os.fsdecode(old)), self.path(os.fsdecode(new)))
            return b""
        if code == LSEEK:
            file, offset, whence = struct.unpack_from("=QQI", body)
            return struct.pack("=Q", os.lseek(file, offset, whence))
        if code == OPENDIR:
            return bytes(16)
        if code == STATFS:
            return struct.pack("=QQQQQIIII24x", 1 << 28, 1 << 28, 1 << 28, 1 << 20, 1 << 20, 4096, 255, 4096, 0)
        if code in SILENT or code in DONE:
            return b""
        raise OSError(errno.ENOSYS, "")

    def path(self, name):
        return os.path.join(self.folder, name)

    def of(self, node):
        """A name of a file that has been seen, whatever it is called by now."""
        return f"/proc/self/fd/{self.seen[node]}"

    def opened(self, file, body):
        direct = struct.unpack_from("=I", body)[0] & os.O_DIRECT
        return struct.pack("=QII", file, DIRECT | PARALLEL_DIRECT_WRITES if direct else 0, 0)

    def entry(self, name):
        """A file of the folder."""
        node = os.lstat(self.path(name)).st_ino
        with self.lock:
            if node not in self.seen:
                self.seen[node] = os.open(self.path(name), os.O_PATH)
        return struct.pack("=QQQQII", node, 0, 0, 0, 0, 0) + self.attributes(node)

    def attributes(self, node):
        """struct fuse_attr"""
        found = os.stat(self.seen[node])
        mode = found.st_mode if stat.S_ISDIR(found.st_mode) else stat.S_IFREG | 0o644
        numbers = (node, found.st_size, found.st_blocks, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)
        return struct.pack("=6Q10I", *numbers)


def text(body):
    """The name that begins there."""
    return os.fsdecode(bytes(body).split(b"\0", 1)[0])


def main():
    folder, mount, milliseconds = sys.argv[1:]
    late = Late(folder, mount, float(milliseconds) / 1000)
    end = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, end)
    threads = [threading.Thread(target=late.serve, daemon=True) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    print("ready", flush=True)
    signal.sigwait(end)
    late.close()


if __name__ == "__main__":
    sys.exit(main())
