"""docs/faults.md, written from the jobs that the matrix tests: `python -m tests.faults.page`."""

from pathlib import Path

from tests.faults.hooks import FUNCTIONS
from tests.faults.jobs import FAULTS, JOBS, Job

PAGE = Path(__file__).parents[2] / "docs" / "faults.md"
HEAD = """# Faults: what each job does when the machine fails it

Each cell is a test (`tests/faults`): the fault happens, and the job ends with the bytes of an undisturbed run, or with an error in three
parts and nothing lost. "Same" means the same bytes in every file the job leaves, and no file more. Processes are really killed; a
full disk and a failing one are errors raised where our code writes or reads (really full ones: `tests/test_run.py`,
`tests/fit/test_train_faults.py`); files are cut at 60 % of their length, or a bit there is flipped.
This page is written from the tests by `python -m tests.faults.page`.

"""
TAIL = """
## What else a run lives with

- **Too little memory** (of a GPU, or where an allocation fails on a CPU): half as many tiles go through the network at a time, down to
  one; then one line says what to do. Said once, kept in checkpoints, and in run.json as `plan.at_once`. The optimiser's batch,
  augmentation and dropout's masks stay, so a step is the same up to rounding (weights within 1e-6 after three steps in the tests). Batch
  norms that learn their statistics, as in simple-cnn, p4m-cnn and networks trained from scratch, see fewer tiles: their step is another
  one of the same kind, as with `--micro-batch`. Prediction and validation: the same logits up to rounding. Features: batches are full
  still, and a feature store keeps to the smaller batch from there on. Saliency and stress tests: as in prediction. The optimiser's
  moments are made before the first step, so that too little memory is met where it can be. Tiles that memory cannot hold are read
  from disk. In a container with a limit, whose kernel would kill without a word, all that a network computes on a CPU has allocations
  beyond the limit refused instead. A logistic head goes over all tiles at once: what does not fit is told, with --head linear and the
  --sample that would.
- **A loss or gradient that is not finite**: the step is not taken (weights, moments, batch statistics and the running mean stay), the
  learning rate goes on at half. After three in a row training ends with the best epoch so far, and `stopped_by` says so; a run that
  has none is an error. On a GPU nothing waits for it: the device skips the step, and the
  host reads every 16 steps what was sent to it 16 steps ago.
- **A store that is gone, cut or changed under a run**: its size, time and number are looked at before each batch that comes from disk,
  and tiles are compared with their digests as they are read. The run ends with a checkpoint of its last step and goes on when the
  store is back. Weights and checkpoints carry a digest of all they hold; a damaged checkpoint falls back to the one before it.

## What is not covered

- `predict` with more than 15 s of work chooses by measurement in which form the network computes: made again it may be
  another one, and the scores a little apart (their header says how far from fp32). With a named `--precision` they have the same bytes.
- In a container, work without a network (packing, judging, the comparisons of an audit) is not refused memory: the kernel may end it.
- A kill -9 of `predict` can leave a hidden temporary file (`.scores.csv.PID.tmp`) beside the table.
- A flipped bit in rows.parquet or in a table of scores is found only if the file cannot be read any more;
  `sentinode info s.store --verify` finds those in a store.
- A file that is cut while it is mapped, between the look and the reading, ends the process; `--resume` then goes on.
"""


def moment(at: str, nth: int) -> str:
    """Return when a fault strikes, in words."""
    what = at if at in FUNCTIONS else f"writing of {at}"
    return what if nth == 1 else f"{what} no. {nth}"


def cell(job: Job, kind: str) -> str:
    """Return how a cell ends."""
    again = {"--resume": "with --resume", "--overwrite": "when run again"}[job.again[0]]
    if kind in {"truncated file", "flipped bit"}:
        then = "after what it says" if job.remedy else "once it is back"
        return f"told; same {again} {then}" if job.told else "mended: same"
    if kind in {"full disk", "I/O error"}:
        return f"told; same {again}"
    return f"same {again}"


def row(cells: list[str]) -> str:
    """Return a line of a table."""
    return "| " + " | ".join(cells) + " |\n"


def page() -> str:
    """Return the text of the page."""
    text = HEAD + row(["job", *FAULTS]) + row(["---"] * (1 + len(FAULTS)))
    for name, job in JOBS.items():
        text += row([name, *(cell(job, kind) for kind in FAULTS)])
    text += "\nWhen it strikes, and which file is damaged:\n\n" + row(["job", *FAULTS[:4], "file"]) + row(["---"] * 6)
    for name, job in JOBS.items():
        harmed = job.harmed.replace("{", "").replace("}", "").replace("*", "KEY")
        text += row([name, *(moment(*job.moments[kind]) for kind in FAULTS[:4]), f"`{harmed}`"])
    return text + TAIL


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
