"""The polars side of `palmette bench prepare`: read a Criteo log, encode it, write columns.

Same protocol as engine.py. `open` names the log and the encoder: `modulo` reads hexadecimal values
as integers; `dictionary` ranks the values of each column by falling count, then by text, with the
missing value among them. Every variant ends with uncompressed columns on disk.
"""

from pipe import serve  # before any library

import pathlib
import time

import numpy
import polars as pl

DENSE = [f"I{i}" for i in range(1, 14)]
CATEGORICAL = [f"C{i}" for i in range(1, 27)]
SCHEMA = {"label": pl.UInt8, **{n: pl.Float32 for n in DENSE}, **{n: pl.String for n in CATEGORICAL}}
READ = {"separator": "\t", "has_header": False, "schema": SCHEMA, "quote_char": None}


def integers():
    return [pl.col(n).str.to_integer(base=16, dtype=pl.Int64).fill_null(-1) for n in CATEGORICAL]


def modulo_eager(log, out):
    pl.read_csv(log, **READ).with_columns(integers()).write_ipc(out, compression="uncompressed")


def modulo_streaming(log, out):
    pl.scan_csv(log, **READ).with_columns(integers()).sink_ipc(
        out, compression="uncompressed", engine="streaming"
    )


def vocabularies(table):
    """Values of every column by falling count, then by text; the missing value is empty text."""
    counts = table.lazy().select(
        pl.col(n).fill_null("").value_counts(name="count").implode() for n in CATEGORICAL
    )
    counts = counts.collect()
    found = {}
    for n in CATEGORICAL:
        column = counts[n].explode().struct.unnest()
        found[n] = column.sort(["count", n], descending=[True, False])[n]
    return found


def dictionary_enum(log, out):
    table = pl.read_csv(log, **READ)
    orders = vocabularies(table)
    codes = [
        pl.col(n).fill_null("").cast(pl.Enum(orders[n])).to_physical().cast(pl.Int64)
        for n in CATEGORICAL
    ]
    table.with_columns(codes).write_ipc(out, compression="uncompressed")


def dictionary_join(log, out):
    table = pl.read_csv(log, **READ).with_columns(pl.col(CATEGORICAL).fill_null(""))
    orders = vocabularies(table)
    lazy = table.lazy()
    for n in CATEGORICAL:
        codes = pl.LazyFrame({n: orders[n], f"{n}_code": numpy.arange(len(orders[n]))})
        lazy = lazy.join(codes, on=n, how="left", maintain_order="left")
        lazy = lazy.drop(n).rename({f"{n}_code": n})
    lazy.collect().write_ipc(out, compression="uncompressed")


VARIANTS = {
    "modulo": {"eager": modulo_eager, "streaming": modulo_streaming},
    "dictionary": {"enum": dictionary_enum, "join": dictionary_join},
}


def sums(out):
    """One number a column: sum over rows of value x row number, wrapping."""
    table = pl.read_ipc(out)
    rows = numpy.arange(1, table.height + 1, dtype=numpy.uint64)
    with numpy.errstate(over="ignore"):
        return [
            int((table[n].to_numpy().astype(numpy.int64).astype(numpy.uint64) * rows).sum())
            for n in ["label"] + CATEGORICAL
        ]


class Server:
    def answer(self, request):
        if "open" in request:
            self.folder, self.log = pathlib.Path(request["open"]), request["log"]
            self.variants = VARIANTS[request["encoder"]]
            return {"version": f"polars {pl.__version__}", "variants": list(self.variants)}
        out = self.folder / "peer.arrow"
        if "check" in request:
            self.variants[request["check"]](self.log, out)
            return {"sums": sums(out)}
        if "time" in request:
            out.unlink(missing_ok=True)
            start = time.perf_counter()
            self.variants[request["time"]](self.log, out)
            return {"seconds": time.perf_counter() - start}
        raise ValueError(f"no such request: {request}")


if __name__ == "__main__":
    serve(Server())
