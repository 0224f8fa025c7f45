"""Tool calls: read from what a model writes, in the format that its template teaches.

`registry` knows the formats and finds the one of a template; `calls` reads with it, streamed or at
once; `forced` gives the grammar of an answer that must be a call; `definitions` checks what tools a
request may offer; `fallback` describes them to models whose template knows no tools.
"""
