"""Names survive being written as text, whatever bytes they are of."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.sources.file_names import escaped, printable, unescaped


@given(st.binary(max_size=40))
def test_any_bytes_become_printable_text_and_come_back(name):
    text = escaped(os.fsdecode(name))
    assert text.isprintable()
    text.encode()
    assert os.fsencode(unescaped(text)) == name


@given(st.text(max_size=40))
def test_any_text_comes_back(name):
    assert unescaped(escaped(name)) == name


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Katze 'ä' 猫.png", "Katze 'ä' 猫.png"),
        ("a\nb\x1b[31m.png", r"a\x0ab\x1b[31m.png"),
        (os.fsdecode(b"\xff\xfe.png"), r"\xff\xfe.png"),
        ("a\\x0a.png", r"a\\x0a.png"),
        ("right\u202eto-left\U000e0001", r"right\u202eto-left\U000e0001"),
    ],
)
def test_only_what_cannot_be_printed_is_written_otherwise(name, shown):
    assert escaped(name) == shown


def test_a_message_keeps_its_backslashes():
    assert printable("C:\\x\n") == r"C:\x\x0a"
