"""Measure the latency of the ONNX files in this folder. Needs Python 3.9 and onnxruntime, nothing else.

    python measure.py [--minutes M]

Files are measured in turns, in random order. Interrupt at any moment: the same command goes on. Every measurement is
a line of results.jsonl, which `apq-tune profile --collect` reads. The script is part of apq-tune, which uses it itself.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import platform
import random
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

MANIFEST, RESULTS = "manifest.json", "results.jsonl"

FORMAT = 1
"""Format of the manifest and of the results."""

REPEATS = 5
"""Visits of every file."""

TIMINGS = 7
"""Timings of one visit."""

LEAST_SECONDS = 0.0005
"""Least duration of a timing; quick files run several times in one."""

WARM_UP = 3
"""Runs before the timings of a visit."""

MOST_OPEN, MOST_BYTES = 400, 256_000_000
"""Largest number of files that are kept open, and of the bytes of their weights."""

Run = Callable[[], None]
Load = Callable[[Path, int], Run]
Clock = Callable[[], float]


class MeasureError(Exception):
    """The folder cannot be measured; the message names the file and the remedy."""


def load_onnx(path: Path, threads: int) -> Run:
    """Open an ONNX file with onnxruntime, inputs and outputs bound to memory.

    Args:
        path: Path of the file.
        threads: Number of threads of an operator.

    Returns:
        Function that runs it once.
    """
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    binding, types = session.io_binding(), {"tensor(float)": np.float32, "tensor(uint8)": np.uint8}
    for given in session.get_inputs():
        shape = [length if isinstance(length, int) else 1 for length in given.shape]  # names are of the batch
        values = np.random.default_rng(0).uniform(0, 1, shape)
        scaled = values * 255 if given.type == "tensor(uint8)" else values
        memory = onnxruntime.OrtValue.ortvalue_from_numpy(scaled.astype(types[given.type]))
        binding.bind_ortvalue_input(given.name, memory)
    for output in session.get_outputs():
        binding.bind_output(output.name)
    session.run_with_iobinding(binding)
    made = binding.get_outputs()  # so that no run allocates memory
    for number, output in enumerate(session.get_outputs()):
        binding.bind_ortvalue_output(output.name, made[number])
    return lambda: session.run_with_iobinding(binding)


def timings(run: Run, clock: Clock = time.perf_counter) -> list[float]:
    """Seconds per run: several timings after a warm-up, each of as many runs as the clock needs."""
    for _ in range(WARM_UP - 1):
        run()
    begun = clock()
    run()
    once = clock() - begun
    n_runs = max(1, math.ceil(LEAST_SECONDS / max(once, 1e-6)))
    found = []
    for _ in range(TIMINGS):
        begun = clock()
        for _ in range(n_runs):
            run()
        found.append((clock() - begun) / n_runs)
    return found


def next_item(
    order: Sequence[str], visits: Mapping[str, int], used: float, budget: float | None, seed: int
) -> str | None:
    """Choose the file to measure next.

    New files are begun, in the given order, as long as all that were begun can be visited ``REPEATS`` times within
    the budget; those with the fewest visits follow, in random order. So all files are measured throughout the whole
    time, and what slows the machine down for a while concerns all alike.

    Args:
        order: Names of the files, the most informative first.
        visits: Number of visits by name.
        used: Seconds of all visits so far.
        budget: Seconds that all visits may take; ``None`` for no limit.
        seed: Seed of the order of visits.

    Returns:
        Name of a file; ``None`` if all is done.
    """
    if budget is not None and used >= budget:
        return None
    begun = [name for name in order if visits.get(name)]
    total = sum(visits[name] for name in begun)
    if len(begun) < len(order):
        each = used / max(1, total)
        if budget is None or (len(begun) + 1) * REPEATS * each <= budget:
            return next(name for name in order if not visits.get(name))
    fewest = min(visits[name] for name in begun)
    if fewest >= REPEATS:
        return None
    return random.Random(seed * 1_000_003 + total).choice([name for name in begun if visits[name] == fewest])


class _Open:
    """Files that are open, those used last."""

    def __init__(self, load: Load, threads: int) -> None:
        self._load, self._threads = load, threads
        self._open: OrderedDict[str, tuple[Run, int]] = OrderedDict()

    def get(self, name: str, path: Path, expected: str, size: int) -> Run:
        if name not in self._open:
            _check_file(path, expected)
            self._open[name] = self._load(path, self._threads), size
        self._open.move_to_end(name)
        while len(self._open) > MOST_OPEN or (
            len(self._open) > 1 and sum(own for _, own in self._open.values()) > MOST_BYTES
        ):
            self._open.popitem(last=False)
        return self._open[name][0]


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the list of files.

    Raises:
        MeasureError: If it is missing, damaged or of another version.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text("utf-8"))
        order, items = manifest["order"], manifest["items"]
        texts = [item[name] for item in items.values() for name in ("file", "sha256")]
        numbers = [manifest["threads"], manifest["seed"], *(item["bytes"] for item in items.values())]
        whole = sorted(order) == sorted(items) and all(isinstance(text, str) for text in texts)
        whole = whole and all(type(number) is int for number in numbers)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        whole, manifest = False, {}
    if whole and manifest.get("format") != FORMAT:
        raise MeasureError(
            f"{path}: has format {manifest.get('format')!r}, this version reads {FORMAT}; export the ops again"
        )
    if not whole:
        raise MeasureError(f"{path}: is missing or damaged; export the ops again")
    return dict(manifest)


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_lines(folder: Path) -> tuple[list[dict[str, Any]], str]:
    """Read the lines of the results.

    Returns:
        Lines that are whole, and the text behind the last of them, which an interruption leaves.

    Raises:
        MeasureError: If a line before the last one is damaged; the message has its number.
    """
    path = folder / RESULTS
    if not path.exists():
        return [], ""
    try:
        *whole, rest = path.read_bytes().decode("utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise MeasureError(f"{path}: cannot be read ({error}); delete it and measure again") from None
    found = []
    for number, text in enumerate(whole, start=1):
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            line = None
        if not isinstance(line, dict):
            raise MeasureError(f"{path}: line {number} is damaged; delete that line, or the file to measure again")
        found.append(line)
    return found, rest


def seconds_in(value: object) -> float:
    """Positive finite number in a result; NaN for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return math.nan
    try:
        seconds = float(value)
    except OverflowError:
        return math.nan
    return seconds if 0 < seconds < math.inf else math.nan


