"""What ended jobs give up again: their runs in memory, and kept steps beyond a limit on the disk."""

from __future__ import annotations

from lib_addift.jobs.registry import JobRegistry

_MOST_KEPT = 4 * 2**30  # bytes of kept steps and resume states of ended jobs; the oldest give theirs up
_JOBS_WITH_A_RUN = 5  # ended jobs whose pictures and latents stay in memory, to save their kept steps at once


def forget_old_work(registry: JobRegistry) -> None:
    """Of ended jobs, the newest keep their runs in memory and what can be gone on from on the disk."""
    kept = 0
    with registry.changed:
        ended = [job for job in registry.jobs.values() if not job.is_active]
    for number, job in enumerate(reversed(ended)):
        if number >= _JOBS_WITH_A_RUN:
            job.drop_run()
        if job.snapshots or job.files.has_resume_state:
            kept += job.files.kept_bytes()
        if job.snapshots and kept > _MOST_KEPT:
            job.files.forget()
            job.snapshots.clear()
            job.drop_run()
            job.version += 1
            registry.write(job)
