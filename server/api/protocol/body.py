"""What every body is, and the numbers in it.

Fields that a schema names are checked strictly. Others of a whole body are kept for
`other_fields.py`, which refuses those that would change the answer; within a body they are ignored.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Int = Annotated[int, Field(ge=0, le=2**31 - 1)]
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]


class Body(BaseModel):
    """The body of a request."""

    model_config = ConfigDict(extra="ignore", strict=True)


class WholeBody(Body):
    """The body itself, in which any client may have put any field."""

    model_config = ConfigDict(extra="allow")
