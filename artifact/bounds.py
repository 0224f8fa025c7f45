"""Bounded numbers that the schemas of an artifact are made of."""

from typing import Annotated

from msgspec import Meta

Count = Annotated[int, Meta(ge=0, lt=2**53)]
Positive = Annotated[int, Meta(ge=1, lt=2**31)]
