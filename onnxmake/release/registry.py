"""An OCI registry, by https://github.com/opencontainers/distribution-spec: who asks, and what is done about what goes wrong.

Credentials and tokens are oras's. The requests are ours: oras reads a blob into memory as a whole, writes a manifest anew, and repeats for
two minutes what was refused."""

import contextlib
import os
import time
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

from onnxmake.errors import EnvironmentMissing, PublishError

TRIES, PAUSE = 5, 0.5  # s before the second try, twice as long before each one more
TIMEOUT = (10, 300)  # s, for a connection and for an answer
LOOPBACK = {"localhost", "127.0.0.1", "::1"}
REFUSALS = {
    401: ("It has no credentials of yours, or wrong ones.", "docker login {host}, or set ORAS_USER and ORAS_PASS."),
    403: ("These credentials may not do that.", "Ask for the right to push, or correct the repository's name."),
    404: ("The repository is not there, or this is no registry.", "Correct to=, or make the repository first."),
    413: ("It takes no files of that size.", "Ask for a higher limit, or use another registry."),
}


class Lost(Exception):
    """No answer, or a failure of the server's own: worth another try."""


def plain(host: str) -> bool:
    """Whether http will do: on this machine only."""
    return urlsplit(f"//{host}").hostname in LOOPBACK


def _brief(error: Exception) -> str:
    """What went wrong, without the address: that may hold a key."""
    inner = error.args[0] if error.args else error
    return f"{type(error).__name__}: {str(getattr(inner, 'reason', inner)).rpartition(': ')[2][:120]}"


class Registry:
    """A repository of one. `known`: with the caller's credentials; else as anybody."""

    def __init__(self, host: str, repository: str, known: bool):
        try:
            import oras.container
            import oras.provider
        except ImportError as error:
            cause, action = "It comes as an extra.", "pip install -e '.[publish]'"
            raise EnvironmentMissing("oras is not installed.", cause, action) from error
        self.host, self.known, self.authorization = host, known, ""
        self.url = f"{'http' if plain(host) else 'https'}://{host}/v2/{repository}"
        self.session = oras.provider.Registry(host, insecure=plain(host)).session
        self.session.trust_env = not plain(host)  # no proxy to this machine
        self.container = oras.container.Container(repository, registry=host)

    def _authenticate(self, refused: Any) -> None:
        """Answer the challenge by what docker's configuration, or ORAS_USER and ORAS_PASS, give. Raises PublishError."""
        import oras.auth
        from oras.auth.utils import parse_auth_header

        challenge = refused.headers.get("Www-Authenticate", "")
        basic = challenge.lower().startswith("basic")
        realm = urlsplit(parse_auth_header(challenge).realm or "")
        if not basic and realm.scheme == "http" and not plain(realm.netloc):
            fact = f"{self.host} asks to send credentials to {realm.netloc} over plain http."
            raise PublishError(fact, "It is misconfigured, or is not what it seems.", "Ask its owners.")
        auth: Any = oras.auth.get_auth_backend("basic" if basic else "token", self.session, plain(self.host))
        user, password = os.environ.get("ORAS_USER"), os.environ.get("ORAS_PASS")
        if not self.known:
            vars(auth).pop("_basic_auth", None)
        elif user and password:
            auth.set_basic_auth(user, password)
        else:
            own = Path(os.environ.get("DOCKER_CONFIG", ""), "config.json")
            auth.load_configs(self.container, [str(own)] if "DOCKER_CONFIG" in os.environ and own.exists() else None)
        if not basic or hasattr(auth, "_basic_auth"):
            headers, _ = auth.authenticate_request(refused, {})
            self.authorization = headers.get("Authorization", "")

    def once(self, method: str, url: str, data: bytes = b"", **headers: str) -> Any:
        """The answer. `headers`: with _ for -. Raises Lost, PublishError."""
        import requests

        own = urlsplit(url).netloc == self.host  # credentials go nowhere else
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            for last in (False, True):
                given = named | ({"Authorization": self.authorization} if own and self.authorization else {})
                answer = self.session.request(method, url, data=data, headers=given, timeout=TIMEOUT)
                if answer.status_code != 401 or not own or last:
                    break
                self._authenticate(answer)
        except requests.exceptions.SSLError as error:
            fact = f"{self.host} cannot be trusted: {_brief(error)}."
            cause = "Its certificate is of an authority that is not known here, or it does not speak TLS."
            raise PublishError(fact, cause, "Set REQUESTS_CA_BUNDLE to the file of its authority.") from error
        except requests.exceptions.RequestException as error:
            raise Lost(_brief(error)) from error
        if answer.status_code >= 500 or answer.status_code == 429:
            raise Lost(f"{answer.status_code} {answer.reason}")
        return answer

    def request(self, method: str, path: str, data: bytes = b"", **headers: str) -> Any:
        """The answer to what may be asked again. `path`: under the repository, or a whole address. Raises PublishError."""
        for attempt in range(TRIES):
            try:
                return self.once(method, path if "://" in path else f"{self.url}/{path}", data, **headers)
            except Lost as error:
                self.wait(attempt, error)
        raise AssertionError("the last wait raises")

    def wait(self, failures: int, error: Lost) -> None:
        """Before another try. Raises PublishError after the last one."""
        if failures >= TRIES - 1:
            cause = "It is not there, not reachable from here, or has a failure of its own."
            action = "Correct to=, or try again later: what has arrived is kept."
            raise PublishError(f"{self.host} failed {TRIES} times; the last: {error}.", cause, action) from error
        time.sleep(PAUSE * 2**failures)

    def refused(self, answer: Any, doing: str) -> NoReturn:
        told = ""
        with contextlib.suppress(ValueError, LookupError, TypeError):
            told = f", {str(answer.json()['errors'][0]['message'])[:200]!r}"
        cause, action = REFUSALS.get(answer.status_code, ("Its answer says.", "Ask the owners of the registry."))
        fact = f"{self.host} refuses to {doing}: {answer.status_code}{told}."
        raise PublishError(fact, cause, action.format(host=self.host))
