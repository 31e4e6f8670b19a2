"""Embed photos with an exported student: ONNX Runtime, NumPy and Pillow, nothing else.

    python embed_photos.py student.onnx photo.jpg more-photos/ --out embeddings.npz

Prints, for each photo, the other photo that the student finds most alike.
"""

import argparse
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


def load_pixels(path: Path, size: int) -> np.ndarray:
    """Return the centre crop of a photo as float32, 0..1, (3, size, size)."""
    with Image.open(path) as photo:
        photo = ImageOps.exif_transpose(photo)
        if photo.has_transparency_data:
            photo = photo.convert("RGBA")
            photo = Image.alpha_composite(Image.new("RGBA", photo.size, "white"), photo)
        photo = photo.convert("RGB")
        side = min(photo.size)
        left, top = (photo.width - side) / 2, (photo.height - side) / 2
        box = (left, top, left + side, top + side)
        small = photo.resize((size, size), Image.Resampling.BICUBIC, box=box)
    return np.asarray(small, np.float32).transpose(2, 0, 1) / np.float32(255)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="student.onnx")
    parser.add_argument("photos", type=Path, nargs="+", help="photos or folders of photos")
    parser.add_argument("--out", type=Path, help="write names and embeddings to this .npz")
    arguments = parser.parse_args()

    session = onnxruntime.InferenceSession(arguments.model, providers=["CPUExecutionProvider"])
    size = int(session.get_modelmeta().custom_metadata_map["tintem.image_size"])
    paths = [
        path
        for given in arguments.photos
        for path in (sorted(given.rglob("*")) if given.is_dir() else [given])
        if path.suffix.lower() in SUFFIXES
    ]
    if not paths:
        parser.error(f"there is no photo in {', '.join(map(str, arguments.photos))}")
    embeddings = np.concatenate(
        [session.run(None, {"pixels": load_pixels(path, size)[None]})[0] for path in paths]
    )
    if arguments.out:
        np.savez(arguments.out, names=[str(path) for path in paths], embeddings=embeddings)
    if len(paths) > 1:
        unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
        alike = unit @ unit.T
        np.fill_diagonal(alike, -1)
        for path, row in zip(paths, alike, strict=True):
            print(f"{path}  {paths[int(row.argmax())]}  {row.max():.3f}")


if __name__ == "__main__":
    main()
