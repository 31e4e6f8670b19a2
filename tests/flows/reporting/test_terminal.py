"""What a terminal shows of work, and what a file gets instead."""

import io

from rich.console import Console

from flows.reporting.terminal import TerminalReporter


def shown(*, terminal: bool) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=80)
    with TerminalReporter(console).track("Train test_resnet", 20, "steps") as advance:
        advance(10, "loss 0.7")
        advance(5)
        advance(5, "loss 0.5, rate 0.001, 320 images/s")
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_what_is_said_of_work_stands_whole_below_its_bar_in_a_narrow_terminal() -> None:
    assert "  loss 0.5, rate 0.001, 320 images/s" in shown(terminal=True)


def test_without_a_terminal_the_line_of_a_stage_ends_with_what_was_last_said() -> None:
    (line,) = shown(terminal=False).splitlines()
    assert line.startswith("  Train test_resnet: 20 steps in ")
    assert line.endswith(" s, loss 0.5, rate 0.001, 320 images/s")
