"""The doctor measures this machine, its answer is plain data, and each fault is answered with the setting that removes it."""

import csv
import dataclasses
import json
from pathlib import Path

import pytest
import torch

from sentinode.errors import SourceProblem
from sentinode.flows.doctor import Diagnosis, Rates, bottleneck_of, device_of, doctor, manifest, remedies_of, write_images
from sentinode.machine.disk import DiskSpeed
from sentinode.machine.match import match_of
from sentinode.machine.probe import Gpu, Machine

CPU = Machine("Some CPU", 4, ("avx2",), 16 << 30, (), "2.13.0", "", "", "", "Linux", "3.11")
HEALTHY = Diagnosis(
    machine=CPU,
    device="cpu",
    free=12 << 30,
    threads=4,
    allocator_set=True,
    match=match_of("2.13.0", "0.28.0"),
    peaks={"fp32": 2e11, "bf16": 4e11},
    chosen="bf16",
    disk=DiskSpeed(5e8, 1e9, True),
    rates=Rates(decode=50_000, feed=30_000, train=500),
    measured_on="synthetic images, synthetic tiles",
    bottleneck="",
    remedies=(),
)
KAGGLE = 220_025 * 96 * 96 * 3


def remedies(*, resident: bool = True, busy: float = 0.0, **changes: object) -> str:
    return "\n".join(remedies_of(dataclasses.replace(HEALTHY, **changes), resident=resident, held=KAGGLE, busy=busy))  # type: ignore[arg-type]


def test_a_healthy_machine_has_one_remedy_which_says_so() -> None:
    assert len(remedies().splitlines()) == 1
    assert "no setting is in its way (bf16 is chosen by measurement)" in remedies()


@pytest.mark.parametrize(
    ("changes", "answer"),
    [
        ({"threads": 1}, "--threads 4"),
        ({"threads": 64}, "OMP_NUM_THREADS=4"),
        ({"busy": 3.0}, "other programs keep 3.0 of 4 cores busy"),
        ({"match": match_of("2.13.0", "0.27.0")}, "pip install 'torchvision==0.28.*'"),
        ({"disk": DiskSpeed(2e7, 1e9, True)}, "point TMPDIR"),
        ({"free": 2 << 30}, "5.7 GiB of tiles do not fit the free memory"),
        ({"machine": dataclasses.replace(CPU, driver="550.54")}, "torch's CUDA build"),
        ({"chosen": "fp32"}, "bf16 was measured and does not pay"),
        ({"rates": Rates(50_000, 300, 500)}, "--colour 0"),
        ({"rates": Rates(50_000, 300, 500), "resident": False}, "--resident yes"),
        ({"rates": Rates(50_000, 300, 500), "resident": False, "free": 1 << 30}, "put the store on a faster disk"),
    ],
)
def test_each_fault_is_answered(changes: dict[str, object], answer: str) -> None:
    assert answer in remedies(**changes)  # type: ignore[arg-type]
    assert answer not in remedies()


def test_no_setting_is_in_its_way_is_not_said_beside_one_that_is() -> None:
    said = remedies(threads=1).splitlines()
    assert "--threads 4" in said[0]
    assert said[1].startswith("no other setting is in its way")


def test_the_slower_of_the_repeated_steps_is_the_bottleneck() -> None:
    assert bottleneck_of(Rates(decode=1, feed=500, train=100), "cpu").startswith("training arithmetic on cpu: 100 tiles/s")
    assert bottleneck_of(Rates(decode=1, feed=100, train=500), "cpu").startswith("feeding: 100 tiles/s")


@pytest.mark.parametrize(
    ("capability", "expected"),
    [((6, 1), ("fp32",)), ((7, 5), ("fp32", "fp16")), ((9, 0), ("fp32", "tf32", "bf16", "fp16"))],
)
def test_precisions_of_a_gpu_follow_its_generation(capability: tuple[int, int], expected: tuple[str, ...]) -> None:
    """Tensor cores for fp16 came with 7.0 (Volta), tf32 and bf16 with 8.0 (Ampere)."""
    assert device_of(dataclasses.replace(CPU, gpus=(Gpu("a GPU", 1, capability),))) == ("cuda", expected)
    assert device_of(CPU) == ("cpu", ("fp32", "bf16"))


def test_the_trial_takes_the_first_images_of_any_depth(tmp_path: Path) -> None:
    write_images(tmp_path / "images", 5)
    (tmp_path / "images" / "notes.txt").write_text("no image", encoding="utf-8")
    with manifest(tmp_path, tmp_path / "trial.csv", 4).open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [Path(row["path"]).name for row in rows] == ["0.tif", "1.tif", "2.tif", "3.tif"]
    assert {row["label"] for row in rows} == {"0", "1"}


def test_a_source_without_images_is_an_error_in_three_parts(tmp_path: Path) -> None:
    with pytest.raises(SourceProblem) as caught:
        manifest(tmp_path, tmp_path / "trial.csv")
    assert caught.value.expected == "a folder with TIFF, PNG or JPEG images"
    assert caught.value.found.startswith("none in")
    assert caught.value.do == "name the folder that holds them"


def test_the_doctor_measures_this_machine() -> None:
    found = doctor(quiet=True)
    assert found.machine.torch == torch.__version__
    assert found.threads == torch.get_num_threads()
    assert min(found.rates.decode, found.rates.feed, found.rates.train) > 0
    assert found.chosen in found.peaks
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["rates"]["train"] == found.rates.train
    text = "\n".join(found.lines())
    for word in ("processor", "graphics", "memory", "torchvision", "arithmetic", "disk", "decode", "bottleneck"):
        assert word in text
    assert all(len(line) < 200 for line in found.lines())


def test_a_diagnosis_of_a_gpu_machine_names_its_parts() -> None:
    machine = dataclasses.replace(CPU, gpus=(Gpu("NVIDIA T4", 16 << 30, (7, 5)),), cuda="13.0", cudnn="92000", driver="580.1")
    text = "\n".join(dataclasses.replace(HEALTHY, machine=machine, device="cuda").lines())
    assert "NVIDIA T4, 16 GiB, capability 7.5; cuda 13.0, cudnn 92000, driver 580.1" in text
