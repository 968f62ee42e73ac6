"""`scripts/torture`: every family of faults, one table; exit code 1 if any was not tried, or not survived."""

import argparse
import asyncio
import importlib
import json
import logging
import sys
import tempfile
import traceback
from pathlib import Path

from torture.plan import Family, NotPossibleError, Plan
from torture.report import Result, Row, table

FAMILIES = ("killed", "power", "storage", "cloud", "link", "soak")


def main() -> int:
    """Run what was asked for, and print the table."""
    parser = argparse.ArgumentParser(prog="scripts/torture", description=__doc__)
    parser.add_argument("families", nargs="*", metavar="FAMILY", help=f"of {', '.join(FAMILIES)}; all by default")
    parser.add_argument("--quick", action="store_true", help="a sample of each, in two minutes")
    parser.add_argument("--seed", type=int, default=1, help="of everything that is chosen at random (default: 1)")
    parser.add_argument("--only", default="", metavar="TEXT", help="only faults with this in their name")
    parser.add_argument("--without", metavar="DEFENCE", help="take out a defence; something must be found then")
    parser.add_argument("--json", action="store_true", help="the table as JSON")
    arguments = parser.parse_args()
    if unknown := set(arguments.families) - set(FAMILIES):
        parser.error(f"no such family: {', '.join(sorted(unknown))} (there are {', '.join(FAMILIES)})")
    # What the virtual radio's library says when a program on it is killed.
    logging.getLogger("bumble").setLevel(logging.CRITICAL)
    rows = []
    with tempfile.TemporaryDirectory(prefix="bletoken-torture-") as folder:
        for name in dict.fromkeys(arguments.families or FAMILIES):
            family: Family = importlib.import_module(f"torture.{name}")  # type: ignore[assignment]
            plan = Plan(Path(folder, name), arguments.seed, arguments.quick, arguments.without, arguments.only)
            plan.folder.mkdir()
            rows.append(asyncio.run(run(family, plan)))
    print(json.dumps([row.to_json() for row in rows]) if arguments.json else table(rows))
    return 1 if any(row.bad or row.untried or not row.trials for row in rows) else 0


async def run(family: Family, plan: Plan) -> Row:
    """Run one family, with its progress on standard error."""
    row = Row(family.NAME, plan.seed, remarks=plan.remarks)
    try:
        await _fill(row, family, plan)
    except NotPossibleError as error:
        row.untried = str(error)
        print(f"\n{family.NAME}: not all was tried: {error}", file=sys.stderr)
    except Exception as error:  # noqa: BLE001 hours of others are not lost with it
        row.untried = f"it broke off: {error!r}"
        print(f"\n{family.NAME} broke off:", file=sys.stderr)
        traceback.print_exc()
    print(file=sys.stderr)
    return row


async def _fill(row: Row, family: Family, plan: Plan) -> None:
    async for trial in family.trials(plan):
        row.trials.append(trial)
        if trial.result is not Result.SURVIVED:
            print(f"\r{family.NAME}: {trial.fault}: {trial.result}: {trial.detail}", file=sys.stderr)
        print(f"\r{family.NAME}: {len(row.trials)} tried, {len(row.bad)} bad ", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
