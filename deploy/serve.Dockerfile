# An exported student behind HTTP, without torch: docs/serving.md.
#   docker build --file deploy/serve.Dockerfile --tag tintem-serve .
#   docker run --publish 127.0.0.1:8000:8000 --volume /path/to/exports/ID:/student:ro tintem-serve
FROM python:3.11-slim-bookworm

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1

RUN useradd --create-home --uid 1000 tintem

WORKDIR /opt/tintem
COPY constraints.txt ./
RUN pip install --constraint constraints.txt \
    fastapi fastapi-offline httptools httpx numpy obstore onnxruntime pillow polars \
    prometheus-client psutil pydantic python-multipart pyyaml rich typer uvicorn uvloop zarr

COPY pyproject.toml README.md LICENSE ./
COPY tintem_core tintem_core
COPY tintem_pixels tintem_pixels
COPY storage storage
COPY flows flows
# What else the package depends on, its training needs.
RUN pip install --no-deps .

USER 1000
EXPOSE 8000
HEALTHCHECK CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://localhost:8000/health')"]
CMD ["tintem", "serve", "/student", "--host", "0.0.0.0"]
