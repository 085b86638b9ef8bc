import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.health import Quarantine
from actors.requests import Request
from actors.work_queue import Deal, WorkQueue
from dps_ray.groups import Group, Response
from dps_ray.weights import START, WeightsId

TOKENS = np.array([4, 5, 6], dtype=np.int32)


def requests(count: int) -> list[Request]:
    return [Request(prompt_id, TOKENS) for prompt_id in range(count)]


def queue(count: int, limit: int = 3, **options: int) -> WorkQueue:
    return WorkQueue(requests(count), Quarantine(limit), **options)


def group(prompt_id: int) -> Group:
    return Group(prompt_id, TOKENS, [], START)


def ids(deals: list[Deal]) -> dict[int, list[int]]:
    """The prompts dealt to each engine."""
    found: dict[int, list[int]] = {}
    for deal in deals:
        found.setdefault(deal.engine, []).extend(request.prompt_id for request in deal.requests)
    return found


def answer(work: WorkQueue, deal: Deal) -> None:
    """The engine answers all that it was dealt, and ends its call."""
    for request in deal.requests:
        assert work.answered(deal.engine, group(request.prompt_id))
    work.put_back(deal.engine)


def answered_ids(work: WorkQueue) -> list[int | None]:
    return [None if found is None else found.prompt_id for found in work.groups()]


# --- dealing -------------------------------------------------------------------------------------


def test_idle_engines_are_dealt_even_parts_in_the_order_of_the_prompts():
    work = queue(8, engines=3)
    assert work.waiting == 8
    deals = work.deal([0, 1, 2])
    assert ids(deals) == {0: [0, 1, 2], 1: [3, 4, 5], 2: [6, 7]}
    assert not any(deal.more for deal in deals)
    assert work.waiting == 0


def test_an_engine_that_is_alone_is_dealt_everything():
    assert ids(queue(100).deal([0])) == {0: list(range(100))}


def test_an_engine_that_has_not_started_yet_gets_what_the_others_leave():
    work = queue(8, engines=1, capacity=6)
    assert ids(work.deal([0])) == {0: [0, 1, 2, 3, 4, 5]}
    assert ids(work.deal([1])) == {1: [6, 7]}


def test_no_engine_has_more_than_its_capacity():
    work = queue(20, engines=2, capacity=4)
    assert ids(work.deal([0, 1])) == {0: [0, 1, 2, 3], 1: [4, 5, 6, 7]}
    assert work.waiting == 12
    assert work.deal([]) == []


def test_an_engine_that_runs_low_is_dealt_more_up_to_its_capacity():
    work = queue(20, engines=2, capacity=8)
    work.deal([0, 1])
    for prompt_id in (0, 1):
        work.answered(0, group(prompt_id))
    assert work.deal([]) == []  # a quarter of its capacity is free, which is not enough
    work.answered(0, group(2))
    (deal,) = work.deal([])
    assert deal.more
    assert ids([deal]) == {0: [16, 17, 18]}


def test_the_engine_with_fewest_prompts_left_is_dealt_more_first():
    work = queue(18, engines=2, capacity=8)
    work.deal([0, 1])
    for prompt_id in (0, 1, 2):
        work.answered(0, group(prompt_id))
    for prompt_id in range(8, 16):
        work.answered(1, group(prompt_id))
    assert ids(work.deal([])) == {1: [16, 17]}


def test_of_engines_with_equally_many_left_the_first_is_dealt_more():
    work = queue(9, engines=2, capacity=4)
    work.deal([1, 0])
    for engine, prompt_id in ((1, 0), (1, 1), (0, 4), (0, 5)):
        work.answered(engine, group(prompt_id))
    assert ids(work.deal([])) == {0: [8]}


