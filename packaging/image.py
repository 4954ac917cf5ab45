#!/usr/bin/env python3
"""A container image from nothing but files: an OCI layout in a tar, without a daemon.

Usage: image.py VERSION TREE OUT. TREE is laid at /usr of the image. All times are SOURCE_DATE_EPOCH.
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

EPOCH = int(os.environ["SOURCE_DATE_EPOCH"])
KIND = "application/vnd.oci.image"
# Nobody: the image needs no rights, nor an /etc/passwd.
USER = "65534:65534"


def entry(name, kind, mode, size=0, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.size, info.linkname, info.mtime = kind, mode, size, link, EPOCH
    return info


def layer(tree):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        tar.addfile(entry("tmp", tarfile.DIRTYPE, 0o1777))
        tar.addfile(entry("usr", tarfile.DIRTYPE, 0o755))
        for path in sorted(tree.rglob("*")):
            name = f"usr/{path.relative_to(tree)}"
            if path.is_dir():
                tar.addfile(entry(name, tarfile.DIRTYPE, 0o755))
            else:
                mode = 0o755 if os.access(path, os.X_OK) else 0o644
                data = path.read_bytes()
                tar.addfile(entry(name, tarfile.REGTYPE, mode, len(data)), io.BytesIO(data))
        tar.addfile(entry("usr/bin/qemu-img", tarfile.SYMTYPE, 0o777, link="instar"))
    return out.getvalue()


def main():
    version, tree, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    blobs = {}

    def blob(kind, data):
        digest = hashlib.sha256(data).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = data
        return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(data)}

    def text(value):
        return json.dumps(value, sort_keys=True).encode()

    plain = layer(tree)
    created = datetime.datetime.fromtimestamp(EPOCH, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    packed = blob(f"{KIND}.layer.v1.tar+gzip", gzip.compress(plain, mtime=0))
    config = {
        "created": created,
        "architecture": "amd64",
        "os": "linux",
        "config": {
            "Entrypoint": ["/usr/bin/instar"],
            "Env": ["PATH=/usr/bin"],
            "User": USER,
            "WorkingDir": "/tmp",
            "Labels": {"org.opencontainers.image.licenses": "Apache-2.0"},
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(plain).hexdigest()}"]},
        "history": [{"created": created, "created_by": "packaging/image.py"}],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{KIND}.manifest.v1+json",
        "config": blob(f"{KIND}.config.v1+json", text(config)),
        "layers": [packed],
    }
    listed = blob(f"{KIND}.manifest.v1+json", text(manifest))
    listed["annotations"] = {"org.opencontainers.image.ref.name": version}
    listed["platform"] = {"architecture": "amd64", "os": "linux"}
    index = {"schemaVersion": 2, "mediaType": f"{KIND}.index.v1+json", "manifests": [listed]}
    files = {"oci-layout": text({"imageLayoutVersion": "1.0.0"}), "index.json": text(index)} | blobs
    with tarfile.open(out, "w", format=tarfile.USTAR_FORMAT) as tar:
        for folder in ("blobs", "blobs/sha256"):
            tar.addfile(entry(folder, tarfile.DIRTYPE, 0o755))
        for name in sorted(files):
            tar.addfile(entry(name, tarfile.REGTYPE, 0o644, len(files[name])), io.BytesIO(files[name]))


if __name__ == "__main__":
    main()
