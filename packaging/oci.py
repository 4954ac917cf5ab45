#!/usr/bin/env python3
"""Makes a container image out of nothing but the program: an archive in the OCI layout, without a daemon.

Usage: oci.py STAGE VERSION EPOCH FOLDER
"""

import datetime
import gzip
import hashlib
import io
import json
import os
import sys
import tarfile
from pathlib import Path

TYPE = "application/vnd.oci.image."
# Where a caller's folder is mounted, and where temporary files lie: anybody may write there.
FOLDERS = ("data", "tmp")


def entry(name, epoch, kind, mode, **more):
    """The head of a file in an archive: root's, and of the commit's time."""
    head = tarfile.TarInfo(name)
    head.type, head.mode, head.mtime = kind, mode, epoch
    for key, value in more.items():
        setattr(head, key, value)
    return head


def layer(stage, epoch):
    """The one layer, not compressed."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name in FOLDERS:
            archive.addfile(entry(name, epoch, tarfile.DIRTYPE, 0o1777))
        paths = {p.relative_to(tree): p for tree in (stage / "instar", stage / "instar-qemu-img") for p in tree.rglob("*")}
        for name, path in sorted(paths.items()):
            # There is nobody to read the pages and to type there.
            if {"man", "bash-completion", "zsh", "fish"} & set(name.parts):
                continue
            if path.is_symlink():
                archive.addfile(entry(str(name), epoch, tarfile.SYMTYPE, 0o777, linkname=os.readlink(path)))
            elif path.is_dir():
                archive.addfile(entry(str(name), epoch, tarfile.DIRTYPE, 0o755))
            else:
                mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
                size = path.stat().st_size
                archive.addfile(entry(str(name), epoch, tarfile.REGTYPE, mode, size=size), io.BytesIO(path.read_bytes()))
    return content.getvalue()


def image(stage, version, epoch):
    """{name in the archive: content}"""
    files = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}

    def blob(kind, content):
        digest = hashlib.sha256(content).hexdigest()
        files[f"blobs/sha256/{digest}"] = content
        return {"mediaType": TYPE + kind, "digest": f"sha256:{digest}", "size": len(content)}

    def document(kind, value):
        return blob(kind, json.dumps(value, sort_keys=True, separators=(",", ":")).encode())

    plain = layer(stage, epoch)
    created = datetime.datetime.fromtimestamp(epoch, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    labels = {
        "org.opencontainers.image.title": "instar",
        "org.opencontainers.image.description": "qemu-img for disk images from strangers",
        "org.opencontainers.image.licenses": "Apache-2.0",
        "org.opencontainers.image.version": version,
    }
    config = document(
        "config.v1+json",
        {
            "architecture": "amd64",
            "os": "linux",
            "created": created,
            "config": {
                "Entrypoint": ["/usr/bin/instar"],
                "Cmd": ["--help"],
                "Env": ["PATH=/usr/bin"],
                "WorkingDir": "/data",
                "Labels": labels,
            },
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(plain).hexdigest()}"]},
            "history": [{"created": created, "created_by": "packaging/oci.py"}],
        },
    )
    manifest = document(
        "manifest.v1+json",
        {
            "schemaVersion": 2,
            "mediaType": TYPE + "manifest.v1+json",
            "config": config,
            "layers": [blob("layer.v1.tar+gzip", gzip.compress(plain, 9, mtime=0))],
            "annotations": labels,
        },
    )
    # A tag has no tilde.
    manifest["annotations"] = {"org.opencontainers.image.ref.name": version.replace("~", "-")}
    manifest["platform"] = {"architecture": "amd64", "os": "linux"}
    index = {"schemaVersion": 2, "mediaType": TYPE + "index.v1+json", "manifests": [manifest]}
    files["index.json"] = json.dumps(index, sort_keys=True, separators=(",", ":")).encode()
    return files


def main():
    stage, version, epoch, folder = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
    with tarfile.open(folder / f"instar-{version}-oci.tar", "w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in sorted(image(stage, version, epoch).items()):
            archive.addfile(entry(name, epoch, tarfile.REGTYPE, 0o644, size=len(content)), io.BytesIO(content))


if __name__ == "__main__":
    main()
