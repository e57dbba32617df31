"""The benchmark as a script, for a checkout: `python tests/bench/rowloom_bench.py --rows 10000000 --json`."""

import argparse
import json
from pathlib import Path

from rowloom.deploy.bench.bench import report, run_bench
from rowloom.deploy.bench.workload import BATCHES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", help="of a running cluster; one is started otherwise")
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--json", action="store_true")
    args = vars(parser.parse_args())
    as_json = args.pop("json")
    result = run_bench(args.pop("address"), **args, quiet=as_json)
    print(json.dumps(result) if as_json else report(result))


if __name__ == "__main__":
    main()
