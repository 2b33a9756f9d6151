#!/usr/bin/env python3
"""Turns raw rows into the inputs of a Palmette model, without any dependency.

    from palmette_encode import Encoders

    encoders = Encoders.load("encoders.json")
    dense, categorical = encoders.encode([{"price": "12.5", "site": "a.example"}])

`dense` holds numbers before any transform, not-a-number where missing; `categorical` holds values
before any embedding table, -1 where missing or unknown. Both go into `model.onnx` as they are, as
f32 `[rows, dense fields]` and i64 `[rows, categorical fields]`; `Encoders.numpy` makes these arrays.
`Encoders.encode_lists` gives the values of lists (histories, tags), as many a row as there are; in
arrays each list is an input `list.NAME`, i64 `[rows, longest]`, filled up with -2.

On the command line, `palmette_encode.py ENCODERS.json FILE.csv` prints a JSON object a row.
"""

import csv
import json
import math
import re
import struct
import sys

FORMAT = "palmette-encoders"
VERSION = 1

_DECIMAL = re.compile(r"[0-9]+")
_HEX = re.compile(r"[0-9a-fA-F]+")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_DECIMAL_OR_HEX_MODULUS = 2147483647


class EncodeError(ValueError):
    """A value that the model's encoders cannot take; names the row and the field."""


class Encoders:
    """The fitted encoders of a model."""

    def __init__(self, document):
        if document.get("format") != FORMAT or document.get("version") != VERSION:
            raise EncodeError(f"not a {FORMAT} file of version {VERSION}")
        self._missing = {"", *document["missing"]}
        self.dense = document["dense"]
        self.categorical = document["categorical"]
        self._encode = [self._encoder(field) for field in self.categorical]
        self.lists = document.get("lists", [])
        own = {field["name"]: encode for field, encode in zip(self.categorical, self._encode)}
        self._encode_list = [self._list_encoder(field, own) for field in self.lists]

    @classmethod
    def load(cls, path):
        """Reads `encoders.json`."""
        with open(path, encoding="utf-8") as file:
            return cls(json.load(file))

    def encode(self, rows):
        """Encodes rows, each a mapping of field names to text (or numbers, or None)."""
        dense, categorical = [], []
        for number, row in enumerate(rows):
            try:
                dense.append([self._dense(field, row) for field in self.dense])
                pairs = zip(self.categorical, self._encode)
                categorical.append([self._categorical(f, encode, row) for f, encode in pairs])
            except EncodeError as error:
                raise EncodeError(f"row {number}: {error}") from None
        return dense, categorical

    def encode_lists(self, rows):
        """The values of each list, row by row: text with separators, or a sequence of texts."""
        encoded = [[] for _ in self.lists]
        for number, row in enumerate(rows):
            for field, encode, out in zip(self.lists, self._encode_list, encoded):
                try:
                    out.append(self._list(field, encode, row))
                except EncodeError as error:
                    raise EncodeError(f"row {number}: {error}") from None
        return encoded

    def numpy(self, rows, names=None):
        """The same as arrays, under the names of the model's inputs.

        A model without dense fields has no input `dense`, and one that reads no lists has none for
        them: `names`, what `session.get_inputs()` names, leaves out the others.
        """
        import numpy

        rows = list(rows)
        dense, categorical = self.encode(rows)
        shapes = [(len(dense), len(self.dense)), (len(dense), len(self.categorical))]
        arrays = {}
        if self.dense:
            arrays["dense"] = numpy.array(dense, dtype=numpy.float32).reshape(shapes[0])
        if self.categorical:
            arrays["categorical"] = numpy.array(categorical, dtype=numpy.int64).reshape(shapes[1])
        for field, values in zip(self.lists, self.encode_lists(rows)):
            longest = max((len(row) for row in values), default=0)
            padded = numpy.full((len(values), max(longest, 1)), -2, dtype=numpy.int64)
            for row, found in enumerate(values):
                padded[row, : len(found)] = found
            arrays[f"list.{field['name']}"] = padded
        return {name: array for name, array in arrays.items() if names is None or name in names}

    def _text(self, field, row):
        """The trimmed text of a field, None where missing."""
        name = field["name"]
        if name not in row:
            raise EncodeError(f"the field `{name}` is missing from the row; None means no value")
        return self._trimmed(name, row[name])

    def _trimmed(self, name, value):
        if value is None:
            return None
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str):
            raise EncodeError(f"the field `{name}` is {value!r}; text is needed")
        if value[:1] in (" ", "\t") or value[-1:] in (" ", "\t"):
            value = value.strip(" \t\n\x0c\r")
        return None if value in self._missing else value

    def _dense(self, field, row):
        constant = field.get("constant")
        if constant is not None:
            return constant
        value = row.get(field["name"])
        if isinstance(value, float):
            if math.isinf(value):
                raise EncodeError(f"the field `{field['name']}` is infinite")
            return value
        text = self._text(field, row)
        if text is None:
            return math.nan
        if not _NUMBER.fullmatch(text):
            raise EncodeError(f"the field `{field['name']}` is {text!r}; a number is needed")
        try:
            # Through f32, as in training.
            return struct.unpack("<f", struct.pack("<f", float(text)))[0]
        except OverflowError:
            raise EncodeError(f"the field `{field['name']}` is {text}, too large for f32") from None

    def _categorical(self, field, encode, row):
        text = self._text(field, row)
        try:
            return encode(text)
        except EncodeError as error:
            raise EncodeError(f"the field `{field['name']}` is {text!r}; {error}") from None

    def _list(self, field, encode, row):
        name, value = field["name"], row.get(field["name"])
        if isinstance(value, (list, tuple)):
            texts = value
        else:
            text = self._text(field, row)
            texts = [] if text is None else text.split(field["separator"])
        present = [(i, self._trimmed(name, text)) for i, text in enumerate(texts, 1)]
        present = [(i, text) for i, text in present if text is not None]
        kept, length = present, field["max_length"]
        if len(present) > length:
            kept = present[-length:] if field["keep"] == "last" else present[:length]
        values = []
        for position, text in kept:
            try:
                values.append(encode(text))
            except EncodeError as error:
                where = f"value {position} of the list `{name}` is {text!r}"
                raise EncodeError(f"{where}; {error}") from None
        return values

    def _list_encoder(self, field, own):
        shared = field.get("shares")
        if shared is None:
            return self._encoder({"name": field["name"], **field["encoder"]})
        if shared not in own:
            raise EncodeError(f"the list `{field['name']}` shares the unknown field `{shared}`")
        return own[shared]

    @staticmethod
    def _encoder(field):
        kind = field["kind"]
        if kind == "dictionary":
            # Null stands for the missing value where that was frequent enough to be learnt.
            ranks = {text: rank for rank, text in enumerate(field["values"])}
            return lambda text: ranks.get(text, -1)
        if kind == "hash":
            return lambda text: -1 if text is None else xxh3_64(text.encode()) & 0xFFFFFFFF
        if kind == "modulo":
            parse = {
                "decimal": _decimal,
                "hex": _hexadecimal,
                "decimal-or-hex": _decimal_or_hex,
            }[field["base"]]
            return lambda text: -1 if text is None else parse(text)
        raise EncodeError(f"the field `{field['name']}` has the unknown encoder `{kind}`")


