"""Thrift's binary protocol as M3DB's nodes speak it: bare structs, no envelope (docs/m3/m3db_wire.md, thrift).

``schema``   what a table of a struct is made of: ``Struct``, ``Field``, ``Kind``, ``ListOf``, ``MapOf``; open this first
``plain``    ``marshal`` and ``unmarshal``: the authority
``kernels``  compiled steps through the bytes of a struct, for readers of large answers
``structs``  the structs of the calls that are made here
``methods``  the calls: name, arguments, result or error
"""

from m3db.thrift.methods import METHODS, Method
from m3db.thrift.plain import marshal, unmarshal
from m3db.thrift.schema import Field, Kind, ListOf, MapOf, Struct, StructValue, Type

__all__ = [
    "METHODS",
    "Field",
    "Kind",
    "ListOf",
    "MapOf",
    "Method",
    "Struct",
    "StructValue",
    "Type",
    "marshal",
    "unmarshal",
]
