"""slime's own rollout function, data source and buffer; generation and rewards are simulated."""

import argparse
import asyncio
import dataclasses
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import yaml

pytest.importorskip(
    "slime.rollout.data_source", reason="slime is not installed: make test-integrations"
)

from slime.rollout.sglang_rollout import generate_rollout
from slime.utils.http_utils import init_http_client
from slime.utils.misc import SingletonMeta, load_function
from slime.utils.types import Sample

from dps_ray.errors import ConfigError
from dps_ray.integrations.rows import RowSampler
from dps_ray.integrations.slime import OBSERVE, DPSDataSource, observe

pytestmark = pytest.mark.slow

PROMPTS, RESPONSES, BATCH = 240, 4, 8
LEVELS = ["easy", "fitting", "hard"]
HERE = "tests.integrations.test_slime"
ARGUMENTS = f"""
data_source_path: dps_ray.integrations.slime.DPSDataSource
rollout_all_samples_process_path: {OBSERVE}
dps: {{kinds: level}}
rollout_batch_size: {BATCH}
n_samples_per_prompt: {RESPONSES}
over_sampling_batch_size: {BATCH}
custom_generate_function_path: {HERE}.respond
input_key: text
metadata_key: metadata
label_key: null
tool_key: null
multimodal_keys: null
reward_key: null
custom_rm_path: null
apply_chat_template: false
apply_chat_template_kwargs: {{}}
dump_details: null
rollout_global_dataset: true
rollout_shuffle: true
rollout_seed: 1
rollout_max_prompt_len: null
rollout_temperature: 1.0
rollout_top_p: 1.0
rollout_top_k: -1
rollout_max_response_len: 8
rollout_stop: null
rollout_stop_token_ids: null
rollout_skip_special_tokens: false
partial_rollout: false
mask_offpolicy_in_partial_rollout: false
group_rm: false
dynamic_sampling_filter_path: null
rollout_sample_filter_path: null
buffer_filter_path: null
sglang_router_ip: 127.0.0.1
sglang_server_concurrency: 64
sglang_dp_size: 1
rollout_num_engines: 1
use_distributed_post: false
"""