def _decimal(text):
    # "-5" and "4294967296" were refused in training too.
    if not _DECIMAL.fullmatch(text) or len(text) > 15 or int(text) > 0xFFFFFFFF:
        raise EncodeError("a decimal integer in 0..=4294967295 is needed")
    return int(text)


def _hexadecimal(text):
    if not _HEX.fullmatch(text) or len(text) > 8:
        raise EncodeError("a hexadecimal integer of at most eight digits is needed")
    return int(text, 16)


def _decimal_or_hex(text):
    sign, digits = (text[0], text[1:]) if text[0] in "+-" else ("+", text)
    if not _HEX.fullmatch(digits):
        raise EncodeError("a decimal or hexadecimal integer is needed")
    value = int(digits, 10 if _DECIMAL.fullmatch(digits) else 16)
    return (-value if sign == "-" else value) % _DECIMAL_OR_HEX_MODULUS


# XXH3, 64 bits, seed 0 (Yann Collet; https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md).

_MASK = 0xFFFFFFFFFFFFFFFF
_P32_1, _P32_2, _P32_3 = 0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D
_P64_1, _P64_2, _P64_3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
_P64_4, _P64_5 = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5
_MIX_1, _MIX_2 = 0x165667919E3779F9, 0x9FB21C651E98DF25
_SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671f"
    "cb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c"
    "3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364"
    "eac5ac8334d3ebc3c581a0fffa1363eb170ddd51b7f0da49d316552629d4689e"
    "2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e"
)


def _u32(data, at):
    return int.from_bytes(data[at : at + 4], "little")


def _u64(data, at):
    return int.from_bytes(data[at : at + 8], "little")


def _rotate(x, bits):
    return (x << bits | x >> (64 - bits)) & _MASK


def _fold(a, b):
    product = a * b
    return (product & _MASK) ^ (product >> 64)


def _avalanche(h):
    h = (h ^ h >> 37) * _MIX_1 & _MASK
    return h ^ h >> 32


