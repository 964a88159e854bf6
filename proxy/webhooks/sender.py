"""One attempt to deliver a message: sign it, send it, and read what the answer means."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import aiohttp
from msgspec import Struct
from standardwebhooks import Webhook
from yarl import URL

from proxy.cloud.connections import CONNECT_TIMEOUT, USER_AGENT, Connections, refused_address
from proxy.cloud.http import REDIRECTS
from proxy.cloud.resilience import retry_after
from proxy.logging import scrub_start
from proxy.runtime import clock
from proxy.webhooks.resolver import OwnThreadsResolver

#: Characters of a note about an attempt.
_MAX_NOTE = 300


class EndpointAnswer(Struct, frozen=True):
    """What an endpoint has answered: its HTTP `status`, `None` without an answer, and in a `note`
    what is wrong. `retry_after` is in seconds."""

    status: int | None = None
    note: str = ""
    retry_after: float | None = None

    @property
    def accepted(self) -> bool:
        """Whether the message was delivered."""
        return self.status is not None and 200 <= self.status < 300

    @property
    def gone(self) -> bool:
        """Whether the endpoint wants no more messages."""
        return self.status == 410


class WebhookSender:
    """Sends messages. `check` gets each address immediately before the connection, and raises
    `AddressRefusedError` for one that must not be connected to."""

    def __init__(self, check: Callable[[str], None]) -> None:
        self._connections = Connections(check, resolver=OwnThreadsResolver)

    async def start(self) -> None:
        """Open the sessions; connections come when they are needed."""
        await self._connections.start()

    async def close(self) -> None:
        """Close all connections."""
        await self._connections.close()

    async def send(
        self, url: str, secret: str, id_: str, body: bytes, timeout: float
    ) -> EndpointAnswer:
        """Post a message, signed with the secret (`whsec_…`), and return the outcome.

        Redirects are not followed, and the body of the answer is not read.
        """
        address, at, text = URL(url), datetime.fromtimestamp(clock.time(), UTC), body.decode()
        headers = {
            "Content-Type": "application/json",
            "User-Agent": USER_AGENT,
            "webhook-id": id_,
            "webhook-timestamp": str(int(at.timestamp())),
            "webhook-signature": Webhook(secret).sign(id_, at, text),
        }
        limits = aiohttp.ClientTimeout(total=timeout, sock_connect=CONNECT_TIMEOUT)
        try:
            response = await self._connections.request(
                "POST", address, data=body, headers=headers, timeout=limits
            )
            response.close()
            return _meaning(response)
        except TimeoutError:
            return EndpointAnswer(note=f"No answer within {timeout:g} s.")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return EndpointAnswer(note=_reason_of(error))


def _meaning(response: aiohttp.ClientResponse) -> EndpointAnswer:
    status = response.status
    if 200 <= status < 300:
        return EndpointAnswer(status)
    if status in REDIRECTS:
        location = response.headers.get("Location", "")
        note = f"Moved to {location}: redirects are not followed, change the URL of the webhook."
    elif status == 410:
        note = "The endpoint is gone (410)."
    else:
        note = f"The endpoint answered {status}."
    wait = retry_after(response.headers.get("Retry-After"), clock.time())
    return EndpointAnswer(status, scrub_start(note, _MAX_NOTE), wait)


def _reason_of(error: Exception) -> str:
    """Return why nothing was sent, without the details of the network."""
    refused = refused_address(error)
    if refused is not None:
        return str(refused)
    match error:
        case aiohttp.ClientConnectorDNSError():
            return "The name of the host cannot be resolved."
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientConnectorSSLError():
            return "The certificate of the host is not valid, or it does not speak TLS."
        case aiohttp.ClientConnectorError():
            return f"The connection failed: {error.os_error.strerror or 'no answer'}."
        case _:
            return "The connection was closed before the answer."
