"""The server: JSON endpoints, the page's own files, the export, and pages of runs.

GET only, but for the notes on a run, where they were asked for: PUT, from a page of this server.

Everything that a browser must know to distrust run files is in the headers: scripts, styles and
data from this server alone, nothing inline. Requests under a foreign host name are refused, so
that no other site can read the runs by pointing its name at this machine.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files as package_files
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import HTMLResponse
from starlette.middleware.trustedhost import TrustedHostMiddleware

from acdc.errors import InputError
from discovery.dashboard.contents import Plain, told_apart
from discovery.dashboard.export import SCRIPTS, STYLES, few, page_of
from discovery.dashboard.notes import LARGEST
from discovery.dashboard.sources import Folder, Source

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self';"
    " connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
# a page out of a run's folder is not ours: no scripts, and an origin of its own
FOREIGN = {
    "Content-Security-Policy": "sandbox; default-src 'none'; style-src 'unsafe-inline';"
    " img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}
LOCAL = ["127.0.0.1", "localhost", "[::1]"]
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}


def make_app(
    root: Path | None,
    hosts: list[str] | None = None,
    others: Sequence[Source] = (),
    notes: bool = False,
) -> FastAPI:
    """The pages over the runs below `root`, if any, and those of other sources.

    They are answered under these host names ("*" for any); with `notes` they may write the notes
    on a run. InputError if the root is no folder.
    """
    if root is not None and not root.is_dir():
        raise InputError(f"{root} is not a folder, so there are no runs in it.")
    sources = [*others, *([Folder(root)] if root else [])]
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts or LOCAL, www_redirect=False)

    @app.middleware("http")
    async def headers(request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    @app.exception_handler(InputError)
    async def refused(request: Request, error: InputError) -> Response:
        return _json({"error": str(error)}, 404 if request.method == "GET" else 400)

    _answers(app, sources, notes)
    _pages(app, sources)
    for name in ("index.html", *STYLES, *SCRIPTS):
        _serve(app, name)
    return app


def _answers(app: FastAPI, sources: Sequence[Source], notes: bool) -> None:
    """What the page asks for, as JSON."""

    @app.get("/api/runs")
    def runs() -> Response:
        found = [source.summaries() for source in sources]
        cut = any(len(some) >= source.most for some, source in zip(found, sources, strict=True))
        return _json({"runs": told_apart(sum(found, [])), "cut": cut})

    @app.get("/api/run")
    def run(id: str) -> Response:
        return _json(_details(sources, id) | {"notes": notes})

    @app.get("/api/circuits")
    def circuits(id: Annotated[list[str], Query()]) -> Response:
        return _json([_source(sources, run).circuit(run) for run in few(id)])

    @app.get("/api/sweep")
    def sweep(folder: str) -> Response:
        return _json(_source(sources, folder).sweep(folder))

    if notes:

        @app.put("/api/notes")
        async def write_notes(id: str, request: Request) -> Response:
            given = await _sent(request)
            return _json(_source(sources, id).write_notes(id, given))


def _pages(app: FastAPI, sources: Sequence[Source]) -> None:
    """Pages that are opened by themselves."""

    @app.get("/export")
    def export(id: Annotated[list[str], Query()]) -> Response:
        several = len(few(id)) > 2
        found = {
            run: _shared(sources, run) if several else _details(sources, run, False) for run in id
        }
        named = {"Content-Disposition": 'attachment; filename="circuit.html"'}
        return HTMLResponse(page_of(found), headers=named)

    @app.get("/page")
    def page(id: str, name: str) -> Response:
        return HTMLResponse(_source(sources, id).page(id, name), headers=FOREIGN)


def _source(sources: Sequence[Source], run: str) -> Source:
    """The first source that this name points to."""
    for source in sources:
        if source.holds(run):
            return source
    raise InputError("There is no such run.")


def _shared(sources: Sequence[Source], run: str) -> Plain:
    return _source(sources, run).circuit(run) | {"record": {}}


def _details(sources: Sequence[Source], run: str, private: bool = True) -> Plain:
    return _source(sources, run).details(run, private)


async def _sent(request: Request) -> object:
    """The JSON that one of our own pages sent; InputError for any other sender, type or size.

    A foreign page cannot send this type without asking first, and is not answered.
    """
    origin, host = request.headers.get("origin"), request.headers.get("host")
    if origin is None or urlsplit(origin).netloc != host:
        raise InputError("Notes are taken from this server's own page only.")
    if request.headers.get("content-type") != "application/json":
        raise InputError("content-type: allowed is application/json")
    data = b""
    async for part in request.stream():
        data += part
        if len(data) > LARGEST:
            raise InputError(f"notes: allowed are at most {LARGEST >> 10} KiB")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"notes: no JSON that can be read: {str(error)[:200]}") from error


def _serve(app: FastAPI, name: str) -> None:
    """One of the page's own files, under its name; the page itself at the root."""
    content = package_files("discovery.dashboard").joinpath("page", name).read_bytes()
    media = TYPES[Path(name).suffix]

    def file() -> Response:
        return Response(content, media_type=media)

    app.add_api_route("/" if name == "index.html" else f"/{name}", file, methods=["GET"])


def _json(value: object, status: int = 200) -> Response:
    """ASCII JSON: lone surrogates and line separators stay escapes."""
    data = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return Response(data, status, media_type="application/json")
