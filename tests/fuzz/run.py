"""The fuzzer by hand: `PYTHONPATH=tests python tests/fuzz/run.py --cases 2000 --family texts`.

Prints each fault once with how often it was met and the number of its first case; `--first N --cases 1` repeats that.
"""

import argparse
import collections
import faulthandler
import os
import sys
import tempfile
import time
from pathlib import Path
from random import Random

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).parent.parent))

from fuzz.families import FAMILIES, Family
from fuzz.harness import MAX_SECONDS, Case, run


def cases(family: Family, name: str, whole: Path, seed: int, first: int, number: int):
    """Yield the cases of a family: `(number, folder, case)`."""
    for index in range(first, first + number):
        with tempfile.TemporaryDirectory(dir=whole.parent) as folder:
            os.environ["DIA_HF_VOICES"] = str(Path(folder, "voices"))
            yield index, Path(folder), family.draw(Random(f"{seed}/{name}/{index}"), whole, Path(folder))


def describe(case: Case) -> str:
    """Describe a case's command or call."""
    return str([argument[:80] for argument in case.argv]) if case.call is None else "a call from Python"


def main() -> int:
    """Run cases of some or all families; return 1 if there is a fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=200, help="of each family (200)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case (0)")
    parser.add_argument("--family", action="append", choices=list(FAMILIES), help="default: all")
    parser.add_argument("--verbose", action="store_true", help="print the command of each case")
    args = parser.parse_args()
    total = 0
    for name in args.family or FAMILIES:
        family, faults, start = FAMILIES[name], collections.Counter(), time.monotonic()
        first = {}
        with tempfile.TemporaryDirectory() as root:
            whole = Path(root, "whole")
            whole.mkdir()
            family.make(whole)
            for index, folder, case in cases(family, name, whole, args.seed, args.first, args.cases):
                if args.verbose:
                    print(index, describe(case), flush=True)
                faulthandler.dump_traceback_later(3 * MAX_SECONDS, exit=True)
                fault = run(case, folder)
                faulthandler.cancel_dump_traceback_later()
                if fault is not None:
                    fault = fault.replace(root, "…")
                    kind = fault.split(" | ")[-1] if " | " in fault else fault.split(":")[0]
                    faults[kind] += 1
                    first.setdefault(kind, f"case {index}: {describe(case)}\n      {fault[:600]}")
        print(
            f"{name}: {args.cases} cases, {sum(faults.values())} faults, {time.monotonic() - start:.0f} s", flush=True
        )
        for kind, number in faults.most_common():
            print(f"  {number} × {first[kind]}", flush=True)
        total += sum(faults.values())
    return int(total > 0)


if __name__ == "__main__":
    sys.exit(main())
