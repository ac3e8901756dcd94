"""One thin file a job: parse, one call, exit code."""
