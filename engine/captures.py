"""The lock of all captures of CUDA graphs in this process.

While a graph is captured, no other thread may wait for the whole GPU, as the beginning of another capture and the
compiler do: CUDA would refuse it, and the capture would fail. Whoever does not get the lock goes on without a graph. A
thread that has it, as that of preparation.py, may capture.
"""

import threading

CAPTURES = threading.RLock()
