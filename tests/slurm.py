"""A stand-in for Slurm's commands: takes an array job, runs its tasks here one after another."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

SBATCH = """
import os, re, subprocess, sys
here, script = {folder!r}, sys.argv[-1]
text = open(script).read()
open(here + "/job.sh", "w").write(text)
found = re.search(r"--array=0-(\\d+)", text)
tasks = '''
import os, subprocess
for i in range({tasks}):
    env = dict(os.environ, SLURM_JOB_ID=str(100 + i), SLURM_ARRAY_JOB_ID="100",
               SLURM_ARRAY_TASK_ID=str(i), SLURM_PROCID="0", SLURM_LOCALID="0", SLURM_NTASKS="1",
               SLURM_NNODES="1", SLURM_NODEID="0", SLURM_JOB_NODELIST="here")
    code = subprocess.call(["bash", {script!r}], env=env)
    with open({states!r}, "a") as file:
        file.write("100_%d|%s|here\\\\n" % (i, "FAILED" if code else "COMPLETED"))
'''.format(tasks=int(found[1]) + 1, script=script, states=here + "/states")
subprocess.Popen([sys.executable, "-c", tasks], start_new_session=True,
                 stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
print("Submitted batch job 100")
"""
SRUN = """
import os, sys
words = sys.argv[1:]
while words[0].startswith("--"):
    words = words[2 if words[0] in ("--output", "--error") else 1:]
os.execvp(words[0], words)
"""
SACCT = """
print("JobID|State|NodeList")
print(open({folder!r} + "/states").read())
"""


def install(folder: Path) -> str:
    """Puts sbatch, srun, sacct and scancel into the folder; returns a PATH that begins with it."""
    folder.mkdir()
    (folder / "states").touch()
    bodies = {"sbatch": SBATCH, "srun": SRUN, "sacct": SACCT, "scancel": ""}
    for name, body in bodies.items():
        path = folder / name
        body = body.replace("{folder!r}", repr(str(folder)))
        path.write_text(f"#!{sys.executable}\n{body}")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return os.pathsep.join([str(folder), os.environ["PATH"]])
