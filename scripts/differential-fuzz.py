#!/usr/bin/env python3
"""Random images and chains, random operations with instar and with qemu-img, everything compared.

A seed gives the same case again: --seed N --iterations 1. With --mutated it is images of every kind that are damaged, and
what both tools say of them.
"""

import argparse
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.helpers import chains, mutations  # noqa: E402


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
    parser.add_argument(
        "--mutated", nargs="?", default="", const=",".join(mutations.FORMATS), help="damaged images of these formats; all if none is named"
    )
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--fail-fast", action="store_true")
    asked = parser.parse_args()
    mixed = tuple(name for name in asked.mixed.split(",") if name)
    binary, kinds = str(Path(asked.instar).resolve()), asked.only.split(",")
    if asked.mutated:
        return mutated(asked, binary)
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


def mutated(asked, binary):
    """Differences sorted into kinds; one that is not known to be the stock tool's own fault is a failure."""
    comparison = mutations.Comparison(binary, asked.isolation, asked.mutated.split(","))
    kinds, images, kept = defaultdict(list), set(), defaultdict(int)
    with ThreadPoolExecutor(asked.jobs) as pool:
        for found in pool.map(comparison.one, range(asked.seed, asked.seed + asked.iterations)):
            for difference in found:
                if difference.reason:
                    kept[difference.reason] += 1
                else:
                    kinds[difference.kind].append(difference)
                    images.add(difference.seed)
    for (fmt, command, ours, theirs, content), cases in sorted(kinds.items(), key=lambda item: item[0][:2]):
        seeds = " ".join(str(case.seed) for case in cases[:5])
        print(f"{len(cases)} {fmt} {command}{': other content' if content else ''}\n  ours  {ours}\n  stock {theirs}")
        print(f"  {cases[0].variant}: {cases[0].what[:200]}\n  seeds {seeds}")
    for reason, count in sorted(kept.items(), key=lambda item: -item[1]):
        print(f"{count} kept: {reason}")
    print(f"{asked.iterations} images, {len(images)} seen differently in {len(kinds)} kinds; {sum(kept.values())} differences are known")
    return 1 if kinds else 0


if __name__ == "__main__":
    sys.exit(main())
