"""`scripts/bench`: everything is measured in one run, and the report is written from it."""

import argparse
import importlib
import importlib.util
import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

from bench import plots, report
from bench.clock import RealLoop
from bench.plan import Plan, measure, progress, warm_up
from bench.stage import DidNotFinishError


def main() -> int:
    """Measure, and write what came of it."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a sample, in a minute; BENCHMARKS.md stays as it is")
    parser.add_argument("--seed", type=int, default=1, help="of everything that is chosen at random (default: 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to this file too")
    arguments = parser.parse_args()
    # The libraries warn of what is part of every trial here, such as a device that goes away.
    logging.disable(logging.WARNING)
    began_at = time.monotonic()
    plan = Plan.quick() if arguments.quick else Plan.whole()
    try:
        warm_up(arguments.seed)
        results = report.Results(
            seed=arguments.seed,
            is_quick=arguments.quick,
            link=measure(plan.cells, plan.repetitions, arguments.seed, told=progress("on the link's clock")),
            real=measure(
                plan.real_cells,
                plan.real_repetitions,
                arguments.seed,
                loop_class=RealLoop,
                told=progress("\non everybody's clock"),
            ),
            small_device=_small_device(arguments.quick, arguments.seed),
        )
    except DidNotFinishError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    print(file=sys.stderr)
    root = Path()
    folder = root / "artifacts" / "bench" if arguments.quick else root
    drawn = folder / "plots" if arguments.quick else root / "tests" / "bench" / "plots"
    drawn.mkdir(parents=True, exist_ok=True)
    plots.draw(results.link, drawn)
    (folder / "BENCHMARKS.md").write_text(report.text(results, drawn.relative_to(folder)))
    if arguments.json:
        arguments.json.write_text(json.dumps(results.to_json(), indent=1))
    print(report.summary(results))
    print(f"\nThe whole report: {folder / 'BENCHMARKS.md'}, in {(time.monotonic() - began_at) / 60:.1f} minutes")
    return 0


def _small_device(quick: bool, seed: int) -> dict[str, Any] | None:
    if importlib.util.find_spec("bench.small_device") is None:
        return None
    measured: dict[str, Any] = importlib.import_module("bench.small_device").measure(quick, seed)
    return measured


if __name__ == "__main__":
    sys.exit(main())
