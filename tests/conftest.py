"""Settings for every test: no network, and one torch thread in each of several workers.

Set before torch or transformers are imported, since both read their environment once. And Ctrl-C
works, also where a background job of a shell has it ignored: some tests send it to a process.
"""

import os
import signal

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = ("toy_program",)
"""Its fixtures are for every test of the run tower and of what it stands on."""
