"""Paged list. It reads objects in pages. If a page is too large for the memory, it asks for fewer objects at once."""

from collections.abc import AsyncGenerator, Mapping

from msgspec import Raw

from keyturn_receiver.cluster.api import Api, ReplyTooLarge
from keyturn_receiver.cluster.wanted_fields import PAGE

PAGE_SIZE = 50  # the number of objects in one page
MAX_PAGE = 4 * 1024 * 1024  # bytes; a parsed page takes several times as much memory as its text


async def list_in_pages(api: Api, path: str, query: Mapping[str, str]) -> AsyncGenerator[Raw, None]:
    """Yield the objects of a list as unparsed JSON. Raises the errors of the API client."""
    page_query, limit = dict(query), PAGE_SIZE
    while True:
        page_query["limit"] = str(limit)
        max_bytes = MAX_PAGE if limit > 1 else float("inf")
        try:
            page = await api.request("GET", path, page_query, max_bytes=max_bytes, decoder=PAGE)
        except ReplyTooLarge:  # the objects are large, so ask for fewer of them at once
            limit = max(1, limit // 4)
            continue
        for each in page.get("items") or []:
            yield each
        if not (next_page := page["metadata"].get("continue")):
            return
        page_query["continue"] = next_page
