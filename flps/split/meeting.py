"""How the parties come to agree: each follower offers what it brings, the leader hears all and tells its verdict.

Law: an offer of a party that was started again since does not count; it offers anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from flps.errors import ProtocolError
from flps.split.agreement import Fits, Offer, Verdict, decide, read_note, write_note
from flps.split.exchange import Item
from flps.split.links import Links

Note = TypeVar("Note", Offer, Verdict)
_SETTLE_S = 5.0  # a complaint is the last thing that the others hear; they may take this long to get it


def lead(links: Links, own: Offer, fits: Fits, timeout_s: float, about_to: Callable[[], None]) -> Verdict:
    """The leader's part. about_to: called when all have been heard and none has been answered. Raises as `meet`."""
    offers = {links.own: own}

    def look() -> Verdict | None:
        for link in links.named.values():
            if link.restarted is not None:  # what it offered before does not count
                link.restarted = None
                offers.pop(link.peer, None)
            item = None if link.peer in offers else link.take()
            if item is not None:
                offers[link.peer] = _expect(Offer, item, link.peer)
        if len(offers) <= len(links.named):
            return None
        about_to()
        verdict = decide({name: offers[name] for name in (links.own, *links.named)}, fits)
        for link in links.named.values():
            link.put((), note=write_note(verdict))
            link.agree()
        return verdict

    verdict = links.meet(look, lambda link: link.peer not in offers, "to agree on a step", timeout_s)
    if verdict.complaint:
        links.settle(_SETTLE_S)
    return verdict


def follow(links: Links, own: Offer, timeout_s: float, about_to: Callable[[], None]) -> Verdict:
    """A follower's part. about_to: called when the verdict is here and not yet known. Raises as `meet`."""
    (link,) = links.named.values()
    has_offered = False

    def look() -> Verdict | None:
        nonlocal has_offered
        if link.restarted is not None or not has_offered:
            link.restarted, has_offered = None, True
            link.put((), note=write_note(own))
        item = link.take()
        if item is None:
            return None
        about_to()
        link.agree()
        return _expect(Verdict, item, link.peer)

    return links.meet(look, lambda link: True, "to agree on a step", timeout_s)


def _expect(kind: type[Note], item: Item, peer: str) -> Note:
    """The note that a party must send now."""
    note = read_note(item.note, peer) if item.note else None
    if not isinstance(note, kind):
        raise ProtocolError(
            f"{peer} sent {'tensors' if note is None else 'another note'}, before the parties had agreed"
        )
    return note
