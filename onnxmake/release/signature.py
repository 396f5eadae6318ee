"""The signature over a release's folder, by the model_signing package (extra `sign`): an elliptic curve key, no network."""

import subprocess
import sys
from pathlib import Path

from onnxmake.errors import CheckFailed, EnvironmentMissing
from onnxmake.release.sums import SIGNATURE


def _model_signing(*arguments: str | Path) -> subprocess.CompletedProcess:
    """Its command line, which its receiver has, too. Raises EnvironmentMissing."""
    found = subprocess.run([sys.executable, "-c", "import model_signing"], capture_output=True)
    if found.returncode:
        raise EnvironmentMissing(
            "model_signing is not installed.", "It comes as an extra.", "pip install 'onnxmake[sign]'"
        )
    command = [sys.executable, "-m", "model_signing", *map(str, arguments)]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _last(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it said nothing")


def sign(folder: Path, key: Path) -> None:
    """Write the signature into the folder. Raises CheckFailed, EnvironmentMissing."""
    done = _model_signing("sign", "key", folder, "--private_key", key, "--signature", folder / SIGNATURE)
    if done.returncode:
        raise CheckFailed(
            f"The release could not be signed: {_last(done.stdout)}",
            f"{key} holds no private key on an elliptic curve in PEM, or is protected by a password.",
            "openssl ecparam -name prime256v1 -genkey -noout makes one.",
        )


def verify(folder: Path, key: Path) -> None:
    """Raises CheckFailed where the signature is not that of the folder by this public key, EnvironmentMissing."""
    own = ("--ignore-paths", folder / ".cache" / "huggingface")
    done = _model_signing("verify", "key", folder, "--signature", folder / SIGNATURE, "--public_key", key, *own)
    if done.returncode:
        raise CheckFailed(
            f"{SIGNATURE} is not this folder's signature by {key.name}: {_last(done.stdout)}",
            "It is another key's, or a file was changed.",
            "Ask for the key by another way than the release came.",
        )
