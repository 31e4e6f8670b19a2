"""The fifteen common corruptions of ImageNet-C, five severities each.

After Hendrycks & Dietterich, "Benchmarking neural network robustness to common corruptions and
perturbations" (ICLR 2019), with the severities of its code. Written anew on NumPy, SciPy and
Pillow: the packages that carry the original need OpenCV and Numba, whose releases lag behind
NumPy's. Three things differ. Lengths in pixels are for images of 224 and scale with the side. Frost
is drawn from fractal noise, where the original lays photos of frost over the image. Random choices
come from the generator that is given, so that a corrupted view is a pure function of its key.

Legend: ``S`` side in pixels. Images are float64, RGB, 0..1, (S, S, 3), until they are rounded.
"""

import io
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

Picture = NDArray[np.float64]
Corruption = Callable[[Picture, np.random.Generator, int], Picture]
SEVERITIES = 5
# The side that lengths in pixels are given for.
_SIDE = 224


def corrupt(
    pixels: NDArray[np.uint8], name: str, severity: int, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Corrupt one image.

    Args:
        pixels: RGB, uint8, shape (S, S, 3).
        name: one of CORRUPTIONS.
        severity: 0 to 4, the mildest first.
        rng: of every random choice.

    Returns:
        uint8, shape (S, S, 3).
    """
    found = CORRUPTIONS[name](pixels / 255.0, rng, severity)
    return np.rint(np.clip(found, 0, 1) * 255).astype(np.uint8)


def gaussian_noise(image: Picture, rng: np.random.Generator, severity: int) -> Picture:
    return image + rng.normal(0, (0.08, 0.12, 0.18, 0.26, 0.38)[severity], image.shape)


def shot_noise(image: Picture, rng: np.random.Generator, severity: int) -> Picture:
    photons = (60, 25, 12, 5, 3)[severity]
    return rng.poisson(image * photons) / photons


def impulse_noise(image: Picture, rng: np.random.Generator, severity: int) -> Picture:
    share = (0.03, 0.06, 0.09, 0.17, 0.27)[severity]
    hit = rng.random(image.shape) < share
    return np.where(hit, rng.random(image.shape) < 0.5, image)


def defocus_blur(image: Picture, _rng: np.random.Generator, severity: int) -> Picture:
    radius, smoothing = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))[severity]
    scaled = radius * len(image) / _SIDE
    reach = max(1, int(np.ceil(scaled)))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    # A soft edge, so that a radius between two whole numbers is one between their blurs.
    disc = np.clip(scaled + 0.5 - np.hypot(x, y), 0, 1)
    disc = ndimage.gaussian_filter(disc, smoothing)
    return _convolved(image, disc / disc.sum())


def glass_blur(image: Picture, rng: np.random.Generator, severity: int) -> Picture:
    sigma, reach, times = ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2))[severity]
    scale = len(image) / _SIDE
    image = _smoothed(image, sigma * scale)
    grid = np.mgrid[: len(image), : len(image)]
    for _ in range(times):
        # Each pixel comes from a random neighbour.
        image = _sampled(image, grid + scale * rng.integers(-reach, reach + 1, grid.shape))
    return _smoothed(image, sigma * scale)


def motion_blur(image: Picture, rng: np.random.Generator, severity: int) -> Picture:
    radius, sigma = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))[severity]
    scale = len(image) / _SIDE
    angle = np.deg2rad(rng.uniform(-45, 45))
    reach = max(1, int(np.ceil(radius * scale)))
    steps = np.arange(-reach, reach + 1)
    weights = np.exp(-((steps / (sigma * scale)) ** 2) / 2)
    blurred, total = np.zeros_like(image), weights.sum()
    for step, weight in zip(steps, weights, strict=True):
        shift = (step * np.sin(angle), step * np.cos(angle), 0)
        blurred += weight / total * ndimage.shift(image, shift, order=1, mode="nearest")
    return blurred


def zoom_blur(image: Picture, _rng: np.random.Generator, severity: int) -> Picture:
    most, step = ((0.1, 0.01), (0.15, 0.01), (0.2, 0.02), (0.25, 0.02), (0.3, 0.03))[severity]
    factors = 1 + np.arange(0, most + step / 2, step)
    return np.mean([_zoomed(image, float(factor)) for factor in factors] + [image], axis=0)


def snow(image: Picture, rng: np.random.Generator, severity: int) -> Picture:
    mean, spread, zoom, least, radius, sigma, kept = (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8), (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7), (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    )[severity]  # fmt: skip
    scale = len(image) / _SIDE
    flakes = _zoomed(rng.normal(mean, spread, image.shape[:2]), zoom)
    flakes = np.where(flakes < least, 0, np.clip(flakes, 0, 1))
    angle = np.deg2rad(rng.uniform(-135, -45))
    reach = max(1, int(np.ceil(radius * scale)))
    steps = np.arange(-reach, reach + 1)
    weights = np.exp(-((steps / (sigma * scale)) ** 2) / 2)
    fallen = sum(
        weight * ndimage.shift(flakes, (step * np.sin(angle), step * np.cos(angle)), order=1)
        for step, weight in zip(steps, weights / weights.sum(), strict=True)
    )[..., None]
    whitened = np.maximum(image, image.mean(axis=2, keepdims=True) * 1.5 + 0.5)
    return kept * image + (1 - kept) * whitened + fallen + fallen[::-1, ::-1]


def frost(image: Picture, rng: np.random.Generator, severity: int) -> Picture:
    kept, laid = ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))[severity]
    # Ridges of fractal noise: thin bright lines that branch.
    ridges = 1 - np.abs(2 * _fractal(len(image), rng, 1.7) - 1)
    tint = np.array([0.85, 0.95, 1.0])
    return kept * image + laid * (ridges**4)[..., None] * tint


def fog(image: Picture, rng: np.random.Generator, severity: int) -> Picture:
    most, decay = ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))[severity]
    brightest = image.max()
    hazed = image + most * _fractal(len(image), rng, decay)[..., None]
    return hazed * brightest / (brightest + most)


def brightness(image: Picture, _rng: np.random.Generator, severity: int) -> Picture:
    more = (0.1, 0.2, 0.3, 0.4, 0.5)[severity]
    value = image.max(axis=2, keepdims=True)
    # The value of HSV is raised; hue and saturation stay, so all channels scale alike.
    wanted = np.minimum(value + more, 1)
    return np.where(value > 0, image * wanted / np.maximum(value, 1e-9), wanted)


def contrast(image: Picture, _rng: np.random.Generator, severity: int) -> Picture:
    means = image.mean(axis=(0, 1), keepdims=True)
    return (image - means) * (0.4, 0.3, 0.2, 0.1, 0.05)[severity] + means


def elastic_transform(image: Picture, rng: np.random.Generator, severity: int) -> Picture:
    strength, sigma, affine = (
        (488, 170.8, 24.4), (488, 19.52, 48.8), (12.2, 2.44, 4.88), (17.08, 2.44, 4.88),
        (29.28, 2.44, 4.88),
    )[severity]  # fmt: skip
    side = len(image)
    scale = side / _SIDE
    centre, third = side / 2, side / 3
    known = np.array([[centre + third, centre + third], [centre + third, centre - third],
                      [centre - third, centre - third]])  # fmt: skip
    moved = known + rng.uniform(-affine * scale, affine * scale, known.shape)
    # The affine map that takes the moved points back to where they were: rows, then columns.
    matrix = np.linalg.solve(np.c_[moved, np.ones(3)], known).T
    grid = np.mgrid[:side, :side].reshape(2, -1)
    source = matrix @ np.r_[grid, np.ones((1, side * side))]
    waves = [
        ndimage.gaussian_filter(rng.uniform(-1, 1, (side, side)), sigma * scale, mode="reflect",
                                truncate=3) * strength * scale
        for _ in range(2)
    ]  # fmt: skip
    where = (source + np.stack(waves).reshape(2, -1)).reshape(2, side, side)
    return _sampled(image, where)


def pixelate(image: Picture, _rng: np.random.Generator, severity: int) -> Picture:
    side = len(image)
    small = max(1, int(side * (0.6, 0.5, 0.4, 0.3, 0.25)[severity]))
    coarse = _as_image(image).resize((small, small), Image.Resampling.BOX)
    return np.asarray(coarse.resize((side, side), Image.Resampling.NEAREST)) / 255.0


def jpeg_compression(image: Picture, _rng: np.random.Generator, severity: int) -> Picture:
    buffer = io.BytesIO()
    _as_image(image).save(buffer, "JPEG", quality=(25, 18, 15, 10, 7)[severity])
    return np.asarray(Image.open(buffer)) / 255.0


CORRUPTIONS: dict[str, Corruption] = {
    found.__name__: found
    for found in (
        gaussian_noise, shot_noise, impulse_noise, defocus_blur, glass_blur, motion_blur, zoom_blur,
        snow, frost, fog, brightness, contrast, elastic_transform, pixelate, jpeg_compression,
    )
}  # fmt: skip


def corruption_of(view: int) -> tuple[str, int]:
    """Which corruption and severity a view of the recipe ``corrupted`` shows."""
    return list(CORRUPTIONS)[view // SEVERITIES], view % SEVERITIES


def _as_image(image: Picture) -> Image.Image:
    return Image.fromarray(np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8))


def _convolved(image: Picture, kernel: Picture) -> Picture:
    return np.stack(
        [ndimage.convolve(image[..., c], kernel, mode="reflect") for c in range(3)], axis=2
    )


def _smoothed(image: Picture, sigma: float) -> Picture:
    return np.asarray(ndimage.gaussian_filter(image, (sigma, sigma, 0)))


def _sampled(image: Picture, where: NDArray[np.float64]) -> Picture:
    return np.stack(
        [ndimage.map_coordinates(image[..., c], where, order=1, mode="reflect") for c in range(3)],
        axis=2,
    )


def _zoomed(image: Picture, factor: float) -> Picture:
    """The middle of an image, as large as all of it; (S, S) or (S, S, 3)."""
    side = len(image)
    middle = (side - 1) / 2
    places = middle + (np.arange(side) - middle) / factor
    rows, columns = np.meshgrid(places, places, indexing="ij")
    if image.ndim == 2:
        return np.asarray(ndimage.map_coordinates(image, [rows, columns], order=1))
    return _sampled(image, np.stack([rows, columns]))


def _fractal(side: int, rng: np.random.Generator, decay: float) -> Picture:
    """Fractal noise, 0..1, (S, S): octaves of smooth noise, each ``decay`` times weaker."""
    total, cells, weight = np.zeros((side, side)), 2, 1.0
    while cells < 2 * side:
        places = np.linspace(0, cells, side)
        rows, columns = np.meshgrid(places, places, indexing="ij")
        grid = rng.random((cells + 1, cells + 1))
        total += weight * ndimage.map_coordinates(grid, [rows, columns], order=1)
        cells, weight = cells * 2, weight / decay
    total -= total.min()
    return np.asarray(total / max(float(total.max()), 1e-9))
