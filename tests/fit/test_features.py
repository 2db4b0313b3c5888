"""The feature store: features are the network's own; they are met again only where nothing changed; nothing half-done is used."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sentinode.errors import DataProblem, MachineProblem, RunProblem, StoreProblem, UsageProblem
from sentinode.fit import features, grown
from sentinode.fit.features import Extraction, Features, extract
from sentinode.nets.engine import Engine, named
from sentinode.nets.forward import VIEWS, view
from sentinode.nets.transform import Preprocessing, Transform
from sentinode.progress import Progress
from sentinode.tiles.store import Store, Tiles, open_store
from tests.qc.stores import store_of as written

PX = 12
GREY = Preprocessing((0.5, 0.4, 0.6), (0.2, 0.25, 0.3))
EXACT = Extraction(GREY, {"network": "small"}, precision="fp32")


class Small(nn.Module):
    """Four features that know where they look, with batch norm and dropout, so that the mode shows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)
        self.place = nn.Parameter(torch.rand(PX - 2, PX - 2))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = (self.drop(self.norm(self.conv(x))) * self.place).sum((2, 3))
        return y


def network(seed: int = 0) -> Small:
    torch.manual_seed(seed)
    return Small()


def some_tiles(n: int, seed: int = 0) -> Tiles:
    return np.random.default_rng(seed).integers(0, 256, (n, PX, PX, 3), np.uint8)


def store_of(tiles: Tiles, folder: Path, labels: list[int] | None = None) -> Store:
    """Return a store of these tiles; only its pixels and labels matter here."""
    n = len(tiles)
    rows = pd.DataFrame({"id": [f"t{i}" for i in range(n)], "label": np.array([1] * n if labels is None else labels, np.int8)})
    return Store(folder / "some.store", tiles, rows, ("0", "1"), "digest of the packing", {})


def expected(tiles: Tiles, module: nn.Module, number: int = 0, preprocessing: Preprocessing = GREY) -> np.ndarray[Any, Any]:
    """Return what the network makes of one view, all tiles at once."""
    with torch.no_grad():
        x = Transform(preprocessing, PX)(view(torch.from_numpy(tiles), number))
        return module.eval()(x).numpy()  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two batches of 3 tiles a block, always the same form: which is the fastest is for the engine's own tests."""

    def plain(module: nn.Module, example: Tensor, **_: Any) -> Engine:
        return named("eager fp32", module, example)

    monkeypatch.setattr(features, "BATCH_PIXELS", 3 * PX * PX)
    monkeypatch.setattr(features, "BLOCK_BATCHES", 2)
    monkeypatch.setattr(features, "fastest", plain)


def stopped_after(monkeypatch: pytest.MonkeyPatch, blocks: int, stop: type[BaseException] = KeyboardInterrupt) -> None:
    """Let the extraction end with an interrupt once so many blocks are written."""
    true, done = grown.Growing.append, 0

    def append(self: grown.Growing, *of: Any) -> None:
        nonlocal done
        if done == blocks:
            raise stop
        done += 1
        true(self, *of)

    monkeypatch.setattr(grown.Growing, "append", append)


def home_of(store: Store) -> Path:
    (home,) = (store.path.parent / "some.features").iterdir()
    return home


def test_features_are_the_networks_own_and_numpy_opens_them(tmp_path: Path) -> None:
    tiles = some_tiles(20)
    store, module = store_of(tiles, tmp_path), network()
    found = extract(store, module, EXACT)
    np.testing.assert_allclose(found.values[:, 0], expected(tiles, module), rtol=1e-4, atol=1e-4)
    again = np.load(home_of(store) / "features.npy", mmap_mode="r", allow_pickle=False)
    assert again.shape == (20, 1, 4)
    assert again.dtype == np.float32
    assert isinstance(found.values, np.memmap)
    assert found.values.flags.writeable is False
    wanted, engine, *blocks = (json.loads(text[17:]) for text in (home_of(store) / grown.JOURNAL).read_bytes().splitlines())
    assert wanted["wanted"]["network"] == {"network": "small"}
    assert (engine["engine"], engine["shape"]) == ("eager fp32", [1, 4])
    assert [(b["first"], b["last"]) for b in blocks] == [(0, 6), (6, 12), (12, 18), (18, 20)]
    assert sorted(p.name for p in home_of(store).iterdir() if p.name != "lock") == ["features.npy", "journal.jsonl"]


