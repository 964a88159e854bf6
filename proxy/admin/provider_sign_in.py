"""Sign-in of a browser at a provider: to the provider, and back from it."""

from __future__ import annotations

import hmac

import structlog
from aiohttp import web

from proxy.admin.sign_in import (
    begin_session,
    form_of,
    is_local,
    own_address,
    refuse_token,
    set_cookie,
    sign_in_page,
    wanted_target,
)
from proxy.api.authenticator import SIGN_IN, authenticator_of
from proxy.api.credentials import cookie
from proxy.api.keys import CIPHER, OPTIONS, PROVIDERS
from proxy.api.middleware import record_action
from proxy.api.requests import address_of
from proxy.runtime import clock
from proxy.sign_in.provider import (
    ATTEMPT_LIFETIME,
    Attempt,
    ProviderUnavailableError,
    SignInError,
    SignInProvider,
    new_attempt,
    seal,
    unseal,
)
from proxy.translate.errors import LocalError

log = structlog.get_logger(__name__)

#: The cookie with the attempt of a browser.
ATTEMPT_COOKIE = "comfy_proxy_sign_in"


async def get_provider_sign_in(request: web.Request) -> web.Response:
    """Lead the browser to a provider, where its person signs in, and remember where it wants to."""
    provider = _provider(request)
    target = wanted_target(request)
    attempt = new_attempt(provider.options.name, target if is_local(target) else "/", clock.time())
    try:
        authenticator_of(request).count_sign_in(address_of(request))
        url = await provider.authorization_url(attempt, _callback(request, provider))
    except (ProviderUnavailableError, LocalError) as error:
        return _refused(request, provider, error, target)
    answer = web.Response(status=302, headers={"Location": url, "Cache-Control": "no-store"})
    sealed, path = seal(attempt, request.app[CIPHER]), _cookie_path(request)
    set_cookie(request, answer, ATTEMPT_COOKIE, sealed, seconds=ATTEMPT_LIFETIME, path=path)
    return answer


async def get_provider_callback(request: web.Request) -> web.Response:
    """Give the browser that comes back from a provider a session, and lead it where it wanted."""
    provider = _provider(request)
    attempt = _attempt(request, provider)
    if attempt is None:
        problem = SignInError("This sign-in has expired or was not started here; try again.")
        return _refused(request, provider, problem, "/")
    try:
        authenticator_of(request).count_sign_in(address_of(request))
        identity = await provider.identity(attempt, request.query, _callback(request, provider))
        access = await authenticator_of(request).provisioner.enter(
            identity, provider.rules, address_of(request)
        )
    except (SignInError, LocalError) as error:
        answer = _refused(request, provider, error, attempt.target)
    else:
        answer = await begin_session(request, access, attempt.target)
        record_action(request, "sign_in", token=access.token.shown, provider=provider.options.name)
    answer.del_cookie(ATTEMPT_COOKIE, path=_cookie_path(request))
    return answer


def _provider(request: web.Request) -> SignInProvider:
    """Return the provider of the path.

    Raises `HTTPNotFound`, and `LocalError` (400) for a request with a token of its own.
    """
    provider = request.app[PROVIDERS].get(request.match_info["provider"])
    if provider is None:
        raise web.HTTPNotFound
    refuse_token(request)
    return provider


def _attempt(request: web.Request, provider: SignInProvider) -> Attempt | None:
    """Return the attempt of this browser at this provider, if the answer belongs to it."""
    attempt = unseal(cookie(request, ATTEMPT_COOKIE) or "", request.app[CIPHER], clock.time())
    state = request.query.get("state", "")
    if attempt is None or attempt.provider != provider.options.name:
        return None
    same = hmac.compare_digest(attempt.state.encode(), state.encode(errors="surrogatepass"))
    return attempt if same else None


def _refused(
    request: web.Request, provider: SignInProvider, error: SignInError | LocalError, target: str
) -> web.Response:
    """Return the sign-in page with the reason."""
    address = address_of(request)
    log.warning("sign_in_failed", provider=provider.options.name, address=address, error=str(error))
    if isinstance(error, LocalError):
        problem = error
    elif isinstance(error, ProviderUnavailableError):
        problem = LocalError("provider_unavailable", str(error), kind="unavailable")
    else:
        problem = LocalError("sign_in_failed", str(error), kind="forbidden")
    return sign_in_page(form_of(request, target), problem)


def _callback(request: web.Request, provider: SignInProvider) -> str:
    return own_address(request, f"{SIGN_IN}/{provider.options.name}/callback")


def _cookie_path(request: web.Request) -> str:
    return f"{request.app[OPTIONS].base_path}{SIGN_IN}"
