"""Before anything imports torch: one thread of arithmetic a worker, since the suite runs one worker a core."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