def machine() -> dict[str, str]:
    """Names of the processor and of the system."""
    name = platform.processor() or platform.machine()
    try:
        cpu = Path("/proc/cpuinfo").read_text("utf-8", errors="replace").splitlines()
        keys = ("model name", "Hardware", "Model")
        name = next((line.partition(":")[2].strip() for line in cpu if line.startswith(keys)), name)
    except OSError:
        pass
    return {"processor": name, "system": platform.system(), "machine": platform.machine()}


def _visits_in(
    path: Path, lines: Sequence[Mapping[str, Any]], header: Mapping[str, object]
) -> tuple[dict[str, int], float]:
    """Number of visits by name, and seconds of all visits, of earlier calls.

    Args:
        path: Path of the results, for messages.
        lines: Lines of the results.
        header: Header that they must have.

    Raises:
        MeasureError: If they were measured elsewhere, or are damaged.
    """
    headers = [line for line in lines if "manifest" in line]
    if changed := [name for line in headers for name in header if line.get(name) != header[name]]:
        was = next(line.get(changed[0]) for line in headers if line.get(changed[0]) != header[changed[0]])
        raise MeasureError(
            f"{path}: was measured with {changed[0]} {was!r}, not {header[changed[0]]!r}; delete it to measure again"
        )
    own = [line for line in lines if "item" in line]
    if (lines and not headers) or any(math.isnan(seconds_in(line.get("took"))) for line in own):
        raise MeasureError(f"{path}: is damaged; delete it to measure again")
    visits: dict[str, int] = {}
    for line in own:
        visits[str(line["item"])] = visits.get(str(line["item"]), 0) + 1
    return visits, sum(seconds_in(line.get("took")) for line in own)


