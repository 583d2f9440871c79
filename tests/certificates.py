"""X.509 files for QEMU's TLS, of an authority of the tests' own."""

from __future__ import annotations

import subprocess
from pathlib import Path


def make_certificates(directory: Path, server: str, authority: Path) -> None:
    """What QEMU wants in a directory of X.509 files; one authority for all of them."""
    directory.mkdir()
    if not (authority / "ca-key.pem").exists():
        request(authority, "ca", "lab", "basicConstraints=critical,CA:TRUE", "keyUsage=keyCertSign")
        sign(authority, authority, "ca", "ca")
    for role, name in (("server", server), ("client", "lab-client")):
        usage = f"extendedKeyUsage={role}Auth"
        request(directory, role, name, "keyUsage=digitalSignature", usage, f"subjectAltName=IP:{server}")
        sign(directory, authority, role, role)
    (directory / "ca-cert.pem").write_bytes((authority / "ca-cert.pem").read_bytes())


def request(directory: Path, role: str, name: str, *extensions: str) -> None:
    (directory / f"{role}.ext").write_text("\n".join(extensions))
    words = ["req", "-new", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}"]
    openssl(*words, "-keyout", directory / f"{role}-key.pem", "-out", directory / f"{role}.csr")


def sign(directory: Path, authority: Path, role: str, extensions: str) -> None:
    words: list[str | Path] = ["x509", "-req", "-days", "1", "-in", directory / f"{role}.csr"]
    if directory == authority:
        words += ["-signkey", directory / "ca-key.pem"]
    else:
        words += ["-CA", authority / "ca-cert.pem", "-CAkey", authority / "ca-key.pem", "-CAcreateserial"]
    openssl(*words, "-extfile", directory / f"{extensions}.ext", "-out", directory / f"{role}-cert.pem")


def openssl(*words: str | Path) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)
