"""What every peer's script does: answer requests, one JSON object a line, over its pipes.

Import this before any library: whatever a library prints then goes to standard error, and the
answers own standard output.
"""

import json
import os
import sys
import traceback

ANSWERS = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)


def serve(server):
    """Answers until the other side closes the pipe; what fails is told and the work goes on."""
    for line in sys.stdin:
        try:
            answer = server.answer(json.loads(line))
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        print(json.dumps(answer), file=ANSWERS, flush=True)
