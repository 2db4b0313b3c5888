"""The command line: parse, call, print. Each verb calls the function of the same name; nothing heavy is imported before."""

import dataclasses
import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Argument, ArgumentCollection, CycloptsError, Parameter, Token

import sentinode
from sentinode.errors import EXIT_INTERRUPTED, SentinodeError, UsageProblem, masked, nearest, shown
from sentinode.machine.clock import running
from sentinode.settings import (
    AuditSettings,
    CompareSettings,
    CrossvalidateSettings,
    EvaluateSettings,
    LadderSettings,
    PackSettings,
    PredictSettings,
    TrainSettings,
    TuneSettings,
    read_recipe,
)

BEGAN = time.perf_counter() - running()
"""When the command was given: the clock of --minutes counts the interpreter's start and the imports, too."""
Flat = Parameter(name="*")
Resume = Annotated[bool, Parameter(negative=(), help="Go on with an unfinished job of the same input.")]
Overwrite = Annotated[bool, Parameter(negative=(), help="Replace what an earlier job wrote there.")]
Quiet = Annotated[bool, Parameter(negative=(), help="Say nothing but the result.")]
Json = Annotated[bool, Parameter(name="--json", negative=(), help="Print the result for programs.")]
Out = Annotated[Path, Parameter(help="What to write.")]


@Parameter(name="*")
@dataclasses.dataclass(frozen=True)
class Job:
    """How a job that can be resumed treats what is there, and how it speaks."""

    resume: Resume = False
    overwrite: Overwrite = False
    quiet: Quiet = False
    as_json: Json = False

    def arguments(self) -> dict[str, bool]:
        """Return what the function of the same name takes."""
        return {"resume": self.resume, "overwrite": self.overwrite, "quiet": self.quiet}


NEW_JOB = Job()
"""Of a command line that names none of these flags."""


