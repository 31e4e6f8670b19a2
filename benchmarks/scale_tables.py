"""The tables of docs/scale.md: bytes, objects and hours of feature caches. Plain arithmetic.

Run: python benchmarks/scale_tables.py
"""

from collections.abc import Iterator
from typing import Literal

from flows.planning.table import duration
from storage.cache import KindSpec
from storage.cache.footprint import footprint

Dtype = Literal["float16", "int8", "float32"]


def vit_kinds(width: int, tokens: int, dtype: Dtype) -> dict[str, KindSpec]:
    """Return the kinds of a vision transformer: the global embedding, and tokens unless 0."""
    kinds = {"global": KindSpec(shape=(width,), dims=("feature",), dtype=dtype)}
    if tokens:
        dims = ("token", "feature")
        kinds["tokens"] = KindSpec(shape=(tokens, width), dims=dims, dtype=dtype)
    return kinds


DATASETS = {"ImageNet-1k": 1_281_167, "10 million images": 10_000_000}


_TOKENS = 256


# (views embedded per second, MB/s written and read): one modest and one strong machine.
_MACHINES = ((1_000, 200), (5_000, 2_000))


def markdown(name: str) -> str:
    """Return the table of one of ``DATASETS``."""
    machines = [f"{views:,} views/s, {mb:,} MB/s" for views, mb in _MACHINES]
    head = ["stored", "type", "views", "size", "objects"]
    head += [f"extraction, hours ({machine})" for machine in machines]
    head += [f"reading an epoch ({mb:,} MB/s)" for _, mb in _MACHINES]
    lines = [head, ["---", "---", *["---:"] * (len(head) - 2)], *_rows(DATASETS[name])]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _rows(images: int) -> Iterator[list[str]]:
    dtypes: tuple[Dtype, ...] = ("float16", "int8")
    for tokens in (0, _TOKENS):
        for width in (384, 768):
            for dtype in dtypes:
                for views in (1, 4, 8):
                    size = footprint(vit_kinds(width, tokens, dtype), images, views)
                    yield [
                        f"global {width}" + (f" + tokens {tokens} × {width}" if tokens else ""),
                        dtype,
                        str(views),
                        _size(size.bytes),
                        f"{size.objects:,}",
                        *(
                            _number(max(images * views / speed, size.bytes / mb / 1e6) / 3600)
                            for speed, mb in _MACHINES
                        ),
                        *(duration(size.bytes / views / mb / 1e6) for _, mb in _MACHINES),
                    ]


def _size(count: int) -> str:
    return f"{_number(count / 1e12)} TB" if count >= 1e12 else f"{_number(count / 1e9)} GB"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2g}"


if __name__ == "__main__":
    for dataset in DATASETS:
        print(f"{dataset}\n\n{markdown(dataset)}")
