"""What people type: times and the names of streams."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from events.model.base import service_id_of
from events.replay.errors import BadTime, NoSuchStream
from events.replay.moments import parse_time
from events.replay.names import resolve_stream

NOW = 1_800_000_000_000_000


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("now", NOW),
        ("10m", NOW - 600_000_000),
        ("10m ago", NOW - 600_000_000),
        (" 2h ago ", NOW - 7_200_000_000),
        ("1D", NOW - 86_400_000_000),
        ("0s", NOW),
        ("2026-01-31T12:00:00Z", 1_769_860_800_000_000),
        ("2026-01-31T12:00:00.000001Z", 1_769_860_800_000_001),
        ("2026-01-31T14:00:00+02:00", 1_769_860_800_000_000),
        ("2026-01-31T12:00:00", 1_769_860_800_000_000),
        ("2026-01-31 12:00", 1_769_860_800_000_000),
        ("2026-01-31", 1_769_817_600_000_000),
        ("1769860800", 1_769_860_800_000_000),
        ("1769860800.5", 1_769_860_800_500_000),
        ("1769860800123", 1_769_860_800_123_000),
        ("1769860800123456", 1_769_860_800_123_456),
    ],
)
def test_a_time_is_read(text: str, micros: int) -> None:
    assert parse_time(text, now=NOW) == micros


@pytest.mark.parametrize("text", ["", "yesterday", "10", "10x ago", "2026-13-01", "-5m", "１０m x", "9" * 40, "\0"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(BadTime, match="expected a time like"):
        parse_time(text, now=NOW)


@given(st.integers(min_value=0, max_value=4_000_000_000_000_000))
def test_a_time_is_read_to_the_microsecond(micros: int) -> None:
    shown = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)).isoformat()
    assert parse_time(shown, now=NOW) == micros


WEB = f"component/{service_id_of('default', 'shop', 'web')}"


@pytest.mark.parametrize(
    ("text", "stream"),
    [
        (WEB, WEB),
        ("shop/web", WEB),
        ("default/shop/web", WEB),
        ("other/shop/web", f"component/{service_id_of('other', 'shop', 'web')}"),
        ("team/default", "team/default"),
        ("app/default.shop", "app/default.shop"),
        ("app/web", f"component/{service_id_of('default', 'app', 'web')}"),
        ("node/n.example.com", "node/n.example.com"),
        ("pool/builder", "pool/builder"),
        (f"parked/{WEB}", f"parked/{WEB}"),
        ("parked/route/shop.example.com/api", "parked/route/shop.example.com/api"),
        ("parked/web", f"component/{service_id_of('default', 'parked', 'web')}"),
        ("route/shop.example.com/api", "route/shop.example.com/api"),
        ("build/0123456789abcdef-op1", "build/0123456789abcdef-op1"),
    ],
)
def test_a_stream_is_named_by_its_id_or_by_names(text: str, stream: str) -> None:
    assert resolve_stream(text) == stream


@pytest.mark.parametrize("text", ["", "shop", "a/b/c/d", "Shop/web", "../web", "shop/\0", "x" * 10_000, "shop/"])
def test_what_names_no_stream_is_refused(text: str) -> None:
    with pytest.raises(NoSuchStream, match="expected app/component"):
        resolve_stream(text)
