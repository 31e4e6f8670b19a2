"""What a run will do, before it does anything: images, bytes, objects, hours, and what is there."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from flows.config.run import RunConfig
from flows.data.caches import Extracted, TeacherCaches
from flows.data.dataset import Dataset
from flows.data.latents import KnownTeacher
from flows.data.listing import Listing, list_photos
from flows.data.rendering import ViewSource
from flows.data.root import run_root
from flows.data.space import free_bytes, require_space
from flows.planning.disk import measure_disk
from flows.planning.rates import (
    Rate,
    decoded_images,
    embedded_views,
    mapping_seconds,
    trained_images,
)
from flows.planning.stored import Choice, Work, choices_of, mapped_choice
from flows.planning.times import (
    NOTHING,
    Seconds,
    exactly,
    extraction,
    lasting,
    rendered_photos,
    together,
    training,
)
from flows.stages.cache_requests import CacheRequest, requested_caches, requested_tokens
from flows.stages.ids import (
    mapping_name,
    mapping_spec,
    mapping_width,
    student_spec,
)
from flows.stages.models import known_teacher
from flows.stages.preflight import preflight
from flows.stages.results import Indexed
from storage.artifacts import list_artifacts
from storage.cache import FeatureCache
from storage.cache.footprint import footprint
from storage.errors import MissingObjectError
from storage.images import open_reader
from storage.root import Root, open_root
from tintem_core.models.device import choose_device
from tintem_core.models.teacher import Teacher


@dataclass(frozen=True)
class Plan:
    """What a run will do. Rates are per second, measured here and now."""

    root: str
    device: str
    photos: dict[str, int]
    photos_exact: bool
    views: int
    views_reused: int
    choices: tuple[Choice, ...]
    bytes_needed: int
    bytes_free: int | None
    write_bytes_rate: float
    read_bytes_rate: float
    teacher_views: Rate | None
    """None where the teacher is a file of latents."""
    decoded_photos: Rate | None
    trained_images: Rate
    extraction: Seconds
    extraction_limit: str
    mapping: Seconds
    training_steps: int
    training: Seconds
    in_all: Seconds
    reused: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def plan(config: RunConfig) -> Plan:
    """List the photos, measure disk, teacher and student for a few seconds, and count.

    Raises:
        InputError, SourceError: as the run itself would.
    """
    preflight(config)
    root = run_root(config)
    device = choose_device(config.runtime.device)
    teachers = [known_teacher(each, device) for each in config.teachers]
    width = mapping_width(config)
    sources = (config.data, *config.evaluation.ood, *config.support_sources)
    photos = {s.name: list_photos(root, s) for s in sources}
    data = photos[config.data.name]
    wanted = [want for teacher in teachers for want in requested_caches(config, teacher)]
    work = [_work(root, want, photos[want.source.name]) for want in wanted]
    extracted = _extracted(config, wanted)
    choices = choices_of(config, work, teachers[0].describe())
    if config.cache.keep_mapped:
        tokens = _mapped_tokens(root, config, teachers[0], photos, extracted)
        work += tokens
        choices += (mapped_choice(config, work),)
        extracted = replace(extracted, mapped_tokens=tuple(w.want.spec.id for w in tokens))
    needed = sum(
        footprint(
            w.want.spec.kinds, w.missing, w.want.spec.views, config.cache.rows_per_shard
        ).bytes
        for w in work
        if w.missing
    )
    disk = measure_disk(root)
    # Latents from a file cost nothing but the writing.
    views_rates = {t.config: embedded_views(t) for t in teachers if isinstance(t, Teacher)}
    decoded_rates = _decoded(config, photos)
    limit, extracting = extraction(
        together([
            lasting(w.missing * w.want.spec.views, views_rates.get(w.want.teacher)) for w in work
        ]),
        together([
            lasting(w.missing, decoded_rates[w.want.source.name] if views_rates else None)
            for w in work
        ]),
        exactly(needed / disk.write),
        device,
    )  # fmt: skip
    available = sum(teacher.width for teacher in teachers)
    trained_rate = trained_images(config, device, available, width)
    learnt = data.train
    if config.training.select == "best":
        learnt -= round(data.train * config.training.validation_share)
    batch = max(1, min(config.training.batch_size, learnt))
    share = config.training.support if config.support_sources else 0.0
    steps = config.training.epochs * (learnt // max(1, round(batch * (1 - share))))
    counts = {name: found.photos for name, found in photos.items()} | {config.data.name: learnt}
    renders = rendered_photos(config, counts, steps, batch)
    reused = _reused(root, config, photos, extracted)
    mapping, trained = NOTHING, NOTHING
    if "mapping" not in reused:
        rows = data.train * config.views.count
        mapping = exactly(mapping_seconds(config, device, rows, available, width))
    if "student" not in reused:
        rendering = together([lasting(n, decoded_rates[name]) for name, n in renders.items()])
        trained = training(lasting(steps * batch, trained_rate), rendering, device)
    indexing = NOTHING
    if not all(found.exact for found in photos.values()):
        indexing = together(
            [lasting(found.photos, decoded_rates[name]) for name, found in photos.items()]
        )
    return Plan(
        root=root.url,
        device=device,
        photos={name: found.photos for name, found in photos.items()},
        photos_exact=all(found.exact for found in photos.values()),
        views=sum(w.views for w in work),
        views_reused=sum(w.done * w.want.spec.views for w in work),
        choices=choices,
        bytes_needed=needed,
        bytes_free=free_bytes(root),
        write_bytes_rate=disk.write,
        read_bytes_rate=disk.read,
        teacher_views=views_rates.get(config.teacher),
        decoded_photos=decoded_rates[config.data.name],
        trained_images=trained_rate,
        extraction=extracting,
        extraction_limit=limit if needed else "",
        mapping=mapping,
        training_steps=steps,
        training=trained,
        in_all=together([indexing, extracting, mapping, trained]),
        reused=reused,
    )


def refuse_what_cannot_fit(found: Plan) -> None:
    """Raises InputError where the disk cannot hold what the run will store."""
    require_space(open_root(found.root), found.bytes_needed, "the feature cache")


def _work(root: Root, want: CacheRequest, photos: Listing) -> Work:
    count = photos.count(want.split)
    if photos.previous is None:
        return Work(want, count, 0)
    try:
        cache = FeatureCache.open(root, want.spec.id)
    except MissingObjectError:
        return Work(want, count, 0)
    keys = photos.previous.keys(want.split)
    return Work(want, count, min(count, len(keys) - len(cache.missing(keys))))


def _decoded(config: RunConfig, photos: Mapping[str, Listing]) -> dict[str, Rate | None]:
    """Return how many images a second are decoded, by data set; other photos as those of `data`."""
    size, reading = config.teacher.image_size, run_root(config).reading
    found = {}
    for source in (config.data, *config.support_sources):
        sample = photos[source.name].sample
        # What is drawn instead of read takes far longer.
        views = ViewSource(open_reader(source, reading), sample, sample, config.views.recipe, size)
        count = config.views.count if source is config.data else 1
        found[source.name] = decoded_images(views, count, size, config.runtime.decode_threads)
    return dict.fromkeys(photos, found[config.data.name]) | found


def _mapped_tokens(
    root: Root,
    config: RunConfig,
    teacher: KnownTeacher,
    photos: Mapping[str, Listing],
    extracted: Extracted,
) -> list[Work]:
    """Return the caches of mapped tokens; other photos have another mapping, and nothing of it."""
    data = photos[config.data.name]
    mapping = ""
    if data.exact and data.previous is not None:
        known = Dataset(data.previous)
        spec = mapping_spec(config, extracted.identity(), known, mapping_width(config))
        mapping = mapping_name(config, spec)
    wanted = requested_tokens(config, teacher, mapping)
    return [_work(root, want, photos[want.source.name]) for want in wanted]


def _extracted(config: RunConfig, wanted: list[CacheRequest]) -> Extracted:
    """Return the caches that the extraction will make sure of."""
    # The same number for every teacher, its training views first.
    each = len(wanted) // len(config.teachers)
    found = [
        (views.spec.id, {want.source.name: want.spec.id for want in evaluation})
        for views, *evaluation in (wanted[i : i + each] for i in range(0, len(wanted), each))
    ]
    others = [
        TeacherCaches(other.name, other.weight, *caches)
        for other, caches in zip(config.other_teachers, found[1:], strict=True)
    ]
    return Extracted(*found[0], reused=False, others=tuple(others))


def _reused(
    root: Root, config: RunConfig, photos: Mapping[str, Listing], extracted: Extracted
) -> tuple[str, ...]:
    """Name the stages whose results are there; only known where no photo has changed."""
    known = {
        name: Dataset(found.previous)
        for name, found in photos.items()
        if found.exact and found.previous is not None
    }
    if len(known) < len(photos):
        return ()
    data = known[config.data.name]
    ood, support = (
        {source.name: known[source.name] for source in sources}
        for sources in (config.evaluation.ood, config.support_sources)
    )
    images = Indexed(data, ood, support)
    spec = mapping_spec(config, extracted.identity(), data, mapping_width(config))
    mapped = _ids(root, "mappings", spec)
    trained = [
        student
        for mapping_id in mapped
        for student in _ids(root, "students", student_spec(config, extracted, images, mapping_id))
    ]
    return (*(["mapping"] if mapped else []), *(["student"] if trained else []))


def _ids(root: Root, kind: str, spec: Mapping[str, Any]) -> list[str]:
    return [thing.id for thing in list_artifacts(root, kind) if thing.record.get("spec") == spec]
