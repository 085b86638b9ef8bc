"""What a vLLM server is asked, what is made of its answers, and what is said of one that a run cannot use."""

import http.server
import json
import threading
from itertools import pairwise

import numpy as np
import pytest

from actors.requests import Request, Sampling
from actors.server import ask_servers
from actors.server_setup import Served, ServerSetup, server_arguments, server_environment
from actors.token_requests import body_of, group_of
from cluster.placement import plan
from dps_ray.config import Config, settings
from dps_ray.errors import ConfigError, EngineError, StaleError
from dps_ray.weights import WeightsId
from pipelines.serve import main as serve

SAMPLING = Sampling(responses=2, temperature=0.7, top_p=0.9, max_tokens=5, seed="s:1")
REQUEST = Request(3, np.array([5, 6, 7], np.int32), first=4)
WEIGHTS = WeightsId(2, 9)
SERVER = "http://127.0.0.1:8000"


def config(*overrides: str) -> Config:
    return settings.load(
        None,
        [
            "model.dtype=float32",
            "data.max_prompt_length=40",
            "rollout.max_response_length=60",
            *overrides,
        ],
    )


def choice(index: int, **changed):
    """As the server gives it for two tokens."""
    return {
        "index": index,
        "finish_reason": "stop",
        "token_ids": [8 + index, 2],
        "logprobs": {"content": [{"logprob": -0.1 * (index + 1)}, {"logprob": -0.25}]},
        "weight_versions": [{"version": "run.e0002.00000009", "start": 0, "end": 2}],
        **changed,
    }


def group(*choices):
    def texts(responses):
        return [" ".join(map(str, tokens)) for tokens in responses]

    return group_of({"choices": choices}, REQUEST, 2, WEIGHTS, "run.e0002.00000009", texts)


# --- requests and answers -----------------------------------------------------------------------


def test_a_later_round_is_seeded_by_the_number_of_its_first_response():
    whole = body_of(Request(3, REQUEST.tokens), SAMPLING)["sampling_params"]
    rest = body_of(Request(3, REQUEST.tokens, first=4, responses=1), SAMPLING)["sampling_params"]
    assert (whole["n"], rest["n"]) == (2, 1)
    assert rest["seed"] == whole["seed"] + 4


def test_other_prompts_and_other_steps_have_other_seeds():
    seeds = {
        body_of(Request(prompt, REQUEST.tokens), Sampling(2, 1.0, 1.0, 5, seed))["sampling_params"][
            "seed"
        ]
        for prompt in (3, 4)
        for seed in ("s:1", "s:2")
    }
    assert len(seeds) == 4


def test_a_turn_has_a_seed_and_a_limit_of_its_own_and_its_answer_says_which_it_is():
    first, second = (
        Request(3, REQUEST.tokens, first=1, responses=1, turn=turn, max_tokens=4) for turn in (0, 1)
    )
    asked = [body_of(turn, SAMPLING)["sampling_params"] for turn in (first, second)]
    assert [each["max_tokens"] for each in asked] == [4, 4]
    assert asked[0]["seed"] != asked[1]["seed"]
    answer = {"choices": [choice(0)]}
    found = group_of(answer, second, 1, WEIGHTS, "run.e0002.00000009", lambda tokens: ["8 2"])
    assert (found.first, found.turn) == (1, 1)


def test_a_request_can_be_sent_as_json():
    body = json.loads(json.dumps(body_of(REQUEST, SAMPLING)))
    assert body["token_ids"] == [5, 6, 7]
    assert body["sampling_params"] == {
        "n": 2,
        "temperature": 0.7,
        "top_p": 0.9,
        "max_tokens": 5,
        "seed": body["sampling_params"]["seed"],
        "logprobs": 0,
        "detokenize": False,
    }


