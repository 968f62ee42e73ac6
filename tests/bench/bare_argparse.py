"""The least that a command line with argparse can be: what `--help` is measured against."""

import argparse
import sys


def main() -> int:
    """Parse the command line, and do nothing."""
    argparse.ArgumentParser(prog="bare", description="Does nothing.").parse_args()
    return 0


if __name__ == "__main__":
    sys.exit(main())
