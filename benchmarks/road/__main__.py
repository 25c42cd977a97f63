"""How long is the road of a training step? `python -m benchmarks.road [--tree FOLDER]`.

Runs a fixed job (ALFWorld, 2 tasks x 4 rollouts, the tiny policy) in a process of its own and
counts the files and functions that one training step enters; `benchmarks/road/trace.py` says what
counts as the step. Then counts the source of the whole package. The last line is one JSON object:

    step_files, step_files_core    files entered in a step; those outside `envs/`
    step_lines                     lines of the functions entered, each line once
    modules, package_lines         the whole package, with envs and agents
    runtime_modules, runtime_lines the same without `authoring` folders
    authoring_lines                lines in `authoring` folders
    single_importer_modules        modules under 150 lines that exactly one other imports; a string
                                   `module:attribute` and an entry point count as imports
    import_cycles                  groups of modules that import one another, late imports included
    duplicate_class_names          public class names defined more than once
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.road.source import (
    SHORT,
    Module,
    cycles,
    imports,
    read_modules,
    repeated_classes,
    single_importers,
    span_lines,
)
from benchmarks.road.trace import LEFT_OUT

ROOT = Path(__file__).resolve().parents[2]
TRACE = Path(__file__).with_name("trace.py")


def trace(what: str, tree: Path) -> dict[str, Any] | str:
    """The report of `trace.py` about a job in `tree`, or the reason why it could not run.

    Raises:
        SystemExit: the job failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        offline = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tree)}
        done = subprocess.run(
            [sys.executable, "-P", str(TRACE), what, str(tree), str(report)],
            env={**os.environ, **offline},
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        if done.returncode == LEFT_OUT:
            return done.stderr.strip().splitlines()[-1]
        if done.returncode:
            raise SystemExit(f"{done.stderr}\nthe job {what!r} failed in {tree}")
        found: dict[str, Any] = json.loads(report.read_text())
        return found


def step_counts(traced: Mapping[str, Any], modules: Mapping[str, Module]) -> dict[str, int]:
    """The figures of a step."""
    by_path = {str(module.path): module for module in modules.values()}
    files = list(traced["step"])
    lines = 0
    for file, spans in traced["spans"].items():
        lines += span_lines(by_path[file], {int(first): last for first, last in spans.items()})
    core = [file for file in files if "envs" not in Path(file).parts]
    return {"step_files": len(files), "step_files_core": len(core), "step_lines": lines}


def source_counts(tree: Path, modules: Mapping[str, Module], verbose: bool) -> dict[str, int]:
    """The figures of the package; with `verbose` also prints what they count."""
    edges = imports(tree, modules)
    single = single_importers(modules, edges)
    short = {name: by for name, by in single.items() if modules[name].lines < SHORT}
    rings, repeated = cycles(edges), repeated_classes(modules)
    public = {name: at for name, at in repeated.items() if not name.startswith("_")}
    print(f"modules with one importer: {len(single)} of any size, {len(short)} under {SHORT} lines")
    print(f"private class names defined more than once: {len(repeated) - len(public)}")
    if verbose:
        for name, by in short.items():
            print(f"  one importer: {name} ({modules[name].lines} lines) <- {by}")
        for ring in rings:
            print(f"  import one another: {', '.join(ring)}")
        for name, places in repeated.items():
            print(f"  class {name}: {', '.join(places)}")
    runtime = [module for module in modules.values() if not module.authoring]
    total, of_runtime = (sum(m.lines for m in some) for some in (modules.values(), runtime))
    return {
        "modules": len(modules),
        "package_lines": total,
        "runtime_modules": len(runtime),
        "runtime_lines": of_runtime,
        "authoring_lines": total - of_runtime,
        "single_importer_modules": len(short),
        "import_cycles": len(rings),
        "duplicate_class_names": len(public),
    }


def show(title: str, files: Mapping[str, int], listed: bool) -> None:
    """Print how many files were entered, and which, in the order of first entry."""
    print(f"{title}: {len(files)} files")
    if listed:
        for file, count in files.items():
            print(f"  {count:7} {file}")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tree", type=Path, default=ROOT, help="another checkout to measure")
    parser.add_argument("--verbose", action="store_true", help="list what is behind each figure")
    parser.add_argument("--no-grading", action="store_true", help="leave SWE's grading out")
    given = parser.parse_args(argv)
    tree = given.tree.resolve()
    if not (tree / "aem_gym" / "__init__.py").is_file():
        parser.error(f"--tree: expected a checkout with a folder aem_gym, got {tree}")
    modules = read_modules(tree)
    step = trace("step", tree)
    if isinstance(step, str):
        raise SystemExit(step)
    show("one training step, calls by file", step["step"], listed=True)
    print(f"  {step['changes']} changes of file")
    show("the whole job", step["job"], given.verbose)
    grading = "--no-grading" if given.no_grading else trace("grading", tree)
    if isinstance(grading, str):
        print(f"one SWE grading: left out ({grading})")
    else:
        show("one SWE grading", grading["step"], given.verbose)
    counts = step_counts(step, modules) | source_counts(tree, modules, given.verbose)
    print(json.dumps(counts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
