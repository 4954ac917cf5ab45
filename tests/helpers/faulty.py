"""A folder whose files have sectors that cannot be read: the least of the FUSE protocol that reading takes, for root."""

import contextlib
import ctypes
import errno
import os
import stat
import struct
import threading

SECTOR = 512
LOOKUP, FORGET, GETATTR, OPEN, READ, STATFS, RELEASE = 1, 2, 3, 14, 15, 17, 18
FLUSH, INIT, OPENDIR, READDIR, RELEASEDIR, ACCESS, INTERRUPT, BATCH_FORGET = 25, 26, 27, 28, 29, 34, 36, 42
#: Nothing is answered.
SILENT = (FORGET, INTERRUPT, BATCH_FORGET)
DIRECT_IO, KEEP_CACHE, ASYNC_READ, MAX_PAGES = 1, 2, 1, 1 << 22
MS_RDONLY, MNT_DETACH = 1, 2
ROOT = 1
LIBC = ctypes.CDLL(None, use_errno=True)


class Faulty:
    """Shows the files of `folder` in `mount`, but for what `bad` has: name to ranges of bytes.

    Reads of the files in `mute` are never answered. With `cached` the page cache asks, as it does of most file systems: then
    whoever waits can be killed.
    """

    def __init__(self, folder, mount, cached=False):
        self.folder, self.mount, self.bad = folder, mount, {}
        self.cached, self.mute = cached, set()
        self.names = {ROOT: ""}
        self.open_files = {}
        self.device = os.open("/dev/fuse", os.O_RDWR)
        options = f"fd={self.device},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
        if LIBC.mount(b"faulty", os.fsencode(mount), b"fuse", MS_RDONLY, options):
            error = ctypes.get_errno()
            os.close(self.device)
            raise OSError(error, os.strerror(error))
        self.server = threading.Thread(target=self.serve, daemon=True)
        self.server.start()

    def close(self):
        """What still waits for an answer gets an error."""
        LIBC.umount2(os.fsencode(self.mount), MNT_DETACH)
        self.server.join(10)
        os.close(self.device)
        for file in self.open_files.values():
            os.close(file)

    def serve(self):
        """Answers until the folder is unmounted."""
        while True:
            try:
                request = os.read(self.device, 1 << 20)
            except OSError as error:
                if error.errno in (errno.EINTR, errno.ENOENT, errno.EAGAIN):
                    continue
                return
            _, code, unique, node, *_ = struct.unpack_from("=IIQQIIII", request)
            try:
                answer, status = self.answer(code, node, request[40:]), 0
            except OSError as error:
                answer, status = b"", -error.errno
            if code not in SILENT and answer is not None:
                with contextlib.suppress(OSError):
                    os.write(self.device, struct.pack("=IiQ", 16 + len(answer), status, unique) + answer)

    def answer(self, code, node, body):
        """The body of a reply."""
        if code == INIT:
            _, _, readahead = struct.unpack_from("=III", body)
            return struct.pack("=IIIIHHIIHHI28x", 7, 31, readahead, MAX_PAGES | ASYNC_READ, 12, 9, 4096, 1, 256, 0, 0)
        if code == LOOKUP:
            return self.look_up(os.fsdecode(body[: body.index(0)]))
        if code == GETATTR:
            return struct.pack("=QII", 0, 0, 0) + self.attributes(node)
        if code == OPEN:
            file = os.open(os.path.join(self.folder, self.names[node]), os.O_RDONLY)
            self.open_files[file] = file
            return struct.pack("=QII", file, KEEP_CACHE if self.cached else DIRECT_IO, 0)
        if code == READ:
            file, offset, size = struct.unpack_from("=QQI", body)
            return self.read(node, file, offset, size)
        if code == RELEASE:
            os.close(self.open_files.pop(struct.unpack_from("=Q", body)[0]))
            return b""
        if code == OPENDIR:
            return bytes(16)
        if code == STATFS:
            return struct.pack("=QQQQQIIII24x", 1 << 20, 0, 0, 1 << 20, 1 << 20, 4096, 255, 4096, 0)
        if code in SILENT or code in (FLUSH, READDIR, RELEASEDIR, ACCESS):
            return b""
        raise OSError(errno.ENOSYS, "")

    def look_up(self, name):
        """A file of the folder; what has been seen keeps its number."""
        os.lstat(os.path.join(self.folder, name))
        node = next((node for node, known in self.names.items() if known == name), len(self.names) + 1)
        self.names[node] = name
        return struct.pack("=QQQQII", node, 0, 0, 0, 0, 0) + self.attributes(node)

    def attributes(self, node):
        """struct fuse_attr"""
        found = os.lstat(os.path.join(self.folder, self.names[node]))
        mode = found.st_mode if stat.S_ISDIR(found.st_mode) else stat.S_IFREG | 0o644
        numbers = (node, found.st_size, found.st_blocks, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)
        return struct.pack("=6Q10I", *numbers)

    def read(self, node, file, offset, size):
        """The bytes, or an error if one of them is bad."""
        if self.names[node] in self.mute:
            return None
        end = offset + size
        if any(start < end and offset < stop for start, stop in self.bad.get(self.names[node], ())):
            raise OSError(errno.EIO, "")
        return os.pread(file, size, offset)