def test_what_reached_an_engine_after_its_call_had_ended_is_dealt_again_without_a_failure():
    quarantine = Quarantine(limit=1)
    work = WorkQueue(requests(4), quarantine, engines=2, capacity=2)
    work.deal([0])
    work.answered(0, group(0))
    work.deal([])
    work.answered(0, group(1))
    assert work.waiting == 1
    work.put_back(0)
    assert work.waiting == 2
    assert quarantine.failures == {}
    assert sorted(ids(work.deal([0]))[0]) == [2, 3]


# --- answers -------------------------------------------------------------------------------------


def test_groups_are_in_the_order_of_the_requests_whoever_answered_first():
    work = WorkQueue(requests(6)[::-1], Quarantine(3), engines=2)
    for deal in reversed(work.deal([0, 1])):
        answer(work, deal)
    assert answered_ids(work) == [5, 4, 3, 2, 1, 0]


def test_an_answer_of_an_engine_that_has_lost_the_prompt_is_dropped():
    work = queue(2, engines=2)
    work.deal([0, 1])
    work.failed(0)
    assert not work.answered(0, group(0))
    work.deal([2])
    assert work.answered(2, group(0))


def test_an_answer_counts_once():
    work = queue(1)
    work.deal([0])
    assert work.answered(0, group(0))
    assert not work.answered(0, group(0))


def test_an_engine_still_at_work_for_an_earlier_batch_is_dealt_no_more_and_its_answers_are_dropped():
    earlier = queue(2)
    earlier.deal([0])
    work = queue(2, engines=2, capacity=1)
    assert not work.answered(0, group(0))
    work.put_back(0)
    work.failed(0)
    assert work.waiting == 2
    assert ids(work.deal([1])) == {1: [0]}


# --- failures ------------------------------------------------------------------------------------


def test_the_prompts_of_a_failed_engine_come_back_in_pieces_and_alone_at_the_last_attempt():
    work = queue(9, limit=3)
    sizes = []
    for _ in range(3):
        deals = work.deal(range(9))
        sizes.append(sorted(len(deal.requests) for deal in deals))
        for deal in deals:
            work.failed(deal.engine)
    # 9 ** (1/2) = 3 remain together after one failure.
    assert sizes == [[9], [3, 3, 3], [1] * 9]
    assert work.waiting == 0
    assert work.groups() == [None] * 9


def test_a_piece_is_never_added_to():
    work = queue(6, engines=2, capacity=4, limit=3)
    work.deal([0, 1])
    work.failed(0)
    (piece,) = work.deal([2])
    for request in piece.requests:
        work.answered(2, group(request.prompt_id))
    work.put_back(1)
    assert work.waiting > 0
    assert all(deal.engine != 2 for deal in work.deal([]))


def test_pieces_are_tried_before_prompts_that_wait_for_their_first_attempt():
    work = queue(8, engines=2, capacity=2)
    work.deal([0])
    work.failed(0)
    assert ids(work.deal([0])) == {0: [0, 1]}


def test_prompts_with_other_numbers_of_failures_are_not_in_one_piece():
    quarantine = Quarantine(3, {0: 1, 1: 1, 2: 2, 3: 2})
    work = WorkQueue(requests(6), quarantine)
    pieces = [set(found) for found in ids(work.deal(range(9))).values()]
    assert pieces == [{0, 1}, {2}, {3}, {4, 5}]


def test_a_prompt_in_the_quarantine_is_not_dealt():
    work = WorkQueue(requests(3), Quarantine(2, {1: 2}))
    (deal,) = work.deal([0])
    assert ids([deal]) == {0: [0, 2]}
    answer(work, deal)
    assert answered_ids(work) == [0, None, 2]


