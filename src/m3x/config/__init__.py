"""YAML configuration files → typed structs, with every problem named by file, line and path.

Rules (docs/m3/aggregation.md, loading): several files are merged in order, mappings key by key, everything else replaced; then variables
are taken from the environment; an unknown key is an error, an empty one (null) is its default. Unlike M3 the reader does not stop at the
first problem, and names places in the files as they are written.

Open ``loading`` first. ``kinds`` has what a section is made of, ``document`` reads one file, ``scalars`` says what a plain text means in
it, ``merging`` and ``environment`` make one tree of several files, ``building`` makes sections of it, ``places`` has lines and problems.
``changes`` says what two configurations differ in.
Imports nothing of the project but ``m3x.golang``.
"""

from m3x.config.kinds import (
    Address,
    ConfigError,
    Duration,
    EmptyIsDefault,
    Float32,
    Int32,
    Meaningless,
    Natural,
    Nonzero,
    Rate,
    Section,
    Text,
    Time,
    Unsigned,
    Unsigned8,
    Unsigned16,
    Unsigned32,
    check_listeners,
    parse_address,
)
from m3x.config.loading import Loaded, load, read
from m3x.config.places import Places

__all__ = [
    "Address",
    "ConfigError",
    "Duration",
    "EmptyIsDefault",
    "Float32",
    "Int32",
    "Loaded",
    "Meaningless",
    "Natural",
    "Nonzero",
    "Places",
    "Rate",
    "Section",
    "Text",
    "Time",
    "Unsigned",
    "Unsigned8",
    "Unsigned16",
    "Unsigned32",
    "check_listeners",
    "load",
    "parse_address",
    "read",
]
