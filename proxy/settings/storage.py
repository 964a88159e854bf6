"""Settings of what is stored, and of what several processes share."""

from __future__ import annotations

from proxy.settings.fields import SettingsTable, setting
from proxy.settings.values import (
    BlobPlace,
    DatabaseAddress,
    HomePath,
    Mebibytes,
)


class ClusterSettings(SettingsTable):
    """The settings under the heading Several processes."""

    group = "Several processes"

    database: DatabaseAddress = setting(
        None,
        "The database: `sqlite`, a file in the data folder, for one process; or a PostgreSQL "
        "database that all processes share, which needs the extra `cluster`. "
        "`file:PATH` names a file that contains the address. It has no option, because the "
        "address contains a password.",
        expects="sqlite, postgresql://USER:PASSWORD@HOST/NAME, or file:PATH of a file that "
        "holds one of them",
        shown="sqlite",
        example="postgresql://comfy:...@db.internal/comfy",
    )
    blobs: BlobPlace | None = setting(
        None,
        "Where uploads are stored in addition to Comfy Cloud: a folder, or a bucket of an "
        "S3-compatible store, that all processes share. An upload is confirmed after it is stored "
        "there, and never deleted. A bucket's store is the one of AWS_ENDPOINT_URL (Amazon S3 "
        "without it) and AWS_REGION. Its keys come from AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY, from the file in AWS_SHARED_CREDENTIALS_FILE, or from the role of "
        "the machine. It needs the extra `cluster`.",
        example="s3://comfy-uploads/production",
    )
    secret_file: HomePath | None = setting(
        None,
        "A file with the secrets that encrypt and sign stored data, such as the API keys that "
        "clients send for their waiting jobs: one per line, each 32 random bytes as from `openssl "
        "rand -base64 32`. The first one is used, and data made with the others is accepted. By "
        "default the secret is in the database, or with SQLite in the file credentials.key of the "
        "data folder. docs/security.md says how to change it.",
        example="/run/secrets/comfy_proxy_secret",
    )


class FileSettings(SettingsTable):
    """The settings under the heading Files and history."""

    group = "Files and history"

    cache_mb: Mebibytes = setting(
        2048,
        "The size of the disk cache of files in MiB. The least recently used files are removed "
        "first, those of the member that has the most.",
        ge=0,
    )
    output_directory: HomePath | None = setting(
        None,
        "A folder to which the outputs of each job are also written, under their names, before "
        "clients hear of the end of the job. Each member has a folder of their own in it. The "
        "proxy creates it if it does not exist, and deletes nothing in it. The default is "
        "`ComfyUI-Cloud/output` in your home folder if save_outputs is set, otherwise none.",
        metavar="DIR",
        expects="the path of a folder that can be written",
        example="/srv/comfyui/output",
    )
    save_outputs: bool = setting(
        True,
        "Use `ComfyUI-Cloud/output` in your home folder as output_directory if you use the proxy "
        "alone: on loopback addresses, without members, with the default data folder and not in a "
        "container. With the simulator it is `ComfyUI-Cloud/simulated`.",
    )
    input_directory: HomePath | None = setting(
        None,
        "A folder whose files workflows can name, like those of ComfyUI's input folder; it must "
        "exist. The proxy sends a file to Comfy Cloud when a job needs it, and writes nothing to "
        "the folder. Each member has a folder of their own in it.",
        metavar="DIR",
        expects="the path of a folder that can be read",
        example="/srv/comfyui/input",
    )

    @property
    def cache_bytes(self) -> int:
        """`cache_mb` in bytes."""
        return int(self.cache_mb * 1024 * 1024)
