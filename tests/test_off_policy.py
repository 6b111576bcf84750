"""Sampler against trainer: what is measured, and when it is alarming."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapo_core.config_update import OffPolicyConfig
from tapo_core.off_policy import effective_share, measure

LOG_WEIGHTS = st.lists(st.floats(-800, 800), min_size=1, max_size=50)


def test_effective_share_of_known_weights() -> None:
    assert effective_share([0.0, 0.0, 0.0]) == 1.0
    assert effective_share([math.log(3.0), 0.0]) == pytest.approx(16 / 20)
    assert effective_share([700.0, -700.0, -700.0, -700.0]) == pytest.approx(0.25)


@given(LOG_WEIGHTS, st.floats(-50, 50))
def test_effective_share_is_a_share_whatever_the_scale(log_weights: list[float], shift: float) -> None:
    share = effective_share(log_weights)
    assert 0.0 < share <= 1.0
    assert share >= 1 / len(log_weights) - 1e-9
    assert effective_share([value + shift for value in log_weights]) == pytest.approx(share, rel=1e-6)


@given(st.lists(st.lists(st.floats(-20, 0), min_size=1, max_size=9), min_size=1, max_size=9))
def test_equal_logprobs_have_no_mismatch(rows: list[list[float]]) -> None:
    found = measure(rows, rows)
    assert found is not None
    assert (found.mean, found.max, found.ess_token, found.ess_sequence) == (0.0, 0.0, 1.0, 1.0)
    assert found.alarms(OffPolicyConfig(alarm_ess=1.0)) == []


def test_a_mismatch_in_numbers() -> None:
    found = measure([[-1.0, -2.0], [-3.0], []], [[-1.0, -2.0 + math.log(3.0)], [-3.0], []])
    assert found is not None
    assert found.max == pytest.approx(math.log(3.0))
    assert found.mean == pytest.approx(math.log(3.0) / 3)
    assert found.ess_token == pytest.approx(25 / (3 * 11))
    assert found.ess_sequence == pytest.approx(16 / 20)
    assert measure([[]], [[]]) is None


def test_each_threshold_has_its_alarm() -> None:
    found = measure([[-1.0] * 4], [[-1.0, -1.0, -1.0, 1.0]])
    assert found is not None
    assert ["alarm_mean" in a for a in found.alarms(OffPolicyConfig())] == [True, False]
    assert found.alarms(OffPolicyConfig(alarm_mean=9.0, alarm_ess=0.1)) == []
    (alarm,) = found.alarms(OffPolicyConfig(alarm_mean=9.0))
    assert "off_policy.alarm_ess = 0.9" in alarm
