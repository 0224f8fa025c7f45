"""What every body is, and the numbers in it.

Fields that nobody knows are ignored, as clients send ever new ones; known ones are checked
strictly, and values that this server can't honour are refused rather than ignored.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Int = Annotated[int, Field(ge=0, le=2**31 - 1)]
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]


class Body(BaseModel):
    """The body of a request."""

    model_config = ConfigDict(extra="ignore", strict=True)
