"""Where does joint search pay? Memory limits and rules of devices, against searched 8-bit networks and staged searches.

Rules, written down before any run that is reported:

**Data**: Fashion-MNIST at 28 x 28 (``--data-root``), and a folder of colour images at 32 x 32 (``--images``, a folder
or a zip file of one, such as a part of CIFAR-10). Both with the skeleton of the shipped space
``mobilenet_fashion_mnist``, half as wide so that all searches take half a day, and several input sizes (20, 24, 28, and
32 for colour images), as input size is what memory depends on most.

**Settings**, each a part of one of two search spaces, with weights and activations of 2, 4 or 8 bits: ``mobile``, with
the blocks of that skeleton, and ``residual``, with residual blocks of dense 3 x 3 convolutions instead. All settings of
a space, and all methods, search with the same supernets of the whole space, so that a setting needs no training of its
own:

- ``a8``, ``a48``: weights of 2, 4 or 8 bits, activations of 8 (``a8``) or of 4 or 8 bits (``a48``); flash and RAM
  limited together, at three sizes;
- ``b``: MAX78000, of ``residual``: weights of 2, 4 or 8 bits; bytes of weights limited;
- ``c``: CMSIS-NN: weights of 4 or 8 bits, activations of 8 bits; flash limited;
- ``ne16``: kernels of 3, weights of 2, 4 or 8 bits, activations of 8 bits; cycles on NE16 limited;
- ``mpic``: weights and activations of 2, 4 or 8 bits; cycles on MPIC limited;
- ``e``: LiteRT: weights of 4 or 8 bits, of depthwise convolutions 8, activations of 8 bits; flash and RAM limited.

``b``, ``c``, ``ne16``, ``mpic`` and ``e`` are narrowed by the device presets of the package, which have the rules.

**Limits**: 1, 1/2 and 1/4 of what the best searched 8-bit network without limits needs under ``a8`` and ``a48``, 1/2 of
it elsewhere. That network is found by method ``uniform-8`` without limits, with the spend of all methods and the
supernets of seed 0, in ``a8`` for all settings of ``mobile`` but ``ne16``, which has its own for its kernels, and in
``b`` for itself. It fixes the limits of all seeds.

**Methods**, each with the same supernets of its seed and the same spend: ``joint``; ``uniform-8``, the best searched
8-bit network that fits, at its best input size; ``uniform-4``; and four staged searches, ``staged-haq`` (prune, then
quantize), ``staged-bits-first`` (quantize, then prune), ``hawq`` (bits by Hessian traces and an exact program) and
``size-rank`` (the largest layers lose bits first). A method that cannot keep the limits is left out and named.

**Seeds**: 0 to 4 or more. The score is the test accuracy (and loss) of the method's winner, the mean of its trainings;
the winner is chosen on the search split.

**Tests**: paired over seeds, two-sided t-tests and Wilcoxon tests, corrected for the number of rivals in each setting
and size (Holm). The target is judged on one more family: joint minus ``uniform-8`` under ``a8`` and ``a48`` at 1/2 and
1/4 on all data, corrected for their number. It is met where the mean difference is one point or more, p < .05 after
correction, and joint search is above every staged rival in the mean; where it is not, the table says so.

Everything resumes: finished searches are kept under ``--out``, by data and setting, and the same command goes on after
an interruption, or with more ``--seeds``. ``--tiny`` is the smallest spend, to see that it runs; it writes no results.
"""

from __future__ import annotations

import argparse
import json
import zipfile
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from apq_tune.cli.ending import one_line_errors
from apq_tune.cli.versus import basis_of, fleet_of, possible_methods, search_all
from apq_tune.data import choose_space
from apq_tune.errors import RunError
from apq_tune.pipeline.settings import RunSettings
from apq_tune.problem.costs import Costs
from apq_tune.space.candidate import read_candidate
from apq_tune.space.device import DevicePreset, load_preset
from apq_tune.space.encodings import encoding_of
from apq_tune.space.search_space import SearchSpace
from apq_tune.studies import versus
from apq_tune.studies.compare import holm
from apq_tune.studies.verdict import means_frame, results_frame, tests_frame
from apq_tune.supernet.device import Device, device_of

