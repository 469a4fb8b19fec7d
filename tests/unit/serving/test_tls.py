"""A server's certificate: which files are refused, what clients trust, and how a new one comes to be shown."""

from __future__ import annotations

import socket
import ssl
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from mlplatform.errors import UsageError
from mlplatform.ports.extensions import TlsFiles
from mlplatform.serving.main import main
from mlplatform.serving.tls import Certificate
from tests.certificates import Authority, Signed

AUTHORITY = Authority()


def shake(server: ssl.SSLContext, client: ssl.SSLContext, name: str | None = None) -> bytes:
    """A handshake between two contexts; the certificate that the client was shown."""
    ours, theirs = socket.socketpair()

    def answer() -> None:
        try:
            with server.wrap_socket(ours, server_side=True) as wrapped:
                wrapped.recv(1)
        except OSError:
            ours.close()

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        with client.wrap_socket(theirs, server_hostname=name) as wrapped:
            assert wrapped.version() in ("TLSv1.2", "TLSv1.3")
            return wrapped.getpeercert(binary_form=True) or b""
    finally:
        theirs.close()
        thread.join()


def der(signed: Signed) -> bytes:
    return ssl.PEM_cert_to_DER_cert(signed.cert.decode().partition("-----END CERTIFICATE-----")[0] + _END)


_END = "-----END CERTIFICATE-----\n"


def test_without_an_authority_clients_trust_exactly_the_certificate_whatever_its_name(tmp_path: Path) -> None:
    signed, another = AUTHORITY.sign(address=None), AUTHORITY.sign(address=None)
    files = TlsFiles(*signed.write(tmp_path))
    server = Certificate(files.cert, files.key).context
    assert shake(server, files.client_context()) == der(signed)
    with pytest.raises(ssl.SSLCertVerificationError):  # of the same authority, which stands in the file too
        shake(server, TlsFiles(*another.write(tmp_path / "another")).client_context())


def test_with_an_authority_clients_check_certificate_and_name(tmp_path: Path) -> None:
    signed = AUTHORITY.sign()
    cert, key = signed.write(tmp_path)
    (tmp_path / "ca.pem").write_bytes(AUTHORITY.pem)
    (tmp_path / "other.pem").write_bytes(Authority().pem)
    server = Certificate(cert, key).context
    client = TlsFiles(cert, key, tmp_path / "ca.pem").client_context()
    assert shake(server, client, "127.0.0.1") == der(signed)
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        shake(server, client, "127.0.0.2")
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(server, TlsFiles(cert, key, tmp_path / "other.pem").client_context(), "127.0.0.1")


def test_nothing_older_than_tls_1_2_is_spoken(tmp_path: Path) -> None:
    files = TlsFiles(*AUTHORITY.sign().write(tmp_path))
    server, client = Certificate(files.cert, files.key).context, files.client_context()
    assert server.minimum_version == client.minimum_version == ssl.TLSVersion.TLSv1_2
    client.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    assert shake(server, client)


def test_a_new_certificate_is_shown_and_half_of_one_is_not(tmp_path: Path) -> None:
    first, second = AUTHORITY.sign(), AUTHORITY.sign()
    files = TlsFiles(*first.write(tmp_path))
    (tmp_path / "ca.pem").write_bytes(AUTHORITY.pem)
    client = TlsFiles(files.cert, files.key, tmp_path / "ca.pem").client_context()
    certificate = Certificate(files.cert, files.key)
    assert not certificate.look()
    files.cert.write_bytes(second.cert)  # its key is not there yet
    assert not certificate.look()
    assert "certificate before is shown" in certificate.health()["tls"]["error"]
    assert shake(certificate.context, client, "127.0.0.1") == der(first)
    files.key.write_bytes(second.key)
    assert certificate.look()
    assert certificate.health() == {"tls": {"error": ""}}
    assert shake(certificate.context, client, "127.0.0.1") == der(second)


def locked(signed: Signed) -> bytes:
    key = serialization.load_pem_private_key(signed.key, None)
    lock = serialization.BestAvailableEncryption(b"secret")
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock)


def test_files_that_cannot_be_used_are_told_in_one_line_before_anything_listens(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, other = AUTHORITY.sign(), AUTHORITY.sign()
    cases = {
        "open": (good.cert, good.key, 0o640, "can be read by others (mode 0640)"),
        "foreign": (good.cert, other.key, 0o600, "KEY_VALUES_MISMATCH"),
        "nonsense": (b"certificate", good.key, 0o600, "cannot be used"),
        "password": (good.cert, locked(good), 0o600, "it has a password"),
    }
    for name, (cert, key, mode, told) in cases.items():
        files = Signed(cert, key).write(tmp_path / name, mode)
        with pytest.raises(UsageError) as caught:
            Certificate(*files)
        assert told in str(caught.value), name
        words = ["--folder", str(tmp_path / "e"), "--tls-cert", str(files[0]), "--tls-key", str(files[1])]
        assert main(words) == 2
        said = capsys.readouterr().err
        assert told in said
        assert said.count("\n") == 1
    assert main(["--folder", str(tmp_path / "e"), "--tls-cert", str(tmp_path / "nonsense" / "cert.pem")]) == 2
    assert "belong together" in capsys.readouterr().err
    with pytest.raises(UsageError, match="No such file"):
        Certificate(tmp_path / "cert.pem", tmp_path / "key.pem")
    assert not (tmp_path / "e").exists()