@pytest.mark.parametrize("limit", [1, 2, 3, 4])
@pytest.mark.parametrize("count", [1, 2, 7, 64])
def test_a_prompt_that_breaks_engines_is_set_aside_and_no_other(limit, count):
    bad = count // 2
    quarantine = Quarantine(limit)
    work = WorkQueue(requests(count), quarantine, engines=2, capacity=16)
    deaths = 0
    while work.waiting:
        for deal in work.deal([0, 1]):
            if bad in ids([deal])[deal.engine]:
                work.failed(deal.engine)
                deaths += 1
            else:
                answer(work, deal)
    assert deaths == limit
    expected = [None if prompt_id == bad else prompt_id for prompt_id in range(count)]
    if limit > 1:
        assert answered_ids(work) == expected
        assert bad in quarantine
        assert quarantine.count == 1
    else:  # its neighbours in the first share cannot be told from it
        assert answered_ids(work)[bad] is None


@pytest.mark.parametrize("seed", range(20))
def test_whatever_engines_do_every_prompt_is_answered_once_or_set_aside(seed):
    chance = random.Random(seed)
    count, engines = chance.randint(1, 60), chance.randint(1, 4)
    quarantine = Quarantine(limit=chance.randint(1, 4))
    work = WorkQueue(requests(count), quarantine, engines=engines, capacity=chance.randint(1, 20))
    has: dict[int, list[int]] = {}
    seen: list[int] = []
    while work.waiting or has:
        for deal in work.deal([engine for engine in range(engines) if engine not in has]):
            assert deal.more == (deal.engine in has)
            has.setdefault(deal.engine, []).extend(r.prompt_id for r in deal.requests)
        engine = chance.choice(sorted(has))
        event = chance.random()
        if event < 0.05:
            work.failed(engine)
            del has[engine]
        elif event < 0.1 or not has[engine]:
            work.put_back(engine)
            del has[engine]
        else:
            prompt_id = has[engine].pop(chance.randrange(len(has[engine])))
            assert work.answered(engine, group(prompt_id))
            seen.append(prompt_id)
    aside = set(quarantine.ids.tolist())
    assert sorted(seen) == [prompt_id for prompt_id in range(count) if prompt_id not in aside]
    assert answered_ids(work) == [None if i in aside else i for i in range(count)]


# --- rounds --------------------------------------------------------------------------------------


def responses(count: int) -> list[Response]:
    return [Response(TOKENS, np.zeros(3, np.float32), "", False)] * count


def round_of(request: Request) -> Group:
    """What an engine answers to this request."""
    assert request.responses is not None
    made = responses(request.responses)
    return Group(request.prompt_id, TOKENS, made, START, first=request.first)


def test_a_further_round_of_a_prompt_goes_to_an_engine_at_work_and_is_joined_to_the_first():
    first = [request.round(0, 2) for request in requests(2)]
    work = WorkQueue(first, Quarantine(3))
    work.deal([0])
    assert work.answered(0, round_of(first[0]))
    second = first[0].round(2, 3)
    work.add([second])
    assert work.waiting == 1
    (deal,) = work.deal([])
    assert deal.more
    assert deal.requests == [second]
    assert work.answered(0, round_of(first[1]))
    assert work.answered(0, round_of(second))
    assert [len(group.responses) for group in work.groups()] == [5, 2]
    assert [group.rounds for group in work.groups()] == [(2, 3), ()]


def test_many_further_rounds_are_spread_evenly_over_the_engines_at_work():
    first = [request.round(0, 2) for request in requests(12)]
    work = WorkQueue(first, Quarantine(3), engines=2, capacity=50)
    for deal in work.deal([0, 1]):
        for request in deal.requests[:5]:
            work.answered(deal.engine, round_of(request))
    work.add(first[i].round(2, 2) for i in [*range(5), *range(6, 11)])
    assert {engine: len(found) for engine, found in ids(work.deal([])).items()} == {0: 5, 1: 5}


def test_an_idle_engine_gets_its_part_of_further_rounds_and_no_more():
    first = [request.round(0, 2) for request in requests(8)]
    work = WorkQueue(first, Quarantine(3), engines=2)
    for deal in work.deal([0, 1]):
        for request in deal.requests:
            work.answered(deal.engine, round_of(request))
        work.put_back(deal.engine)
    work.add(request.round(2, 2) for request in first)
    assert [len(found) for found in ids(work.deal([0, 1])).values()] == [4, 4]


