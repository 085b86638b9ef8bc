"""Rules for rounds: what each does with a group, and that adaptive rounds are the best plan by enumeration."""

from itertools import product
from math import comb

import numpy as np
import pytest

from dps_ray.beliefs.beta_rates import BetaRates
from dps_ray.beliefs.states import states_of
from dps_ray.selection import adaptive_rounds
from dps_ray.selection.adaptive_rounds import ROUND, signal
from dps_ray.selection.rounds import RoundRule

BELIEFS = [(0.38, 0.38), (1, 1), (0.1, 1), (5, 1), (2, 30), (50, 50), (0.05, 0.05), (1e-3, 1e-3)]


def rates(*pairs):
    a, b = np.array(pairs, dtype=float).T
    return BetaRates(a, b, np.ones(len(a), dtype=bool))


PRIORS = rates(*BELIEFS)


def walk(rule, prior, responses):
    """The sizes of the rounds that a prompt gets whose responses come out like this (1 right, 0 wrong)."""
    sizes, more = [], int(rule.first(prior)[0])
    while more:
        sizes.append(more)
        scored = sum(sizes)
        more = int(rule.next(prior, [sum(responses[:scored])], [scored])[0])
    return sizes


def expected(rule, prior):
    """E[signal], E[responses], E[rounds], P(mixed) of a prompt by enumeration of all responses of a full group."""
    totals = np.zeros(4)
    a, b = prior.a[0], prior.b[0]
    for responses in product((0, 1), repeat=rule.group_size):
        chance = 1.0
        for i, response in enumerate(responses):
            right = sum(responses[:i])
            chance *= (a + right if response else b + i - right) / (a + b + i)
        sizes = walk(rule, prior, responses)
        n = sum(sizes)
        s = sum(responses[:n])
        totals += chance * np.array([signal(s, n), n, len(sizes), 0 < s < n])
    return totals


def test_rounds_stop_once_the_group_is_mixed():
    rule = RoundRule((2, 2, 4), "mixed", 0.02, 8)
    prior = rates((1, 1))
    assert walk(rule, prior, [0, 1, 0, 0, 0, 0, 0, 0]) == [2]
    assert walk(rule, prior, [1, 1, 1, 0, 0, 0, 0, 0]) == [2, 2]
    assert walk(rule, prior, [1, 1, 1, 1, 1, 1, 1, 1]) == [2, 2, 4]


@pytest.mark.parametrize("sizes", [(2, 2, 2, 2), (2, 2, 4), (4, 4), (3, 5)])
def test_a_group_that_stops_when_mixed_has_the_state_of_the_full_group(sizes):
    """So a method that learns from states learns the same with these rounds as without."""
    rule, prior = RoundRule(sizes, "mixed", 0.0, 8), rates((1, 1))
    for responses in product((0, 1), repeat=8):
        scored = sum(walk(rule, prior, responses))
        right = np.array([sum(responses[:scored]), sum(responses)])
        part, full = states_of(right, np.array([scored, 8]))
        assert part == full


def test_rounds_that_stop_when_hopeless_go_on_with_mixed_groups():
    rule = RoundRule((2, 2, 4), "hopeless", 0.2, 8)
    prior = rates((0.1, 1))  # 4 wrong: 4 more are mixed with chance .066
    assert walk(rule, prior, [0] * 8) == [2]
    assert walk(rule, prior, [0, 1, 0, 0, 0, 0, 0, 0]) == [2, 2, 4]
    both = RoundRule((2, 2, 4), "both", 0.2, 8)
    assert walk(both, prior, [0] * 8) == [2]
    assert walk(both, prior, [0, 1, 0, 0, 0, 0, 0, 0]) == [2]


def test_a_group_is_hopeless_by_the_chance_that_its_remaining_responses_make_it_mixed():
    prior = rates((0.1, 1))
    chance = 1 - np.prod([(3 + i) / (3.1 + i) for i in range(6)])
    for least, more in ((chance - 1e-9, 2), (chance + 1e-9, 0)):
        assert RoundRule((2, 2, 4), "hopeless", least, 8).next(prior, [0], [2]).tolist() == [more]


def test_a_round_follows_from_the_responses_so_far():
    rule = RoundRule((2, 3, 3), "hopeless", 0.0, 8)
    prior = rates(*[(1, 1)] * 5)
    assert rule.first(prior).tolist() == [2] * 5
    assert rule.next(prior, [0] * 5, [0, 2, 5, 8, 9]).tolist() == [2, 3, 3, 0, 0]


@pytest.mark.parametrize("sizes", [(2, 2, 4), (4, 4), "adaptive"])
@pytest.mark.parametrize("stop", ["mixed", "both"])
def test_a_prompt_is_answered_alike_alone_and_among_others(sizes, stop):
    rule = RoundRule(sizes, stop, 0.05, 8)
    rng = np.random.default_rng(0)
    prior = BetaRates.of_predicted(rng.dirichlet([1, 1, 1], 33), 8)
    responses = rng.integers(2, 9, 33)
    successes = rng.integers(0, 2, 33) * responses
    first, more = rule.first(prior), rule.next(prior, successes, responses)
    for row in range(33):
        alone = prior.take(np.array([row]))
        assert rule.first(alone)[0] == first[row]
        assert rule.next(alone, successes[[row]], responses[[row]])[0] == more[row]


