"""The rows of the error table that only a server needs; `error_table.py` joins them to its own."""

from .error_info import ErrorInfo

SERVING_ERRORS: dict[str, ErrorInfo] = {
    "LLMC-E0213": ErrorInfo(
        "the request isn't understood",
        "The body of an HTTP request isn't JSON, isn't a single JSON value with one meaning, or a "
        "field has a type or value that it can't have.",
        "correct the field that the message names",
    ),
    "LLMC-E0214": ErrorInfo(
        "no such model",
        "The request names a model that this server doesn't serve.",
        "use a name that /v1/models lists",
    ),
    "LLMC-E0215": ErrorInfo(
        "the server doesn't support this",
        "The request asks for something that OpenAI's interface has and llmc hasn't, such as "
        "images, or combines options that exclude one another. Ignoring it would give another "
        "answer than was asked for.",
        "leave out what the message names",
    ),
    "LLMC-E0216": ErrorInfo(
        "the request is too large",
        "The body has more bytes than the server accepts.",
        "send less, or have the server started with a larger --max-body",
    ),
    "LLMC-E0217": ErrorInfo(
        "no valid API key",
        "The server was started with API keys, and the request brought none of them.",
        "send the header `Authorization: Bearer KEY`",
    ),
    "LLMC-E0218": ErrorInfo(
        "the server is busy",
        "As many requests are running and waiting as the server takes on. The answer's Retry-After "
        "says when there is probably room.",
        "try again later",
    ),
    "LLMC-E0219": ErrorInfo(
        "the server's settings are wrong",
        "A setting in the file or on the command line is unknown, has a value that it can't have, "
        "or contradicts another one.",
        "see `llmc serve --help`",
    ),
    "LLMC-E0220": ErrorInfo(
        "the server is stopping",
        "The server was asked to stop. It finishes what is running for a while and takes nothing "
        "new.",
        "send the request to another server, or again later",
    ),
    "LLMC-E0221": ErrorInfo(
        "nothing at this path",
        "The server has no such path, or the path doesn't take this method.",
        "see /openapi.json for what there is",
    ),
    "LLMC-E0222": ErrorInfo(
        "the request came too slowly",
        "The body of the request was not complete within --body-timeout.",
        "send it again",
    ),
    "LLMC-E0223": ErrorInfo(
        "the request took too long",
        "The request was not complete within --request-timeout, or the timeout that it gave.",
        "ask for fewer tokens, or allow more time",
    ),
    "LLMC-E0224": ErrorInfo(
        "the body has the wrong type",
        "A body must be JSON, declared as application/json and not compressed.",
        "send the header `Content-Type: application/json`",
    ),
    "LLMC-E0708": ErrorInfo(
        "the server can't listen there",
        "The address, port or socket is in use, isn't this machine's, or needs rights that the "
        "process lacks.",
        "choose another --port or --host, or stop what listens there",
    ),
}
