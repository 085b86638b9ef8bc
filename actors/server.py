"""A vLLM server as a client: its endpoints, and what it means when one does not answer or refuses.

vLLM has the endpoints for weights, pauses and its configuration only with VLLM_SERVER_DEV_MODE=1, and the one that takes
and returns tokens (`/inference/v1/generate`) only with --enable-scale-out. Only the latter asks for an API key.
"""

import asyncio
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

import httpx

from actors.server_setup import Served, api_key
from dps_ray.config import Config
from dps_ray.errors import ConfigError, DPSError, EngineError

T = TypeVar("T")

_ANSWER = 30.0  # seconds within which a server answers what needs no engine
_LOOK_UP = 0.5  # seconds between questions to a server that is starting
# A server closes connections that were unused for 5 s, and a request must not be sent into one that is closing.
_KEEP_ALIVE = 2.0


class Server:
    """The server at an address such as `http://10.0.0.7:8000`.

    Every method raises EngineError when the server does not answer or fails, and ConfigError when it was not started as
    a run needs it. The messages name the address.

    Args:
        key: API key that the server asks for.
    """

    def __init__(self, address: str, key: str | None) -> None:
        self.address = address
        self._client = httpx.AsyncClient(
            base_url=address,
            headers={} if key is None else {"Authorization": f"Bearer {key}"},
            # The caller has deadlines, and may have any number of requests in flight.
            timeout=None,
            limits=httpx.Limits(
                max_connections=None, max_keepalive_connections=None, keepalive_expiry=_KEEP_ALIVE
            ),
            trust_env=False,  # no proxy stands before servers of one's own
        )
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="server", daemon=True).start()

    def close(self) -> None:
        """Close the connections; the server aborts what is in flight."""
        self.submit(self._client.aclose()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)

    def submit(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        """Begin to run this in the thread of the connections."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def get(self, path: str, timeout: float | None = None) -> Any:
        """Return the JSON that this path answers."""
        return self.submit(self.request("GET", path, None, timeout)).result()

    def post(self, path: str, body: Any = None, timeout: float | None = None) -> Any:
        """Return the JSON that this path answers to this body."""
        return self.submit(self.request("POST", path, body, timeout)).result()

    async def request(self, method: str, path: str, body: Any, timeout: float | None = None) -> Any:
        try:
            answer = await self._client.request(method, path, json=body, timeout=timeout)
        except httpx.HTTPError as error:
            why = str(error) or type(error).__name__
            raise EngineError(f"the server {self.address} does not answer {path}: {why}") from error
        if answer.is_error:
            raise _refusal(self.address, path, answer)
        try:
            return answer.json() if answer.content else None
        except ValueError:
            raise _not_vllm(self.address, path) from None

    def served(self) -> Served:
        """Ask what the server says about itself."""
        info = self.get("/server_info?config_format=json", _ANSWER)
        workers = self.get("/get_world_size", _ANSWER)["world_size"]
        tokens = self._takes_tokens()
        try:
            return Served.of(info["vllm_config"], workers, tokens)
        except (KeyError, TypeError):
            raise _not_vllm(self.address, "/server_info") from None

    def served_within(self, seconds: float) -> Served:
        """Ask the same of a server that may be starting."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                return self.served()
            except EngineError as error:
                if time.monotonic() > deadline:
                    raise EngineError(
                        f"the server {self.address} was not up within {seconds:.0f} s: start it again there "
                        f"({error})"
                    ) from error
            time.sleep(_LOOK_UP)

    def weight_version(self) -> str:
        """Ask for the weights: what a client called them, or `default` since the server has started."""
        return str(self.get("/weight_info")["weight_version"])

    def _takes_tokens(self) -> bool:
        """Return whether the server takes tokens, by a request that aborts nothing and has the same conditions."""
        try:
            self.post("/inference/v1/abort_requests", {"request_ids": []}, _ANSWER)
        except _RefusedError as error:
            if error.status != 403:
                raise
            return False
        return True


def ask_servers(config: Config) -> Served:
    """Return what all servers of the run have, and the `slots` of the one with fewest.

    Raises:
        ConfigError: one was not started as the run needs it, or wants another API key.
        EngineError: one does not answer.
    """
    common = Served.needed(config)
    slots = []
    for address in config.rollout.servers:
        server = Server(address, api_key(config))
        try:
            served = server.served()
        except EngineError as error:
            raise EngineError(
                f"rollout.servers: {error}. Start it (docs/engines_apart.md), or write its address"
            ) from error
        finally:
            server.close()
        served.check(address, common)
        common = common._replace(workers=served.workers)
        slots.append(served.slots)
    return common._replace(slots=min(slots))


class _RefusedError(EngineError):
    """The server answered with an error."""

    def __init__(self, message: str, status: int = 0) -> None:  # 0: for pickle, which sets it
        super().__init__(message)
        self.status = status


def _not_vllm(address: str, path: str) -> ConfigError:
    return ConfigError(
        f"rollout.servers: {address} answers {path} otherwise than vLLM 0.32: start that version there, or write the "
        "address of a server that has it"
    )


def _refusal(address: str, path: str, answer: httpx.Response) -> DPSError:
    """Return the error for an answer of the server that is one."""
    if answer.status_code == 401:
        return ConfigError(
            f"rollout.servers: {address} asks for an API key and refused this one: put the key that it was started "
            "with into an environment variable, and write its name as rollout.api_key_env"
        )
    if answer.status_code == 404:
        return ConfigError(
            f"rollout.servers: {address} has no {path.partition('?')[0]}: start vLLM 0.32 there, with "
            "VLLM_SERVER_DEV_MODE=1 in its environment, or write the address of such a server"
        )
    return _RefusedError(
        f"the server {address} failed at {path}: {answer.status_code} {_message(answer)}",
        answer.status_code,
    )


def _message(answer: httpx.Response) -> str:
    """Return what the server says about its error, in one line."""
    try:
        text = str(answer.json()["error"]["message"])
    except (ValueError, LookupError, TypeError):
        text = answer.text
    return " ".join(text.split())[:500]
