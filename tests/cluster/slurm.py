"""A stand-in for a Slurm cluster, for running a batch script on one machine without Slurm and without Ray.

`srun` runs its command once for every node, `ray` does what `ray symmetric-run` does to what follows `--`: it is run
on the first node, and when Ray does not start it is left out and the exit code is 0. Both write down what they were
given. The real one cannot be used in a test: it ends with `ray stop`, which ends every Ray on the machine.
"""

import os
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

_SRUN = """\
while [[ $1 == --* ]]; do shift; done
code=0
for node in $(seq 0 $((SLURM_JOB_NUM_NODES - 1))); do
    SLURM_NODEID=$node "$@" || code=$?
done
exit $code
"""

_RAY = """\
seen="$SLURM_SUBMIT_DIR/node$SLURM_NODEID"
printf '%s\\n' "$@" >"$seen.arguments"
env -0 >"$seen.environment"
cat "$RAY_AUTH_TOKEN_PATH" >"$seen.token"
stat --format=%a "${RAY_AUTH_TOKEN_PATH%/*}" >"$seen.mode"
[[ $SLURM_NODEID == 0 && -z ${RAY_DOES_NOT_START-} ]] || exit 0
while [[ $1 != -- ]]; do shift; done
shift
"$@"
"""


@dataclass(frozen=True)
class Slurm:
    """A cluster of two nodes. Jobs are submitted from `folder`, in whose `.venv` their programs are.

    python: a shell script that stands for `python` of that environment
    """

    folder: Path
    python: str

    def submit(
        self, script: Path, *arguments: str, ray_starts: bool = True
    ) -> subprocess.Popen[str]:
        """Start the script as `sbatch script arguments` would on the first node."""
        programs = self.folder / ".venv" / "bin"
        programs.mkdir(parents=True)
        for name, text in {"srun": _SRUN, "ray": _RAY, "python": self.python}.items():
            (programs / name).write_text(f"#!/usr/bin/env bash\n{text}")
            (programs / name).chmod(0o755)
        environment = {
            **os.environ,
            "SLURM_SUBMIT_DIR": str(self.folder),
            "SLURM_JOB_ID": "7",
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_CPUS_PER_TASK": "32",
            "SLURM_GPUS_ON_NODE": "4",
            **({} if ray_starts else {"RAY_DOES_NOT_START": "yes"}),
        }
        return subprocess.Popen(
            ["bash", script, *arguments],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def ray_arguments(self, node: int) -> list[str]:
        """What `ray` was called with on this node."""
        return (self.folder / f"node{node}.arguments").read_text().splitlines()

    def environment(self, node: int) -> dict[str, str]:
        """The environment that `ray` was called in on this node."""
        pairs = (self.folder / f"node{node}.environment").read_text().rstrip("\0").split("\0")
        return dict(pair.split("=", 1) for pair in pairs)

    def token(self, node: int) -> tuple[str, str]:
        """The token as this node reads it, and the mode, in octal, of the folder that it is in."""
        seen = self.folder / f"node{node}"
        return seen.with_suffix(".token").read_text(), seen.with_suffix(".mode").read_text().strip()


def python_that(does: str, *words: object) -> str:
    """A `python` that notes its arguments, one a line, in `python.arguments` and does this; `{}` take words, quoted."""
    quoted = does.format(*(shlex.quote(str(word)) for word in words))
    return f'printf "%s\\n" "$@" >"$SLURM_SUBMIT_DIR/python.arguments"\n{quoted}\n'