RUNS, RESULTS = Path("runs/benchmarks/joint_where_it_pays"), Path(__file__).parent / "results"

METHODS = ("joint", "uniform-8", "uniform-4", "staged-haq", "staged-bits-first", "hawq", "size-rank")
STAGED = METHODS[3:]
REFERENCE_SEED = 0
POINT, SIGNIFICANT = 0.01, 0.05

SPEND = {"proxy": 120, "images": 2000, "short": 6, "short_steps": 20, "final_steps": 180, "repeats": 2}
TINY = {"proxy": 60, "images": 200, "short": 3, "short_steps": 2, "final_steps": 4, "repeats": 1}

COMMON = {"supernet.batch_size": 128, "quantized.batch_size": 128, "final.batch_size": 64, "final.learning_rate": 2e-3}
TRAININGS: dict[str, dict[str, Any]] = {
    "fashion": {"supernet.epochs": 4, "quantized.epochs": 4},
    "colour": {
        "supernet.epochs": 12,
        "quantized.epochs": 12,
        "supernet.augment": "crop_flip",
        "quantized.augment": "crop_flip",
    },
}
"""Changed settings of each data set: as many steps of the supernets, about, though there are fewer colour images."""

TINY_TRAININGS = {"supernet.epochs": 1, "quantized.epochs": 1, "supernet.images": 1280, "quantized.images": 1280}


TABLES = ("results", "means", "tests")


class Setting(NamedTuple):
    """Part of a search space, and limits.

    Attributes:
        preset: Name of the device preset that the space is narrowed for, or bits of weights and of activations.
        limited: Names of the limited costs.
        shares: Limits, in shares of what the reference needs.
        space: ``mobile`` or ``residual``.
        reference: Setting whose search of an 8-bit network without limits the limits refer to.
    """

    preset: str | tuple[Sequence[int], Sequence[int]]
    limited: tuple[str, ...]
    shares: tuple[str, ...]
    space: str = "mobile"
    reference: str = "a8"


MEMORY = ("weight_bytes", "peak_activation_bytes")
SETTINGS = {
    "a8": Setting(([2, 4, 8], [8]), MEMORY, ("1", "1/2", "1/4")),
    "a48": Setting(([2, 4, 8], [4, 8]), MEMORY, ("1", "1/2", "1/4")),
    "b": Setting("max78000", ("weight_bytes",), ("1/2",), "residual", "b"),
    "c": Setting("cortex_m_1mb", ("weight_bytes",), ("1/2",)),
    "ne16": Setting("ne16", ("ne16_cycles",), ("1/2",), reference="ne16"),
    "mpic": Setting("mpic", ("mpic_cycles",), ("1/2",)),
    "e": Setting("litert", MEMORY, ("1/2",)),
}


class Images(NamedTuple):
    """Images of a data set and what is trained on them.

    Attributes:
        name: ``fashion`` or ``colour``.
        data: Name of the data set, or folder of images.
        data_root: Folder with the files of named data sets.
        sizes: Input sizes.
    """

    name: str
    data: str
    data_root: Path | None
    sizes: tuple[int, ...]


class Study(NamedTuple):
    """What all searches have in common.

    Attributes:
        out: Folder of everything.
        spend: Spend of each method.
        changes: Changed settings of the supernets.
        methods: Methods.
        seeds: Seeds.
        num_cpus: Number of searches at once; ``None`` for all processors.
        device: Where networks are trained.
    """

    out: Path
    spend: versus.Spend
    changes: Mapping[str, dict[str, Any]]
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    num_cpus: int | None
    device: Device