def test_responses_are_in_the_order_of_their_index_whatever_comes_first():
    found = group(choice(1, finish_reason="length"), choice(0))
    assert [response.tokens.tolist() for response in found.responses] == [[8, 2], [9, 2]]
    assert [response.truncated for response in found.responses] == [False, True]
    assert [response.text for response in found.responses] == ["8 2", "9 2"]
    np.testing.assert_array_equal(
        found.responses[1].logprobs, np.array([-0.2, -0.25], dtype=np.float32)
    )
    assert (found.prompt_id, found.weights, found.first) == (3, WEIGHTS, 4)


@pytest.mark.parametrize(
    "versions",
    [
        [{"version": "default", "start": 0, "end": 2}],
        [
            {"version": "run.e0002.00000009", "start": 0, "end": 1},
            {"version": "run.e0002.00000010", "start": 1, "end": 2},
        ],
        None,
    ],
)
def test_a_token_of_other_weights_is_refused(versions):
    with pytest.raises(StaleError, match=r"weights run\.e0002\.00000009, it used"):
        group(choice(0), choice(1, weight_versions=versions))


def test_an_aborted_or_missing_response_is_refused():
    with pytest.raises(EngineError, match=r"asked for 2 responses to prompt 3.*'abort'"):
        group(choice(0), choice(1, finish_reason="abort"))
    with pytest.raises(EngineError, match="it answered 1"):
        group(choice(0))


# --- weights ------------------------------------------------------------------------------------


def test_weights_of_another_driver_and_of_a_restarted_server_are_not_ours():
    def driver() -> ServerSetup:
        here = config(f"rollout.servers=[{SERVER}]")
        return ServerSetup.of(here, "policy", Served.needed(here), None)

    ours, others = driver(), driver()
    assert ours.weights_named(ours.name_of(WEIGHTS)) == WEIGHTS
    for name in (others.name_of(WEIGHTS), "default", "dps_ray.updating"):
        assert ours.weights_named(name) is None


# --- how servers are started --------------------------------------------------------------------


def test_a_server_is_started_with_what_the_run_needs_of_it():
    arguments = server_arguments(config("rollout.max_num_seqs=12"), "policy", "127.0.0.1", 8000)
    given = dict(pairwise(arguments))
    assert given["--model"] == "policy"
    assert given["--dtype"] == "float32"
    assert given["--max-model-len"] == "100"
    assert given["--max-num-seqs"] == "12"
    assert given["--logprobs-mode"] == "processed_logprobs"
    assert json.loads(given["--weight-transfer-config"]) == {"backend": "gloo"}
    assert {"--enable-scale-out", "--enforce-eager", "--no-enable-chunked-prefill"} <= {*arguments}
    assert server_environment(config())["VLLM_SERVER_DEV_MODE"] == "1"


def test_beside_a_learner_on_a_gpu_a_server_takes_weights_by_nccl_and_compiles():
    on_gpu = config(f"rollout.servers=[{SERVER}]", "resources.learner.gpus_per_rank=1")
    arguments = server_arguments(on_gpu, "policy", "127.0.0.1", 8000)
    assert '{"backend": "nccl"}' in arguments
    assert not {"--enforce-eager", "--no-enable-chunked-prefill"} & {*arguments}


def test_a_server_asks_for_the_key_that_the_run_has(monkeypatch):
    monkeypatch.setenv("SERVERS_KEY", "secret")
    with_key = config(f"rollout.servers=[{SERVER}]", "rollout.api_key_env=SERVERS_KEY")
    assert server_environment(with_key)["VLLM_API_KEY"] == "secret"
    assert "VLLM_API_KEY" not in server_environment(config())


def test_the_key_is_not_shown_with_the_settings_of_an_actor():
    here = config(f"rollout.servers=[{SERVER}]")
    assert "secret" not in repr(ServerSetup.of(here, "policy", Served.needed(here), "secret"))


def test_serve_wants_a_port(capsys):
    with pytest.raises(SystemExit):
        serve([])
    assert "--port" in capsys.readouterr().err


