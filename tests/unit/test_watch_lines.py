"""The lines of a watch: each event arrives whole, of whatever length, and however the network cuts the stream."""

from collections.abc import AsyncIterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyturn_receiver.cluster.api import lines

pytestmark = pytest.mark.anyio


async def stream(content: bytes, cuts: list[int]) -> AsyncIterator[bytes]:
    positions = sorted({0, len(content), *(cut % (len(content) + 1) for cut in cuts)})
    for begin, end in pairwise(positions):
        yield content[begin:end]


@given(
    st.lists(st.binary(max_size=40).map(lambda each: each.replace(b"\n", b"")), max_size=6),
    st.binary(max_size=10).map(lambda each: each.replace(b"\n", b"")),
    st.lists(st.integers(0, 300), max_size=8),
)
async def test_complete_lines_arrive_whole_and_half_a_line_at_the_end_is_dropped(
    complete: list[bytes], half: bytes, cuts: list[int]
) -> None:
    content = b"".join(each + b"\n" for each in complete) + half
    assert [line async for line in lines(stream(content, cuts))] == complete


async def test_line_of_nine_megabytes_arrives_whole() -> None:
    long = b"<" * 9_000_000
    cuts = list(range(0, len(long), 65_536))
    assert [line async for line in lines(stream(long + b"\nnext\n", cuts))] == [long, b"next"]
