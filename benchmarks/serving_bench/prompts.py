"""Prompts of a wanted length: random token ids, or random words that are about a token each.

No two prompts share a beginning unless they are made from one, so that no cached prefix is timed
by accident.
"""

from __future__ import annotations

import random

FIRST_ID, LAST_ID = 100, 40000
"""Ordinary tokens of the models measured here: no special ones."""

_TEXT = (
    "time year people way day man thing woman life child world school state family student group "
    "country problem hand part place case week company system program question work government "
    "number night point home water room mother area money story fact month lot right study book "
    "eye job word business issue side kind head house service friend father power hour game line "
    "end member law car city community name president team minute idea body information back "
    "parent face level office door health person art war history party result change morning "
    "reason research girl guy moment air teacher force education foot boy age policy music market"
)
_WORDS = _TEXT.split()


def ids(source: random.Random, count: int) -> list[int]:
    """So many random token ids."""
    return [source.randrange(FIRST_ID, LAST_ID) for _ in range(count)]


def words(source: random.Random, count: int) -> str:
    """So many random words."""
    return " ".join(source.choices(_WORDS, k=count))
