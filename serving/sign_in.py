"""How a person shows an API key to the console: a form, and a session that the browser keeps in its place.

The cookie is not for scripts to read (HttpOnly) nor for other sites to send (SameSite=Strict), and holds no key: the session
ends at sign-out, after `LASTS`, and with its key. Works without JavaScript. Knows nothing of what the console shows.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from evermoe.errors import EvermoeError, Forbidden, Unauthenticated
from serving import pages
from serving.access import COOKIE, Access, Caller, refuse_other_sites
from serving.bodies import read_form

LASTS = timedelta(hours=12)
router = APIRouter()


@router.post("/login")
async def sign_in(request: Request) -> Response:
    """Take a key from the form and begin a session. A refused one gets the form again, which says why."""
    access: Access = request.app.state.access
    access.limit(request)
    refuse_other_sites(request)
    back = RedirectResponse("/", 303)
    if not access.required:
        return back
    form = await read_form(request)
    key = access.holder(form.get("key", ""))
    if key is None:
        return page(request, "this key is not known here, or was revoked", Unauthenticated.http_status)
    if not Caller(key).may("read"):
        said = f"the key {key.name} is of the role {key.role}, which the console is not for"
        return page(request, said, Forbidden.http_status)
    token = await asyncio.to_thread(access.keys.open_session, key, access.clock(), LASTS)
    back.set_cookie(
        COOKIE,
        token,
        max_age=int(LASTS.total_seconds()),
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",  # on plain HTTP, which loopback is, a browser may drop a secure one
    )
    return back


@router.post("/logout")
async def sign_out(request: Request) -> Response:
    """End the session, here and in the browser."""
    access: Access = request.app.state.access
    access.limit(request)
    refuse_other_sites(request)
    back = RedirectResponse("/", 303)
    if token := request.cookies.get(COOKIE):
        await access.sign_out(token)
        back.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return back


def refused(request: Request, error: EvermoeError) -> Response:
    """What a person sees who may not see a page, or whose session is over: the form, and why unless they just arrived."""
    arrived = isinstance(error, Unauthenticated) and COOKIE not in request.cookies
    return page(request, "" if arrived else str(error), error.http_status)


def page(request: Request, said: str, status: int) -> HTMLResponse:
    """The form, with `said` on top."""
    return pages.send(request, "sign_in.html", status, said=said)