def test_the_second_time_nothing_is_computed(tmp_path: Path) -> None:
    store = store_of(some_tiles(10), tmp_path)
    first = extract(store, network(), EXACT)

    def fail(*_: object) -> None:
        raise AssertionError("computed again")

    module = network()
    module.register_forward_pre_hook(fail)
    second = extract(store, module, EXACT)
    assert (first.cached, second.cached) == (False, True)
    assert first.key == second.key
    assert first.engine == second.engine
    np.testing.assert_array_equal(first.values, second.values)


def test_labelled_tiles_are_meant_unless_rows_are_named(tmp_path: Path) -> None:
    tiles = some_tiles(9)
    store, module = store_of(tiles, tmp_path, [1, -1, 0, 1, -1, 0, 0, 1, -1]), network()
    assert extract(store, module, EXACT).rows.tolist() == [0, 2, 3, 5, 6, 7]
    chosen = extract(store, module, EXACT, rows=np.array([8, 1]))
    np.testing.assert_allclose(chosen.values[:, 0], expected(tiles[[8, 1]], module), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("views", [4, 8])
def test_views_are_the_features_of_turned_tiles(tmp_path: Path, views: int) -> None:
    tiles, module = some_tiles(7), network()
    found = extract(store_of(tiles, tmp_path), module, Extraction(GREY, {}, views=views, precision="fp32"))
    assert found.values.shape == (7, views, 4)
    for at, number in enumerate(VIEWS[views]):
        turned = view(torch.from_numpy(tiles), number).contiguous().numpy()
        alone = extract(store_of(turned, tmp_path), module, EXACT)
        np.testing.assert_allclose(found.values[:, at], alone.values[:, 0], rtol=1e-4, atol=1e-4)


def reduced(module: nn.Module) -> Engine:
    """Return an engine whose results are a little off, as those of less than fp32 are."""
    return Engine("some bf16", "bf16", lambda x: module(x).detach() + 1e-3, "made up")


@pytest.mark.parametrize("first", ["training", "validation"])
def test_where_less_than_fp32_does_not_pay_all_features_are_the_exact_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    store, module, chosen = store_of(some_tiles(30), tmp_path), network(), []

    def choosing(module: nn.Module, example: Tensor, **how: Any) -> Engine:
        chosen.append((how["allowed"], how["tiles"]))
        return named("eager fp32", module, example)

    monkeypatch.setattr(features, "fastest", choosing)
    train, valid = (Extraction(GREY, EXACT.facts, precision=precision) for precision in ("auto", "fp32"))
    order = [(train, np.arange(24)), (valid, np.arange(24, 30)), (train, np.arange(6, 30)), (valid, np.arange(6))]
    found = [extract(store, module, how, rows=rows) for how, rows in (order if first == "training" else order[1::-1] + order[2:])]
    assert [f.made for f in found] == ([24, 6, 0, 0] if first == "training" else [6, 24, 0, 0])
    assert len({f.key for f in found}) == 1
    assert chosen == ([("auto", 24)] if first == "training" else [("fp32", 6), ("auto", 24)]), "chosen once for as many tiles"
    assert {f.engine for f in found} == {"eager fp32"}


def test_exact_and_reduced_features_are_never_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run gets must not depend on which tiles another one had as exact ones."""
    module = network().eval()
    exact = named("eager fp32", module, torch.zeros(3, 3, PX, PX))
    monkeypatch.setattr(features, "fastest", lambda *_, allowed, **__: reduced(module) if allowed == "auto" else exact)
    tiles, rows, how = some_tiles(20), np.arange(4, 20), Extraction(GREY, EXACT.facts)
    alone = extract(store_of(tiles, tmp_path), module, how, rows=rows, folder=tmp_path / "empty")
    extract(store_of(tiles, tmp_path), module, EXACT, rows=np.arange(12))
    after = extract(store_of(tiles, tmp_path), module, how, rows=rows)
    assert (after.made, after.engine) == (16, "some bf16")
    assert after.values.tobytes() == alone.values.tobytes()


def test_a_batch_of_tiny_tiles_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "BATCH_PIXELS", 64 * 96 * 96)
    source = features.Source(store_of(some_tiles(2), tmp_path), np.arange(2), network(), EXACT, None)
    sizes = {px: dataclasses.replace(GREY, input_px=px) for px in (1, 8, 24, 32, 96, 160, 2000)}
    batches = {px: dataclasses.replace(source, how=Extraction(of, {})).batch for px, of in sizes.items()}
    assert batches == {1: 1024, 8: 1024, 24: 1024, 32: 576, 96: 64, 160: 23, 2000: 1}


def keys_of_changes(tmp_path: Path) -> dict[str, Features]:
    """Return features after each single change to what decides them."""
    tiles = some_tiles(5)
    store, module = store_of(tiles, tmp_path), network()
    one_more = tiles.copy()
    one_more[4, -1, -1, 2] ^= 1
    weights, statistics = network(), network()
    weights.conv.weight.data[0, 0, 0, 0] += 1e-7
    assert statistics.norm.running_mean is not None
    statistics.norm.running_mean[2] += 1e-3
    other = network()
    other.drop.p = 0.4
    return {
        "": extract(store, module, EXACT),
        "pixel": extract(store_of(one_more, tmp_path), module, EXACT),
        "weight": extract(store, weights, EXACT),
        "statistics": extract(store, statistics, EXACT),
        "layer": extract(store, other, EXACT),
        "mean": extract(store, module, Extraction(Preprocessing((0.5, 0.4, 0.61), GREY.std), EXACT.facts, precision="fp32")),
        "channels": extract(
            store, module, Extraction(Preprocessing(GREY.mean, GREY.std, channels="bgr"), EXACT.facts, precision="fp32")
        ),
        "network": extract(store, module, Extraction(GREY, {"network": "other"}, precision="fp32")),
        "precision": extract(store, module, Extraction(GREY, EXACT.facts), engine=reduced(module)),
        "views": extract(store, module, Extraction(GREY, EXACT.facts, views=4, precision="fp32")),
    }


def test_any_change_is_another_key_and_no_old_features(tmp_path: Path) -> None:
    found = keys_of_changes(tmp_path)
    made = {name: f.made for name, f in found.items()}
    assert made == dict.fromkeys(found, 5) | {"pixel": 1}, "a changed pixel is one other tile of the same network"
    keys = {f.key for name, f in found.items() if name != "pixel"}
    assert len(keys) == len(found) - 1
    assert not np.array_equal(found["pixel"].values[4], found[""].values[4])


def test_other_rows_take_what_is_there_and_add_what_is_missing(tmp_path: Path) -> None:
    tiles, module = some_tiles(20), network()
    store, every = store_of(tiles, tmp_path), expected(tiles, module)
    wanted = [np.array([4, 2, 9]), np.array([9, 4, 15, 2, 0]), np.array([0, 15]), np.arange(20), np.arange(20)[::-1]]
    found = [extract(store, module, EXACT, rows=rows) for rows in wanted]
    assert [f.made for f in found] == [3, 2, 0, 15, 0]
    assert [f.cached for f in found] == [False, False, True, False, True]
    assert len({f.key for f in found}) == 1
    for one, rows in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one.values[:, 0], every[rows], rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(one.values, found[3].values[rows])


def test_the_same_tile_is_computed_once_wherever_it_lies(tmp_path: Path) -> None:
    tiles, module = some_tiles(8), network()
    twice = store_of(tiles[[0, 1, 0, 2, 1, 0]], tmp_path)
    found = extract(twice, module, EXACT)
    assert found.made == 3
    np.testing.assert_array_equal(found.values[0], found.values[2])
    (tmp_path / "other").mkdir()
    other = extract(store_of(tiles, tmp_path / "other"), module, EXACT, folder=tmp_path / "some.features")
    assert other.made == 5
    np.testing.assert_allclose(other.values[:, 0], expected(tiles, module), rtol=1e-4, atol=1e-4)


def test_a_map_that_is_in_use_keeps_its_values_while_others_add(tmp_path: Path) -> None:
    tiles, module = some_tiles(20), network()
    store = store_of(tiles, tmp_path)
    first = extract(store, module, EXACT, rows=np.arange(7))
    before = np.array(first.values)
    extract(store, module, EXACT)
    path = home_of(store) / "features.npy"
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    copy = path.with_name("copy")
    copy.write_bytes(data)
    copy.replace(path)
    assert extract(store, module, EXACT).made == 20, "damage in the first block: all that follows it is gone"
    np.testing.assert_array_equal(first.values, before)


@given(views=st.sampled_from([1, 4, 8]), d=st.integers(1, 10**6), n=st.integers(0, 10**9))
def test_the_first_bytes_keep_their_length_however_many_tiles_come(views: int, d: int, n: int) -> None:
    assert len(grown.header((n, views, d))) == len(grown.header((0, views, d)))


def test_an_engine_that_is_not_here_does_not_throw_away_what_it_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, module = store_of(some_tiles(12), tmp_path), network()
    other = Engine("elsewhere fp32", "fp32", named("eager fp32", module, torch.zeros(3, 3, PX, PX)).call, "on another machine")
    first = extract(store, module, EXACT, rows=np.arange(5), engine=other)
    assert (first.engine, first.reasons) == ("elsewhere fp32", "on another machine")
    second = extract(store, module, EXACT)
    assert (second.made, second.engine) == (7, "eager fp32")
    assert extract(store, module, EXACT, rows=np.arange(5)).cached


def test_many_tiles_are_worth_another_choice_and_few_or_the_rest_of_them_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, module, chosen = store_of(some_tiles(40), tmp_path), network(), []

    def choosing(module: nn.Module, example: Tensor, **how: Any) -> Engine:
        chosen.append(how["tiles"])
        return named("eager fp32", module, example)

    monkeypatch.setattr(features, "fastest", choosing)
    extract(store, module, EXACT, rows=np.arange(2))
    with monkeypatch.context() as patch:
        stopped_after(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            extract(store, module, EXACT, rows=np.arange(30))
    for last in (30, 40):
        extract(store, module, EXACT, rows=np.arange(last))
    assert chosen == [2, 28]


def test_seconds_are_those_of_now_and_a_batch_is_always_full(tmp_path: Path) -> None:
    sizes: set[int] = set()

    def count(_module: nn.Module, inputs: tuple[Tensor]) -> None:
        sizes.add(len(inputs[0]))

    module = network()
    module.register_forward_pre_hook(count)
    extract(store_of(some_tiles(8), tmp_path), module, EXACT, rows=np.arange(1))
    extract(store_of(some_tiles(8), tmp_path), module, EXACT)
    assert sizes == {3}


def test_a_pixel_changed_on_disk_is_seen_though_the_store_says_nothing(tmp_path: Path) -> None:
    np.save(tmp_path / "tiles.npy", some_tiles(6))
    module = network()
    first = extract(store_of(np.load(tmp_path / "tiles.npy", mmap_mode="r"), tmp_path), module, EXACT)
    writable = np.load(tmp_path / "tiles.npy", mmap_mode="r+")
    writable[3, 0, 0, 0] ^= 255
    writable.flush()
    second = extract(store_of(np.load(tmp_path / "tiles.npy", mmap_mode="r"), tmp_path), module, EXACT)
    assert not second.cached
    assert not np.array_equal(first.values[3], second.values[3])


def test_pixels_that_are_not_those_packed_give_no_features(tmp_path: Path) -> None:
    packed = written(tmp_path / "s.store", some_tiles(6), np.zeros(6, np.int8))
    tiles = np.load(packed.path / "tiles.npy", mmap_mode="r+")
    tiles[3, 0, 0, 0] ^= 1
    tiles.flush()
    with pytest.raises(StoreProblem, match=r"expected the pixels that were packed into .*; found others in row 3, .*--verify"):
        extract(open_store(packed.path), network(), EXACT)


@settings(max_examples=12, deadline=None)
@given(n=st.integers(1, 21), blocks=st.integers(0, 3), torn=st.integers(0, 60), views=st.sampled_from([1, 4]))
def test_stopped_anywhere_and_gone_on_is_undisturbed_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, n: int, blocks: int, torn: int, views: int
) -> None:
    whole, cut = (store_of(some_tiles(n), tmp_path_factory.mktemp("f")) for _ in range(2))
    how = Extraction(GREY, {}, views=views, precision="fp32")
    undisturbed = extract(whole, network(), how)
    with pytest.MonkeyPatch.context() as patch:
        stopped_after(patch, blocks)
        try:
            extract(cut, network(), how)
        except KeyboardInterrupt:
            # A kill inside a block: some bytes more than the journal knows, and a cut line.
            for name in (grown.DATA, grown.JOURNAL):
                with (home_of(cut) / name).open("ab") as handle:
                    handle.write(b"x" * torn)
    resumed = extract(cut, network(), how)
    assert resumed.key == undisturbed.key
    for name in ("features.npy", "journal.jsonl"):
        assert (home_of(cut) / name).read_bytes() == (home_of(whole) / name).read_bytes()


def test_going_on_computes_only_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, seen = store_of(some_tiles(18), tmp_path), 0
    with monkeypatch.context() as patch:
        stopped_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            extract(store, network(), EXACT)

    def count(_module: nn.Module, inputs: tuple[Tensor], _output: Tensor) -> None:
        nonlocal seen
        seen += len(inputs[0])

    module = network()
    module.register_forward_hook(count)
    extract(store, module, EXACT)
    assert seen == 6 + 3, "the third block, and a batch that tells the width"


def test_a_killed_process_is_gone_on_with(tmp_path: Path) -> None:
    child = (
        "import os, signal, sys; from pathlib import Path; from tests.fit import test_features as t\n"
        "t.features.BATCH_PIXELS, t.features.BLOCK_BATCHES = 3 * t.PX * t.PX, 2\n"
        "t.features.fastest = lambda module, example, **_: t.named('eager fp32', module, example)\n"
        "true, calls = t.features.block, []\n"
        "def block(*of):\n"
        "    calls.append(1)\n"
        "    return true(*of) if len(calls) < 3 else os.kill(os.getpid(), signal.SIGTERM if os.name == 'nt' else 9)\n"
        "t.features.block = block\n"
        "t.extract(t.store_of(t.some_tiles(20), Path(sys.argv[1])), t.network(), t.EXACT)\n"
    )
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    ended = subprocess.run([sys.executable, "-c", child, str(tmp_path)], env=os.environ | {"PYTHONPATH": path}, check=False)
    assert ended.returncode in {-signal.SIGKILL if os.name == "posix" else 1, 15}
    store = store_of(some_tiles(20), tmp_path)
    assert (home_of(store) / grown.DATA).exists()
    found = extract(store, network(), EXACT)
    (tmp_path / "other").mkdir()
    other = extract(store_of(some_tiles(20), tmp_path / "other"), network(), EXACT)
    np.testing.assert_array_equal(found.values, other.values)


@pytest.mark.parametrize("damage", ["flip in data", "flip in journal", "short data", "flip in header"])
def test_damage_to_unfinished_work_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    store = store_of(some_tiles(18), tmp_path)
    with monkeypatch.context() as patch:
        stopped_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            extract(store, network(), EXACT)
    path = home_of(store) / (grown.JOURNAL if "journal" in damage else grown.DATA)
    data = bytearray(path.read_bytes())
    if damage == "short data":
        del data[-40:]
    else:
        data[{"flip in data": 200, "flip in journal": len(data) - 30, "flip in header": 20}[damage]] ^= 4
    path.write_bytes(data)
    found = extract(store, network(), EXACT)
    np.testing.assert_allclose(found.values[:, 0], expected(store.tiles, network()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["features.npy", "journal.jsonl"])
def test_damage_to_finished_features_is_noticed_and_mended(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    store = store_of(some_tiles(8), tmp_path)
    good = np.array(extract(store, network(), EXACT).values)
    path = home_of(store) / name
    data = bytearray(path.read_bytes())
    data[200 if name == "features.npy" else 0] ^= 1
    path.write_bytes(data)
    found = extract(store, network(), EXACT, progress=Progress())
    assert not found.cached
    np.testing.assert_array_equal(found.values, good)
    assert "damaged" in capsys.readouterr().err
    assert extract(store, network(), EXACT).cached


def test_stopped_before_the_first_bytes_count_the_last_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_of(some_tiles(8), tmp_path)
    with monkeypatch.context() as patch:

        def stop(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr("os.fsync", stop)
        with pytest.raises(KeyboardInterrupt):
            extract(store, network(), EXACT)
    found = extract(store, network(), EXACT)
    np.testing.assert_allclose(found.values[:, 0], expected(store.tiles, network()), rtol=1e-4, atol=1e-4)


def test_two_at_once_make_one_and_both_have_it(tmp_path: Path) -> None:
    store, found, began = store_of(some_tiles(30), tmp_path), [], threading.Barrier(3)
    # Made here: torch's generator is one for all threads, and three that seed it and draw at once get three networks.
    modules = [network() for _ in range(3)]

    def want(module: Small) -> None:
        began.wait()
        found.append(extract(store, module, EXACT))

    threads = [threading.Thread(target=want, args=(module,)) for module in modules]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(f.cached for f in found) == [False, True, True]
    assert len({f.key for f in found}) == 1
    for one in found:
        np.testing.assert_array_equal(one.values, found[0].values)


def test_a_full_disk_is_told_and_leaves_nothing_that_is_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_of(some_tiles(18), tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(grown, "write_all", full)
        with pytest.raises(MachineProblem) as caught:
            extract(store, network(), EXACT)
    assert "room to write" in caught.value.expected
    assert "full disk" in caught.value.found
    assert "--features" in caught.value.do
    assert extract(store, network(), EXACT).made == 18


def test_a_folder_in_the_way_is_told(tmp_path: Path) -> None:
    store = store_of(some_tiles(3), tmp_path)
    (tmp_path / "some.features").write_bytes(b"a file")
    with pytest.raises(MachineProblem) as caught:
        extract(store, network(), EXACT)
    assert "can be written" in caught.value.expected
    assert caught.value.found
    assert "--features" in caught.value.do
    assert extract(store, network(), EXACT, folder=tmp_path / "elsewhere").values.shape == (3, 1, 4)


def test_features_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    store, module = store_of(some_tiles(6), tmp_path), network()
    module.conv.bias.data[0] = float("inf")  # type: ignore[union-attr]
    with pytest.raises(RunProblem) as caught:
        extract(store, module, EXACT)
    assert "finite features" in caught.value.expected
    assert "6 of 6 tiles" in caught.value.found
    assert "'t0'" in caught.value.found
    assert "fp32" in caught.value.do


def test_no_labels_and_odd_views_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataProblem) as caught:
        extract(store_of(some_tiles(2), tmp_path, [-1, -1]), network(), EXACT)
    assert "some.store" in caught.value.expected
    assert "none with a label" in caught.value.found
    assert caught.value.do
    with pytest.raises(UsageProblem) as usage:
        extract(store_of(some_tiles(2), tmp_path), network(), Extraction(GREY, {}, views=3))
    assert (usage.value.expected, usage.value.found, usage.value.do) == ("1, 4 or 8 views", "'3'", "change --views")
