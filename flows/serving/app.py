"""The service: embeddings by HTTP, in the shape of OpenAI's, or of a form.

Legend: ``K`` student width.
"""

import asyncio
import base64
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Annotated, Any, Literal

from fastapi import FastAPI, File, HTTPException, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST
from prometheus_client import generate_latest as metrics_text
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException as AnyHTTPException

from flows.inference.model import PhotoModel
from flows.serving.current import Current
from flows.serving.limits import BodyLimit, Limits, error_body
from flows.serving.links import Links
from flows.serving.measures import Measured, Measures
from flows.serving.queue import BusyError, EmbeddingQueue, Vector
from tintem_core.errors import InputError
from tintem_pixels import PixelError

_LATEST = "latest"
_Format = Literal["float", "base64"]


class Problem(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class Refusal(BaseModel):
    """What is told instead of an answer."""

    error: Problem


class Asked(BaseModel):
    """Images to embed."""

    input: str | list[str] = Field(description="images as data URIs, data:image/jpeg;base64,…")
    model: str = Field(
        _LATEST, description="the id of the student that must answer, or `latest`: whichever does"
    )
    encoding_format: _Format = Field("float", description="base64: of float32, little-endian")
    dimensions: int | None = Field(None, description="the student's width, or nothing")
    user: str | None = None


class Embedding(BaseModel):
    """What a student says of one image."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str
    ood_score: float | None = Field(
        description="cosine to the nearest photo of the training; null: the export has no score"
    )


class Usage(BaseModel):
    prompt_tokens: int = 0
    total_tokens: int = 0


class Embeddings(BaseModel):
    """One embedding per image, in their order."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: Usage = Usage()


class Model(BaseModel):
    """A student that answers."""

    model_config = ConfigDict(protected_namespaces=())

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "tintem"
    width: int
    image_size: int
    ood_threshold: float | None = Field(
        description="an ood_score below it is strange; null: the export has no score"
    )
    file: str


class Models(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]


class Health(BaseModel):
    status: Literal["ok"] = "ok"
    model: str


def _refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Refusal} for status in statuses}


class Service:
    """A student's queue, and what answers requests from it."""

    def __init__(self, current: Current, links: Links, limits: Limits, threads: int) -> None:
        self.current, self._links, self.limits = current, links, limits
        self.measures = Measures(lambda: len(self.queue))
        self.queue = EmbeddingQueue(
            threads,
            most_waiting=limits.waiting,
            most_pixels=limits.pixels,
            on_batch=self.measures.batch.observe,
        )
        self.since = int(time.time())

    def model(self, name: str) -> PhotoModel:
        """Return the student that answers, if it is the one that is asked for."""
        found = self.current.model
        if name in (_LATEST, self.current.follows, found.id):
            return found
        raise HTTPException(404, f"{name} does not answer here, {found.id} does.")

    async def images(self, uris: list[str]) -> list[bytes]:
        """Return the encoded images that a request holds or points to."""
        self.refuse_number(len(uris))
        found = []
        for number, uri in enumerate(uris):
            try:
                found.append(await self._links.image(uri))
            except InputError as error:
                raise HTTPException(400, f"image {number}: {error}.") from error
        return found

    def refuse_number(self, images: int) -> None:
        if not 0 < images <= self.limits.images:
            raise HTTPException(
                400, f"the request has {images} images, not 1 to {self.limits.images}."
            )

    async def embedded(self, model: PhotoModel, images: list[bytes]) -> list[Vector]:
        """Embed images; none is, if one cannot be."""
        try:
            waiting = self.queue.submit(model, images)
        except BusyError as error:
            raise HTTPException(503, str(error), {"Retry-After": "1"}) from error
        found = await asyncio.gather(*map(asyncio.wrap_future, waiting), return_exceptions=True)
        vectors = []
        for number, each in enumerate(found):
            if isinstance(each, PixelError):
                raise HTTPException(400, f"image {number}: {each}.") from each
            if isinstance(each, BaseException):
                raise each
            vectors.append(each)
        self.measures.images.inc(len(vectors))
        return vectors


def _answer(model: PhotoModel, vectors: list[Vector], encoding: _Format) -> Embeddings:
    data = [
        Embedding(
            index=index,
            embedding=(
                vector.embedding.tolist()
                if encoding == "float"
                else base64.b64encode(vector.embedding.astype("<f4").tobytes()).decode()
            ),
            ood_score=vector.score,
        )
        for index, vector in enumerate(vectors)
    ]
    return Embeddings(data=data, model=model.id)


def make_app(
    current: Current, links: Links, limits: Limits, threads: int, look_every: float
) -> FastAPI:
    """Return the service of a student, for any ASGI server.

    Args:
        current: which one.
        links: what is fetched.
        limits: what is refused.
        threads: that embed.
        look_every: seconds between looks at which student is in force.
    """
    service = Service(current, links, limits, threads)

    @asynccontextmanager
    async def life(_app: FastAPI) -> AsyncIterator[None]:
        watching = threading.Thread(target=current.watch, args=(look_every,), daemon=True)
        watching.start()
        yield
        current.stop()
        await asyncio.to_thread(service.queue.close)

    app = FastAPIOffline(
        title="TinTeM",
        version=version("tintem"),
        description="Embeddings of images by a distilled student.",
        lifespan=life,
    )
    app.add_middleware(BodyLimit, limits=limits)
    app.add_middleware(Measured, measures=service.measures)
    _refuse_in_one_shape(app)
    _add_paths(app, service)
    return app


def _add_paths(app: FastAPI, service: Service) -> None:
    @app.post("/v1/embeddings", responses=_refusals(400, 404, 413, 422, 503))
    async def embeddings(asked: Asked) -> Embeddings:
        """Embed images that the request holds as data URIs, as OpenAI's clients ask for it."""
        model = service.model(asked.model)
        if asked.dimensions not in (None, model.width):
            raise HTTPException(400, f"{model.id} has {model.width} dimensions, and no others.")
        uris = [asked.input] if isinstance(asked.input, str) else asked.input
        vectors = await service.embedded(model, await service.images(uris))
        return _answer(model, vectors, asked.encoding_format)

    @app.post("/embed", responses=_refusals(400, 413, 422, 503))
    async def embed(files: Annotated[list[UploadFile], File()]) -> Embeddings:
        """Embed the files of a form."""
        service.refuse_number(len(files))
        model = service.current.model
        vectors = await service.embedded(model, [await file.read() for file in files])
        return _answer(model, vectors, "float")

    @app.get("/v1/models")
    async def models() -> Models:
        """The student that answers."""
        model = service.current.model
        told = Model(
            id=model.id,
            created=service.since,
            width=model.width,
            image_size=model.image_size,
            ood_threshold=model.threshold,
            file=model.name,
        )
        return Models(data=[told])

    @app.get("/health")
    async def health() -> Health:
        """Whether the service answers."""
        return Health(model=service.current.model.id)

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """What Prometheus reads."""
        text = metrics_text(service.measures.registry)
        return Response(text, media_type=CONTENT_TYPE_LATEST)


def _refuse_in_one_shape(app: FastAPI) -> None:
    @app.exception_handler(AnyHTTPException)
    async def refused(_request: Request, error: AnyHTTPException) -> JSONResponse:
        body = error_body(error.status_code, str(error.detail))
        return JSONResponse(body, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def not_understood(_request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        body = error_body(422, f"{where or 'the body'}: {first['msg']}.")
        return JSONResponse(body, 422)
