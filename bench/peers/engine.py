"""The PyTorch side of `palmette bench engine`: a child process that answers over its pipes.

One JSON object a line. `{"open": FOLDER, "threads": 2}` answers with versions and the variants
that fit the case; `{"check": VARIANT, "steps": 5, "results": FILE}` runs from the start and
answers with the losses; `{"time": VARIANT, "steps": 20}` answers with seconds; `{"drop": VARIANT}`
frees its weights. Palmette starts it; imports and compilation happen before anything is timed.
"""

from pipe import serve  # before any library

import torch

from training import Case, Runner


def variants(case):
    """Settings worth trying for a case, by name."""
    fixed = len(case.programs) == 1
    kinds = {op["op"] for program in case.programs for op in program["ops"]}
    layouts = ["batch", "field"] if kinds & {"field_mix", "attention"} else ["batch"]
    attentions = ["softmax", "sdpa"] if "attention" in kinds else ["softmax"]
    train_tables = case.work["kind"] == "train" and bool(case.description["tables"])
    tables = ["torch", "index"] if train_tables and fixed else ["index"]
    compiles = [None, "default"] if fixed else [None]
    found = {}
    for bf16 in (False, True):
        for compiled in compiles:
            for layout in layouts:
                for attention in attentions:
                    for table in tables:
                        words = ["bf16" if bf16 else "f32", "compiled" if compiled else "eager"]
                        words += [f"{layout}-first"] if len(layouts) > 1 else []
                        words += [attention] if len(attentions) > 1 else []
                        words += [f"{table}-tables"] if len(tables) > 1 else []
                        found[" ".join(words)] = {
                            "bf16": bf16,
                            "compile": compiled,
                            "layout": layout,
                            "attention": attention,
                            "tables": table,
                        }
    return found


class Server:
    def __init__(self):
        self.case, self.variants, self.runners = None, {}, {}

    def runner(self, name):
        if name not in self.runners:
            self.runners[name] = Runner(self.case, self.variants[name])
        return self.runners[name]

    def answer(self, request):
        if "open" in request:
            torch.set_num_threads(request["threads"])
            torch.set_flush_denormal(True)
            self.case = Case(request["open"])
            self.variants = variants(self.case)
            return {"version": f"PyTorch {torch.__version__}", "variants": list(self.variants)}
        if "check" in request:
            runner = self.runner(request["check"])
            runner.write_first_results(request["results"])
            return {"losses": [runner.step() for _ in range(request["steps"])]}
        if "time" in request:
            seconds, loss = self.runner(request["time"]).timed(request["steps"])
            return {"seconds": seconds, "loss": loss}
        if "drop" in request:
            self.runners.pop(request["drop"], None)
            torch._dynamo.reset()
            return {}
        raise ValueError(f"no such request: {request}")


if __name__ == "__main__":
    serve(Server())
