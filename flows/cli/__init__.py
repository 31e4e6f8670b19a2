"""The `tintem` command.

Exit codes: 0 done, 1 failed, 2 bad input, 130 Ctrl-C, 143 SIGTERM.
"""

from flows.cli.interrupt import Interruption


def main() -> None:
    """Run the command line; Ctrl-C and SIGTERM are heard before anything else is imported."""
    interruption = Interruption()
    try:
        from flows.cli.commands import run_command
    except KeyboardInterrupt:
        interruption.leave()
        raise
    run_command(interruption)
