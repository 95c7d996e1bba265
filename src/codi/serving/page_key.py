"""The page behind the API's key: a form asks for it once, and a cookie remembers that it was right.

The cookie holds a random word of this process, never the key. It is not sent along with requests that other
sites make (SameSite), so nobody else's page can use this one.
"""

from __future__ import annotations

import hmac
import secrets
from html import escape
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

LOGIN = "/login"


class PageKey:
    """Whether a browser may see the page. key: the API's; name: of the model, for the form."""

    def __init__(self, key: str, name: str) -> None:
        self._key, self._name, self._word = key, name, secrets.token_urlsafe(32)
        # Cookies are shared by all ports of a host, so each server has a name of its own.
        self._cookie = f"codi_page_{secrets.token_hex(4)}"

    def opens(self, headers: dict[bytes, bytes]) -> bool:
        """Whether the cookie is there. headers: of a request, names in lower case."""
        try:
            cookies = SimpleCookie(headers.get(b"cookie", b"").decode("latin-1"))
        except CookieError:
            return False
        given = cookies[self._cookie].value if self._cookie in cookies else ""
        return hmac.compare_digest(given.encode(), self._word.encode())

    def to_login(self) -> Response:
        """To the form."""
        return RedirectResponse(LOGIN, 303, {"cache-control": "no-store"})

    async def login(self, request: Request) -> Response:
        """The form, and what it sends."""
        if request.method != "POST":
            return self._form("", 200)
        fields = parse_qs((await request.body()).decode("utf-8", "replace"))
        given = fields.get("key", [""])[0]
        if not hmac.compare_digest(given.encode(), self._key.encode()):
            return self._form("That is not the key.", 401)
        answer = RedirectResponse("/", 303)
        secure = request.url.scheme == "https"
        answer.set_cookie(self._cookie, self._word, httponly=True, samesite="strict", secure=secure)
        return answer

    def _form(self, told: str, status: int) -> Response:
        return HTMLResponse(
            FORM.format(name=escape(self._name), told=escape(told)), status, {"cache-control": "no-store"}
        )


FORM = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Thoughts of {name}</title>
<style>body {{ font: 16px system-ui, sans-serif; max-width: 24rem; margin: 15vh auto; padding: 0 1rem }}
input, button {{ font: inherit; padding: .5rem; width: 100%; box-sizing: border-box; margin-top: .5rem }}
p {{ color: #b71c1c }}</style></head>
<body><form method="post"><label>API key of this server
<input type="password" name="key" autocomplete="current-password" autofocus required></label>
<button>Show the page</button></form><p role="alert">{told}</p></body></html>"""
