"""Run of the command in tests."""

from dia_hf import cli

FAST = ["--max-seconds", "0.2", "--seed", "1", "--device", "cpu"]


def run(*args: str) -> int:
    """Run the command; argparse's own errors end in SystemExit."""
    try:
        return cli.main(list(args))
    except SystemExit as end:
        return end.code