def test_a_second_round_of_a_prompt_cannot_begin_before_the_first_is_answered():
    work = queue(1)
    with pytest.raises(AssertionError, match="0 has a round or turn already"):
        work.add(requests(1))
    work.deal([0])
    with pytest.raises(AssertionError, match="0 has a round or turn already"):
        work.add(requests(1))


def test_a_late_answer_to_an_earlier_round_is_dropped():
    (first,) = (request.round(0, 2) for request in requests(1))
    work = WorkQueue([first], Quarantine(3))
    work.deal([0])
    assert work.answered(0, round_of(first))
    work.add([first.round(2, 2)])
    work.deal([0])
    assert not work.answered(0, round_of(first))
    assert work.answered(0, round_of(first.round(2, 2)))


def test_a_group_has_the_oldest_weights_that_sampled_one_of_its_rounds():
    (first,) = (request.round(0, 2) for request in requests(1))
    work = WorkQueue([first], Quarantine(3))
    work.deal([0])
    work.answered(0, round_of(first)._replace(weights=WeightsId(1, 4)))
    work.add([first.round(2, 2)])
    work.deal([])
    work.answered(0, round_of(first.round(2, 2))._replace(weights=WeightsId(1, 5)))
    (group,) = work.groups()
    assert group is not None
    assert group.weights == WeightsId(1, 4)


def test_a_prompt_set_aside_in_a_later_round_has_no_group():
    first = [request.round(0, 2) for request in requests(2)]
    work = WorkQueue(first, Quarantine(1))
    (deal,) = work.deal([0])
    answered = [work.answered(0, round_of(request)) for request in deal.requests]
    assert answered == [True, True]
    work.add([first[1].round(2, 2)])
    work.deal([])
    work.failed(0)
    assert answered_ids(work) == [0, None]


@given(
    sizes=st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=4), min_size=1, max_size=30),
    engines=st.integers(1, 4),
    capacity=st.integers(1, 20),
    limit=st.integers(1, 4),
    seed=st.integers(0, 2**32),
)
def test_whatever_engines_do_each_round_is_answered_once_and_in_order(
    sizes, engines, capacity, limit, seed
):
    """`sizes`: by prompt, the responses of each of its rounds."""
    chance = random.Random(seed)
    quarantine = Quarantine(limit)
    ends = [np.cumsum([0, *rounds]).tolist() for rounds in sizes]
    first = [request.round(0, sizes[request.prompt_id][0]) for request in requests(len(sizes))]
    work = WorkQueue(first, quarantine, engines=engines, capacity=capacity)
    has: dict[int, list[Request]] = {}  # by engine
    scoring: list[Request] = []  # rounds that are answered, and may be followed by others
    seen: list[tuple[int, int]] = []
    while work.waiting or has or scoring:
        for deal in work.deal([engine for engine in range(engines) if engine not in has]):
            assert deal.more == (deal.engine in has)
            has.setdefault(deal.engine, []).extend(deal.requests)
        held = [request.prompt_id for requests in has.values() for request in requests]
        assert len(held) == len(set(held))
        event = chance.random()
        if scoring and (event < 0.4 or not has):
            done = scoring.pop(chance.randrange(len(scoring)))
            rounds, end = sizes[done.prompt_id], done.first + (done.responses or 0)
            number = ends[done.prompt_id].index(end)
            if number < len(rounds):
                work.add([done.round(end, rounds[number])])
            continue
        engine = chance.choice(sorted(has))
        if event > 0.97:
            work.failed(engine)
            del has[engine]
        elif event > 0.94 or not has[engine]:
            work.put_back(engine)
            del has[engine]
        else:
            request = has[engine].pop(chance.randrange(len(has[engine])))
            assert work.answered(engine, round_of(request))
            seen.append((request.prompt_id, request.first))
            scoring.append(request)
    assert len(seen) == len(set(seen))
    for prompt_id, group in enumerate(work.groups()):
        starts = [at for found, at in seen if found == prompt_id]
        assert starts == ends[prompt_id][: len(starts)]
        if prompt_id in quarantine:
            assert group is None
        else:
            assert starts == ends[prompt_id][:-1]
            assert group is not None
            assert len(group.responses) == ends[prompt_id][-1]


