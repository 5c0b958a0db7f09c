"""The routes of the server: GET /, /health, /model, and POST /predict."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from collections.abc import Callable
from importlib import resources
from typing import Any

from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, JSONResponse, Response

from umemma._version import __version__
from umemma.errors import UserError
from umemma.models.predictor import Predictor
from umemma.serving import request_media
from umemma.serving.answers import describe_model, describe_prediction
from umemma.serving.guard import Guard
from umemma.serving.limits import Limits
from umemma.serving.openapi import describe_request
from umemma.serving.refusals import Refusal
from umemma.serving.request_media import Media
from umemma.types import BrokenPolicy

INLINE = re.compile(r"<(style|script)>(.*?)</\1>", re.DOTALL)


def make_app(model: Predictor, limits: Limits, host: str) -> FastAPI:
    """Return the application that answers with `model`. host: where it will listen."""
    # The pages of FastAPI load scripts from other hosts.
    app = FastAPI(title="umemma", version=__version__, docs_url=None, redoc_url=None)
    app.add_middleware(Guard, limits=limits, host=host)
    app.add_exception_handler(HTTPException, _answer_http_error)
    app.add_exception_handler(RequestValidationError, _answer_wrong_query)
    app.add_exception_handler(Exception, _answer_bug)
    page, policy = load_page()
    about = describe_model(model, limits)
    service = _Service(model, limits)

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def show_page() -> Response:
        return HTMLResponse(page, headers={"Content-Security-Policy": policy})

    @app.get("/health")
    async def report_health() -> dict[str, str]:
        """Say that the server answers."""
        return {"status": "ok"}

    @app.get("/model")
    async def report_model() -> dict[str, Any]:
        """Say what the model takes and answers."""
        return about

    @app.post("/predict", openapi_extra={"requestBody": describe_request(model.kinds)})
    async def predict(
        request: Request, explain: bool = False, broken: BrokenPolicy | None = None
    ) -> JSONResponse:
        """Predict one sample; any modality may be absent.

        explain: whether to say what each modality adds. broken: whether a medium that can't be read
        is absent, or fails the request.
        """
        return JSONResponse(await service.answer(request, explain, broken))

    return app


class _Service:
    """Answers samples in threads, at most `limits.threads` at one time."""

    def __init__(self, model: Predictor, limits: Limits) -> None:
        self._kinds = model.kinds
        self._default = model.broken
        self._explains = describe_model(model, limits)["explains"]
        self._limiter = CapacityLimiter(limits.threads)
        self._models: dict[BrokenPolicy, Predictor] = {}
        policies: tuple[BrokenPolicy, ...] = ("absent", "fail")
        for policy in policies:
            shared = Predictor(model.info, model.model, model.specs, model.device, policy)
            self._models[policy] = shared

    async def answer(
        self, request: Request, explain: bool, broken: BrokenPolicy | None
    ) -> dict[str, Any]:
        """Return the answer to a request. Refusal where there is none."""
        if explain and not self._explains:
            raise Refusal(422, "this model does not know what its modalities add")
        model = self._models[broken or self._default]
        kind, _, _ = request.headers.get("content-type", "").partition(";")
        if kind.strip().lower() == "application/json":
            body = await request.body()
            read = functools.partial(request_media.read_json, body, self._kinds)
            return await self._run(model, read, explain)
        if kind.strip().lower() == "multipart/form-data":
            return await self._answer_form(request, model, explain)
        hint = "Send application/json, or multipart/form-data for files."
        raise Refusal(415, "neither JSON nor a form with files", hint)

    async def _answer_form(
        self, request: Request, model: Predictor, explain: bool
    ) -> dict[str, Any]:
        """Answer a form, whose large files lie in temporary files without a name until then."""
        count = len(self._kinds)
        # The guard bounds the whole body, so a field needs no bound of its own.
        form = request.form(max_files=count, max_fields=count, max_part_size=2**62)
        async with form as fields:
            items = fields.multi_items()
            read = functools.partial(request_media.read_form, items, self._kinds)
            return await self._run(model, read, explain)

    async def _run(
        self, model: Predictor, read: Callable[[], Media], explain: bool
    ) -> dict[str, Any]:
        work = functools.partial(_predict, model, read, explain)
        return await to_thread.run_sync(work, limiter=self._limiter)


def _predict(model: Predictor, read: Callable[[], Media], explain: bool) -> dict[str, Any]:
    """Read the media of a request and answer. Refusal for a mistake of the client."""
    try:
        media = read()
        result = model.explain(**media) if explain else model.predict(**media)
    except UserError as error:
        if not error.usage:
            raise  # of the server
        modality, _, _ = error.where.partition(" ")  # what follows is the medium, or its type
        what = error.what
        if modality in model.kinds:
            what = f"{modality}: {what}"
        raise Refusal(422, what, error.hint) from None
    return describe_prediction(result)


# The page, and errors. ------------------------------------------------------------------------


def load_page() -> tuple[str, str]:
    """Return the page and its Content-Security-Policy, which allows nothing but what is in it."""
    page = resources.files("umemma.serving").joinpath("page.html").read_text(encoding="utf-8")
    hashes: dict[str, str] = {}
    for part, text in INLINE.findall(page):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        hashes[part] = f"'sha256-{digest}'"
    policy = (
        f"default-src 'none'; style-src {hashes['style']}; script-src {hashes['script']}; "
        "connect-src 'self'; img-src blob: data:; media-src blob:; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    )
    return page, policy


async def _answer_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    what = {404: "no such page", 405: "not by this method"}.get(error.status_code, error.detail)
    hint = ""
    if error.status_code in (404, 405):
        hint = "There are GET /, GET /health, GET /model and POST /predict."
    return Refusal(error.status_code, what, hint, error.headers or {}).as_response()


async def _answer_wrong_query(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    name = first["loc"][-1]
    return Refusal(422, f"{name}: {first['msg'][:1].lower()}{first['msg'][1:]}").as_response()


async def _answer_bug(request: Request, error: Exception) -> Response:
    """Say nothing of the error, whose traceback is in the log."""
    return Refusal(500, "an error of the server, which its log has").as_response()