def whole_space(images: Images, name: str) -> SearchSpace:
    """Search space that supernets are trained for: ``mobile`` or ``residual``."""
    plain = SearchSpace.load("mobilenet_fashion_mnist").to_dict()
    plain |= {"name": f"{name}_{images.name}", "input": plain["input"] | {"size": list(images.sizes)}}
    for part in (plain["stem"], plain["head"], *plain["stages"]):
        part["channels"] //= 2
    if name == "residual":
        kept = {key: value for key, value in plain["choices"].items() if not key.endswith("_bits")}
        bits = {f"{layer}_{kind}_bits": [2, 4, 8] for layer in ("conv1", "conv2") for kind in "wa"}
        plain |= {"block": "residual", "choices": kept | bits}
    space = choose_space(images.data, SearchSpace.from_dict(plain)).space
    assert isinstance(space, SearchSpace)
    return space


def space_of(images: Images, name: str) -> SearchSpace:
    """Part of a search space that a setting searches."""
    setting = SETTINGS[name]
    if isinstance(setting.preset, str):
        preset = load_preset(setting.preset)
    else:
        conv = dict(zip(("w_bits", "a_bits"), setting.preset, strict=True))
        preset = DevicePreset.from_dict({"format": 1, "name": name, "title": name, "ops": {"conv": conv}})
    return whole_space(images, setting.space).narrowed(preset)


def costs_of(space: SearchSpace, name: str) -> Costs:
    """Costs of the space of a setting, those of its device included."""
    return Costs.of(encoding_of(space), (), SETTINGS[name].limited)


def trained_runs(study: Study, images: Images, name: str, seeds: Sequence[int]) -> dict[int, Path]:
    """Runs with trained supernets of a whole space, by seed; those that are not there are trained."""
    space, changes = whole_space(images, name), study.changes[images.name]
    settings = RunSettings().updated(changes).model_dump(mode="json", exclude={"seed"})
    basis = {"space": space.to_record(), "settings": settings}
    fleet = fleet_of(study.out / images.name / name, "joint-where-it-pays", basis, num_cpus=study.num_cpus)
    folder = fleet.path / "runs"
    trainings = versus.SupernetTrainings(space, changes, folder, images.data_root, study.device)
    fleet.run(versus.train_run, trainings, {f"supernets-{seed:03d}": seed for seed in seeds}, device=study.device)
    return {seed: versus.run_path(folder, seed) for seed in seeds}


def searched(
    study: Study,
    images: Images,
    name: str,
    folder: str,
    methods: Sequence[str],
    limits: Mapping[str, list[str]],
    seeds: Sequence[int],
) -> tuple[list[versus.VersusTask], dict[str, Any]]:
    """Run all methods under all limits with the supernets of all seeds; returns tasks and results by key."""
    costs = costs_of(space_of(images, name), name)
    settings = RunSettings().updated(study.changes[images.name])
    basis = basis_of(costs, [], study.spend, limits, settings.model_dump(mode="json", exclude={"seed"}))
    fleet = fleet_of(study.out / images.name / folder, "joint-where-it-pays", basis, num_cpus=study.num_cpus)
    runs = trained_runs(study, images, SETTINGS[name].space, seeds)
    possible = possible_methods(methods, costs, limits)
    tasks = [versus.VersusTask(own, size, seed) for seed in seeds for size in limits for own in possible[size]]
    return tasks, search_all(fleet, tasks, runs, limits, study.spend, costs, study.device)


def reference(study: Study, images: Images, name: str) -> Any:
    """The best searched 8-bit network of a setting without limits."""
    (task,), results = searched(study, images, name, f"{name}_reference", ["uniform-8"], {"none": []}, [REFERENCE_SEED])
    return read_candidate(results[task.key]["candidate"])  # found at once if it was searched before


def limits_of(study: Study, images: Images, name: str) -> dict[str, list[str]]:
    """Limits of a setting as text, by size."""
    setting, space = SETTINGS[name], space_of(images, name)
    largest, costs = reference(study, images, setting.reference), costs_of(space, name)
    genome = costs.encoding.encode([largest], check=False)
    needed = {cost: float(costs.metrics[cost](genome)[0]) for cost in setting.limited}
    print(f"{images.name}, {name}: the best 8-bit network without limits is {largest}; it needs {needed}", flush=True)
    # Names of sizes are part of the names of files.
    return {
        size.replace("/", "_"): [f"{cost}<={float(Fraction(size)) * value:.15g}" for cost, value in needed.items()]
        for size in setting.shares
    }


