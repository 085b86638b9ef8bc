import fcntl
import os
import pickle
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from dps_ray.config import VerifierSettings
from dps_ray.errors import NonFiniteError, ResponseError, RewardError
from dps_ray.prompts.dataset import Prompt
from dps_ray.rewards.sandbox import Sandbox, TrialError

PROMPT = Prompt(
    id=42,
    messages=[{"role": "user", "content": "1+2="}],
    data_source="sums",
    ground_truth="3",
    extra_info={"level": 1},
    images=[],
)
EVIL = Path(__file__).parent / "evil_rewards.py"
Start = Callable[..., Sandbox]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """One for all tests, as what one response does is to leave nothing behind for the next."""
    limits = VerifierSettings(seconds=1, cpu_seconds=30, memory_gib=0.5)
    shared = Sandbox(f"{EVIL}:reward", limits, 60)
    yield shared
    shared.close()


@pytest.fixture
def start() -> Iterator[Start]:
    """Makes others."""
    made = []

    def make(spec: str | None = f"{EVIL}:reward", start: float = 60, **limits) -> Sandbox:
        made.append(Sandbox(spec, VerifierSettings(**limits), start))
        return made[-1]

    yield make
    for one in made:
        one.close()


def has_ended(file: Path) -> bool:
    """Waits for the end of whoever holds the lock."""
    assert file.read_text() == "locked"
    with file.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
    return True


# --- scores ---------------------------------------------------------------------------------------


def test_a_group_is_scored_in_order(sandbox):
    scores, accuracies = sandbox.score(PROMPT, ["", "abc", "a"])
    assert scores.dtype == accuracies.dtype == np.float64
    assert scores.tolist() == [0.0, 3.0, 1.0]
    assert accuracies.tolist() == [0.0, 1.0, 1.0]
    scores, accuracies = sandbox.score(PROMPT, [])
    assert scores.shape == accuracies.shape == (0,)


def test_no_name_means_the_built_in_tasks(start):
    sums = PROMPT._replace(data_source="arithmetic", ground_truth="1+2=3;")
    scores, _ = start(None).score(sums, ["1+2=3;", "1+2=4;"])
    assert scores.tolist() == [1.0, 0.0]


def test_one_process_serves_all_responses_as_long_as_it_returns(sandbox):
    (before,), _ = sandbox.score(PROMPT, ["pid:"])
    with pytest.raises(RewardError, match=r"KeyError: 'difficulty'.*prompt 42"):
        sandbox.score(PROMPT, ["a", "fail:", "pid:"])
    scores, _ = sandbox.score(PROMPT, ["pid:", "abc", "pid:"])
    assert scores.tolist() == [before, 3.0, before]
    assert before != os.getpid()


def test_what_the_function_prints_does_not_get_into_the_answers(sandbox):
    scores, _ = sandbox.score(PROMPT, ["print_a_lot:", "abc"])
    assert scores.tolist() == [1.0, 3.0]


def test_a_large_group_and_a_large_response_pass(sandbox):
    scores, _ = sandbox.score(PROMPT, ["x" * 4_000_000] + ["ab"] * 5000)
    assert scores.tolist() == [4_000_000.0] + [2.0] * 5000


def test_a_reward_that_is_not_finite_keeps_its_kind(sandbox):
    with pytest.raises(NonFiniteError, match="prompt 42") as caught:
        sandbox.score(PROMPT, ["a", "return_nan:"])
    assert not isinstance(caught.value, ResponseError)


# --- responses that are too much ------------------------------------------------------------------


def refused(sandbox: Sandbox, response: str) -> str:
    """Why a response failed, that is one of several."""
    with pytest.raises(ResponseError) as caught:
        sandbox.score(PROMPT, ["abc", response, "abc"])
    again = pickle.loads(pickle.dumps(caught.value))
    assert type(again) is ResponseError
    return str(again)


@pytest.mark.parametrize(
    ("response", "why"),
    [
        ("hang:", "no answer within 1 s (verifier.seconds)"),
        ("spin:", "no answer within 1 s (verifier.seconds)"),
        ("allocate:", "more than 0.5 GiB (verifier.memory_gib)"),
        ("segfault:", "ended by signal 11 (Segmentation fault)"),
        ("leave:", "ended its process with status 3"),
        ("leave_politely:", "ended its process with status 0"),
        ("close_everything:", "ended its process with status 1"),
    ],
)
def test_a_response_that_does_not_return_fails_and_those_after_it_are_scored(
    sandbox, response, why
):
    said = refused(sandbox, response)
    for part in (why, repr(response), "'sums', prompt 42"):
        assert part in said
    scores, _ = sandbox.score(PROMPT, ["abc", "a"])
    assert scores.tolist() == [3.0, 1.0]