def _avalanche_64(h):
    h = (h ^ h >> 33) * _P64_2 & _MASK
    h = (h ^ h >> 29) * _P64_3 & _MASK
    return h ^ h >> 32


def _mix(data, at, secret):
    return _fold(
        _u64(data, at) ^ _u64(_SECRET, secret), _u64(data, at + 8) ^ _u64(_SECRET, secret + 8)
    )


def xxh3_64(data):
    """XXH3-64 of bytes with seed 0."""
    length = len(data)
    if length > 240:
        return _xxh3_long(data)
    if length > 128:
        return _xxh3_240(data)
    if length > 16:
        return _xxh3_128(data)
    if length > 8:
        low = _u64(data, 0) ^ _u64(_SECRET, 24) ^ _u64(_SECRET, 32)
        high = _u64(data, length - 8) ^ _u64(_SECRET, 40) ^ _u64(_SECRET, 48)
        swapped = int.from_bytes(low.to_bytes(8, "little"), "big")
        return _avalanche((length + swapped + high + _fold(low, high)) & _MASK)
    if length >= 4:
        h = _u32(data, length - 4) + (_u32(data, 0) << 32)
        h ^= _u64(_SECRET, 8) ^ _u64(_SECRET, 16)
        h ^= _rotate(h, 49) ^ _rotate(h, 24)
        h = h * _MIX_2 & _MASK
        h = (h ^ (h >> 35) + length) * _MIX_2 & _MASK
        return h ^ h >> 28
    if length:
        first, middle, last = data[0], data[length >> 1], data[-1]
        combined = first << 16 | middle << 24 | last | length << 8
        return _avalanche_64(combined ^ _u32(_SECRET, 0) ^ _u32(_SECRET, 4))
    return _avalanche_64(_u64(_SECRET, 56) ^ _u64(_SECRET, 64))


def _xxh3_128(data):
    length = len(data)
    h = length * _P64_1
    for pair in range((length - 1) // 32 + 1):
        h += _mix(data, 16 * pair, 32 * pair)
        h += _mix(data, length - 16 * (pair + 1), 32 * pair + 16)
    return _avalanche(h & _MASK)


def _xxh3_240(data):
    length = len(data)
    h = length * _P64_1
    for i in range(8):
        h += _mix(data, 16 * i, 16 * i)
    h = _avalanche(h & _MASK)
    for i in range(8, length // 16):
        h += _mix(data, 16 * i, 16 * (i - 8) + 3)
    h += _mix(data, length - 16, 136 - 17)
    return _avalanche(h & _MASK)


def _xxh3_long(data):
    length = len(data)
    lanes = [_P32_3, _P64_1, _P64_2, _P64_3, _P64_4, _P32_2, _P64_5, _P32_1]

    def accumulate(at, secret):
        for i in range(8):
            value = _u64(data, at + 8 * i)
            key = value ^ _u64(_SECRET, secret + 8 * i)
            lanes[i ^ 1] = lanes[i ^ 1] + value & _MASK
            lanes[i] = lanes[i] + (key & 0xFFFFFFFF) * (key >> 32) & _MASK

    stripes = (length - 1) // 64
    for stripe in range(stripes):
        accumulate(64 * stripe, 8 * (stripe % 16))
        if stripe % 16 == 15:
            for i in range(8):
                mixed = lanes[i] ^ lanes[i] >> 47 ^ _u64(_SECRET, 128 + 8 * i)
                lanes[i] = mixed * _P32_1 & _MASK
    accumulate(length - 64, 192 - 64 - 7)
    h = length * _P64_1
    for i in range(4):
        low, high = _u64(_SECRET, 11 + 16 * i), _u64(_SECRET, 19 + 16 * i)
        h += _fold(lanes[2 * i] ^ low, lanes[2 * i + 1] ^ high)
    return _avalanche(h & _MASK)


def main(arguments):
    """Encodes a CSV file with a header."""
    if len(arguments) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        encoders = Encoders.load(arguments[0])
        with open(arguments[1], encoding="utf-8", newline="") as file:
            for number, row in enumerate(csv.DictReader(file), start=2):
                try:
                    dense, categorical = encoders.encode([row])
                    lists = [values[0] for values in encoders.encode_lists([row])]
                except EncodeError as error:
                    message = str(error).removeprefix("row 0: ")
                    raise EncodeError(f"{arguments[1]}, row {number}: {message}") from None
                numbers = [None if math.isnan(x) else x for x in dense[0]]
                encoded = {"dense": numbers, "categorical": categorical[0]}
                print(json.dumps({**encoded, "lists": lists} if lists else encoded))
    except (OSError, EncodeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
