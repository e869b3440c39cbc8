"""Errors of the API: their kinds, their HTTP codes, and the class of routes that answers with them."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.types import Message

from lib_addift.api.models import ErrorAnswer
from lib_addift.api.pictures import MAX_ENCODED
from lib_addift.errors import AddiftError, HostError, JobError, LoraFileError, TrainingError
from lib_addift.same_origin import ForeignRequestError, check_origin

MAX_BODY = 2 * MAX_ENCODED + 2**20  # bytes: two pictures and some settings
BASIC = HTTPBasic(auto_error=False)


class RequestError(AddiftError):
    """The request does not have the form that the route reads."""


class ContentTypeError(RequestError):
    """The body does not say that it is JSON."""


class TooLargeError(AddiftError):
    """The request is too large to be read."""


class AuthError(AddiftError):
    """User name or password are missing or wrong."""


class LoraNameError(LoraFileError):
    """No LoRA can have this name."""


class UnknownJobError(JobError):
    """There is no such job, or it did not keep this step."""


# The code of the nearest class in the error's MRO; AddiftError, the last, is bad input.
_CODES: dict[type[Exception], int] = {
    AuthError: 401,
    ForeignRequestError: 403,
    UnknownJobError: 404,
    LoraNameError: 422,
    LoraFileError: 409,
    JobError: 409,
    HostError: 409,
    TrainingError: 409,
    TooLargeError: 413,
    ContentTypeError: 415,
    AddiftError: 422,
}
_DESCRIPTIONS = {
    401: "User name or password are missing or wrong",
    403: "The request comes from a page of another site",
    404: "There is no such job or step",
    409: "The name is taken, or the state of the job, the model or the disk does not allow it",
    413: "The request is too large",
    415: "The body does not say that it is JSON",
    422: "A setting, a picture, a name or the form of the request is wrong",
}


def error_responses(*codes: int) -> dict[int | str, dict[str, Any]]:
    """The error answers of a route, for its documentation."""
    return {code: {"model": ErrorAnswer, "description": _DESCRIPTIONS[code]} for code in codes}


def route_class(
    credentials: Mapping[str, str] | None, allowed_origins: re.Pattern[str] | None = None
) -> type[APIRoute]:
    """Routes that demand one of `credentials` (user -> password; None = none) and answer errors as ErrorAnswer.

    Those that change something refuse the pages of other sites, but for `allowed_origins`, and bodies that do not say
    that they are JSON, whatever this version of fastapi would accept.

    A class of routes rather than exception handlers, which would act on all routes of the WebUI's app.
    """

    class AddiftRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def answer(request: Request) -> Response:
                try:
                    if credentials is not None:  # before the body is read
                        _check(await BASIC(request), credentials)
                    if request.method not in ("GET", "HEAD"):
                        check_origin(request.headers, allowed_origins)
                        _check_content_type(request.headers.get("content-type"), has_body=self.body_field is not None)
                    return await handle(_with_size_limit(request))
                except AddiftError as error:
                    return _error_response(error)
                except RequestValidationError as error:
                    return _error_response(RequestError(_complaint(error.errors())))
                except AnyHTTPException as error:
                    return _error_response(_addift_error(error))

            return answer

    return AddiftRoute


def _check(given: HTTPBasicCredentials | None, credentials: Mapping[str, str]) -> None:
    """Compare in a time that does not depend on the password. Raises AuthError."""
    if given is not None:
        password = credentials.get(given.username, "")
        is_right = secrets.compare_digest(given.password.encode(), password.encode())
        if is_right and given.username in credentials:
            return
    raise AuthError("user name or password are missing or wrong: send those of --api-auth with HTTP Basic.")


def _check_content_type(given: str | None, *, has_body: bool) -> None:
    """Raises ContentTypeError. A route without a body takes requests without the header, which no form can send."""
    if given is None and not has_body:
        return
    if (given or "").partition(";")[0].strip().lower() != "application/json":
        was = "no Content-Type" if given is None else f"Content-Type {given[:100]!r}"
        what = "one JSON object" if has_body else "no body"
        raise ContentTypeError(f"the request has {was}: send {what}, with the header Content-Type: application/json.")


def _with_size_limit(request: Request) -> Request:
    """The request, reading which raises 413 after MAX_BODY bytes, whatever its headers say."""
    received = 0

    async def receive() -> Message:
        nonlocal received
        message = await request.receive()
        received += len(message.get("body", b""))
        if received > MAX_BODY:
            raise HTTPException(413)  # the only exception that fastapi passes on
        return message

    return Request(request.scope, receive)


def _error_response(error: AddiftError) -> JSONResponse:
    code = next(_CODES[kind] for kind in type(error).__mro__ if kind in _CODES)
    # Messages quote what was sent: control characters, and lone surrogates, which cannot be encoded as UTF-8.
    message = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in str(error))
    headers = {"WWW-Authenticate": "Basic"} if code == 401 else None
    return JSONResponse({"error": type(error).__name__, "message": message}, code, headers)


def _addift_error(error: AnyHTTPException) -> AddiftError:
    """An error of fastapi's own as one of ours."""
    if error.status_code == 401:
        return AuthError("user name and password cannot be read: send them with HTTP Basic, in ASCII.")
    if error.status_code == 413:
        return TooLargeError(f"the request has more than {MAX_BODY >> 20} MB: scale the pictures down.")
    return RequestError("the body cannot be read: send one JSON object in UTF-8.")


def _complaint(errors: Sequence[Any]) -> str:
    """The first of pydantic's errors as a sentence of ours, as its own wording depends on the version."""
    first = errors[0]
    kind, where = str(first["type"]), ".".join(map(str, first["loc"][1:]))
    if "json" in kind:
        detail = first.get("ctx", {}).get("error") or first["msg"]
        return f"the body is no JSON ({detail}, at character {where}): send one JSON object."
    if not where:
        return "the body is no JSON object: send one, with the header Content-Type: application/json."
    if "missing" in kind:
        return f"'{where}' is missing: give it, as /docs says."
    if "extra" in kind:
        return f"'{where}' is no field of this request: leave it out, or put it into 'settings' if it is a setting."
    return f"'{where}' has the wrong form ({first['msg']}): write it as /docs says."