# --- turns of episodes ---------------------------------------------------------------------------


def turn_of(prompt_id: int, episode: int, turn: int) -> Request:
    return Request(prompt_id, TOKENS, first=episode, responses=1, turn=turn)


def answer_turn(work: WorkQueue, engine: int, request: Request) -> None:
    answered = group(request.prompt_id)._replace(first=request.first, turn=request.turn)
    assert work.answered(engine, answered)


def of_engines(deals: list[Deal]) -> dict[int, list[tuple[int, int, int | None]]]:
    found: dict[int, list[tuple[int, int, int | None]]] = {}
    for deal in deals:
        found.setdefault(deal.engine, []).extend(request.key for request in deal.requests)
    return found


def begun(episodes: int, **options: int) -> WorkQueue:
    """Two engines that have answered the first turns of these episodes of one prompt: the first half each."""
    work = WorkQueue((), Quarantine(3), engines=2, **options)
    work.add(turn_of(0, episode, 0) for episode in range(episodes))
    for deal in work.deal([0, 1]):
        for request in deal.requests:
            answer_turn(work, deal.engine, request)
    return work


def test_a_further_turn_goes_to_the_engine_that_had_the_turns_before():
    work = begun(6)
    work.add(turn_of(0, episode, 1) for episode in (5, 0, 1, 2))
    assert of_engines(work.deal([])) == {0: [(0, 0, 1), (0, 1, 1), (0, 2, 1)], 1: [(0, 5, 1)]}
    work.put_back(0)
    work.put_back(1)
    assert of_engines(work.deal([1, 0])) == {
        0: [(0, 0, 1), (0, 1, 1), (0, 2, 1)],
        1: [(0, 5, 1)],
    }


def test_a_further_turn_goes_to_another_engine_when_its_own_is_gone():
    work = begun(6)
    work.failed(0)
    work.add(turn_of(0, episode, 1) for episode in range(6))
    assert len(of_engines(work.deal([]))[1]) == 6


def test_the_turns_that_an_engine_had_when_it_failed_are_dealt_again_in_pieces_and_later_turns_are_not():
    work = begun(4)
    work.add(turn_of(0, episode, 1) for episode in range(4))
    work.deal([])
    work.failed(0)
    assert work.waiting == 2
    work.add([])
    work.put_back(1)
    (piece,) = work.deal([1])
    assert not piece.more
    for request in piece.requests:
        answer_turn(work, 1, request)
    work.put_back(1)
    work.add([turn_of(0, request.first, 2) for request in piece.requests])
    assert [request.turn for deal in work.deal([0]) for request in deal.requests].count(2) <= 2


def test_a_prompt_whose_turn_breaks_engines_is_set_aside_with_all_its_episodes():
    work = WorkQueue((), Quarantine(1), engines=2)
    work.add([*(turn_of(0, episode, 0) for episode in range(4)), turn_of(1, 0, 0)])
    _, second = work.deal([0, 1])
    assert second.engine == 1
    work.failed(0)
    assert work.waiting == 0
    for request in second.requests:
        answered = group(request.prompt_id)._replace(first=request.first, turn=0)
        assert work.answered(1, answered)
    work.add([turn_of(0, 3, 1), turn_of(1, 0, 1)])
    assert of_engines(work.deal([])) == {1: [(1, 0, 1)]}
