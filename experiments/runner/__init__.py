"""The runner: walks an experiment's phases, saves, resumes, checks, and writes the results.

`loop.run` is the whole of it; the other files are its parts: `work_folder` (what a run's folder
may hold), `checkpoints` (Orbax), `metrics_log`, `nonfinite`, `progress`, `signals`,
`distributed`, `provenance`, `result` and `json_files`.
"""