def compared(study: Study, images: Images, name: str) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Results, means and tests of a setting."""
    limits = limits_of(study, images, name)
    tasks, results = searched(study, images, name, name, study.methods, limits, study.seeds)
    frame = results_frame(tasks, results)
    tests = tests_frame(frame)
    where = {"data": images.name, "setting": name}
    parts = [part.assign(**where) for part in (frame, means_frame(frame), tests)]
    print(table(images, name, limits, parts[1], parts[2], study.methods), flush=True)
    return parts[0], parts[1], parts[2]


def table(
    images: Images,
    name: str,
    limits: Mapping[str, list[str]],
    means: pd.DataFrame,
    tests: pd.DataFrame,
    methods: Sequence[str],
) -> str:
    """Table of a setting in Markdown, a row for each size and method."""
    lines = [f"\n## {images.name}, {name}\n"]
    lines += [
        "| limits | method | test accuracy %, loss | joint minus: points; loss | wins–ties–losses | p t; p W |",
        "|---|---|---|---|---|---|",
    ]
    for size, texts in limits.items():
        own = means[means["budget"] == size].set_index("method")
        rivals = tests[tests["budget"] == size].set_index(["rival", "score"]) if len(tests) else tests
        for method in methods:
            cells = [f"{size.replace('_', '/')}: {', '.join(map(_short, texts))}" if method == methods[0] else ""]
            if method not in own.index:
                lines.append(f"| {cells[0]} | `{method}` | cannot keep the limits | | | |")
                continue
            row = own.loc[method]
            spread = "" if np.isnan(row.test_accuracy_std) else f" ± {100 * row.test_accuracy_std:.2f}"
            cells += [f"`{method}`", f"{100 * row.test_accuracy_mean:.2f}{spread}, {row.test_loss_mean:.4f}"]
            if method == "joint" or not len(rivals) or (method, "test_accuracy") not in rivals.index:
                cells += ["", "", ""]
            else:
                gain, loss = rivals.loc[(method, "test_accuracy")], rivals.loc[(method, "test_loss")]
                cells.append(f"{100 * gain.difference:+.2f}; {loss.difference:+.4f}")
                cells.append(f"{gain.wins:.0f}–{gain.ties:.0f}–{gain.losses:.0f}")
                cells.append(f"{_p(gain.p_t, gain.p_t_holm)}; {_p(gain.p_wilcoxon, gain.p_wilcoxon_holm)}")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _short(limit: str) -> str:
    cost, bound = limit.split("<=")
    return f"{cost} {float(bound):.4g}"


def _p(p: float, corrected: float) -> str:
    return f"{p:.3f}" + ("*" if corrected < SIGNIFICANT else "")


def verdicts(means: pd.DataFrame, tests: pd.DataFrame) -> list[str]:
    """Whether the target is met: under ``a8`` and ``a48`` at 1/2 and 1/4, on all data."""
    if not len(tests):
        return []
    wanted = tests["setting"].isin(["a8", "a48"]) & tests["budget"].isin(["1_2", "1_4"])
    primary = tests[wanted & (tests["rival"] == "uniform-8") & (tests["score"] == "test_accuracy")].copy()
    primary["p"] = holm(primary["p_t"].to_numpy(np.float64)) if len(primary) else []
    lines = []
    for row in primary.to_dict("records"):
        here = (
            (means["data"] == row["data"]) & (means["setting"] == row["setting"]) & (means["budget"] == row["budget"])
        )
        own = means[here].set_index("method")["test_accuracy_mean"]
        ahead = [rival for rival in STAGED if rival in own.index and own[rival] >= own["joint"]]
        met = row["difference"] >= POINT and row["p"] < SIGNIFICANT and not ahead
        lines.append(
            f"{row['data']}, {row['setting']} at {row['budget'].replace('_', '/')}: target "
            f"{'met' if met else 'NOT met'}: joint minus the best searched 8-bit network "
            f"{100 * row['difference']:+.2f} points (p {row['p']:.3f} corrected for {len(primary)} tests); in the mean "
            + (f"not above {', '.join(ahead)}" if ahead else "above every staged rival")
        )
    return lines


def folder_of(path: Path, out: Path) -> str:
    """Folder of images, unpacked if it is a zip file."""
    if path.suffix != ".zip":
        return str(path.absolute())
    folder = out / "images"
    if not (folder / "done").exists():
        with zipfile.ZipFile(path) as archive:
            archive.extractall(folder / "content")
        (folder / "done").touch()
    inside = [one for one in (folder / "content").iterdir() if one.is_dir()]
    return str((inside[0] if len(inside) == 1 else folder / "content").absolute())


def main() -> None:
    """Search, compare, print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, help="folder with the files of Fashion-MNIST")
    parser.add_argument("--images", type=Path, help="folder of colour images, or a zip file of one")
    parser.add_argument(
        "--data", action="append", choices=list(TRAININGS), help="only these data.  [default: those given]"
    )
    parser.add_argument(
        "--setting", action="append", choices=list(SETTINGS), help="only these settings.  [default: all]"
    )
    parser.add_argument("--method", action="append", choices=METHODS, help="only these methods.  [default: all]")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--num-cpus", type=int)
    parser.add_argument("--device", default="cpu", help="auto, cpu or cuda.  [default: %(default)s]")
    parser.add_argument("--out", type=Path, default=RUNS, help="folder of the searches.  [default: %(default)s]")
    parser.add_argument("--tiny", action="store_true", help="the smallest spend, to see that it runs")
    arguments = parser.parse_args()
    out = (arguments.out / "tiny" if arguments.tiny else arguments.out).absolute()
    out.mkdir(parents=True, exist_ok=True)
    given = {"fashion": Images("fashion", "fashion_mnist", arguments.data_root, (20, 24, 28))}
    if arguments.images is not None:
        given["colour"] = Images("colour", folder_of(arguments.images, out), None, (20, 24, 28, 32))
    if absent := [name for name in arguments.data or () if name not in given]:
        raise RunError(f"--data {absent[0]}: names no images; give them with --images")
    chosen = tuple(dict.fromkeys(arguments.method or METHODS))
    study = Study(
        out,
        versus.Spend.checked(**(TINY if arguments.tiny else SPEND)),
        {name: COMMON | own | (TINY_TRAININGS if arguments.tiny else {}) for name, own in TRAININGS.items()},
        chosen,
        tuple(range(arguments.first_seed, arguments.first_seed + arguments.seeds)),
        arguments.num_cpus,
        device_of(arguments.device),
    )
    for images in (given[name] for name in arguments.data or given):
        for name in arguments.setting or SETTINGS:
            keep(compared(study, images, name), out / "tables" / f"{images.name}_{name}")
            written(out / "tables", out if arguments.tiny or arguments.method else RESULTS)


def keep(tables: Sequence[pd.DataFrame], path: Path) -> None:
    """Write the tables of one setting."""
    path.mkdir(parents=True, exist_ok=True)
    for name, content in zip(TABLES, tables, strict=True):
        content.to_csv(path / f"{name}.csv", index=False)


def written(parts: Path, folder: Path) -> None:
    """Write the tables of all settings that are finished, and print whether the target is met."""
    done = [parts / f"{data}_{name}" for data in TRAININGS for name in SETTINGS]
    tables = {}
    for name in TABLES:
        files = [path / f"{name}.csv" for path in done]
        read = [pd.read_csv(file) for file in files if file.exists() and file.stat().st_size > 1]
        tables[name] = pd.concat(read, ignore_index=True) if read else pd.DataFrame()
        tables[name].to_csv(folder / f"joint_where_it_pays_{name}.csv", index=False)
    lines = verdicts(tables["means"], tables["tests"])
    (folder / "joint_where_it_pays_target.json").write_text(json.dumps(lines, indent=1) + "\n")
    print("\n".join(lines), flush=True)


if __name__ == "__main__":
    with one_line_errors():
        main()
