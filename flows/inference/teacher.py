"""The teacher of a finished run, brought into its students' space.

Legend: ``B`` batch, ``D`` teacher width, ``K`` student width, ``S`` side in pixels.
"""

from pathlib import Path

from flows.config.load import load_config
from flows.inference.model import Answer, PhotoModel
from flows.stages.export import MAPPING
from flows.stages.models import load_teacher
from flows.stages.stored import stored_run
from storage.artifacts import read_file
from storage.identity import digest
from tintem_core.errors import InputError
from tintem_core.export.runtime import session
from tintem_core.models.joint import taught_latents
from tintem_core.views import Pixels


def mapped_teacher(path: Path) -> PhotoModel:
    """Open the teacher of a config, and the mapping that its run exported.

    Raises:
        InputError: if the run is not finished, its students learnt without a mapping, or the
            teacher is a file of embeddings, which has none of other photos.
    """
    config = load_config(path)
    if any(teacher.latents is not None for teacher in config.teachers):
        raise InputError(
            f"{path} has a file of embeddings for a teacher, which knows no other photos: embed "
            "them with the student, or with the model that the file came from."
        )
    sizes = sorted({teacher.image_size for teacher in config.teachers})
    if len(sizes) > 1:
        raise InputError(
            f"the teachers of {path} see photos at {' and '.join(map(str, sizes))} pixels, and one "
            "embedding takes one size: embed the photos with the student."
        )
    run = stored_run(config)
    exported = run.exported
    if MAPPING not in exported.record["files"]:
        raise InputError(
            f"the students of {path} learn without a mapping, so that their teacher has no place "
            "in their space: embed the photos with the student."
        )
    mapping = read_file(run.root, "exports", exported.id, MAPPING)
    opened = session(mapping)
    teachers = [load_teacher(each, config.runtime.device) for each in config.teachers]
    weights = config.teacher_weights

    def embed(pixels: Pixels) -> Answer:
        latents = taught_latents([t.embed(pixels).embedding for t in teachers], weights)
        return Answer(opened.run(None, {"latents": latents})[0])

    return PhotoModel(
        name=f"{config.teacher.name} through {exported.id}/{MAPPING}",
        id=exported.id,
        identity=digest(
            {
                "teachers": [teacher.identity() for teacher in teachers],
                "weights": weights,
                "mapping": exported.record["files"][MAPPING]["sha256"],
            }
        ),
        image_size=sizes[0],
        bits=config.data.bits,
        width=exported.record["width"],
        embed=embed,
        batch_size=config.teacher.batch_size,
        at_once=teachers[0].threads,
    )
