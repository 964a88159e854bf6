"""Settings of Comfy Cloud, and of its accounts: the tables `[[accounts]]`."""

from __future__ import annotations

from yarl import URL

from proxy.settings.fields import CLOUD_PREFIX, SettingsTable, setting
from proxy.settings.values import ApiKey, Credits, HomePath, WebAddress


class AccountSettings(SettingsTable):
    """One table of `[[accounts]]`."""

    group = "Accounts"

    name: str = setting(
        ...,
        "The account's name in logs, lists and metrics. Do not change it: the files and jobs of "
        "the account are stored under this name.",
        expects="a name of at most 32 letters, digits, `.`, `_` and `-` that no other account has",
        example="studio",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$",
    )
    key_file: HomePath | None = setting(
        None,
        "A file that contains only the account's API key; the recommended form. The proxy reloads "
        "it when it changes and on SIGHUP.",
        example="/run/secrets/comfy_cloud_studio",
    )
    key: ApiKey | None = setting(
        None,
        "The API key itself, instead of `key_file`. Anyone who can read the settings file can "
        "read it, so prefer `key_file`. Reloaded on SIGHUP.",
        example="comfyui-...",
    )
    object_info: str | None = setting(
        None,
        "The list of nodes of a deployment with your own nodes and models: a file with the answer "
        "of `GET /object_info`, or the address of a ComfyUI with the same nodes. It makes the "
        "account a deployment, which needs `base_url` too.",
        expects="a file, or the address of a ComfyUI such as http://127.0.0.1:8188",
        example="object_info.json",
    )
    slots: int = setting(
        0,
        "How many jobs the account runs at once. With 0 the proxy reads the limit from the "
        "account, or discovers it.",
        ge=0,
        le=1000,
    )
    credits_per_second: Credits | None = setting(
        None,
        "What a second of a job on the account costs, in credits.",
        shown="the setting credits_per_second",
        example=0.27,
    )
    members: tuple[str, ...] = setting(
        (),
        "Names of the members whose jobs may run on the account. The default is all members.",
        expects="a list of names of members",
    )
    base_url: WebAddress | None = setting(
        None,
        "The address of the account's cloud, if it differs from the setting `base_url`, or of the "
        "deployment.",
        shown="the setting base_url",
        example="https://cloud.comfy.org",
    )

    @property
    def is_deployment(self) -> bool:
        """Whether it is a deployment and not an account of Comfy Cloud: its list of nodes says
        so, because every deployment needs one."""
        return self.object_info is not None


class CloudSettings(SettingsTable):
    """The settings under the heading Comfy Cloud."""

    group = "Comfy Cloud"

    api_key: ApiKey | None = setting(
        None,
        "The API key of the Comfy Cloud account. It has no option, because other users can list "
        "command lines. If others can read the environment, use `api_key_file`.",
        prefix=CLOUD_PREFIX,
        example="comfyui-...",
    )
    api_key_file: HomePath | None = setting(
        None,
        "A file that contains only the API key, such as a Docker secret. The proxy reloads it "
        "when it changes and on SIGHUP.",
        prefix=CLOUD_PREFIX,
        example="/run/secrets/comfy_cloud_api_key",
    )
    base_url: WebAddress = setting(
        URL("https://cloud.comfy.org/"),
        "The address of Comfy Cloud. The API key goes over `http://` to loopback and private "
        "addresses only.",
        prefix=CLOUD_PREFIX,
    )
    send_partner_key: bool = setting(
        True,
        "Send the account's API key to partner nodes (as `extra_data.api_key_comfy_org`) if the "
        "client sends none.",
    )
    slots: int = setting(
        0,
        "How many jobs an account runs at once, unless its table sets it. With 0 the proxy reads "
        "the limit from the account, or discovers it.",
        metavar="JOBS",
        ge=0,
        le=1000,
    )
    accounts: tuple[AccountSettings, ...] = ()
