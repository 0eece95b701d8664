"""The first frames of a connection."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.m3db.node import PARAMETERS, error_bytes

from m3db.errors import ProtocolError
from m3db.tchannel import Frame, FrameReader, FrameType
from m3db.tchannel.frames import read_error
from m3db.tchannel.handshake import Init, check_answer, init_request, read_init, write_init


@given(st.integers(0, 0xFFFF), st.dictionaries(st.binary(max_size=20), st.binary(max_size=20), max_size=5), st.data())
def test_there_and_back(version: int, parameters: dict[bytes, bytes], data: st.DataObject) -> None:
    payload = write_init(Init(version, parameters))
    assert read_init(payload) == Init(version, parameters)
    cut = data.draw(st.integers(0, len(payload) - 1))
    with pytest.raises(ProtocolError, match="cut short"):
        read_init(payload[:cut])


def test_a_client_says_what_nodes_ask_for() -> None:
    frame = init_request("prog[1]")
    init = read_init(frame.payload)
    assert (frame.type, frame.id, init.version) == (FrameType.INIT_REQ, 1, 2)
    assert init.parameters[b"host_port"] == b"0.0.0.0:0"
    assert init.parameters[b"process_name"] == b"prog[1]"


def test_an_answer_is_checked() -> None:
    good = write_init(Init(parameters=PARAMETERS))
    assert check_answer(Frame(FrameType.INIT_RES, 1, good)).parameters == PARAMETERS
    (refusal,) = FrameReader().feed(error_bytes(1, 0xFF, "unsupported protocol version"))
    for frame, text in [
        (Frame(FrameType.INIT_RES, 2, good), "type 0x4 with id|type 0x02 with id 2"),
        (Frame(FrameType.CALL_RES, 1, good), "type 0x04"),
        (Frame(FrameType.INIT_RES, 1, write_init(Init(3, PARAMETERS))), "version 3"),
        (Frame(FrameType.INIT_RES, 1, write_init(Init())), "without host_port"),
        (refusal, "0xff: unsupported protocol version"),
    ]:
        with pytest.raises(ProtocolError, match=text):
            check_answer(frame)


def test_error_frames_that_are_cut_short() -> None:
    (frame,) = FrameReader().feed(error_bytes(1, 5, "text"))
    assert read_error(frame.payload) == (5, "text")
    for end in range(len(frame.payload)):
        with pytest.raises(ProtocolError):
            read_error(frame.payload[:end])
