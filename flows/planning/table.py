"""A plan, laid out for a terminal."""

from rich.filesize import decimal
from rich.table import Table

from flows.planning.plan import Plan
from flows.planning.times import Seconds


def duration(seconds: float) -> str:
    """Return a time in the unit that suits it: 80 s, 12 min, 31 h, 9 days."""
    for unit, length in (("s", 1), ("min", 60), ("h", 3600)):
        if seconds < 100 * length:
            return f"{seconds / length:.{1 if seconds < 9.95 * length else 0}f} {unit}"
    return f"{seconds / 86400:.0f} days"


def _time(seconds: Seconds, what: str = "") -> tuple[str, str]:
    """Return a time, and how sure it is."""
    if not seconds.value:
        return "done", ""
    spread = ""
    if seconds.low < seconds.high:
        spread = f"{duration(seconds.low)} to {duration(seconds.high)} by the timed batches"
    return f"≈ {duration(seconds.value)}", f"{spread}{what}".removeprefix("; ")


def plan_tables(plan: Plan) -> list[Table]:
    """Return what will be done, and what other ways of storing would take."""
    return [_facts(plan), _choices(plan)]


def _facts(plan: Plan) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right", style="cyan")
    table.add_column(overflow="fold")
    for name, count in plan.photos.items():
        text = "" if plan.photos_exact else "listed, not opened: copies count twice"
        table.add_row(f"photos of {name}", f"{count:,}", text)
    reused = f"{plan.views_reused:,} of them are there already" if plan.views_reused else ""
    table.add_row("views to embed", f"{plan.views:,}", reused)
    free = "" if plan.bytes_free is None else f"{decimal(plan.bytes_free)} free at {plan.root}"
    table.add_row("bytes to write", decimal(plan.bytes_needed), free)
    speeds = (decimal(round(plan.write_bytes_rate)), decimal(round(plan.read_bytes_rate)))
    table.add_row("disk", f"{speeds[0]}/s", f"written and flushed; {speeds[1]}/s read")
    if plan.teacher_views is not None:
        said = f"on {plan.device}, pixels in memory, {plan.teacher_views.at_once} at once"
        table.add_row("teacher", f"{plan.teacher_views.value:,.0f} views/s", said)
    if plan.decoded_photos is not None:
        rate = f"{plan.decoded_photos.value:,.0f} photos/s"
        table.add_row("decoding", rate, "read, decoded and cut into all views")
    limited = f"; limited by {plan.extraction_limit}" if plan.extraction_limit else ""
    table.add_row("extraction", *_time(plan.extraction, limited))
    table.add_row("mapping", *_time(plan.mapping))
    rate = f"; {plan.training_steps:,} steps, {plan.trained_images.value:,.0f} images/s"
    table.add_row("training", *_time(plan.training, rate))
    what = "; indexing, extraction, mapping and training; evaluation and export follow"
    table.add_row("in all", *_time(plan.in_all, what))
    if plan.reused:
        table.add_row("reused", "", ", ".join(plan.reused))
    return table


def _choices(plan: Plan) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("stored")
    table.add_column("type")
    for title in ("size", "objects", "shards"):
        table.add_column(title, justify="right")
    table.add_column("")
    for choice in plan.choices:
        too_large = plan.bytes_free is not None and choice.bytes > plan.bytes_free
        mark = "← this run" if choice.chosen else "does not fit" if too_large else ""
        table.add_row(
            choice.stored,
            choice.dtype,
            decimal(choice.bytes),
            f"{choice.objects:,}",
            f"{choice.shards:,}",
            mark,
            style="bold" if choice.chosen else "dim" if too_large else "",
        )
    return table
