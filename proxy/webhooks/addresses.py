"""Where webhooks may go: which URLs are taken, and which addresses are connected to."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from ipaddress import IPv4Network, IPv6Network, ip_address

from msgspec import Struct
from yarl import URL

from proxy.cloud.reach import AddressRefusedError, reach_of
from proxy.translate.reading import url_of

#: Characters of a URL.
MAX_URL = 2000


class WebhookUrlError(ValueError):
    """Raised for a URL that cannot be a webhook. The text is a sentence that says what to do."""


class WebhookAddresses(Struct, frozen=True):
    """The addresses that webhooks may go to: public ones, and those of `networks`."""

    networks: Sequence[IPv4Network | IPv6Network] = ()

    def check(self, address: str) -> None:
        """Raise `AddressRefusedError` for an IP address that webhooks must not connect to."""
        ip = ip_address(address.partition("%")[0])
        mapped = getattr(ip, "ipv4_mapped", None)
        if reach_of(address) != "public" and not any(
            (mapped or ip) in network for network in self.networks
        ):
            raise AddressRefusedError(
                "The address is not in the public network: an admin can allow it with the setting "
                "webhook_networks."
            )

    def check_url(self, text: str) -> None:
        """Raise `WebhookUrlError` for a URL that no webhook can have."""
        url = _parsed_url(text)
        try:
            self.check(url.host or "")
        except AddressRefusedError as error:
            raise WebhookUrlError(str(error)) from None
        except ValueError:  # a name, whose addresses are checked when it is connected to
            pass


def _parsed_url(text: str) -> URL:
    host = port = None
    if len(text) <= MAX_URL and text.isprintable():  # first: long hosts are slow to parse
        with suppress(ValueError):
            url = url_of(text)
            host, port = url.host, url.port
    if not host or not port or url.scheme not in ("http", "https"):
        raise WebhookUrlError(
            f"The URL of a webhook must be an http or https address of at most {MAX_URL} "
            "characters, such as https://example.com/hooks."
        )
    if url.user is not None or url.password is not None or url.fragment:
        raise WebhookUrlError(
            "The URL of a webhook must have no user, password or fragment: put a secret into its "
            "path or query, or verify the signature."
        )
    return url
