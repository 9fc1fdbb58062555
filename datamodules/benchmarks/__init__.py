"""Public benchmarks, one small file each: how their files are read, their official scorer, their facts and forms."""