@pytest.mark.slow
def test_processor_time_is_limited_for_each_response_and_not_for_all_together(start):
    sandbox = start(cpu_seconds=1, seconds=60)
    scores, _ = sandbox.score(PROMPT, ["burn:0.6"] * 4)
    assert scores.tolist() == [1.0] * 4
    assert "more than 1 s of processor time (verifier.cpu_seconds)" in refused(sandbox, "spin:")


@pytest.mark.parametrize("response", ["fork_and_hang", "fork_and_leave"])
def test_what_a_response_that_failed_has_started_ends_with_it(sandbox, response, tmp_path):
    refused(sandbox, f"{response}:{tmp_path}/lock")
    assert has_ended(tmp_path / "lock")


def test_what_any_response_has_started_ends_with_the_sandbox(start, tmp_path):
    sandbox = start()
    scores, _ = sandbox.score(PROMPT, [f"fork:{tmp_path}/lock", "abc"])
    assert scores.tolist() == [1.0, 3.0]
    sandbox.close()
    assert has_ended(tmp_path / "lock")


def test_a_forked_process_that_returns_does_not_answer_too(sandbox):
    scores, _ = sandbox.score(PROMPT, ["fork_and_return_twice:", "ab", "abc"])
    assert scores.tolist() == [1.0, 2.0, 3.0]


