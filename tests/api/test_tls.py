"""The listener's certificate: used, wrong, and changed while it serves."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import ssl
import subprocess
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from process import serving
from quiet import logging_restored
from stack import PATIENCE

from proxy.api.tls import Certificate, CertificateError
from proxy.cli import main

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")


def certify(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate of its own for 127.0.0.1, and its key."""
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-days", "2", "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", str(key), "-out", str(cert)],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return cert, key


def fingerprint(cert: Path) -> bytes:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(cert.read_text())).digest()


async def test_it_serves_https_and_wss(tmp_path: Path) -> None:
    cert, key = await asyncio.to_thread(certify, tmp_path, "one")
    options = ("--simulate", "--tls-cert", str(cert), "--tls-key", str(key))
    trusting = ssl.create_default_context(cafile=str(cert))
    async with (
        serving(tmp_path / "data", *options) as server,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusting)) as session,
    ):
        assert server.url.scheme == "https"
        async with session.get(server.url / "queue") as answer:
            assert answer.status == 200
        async with session.ws_connect(server.url / "ws") as socket:
            assert (await socket.receive_json(timeout=PATIENCE))["type"] == "status"
        assert await server.stop() == 0


async def test_a_changed_certificate_is_taken_up_without_closing_anything(tmp_path: Path) -> None:
    cert, key = await asyncio.to_thread(certify, tmp_path, "one")
    other_cert, other_key = await asyncio.to_thread(certify, tmp_path, "two")
    certificate = Certificate(cert, key)

    async def hello(_: web.Request) -> web.Response:
        return web.Response(text="hello")

    app = web.Application()
    app.router.add_get("/", hello)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=certificate.context)
    await site.start()
    port = runner.addresses[0][1]
    url = f"https://127.0.0.1:{port}/"
    following = asyncio.create_task(certificate.follow(0.02))
    marks = await asyncio.to_thread(lambda: (fingerprint(cert), fingerprint(other_cert)))
    old, new = map(aiohttp.Fingerprint, marks)
    try:
        async with aiohttp.ClientSession() as kept, aiohttp.ClientSession() as later:
            async with kept.get(url, ssl=old) as answer:
                assert answer.status == 200
            await asyncio.to_thread(shutil.copy, other_cert, cert)  # does not fit its key yet
            await asyncio.sleep(0.1)
            async with later.get(url, ssl=old, headers={"Connection": "close"}):
                pass
            await asyncio.to_thread(shutil.copy, other_key, key)
            async with asyncio.timeout(PATIENCE):
                while True:
                    try:
                        async with later.get(url, ssl=new):
                            break
                    except aiohttp.ServerFingerprintMismatch:
                        await asyncio.sleep(0.02)
            async with kept.get(url, ssl=old) as answer:
                assert answer.status == 200
    finally:
        following.cancel()
        await runner.cleanup()


def test_wrong_files_are_told_in_a_sentence(tmp_path: Path) -> None:
    cert, key = certify(tmp_path, "one")
    _, other = certify(tmp_path, "two")
    with pytest.raises(CertificateError, match="are not a certificate and its private key"):
        Certificate(cert, other)
    with pytest.raises(CertificateError, match="cannot be read"):
        Certificate(tmp_path / "none.pem", key)


@pytest.mark.parametrize("given", [("--tls-cert",), ("--tls-cert", "--tls-key")])
def test_wrong_files_end_the_program(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], given: tuple[str, ...]
) -> None:
    options = [part for name in given for part in (name, str(tmp_path / "none.pem"))]
    with logging_restored(), pytest.raises(SystemExit) as end:
        main(["serve", "--simulate", "--data-dir", str(tmp_path), *options])
    assert end.value.code == 2
    assert "tls_" in capsys.readouterr().err
