"""The onnxruntime side of `palmette bench engine inference`: same protocol as engine.py.

`open` reads `model.onnx` and the batches of `case.json` in a folder; variants are ways to run the
session. Probabilities of the first batch are compared as a whole.
"""

from pipe import serve  # before any library

import json
import pathlib
import time

import numpy
import onnxruntime

VARIANTS = {
    "f32 onnxruntime": {},
    "f32 onnxruntime, bound inputs and outputs": {"bound": True},
    "f32 onnxruntime, no spinning": {"bound": True, "spin": "0"},
    "f32 onnxruntime, one thread": {"bound": True, "threads": 1},
}


class Server:
    def __init__(self):
        self.sessions, self.batches = {}, []

    def open(self, folder, threads):
        self.folder, self.threads = pathlib.Path(folder), threads
        case = json.loads((self.folder / "case.json").read_text())
        data = numpy.memmap(self.folder / "arrays.bin", dtype=numpy.uint8, mode="r")
        rows = case["rows"]

        def array(place, kind):
            return numpy.array(data[place[0] : place[0] + 4 * place[1]].view(kind))

        self.batches = []
        for batch in case["batches"]:
            dense = array(batch["dense"], numpy.float32).reshape(rows, -1)
            ids = array(batch["ids"], numpy.int32).reshape(-1, rows).T.astype(numpy.int64)
            # row 0 of a table is the missing value, row n the value n - 1
            feed = {"dense": dense, "categorical": numpy.ascontiguousarray(ids - 1)}
            self.batches.append((feed, array(batch["labels"], numpy.float32)))
        return {"version": f"onnxruntime {onnxruntime.__version__}", "variants": list(VARIANTS)}

    def session(self, variant):
        if variant not in self.sessions:
            settings = VARIANTS[variant]
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = settings.get("threads", self.threads)
            options.inter_op_num_threads = 1
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
            if "spin" in settings:
                options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            path = str(self.folder / "model.onnx")
            session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
            self.sessions[variant] = (session, settings)
        return self.sessions[variant]

    def runs(self, variant):
        """One closure a batch, which leaves nothing to do but the run itself."""
        session, settings = self.session(variant)
        for feed, labels in self.batches:
            if settings.get("bound"):
                binding = session.io_binding()
                for name, value in feed.items():
                    binding.bind_cpu_input(name, value)
                binding.bind_output("probability")

                def run(binding=binding):
                    session.run_with_iobinding(binding)
                    return binding.copy_outputs_to_cpu()[0]

                yield run, labels
            else:
                yield (lambda feed=feed: session.run(["probability"], feed)[0]), labels

    def answer(self, request):
        if "open" in request:
            return self.open(request["open"], request["threads"])
        if "check" in request:
            runs = list(self.runs(request["check"]))
            p = runs[0][0]().astype(numpy.float64)
            (numpy.log(p) - numpy.log1p(-p)).astype(numpy.float32).tofile(request["results"])
            losses = []
            for step in range(request["steps"]):
                run, labels = runs[step % len(runs)]
                p = numpy.clip(run().astype(numpy.float64), 1e-12, 1 - 1e-12)
                losses.append(-float(numpy.mean(labels * numpy.log(p) + (1 - labels) * numpy.log1p(-p))))
            return {"losses": losses}
        if "time" in request:
            runs = [run for run, _ in self.runs(request["time"])]
            runs[0]()
            steps = request["steps"]
            start = time.perf_counter()
            for step in range(steps):
                runs[step % len(runs)]()
            return {"seconds": time.perf_counter() - start}
        if "drop" in request:
            self.sessions.pop(request["drop"], None)
            return {}
        raise ValueError(f"no such request: {request}")


if __name__ == "__main__":
    serve(Server())
