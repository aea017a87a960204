import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pt.portmap.mapping import PortmapError
from pt.portmap.xmltree import MAX_BYTES, MAX_DEPTH, MAX_ELEMENTS, MAX_TEXT, escape, parse

BOMB = b"""<?xml version="1.0"?>
<!DOCTYPE lolz [<!ENTITY lol "lol"><!ENTITY lol2 "&lol;&lol;&lol;&lol;&lol;&lol;&lol;&lol;">]>
<lolz>&lol2;</lolz>"""


def test_names_lose_their_prefix_and_text_its_blanks():
    root = parse(b'<?xml version="1.0"?><a:b xmlns:a="x"><c> 1 </c><u:d>&lt;&#65;</u:d><e/></a:b>')
    assert root.name == "b"
    assert root.value("c") == "1"
    assert root.value("d") == "<A"
    assert root.value("e") == root.value("nowhere") == ""
    assert [each.name for each in root.all("c")] == ["c"]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (BOMB, "document type"),
        (b'<!DOCTYPE a SYSTEM "http://192.0.2.1/x"><a/>', "document type"),
        (b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>', "document type"),
        (b"<a>" * (MAX_DEPTH + 1), "deeper"),
        (b"<a>" + b"<b/>" * MAX_ELEMENTS + b"</a>", "elements"),
        (b"<a>" + b"x" * (MAX_TEXT + 1) + b"</a>", "characters"),
        (b"<a>" + b"x" * MAX_BYTES + b"</a>", "bytes"),
        (b"", "well-formed"),
        (b"<a>", "well-formed"),
        (b"<a>&nbsp;</a>", "well-formed"),
        (b'<?xml version="1.0" encoding="nonsense"?><a/>', "well-formed"),
        (b"not XML", "well-formed"),
    ],
)
def test_what_is_refused(data, why):
    with pytest.raises(PortmapError, match=why):
        parse(data)


def test_as_much_as_is_allowed():
    assert len(parse(b"<a>" + b"<b/>" * (MAX_ELEMENTS - 1) + b"</a>").children) == MAX_ELEMENTS - 1
    parse(b"<a>" * MAX_DEPTH + b"</a>" * MAX_DEPTH)


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data):
    with contextlib.suppress(PortmapError):
        parse(data)


@given(st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs"), max_codepoint=0xFFFD)))
def test_escaped_text_comes_back(text):
    assert parse(f"<a>{escape(text)}</a>".encode()).text == text
