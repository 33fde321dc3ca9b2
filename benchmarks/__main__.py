"""`python -m benchmarks`: all of them, one after the other; tables on the terminal, JSON under build/bench/."""

from benchmarks import preprocess, scenes, training

if __name__ == "__main__":
    for benchmark in (scenes, preprocess, training):
        print(f"\n## {benchmark.__name__.removeprefix('benchmarks.')}\n{benchmark.__doc__.splitlines()[0]}\n")
        benchmark.main([])
