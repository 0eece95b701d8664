import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3cluster.proto import Enum, Field, JSONError, Kind, Message, parse_json, render_json

COLOUR = Enum("t.Colour", {"RED": 0, "BLUE": 1})
VALUE = Message("types.UInt32Value", (Field(1, "value", Kind.UINT32),))
INNER = Message("t.Inner", (Field(1, "some_name", Kind.STRING),))
OUTER = Message(
    "t.Outer",
    (
        Field(1, "inner_message", Kind.MESSAGE, INNER),
        Field(2, "big", Kind.INT64),
        Field(3, "small", Kind.INT32),
        Field(4, "yes", Kind.BOOL),
        Field(5, "colour", Kind.ENUM, COLOUR),
        Field(6, "ratio", Kind.DOUBLE),
        Field(7, "wrapped", Kind.MESSAGE, VALUE, wrapper=True),
        Field(8, "by_name", Kind.MESSAGE, INNER, map_key=Kind.STRING),
        Field(9, "by_number", Kind.INT64, map_key=Kind.INT64),
        Field(10, "many", Kind.STRING, repeated=True),
    ),
)


def test_all_fields_are_written_in_order_of_declaration():
    assert render_json(OUTER, {}) == (
        '{"innerMessage":null,"big":"0","small":0,"yes":false,"colour":"RED","ratio":0,"wrapped":null,'
        '"byName":{},"byNumber":{},"many":[]}'
    )


def test_values_are_written_as_go_writes_them():
    value = {
        "inner_message": {"some_name": 'a<b>&"é'},
        "big": -(1 << 62),
        "colour": 7,
        "ratio": 0.5,
        "wrapped": {"value": 0},
        "by_name": {"b": {}, "a": {}},
        "by_number": {10: 1, 9: 2},
    }
    text = render_json(OUTER, value)
    assert '"someName":"a\\u003cb\\u003e\\u0026\\"é"' in text
    assert '"big":"-4611686018427387904"' in text
    assert '"colour":7,"ratio":0.5,"wrapped":0' in text
    assert '"byName":{"a":{"someName":""},"b":{"someName":""}}' in text
    assert '"byNumber":{"10":"1","9":"2"}' in text


def test_both_spellings_are_read_and_camel_case_wins():
    assert parse_json(INNER, '{"some_name":"a"}')["some_name"] == "a"
    assert parse_json(INNER, '{"someName":"b","some_name":"a"}')["some_name"] == "b"


def test_numbers_may_be_quoted_and_enums_may_be_numbers():
    message = parse_json(OUTER, '{"big":"5","small":"-6","colour":1,"ratio":"2.5","wrapped":"3","byNumber":{"-4":9}}')
    assert (message["big"], message["small"], message["colour"], message["ratio"]) == (5, -6, 1, 2.5)
    assert message["wrapped"] == {"value": 3}
    assert message["by_number"] == {-4: 9}


def test_null_is_absent_and_trailing_text_is_not_looked_at():
    assert parse_json(OUTER, "null") == OUTER.defaults()
    assert parse_json(OUTER, '{"big":null,"many":null}   and so on') == OUTER.defaults()


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "EOF"),
        ("  \n", "EOF"),
        ("{", "unexpected EOF"),
        ('{"big"', "unexpected EOF"),
        ('{"big":', "unexpected EOF"),
        ('{"big":"5', "unexpected EOF"),
        ("x", "invalid character 'x' looking for beginning of value"),
        ("{x", "invalid character 'x' looking for beginning of object key string"),
        ('{"big" 5}', "invalid character '5' after object key"),
        ('{"big":5 "a"}', "invalid character '\"' after object key:value pair"),
        ("[1 2]", "invalid character '2' after array element"),
        ("{'big':1}", "invalid character '\\'' looking for beginning of object key string"),
        ("NaN", "invalid character 'N' looking for beginning of value"),
        ("[]", "json: cannot unmarshal array into Go value of type map[string]json.RawMessage"),
        ('{"zzz":1,"bogus":1}', 'unknown field "bogus" in t.Outer'),
        ('{"innerMessage":{"x":1}}', 'unknown field "x" in t.Inner'),
        ('{"small":1.5}', "json: cannot unmarshal number 1.5 into Go value of type int32"),
        ('{"small":2147483648}', "json: cannot unmarshal number 2147483648 into Go value of type int32"),
        ('{"byNumber":{"\u00b2":1}}', "json: cannot unmarshal number \u00b2 into Go value of type int64"),
        ('{"byNumber":{"--5":1}}', "json: cannot unmarshal number --5 into Go value of type int64"),
        ('{"big":"1e3"}', "json: cannot unmarshal number 1e3 into Go value of type int64"),
        ('{"big":""}', "unexpected end of JSON input"),
        ('{"big":true}', "json: cannot unmarshal bool into Go value of type int64"),
        ('{"yes":"true"}', "json: cannot unmarshal string into Go value of type bool"),
        ('{"colour":"GREEN"}', 'unknown value "GREEN" for enum t.Colour'),
        ('{"many":{}}', "json: cannot unmarshal object into Go value of type []json.RawMessage"),
        ('{"byName":[]}', "json: cannot unmarshal array into Go value of type map[string]json.RawMessage"),
        ('{"inner_message":{"some_name":5}}', "json: cannot unmarshal number into Go value of type string"),
    ],
)
def test_errors_are_gos(text, error):
    with pytest.raises(JSONError) as raised:
        parse_json(OUTER, text)
    assert str(raised.value) == error


def test_a_number_of_a_million_digits_is_refused_quickly():
    with pytest.raises(JSONError):
        parse_json(OUTER, '{"big":' + "9" * 1_000_000 + "}")


def test_a_million_brackets_are_refused():
    with pytest.raises(JSONError, match="depth"):
        parse_json(OUTER, "[" * 1_000_000)


def test_bytes_that_are_not_utf8_and_half_surrogates_become_the_replacement_character():
    assert parse_json(INNER, b'{"someName":"\xff"}')["some_name"] == "\ufffd"
    name = parse_json(INNER, '{"someName":"a\\ud800"}')["some_name"]
    assert name.encode().startswith(b"a")


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(), lambda c: st.lists(c) | st.dictionaries(st.text(), c)
    )
)
def test_any_json_is_a_message_or_a_json_error(value):
    try:
        parse_json(OUTER, json.dumps(value))
    except JSONError as error:
        assert str(error)


@given(st.text())
def test_any_text_is_a_message_or_a_json_error(text):
    try:
        parse_json(OUTER, text)
    except JSONError as error:
        assert str(error)


@given(
    st.fixed_dictionaries(
        {
            "inner_message": st.none() | st.fixed_dictionaries({"some_name": st.text()}),
            "big": st.integers(-(1 << 63), (1 << 63) - 1),
            "small": st.integers(-(1 << 31), (1 << 31) - 1),
            "yes": st.booleans(),
            "colour": st.sampled_from([0, 1]),
            "ratio": st.floats(allow_nan=False, allow_infinity=False),
            "wrapped": st.none() | st.fixed_dictionaries({"value": st.integers(0, (1 << 32) - 1)}),
            "by_name": st.dictionaries(st.text(), st.fixed_dictionaries({"some_name": st.text()}), max_size=2),
            "by_number": st.dictionaries(st.integers(-99, 99), st.integers(-99, 99), max_size=3),
            "many": st.lists(st.text(), max_size=3),
        }
    )
)
def test_what_is_written_is_read_back(value):
    assert parse_json(OUTER, render_json(OUTER, value)) == value