# --- settings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["rollout.servers=[10.0.0.7:8000]"], "write scheme, host and port"),
        (["rollout.servers=[http://10.0.0.7]"], "write scheme, host and port"),
        (["rollout.servers=[http://10.0.0.7:8000/v1]"], "write scheme, host and port"),
        (["rollout.servers=[http://a:1,http://a:1/]"], "names http://a:1 twice"),
        (["rollout.api_key_env=KEY"], "rollout.api_key_env=KEY without rollout.servers"),
        (
            [f"rollout.servers=[{SERVER}]", "resources.rollout.engines=2"],
            r"resources\.rollout\.engines=2 and rollout\.servers.*leave",
        ),
        (
            [f"rollout.servers=[{SERVER}]", "resources.colocate=true"],
            r"resources\.colocate=true and rollout\.servers",
        ),
        (
            [f"rollout.servers=[{SERVER}]", "resources.learner.gpus_per_rank=0.5"],
            r"gpus_per_rank=0\.5 and rollout\.servers",
        ),
    ],
)
def test_settings_at_odds_with_servers_are_refused(overrides, message):
    with pytest.raises(ConfigError, match=message):
        config(*overrides)


def test_nothing_is_reserved_for_servers():
    placed = plan(config(f"rollout.servers=[{SERVER},http://127.0.0.1:8001]"))
    assert [bundle.asks for bundle in placed.rollout.actors] == [{}, {}]


# --- servers that a run cannot use --------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"transfer": None}, r"by no backend.*--weight-transfer-config '{\"backend\": \"gloo\"}'"),
        ({"tokens": False}, "takes no tokens.*--enable-scale-out"),
        ({"logprobs": "raw_logprobs"}, "raw_logprobs.*--logprobs-mode processed_logprobs"),
        ({"dtype": "bfloat16"}, "bfloat16, and model.dtype=float32.*--dtype float32"),
        ({"longest": 64}, "takes 64 tokens.*--max-model-len 100"),
    ],
)
def test_a_server_that_was_started_otherwise_is_refused(changed, message):
    needed = Served.needed(config())
    fitting = needed._replace(workers=1, slots=128, longest=128)
    fitting.check(SERVER, needed)
    with pytest.raises(ConfigError, match=f"{SERVER} cannot generate for this run.*{message}"):
        fitting._replace(**changed).check(SERVER, needed)


def test_servers_of_different_sizes_are_refused():
    needed = Served.needed(config())._replace(workers=2)
    with pytest.raises(
        ConfigError, match=r"1 worker processes and another server 2.*parallel-size 2"
    ):
        needed._replace(workers=1).check(SERVER, needed)


def test_the_variable_with_the_key_must_be_there(monkeypatch):
    monkeypatch.delenv("SERVERS_KEY", raising=False)
    with pytest.raises(
        ConfigError, match=r"rollout\.api_key_env=SERVERS_KEY: the environment has no"
    ):
        ask_servers(config(f"rollout.servers=[{SERVER}]", "rollout.api_key_env=SERVERS_KEY"))


@pytest.fixture
def web_server():
    """The address of a server that is not vLLM's, and the headers that it was sent."""
    headers: list[str | None] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            headers.append(self.headers["Authorization"])
            self.send_error(404)

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", headers
        server.shutdown()


def test_a_server_that_is_not_vllms_is_refused(web_server, monkeypatch):
    monkeypatch.setenv("SERVERS_KEY", "secret")
    address, headers = web_server
    with pytest.raises(ConfigError, match=f"{address} has no /server_info.*VLLM_SERVER_DEV_MODE=1"):
        ask_servers(config(f"rollout.servers=[{address}]", "rollout.api_key_env=SERVERS_KEY"))
    assert headers == ["Bearer secret"]


def test_an_address_at_which_nothing_listens_is_refused_at_once(web_server):
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as closed:
        address = f"http://127.0.0.1:{closed.server_port}"
    with pytest.raises(EngineError, match=rf"{address} does not answer.*Start it"):
        ask_servers(config(f"rollout.servers=[{address}]"))
