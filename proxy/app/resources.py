"""What members have and use beside jobs: files, nodes, user data, accounting."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from proxy.app.accounts import CloudAccounts
from proxy.app.process import Process, read_at_start
from proxy.app.storage import OpenStorage
from proxy.catalog.service import Catalog
from proxy.catalog.source import Accounts
from proxy.costs.budgets import DefaultBudgets
from proxy.files.blobs import BlobError, BlobStore, open_blobs
from proxy.files.cache import Cache
from proxy.files.disk_folder import DiskFolder
from proxy.files.input_directory import InputDirectory
from proxy.files.library import Library, Prefetch
from proxy.files.picture_workflows import JobWorkflows
from proxy.files.service import Files
from proxy.members.accounting import Accounting
from proxy.packs.discovery import INSTALLED, offered
from proxy.packs.loading import MAX_FILE_BYTES, FileLoader
from proxy.packs.remote import RemoteFiles
from proxy.packs.results import Results
from proxy.packs.service import Packs
from proxy.packs.store import PictureStore
from proxy.settings import ConfigError, Settings, pictures_folder
from proxy.storage.files import FileRepository
from proxy.storage.jobs import JobRepository
from proxy.storage.temporary import PackPictureRepository
from proxy.storage.usage import UsageRepository
from proxy.userdata.stored import StoredUserData

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Resources:
    """What members have and use beside jobs."""

    files: Files
    catalog: Catalog
    pictures: PictureStore
    packs: Packs
    userdata: StoredUserData
    accounting: Accounting


@asynccontextmanager
async def open_resources(
    process: Process, storage: OpenStorage, cloud: CloudAccounts
) -> AsyncIterator[Resources]:
    """Open files, catalog, node packs, user data and accounting. Raises `ConfigError`."""
    settings, database, members = process.settings, storage.database, storage.members
    async with AsyncExitStack() as stack:
        blobs = _open_blobs(settings)
        if blobs is not None:
            stack.push_async_callback(blobs.close)
        output_folder = _open_folder(
            "output_directory", settings.output_directory, stack, "written", os.R_OK | os.W_OK
        )
        input_folder = _open_folder(
            "input_directory", settings.input_directory, stack, "read", os.R_OK
        )
        library = Library(
            cloud.clients,
            Cache(storage.folder / "files", settings.cache_bytes),
            FileRepository(database),
            blobs,
            _prefetch(settings),
            None if input_folder is None else InputDirectory(input_folder),
        )
        files = Files(
            library,
            preferred=lambda member: [account.name for account in cloud.best_first(member)],
            output_folder=output_folder,
            output_links=settings.output_directory == pictures_folder(simulated=settings.simulate),
            workflows=JobWorkflows(JobRepository(database, storage.cipher)),
        )
        await read_at_start("The files cannot be read", files.start)
        stack.push_async_callback(files.close)
        catalog = Catalog(
            Accounts(
                cloud.first.base_url,
                cloud.documents,
                cloud.clients,
                cloud.lists,
            ),
            storage.folder / "catalog",
            pack_classes=offered,
            allowed=cloud.allowed,
        )
        for problem in INSTALLED.problems:
            log.warning("pack_refused", reason=problem)
        await catalog.start()
        stack.push_async_callback(catalog.close)
        storage.supervisor.keep(catalog.follow_lists, "follow the lists of nodes")
        remote = RemoteFiles(settings.url_hosts, max_bytes=MAX_FILE_BYTES)
        await remote.start()
        stack.push_async_callback(remote.close)
        pictures = PictureStore(PackPictureRepository(database), files, process.budget)
        loader = FileLoader(pictures, files, remote, process.budget)
        accounting = Accounting(
            process.metrics,
            UsageRepository(database),
            members.get,
            audit_days=settings.audit_days,
            default_budgets=DefaultBudgets(
                settings.credits_per_day,
                settings.credits_per_month,
                settings.soft_credits_per_day,
                settings.soft_credits_per_month,
            ),
        )
        await stack.enter_async_context(accounting.running(storage.supervisor))
        yield Resources(
            files,
            catalog,
            pictures,
            Packs(catalog, files, loader, Results(pictures), process.turns),
            StoredUserData(database, process.turns),
            accounting,
        )


def _prefetch(settings: Settings) -> Prefetch:
    """Return which outputs are downloaded when their job ends: those that are written to a folder,
    or that clients show at once. With PostgreSQL none: another process may lead when a client
    asks, and has its own cache."""
    if settings.output_directory is not None:
        return "all"
    return "images" if settings.database is None else "off"


def _open_folder(
    setting: str, path: Path | None, stack: AsyncExitStack, use: str, mode: int
) -> DiskFolder | None:
    """Open the folder of a setting; one that is to be written is made if it is missing.

    Raises `ConfigError`.
    """
    if path is None:
        return None
    path = path.absolute()
    try:
        if mode & os.W_OK:
            path.mkdir(parents=True, exist_ok=True)
        if not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "no such folder")
        if not os.access(path, mode | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise ConfigError(
            f"The folder {path} of {setting} cannot be {use} ({error.strerror}): correct the path, "
            "or create the folder for the user of the proxy."
        ) from error
    folder = DiskFolder(path)
    stack.callback(folder.close)
    return folder


def _open_blobs(settings: Settings) -> BlobStore | None:
    if settings.blobs is None:
        return None
    try:
        return open_blobs(settings.blobs)
    except BlobError as error:
        raise ConfigError(f"The setting blobs cannot be used: {error}.") from error