def from_recipe(_app: App, _commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Fill options that were not typed from the TOML file that --recipe names; unknown names in it are an error.

    Where a search is to keep settings, those that were typed or stand in the recipe are among them.
    """
    named = {argument.name.removeprefix("--").replace("-", "_"): argument for argument in arguments}
    known = {field.name for field in dataclasses.fields(TrainSettings)}
    recipe = named.get("recipe")
    if recipe is not None and recipe.tokens:
        fill(named, recipe.tokens[0].value, known)
    if "keep" in named:
        for name in sorted(known):
            if named[name].tokens:
                named["keep"].append(Token(keyword="--keep", value=name, source="typed"))


def fill(named: dict[str, Argument], path: str, known: set[str]) -> None:
    """Give options that were not typed the values of a recipe; UsageProblem for a name that is no setting."""
    for name, value in read_recipe(path).items():
        if name not in known:
            raise UsageProblem(f"a setting of 'train' in {shown(path)}", shown(name), nearest(name, sorted(known)))
        if not named[name].tokens:
            named[name].append(Token(keyword=f"--{name}", value=str(value), source=path))


def default_told(default: object) -> str | None:
    """Return a default as help shows it; None for nothing, no list and a flag that is off, which go without saying."""
    return None if default is None or default is False or default in ("", ()) else str(default)


app = App(
    name="sentinode",
    version=sentinode.__version__,
    help="Fast and honest classifiers of histopathology tiles. Research use, not a medical device.",
    config=from_recipe,
    default_parameter=Parameter(negative_iterable=(), show_default=default_told),
    suppress_keyboard_interrupt=False,
)


@app.command
def quickstart(
    *,
    out: Out = Path("quickstart"),
    data: Annotated[Path | None, Parameter(help="Your own folder of tiles instead of synthetic tissue.")] = None,
    minutes: Annotated[float, Parameter(help="Of training.")] = 1.2,
    seed: Annotated[int, Parameter(help="Of the tissue and of training.")] = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Synthetic tissue to store, model, judgement and picture: two minutes, no network."""
    answer(sentinode.quickstart(out=out, data=data, minutes=minutes, seed=seed, overwrite=overwrite, quiet=quiet), as_json)


@app.command
def pack(
    *sources: Annotated[Path, Parameter(help="Folders, CSV manifests, PCam HDF5 files, or stores.")],
    out: Out,
    settings: Annotated[PackSettings, Flat] = PackSettings(),
    job: Job = NEW_JOB,
) -> None:
    """Pack tiles of any source into a store."""
    store = sentinode.pack(*sources, out=out, settings=settings, **job.arguments())
    answer(sentinode.info(store), job.as_json)


@app.command
def info(
    store: Annotated[Path, Parameter(help="A packed store.")],
    /,
    *,
    verify: Annotated[bool, Parameter(negative=(), help="Recompute every digest.")] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Say what a store holds; --verify checks every pixel."""
    answer(sentinode.info(sentinode.open_store(store), verify=verify, quiet=quiet), as_json)


@app.command
def doctor(
    *,
    store: Annotated[Path | None, Parameter(help="Measure feeding on this store instead of synthetic tiles.")] = None,
    source: Annotated[Path | None, Parameter(help="Measure decoding on this source instead of synthetic images.")] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Say what this machine has, measure it, and name the bottleneck."""
    answer(sentinode.doctor(store=store, source=source, quiet=quiet), as_json)


@app.command
def models(
    pattern: Annotated[str | None, Parameter(help="Part of a name, a pattern with *, or a network, to list its weights.")] = None,
    /,
    *,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """List networks for --model: what is on this machine, what a download would bring, size, cost and licence."""
    del quiet  # it says nothing but the result
    answer(sentinode.models(pattern), as_json)


@app.command
def train(
    store: Annotated[Path, Parameter(help="A packed store with labels.")],
    /,
    *,
    out: Out,
    valid: Annotated[Path | None, Parameter(help="A store that chooses epoch and threshold.")] = None,
    recipe: Annotated[Path | None, Parameter(help="A TOML file of settings; typed options win.")] = None,
    settings: Annotated[TrainSettings, Flat] = TrainSettings(),
    job: Job = NEW_JOB,
) -> None:
    """Train a network on a store."""
    from sentinode.machine.clock import counting_from

    del recipe  # read by from_recipe, before the settings were made
    typed = "train" in sys.argv[1:3]  # and not called from a program, long after it began
    with counting_from(BEGAN if typed else time.perf_counter()):
        run = sentinode.train(store, out=out, valid=valid, settings=settings, **job.arguments())
    answer(run, job.as_json)


@app.command
def crossvalidate(
    store: Annotated[Path, Parameter(help="A packed store with labels.")],
    /,
    *,
    out: Out,
    settings: Annotated[CrossvalidateSettings, Flat] = CrossvalidateSettings(),
    job: Job = NEW_JOB,
) -> None:
    """Train once a fold, or once a domain, and judge each on the tiles that it was not shown."""
    answer(sentinode.crossvalidate(store, out=out, settings=settings, **job.arguments()), job.as_json)


@app.command
def tune(
    store: Annotated[Path, Parameter(help="A packed store with labels.")],
    /,
    *,
    out: Out,
    valid: Annotated[Path | None, Parameter(help="A store that chooses the trial, its epoch and its threshold.")] = None,
    recipe: Annotated[Path | None, Parameter(help="A TOML file of settings; typed options win.")] = None,
    search: Annotated[TuneSettings, Flat] = TuneSettings(),
    settings: Annotated[TrainSettings, Flat] = TrainSettings(),
    job: Job = NEW_JOB,
) -> None:
    """Search settings: every cell of a grid, or trials that learn from earlier ones; the best becomes a run."""
    del recipe  # read by from_recipe, before the settings were made
    sought = {name: getattr(search, name) for name in ("grid", "trials", "storage", "keep")}
    answer(sentinode.tune(store, out=out, valid=valid, settings=settings, **job.arguments(), **sought), job.as_json)


@app.command
def predict(
    *inputs: Annotated[Path, Parameter(help="One or more runs, then a store or anything 'pack' takes.")],
    out: Out,
    submission: Annotated[bool, Parameter(negative=(), help="Write id,label as Kaggle takes it.")] = False,
    settings: Annotated[PredictSettings, Flat] = PredictSettings(),
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Score tiles with one run or an ensemble."""
    scores = sentinode.predict(*inputs, out=out, submission=submission, settings=settings, overwrite=overwrite, quiet=quiet)
    result = {"out": str(out), "tiles": len(scores.table), "mean_probability": float(scores.table["probability"].mean())}
    tell(json.dumps(result) if as_json else f"{result['tiles']:,} tiles scored: {shown(out)}")


@app.command
def evaluate(
    *inputs: Annotated[Path, Parameter(help="Runs or one scores file, then the store to judge on.")],
    out: Out,
    settings: Annotated[EvaluateSettings, Flat] = EvaluateSettings(),
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Judge runs, or anyone's predictions, on a store: every figure with its interval, beside the colour floor."""
    judgement = sentinode.evaluate(*inputs, out=out, settings=settings, overwrite=overwrite, quiet=quiet)
    answer(judgement, as_json)


@app.command
def compare(
    *inputs: Annotated[Path, Parameter(help="Runs and scores files, two or more.")],
    test: Annotated[Path, Parameter(help="The store to judge on.")],
    out: Out,
    settings: Annotated[CompareSettings, Flat] = CompareSettings(),
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Say which of several models is better on the same tiles, which are not told apart, and how many slides that would take."""
    compared = sentinode.compare(*inputs, test=test, out=out, settings=settings, overwrite=overwrite, quiet=quiet)
    answer(compared, as_json)


@app.command
def audit(
    store: Annotated[Path, Parameter(help="A packed store.")],
    /,
    *,
    out: Out,
    against: Annotated[Path | None, Parameter(help="Another store: tiles of one place in both are named.")] = None,
    settings: Annotated[AuditSettings, Flat] = AuditSettings(),
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Look for what would spoil a figure: duplicates, spoilt tiles, colour domains, leaks, wrong labels; a queue to review."""
    found = sentinode.audit(store, out=out, against=against, settings=settings, overwrite=overwrite, quiet=quiet)
    answer(found, as_json)


@app.command
def export(
    *runs: Annotated[Path, Parameter(help="One run, or several: the mean of their logits.")],
    to: Annotated[Literal["onnx", "torchscript"], Parameter(help="Format of the file.")],
    out: Annotated[Path | None, Parameter(help="What to write: .onnx or .pt; default: beside the first run.")] = None,
    views: Annotated[Literal[1, 4, 8], Parameter(help="Dihedral views whose logits are averaged inside the file.")] = 1,
    tiles: Annotated[Path | None, Parameter(help="Check parity on this store, too, instead of on made tiles alone.")] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Write runs as one file that runs without Sentinode, checked against predict: uint8 tiles in, probability out."""
    answer(sentinode.export(*runs, to=to, out=out, views=views, tiles=tiles, overwrite=overwrite, quiet=quiet), as_json)


@app.command
def ladder(
    store: Annotated[Path, Parameter(help="A packed store with labels.")],
    /,
    *,
    out: Out,
    test: Annotated[Path | None, Parameter(help="A store that judges every rung and never chooses.")] = None,
    settings: Annotated[LadderSettings, Flat] = LadderSettings(),
    job: Job = NEW_JOB,
) -> None:
    """Climb from the colour floor to an ensemble: what each rung reaches, costs, and whether it is worth it."""
    answer(sentinode.ladder(store, out=out, test=test, settings=settings, **job.arguments()), job.as_json)


def answer(result: Any, as_json: bool) -> None:
    """Print a result: its lines, or its values as JSON."""
    tell(json.dumps(result.as_dict(), ensure_ascii=True, allow_nan=False) if as_json else "\n".join(result.lines()))


def tell(text: str, *, of_error: bool = False) -> None:
    """Print a result, or an error on standard error; of several processes one does."""
    from sentinode.machine.ranks import speaker

    who = speaker(of_error=of_error)
    if who is not None:
        print(f"sentinode: {who}{text}" if of_error else text, file=sys.stderr if of_error else sys.stdout, flush=True)


def asked() -> str:
    """Return what a signal means: of several processes torchrun ends all where one has died."""
    from sentinode.machine.ranks import started

    return "interrupted" if started().world == 1 else "asked to end by Ctrl-C, or because another process of the job has died"


SHARED = ("train", "predict")
"""Commands that several processes can divide."""


def check_shared(tokens: list[str]) -> None:
    """Raise UsageProblem where torchrun has started several processes of a command that one does."""
    from sentinode.machine.ranks import started

    verb = next((word for word in tokens if not word.startswith("-")), "")
    if started().world > 1 and verb not in SHARED:
        do = f"start 'sentinode {verb}' without torchrun"
        raise UsageProblem(f"{' or '.join(SHARED)}, which several processes can divide", shown(verb), do)


def main(words: Iterable[str] | None = None) -> None:
    """Run the command line; errors come as one line and an exit code, `--debug` shows the traceback."""
    tokens = list(sys.argv[1:] if words is None else words)
    debug = "--debug" in tokens
    tokens = [word for word in tokens if word != "--debug"]

    def call() -> None:
        """Run the command."""
        check_shared(tokens)
        app(tokens, exit_on_error=False, print_error=False, result_action="return_value")

    sys.exit(guarded(call, debug=debug))


@contextmanager
def asked_to_end() -> Iterator[None]:
    """Let SIGTERM end a command as Ctrl-C does, so that nothing temporary stays; only where signals can be had."""
    from sentinode.machine.ranks import started

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        # Where one process has died torchrun ends the others at once: not while the error is told.
        signal.signal(signal.SIGTERM, signal.SIG_IGN if started().world > 1 else before or signal.SIG_DFL)


def guarded(call: Callable[[], object], *, debug: bool) -> int:
    """Return the exit code of `call`, after printing its error in one line."""
    from sentinode.machine.memory import memory_problems

    try:
        with memory_problems(), asked_to_end():
            call()
    except SentinodeError as error:
        if debug:
            raise
        tell(masked(str(error)), of_error=True)
        return error.exit_code
    except CycloptsError as error:
        tell(f"{masked(' '.join(str(error).split()))} (see --help)", of_error=True)
        return UsageProblem.exit_code
    except KeyboardInterrupt:
        tell(f"{asked()}; finished work is kept where the command has --resume, which goes on with it", of_error=True)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away (as `| head` does); nothing is left to say to it.
        sys.stderr.close()
    return 0