class Router(BaseHTTPRequestHandler):
    """Stands for slime's router, with no engine behind it."""

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"workers": []}')

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def router():
    server = HTTPServer(("127.0.0.1", 0), Router)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    file = tmp_path_factory.mktemp("prompts") / "train.jsonl"
    rows = [
        {"text": f"problem {row}", "metadata": {"id": f"{row}", "level": LEVELS[row % 3]}}
        for row in range(PROMPTS)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture
def arguments(router, prompts, tiny_policy, tmp_path):
    """slime's arguments; changes are keyword arguments."""

    def given(**changes):
        SingletonMeta._instances.clear()  # slime keeps the arguments of a process's first rollout
        found = argparse.Namespace(
            **{
                **yaml.safe_load(ARGUMENTS),
                "prompt_data": str(prompts),
                "hf_checkpoint": str(tiny_policy),
                "sglang_router_port": router,
                "save": str(tmp_path),
                "load": str(tmp_path),
                **changes,
            }
        )
        init_http_client(found)
        return found

    return given


async def respond(args, sample, sampling_params):
    """A response; every other one to a fitting problem is right."""
    await asyncio.sleep(0)
    level = sample.metadata["level"]
    sample.response, sample.response_length = "an answer", 2
    sample.reward = float(level == "easy" or (level == "fitting" and sample.index % 2 == 0))
    sample.status = Sample.Status.COMPLETED
    return sample


async def respond_in_turns(args, sample, sampling_params):
    """The same as two samples; the first has no reward of its own."""
    last = await respond(args, sample, sampling_params)
    return [dataclasses.replace(last, reward=0.0), last]


def only_mixed(args, group):
    return len({sample.reward for sample in group}) > 1


def drop_all(args, rollout_id, buffer, num_samples):
    """A filter of the buffer."""
    buffer.clear()
    return []


def source_of(args):
    return load_function(args.data_source_path)(args)


def rollouts(args, source, numbers):
    """The prompts of each rollout, as slime's RolloutManager makes them."""
    found = []
    for rollout_id in numbers:
        output = load_function("slime.rollout.sglang_rollout.generate_rollout")(
            args, rollout_id, source
        )
        groups = [
            group[0][0] if isinstance(group[0], list) else group[0] for group in output.samples
        ]
        found.append([first.metadata["id"] for first in groups])
    return found


def test_rollouts_are_of_the_prompts_that_are_partly_solved(arguments):
    args = arguments()
    source = source_of(args)
    batches = rollouts(args, source, range(8))
    assert all(len(set(batch)) == BATCH for batch in batches)
    found = source.rows.metrics()
    assert found["dps/steps"] == 8
    assert found["dps/in_flight"] == 0
    assert found["dps/effective_ratio_mean"] > 0.7


def test_a_resumed_run_chooses_as_the_undisturbed_one(arguments):
    args = arguments()
    source = source_of(args)
    rollouts(args, source, range(3))
    source.save(2)
    expected = rollouts(args, source, range(3, 6))
    resumed = source_of(args)
    resumed.load(2)
    assert rollouts(args, resumed, range(3, 6)) == expected


def test_indices_of_groups_and_samples_go_on_as_slime_counts_them(arguments):
    args = arguments()
    source = source_of(args)
    groups = source.get_samples(BATCH) + source.get_samples(BATCH)
    assert [group[0].group_index for group in groups] == list(range(2 * BATCH))
    assert [sample.index for group in groups for sample in group] == list(
        range(2 * BATCH * RESPONSES)
    )
    assert len(source) == PROMPTS


def test_groups_that_a_filter_dropped_are_learned_from_in_the_same_step(arguments):
    args = arguments(dynamic_sampling_filter_path=f"{HERE}.only_mixed")
    source = source_of(args)
    rollouts(args, source, range(1))
    found = source.rows.metrics()
    assert found["dps/groups"] > BATCH
    assert (found["dps/steps"], found["dps/open_groups"], found["dps/in_flight"]) == (1, 0, 0)


def test_prompts_whose_groups_were_aborted_are_free(arguments):
    args = arguments(over_sampling_batch_size=3 * BATCH, sglang_server_concurrency=1)
    source = source_of(args)
    rollouts(args, source, range(1))
    found = source.rows.metrics()
    assert found["dps/released"] > 0
    assert found["dps/in_flight"] == 0


def test_aborted_groups_that_slime_continues_stay_in_flight(arguments):
    args = arguments(
        over_sampling_batch_size=2 * BATCH, sglang_server_concurrency=1, partial_rollout=True
    )
    source = source_of(args)
    rollouts(args, source, range(1))
    waiting = source.get_buffer_length()
    assert source.rows.metrics()["dps/in_flight"] == waiting > 0
    rollouts(args, source, range(1, 4))
    assert source.rows.metrics()["dps/in_flight"] == source.get_buffer_length()
    assert source.rows.metrics()["dps/late"] == 0


def test_groups_that_the_filter_of_the_buffer_drops_are_free(arguments):
    args = arguments(buffer_filter_path=f"{HERE}.drop_all", partial_rollout=True)
    source = source_of(args)
    source.add_samples(source.get_samples(BATCH))
    source.get_samples(1)
    found = source.rows.metrics()
    assert (found["dps/released"], found["dps/in_flight"]) == (BATCH, 1)


def test_a_response_of_several_samples_has_the_reward_of_its_last(arguments):
    args = arguments(custom_generate_function_path=f"{HERE}.respond_in_turns")
    plain, turns = source_of(arguments()), source_of(args)
    expected = rollouts(plain.args, plain, range(3))
    arguments()
    assert rollouts(args, turns, range(3)) == expected


def test_responses_that_were_aborted_or_not_scored_teach_nothing(arguments):
    source = source_of(arguments())
    groups = source.get_samples(2)
    for sample in groups[0]:
        sample.status = Sample.Status.ABORTED
    observe(source.args, groups, source.get_samples)
    found = source.rows.metrics()
    assert (found["dps/failed"], found["dps/in_flight"]) == (2, 0)


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        ({"rollout_all_samples_process_path": None}, "rollout-all-samples-process-path"),
        ({"prompt_data": None}, "prompt-data"),
        ({"dps": {"kinds": "topic"}}, "id, level"),
        ({"dps": {"metod": "dps"}}, "metod"),
    ],
)
def test_arguments_that_cannot_work_say_what_to_write(arguments, changes, remedy):
    with pytest.raises(ConfigError, match=remedy):
        source_of(arguments(**changes))


def test_another_data_source_is_refused(arguments):
    args = arguments(data_source_path="slime.rollout.data_source.RolloutDataSourceWithBuffer")
    with pytest.raises(ConfigError, match="data-source-path"):
        generate_rollout(args, 0, source_of(args))


def test_the_data_source_holds_one_sampler(arguments):
    source = source_of(arguments())
    assert isinstance(source, DPSDataSource)
    assert isinstance(source.rows, RowSampler)
