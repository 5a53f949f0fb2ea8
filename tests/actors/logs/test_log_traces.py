"""Stack traces of Python, Java and Go are one line each, among lines that stay lines."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.logs import shimlog
from actors.logs.line import Origin
from actors.logs.traces import has_sign, join, unfinished

ORIGIN = Origin(source="app", instance="i-1", release=1)
PYTHON = """Traceback (most recent call last):
  File "app.py", line 3, in <module>
    main()
KeyError: 'x'

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "app.py", line 9, in <module>
    raise ValueError("no x")
ValueError: no x"""
JAVA = """java.lang.IllegalStateException: no order
\tat com.example.Orders.find(Orders.java:31)
\tat com.example.Main.main(Main.java:7)
Caused by: java.io.IOException: closed
\tat com.example.Db.read(Db.java:90)
\t... 2 more"""
GO = """panic: runtime error: index out of range [5] with length 3

goroutine 1 [running]:
main.find(...)
\t/app/main.go:9
main.main()
\t/app/main.go:14 +0x1d
exit status 2"""


def records(text: str, tag: str = "e") -> bytes:
    return b"".join(f"{n} {tag} F {line}\n".encode() for n, line in enumerate(text.split("\n"), 1))


def lines(data: bytes) -> list[str]:
    return [line.text for line in shimlog.decode(ORIGIN, data)]


@pytest.mark.parametrize("trace", [PYTHON, JAVA, GO], ids=["python", "java", "go"])
def test_a_trace_is_one_line(trace: str) -> None:
    data = records(f"before\n{trace}\nafter it\nand more")
    assert lines(join(data)) == ["before", trace, "after it", "and more"]
    assert len(join(data)) == len(data)


def test_traces_of_another_stream_in_between_are_not_mixed() -> None:
    data = records(JAVA.split("\n")[0]) + records("printed", "o") + records("\n".join(JAVA.split("\n")[1:3]))
    joined = lines(join(data))
    assert joined[:2] == [JAVA.split("\n")[0], "printed"] and len(joined) == 3


def test_two_traces_are_two_lines() -> None:
    one = PYTHON.split("\n\n", maxsplit=1)[0]
    assert lines(join(records(f"{one}\n{one}"))) == [one, one]


def test_indented_output_that_is_no_trace_stays_as_it_is() -> None:
    data = records("{\n  one\n  two\n}\n\tthree")
    assert not has_sign(data) and join(data) == data and unfinished(data) == 0


def test_what_a_trace_may_go_on_after_is_told() -> None:
    cut = records("before") + records("\n".join(PYTHON.split("\n")[:2]))
    assert unfinished(cut) == len(records("\n".join(PYTHON.split("\n")[:2])))
    assert unfinished(records("before\nafter")) == 0


@given(st.lists(st.sampled_from([*PYTHON.split("\n"), *JAVA.split("\n"), *GO.split("\n"), "x", "  y", ""]), min_size=1))
def test_no_byte_of_a_text_is_changed(texts: list[str]) -> None:
    data = records("\n".join(texts))
    assert "\n".join(lines(join(data))) == "\n".join(texts)
    assert 0 <= unfinished(data) <= len(data)
