import threading

import pytest

from dps_ray.deadline import within


def test_what_is_done_in_time_is_returned_or_raised():
    assert within(60, lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        within(60, lambda: 1 // 0)
    with pytest.raises(TimeoutError, match="the work's own"):
        within(60, lambda: (_ for _ in ()).throw(TimeoutError("the work's own")))


def test_what_never_ends_is_left_behind():
    forever = threading.Event()
    with pytest.raises(TimeoutError, match=r"no answer within 0\.1 s"):
        within(0.1, forever.wait)
    forever.set()
