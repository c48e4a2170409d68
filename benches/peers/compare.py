#!/usr/bin/env python3
"""Runs peers and ours in turn on the same shapes and whole parts, and prints the ratios as Markdown.

  compare.py [--binary target/release/vljepa] [--python python3] [--threads 1] [--rounds 3] [--quick]
             [--only kernels,parts] [--run-with "taskset -c 1"] [--ggml PROGRAM] [--record benches/record/NAME.md]

Each round starts every contestant once, in a process of its own, one after the other; a ratio is the median over the
rounds of (peer's time / ours), each from the best sample of its process. What cannot run says so and is left out.
--record writes the tables with machine, toolchain, versions and command; see benches/record.
"""
import argparse
import datetime
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
SHAPES = ["2048x2048", "3072x2048", "16384x2048", "2048x8192"]
ROWS = [1, 8, 64, 256, 1024, 2112]
QUICK_SHAPES, QUICK_ROWS = ["2048x2048"], [1, 64, 1024]
OURS = ["ternary", "ternary, lookup", "int8", "bf16", "f32", "f32, packed"]
PEERS = {"f32": "PyTorch f32", "bf16": "PyTorch bf16", "int8": "PyTorch int8", "ort-f32": "onnxruntime f32",
         "ort-int8": "onnxruntime int8", "ggml-tq2_0": "ggml TQ2_0", "ggml-q8_0": "ggml Q8_0"}
# part, what its peer is told, what ours is told
PARTS = [
    ("vision", ["--frames", "16"]),
    ("vision", ["--frames", "8"]),
    ("predictor", ["--frames", "16", "--question-tokens", "64"]),
    ("predictor", ["--frames", "8", "--question-tokens", "64"]),
    ("predictor", ["--frames", "2", "--question-tokens", "32"]),
    ("text", ["--text-tokens", "256"]),
    ("text", ["--text-tokens", "32"]),
]
QUICK_PARTS = [("predictor", ["--frames", "2", "--question-tokens", "32"]), ("text", ["--text-tokens", "32"])]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = os.path.dirname(os.path.dirname(HERE))
    parser.add_argument("--binary", default=os.path.join(root, "target", "release", "vljepa"))
    parser.add_argument("--python", default=sys.executable, help="an interpreter with torch, transformers, onnxruntime, onnx")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="few and small shapes: to see that it works")
    parser.add_argument("--only", default="kernels,parts")
    parser.add_argument("--kinds", default=",".join(PEERS), help="peers to run")
    parser.add_argument("--run-with", default="", help="command before every contestant, e.g. taskset -c 1")
    parser.add_argument("--ggml", default="ggml_matmul", help="the program built from ggml_matmul.cpp")
    parser.add_argument("--timeout", type=float, default=600)
    parser.add_argument("--record", help="write the tables to this file, with machine and versions")
    return parser.parse_args()


class Runner:
    """Starts contestants and keeps what cannot run."""

    def __init__(self, args):
        self.args, self.refused, self.versions, self.limits = args, {}, set(), []

    def start(self, name, command):
        command = shlex.split(self.args.run_with) + command
        environment = dict(os.environ, OMP_NUM_THREADS=str(self.args.threads))
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=self.args.timeout, env=environment)
        except subprocess.TimeoutExpired:
            self.refused[name] = f"took over {self.args.timeout:.0f} s"
            return None
        if done.returncode != 0:
            self.refused[name] = (done.stderr.strip().splitlines() or ["no message"])[-1][:200]
            return None
        return json.loads(done.stdout.strip().splitlines()[-1])

    def peer(self, name, arguments):
        if name in self.refused:
            return None
        command = [self.args.python, os.path.join(HERE, "peer.py"), *arguments, "--threads", str(self.args.threads),
                   "--ggml", self.args.ggml]
        figures = self.start(name, command)
        if figures:
            self.versions.add(figures["version"])
        return figures

    def ours(self, arguments):
        figures = self.start("vljepa " + " ".join(arguments), [
            self.args.binary, "bench", *arguments, "--json", "--threads", str(self.args.threads)])
        if figures is None:
            sys.exit("ours does not run: " + next(reversed(self.refused.values())))
        self.limits.append(figures["limits"])
        return figures


def table(head, rows):
    line = lambda cells: "| " + " | ".join(cells) + " |"
    return "\n".join([line(head), "|" + "---|" * len(head), *map(line, rows)])


def median_of_ratios(theirs, ours):
    pairs = [a / b for a, b in zip(theirs, ours) if a and b]
    return statistics.median(pairs) if pairs else None


def cell(value, form="{:.2f}"):
    return "-" if value is None else form.format(value)