def measure(
    folder: Path,
    *,
    minutes: float | None = None,
    load: Load = load_onnx,
    clock: Clock = time.perf_counter,
    runtime: str | None = None,
) -> Iterator[tuple[int, int, float]]:
    """Measure the files of a folder; what is measured already is not measured again.

    Args:
        folder: Folder of the manifest, which also gets the results.
        minutes: Time that all visits may take, those of earlier calls included; ``None`` for no limit.
        load: Function that opens a file.
        clock: Function that returns seconds.
        runtime: Version of the runtime; by default that of onnxruntime.

    Yields:
        After every visit: number of visits, number of files begun, and seconds used.

    Raises:
        MeasureError: If the folder is damaged.
    """
    manifest = read_manifest(folder)
    if runtime is None:
        import onnxruntime

        runtime = onnxruntime.__version__
    header = {"manifest": digest(folder / MANIFEST), "format": FORMAT, "runtime": runtime, **machine()}
    known, rest = read_lines(folder)
    visits, used = _visits_in(folder / RESULTS, known, header)
    opened = _Open(load, manifest["threads"])
    with (folder / RESULTS).open("r+b" if known or rest else "wb") as file:
        if rest:
            file.truncate((folder / RESULTS).stat().st_size - len(rest.encode("utf-8")))
        file.seek(0, 2)
        if not known:
            file.write(json.dumps(header).encode("utf-8") + b"\n")
        while True:
            budget = None if minutes is None else 60 * minutes
            name = next_item(manifest["order"], visits, used, budget, manifest["seed"])
            if name is None:
                return
            begun = clock()
            item = manifest["items"][name]
            path = folder / item["file"]
            try:
                seconds = timings(opened.get(name, path, item["sha256"], item["bytes"]), clock)
            except MeasureError:
                raise
            except Exception as error:
                said = (str(error).splitlines() or [type(error).__name__])[0][:200]
                raise MeasureError(f"{path}: the runtime cannot run it ({said}); update onnxruntime") from None
            took = clock() - begun
            file.write(json.dumps({"item": name, "seconds": seconds, "took": took}).encode("utf-8") + b"\n")
            file.flush()
            visits[name] = visits.get(name, 0) + 1
            used += took
            yield sum(visits.values()), len(visits), used


def _check_file(path: Path, expected: str) -> None:
    try:
        whole = digest(path) == expected
    except OSError:
        whole = False
    if not whole:
        raise MeasureError(f"{path}: is missing or damaged; export the ops again")


def _minutes(text: str) -> float:
    """Positive number of minutes; argparse prints the error."""
    minutes = float(text)
    if not 0 < minutes < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number of minutes")
    return minutes


def main() -> None:
    """Measure the folder that this script is in."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=_minutes, help="time that all measurements may take (default: no limit)")
    minutes = parser.parse_args().minutes
    try:
        folder = Path(__file__).resolve().parent
        wanted, said = len(read_manifest(folder)["order"]), ""
        for n_visits, n_begun, used in measure(folder, minutes=minutes):
            said = f"{n_begun} of {wanted} files, {n_visits} visits, {used:.0f} s"
            if sys.stdout.isatty():
                print(f"\r{said} ", end="", flush=True)
        if sys.stdout.isatty():
            print()
        else:
            print(said or "nothing is left to measure")
        print(f"done; send {RESULTS} back with this folder: apq-tune profile --collect FOLDER --out table.csv")
    except MeasureError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("\ninterrupted; the same command goes on where it stopped")


if __name__ == "__main__":
    main()
