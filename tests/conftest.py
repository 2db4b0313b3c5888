"""Before anything imports torch: one thread of arithmetic a worker, since the suite runs one worker a core. And laws without a clock."""

import os

from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
settings.register_profile("sentinode", deadline=None)  # how long an example takes is the machine's matter, not a law
settings.load_profile("sentinode")