def test_a_function_that_does_not_return_ends_with_an_owner_that_was_killed(tmp_path):
    code = (
        "from dps_ray.config import VerifierSettings\n"
        "from dps_ray.prompts.dataset import Prompt\n"
        "from dps_ray.rewards.sandbox import Sandbox\n"
        f"sandbox = Sandbox({str(EVIL) + ':reward'!r}, VerifierSettings(seconds=60), 60)\n"
        f"prompt = Prompt(1, [], 'sums', '3', {{}}, [])\n"
        f"sandbox.score(prompt, ['end_owner_and_hang:{tmp_path}/lock'])\n"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert has_ended(tmp_path / "lock")


def test_a_function_that_ends_the_process_it_was_forked_from_costs_its_response_alone(
    start, tmp_path
):
    sandbox = start()
    assert "signal 9" in refused(sandbox, f"end_parent_and_hang:{tmp_path}/lock")
    assert has_ended(tmp_path / "lock")
    scores, _ = sandbox.score(PROMPT, ["abc", "a"])
    assert scores.tolist() == [3.0, 1.0]


def test_a_worker_that_ends_between_two_groups_costs_nothing(sandbox):
    sandbox.score(PROMPT, ["abc"])
    os.kill(sandbox._child.pid, signal.SIGKILL)
    while sandbox._child.poll() is None:
        pass
    assert sandbox.score(PROMPT, ["abc"])[0].tolist() == [3.0]


# --- the first call -------------------------------------------------------------------------------


@pytest.fixture
def mine(tmp_path):
    """Makes a file of this code; where its `reward` is."""

    def make(code: str) -> str:
        (tmp_path / "mine.py").write_text(textwrap.dedent(code))
        return f"{tmp_path / 'mine.py'}:reward"

    return make


def library(file: Path, seconds: float = 0.0) -> None:
    """A module that takes so long to import, and refuses to be under the limit on a response."""
    file.write_text(
        "import resource, time\n"
        f"with open({str(file.with_suffix('.log'))!r}, 'a') as log: log.write('imported ')\n"
        f"time.sleep({seconds})\n"
        "assert resource.getrlimit(resource.RLIMIT_CPU)[0] == resource.RLIM_INFINITY\n"
    )


def assert_scores_before_and_after_a_kill(sandbox: Sandbox) -> None:
    assert sandbox.score(PROMPT, ["abc", "a"])[0].tolist() == [3.0, 1.0]
    with pytest.raises(ResponseError, match="status 3"):
        sandbox.score(PROMPT, ["abc", "leave"])
    assert sandbox.score(PROMPT, ["ab"])[0].tolist() == [2.0]


@pytest.mark.slow
def test_what_the_first_call_imports_counts_for_no_response_and_is_kept_after_a_kill(
    start, mine, tmp_path
):
    library(tmp_path / "large_library.py", seconds=1.1)
    sandbox = start(
        mine(
            """
            import os
            def reward(data_source, solution_str, ground_truth, extra_info=None):
                import large_library
                if solution_str == "leave":
                    os._exit(3)
                return float(len(solution_str))
            """
        ),
        seconds=1,
    )
    assert_scores_before_and_after_a_kill(sandbox)
    # In the trial call, and once for all workers.
    assert (tmp_path / "large_library.log").read_text().split() == ["imported"] * 2


@pytest.mark.slow
def test_what_the_first_call_sets_up_counts_for_no_response(start, mine):
    sandbox = start(
        mine(
            """
            import functools, os, time
            @functools.cache
            def model():
                time.sleep(1.1)
            def reward(data_source, solution_str, ground_truth, extra_info=None):
                model()
                if solution_str == "leave":
                    os._exit(3)
                return float(len(solution_str))
            """
        ),
        seconds=1,
    )
    assert_scores_before_and_after_a_kill(sandbox)


def test_a_trial_call_leaves_no_trace_in_what_scores(start, mine):
    sandbox = start(
        mine(
            """
            calls = 0
            def reward(data_source, solution_str, ground_truth, extra_info=None):
                global calls
                calls += 1
                return calls
            """
        )
    )
    assert sandbox.score(PROMPT, ["a", "a"])[0].tolist() == [1.0, 2.0]


def test_a_function_with_threads_works_and_is_started_again_after_a_kill(start, mine):
    """A fork would not have the thread that answers."""
    sandbox = start(
        mine(
            """
            import os
            from concurrent.futures import ThreadPoolExecutor
            pool = ThreadPoolExecutor(1)
            pool.submit(int).result()
            def reward(data_source, solution_str, ground_truth, extra_info=None):
                if solution_str == "leave":
                    os._exit(3)
                return float(pool.submit(len, solution_str).result())
            """
        )
    )
    assert_scores_before_and_after_a_kill(sandbox)
    assert sandbox._child.in_place


def test_each_data_source_has_a_first_call_of_its_own(start, mine, tmp_path):
    sandbox = start(
        mine(
            """
            def reward(data_source, solution_str, ground_truth, extra_info=None):
                __import__("library_of_" + data_source)
                return float(len(solution_str))
            """
        )
    )
    for source in ("sums", "chess", "sums"):
        library(tmp_path / f"library_of_{source}.py")
        assert sandbox.score(PROMPT._replace(data_source=source), ["ab"])[0].tolist() == [2.0]


@pytest.mark.parametrize(
    ("truth", "why"),
    [
        ("hang", r"gave no answer within 0\.2 s \(resources\.wait\)"),
        ("leave", "ended its process with status 3"),
        ("allocate", r"takes more than 0\.5 GiB.*raise verifier\.memory_gib"),
    ],
)
def test_a_first_call_that_does_not_return_says_why(start, mine, truth, why):
    sandbox = start(
        mine(
            f"""
            import sys
            sys.path.append({str(EVIL.parent)!r})
            import evil_rewards
            def reward(data_source, solution_str, ground_truth, extra_info=None):
                return getattr(evil_rewards, ground_truth, len)(10 * solution_str)
            """
        ),
        memory_gib=0.5,
    )
    sandbox.start()
    sandbox._start = 0.2 if truth == "hang" else 60
    with pytest.raises(TrialError, match=f"trial call.*'sums' {why}.*prompt 42"):
        sandbox.score(PROMPT._replace(ground_truth=truth), ["a"])
    assert sandbox.score(PROMPT, ["a"])[0].tolist() == [10.0]


def test_an_async_function_is_awaited(start, mine):
    sandbox = start(
        mine(
            """
            import asyncio
            async def reward(solution_str, **fields):
                await asyncio.sleep(0)
                return float(len(solution_str))
            """
        )
    )
    assert sandbox.score(PROMPT, ["ab", "a"])[0].tolist() == [2.0, 1.0]


# --- loading --------------------------------------------------------------------------------------


def test_a_function_that_is_not_there_is_told_as_without_a_sandbox(start):
    with pytest.raises(RewardError, match=r"no function 'rewards'.*reward"):
        start(f"{EVIL}:rewards").start()


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import signal\nwhile True: signal.pause()", "not loaded within 1 s"),
        ("import os\nos._exit(3)", "status 3 while it was loaded"),
        ("raise KeyError('difficulty')", "KeyError: 'difficulty'"),
    ],
)
def test_a_file_that_cannot_be_loaded_says_why(start, tmp_path, code, why):
    file = tmp_path / "mine.py"
    file.write_text(code)
    with pytest.raises(RewardError, match=why):
        start(f"{file}:reward", start=1 if "pause" in code else 60).start()
