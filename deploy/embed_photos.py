"""Embed photos with an exported student: ONNX Runtime, NumPy and Pillow, nothing else.

    python embed_photos.py student_uint8.onnx photo.jpg more-photos/ --out embeddings.npz

Needs the folder `tintem_pixels` of TinTeM beside it, or TinTeM installed (`pip install --no-deps`).
Prints, for each photo, the other photo that the student finds most alike.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import onnxruntime

from tintem_pixels import SUFFIXES, PixelError, load_pixels, load_square


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="student_uint8.onnx, or student.onnx")
    parser.add_argument("photos", type=Path, nargs="+", help="photos or folders of photos")
    parser.add_argument("--out", type=Path, help="write names and embeddings to this .npz")
    arguments = parser.parse_args()

    session = onnxruntime.InferenceSession(arguments.model, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    load = load_square if given.name == "image" else load_pixels
    told = session.get_modelmeta().custom_metadata_map
    size = int(told["tintem.image_size"])
    bits = int(told["tintem.bits"]) if "tintem.bits" in told else None
    paths = [
        path
        for given in arguments.photos
        for path in (sorted(given.rglob("*")) if given.is_dir() else [given])
        if path.suffix.lower() in SUFFIXES
    ]
    if not paths:
        parser.error(f"there is no photo in {', '.join(map(str, arguments.photos))}")
    names, embedded = [], []
    for path in paths:
        try:
            pixels = load(path, size, bits)
        except (PixelError, OSError) as error:
            print(f"{path} is left out: {error}", file=sys.stderr)
            continue
        names.append(str(path))
        embedded.append(session.run(None, {given.name: pixels[None]})[0])
    if not names:
        parser.error("none of the photos can be read")
    embeddings = np.concatenate(embedded)
    if arguments.out:
        np.savez(arguments.out, names=names, embeddings=embeddings)
    if len(names) > 1:
        unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
        alike = unit @ unit.T
        np.fill_diagonal(alike, -1)
        for name, row in zip(names, alike, strict=True):
            print(f"{name}  {names[int(row.argmax())]}  {row.max():.3f}")


if __name__ == "__main__":
    main()
