"""Read an export with the libraries of others, in an environment that has them and nothing of ours.

    python load.py FOLDER PHOTO...

Photos have the student's own size. Prints JSON: ``openvino`` and ``fastembed`` embeddings of the
photos, and ``triton``, the model configuration as the service would understand it.
"""

import json
import sys
from pathlib import Path

import numpy as np
import openvino
from fastembed import ImageEmbedding
from google.protobuf import json_format, text_format
from PIL import Image
from tritonclient.grpc.model_config_pb2 import ModelConfig

folder, *photos = map(Path, sys.argv[1:])
pixels = np.stack([np.asarray(Image.open(photo).convert("RGB")) for photo in photos])
core = openvino.Core()
compiled = core.compile_model(
    core.read_model(folder / "student_uint8.onnx"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
)
# The name is of a model whose file is called the same; nothing is fetched.
fast = ImageEmbedding("Qdrant/clip-ViT-B-32-vision", specific_model_path=str(folder / "onnx"))
(config,) = folder.glob("triton/*/config.pbtxt")
told = text_format.Parse(config.read_text(), ModelConfig())
print(
    json.dumps(
        {
            "openvino": compiled({"image": pixels})["embedding"].tolist(),
            "fastembed": [row.tolist() for row in fast.embed(list(map(str, photos)))],
            "triton": json_format.MessageToDict(told, preserving_proto_field_name=True),
        }
    )
)
