#!/usr/bin/env python3
"""Random images and chains, random operations with instar and with qemu-img, everything compared.

A seed gives the same case again: --seed N --iterations 1.
"""

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.helpers import chains  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--instar", default="target/release/instar", help="the binary")
    parser.add_argument("--isolation", default="auto", help="kvm, process or auto")
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the first case")
    parser.add_argument("--operations", type=int, default=4, help="most operations on one chain")
    parser.add_argument("--only", default=",".join(chains.OPERATIONS), help="kinds of operations, with commas")
    parser.add_argument(
        "--mixed", nargs="?", default="", const=",".join(chains.BELOW), help="chains of these formats; all if none is named"
    )
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--fail-fast", action="store_true")
    asked = parser.parse_args()
    mixed = tuple(name for name in asked.mixed.split(",") if name)
    binary, kinds = str(Path(asked.instar).resolve()), asked.only.split(",")
    failed, died, missing = 0, 0, []
    with ThreadPoolExecutor(asked.jobs) as pool:
        seeds = range(asked.seed, asked.seed + asked.iterations)
        tasks = {
            pool.submit(chains.one, s, binary, asked.isolation, kinds, asked.operations, mixed): s for s in seeds
        }
        for task in as_completed(tasks):
            error = task.exception()
            if error is None:
                died += task.result()
                continue
            if isinstance(error, chains.Missing):
                missing.append(str(error))
                continue
            failed += 1
            print(f"seed {tasks[task]}: {type(error).__name__}: {str(error)[:1000]}", flush=True)
            if asked.fail_fast:
                pool.shutdown(cancel_futures=True)
                break
    print(f"{asked.iterations} cases, {failed} failed; qemu-img itself failed in {died}; not there yet: {len(missing)}")
    for text in sorted(set(missing))[:20]:
        print(f"  {text.strip()}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
