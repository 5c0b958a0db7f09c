"""Why a request gets no answer: an HTTP status, what is wrong, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from starlette.responses import JSONResponse

NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class Refusal(Exception):
    """An error that the client can correct. It holds nothing of the server: no path, no trace."""

    def __init__(
        self,
        status: int,
        what: str,
        hint: str = "",
        headers: Mapping[str, str] = NO_HEADERS,
    ) -> None:
        super().__init__(what)
        self.status = status
        self.what = what
        self.hint = hint
        self.headers = headers

    def as_response(self) -> JSONResponse:
        """Return {"error": what, "hint": what to do}; without a hint only the error."""
        content = {"error": self.what}
        if self.hint:
            content["hint"] = self.hint
        return JSONResponse(content, self.status, dict(self.headers))