def kernels(runner, kinds):
    """GOPS of every contestant, and how many times faster than each peer the fastest of our ternary kernels is."""
    shapes, rows = (QUICK_SHAPES, QUICK_ROWS) if runner.args.quick else (SHAPES, ROWS)
    lines = []
    for shape in shapes:
        listed = ",".join(map(str, rows))
        best = {}
        for _ in range(runner.args.rounds):
            own = runner.ours(["kernel", "--only", "ternary,int8,bf16,f32", "--shapes", shape, "--rows", listed])
            for row in own["rows"]:
                best.setdefault((row["kernel"], row["rows"]), []).append(row["best_ms"])
            for kind in kinds:
                figures = runner.peer(f"matmul {kind}", ["matmul", kind, shape, listed])
                for row in (figures or {}).get("rows", []):
                    best.setdefault((PEERS[kind], row["rows"]), []).append(row["best_ms"])
        for count in rows:
            outputs, inputs = map(int, shape.split("x"))
            times = lambda name: best.get((name, count))
            ours = min((times(name) for name in OURS[:2] if times(name)), key=statistics.median)
            gops = lambda name: 2e-6 * count * outputs * inputs / min(times(name)) if times(name) else None
            names = OURS + [PEERS[kind] for kind in kinds]
            ratios = [median_of_ratios(times(PEERS[kind]) or [], ours) for kind in kinds]
            lines.append([shape, str(count), *(cell(gops(name), "{:.0f}") for name in names), *map(cell, ratios)])
    names = OURS + [PEERS[kind] for kind in kinds]
    return table(["N x K", "M", *names, *(f"x {PEERS[kind]}" for kind in kinds)], lines)


def parts(runner, kinds):
    """Milliseconds of every contestant, and how many times faster than each peer ours is."""
    lines = []
    kinds = [kind for kind in kinds if not kind.startswith(("ort", "ggml"))]
    for part, sizes in QUICK_PARTS if runner.args.quick else PARTS:
        own, theirs, figures = [], {kind: [] for kind in kinds}, None
        for _ in range(runner.args.rounds):
            # one pass a process after the one that warms up: the rounds are the repeats
            figures = runner.ours(["--preset", "vl-jepa-1.6b", "--part", part, *sizes, "--repeats", "1"])["parts"][0]
            own.append(figures["best_ms"])
            for kind in kinds:
                peer = runner.peer(f"{part} {kind}", ["part", kind, part, *sizes, "--repeats", "1"])
                theirs[kind].append(peer and peer["best_ms"])
        best = lambda times: min((time for time in times if time), default=None)
        ratios = [median_of_ratios(theirs[kind], own) for kind in kinds]
        lines.append([
            part, " ".join(sizes).replace("--", ""), str(figures["tokens"]), cell(best(own), "{:.0f}"),
            cell(figures["gops"], "{:.0f}"), cell(figures["of_limits"] and 100 * figures["of_limits"], "{:.0f} %"),
            *(cell(best(theirs[kind]), "{:.0f}") for kind in kinds), *map(cell, ratios)])
    head = ["part", "sizes", "tokens", "ours ms", "GOPS", "of the limits"]
    names = [PEERS[kind] for kind in kinds]
    return table(head + [f"{name} ms" for name in names] + [f"x {name}" for name in names], lines)


def machine():
    wanted = ["Model name", "CPU(s)", "Thread(s) per core", "L1d cache", "L2 cache", "L3 cache"]
    try:
        lines = subprocess.run(["lscpu"], capture_output=True, text=True).stdout.splitlines()
    except FileNotFoundError:
        return platform.platform()
    found = dict(line.split(":", 1) for line in lines if ":" in line)
    return "\n".join(f"{name}: {found[name].strip()}" for name in wanted if name in found)


def record(args, runner, tables):
    toolchain = subprocess.run(["rustc", "-vV"], capture_output=True, text=True).stdout.strip()
    limits = runner.limits[0] if runner.limits else {}
    reads = ", ".join(f"{read['bytes'] >> 10} KiB {read['gb_per_s']:.1f}" for read in limits.get("read", []))
    products = ", ".join(f"{name} {limits[name]:.0f}" for name in limits if limits[name] and name != "read")
    # where things lie on this machine is of no use elsewhere
    plain = lambda word: " ".join(os.path.basename(part) if part.startswith("/") else part for part in word.split(" "))
    command = " ".join(["benches/peers/compare.py", *(shlex.quote(plain(word)) for word in sys.argv[1:])])
    refused = "\n".join(f"* {name}: {why}" for name, why in runner.refused.items()) or "nothing"
    text = f"""# {datetime.date.today()}: peers and ours

`{command}`, {args.rounds} rounds, {args.threads} thread(s); GOPS and ms are the best of all rounds, ratios medians over the rounds.

```
{machine()}
{toolchain}
{"; ".join(sorted(runner.versions))}
```
Limits measured by the first run of ours: {products}; reading GB/s: {reads}.

{tables}

Could not run: {refused}
"""
    with open(args.record, "w") as file:
        file.write(text)


def main():
    args = arguments()
    runner = Runner(args)
    kinds = args.kinds.split(",")
    tables = []
    if "kernels" in args.only:
        tables.append("## Products (GOPS)\n\n" + kernels(runner, kinds))
        print(tables[-1], flush=True)
    if "parts" in args.only:
        tables.append("## Whole parts\n\n" + parts(runner, kinds))
        print(tables[-1], flush=True)
    for name, why in runner.refused.items():
        print(f"could not run {name}: {why}", file=sys.stderr)
    if args.record:
        record(args, runner, "\n\n".join(tables))


if __name__ == "__main__":
    main()
