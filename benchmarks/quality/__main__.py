"""How good recommendations are: data sets × models × seeds, against what people would use instead.

``python -m benchmarks.quality --work DIR [--ml-100k FOLDER] [--store NAME=DIR …] [--data NAME …]
[--models NAME …] [--seeds 5] [--jobs 2] [--json FILE]``. Every training is added to
``DIR/quality.json`` as it ends, and one that is there is not repeated: the same command goes on
where it was stopped, by Ctrl-C or otherwise, and ``--table`` only prints. A training that was
stopped goes on from its last checkpoint, in ``DIR/unfinished``. ``--quick`` runs a small data set,
to see that all works. Tables are Markdown: means over seeds with 95% intervals, at full support and
at the first 10 and 5 support rows.
"""

import argparse
from pathlib import Path

import torch

from benchmarks.environment import write_result
from benchmarks.quality.data_sets import DataSet, data_sets, quick_data_set
from benchmarks.quality.models import OTHERS, TRAINED, options_of
from benchmarks.quality.results import Results, Run, run_key, split_key
from benchmarks.quality.runs import run_others, run_trained
from benchmarks.quality.tables import PAIRS, comparison, scenario_table, table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="stores and results go here")
    parser.add_argument("--ml-100k", type=Path, help="RecBole atomic files and split.tsv")
    parser.add_argument("--store", action="append", default=[], metavar="NAME=DIR")
    parser.add_argument("--data", nargs="+", help="data sets to run; all if not given")
    parser.add_argument("--models", nargs="+", choices=TRAINED, default=list(TRAINED))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time")
    parser.add_argument("--quick", action="store_true", help="a small data set and few steps")
    parser.add_argument("--table", action="store_true", help="only print what is there")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    results = Results(options.work / "quality.json")
    stores = {name: Path(path) for name, _, path in (s.partition("=") for s in options.store)}
    known = data_sets(options.work, options.ml_100k, stores)
    if options.quick:
        known = quick_data_set(options.work)
    names = options.data or list(known)
    for name in names:
        if name not in known:
            parser.error(f"--data {name} is not one of {', '.join(known)}")
    if not options.table:
        try:
            make_runs(results, {name: known[name] for name in names}, options)
        except KeyboardInterrupt:
            parser.exit(130, "stopped; the same command goes on\n")
    for name in names:
        print(f"\n{name}\n\n{scenario_table(results, name) or table(results, name)}")
    for pair in PAIRS:
        for is_alone in (False, True):
            if compared := comparison(results, names, pair, is_alone=is_alone):
                print("\n" + compared)
    if len(results.commits()) > 1:
        print(f"\nmade with several commits: {', '.join(map(str, results.commits()))}")
    runs = {key: run for key, run in results.runs.items() if split_key(key)[0] in names}
    write_result(options.json, options, {"runs": runs})


def make_runs(results: Results, chosen: dict[str, DataSet], options: argparse.Namespace) -> None:
    """Make what is missing, seed by seed: a stop leaves whole seeds."""
    threads = max(1, torch.get_num_threads() // options.jobs)
    stores = {name: data.prepared() for name, data in chosen.items()}
    runs = [
        Run(run_key(name, OTHERS, 0), stores[name], [], run_others, (data, threads))
        for name, data in chosen.items()
    ]
    for seed in range(options.seeds):
        for model in options.models:
            for name, data in chosen.items():
                words = options_of(data, model)
                arguments = (data, words, seed, threads, options.work / "unfinished")
                key = run_key(name, model, seed)
                runs.append(Run(key, stores[name], words, run_trained, arguments))
    results.make_missing(runs, options.jobs, "quality")


if __name__ == "__main__":
    main()
