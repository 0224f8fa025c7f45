"""The `format`s of JSON schemas (draft 2020-12, section 7.3) as regular expressions.

Only those are here that `llguidance` lacks, or takes too loosely (30 February of some years, leap
seconds at any time, any `xn--` in a host name). All are of RFC 1123, 3339, 3986, 3987, 6570 and
6901; leap seconds and labels of host names that begin like `xn--` are left out.
"""

_DAYS = (
    r"(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
    r"|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))"
)
_LEAP_YEAR = r"(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)"
_DATE = rf"(?:[0-9]{{4}}-{_DAYS}|{_LEAP_YEAR}-02-29)"
_HOUR = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]"
_TIME = rf"{_HOUR}:[0-5][0-9](?:\.[0-9]+)?(?:[Zz]|[+-]{_HOUR})"
_POINTER = r"(?:/(?:[^~/]|~[01])*)*"


def _reference(more: str) -> tuple[str, str]:
    """A URI and a relative reference with these characters beside those of a URI."""
    escaped = "%[0-9A-Fa-f]{2}"
    char = rf"(?:[A-Za-z0-9._~!$&'()*+,;=:@{more}-]|{escaped})"
    plain = rf"(?:[A-Za-z0-9._~!$&'()*+,;=@{more}-]|{escaped})"
    host = rf"(?:[A-Za-z0-9._~!$&'()*+,;={more}-]|{escaped})*"
    user = rf"(?:(?:[A-Za-z0-9._~!$&'()*+,;=:{more}-]|{escaped})*@)?"
    rooted = rf"//{user}{host}(?::[0-9]*)?(?:/{char}*)*|/(?:{char}+(?:/{char}*)*)?"
    rest = rf"(?:\?(?:{char}|[/?])*)?(?:#(?:{char}|[/?])*)?"
    absolute = rf"[A-Za-z][A-Za-z0-9+.-]*:(?:{rooted}|{char}+(?:/{char}*)*)?{rest}"
    return absolute, rf"(?:{rooted}|{plain}+(?:/{char}*)*)?{rest}"


_BEYOND = r"\u{a0}-\u{d7ff}\u{f900}-\u{fdcf}\u{fdf0}-\u{ffef}\u{10000}-\u{1fffd}"
_URI, _RELATIVE = _reference("")
_IRI, _RELATIVE_IRI = _reference(_BEYOND)
_VARIABLE = r"(?:[A-Za-z0-9_]|%[0-9A-Fa-f]{2})+(?:\.(?:[A-Za-z0-9_]|%[0-9A-Fa-f]{2})+)*"
_SPEC = rf"{_VARIABLE}(?::[1-9][0-9]{{0,3}}|\*)?"
_TEMPLATE = (
    r"(?:[!#$&()*+,./0-9:;=?@A-Z\[\]_a-z~\u{a0}-\u{d7ff}\u{10000}-\u{1fffd}'-]|%[0-9A-Fa-f]{2}"
    rf"|\{{[+#./;?&]?{_SPEC}(?:,{_SPEC})*\}})*"
)

_END, _INNER = "[A-Za-z0-9]", "[A-Za-z0-9-]"
_SHORT = f"{_INNER}{{0,2}}{_END}"
_LONG = f"{_INNER}(?:{_END}{_INNER}|-{_END}){_INNER}{{0,58}}{_END}"
_LABEL = f"{_END}(?:{_SHORT}|{_LONG})?"

PATTERNS = {
    name: f"^(?:{pattern})$"
    for name, pattern in {
        "date": _DATE,
        "time": _TIME,
        "date-time": rf"{_DATE}[Tt]{_TIME}",
        "uuid": "[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}",
        "hostname": rf"{_LABEL}(?:\.{_LABEL})*",
        "json-pointer": _POINTER,
        "relative-json-pointer": rf"(?:0|[1-9][0-9]*)(?:#|{_POINTER})",
        "uri-reference": rf"(?:{_URI}|{_RELATIVE})",
        "iri": _IRI,
        "iri-reference": rf"(?:{_IRI}|{_RELATIVE_IRI})",
        "uri-template": _TEMPLATE,
    }.items()
}
"""By name, the texts of a format."""
LENGTHS = {"hostname": 253}
"""Most characters of such a text."""
LIBRARYS = frozenset(("duration", "email", "ipv4", "ipv6", "uri"))
"""What `llguidance` itself knows."""
IMPOSSIBLE = frozenset(("idn-email", "idn-hostname", "regex"))
"""What the draft defines and no regular expression is."""
