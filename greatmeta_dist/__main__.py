"""``greatmeta`` and ``python -m greatmeta_dist``: quiet also when stopped while still importing."""

import sys


def main() -> int:
    """The command line's exit code."""
    try:
        from greatmeta_dist.cli import main as run
    except KeyboardInterrupt:
        print("greatmeta: interrupted", file=sys.stderr)
        return 1
    return run()


if __name__ == "__main__":
    sys.exit(main())
