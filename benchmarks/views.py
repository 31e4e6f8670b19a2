"""Milliseconds from a JPEG in memory to its views, against the same of an earlier commit.

Photos of 500 × 375, recipe `light`, one core. The earlier commit is checked out beside; both take
turns, each time in a new process, and the medians over the turns count.

Needs git. Usage: python benchmarks/views.py [--before 9b3ef41] [--rounds 3] [--out FILE]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve()
ROOT = HERE.parent.parent
CASES = ((128, 2), (224, 2), (224, 4))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", default="9b3ef41", help="the earlier commit")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=None, help="default: benchmarks/results/…")
    parser.add_argument(
        "--one", nargs=3, metavar=("PHOTOS", "SIDE", "VIEWS"), help=argparse.SUPPRESS
    )
    options = parser.parse_args()
    if options.one:
        photos, side, views = options.one
        print(json.dumps(milliseconds(Path(photos), int(side), int(views))))
        return
    from _photos import PHOTO, hardware, make_photos, write_dated

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        photos = make_photos(folder / "photos", 40)
        earlier = folder / "earlier"
        subprocess.run(["git", "clone", "--quiet", ROOT, earlier], check=True)
        subprocess.run(["git", "-C", earlier, "checkout", "--quiet", options.before], check=True)
        found = [compared(photos, earlier, *case, options.rounds) for case in CASES]
    result = {"hardware": hardware("cpu"), "photo": PHOTO, "before": options.before, "found": found}
    write_dated(result, "views", options.out)
    for row in found:
        print(f"{row['views']} views of {row['side']} px: {row['before']:.2f} ms before, "
              f"{row['now']:.2f} ms now, {row['ratio']:.2f} times as fast")  # fmt: skip


def compared(photos: Path, earlier: Path, side: int, views: int, rounds: int) -> dict[str, float]:
    """Medians of both in milliseconds a photo, decoding included."""
    taken: dict[str, list[float]] = {"before": [], "now": []}
    for _ in range(rounds):
        for name, checkout in (("before", earlier), ("now", ROOT)):
            command = [sys.executable, HERE, "--one", photos, side, views]
            done = subprocess.run(
                [str(word) for word in command], check=True, stdout=subprocess.PIPE, text=True,
                env={**os.environ, "PYTHONPATH": str(checkout)}, cwd=checkout,
            )  # fmt: skip
            taken[name].append(json.loads(done.stdout))
    before, now = (statistics.median(taken[name]) for name in ("before", "now"))
    return {"side": side, "views": views, "before": before, "now": now, "ratio": before / now}


def milliseconds(folder: Path, side: int, views: int) -> float:
    """Median over seven passes of what one photo takes, with whichever checkout is imported."""
    import torch

    import tintem_core.views
    from tintem_core.views import ViewRecipe, decode_image, render_view

    assert Path(tintem_core.views.__file__).is_relative_to(Path.cwd())
    torch.set_num_threads(1)
    photos = [path.read_bytes() for path in sorted(folder.iterdir())]
    recipe = ViewRecipe()

    def one_by_one(data: bytes, key: str) -> None:
        image = decode_image(data)
        for view in range(views):
            render_view(image, key, view, recipe, side, side)

    def together(data: bytes, key: str) -> None:
        from tintem_pixels import decoded_pixels

        with decoded_pixels(data, shorter_side=recipe.decoded_side(side)) as pixels:
            tintem_core.views.render_views(pixels, key, range(views), recipe, side, side)

    render = together if hasattr(tintem_core.views, "render_views") else one_by_one

    def one_pass() -> float:
        started = time.perf_counter()
        for number, data in enumerate(photos):
            render(data, str(number))
        return (time.perf_counter() - started) / len(photos) * 1e3

    return statistics.median(one_pass() for _ in range(7))


if __name__ == "__main__":
    main()
