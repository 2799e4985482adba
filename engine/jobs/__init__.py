"""Jobs: transcribe millions of files into a folder, which survives kill -9 and is shared by processes and machines.

    spec = JobSpec(inputs=("s3://calls/2026",), model={"model": "m"}, options={})
    folder = JobFolder.open(Path("out"), spec)
    with JobRun(folder) as run:
        for transcript in run.run(partial(model.runner.run, options=transcribe_options())):
            ...

In: names of files, folders and lists. Out: shards of JSON lines in the order of the inputs. Read folder.py first.
"""

from .folder import JobFolder, ShardReport
from .plan import JobSpec, Plan
from .run import JobRun
from .status import JobStatus, job_status

__all__ = ["JobFolder", "JobRun", "JobSpec", "JobStatus", "Plan", "ShardReport", "job_status"]
