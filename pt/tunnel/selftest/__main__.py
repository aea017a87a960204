"""Either half of the suite as a program, for two hosts or two namespaces.

python -m pt.tunnel.selftest serve [--host H] [--port N]
python -m pt.tunnel.selftest run HOST PORT [--refused-port N] [--size BYTES] [CASE ...]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys

from pt.tunnel.selftest.cases import CASES, DEFAULT_SIZE, run_case
from pt.tunnel.selftest.service import serve


def main() -> int:
    """Run what the command line asks for; 1 if a case failed."""
    parser = argparse.ArgumentParser(prog="python -m pt.tunnel.selftest", description=__doc__)
    halves = parser.add_subparsers(dest="half", required=True)
    service = halves.add_parser("serve")
    service.add_argument("--host", default="127.0.0.1")
    service.add_argument("--port", type=int, default=0)
    driver = halves.add_parser("run")
    driver.add_argument("host")
    driver.add_argument("port", type=int)
    driver.add_argument("--refused-port", type=int)
    driver.add_argument("--size", type=int, default=DEFAULT_SIZE)
    driver.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    args = parser.parse_args()
    if args.half == "serve":
        with serve(args.port, args.host) as server:
            sys.stdout.write(json.dumps({"port": server.port}) + "\n")
            sys.stdout.flush()
            server.wait()
        return 0
    failed = False
    for name in args.cases or CASES:
        result = run_case(
            name, args.host, args.port, refused_port=args.refused_port, size=args.size
        )
        sys.stdout.write(json.dumps(dataclasses.asdict(result)) + "\n")
        sys.stdout.flush()
        failed = failed or not result.ok
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
