"""`tintem serve`: an exported student behind HTTP."""

from typing import Annotated

import typer
from rich.markup import escape

from flows.cli.command import console, example

app = typer.Typer()
_MILLION = 1_000_000


@app.command(epilog=example("tintem serve tintem.yaml --port 8000"))
def serve(
    place: Annotated[
        str,
        typer.Argument(
            metavar="STUDENT",
            help="an export's folder or an ONNX file inside; or CONFIG.yaml or "
            "ROOT/latest/NAME.json: whichever student is in force, from the moment it is",
        ),
    ],
    student: Annotated[
        str | None, typer.Option("--student", help="its name, where a config has several")
    ] = None,
    host: Annotated[str, typer.Option(help="address to listen at; 0.0.0.0: all")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one")] = 8000,
    threads: Annotated[
        int | None, typer.Option(min=1, help="that decode and embed; else one per core")
    ] = None,
    allow_urls: Annotated[
        bool, typer.Option("--allow-urls", help="fetch http(s) links to public hosts too")
    ] = False,
    megabytes: Annotated[int, typer.Option(min=1, help="of one request, at most")] = 32,
    images: Annotated[int, typer.Option(min=1, help="in one request, at most")] = 64,
    megapixels: Annotated[int, typer.Option(min=1, help="of one image, at most")] = 50,
    waiting: Annotated[int, typer.Option(min=1, help="images that wait, at most")] = 512,
) -> None:
    """Answer requests for embeddings of images with an exported student.

    POST /v1/embeddings takes data URIs, as OpenAI's clients send them; POST /embed takes files.
    /docs describes all of it. There are no passwords: whoever reaches the address is answered.
    """
    import importlib.util

    from tintem_core.errors import InputError

    if importlib.util.find_spec("fastapi_offline") is None:
        raise InputError("a service needs more packages: pip install 'tintem[serve]'.")
    from flows.serving.current import Current
    from flows.serving.limits import Limits
    from flows.serving.serve import address_of, listen
    from flows.serving.serve import serve as answer

    listening = listen(host, port)
    current = Current(place, student, say=_say)
    limits = Limits(
        megabytes=megabytes,
        megabytes_together=max(256, 4 * megabytes),
        images=images,
        pixels=megapixels * _MILLION,
        waiting=max(waiting, images),
    )
    model = current.model
    score = "with ood_score" if model.has_score else "without ood_score (export.formats: ood)"
    _say(f"{model.name} answers: {model.width} numbers an image, {score}")
    _say(f"  {address_of(listening)}/v1/embeddings")
    _say(f"  {address_of(listening)}/docs")
    answer(current, limits, listening, threads=threads, allow_urls=allow_urls)
    _say("ended; every request that was taken is answered")


def _say(text: str) -> None:
    console.print(escape(text), highlight=False, soft_wrap=True)