@pytest.mark.parametrize(
    ("sizes", "stop", "least_chance", "group_size", "says"),
    [
        ((2, 2), "mixed", 0.02, 8, "have 4 responses, and a group has 8"),
        ((), "mixed", 0.02, 8, "positive sizes"),
        ((8, 0), "mixed", 0.02, 8, "positive sizes"),
        ((1, 7), "mixed", 0.02, 8, "begin with 2"),
        ((8,), "mixed", 1.0, 8, "least_chance"),
        ("adaptive", "mixed", 0.02, 1, "2 or more"),
    ],
)
def test_rules_that_cannot_be_kept_are_refused(sizes, stop, least_chance, group_size, says):
    with pytest.raises(ValueError, match=says):
        RoundRule(sizes, stop, least_chance, group_size)


def compositions(total, least=1):
    """All lists of sizes with this sum, the first at least `least`."""
    if total == 0:
        yield ()
    for size in range(least, total + 1):
        for rest in compositions(total - size):
            yield (size, *rest)


# How adaptive rounds may stop, and the fixed plans that may do no more than they.
PLANS = {
    "mixed": [("mixed", 0.0), ("both", 0.1), ("both", 0.4)],
    "hopeless": [("mixed", 0.0), ("both", 0.1), ("hopeless", 0.0), ("hopeless", 0.4)],
}


@pytest.mark.parametrize("row", range(len(BELIEFS)))
@pytest.mark.parametrize("stop", PLANS)
def test_adaptive_rounds_are_no_worse_than_any_fixed_plan_by_their_own_belief(row, stop):
    prior, k = PRIORS.take(np.array([row])), 6
    earned, responses, rounds, _ = expected(RoundRule("adaptive", stop, 0.0, k), prior)
    best = earned / (responses + ROUND * (rounds - 1))
    plan = adaptive_rounds.plan(prior, k, ends_mixed=stop == "mixed")
    assert plan.signal[0] == pytest.approx(earned, rel=1e-9)
    assert plan.cost[0] == pytest.approx(responses + ROUND * (rounds - 1), rel=1e-9)
    for sizes in compositions(k, least=2):
        for fixed in PLANS[stop]:
            earned, responses, rounds, _ = expected(RoundRule(sizes, *fixed, k), prior)
            assert earned / (responses + ROUND * (rounds - 1)) <= best * (1 + 1e-9)


@pytest.mark.parametrize("row", range(len(BELIEFS)))
@pytest.mark.parametrize("ends_mixed", [True, False])
def test_adaptive_rounds_are_the_best_of_all_plans(row, ends_mixed):
    """Every plan for groups of 4: a first round, and a further one or none for each outcome of it."""
    prior, k = PRIORS.take(np.array([row])), 4
    a, b = prior.a[0], prior.b[0]

    def outcomes(right, wrong, more):
        """P(s more right of `more` | so far), for s = 0 .. more."""
        chances = []
        for s in range(more + 1):
            chance = float(comb(more, s))
            for i in range(s):
                chance *= (a + right + i) / (a + b + right + wrong + i)
            for i in range(more - s):
                chance *= (b + wrong + i) / (a + b + right + wrong + s + i)
            chances.append(chance)
        return chances

    def follow(plan, right, wrong, more):
        earned, cost = 0.0, float(more)
        for s, chance in enumerate(outcomes(right, wrong, more)):
            r, w = right + s, wrong + more - s
            further = plan.get((r, w), 0)
            if further:
                later, paid = follow(plan, r, w, further)
                earned, cost = earned + chance * later, cost + chance * (paid + ROUND)
            else:
                earned += chance * signal(r, r + w)
        return earned, cost

    states = [
        (right, n - right)
        for n in (2, 3)
        for right in range(n + 1)
        if not ends_mixed or right in (0, n)
    ]
    best = 0.0
    for sizes in product(*[range(k - r - w + 1) for r, w in states]):
        for first in range(2, k + 1):
            earned, cost = follow(dict(zip(states, sizes, strict=True)), 0, 0, first)
            best = max(best, earned / cost)
    found = adaptive_rounds.plan(prior, k, ends_mixed)
    assert found.signal[0] / found.cost[0] == pytest.approx(best, rel=1e-9)


def test_adaptive_rounds_follow_from_the_belief():
    likely, hard = rates((50, 50)), rates((2, 30))
    rule = RoundRule("adaptive", "mixed", 0.0, 8)
    assert rule.first(likely)[0] < rule.first(hard)[0]
    # A prompt that may be impossible is given up after two wrong responses; one whose responses differ is not.
    uncertain = rates((0.1, 1))
    assert rule.next(uncertain, [0], [2])[0] == 0
    assert rule.next(likely, [0], [2])[0] > 0


def test_a_mixed_group_goes_on_where_mixed_groups_are_rare():
    rule = RoundRule("adaptive", "hopeless", 0.0, 8)
    assert rule.next(rates((0.01, 0.01)), [1], [3])[0] > 0
    assert rule.next(rates((5, 5)), [2], [4])[0] == 0


def test_adaptive_rounds_end_with_a_full_group():
    rule = RoundRule("adaptive", "mixed", 0.0, 8)
    for pair in BELIEFS:
        for responses in ([0] * 8, [1] * 8):
            assert sum(walk(rule, rates(pair), responses)) <= 8


def test_a_mixed_group_of_four_is_worth_nine_tenths_of_one_of_eight():
    """What docs/method.md says of NOISE, for prompts as the comparison's methods select them."""

    def mean(n):
        chance = np.array(
            [
                comb(n, s)
                * np.prod([0.38 + i for i in range(s)])
                * np.prod([0.38 + i for i in range(n - s)])
                / np.prod([0.76 + i for i in range(n)])
                for s in range(1, n)
            ]
        )
        return chance @ [signal(s, n) for s in range(1, n)] / chance.sum()

    assert mean(4) / mean(8) == pytest.approx(0.9, abs=0.02)
